"""A server stops soon, without errors, and without losing accepted work."""

import json
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gradio_client
import httpx
import pytest
import uvicorn
from browser import browser
from gradio_client import handle_file
from hostile import PNG
from live import command, until
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from app.serving.server import Server, ServeSettings, StopSignals, build_app, load_predictor

SETTINGS = ServeSettings(precision="no")
SOON = 10
"""Maximum time in seconds that a server takes to end after its last answer; the deadline of a request is 30 s."""


@pytest.fixture(scope="module")
def predictor(run_dir):
    return load_predictor(str(run_dir), SETTINGS)


@pytest.fixture
def server(predictor, run_dir, capfd):
    """A server in a thread. At the end of the test it has ended without a traceback."""
    guard, engine = build_app(predictor, run_dir, SETTINGS)
    config = uvicorn.Config(guard, "127.0.0.1", 0, log_level="warning")
    server = Server(config, guard, engine, lambda port: None)
    with ThreadPoolExecutor(1) as thread:
        server.ended = thread.submit(server.run)
        until(lambda: server.started or server.ended.done(), "the server has started")
        server.address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        yield server
        server.stop()
        server.ended.result(40)
    assert "Traceback" not in capfd.readouterr().err


def hold(monkeypatch, server) -> threading.Event:
    """Block batches until the event is set."""
    work, resume = server.engine.predictor.probabilities, threading.Event()
    monkeypatch.setattr(server.engine.predictor, "probabilities", lambda e: resume.wait(30) and work(e))
    return resume


def assert_ends_soon(served, code):
    assert served.process.wait(SOON) == code, served.output
    assert "Traceback" not in served.output, served.output
    assert "rror" not in served.output, served.output


def test_ctrl_c_ends_the_command_soon_despite_an_open_page_and_client(run_dir, tmp_path):
    with command(run_dir, tmp_path) as served, browser(1000) as chrome:
        chrome.get(served.address)
        WebDriverWait(chrome, 60).until(lambda c: c.find_elements(By.CSS_SELECTOR, "#ask"))
        client = gradio_client.Client(served.address, verbose=False)
        assert 'class="best"' in client.predict(None, "red?", api_name="/ask")[0]
        served.process.send_signal(signal.SIGINT)
        assert_ends_soon(served, 0)
    assert not list(tmp_path.glob("uploads-*")), "uploads are deleted"


def test_a_second_signal_ends_the_command_at_once_and_deletes_uploads(run_dir, tmp_path):
    table = tmp_path / "rows.csv"
    table.write_text("text\n" + "is there a red circle?\n" * 20_000)
    with command(run_dir, tmp_path) as served:
        client = gradio_client.Client(served.address, verbose=False)
        job = client.submit(handle_file(table), api_name="/answer_rows")
        until(lambda: job.status().progress_data, "rows are being answered")
        assert list(tmp_path.glob("uploads-*"))
        served.process.send_signal(signal.SIGTERM)
        until(lambda: httpx.get(f"{served.address}/readyz").status_code == 503, "it is stopping")
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(SOON) == 143
        assert "Traceback" not in served.output, served.output
    assert not list(tmp_path.glob("uploads-*"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 0)])
def test_a_signal_before_the_server_starts_ends_the_process(tmp_path, number, code):
    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        StopSignals(str(tmp_path))
        with pytest.raises(SystemExit) as end:
            signal.raise_signal(number)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    assert end.value.code == code


def test_accepted_work_of_page_and_api_is_answered_and_new_work_is_refused(server, monkeypatch):
    client = gradio_client.Client(server.address, verbose=False)
    resume = hold(monkeypatch, server)
    with ThreadPoolExecutor(1) as pool:
        jobs = [client.submit(None, f"question {i}?", api_name="/ask") for i in range(20)]
        asked = pool.submit(httpx.post, f"{server.address}/v1/predict", files={"image": PNG}, timeout=30)
        until(lambda: server.engine.waiting == 17, "16 questions of the page and one request are in progress")
        until(lambda: server.engine.page_jobs() == 20, "the other questions are in the queue of the page")
        server.stop()
        refused = httpx.post(f"{server.address}/v1/predict", data={"text": "late?"})
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        assert refused.json()["error"]["code"] == "stopping"
        assert httpx.post(f"{server.address}/gradio_api/queue/join", json={}).status_code == 503
        assert httpx.get(f"{server.address}/readyz").status_code == 503
        resume.set()
        assert all('class="best"' in job.result(30)[0] for job in jobs)
        assert asked.result().status_code == 200
        server.ended.result(SOON)


def test_a_table_in_progress_is_answered_and_its_file_can_be_fetched(server, tmp_path, monkeypatch):
    table = tmp_path / "rows.csv"
    table.write_text("text\n" + "is there a red circle?\n" * 100)
    resume = hold(monkeypatch, server)
    job = gradio_client.Client(server.address, verbose=False).submit(handle_file(table), api_name="/answer_rows")
    until(server.engine.page_jobs, "the table is in progress")
    server.stop()
    resume.set()
    summary, _, file = job.result(30)
    assert "100 of 100 rows answered" in summary
    assert len(Path(file["value"]).read_text().splitlines()) == 101
    server.ended.result(SOON)


def test_a_table_that_exceeds_the_deadline_ends_with_an_error(server, tmp_path, monkeypatch):
    table = tmp_path / "rows.csv"
    table.write_text("text\n" + "is there a red circle?\n" * 100)
    resume = hold(monkeypatch, server)
    server.engine.timeout = 0.1
    job = gradio_client.Client(server.address, verbose=False).submit(handle_file(table), api_name="/answer_rows")
    until(server.engine.page_jobs, "the table is in progress")
    server.stop()
    until(lambda: time.monotonic() > server.engine.deadline, "the deadline has passed")
    resume.set()
    with pytest.raises(Exception, match="The server is stopping"):
        job.result(30)
    server.ended.result(SOON)


def test_event_streams_of_the_page_end_properly(server):
    base = f"{server.address}/gradio_api"
    asked = {"data": [None, "red?", None], "fn_index": None, "session_hash": "idle"}
    asked["fn_index"] = next(
        one["id"] for one in httpx.get(f"{server.address}/config").json()["dependencies"] if one["api_name"] == "ask"
    )
    assert httpx.post(f"{base}/queue/join", json=asked).status_code == 200
    with httpx.stream("GET", f"{base}/queue/data?session_hash=idle", timeout=30) as answers:
        messages = [json.loads(line[6:])["msg"] for line in answers.iter_lines() if line]
    assert messages[-1] == "close_stream"

    def read(path: str) -> str:
        with httpx.stream("GET", base + path, timeout=30) as stream:
            return "".join(stream.iter_text())

    with ThreadPoolExecutor(2) as readers:
        ended = [readers.submit(read, path) for path in ("/heartbeat/other", "/queue/data?session_hash=idle")]
        until(lambda: sum(reply.is_stream for reply in server.guard.replies.values()) == 2, "both are open")
        server.stop()
        server.ended.result(SOON)
        assert ended[0].result() == "data: ALIVE\n\n"
        ended[1].result()


def test_an_incomplete_body_does_not_delay_stopping(server):
    host, port = server.address[7:].split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf")
        until(lambda: server.guard.replies, "half of the request has arrived")
        server.stop()
        server.ended.result(SOON)
        assert connection.recv(4096).startswith(b"HTTP/1.1 503")
