"""Stopping: soon, quietly, and without losing what was accepted."""

import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import gradio_client
import httpx
import pytest
import uvicorn
from browser import browser
from gradio_client import handle_file
from hostile import PNG
from live import command, running, until
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from app.serving.server import Server, ServeSettings, build_app

SOON = 5
"""Seconds in which a server ends, after what it has still to answer."""


@pytest.fixture
def server(run_dir):
    guard, engine = build_app(str(run_dir), ServeSettings(precision="no"))
    config = uvicorn.Config(guard, "127.0.0.1", 0, log_level="warning")
    return Server(config, guard, engine, lambda port: None)


def slow_down(monkeypatch, server, seconds):
    """Every batch takes that long."""
    work = server.engine.predictor.probabilities
    monkeypatch.setattr(server.engine.predictor, "probabilities", lambda e: time.sleep(seconds) or work(e))


def ends_quietly(served, code, seconds=SOON):
    assert served.wait(seconds) == code, served.output
    assert "Traceback" not in served.output, served.output
    assert "Error" not in served.output, served.output


def has_ended(server):
    return lambda: not server.server_state.connections and server.lifespan.should_exit is False


def test_a_command_with_a_page_open_ends_soon(run_dir, tmp_path):
    with command(run_dir, tmp_path) as served, browser(1000) as chrome:
        chrome.get(served.address)
        WebDriverWait(chrome, 60).until(lambda c: c.find_elements(By.CSS_SELECTOR, "#ask"))
        idle = gradio_client.Client(served.address, verbose=False)
        assert 'class="best"' in idle.predict(None, "red?", api_name="/ask")[0]
        served.stop(signal.SIGINT)
        ends_quietly(served, 0)
    assert not list(tmp_path.glob("uploads-*"))
