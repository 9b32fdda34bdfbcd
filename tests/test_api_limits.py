"""The limits of the server: size, pixels, queue and time; and its start and stop."""

import re
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import pytest
from api_client import BASE, SETTINGS, ask, base64_of, error_code
from hostile import PNG, encode, picture
from live import command, live, until
from PIL import Image
from starlette.testclient import TestClient

from app.serving.server import check_settings
from data.errors import UserError


def test_an_image_of_more_pixels_than_allowed_is_refused(client):
    reply = ask(client, image=base64_of(encode(picture("L", (1001, 1000)), "PNG")))
    assert (reply.status_code, error_code(reply)) == (422, "unreadable_image")
    assert "1,000,000" in reply.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/predict", "/healthz", "/anything"])
def test_a_large_body_is_refused_on_every_path_before_it_is_read(client, path):
    reply = client.post(path, content=b"x" * 2_000_001, headers={"content-type": "application/json"})
    assert (reply.status_code, error_code(reply)) == (413, "too_large")


def test_a_large_body_of_unknown_length_is_refused_by_counting(client):
    reply = client.post("/v1/predict", content=(b"x" * 100_000 for _ in range(30)))
    assert reply.status_code == 413


def test_the_server_is_ready_after_warm_up_and_until_it_stops(build_api):
    app, engine = build_api()
    cold = TestClient(app, BASE)
    assert (cold.get("/readyz").status_code, cold.get("/healthz").status_code) == (503, 200)
    with TestClient(app, BASE) as client:
        assert client.get("/readyz").json() == {"status": "ready"}
        engine.stop()
        assert client.get("/readyz").status_code == 503
        refused = ask(client, text="x")
        assert (refused.status_code, error_code(refused)) == (503, "stopping")
        assert int(refused.headers["retry-after"]) > 0


def test_a_full_queue_refuses_requests_and_suggests_when_to_retry(build_api):
    app, engine = build_api()
    engine.max_waiting = 3
    with TestClient(app, BASE) as client:
        reply = client.post("/v1/predict", json={"inputs": [{"text": "x"}] * 4})
        assert (reply.status_code, error_code(reply)) == (429, "too_many_requests")
        assert int(reply.headers["retry-after"]) > 0
        assert client.post("/v1/predict", json={"inputs": [{"text": "x"}] * 3}).status_code == 200
        assert engine.waiting == 0, "answered and refused pairs do not wait"


def test_images_with_too_many_pixels_in_total_are_refused_before_decoding(build_api, predictor, monkeypatch):
    app, engine = build_api()
    pictures = [encode(Image.new("RGB", (1000 + i, 900)), "PNG") for i in range(5)]
    with TestClient(app, BASE) as client:
        monkeypatch.setattr(predictor, "prepare", lambda pairs: pytest.fail("decoded"))
        reply = client.post("/v1/predict", json={"inputs": [{"image": base64_of(p), "text": "x"} for p in pictures]})
        assert (reply.status_code, error_code(reply)) == (413, "too_many_pixels")
        engine.pixels = 3_500_000  # of other requests
        reply = client.post("/v1/predict", files={"image": pictures[0]}, data={"text": "x"})
        assert (reply.status_code, error_code(reply)) == (429, "too_many_requests")
        assert engine.waiting == 0


def test_the_pixels_of_an_image_with_several_texts_are_counted_once(client):
    large = encode(Image.new("RGB", (990, 1000)), "PNG")
    assert client.post("/v1/predict", files={"image": large}, data={"text": ["x"] * 8}).status_code == 200


def test_an_incomplete_body_times_out(build_api):
    app, _ = build_api(replace(SETTINGS, timeout=0.3))
    with live(app) as address, socket.create_connection(address[7:].split(":"), timeout=10) as connection:
        connection.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf")
        assert connection.recv(4096).startswith(b"HTTP/1.1 408")


def test_a_slow_or_failing_model_is_reported_without_details(build_api, predictor, monkeypatch):
    app, engine = build_api()
    with TestClient(app, BASE, raise_server_exceptions=False) as client:
        engine.timeout = 1e-4
        slow = ask(client, text="x")
        assert (slow.status_code, error_code(slow)) == (504, "timeout")
        engine.timeout = 20
        monkeypatch.setattr(predictor, "probabilities", lambda examples: 1 / 0)
        reply = ask(client, text="x")
        assert (reply.status_code, error_code(reply)) == (500, "model_failed")
        assert "division" not in reply.text


def test_a_pair_that_makes_its_batch_fail_fails_alone(build_api, predictor, monkeypatch):
    _, engine = build_api()
    work = predictor.probabilities

    def fail_on_poison(examples):
        if any(example.text == "poison" for example in examples):
            raise RuntimeError("poison")
        return work(examples)

    monkeypatch.setattr(predictor, "probabilities", fail_on_poison)
    examples = predictor.prepare([(None, "fine"), (None, "poison"), (None, "good")])
    found = engine.answer(examples)
    assert [isinstance(answer, Exception) for answer in found] == [False, True, False]


@pytest.mark.parametrize(
    "invalid", [{"embed_in": "*; script-src *"}, {"linger": 0}, {"max_waiting": 63}, {"root_path": "/v1"}]
)
def test_an_invalid_setting_is_named(invalid):
    with pytest.raises(UserError, match=next(iter(invalid))):
        check_settings(replace(SETTINGS, **invalid))


@pytest.mark.parametrize(
    "invalid",
    [
        {"batch_size": 0},
        {"max_bytes": 0},
        {"max_pixels": -1},
        {"timeout": 0.0},
        {"timeout": float("inf")},
        {"linger": float("nan")},
        {"port": 70_000},
    ],
)
def test_a_number_with_which_no_request_could_be_answered_is_refused_before_the_model_is_loaded(invalid):
    with pytest.raises(UserError, match=f"{next(iter(invalid))} must be .*got"):
        check_settings(replace(SETTINGS, **invalid))


def test_32_concurrent_clients_share_batches_and_get_their_own_answers(build_api, predictor, shapes_folder):
    app, _ = build_api()
    images = [(shapes_folder / f"images/test/{i}.png").read_bytes() for i in range(8)]
    asked = [(images[i % 8], ["how many shapes are there?", "is there a red circle?"][i // 8 % 2]) for i in range(64)]
    expected = predictor.predict(asked, top_k=1)
    with live(app) as address, ThreadPoolExecutor(32) as clients:

        def ask_pair(pair) -> dict:
            image, text = pair
            reply = httpx.post(f"{address}/v1/predict", files={"image": image}, data={"text": text}, timeout=30)
            return reply.json()["predictions"][0]

        found = list(clients.map(ask_pair, asked))
        text = httpx.get(f"{address}/metrics").text
    for one, other in zip(found, expected, strict=True):
        assert one["answers"][0]["probability"] == pytest.approx(other.confidence, abs=1e-4)
        assert one["labels"] == other.labels
    batches = float(re.search(r"batch_pairs_count (\S+)", text)[1])
    assert batches < 40, "64 pairs in fewer batches"


def test_accepted_requests_are_answered_when_the_server_stops(run_dir, tmp_path):
    """SIGTERM under load: every request is answered or gets 503, then the process ends."""
    outcomes: list[str] = []
    with command(run_dir, tmp_path, "--page", "false") as served:
        address = served.address

        def ask_until_refused() -> None:
            while True:
                try:
                    reply = httpx.post(f"{address}/v1/predict", data={"text": "x"}, files={"image": PNG}, timeout=30)
                except httpx.ConnectError:
                    return  # the server no longer accepts connections
                except httpx.HTTPError as error:
                    outcomes.append(repr(error))
                    return
                outcomes.append(str(reply.status_code))

        clients = [threading.Thread(target=ask_until_refused) for _ in range(8)]
        for client in clients:
            client.start()
        until(lambda: outcomes.count("200") >= 16, "16 answers")
        with socket.create_connection(address[7:].split(":")) as slow:
            served.process.send_signal(signal.SIGTERM)
            until(lambda: "503" in outcomes, "it is stopping")
            slow.sendall(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert slow.recv(1000).startswith(b"HTTP/1.1 503"), "an open connection is still answered"
        for client in clients:
            client.join(30)
        assert served.process.wait(30) == 143
        assert "Traceback" not in served.output
    assert set(outcomes) == {"200", "503"}, outcomes
