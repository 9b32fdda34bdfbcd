"""The server under a path of a reverse proxy that removes the path or keeps it."""

import csv
import io
from contextlib import ExitStack

import gradio_client
import httpx
import pytest
from browser import browser
from gradio_client import handle_file
from hostile import PNG
from live import live
from proxy import proxied
from starlette.testclient import TestClient
from test_page import ask_example, errors, find, tab, wait_for

from app.serving.root_path import RootPath
from app.serving.server import ServeSettings, build_app, check_settings, load_predictor
from data.errors import UserError

SETTINGS = ServeSettings(precision="no", root_path="/clf")
HOST_PATHS = ("/manifest.json", "/favicon.ico")
"""Paths that gradio and the browser request at the root of the host even if the page is under a path."""


@pytest.fixture(scope="module")
def predictor(run_dir):
    return load_predictor(str(run_dir), SETTINGS)


@pytest.fixture
def build(predictor, run_dir):
    """Build an application around the one model of this module."""
    return lambda settings=SETTINGS, api_key=None: build_app(predictor, run_dir, settings, api_key)[0]


@pytest.fixture(scope="module")
def server(predictor, run_dir):
    with live(build_app(predictor, run_dir, SETTINGS)[0]) as address:
        yield address


@pytest.fixture(scope="module", params=[True, False], ids=["path removed", "path kept"])
def address(server, request):
    with proxied(server, "/clf", request.param) as address:
        yield address


def test_the_page_and_all_its_files_load_under_the_path(address, shapes_folder):
    with browser(1440) as chrome:
        ask_example(chrome, f"{address}/")
        sources = (
            "return [...document.querySelectorAll('#examples img, #picture img')].map(i => [i.src, i.naturalWidth])"
        )
        for source, width in chrome.execute_script(sources):
            assert source.startswith(f"{address}/gradio_api/file=")
            assert width > 0, source
        assert chrome.execute_script("return document.fonts.status") == "loaded"
        tab(chrome, "Batch")
        chrome.find_element("css selector", "#rows input[type=file]").send_keys(str(shapes_folder / "test.csv"))
        find(chrome, "#rows .file-preview")
        find(chrome, "#start").click()
        assert "rows answered" in find(chrome, "#summary p").text
        link = find(chrome, "#answers a").get_attribute("href")
        assert link.startswith(f"{address}/gradio_api/file=")
        rows = list(csv.DictReader(io.StringIO(httpx.get(link).text)))
        assert len(rows) == len((shapes_folder / "test.csv").read_text().splitlines()) - 1
        tab(chrome, "Training")
        assert find(chrome, "#curves img").get_attribute("src").startswith(f"{address}/gradio_api/file=")
        tab(chrome, "Code")
        assert wait_for(chrome, lambda c: f"{address}/v1/predict" in find(c, ".cm-content").text)
        assert [error for error in errors(chrome) if not any(path in error for path in HOST_PATHS)] == []


def test_the_api_answers_and_its_description_names_the_path(address):
    answer = httpx.post(f"{address}/v1/predict", files={"image": PNG}, data={"text": "red?"})
    assert answer.json()["predictions"][0]["labels"]
    assert httpx.get(f"{address}/openapi.json").json()["servers"] == [{"url": "/clf"}]
    assert httpx.get(f"{address}/readyz").json() == {"status": "ready"}
    wrong = httpx.get(f"{address}/v1/predict")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert httpx.get(f"{address}/v1/nothing").json()["error"]["code"] == "http_error"
    assert "/v1/predict" in (metrics := httpx.get(f"{address}/metrics").text)
    assert "/clf" not in metrics


def test_gradio_client_works_under_the_path(address, tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    client = gradio_client.Client(f"{address}/", verbose=False)
    assert 'class="best"' in client.predict(handle_file(tmp_path / "a.png"), "red?", api_name="/ask")[0]
    assert httpx.get(f"{address}/gradio_api/file=/etc/passwd").status_code in (403, 404)
    assert httpx.get(f"{address}/gradio_api/file=http://127.0.0.1:1/x.png").status_code == 404


def test_every_reply_under_the_path_has_security_headers(address):
    for path in ("/", "/readyz", "/nothing", "/theme.css"):
        assert "default-src 'self'" in httpx.get(address + path).headers["content-security-policy"]


def test_the_server_answers_with_and_without_the_path(server):
    """Health checks do not pass through the proxy."""
    for path in ("/readyz", "/clf/readyz"):
        assert httpx.get(server + path).json() == {"status": "ready"}
    for query in ("", "?__theme=dark"):
        moved = httpx.get(f"{server}/clf{query}")
        assert (moved.status_code, moved.headers["location"]) == (307, f"/clf/{query}")
    assert httpx.get(f"{server}/clfother").status_code == 404


def test_a_path_that_begins_with_the_same_letters_is_different(build):
    client = TestClient(build(ServeSettings(page=False, precision="no", root_path="/v")), "http://localhost")
    assert client.get("/v1/model").status_code == client.get("/v/v1/model").status_code == 200


def test_the_key_is_required_under_the_path_and_is_the_password_of_the_page(build):
    with ExitStack() as stack:
        server = stack.enter_context(live(build(api_key="secret")))
        for strips in (True, False):
            address = stack.enter_context(proxied(server, "/clf", strips))
            for path in ("/v1/model", "/metrics"):
                assert httpx.get(address + path).status_code == 401
                assert httpx.get(address + path, headers={"authorization": "Bearer secret"}).status_code == 200
            chrome = stack.enter_context(browser(1000))
            chrome.get(f"{address}/")
            for name, word in (("text", "anyone"), ("password", "secret")):
                find(chrome, f"input[type={name}]").send_keys(word)
            find(chrome, "button.primary").click()
            assert find(chrome, "#ask")


@pytest.mark.parametrize(("root", "status"), [("/clf", 421), ("https://example.org/clf", 200)])
def test_a_server_on_loopback_accepts_the_host_name_of_its_public_address(build, root, status):
    client = TestClient(build(ServeSettings(page=False, precision="no", root_path=root)), "http://example.org")
    assert client.get("/clf/openapi.json").status_code == status
    assert client.get("/openapi.json", headers={"host": "other.example"}).status_code == 421


def test_the_public_address_takes_precedence_over_forwarded_headers(build):
    root = "https://example.org/clf"
    with TestClient(build(ServeSettings(precision="no", root_path=root)), "http://localhost") as client:
        for path in ("/config", "/clf/config"):
            found = client.get(path, headers={"x-forwarded-host": "wrong.example", "x-forwarded-proto": "http"})
            assert found.json()["root"] == root


@pytest.mark.parametrize(
    ("root", "expected"),
    [
        ("", RootPath()),
        ("/", RootPath()),
        ("/clf", RootPath("/clf")),
        ("/clf/", RootPath("/clf")),
        ("/a/b-c_d.e~f", RootPath("/a/b-c_d.e~f")),
        ("https://example.org:8443/clf/", RootPath("/clf", "https", "example.org:8443")),
        ("http://localhost", RootPath("", "http", "localhost")),
    ],
)
def test_a_root_path_is_a_path_or_an_address(root, expected):
    assert RootPath.parse(root) == expected


@pytest.mark.parametrize(
    "root",
    ["clf", "//clf", "/clf//x", "/../clf", "/clf/..", "/a b", "/clf?x=1", "ftp://x/clf", "https:///clf", "/v1", "/v1/x",
     "/gradio_api"],
)  # fmt: skip
def test_an_invalid_root_path_is_refused(root):
    with pytest.raises(UserError, match="root_path"):
        check_settings(ServeSettings(page=False, root_path=root))
