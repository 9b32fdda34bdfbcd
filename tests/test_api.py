"""The API: answers, errors, limits and attacks."""

import base64
import json
import re
import signal
import socket
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import pytest
import schemathesis
from hostile import BAD_BODIES, BAD_IMAGES, BAD_TEXTS, GOOD_IMAGES, GOOD_TEXTS, JPEG, PNG, encode, picture
from hypothesis import HealthCheck, given, settings
from live import command, live, until
from PIL import Image
from starlette.testclient import TestClient

from app.serving.base64_image import decode_base64
from app.serving.request_body import pair_error
from app.serving.server import ServeSettings, build_app, check_settings, load_predictor
from data import BadImageError
from data.errors import UserError

SETTINGS = ServeSettings(page=False, precision="no", max_bytes=2_000_000, max_pixels=1_000_000, timeout=20)
BASE = "http://localhost"


@pytest.fixture(scope="module")
def predictor(run_dir):
    return load_predictor(str(run_dir), SETTINGS)


@pytest.fixture
def build(predictor, run_dir):
    """Build an application, and its engine, around the one model of this module."""
    return lambda settings=SETTINGS, api_key=None: build_app(predictor, run_dir, settings, api_key)


@pytest.fixture(scope="module")
def client(predictor, run_dir):
    """A client of one application for all tests that do not change it."""
    app, _ = build_app(predictor, run_dir, SETTINGS)
    with TestClient(app, BASE, raise_server_exceptions=False) as client:
        yield client


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def ask(client, **pair):
    return client.post("/v1/predict", json={"inputs": [pair]})


def error_code(reply) -> str:
    """The error code of a reply, which explains itself without a stack trace."""
    error = reply.json()["error"]
    assert error["message"]
    assert "Traceback" not in reply.text
    assert 'File "' not in reply.text
    return error["code"]


def test_json_form_and_predictor_give_the_same_answer(client, predictor, shapes_folder):
    image, text = (shapes_folder / "images/test/0.png").read_bytes(), "what color is the circle?"
    expected = predictor(image, text, top_k=2)
    as_json = client.post(
        "/v1/predict", json={"inputs": [{"image": base64_of(image), "text": text}], "top_k": 2}
    ).json()["predictions"][0]
    as_form = client.post("/v1/predict", files={"image": image}, data={"text": text, "top_k": 2}).json()
    for found in (as_json, as_form["predictions"][0]):
        assert [a["label"] for a in found["answers"]] == [a["label"] for a in expected]
        assert found["answers"][0]["probability"] == pytest.approx(expected[0]["probability"], abs=1e-4)
        assert found["labels"] == [expected[0]["label"]]
        assert found["confidence"] == found["answers"][0]["probability"]


def test_several_texts_about_one_image_are_answered_in_one_pass(client, predictor, monkeypatch):
    passes = []
    model = predictor.model
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda **batch: passes.append(batch["pixel_values"]) or forward(**batch))
    reply = client.post("/v1/predict", files={"image": PNG}, data={"text": ["one?", "two?", "three?"]})
    assert len(reply.json()["predictions"]) == 3
    assert [len(pictures) for pictures in passes] == [1]


def test_an_invalid_pair_does_not_affect_the_others(client):
    good = {"image": base64_of(PNG), "text": "x"}
    inputs = [good, {"image": "%%%", "text": "x"}, {"image": base64_of(b"no")}, {}, good]
    replies = client.post("/v1/predict", json={"inputs": inputs}).json()["predictions"]
    assert ["labels" in reply for reply in replies] == [True, False, False, False, True]
    assert [reply["error"]["code"] for reply in replies[1:4]] == [
        "unreadable_image",
        "unreadable_image",
        "invalid_input",
    ]
    assert replies[0]["answers"] == replies[4]["answers"]


@pytest.mark.parametrize("name", GOOD_IMAGES)
def test_an_odd_image_is_answered(client, name):
    reply = ask(client, image=base64_of(GOOD_IMAGES[name]), text="what is it?")
    assert reply.status_code == 200, reply.text


SPELLINGS = {
    "in lines of 76": lambda data: base64.encodebytes(data).decode(),
    "in lines of 64 with Windows line ends": lambda data: "\r\n".join(textwrap.wrap(base64_of(data), 64)),
    "indented": lambda data: textwrap.indent(base64.encodebytes(data).decode(), "\t  "),
    "URL-safe": lambda data: base64.urlsafe_b64encode(data).decode(),
    "unpadded": lambda data: base64_of(data).rstrip("="),
    "URL-safe, unpadded": lambda data: base64.urlsafe_b64encode(data).decode().rstrip("="),
    "a data: URI": lambda data: f"data:image/png;base64,{base64_of(data)}",
    "a data: URI without a type": lambda data: f"data:;base64,{base64_of(data)}",
    "a data: URI in capitals and lines": lambda data: f"DATA:image/png;x=y;BASE64,{base64.encodebytes(data).decode()}",
}


@pytest.mark.parametrize("name", SPELLINGS)
@pytest.mark.parametrize("rest", [0, 1, 2])
def test_every_common_spelling_of_base64_is_decoded(name, rest):
    data = bytes(range(256)) * 3 + b"x" * rest
    assert decode_base64(SPELLINGS[name](data)) == data
    assert decode_base64(SPELLINGS[name](JPEG)) == JPEG, "begins with a slash"


def test_an_image_is_the_same_in_every_spelling_of_base64(client):
    inputs = [{"image": spell(PNG), "text": "x"} for spell in (base64_of, *SPELLINGS.values())]
    replies = client.post("/v1/predict", json={"inputs": inputs}).json()["predictions"]
    assert all(reply == replies[0] for reply in replies)
    assert replies[0]["labels"]


SOME = base64_of(b"some bytes of an image")


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("https://example.org/x.png", "'https://example.org/x.png'"),
        ("HTTP:/example.org/x", "address or a path"),
        ("s3://bucket/key", "address or a path"),
        ("file:///etc/passwd", "address or a path"),
        ("/etc/passwd", "address or a path"),
        ("images/my cat.jpeg", "address or a path"),
        ("../cat", "address or a path"),
        ("~/cat", "address or a path"),
        ("C:\\cat.png", "address or a path"),
        ("", "empty"),
        (" \n", "empty"),
        ("data:image/png;base64,", "empty"),
        ("data:image/png,abc", "without base64"),
        ("data:image/png;base64", "without base64|empty"),
        (SOME[:7] + "%" + SOME[7:], "character 8 is '%'"),
        (SOME[:7] + "=" + SOME[7:], "character 8 is '='"),
        (SOME[:7] + "\u00a0" + SOME[7:], r"character 8 is '\\xa0'"),
        (SOME[:7] + "\0" + SOME[7:], r"character 8 is '\\x00'"),
        ("data:image/png;base64,AB%2B", "character 3 is '%'"),
        (SOME + "=", "cut off"),
        (SOME.rstrip("=")[:21], "21 characters .* cut off"),
        ("=" * 4, "cut off"),
        ("x" * 300_000 + "%", "character 300,001 is '%'"),
    ],
)
def test_an_image_that_is_not_base64_is_refused_with_the_reason(image, reason):
    with pytest.raises(BadImageError, match=reason) as error:
        decode_base64(image)
    assert len(str(error.value)) < 250


def test_an_image_that_is_not_base64_is_refused(client):
    reply = ask(client, image="/etc/passwd", text="x")
    assert (reply.status_code, error_code(reply)) == (422, "unreadable_image")


def test_the_error_code_of_a_pair_depends_on_the_type_of_the_error(client):
    assert pair_error(BadImageError("cut off"))[0] == "unreadable_image"
    assert pair_error(UserError("The text mentions an image."))[0] == "invalid_input"
    assert error_code(ask(client)) == "invalid_input"


def test_a_path_or_an_address_instead_of_a_file_is_refused(client):
    for text in ("http://127.0.0.1:1/x.png", "/etc/passwd"):
        reply = client.post("/v1/predict", files={"image": (None, text), "text": (None, "x")})
        assert (reply.status_code, error_code(reply)) == (422, "invalid_request")
        assert "curl -F image=@" in reply.json()["error"]["message"], "how to send a file"


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_hostile_image_is_refused(client, name):
    reply = ask(client, image=base64_of(BAD_IMAGES[name]), text="what is it?")
    assert (reply.status_code, error_code(reply)) == (422, "unreadable_image")
    form = client.post("/v1/predict", files={"image": ("../../x.png", BAD_IMAGES[name], "image/png")})
    assert form.status_code == 422


@pytest.mark.parametrize("name", GOOD_TEXTS)
def test_an_odd_text_is_answered(client, name):
    assert ask(client, text=GOOD_TEXTS[name]).status_code == 200


@pytest.mark.parametrize("name", BAD_TEXTS)
def test_an_invalid_text_is_refused(client, name):
    reply = ask(client, text=BAD_TEXTS[name])
    assert reply.status_code == 422
    assert error_code(reply) in ("invalid_input", "invalid_request")


@pytest.mark.parametrize("name", BAD_BODIES)
def test_an_invalid_body_is_refused(client, name):
    reply = client.post("/v1/predict", content=BAD_BODIES[name], headers={"content-type": "application/json"})
    assert reply.status_code in (400, 422), reply.text
    assert error_code(reply)


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("text/plain", b"x", 415),
        ("", b"x", 415),
        ("multipart/form-data", b"x", 400),
        ("multipart/form-data; boundary=b", b"--b\r\nnonsense", 422),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\nx\r\n--b--',
            422,
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="url"\r\n\r\nx\r\n--b--',
            422,
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="top_k"\r\n\r\nx\r\n--b--',
            422,
        ),
    ],
)
def test_an_invalid_form_is_refused(client, kind, body, status):
    reply = client.post("/v1/predict", content=body, headers={"content-type": kind})
    assert reply.status_code == status, reply.text
    assert error_code(reply)


def test_two_images_in_a_form_are_refused(client):
    reply = client.post("/v1/predict", files=[("image", PNG), ("image", PNG)])
    assert (reply.status_code, error_code(reply)) == (400, "invalid_form")


@pytest.mark.parametrize(("texts", "status"), [(64, 200), (65, 422), (66, 400)])
def test_a_form_has_at_most_64_texts(client, texts, status):
    reply = client.post("/v1/predict", files=[("text", (None, "x"))] * texts)
    assert reply.status_code == status


def test_a_large_field_of_a_form_is_refused(client):
    reply = client.post("/v1/predict", files={"text": (None, "x" * 100_000)})
    assert (reply.status_code, error_code(reply)) == (400, "invalid_form")


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


def test_the_key_protects_the_api_but_not_the_health_checks(build):
    app, _ = build(api_key="secret")
    with TestClient(app, BASE) as client:
        for path in ("/v1/model", "/metrics"):
            assert client.get(path).status_code == 401
            assert client.get(path, headers={"authorization": "Bearer wrong"}).status_code == 401
            assert client.get(path, headers={"authorization": "Bearer secret"}).status_code == 200
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200


def test_the_server_is_ready_after_warm_up_and_until_it_stops(build):
    app, engine = build()
    cold = TestClient(app, BASE)
    assert (cold.get("/readyz").status_code, cold.get("/healthz").status_code) == (503, 200)
    with TestClient(app, BASE) as client:
        assert client.get("/readyz").json() == {"status": "ready"}
        engine.stop()
        assert client.get("/readyz").status_code == 503
        refused = ask(client, text="x")
        assert (refused.status_code, error_code(refused)) == (503, "stopping")
        assert int(refused.headers["retry-after"]) > 0


def test_a_full_queue_refuses_requests_and_suggests_when_to_retry(build):
    app, engine = build()
    engine.max_waiting = 3
    with TestClient(app, BASE) as client:
        reply = client.post("/v1/predict", json={"inputs": [{"text": "x"}] * 4})
        assert (reply.status_code, error_code(reply)) == (429, "too_many_requests")
        assert int(reply.headers["retry-after"]) > 0
        assert client.post("/v1/predict", json={"inputs": [{"text": "x"}] * 3}).status_code == 200
        assert engine.waiting == 0, "answered and refused pairs do not wait"


def test_images_with_too_many_pixels_in_total_are_refused_before_decoding(build, predictor, monkeypatch):
    app, engine = build()
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


def test_a_server_without_a_key_is_not_reached_by_other_host_names(build):
    """Protection against DNS rebinding."""
    for api_key, status in ((None, 421), ("secret", 200)):
        app, _ = build(api_key=api_key)
        for host, expected in (("rebound.example", status), ("127.0.0.1:8000", 200), ("[::1]:8000", 200)):
            reply = TestClient(app, f"http://{host}").get("/healthz")
            assert reply.status_code == expected
        if api_key is None:
            assert error_code(TestClient(app, "http://rebound.example").get("/healthz")) == "unknown_host"


def test_a_key_may_have_any_characters(build):
    client = TestClient(build(api_key="schlüssel")[0], BASE)
    for key, status in (("schlüssel", 200), ("schlussel", 401), ("", 401)):
        assert client.get("/v1/model", headers={"authorization": f"Bearer {key}".encode()}).status_code == status


def test_an_incomplete_body_times_out(build):
    app, _ = build(replace(SETTINGS, timeout=0.3))
    with live(app) as address, socket.create_connection(address[7:].split(":"), timeout=10) as connection:
        connection.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf")
        assert connection.recv(4096).startswith(b"HTTP/1.1 408")


def test_a_slow_or_failing_model_is_reported_without_details(build, predictor, monkeypatch):
    app, engine = build()
    with TestClient(app, BASE, raise_server_exceptions=False) as client:
        engine.timeout = 1e-4
        slow = ask(client, text="x")
        assert (slow.status_code, error_code(slow)) == (504, "timeout")
        engine.timeout = 20
        monkeypatch.setattr(predictor, "probabilities", lambda examples: 1 / 0)
        reply = ask(client, text="x")
        assert (reply.status_code, error_code(reply)) == (500, "model_failed")
        assert "division" not in reply.text


def test_a_pair_that_makes_its_batch_fail_fails_alone(build, predictor, monkeypatch):
    _, engine = build()
    work = predictor.probabilities

    def fail_on_poison(examples):
        if any(example.text == "poison" for example in examples):
            raise RuntimeError("poison")
        return work(examples)

    monkeypatch.setattr(predictor, "probabilities", fail_on_poison)
    examples = predictor.prepare([(None, "fine"), (None, "poison"), (None, "good")])
    found = engine.answer(examples)
    assert [isinstance(answer, Exception) for answer in found] == [False, True, False]


def test_the_model_is_described(client, predictor, run_dir):
    model = client.get("/v1/model").json()
    assert model["labels"] == predictor.labels
    assert model["metrics"] == json.loads((run_dir / "evaluation/test/metrics.json").read_text())["scores"]


def test_metrics_for_prometheus_count_requests(client):
    ask(client, text="x")
    text = client.get("/metrics").text
    assert 'requests_total{path="/v1/predict",status="200"}' in text
    assert "batch_pairs_bucket" in text
    assert "pairs_waiting 0.0" in text


@pytest.mark.parametrize("path", ["/v1/nothing", "/../etc/passwd", "/v1/model/../../x", "/%2e%2e/x"])
def test_unknown_paths_get_an_error_of_the_same_form(client, path):
    reply = client.get(path)
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "http_error")


def test_every_reply_has_security_headers(client):
    for reply in (client.get("/healthz"), client.get("/nothing"), client.post("/x", content=b"x" * 2_000_001)):
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'self'" in reply.headers["content-security-policy"]


def test_only_the_configured_origin_may_embed_the_page(client, build):
    assert client.get("/healthz").headers["content-security-policy"].endswith("frame-ancestors 'self'")
    other = TestClient(build(replace(SETTINGS, embed_in="https://huggingface.co"))[0], BASE)
    policy = other.get("/healthz").headers["content-security-policy"]
    assert policy.endswith("frame-ancestors 'self' https://huggingface.co")


@pytest.mark.parametrize(
    "invalid", [{"embed_in": "*; script-src *"}, {"linger": 0}, {"max_waiting": 63}, {"root_path": "/v1"}]
)
def test_an_invalid_setting_is_named(invalid):
    with pytest.raises(UserError, match=next(iter(invalid))):
        check_settings(replace(SETTINGS, **invalid))


@pytest.mark.parametrize("key", [None, "secret"])
def test_requests_generated_from_the_description_cause_no_server_error(build, key):
    with live(build(api_key=key)[0]) as address:
        check_against_description(schemathesis.openapi.from_url(f"{address}/openapi.json"), key)


def check_against_description(schema, key):
    headers, kinds = {"Authorization": f"Bearer {key}"} if key else {}, set()
    operations = [operation.ok() for operation in schema.get_all_operations()]
    assert len(operations) == 5
    # A valid body may contain invalid images, and unknown routes answer before the method is checked.
    excluded = [schemathesis.checks.CHECKS.get_one(name) for name in ("positive_data_acceptance", "unsupported_method")]
    for operation in operations:

        @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(operation.as_strategy())
        def check(case):
            kinds.add(case.media_type)
            case.call_and_validate(excluded_checks=excluded, headers=headers)

        check()
    assert kinds >= {"application/json", "multipart/form-data"}


def test_32_concurrent_clients_share_batches_and_get_their_own_answers(build, predictor, shapes_folder):
    app, _ = build()
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
