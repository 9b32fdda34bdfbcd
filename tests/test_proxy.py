"""The server below a path of a proxy, which takes the path off or leaves it on."""

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
from app.serving.server import ServeSettings, build_app

SETTINGS = ServeSettings(precision="no", root_path="/clf")
OF_THE_HOST = ("/manifest.json", "/favicon.ico")
"""What gradio and the browser look for at the root of the host, wherever the page is."""


@pytest.fixture(scope="module")
def server(run_dir):
    with live(build_app(str(run_dir), SETTINGS)[0]) as address:
        yield address


@pytest.fixture(scope="module", params=[True, False], ids=["path taken off", "path left on"])
def address(server, request):
    with proxied(server, "/clf", request.param) as address:
        yield address


def test_the_page_answers_and_all_that_it_shows_is_there(address, shapes_folder):
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
        assert "rows answered" in find(chrome, "#told p").text
        link = find(chrome, "#answers a").get_attribute("href")
        assert link.startswith(f"{address}/gradio_api/file=")
        rows = list(csv.DictReader(io.StringIO(httpx.get(link).text)))
        assert len(rows) == len((shapes_folder / "test.csv").read_text().splitlines()) - 1
        tab(chrome, "Training")
        assert find(chrome, "#curves img").get_attribute("src").startswith(f"{address}/gradio_api/file=")
        tab(chrome, "Code")
        assert wait_for(chrome, lambda c: f"{address}/v1/predict" in find(c, ".cm-content").text)
        assert [error for error in errors(chrome) if not any(path in error for path in OF_THE_HOST)] == []


def test_the_api_answers_and_its_description_names_the_path(address):
    answer = httpx.post(f"{address}/v1/predict", files={"image": PNG}, data={"text": "red?"})
    assert answer.json()["predictions"][0]["labels"]
    assert httpx.get(f"{address}/openapi.json").json()["servers"] == [{"url": "/clf"}]
    assert httpx.get(f"{address}/readyz").json() == {"status": "ready"}
    wrong = httpx.get(f"{address}/v1/predict")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert httpx.get(f"{address}/v1/nothing").json()["error"]["message"].startswith("There is no /v1/nothing;")
    assert "/v1/predict" in (figures := httpx.get(f"{address}/metrics").text)
    assert "/clf" not in figures


def test_programs_that_speak_gradio_ask_by_the_path_too(address, tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    client = gradio_client.Client(f"{address}/", verbose=False)
    assert 'class="best"' in client.predict(handle_file(tmp_path / "a.png"), "red?", api_name="/ask")[0]
    assert httpx.get(f"{address}/gradio_api/file=/etc/passwd").status_code in (403, 404)
    assert httpx.get(f"{address}/gradio_api/file=http://127.0.0.1:1/x.png").status_code == 404


def test_every_answer_by_the_path_has_the_headers_that_protect_it(address):
    for path in ("/", "/readyz", "/nothing", "/theme.css"):
        assert "default-src 'self'" in httpx.get(address + path).headers["content-security-policy"]


def test_the_server_itself_answers_with_the_path_and_without(server):
    """So do probes, which come past the proxy."""
    for path in ("/readyz", "/clf/readyz"):
        assert httpx.get(server + path).json() == {"status": "ready"}
    for query in ("", "?__theme=dark"):
        moved = httpx.get(f"{server}/clf{query}")
        assert (moved.status_code, moved.headers["location"]) == (307, f"/clf/{query}")
    assert httpx.get(f"{server}/clfother").status_code == 404


def test_a_path_that_only_begins_alike_is_not_taken_for_it(run_dir):
    with TestClient(build_app(str(run_dir), ServeSettings(page=False, precision="no", root_path="/v"))[0]) as client:
        client.base_url = "http://localhost"
        assert client.get("/v1/model").status_code == client.get("/v/v1/model").status_code == 200


def test_by_the_path_too_the_key_is_wanted_and_is_the_password_of_the_page(run_dir):
    with ExitStack() as stack:
        server = stack.enter_context(live(build_app(str(run_dir), SETTINGS, "secret")[0]))
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


def test_a_server_on_loopback_is_asked_by_the_name_in_its_address_too(run_dir):
    for root, status in (("/clf", 421), ("https://example.org/clf", 200)):
        settings = ServeSettings(page=False, precision="no", root_path=root)
        with TestClient(build_app(str(run_dir), settings)[0], "http://example.org") as client:
            reply = client.get("/clf/openapi.json")
            assert reply.status_code == status
            assert client.get("/openapi.json", headers={"host": "other.example"}).status_code == 421


def test_a_whole_address_is_where_the_page_looks_whatever_the_proxy_sends(run_dir):
    root = "https://example.org/clf"
    app = build_app(str(run_dir), ServeSettings(precision="no", root_path=root))[0]
    with TestClient(app, "http://localhost") as client:
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
def test_a_root_path_that_is_neither_is_refused(root, run_dir):
    with pytest.raises(ValueError, match=r"root_path is .*(expected a path, as /clf|has a path /\w+ of its own)"):
        build_app(str(run_dir), ServeSettings(page=False, root_path=root))
