"""What the page refuses: requests that gradio would accept, and files of the server."""

import asyncio
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import datasets
import gradio_client
import httpx
import pytest
from gradio_client import handle_file
from hostile import PNG, png_of_size
from page_client import paint

from app.serving.engine import Engine
from app.serving.ui.answer_view import answer_question
from app.serving.ui.page_input import NO_ADDRESS, NOT_UPLOADED
from data.contexts import ContextCell
from data.errors import UserError

INPUTS = [[], [1], ["x.png", "x", None], [[1], "x", None], [{"path": 5}, "x", None], [{"path": "a\0b"}, "x", None]]

REQUESTS = [
    *(("POST", f"/{way}/ask", {"data": data}) for way in ("run", "call") for data in INPUTS),
    *(("POST", f"/{way}/answer_rows", {"data": data}) for way in ("run", "call") for data in INPUTS),
    *(("POST", f"/{way}/nothing", {"data": []}) for way in ("run", "call", "call/v2")),
    ("POST", "/call/v2/ask", {}),
    ("POST", "/call/v2/ask", {"picture": 1}),
    ("POST", "/queue/join", {"data": [], "fn_index": 9999, "session_hash": "x"}),
    ("POST", "/component_server", {"data": 1, "component_id": 9999, "session_hash": "x", "fn_name": "x"}),
    ("GET", "/queue/data?session_hash=of-a-server-before", None),
    ("GET", "/call/ask/nothing", None),
]


@pytest.fixture(scope="module")
def client(address):
    return gradio_client.Client(address, verbose=False)


def test_a_layer_that_is_no_picture_or_too_large_is_refused(client, shapes_folder):
    for layer, suffix, reason in (
        (b"no picture", ".png", "not a readable"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", ".eps", "not a readable"),
        (png_of_size(3_000, 3_000), ".png", "pixels allowed"),
    ):
        with pytest.raises(gradio_client.exceptions.AppError, match=reason) as error:
            paint(client, shapes_folder, layer, suffix)
        assert "/" not in str(error.value)


def test_without_a_question_there_is_nothing_to_hide(address):
    client = gradio_client.Client(address, verbose=False)
    with pytest.raises(gradio_client.exceptions.AppError, match="question about a picture first"):
        client.predict({"background": None, "layers": [], "composite": None}, api_name="/hide_and_ask")


def test_the_editor_reads_uploads_only_and_keeps_no_strokes(address, tmp_path):
    (tmp_path / "picture.png").write_bytes(PNG)
    file = {"path": str(tmp_path / "picture.png"), "meta": {"_type": "gradio.FileData"}}
    there = {
        "path": "http://127.0.0.1:9/x.png",
        "url": "http://127.0.0.1:9/x.png",
        "meta": {"_type": "gradio.FileData"},
    }
    for other, message in ((file, NOT_UPLOADED), (there, NO_ADDRESS)):
        for value in (
            {"background": None, "layers": [other], "composite": None},
            {"background": other, "layers": [], "composite": None},
        ):
            reply = httpx.post(f"{address}/gradio_api/run/hide_and_ask", json={"data": [None, value]}, timeout=30)
            assert (reply.status_code, reply.json()["error"]) == (500, message)
    config = httpx.get(f"{address}/config").json()
    editor = next(one["id"] for one in config["components"] if one["type"] == "imageeditor")
    form = {"component_id": editor, "fn_name": "accept_blobs", "session_hash": "x", "type": "layer", "index": 10**9}
    sent = httpx.post(
        f"{address}/gradio_api/component_server", data=form | {"id": "a"}, files={"file": PNG}, timeout=30
    )
    assert sent.status_code == 200
    value = {"background": None, "layers": [], "composite": None, "id": "a"}
    reply = httpx.post(f"{address}/gradio_api/run/hide_and_ask", json={"data": [None, value]}, timeout=30)
    assert "question about a picture first" in reply.json()["error"]


def test_the_page_limits_the_length_of_a_text(client):
    with pytest.raises(gradio_client.exceptions.AppError, match=r"20,001 characters"):
        client.predict(None, "x" * 20_001, api_name="/ask")


@pytest.mark.parametrize("name", ["ask", "answer_rows"])
def test_a_file_of_the_server_is_not_accepted_as_an_upload(address, tmp_path, name):
    (tmp_path / "picture.png").write_bytes(PNG)
    (tmp_path / "rows.csv").write_text("text\nprivate words\n")
    file = tmp_path / {"ask": "picture.png", "answer_rows": "rows.csv"}[name]
    meta, other = {"meta": {"_type": "gradio.FileData"}}, {"meta": {"_type": "other"}}
    url = {"url": f"{address}/gradio_api/file={file}"}
    for more in (meta, {**meta, "orig_name": "a.svg"}, {**meta, **url}, {}, {"meta": {}}, other, url):
        payload = {"path": str(file), **more}
        data = [payload, "x", None] if name == "ask" else [payload]
        reply = httpx.post(f"{address}/gradio_api/run/{name}", json={"data": data}, timeout=30)
        assert (reply.status_code, reply.json()["error"]) == (500, NOT_UPLOADED)
        assert "private words" not in reply.text
        assert "data:image" not in reply.text


def test_the_page_serves_no_files_and_fetches_no_addresses(address):
    for path in ("/etc/passwd", "../../../../etc/passwd", "requirements.txt"):
        assert httpx.get(f"{address}/gradio_api/file={path}").status_code in (403, 404)
    fetched = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            fetched.append(self.path)
            self.send_response(404)
            self.end_headers()

    other = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    there = f"http://127.0.0.1:{other.server_address[1]}/picture.png"
    assert httpx.get(f"{address}/gradio_api/file={there}").status_code == 404
    for payload in (
        {"path": there, "url": there, "meta": {"_type": "gradio.FileData"}},
        {"path": there},
        {"url": there},
    ):
        for name, data in (("ask", [payload, "x", None]), ("answer_rows", [payload])):
            reply = httpx.post(f"{address}/gradio_api/run/{name}", json={"data": data}, timeout=30)
            assert reply.json()["error"] == NO_ADDRESS
    other.shutdown()
    assert fetched == []


def test_invalid_requests_to_the_page_get_an_error_and_leave_no_traceback(address, capfd):
    for method, path, body in REQUESTS:
        reply = httpx.request(method, f"{address}/gradio_api{path}", json=body, timeout=30)
        if path.startswith("/call") and reply.status_code == 200 and method == "POST":
            reply = httpx.get(f"{address}/gradio_api{path}/{reply.json()['event_id']}", timeout=30)
        assert reply.status_code != 500 or reply.json()["error"], (path, body)
        assert "Internal Server Error" not in reply.text
    logged = capfd.readouterr()
    assert "Traceback" not in logged.out + logged.err


@pytest.mark.parametrize("event", [None, {}, {"index": "x"}, {"index": -1}, {"index": 99}, [1]])
def test_an_invalid_selection_in_the_gallery_gets_an_error(address, event, capfd):
    take = next(one["id"] for one in httpx.get(f"{address}/config").json()["dependencies"] if one["api_name"] == "take")
    asked = {"data": [], "fn_index": take, "event_data": event, "session_hash": "taker"}
    assert httpx.post(f"{address}/gradio_api/queue/join", json=asked).status_code == 200
    with httpx.stream("GET", f"{address}/gradio_api/queue/data?session_hash=taker", timeout=30) as messages:
        assert "This example does not exist" in "".join(messages.iter_text())
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("name", ["broken.png", "b" * 100 + ".png"])
def test_the_error_of_an_unreadable_picture_does_not_name_its_path_on_the_server(client, tmp_path, name):
    broken = tmp_path / name
    broken.write_bytes(b"no picture")
    with pytest.raises(gradio_client.exceptions.AppError, match="cannot be read") as error:
        client.predict(handle_file(broken), "x", api_name="/ask")
    assert broken.stem not in str(error.value)
    assert "/" not in str(error.value)


def test_the_error_of_a_picture_of_a_context_does_not_name_its_path_either(asked, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    asked.model.config.contexts = [{"name": "prior", "kind": "image"}]
    cells = {"prior": ContextCell(str(tmp_path / "broken.png"), "")}
    with pytest.raises(UserError, match="The context prior: The image cannot be read") as error:
        asyncio.run(answer_question(Engine(asked), None, "what?", cells))
    assert str(tmp_path) not in str(error.value)


def test_the_page_tells_an_answer_just_below_the_threshold_with_the_digits_that_differ(asked):
    for threshold, told in ((2.0, "no threshold met"), (asked(None, "what?")[0]["probability"] + 2e-5, "below the")):
        asked.model.config.threshold = threshold
        badge = asyncio.run(answer_question(Engine(asked), None, "what?", {})).html.split('<p class="badge', 1)[1]
        assert told in badge.split("</p>")[0]
    below, threshold = re.findall(r"[\d.]+ %", badge.split("</p>")[0])
    assert below != threshold


def test_a_table_with_too_many_rows_is_refused_and_nothing_of_it_is_kept(client, tmp_path, monkeypatch):
    monkeypatch.setattr("app.serving.ui.table_tab.MAX_ROWS", 3)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    table = tmp_path / "rows.csv"
    table.write_text("text\n" + "a private word\n" * 4)
    with pytest.raises(gradio_client.exceptions.AppError, match=r"4 rows.*\b3\b"):
        client.predict(handle_file(table), api_name="/answer_rows")
    table.write_text("text\n" + "another private word\n" * 3)
    assert "3 of 3 rows answered" in client.predict(handle_file(table), api_name="/answer_rows")[0]
    kept = [file for file in Path(datasets.config.HF_DATASETS_CACHE).rglob("*.arrow") if file.stat().st_size]
    assert not any(b"private word" in file.read_bytes() for file in kept)
