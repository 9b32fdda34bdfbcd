"""Stopping: soon, quietly, and without losing what was accepted."""

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

from app.serving.server import Server, ServeSettings, StopSignals, build_app

SOON = 5
"""Seconds in which a server ends after its last answer."""


@pytest.fixture
def server(run_dir, capfd):
    """A server in a thread that has ended, and without a traceback, by the end of the test."""
    guard, engine = build_app(str(run_dir), ServeSettings(precision="no"))
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
    """Batches wait until the event is set."""
    work, go_on = server.engine.predictor.probabilities, threading.Event()
    monkeypatch.setattr(server.engine.predictor, "probabilities", lambda e: go_on.wait(30) and work(e))
    return go_on


def assert_ends_soon(served, code):
    assert served.process.wait(SOON) == code, served.output
    assert "Traceback" not in served.output, served.output
    assert "rror" not in served.output, served.output


def test_with_a_page_and_a_client_open_ctrl_c_ends_the_command_soon(run_dir, tmp_path):
    with command(run_dir, tmp_path) as served, browser(1000) as chrome:
        chrome.get(served.address)
        WebDriverWait(chrome, 60).until(lambda c: c.find_elements(By.CSS_SELECTOR, "#ask"))
        client = gradio_client.Client(served.address, verbose=False)
        assert 'class="best"' in client.predict(None, "red?", api_name="/ask")[0]
        served.process.send_signal(signal.SIGINT)
        assert_ends_soon(served, 0)
    assert not list(tmp_path.glob("uploads-*")), "uploads go with the process"


def test_a_second_signal_ends_the_command_at_once_and_uploads_go_with_it(run_dir, tmp_path):
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
        assert served.process.wait(2) == 143
        assert "Traceback" not in served.output, served.output
    assert not list(tmp_path.glob("uploads-*"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 0)])
def test_a_signal_before_the_server_is_there_ends_the_process_quietly(tmp_path, number, code):
    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        StopSignals(str(tmp_path))
        with pytest.raises(SystemExit) as end:
            signal.raise_signal(number)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    assert end.value.code == code


def test_what_the_page_and_the_api_accepted_is_answered_and_what_comes_then_is_refused(server, monkeypatch):
    client = gradio_client.Client(server.address, verbose=False)
    go_on = hold(monkeypatch, server)
    with ThreadPoolExecutor(1) as pool:
        jobs = [client.submit(None, f"question {i}?", api_name="/ask") for i in range(20)]
        asked = pool.submit(httpx.post, f"{server.address}/v1/predict", files={"image": PNG}, timeout=30)
        until(lambda: server.engine.waiting == 17, "16 questions of the page and one of the API are worked on")
        until(lambda: server.engine.jobs_of_page() == 20, "the others wait in the page's queue")
        server.stop()
        refused = httpx.post(f"{server.address}/v1/predict", data={"text": "late?"})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert refused.json()["error"]["code"] == "stopping"
        assert httpx.post(f"{server.address}/gradio_api/queue/join", json={}).status_code == 503
        assert httpx.get(f"{server.address}/readyz").status_code == 503
        go_on.set()
        assert all('class="best"' in job.result(30)[0] for job in jobs)
        assert asked.result().status_code == 200
        server.ended.result(SOON)


def test_a_table_under_way_is_answered_and_its_file_fetched(server, tmp_path, monkeypatch):
    table = tmp_path / "rows.csv"
    table.write_text("text\n" + "is there a red circle?\n" * 100)
    go_on = hold(monkeypatch, server)
    job = gradio_client.Client(server.address, verbose=False).submit(handle_file(table), api_name="/answer_rows")
    until(server.engine.jobs_of_page, "the table is worked on")
    server.stop()
    go_on.set()
    told, _, file = job.result(30)
    assert "100 of 100 rows answered" in told
    assert len(Path(file["value"]).read_text().splitlines()) == 101
    server.ended.result(SOON)


def test_a_table_that_takes_longer_than_a_request_may_is_given_up_in_words(server, tmp_path, monkeypatch):
    table = tmp_path / "rows.csv"
    table.write_text("text\n" + "is there a red circle?\n" * 100)
    go_on = hold(monkeypatch, server)
    server.engine.timeout = 0.1
    job = gradio_client.Client(server.address, verbose=False).submit(handle_file(table), api_name="/answer_rows")
    until(server.engine.jobs_of_page, "the table is worked on")
    server.stop()
    until(lambda: time.monotonic() > server.engine.deadline, "its time is up")
    go_on.set()
    with pytest.raises(Exception, match="The server is stopping"):
        job.result(30)
    server.ended.result(SOON)


def test_streams_of_the_page_are_ended_and_not_cut_off(server):
    """Of an open page, and of one that waits for answers to nothing."""
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


def test_a_body_that_does_not_come_holds_nothing_up(server):
    host, port = server.address[7:].split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf")
        until(lambda: server.guard.replies, "half of the request is there")
        server.stop()
        server.ended.result(SOON)
        assert connection.recv(4096).startswith(b"HTTP/1.1 503")
