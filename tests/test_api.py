"""The API: answers, faults, intruders."""

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

from app import Predictor
from app.serving.base64_image import decode_base64
from app.serving.request_body import fault
from app.serving.server import ServeSettings, build_app
from data import BadImageError

SETTINGS = ServeSettings(page=False, precision="no", max_bytes=2_000_000, max_pixels=1_000_000, timeout=20)
BASE = "http://localhost"


@pytest.fixture(scope="module")
def served(run_dir):
    return build_app(str(run_dir), SETTINGS)


@pytest.fixture(scope="module")
def client(served):
    with TestClient(served[0], BASE, raise_server_exceptions=False) as client:
        yield client


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def ask(client, **more):
    return client.post("/v1/predict", json={"inputs": [more]})


def error_code(reply) -> str:
    error = reply.json()["error"]
    assert error["message"][0].isupper(), "a sentence"
    assert "Traceback" not in reply.text
    assert 'File "' not in reply.text
    return error["code"]


def test_json_form_and_predictor_give_one_answer(client, run_dir, shapes_folder):
    image, text = (shapes_folder / "images/test/0.png").read_bytes(), "what color is the circle?"
    expected = Predictor.from_pretrained(run_dir, precision="no")(image, text, top_k=2)
    as_json = client.post(
        "/v1/predict", json={"inputs": [{"image": base64_of(image), "text": text}], "top_k": 2}
    ).json()["predictions"][0]
    as_form = client.post("/v1/predict", files={"image": image}, data={"text": text, "top_k": 2}).json()
    for found in (as_json, as_form["predictions"][0]):
        assert [a["label"] for a in found["answers"]] == [a["label"] for a in expected]
        assert found["answers"][0]["probability"] == pytest.approx(expected[0]["probability"], abs=1e-4)
        assert found["labels"] == [expected[0]["label"]]
        assert found["confidence"] == found["answers"][0]["probability"]


def test_several_texts_of_one_image_are_answered_in_one_pass(served, client, monkeypatch):
    seen = []
    encoder = served[1].predictor.model.image_encoder
    run = type(encoder).run
    monkeypatch.setattr(type(encoder), "run", lambda self, maps, *a: seen.append(len(maps)) or run(self, maps, *a))
    reply = client.post("/v1/predict", files={"image": PNG}, data={"text": ["one?", "two?", "three?"]})
    assert len(reply.json()["predictions"]) == 3
    assert seen[0] == 1, "one picture"


def test_a_faulty_pair_of_several_fails_alone(client):
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


BASE64 = {
    "in lines of 76": lambda data: base64.encodebytes(data).decode(),
    "in lines of 64 that end as in Windows": lambda data: "\r\n".join(textwrap.wrap(base64_of(data), 64)),
    "indented": lambda data: textwrap.indent(base64.encodebytes(data).decode(), "\t  "),
    "safe in a URL": lambda data: base64.urlsafe_b64encode(data).decode(),
    "unpadded": lambda data: base64_of(data).rstrip("="),
    "safe in a URL, unpadded": lambda data: base64.urlsafe_b64encode(data).decode().rstrip("="),
    "a data: URI": lambda data: f"data:image/png;base64,{base64_of(data)}",
    "a data: URI of no type": lambda data: f"data:;base64,{base64_of(data)}",
    "a data: URI in capitals, in lines": lambda data: f"DATA:image/png;x=y;BASE64,{base64.encodebytes(data).decode()}",
}


@pytest.mark.parametrize("name", BASE64)
@pytest.mark.parametrize("rest", [0, 1, 2])
def test_base64_is_taken_as_it_is_written_anywhere(name, rest):
    data = bytes(range(256)) * 3 + b"x" * rest
    assert decode_base64(BASE64[name](data)) == data
    assert decode_base64(BASE64[name](JPEG)) == JPEG, "which begins with a slash"


def test_an_image_is_the_same_in_every_spelling_of_base64(client):
    inputs = [{"image": spell(PNG), "text": "x"} for spell in (base64_of, *BASE64.values())]
    replies = client.post("/v1/predict", json={"inputs": inputs}).json()["predictions"]
    assert all(reply == replies[0] for reply in replies)
    assert replies[0]["labels"]


SOME = base64_of(b"some bytes of an image")


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (
            "https://example.org/x.png",
            r"is an address or a path \('https://example.org/x.png'\), which .* neither fetches",
        ),
        ("HTTP:/example.org/x", "is an address or a path"),
        ("s3://bucket/key", "is an address or a path"),
        ("file:///etc/passwd", "is an address or a path"),
        ("/etc/passwd", "is an address or a path"),
        ("images/my cat.jpeg", "is an address or a path"),
        ("../cat", "is an address or a path"),
        ("~/cat", "is an address or a path"),
        ("C:\\cat.png", "is an address or a path"),
        ("", "is empty"),
        (" \n", "is empty"),
        ("data:image/png;base64,", "is empty"),
        ("data:image/png,abc", "a data: URI without base64"),
        ("data:image/png;base64", "a data: URI without base64|is empty"),
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
def test_what_is_no_base64_is_said_to_be_what_it_is(client, image, told):
    reply = ask(client, image=image, text="x")
    assert (reply.status_code, error_code(reply)) == (422, "unreadable_image")
    message = reply.json()["error"]["message"]
    assert re.search(told, message), message
    assert len(message) < 200


def test_the_code_of_a_fault_is_told_by_its_kind_and_not_by_its_words(client):
    assert fault(BadImageError("cut off"))[0] == "unreadable_image"
    assert fault(ValueError("The text speaks of an image."))[0] == "invalid_input"
    assert error_code(ask(client)) == "invalid_input"


def test_a_path_or_an_address_in_the_place_of_a_file_is_refused_in_words(client):
    for text in ("http://127.0.0.1:1/x.png", "/etc/passwd"):
        reply = client.post("/v1/predict", files={"image": (None, text), "text": (None, "x")})
        assert (reply.status_code, error_code(reply)) == (422, "invalid_request")
        assert "The field image must be a file" in reply.json()["error"]["message"]


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
def test_a_text_that_is_none_is_refused(client, name):
    reply = ask(client, text=BAD_TEXTS[name])
    assert reply.status_code == 422
    assert error_code(reply) in ("invalid_input", "invalid_request")


@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_body_that_is_no_request_is_refused(client, name):
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
def test_a_form_that_is_none_is_refused(client, kind, body, status):
    reply = client.post("/v1/predict", content=body, headers={"content-type": kind})
    assert reply.status_code == status, reply.text
    assert error_code(reply)


def test_two_images_in_a_form_are_refused(client):
    reply = client.post("/v1/predict", files=[("image", PNG), ("image", PNG)])
    assert (reply.status_code, error_code(reply)) == (400, "invalid_form")


def test_an_image_of_more_pixels_than_allowed_is_refused(client):
    reply = ask(client, image=base64_of(encode(picture("L", (1001, 1000)), "PNG")))
    assert "1,000,000 pixels allowed" in reply.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/predict", "/healthz", "/anything"])
def test_a_large_body_is_refused_on_every_path_before_it_is_read(client, path):
    reply = client.post(path, content=b"x" * 2_000_001, headers={"content-type": "application/json"})
    assert (reply.status_code, error_code(reply)) == (413, "too_large")


def test_a_large_body_of_unknown_length_is_refused_by_count(client):
    reply = client.post("/v1/predict", content=(b"x" * 100_000 for _ in range(30)))
    assert reply.status_code == 413


def test_a_key_guards_the_api_and_not_its_health(run_dir):
    app, _ = build_app(str(run_dir), SETTINGS, api_key="secret")
    with TestClient(app, BASE) as client:
        for path in ("/v1/model", "/metrics"):
            assert client.get(path).status_code == 401
            assert client.get(path, headers={"authorization": "Bearer wrong"}).status_code == 401
            assert client.get(path, headers={"authorization": "Bearer secret"}).status_code == 200
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200


def test_it_is_ready_when_warm_and_not_while_stopping(run_dir):
    app, engine = build_app(str(run_dir), SETTINGS)
    cold = TestClient(app, BASE)
    assert (cold.get("/readyz").status_code, cold.get("/healthz").status_code) == (503, 200)
    with TestClient(app, BASE) as client:
        assert client.get("/readyz").json() == {"status": "ready"}
        engine.is_draining = True
        assert client.get("/readyz").status_code == 503
        refused = ask(client, text="x")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")


def test_a_full_queue_refuses_with_the_time_to_come_again(run_dir):
    app, engine = build_app(str(run_dir), SETTINGS)
    engine.max_waiting = 3
    with TestClient(app, BASE) as client:
        reply = client.post("/v1/predict", json={"inputs": [{"text": "x"}] * 4})
        assert (reply.status_code, error_code(reply), reply.headers["retry-after"]) == (429, "too_many_requests", "1")
        assert client.post("/v1/predict", json={"inputs": [{"text": "x"}] * 3}).status_code == 200
        assert engine.waiting == 0, "who was answered, or refused, waits no more"


def test_pictures_of_too_many_pixels_together_are_refused_before_one_is_decoded(run_dir, monkeypatch):
    app, engine = build_app(str(run_dir), SETTINGS)
    pictures = [encode(Image.new("RGB", (1000 + i, 900)), "PNG") for i in range(5)]
    with TestClient(app, BASE) as client:
        monkeypatch.setattr(engine.predictor, "prepare", lambda pairs: pytest.fail("decoded"))
        reply = client.post("/v1/predict", json={"inputs": [{"image": base64_of(p), "text": "x"} for p in pictures]})
        assert (reply.status_code, error_code(reply)) == (413, "too_many_pixels")
        engine.pixels = 3_500_000  # of pictures that are being decoded
        reply = client.post("/v1/predict", files={"image": pictures[0]}, data={"text": "x"})
        assert (reply.status_code, error_code(reply)) == (429, "too_many_requests")
        assert engine.waiting == 0


def test_one_picture_asked_many_texts_counts_its_pixels_once(client):
    large = encode(Image.new("RGB", (990, 1000)), "PNG")
    assert client.post("/v1/predict", files={"image": large}, data={"text": ["x"] * 8}).status_code == 200


def test_by_another_name_a_server_without_a_key_is_not_asked(run_dir):
    for api_key, status in ((None, 421), ("secret", 200)):
        app = build_app(str(run_dir), SETTINGS, api_key)[0]
        with TestClient(app, "http://rebound.example") as client:
            assert client.get("/healthz").status_code == status
        with TestClient(app, "http://127.0.0.1:8000") as client:
            assert client.get("/healthz").status_code == 200


def test_a_key_may_be_any_word(run_dir):
    app = build_app(str(run_dir), SETTINGS, "schlüssel")[0]
    with TestClient(app, BASE) as client:
        for key, status in (("schlüssel", 200), ("schlussel", 401), ("", 401)):
            assert client.get("/v1/model", headers={"authorization": f"Bearer {key}".encode()}).status_code == status


def test_a_body_that_does_not_come_is_given_up(run_dir):
    app = build_app(str(run_dir), replace(SETTINGS, timeout=1))[0]
    with live(app) as address, socket.create_connection(address[7:].split(":"), timeout=10) as connection:
        connection.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf")
        assert connection.recv(4096).startswith(b"HTTP/1.1 408")


def test_a_model_that_is_too_slow_or_fails_is_told(run_dir, monkeypatch):
    app, engine = build_app(str(run_dir), SETTINGS)
    with TestClient(app, BASE, raise_server_exceptions=False) as client:
        engine.timeout = 1e-4
        assert error_code(ask(client, text="x")) == "timeout"
        engine.timeout = 20
        monkeypatch.setattr(engine.predictor, "probabilities", lambda examples: 1 / 0)
        reply = ask(client, text="x")
        assert (reply.status_code, error_code(reply)) == (500, "model_failed")
        assert "division" not in reply.text


def test_of_a_batch_that_fails_only_the_pair_that_makes_it_fail_is_lost(run_dir, monkeypatch):
    engine = build_app(str(run_dir), SETTINGS)[1]
    work = engine.predictor.probabilities

    def fails_on_poison(examples):
        if any(example.text == "poison" for example in examples):
            raise RuntimeError("poison")
        return work(examples)

    monkeypatch.setattr(engine.predictor, "probabilities", fails_on_poison)
    examples = engine.predictor.prepare([(None, "fine"), (None, "poison"), (None, "good")])
    found = engine.answer(examples)
    assert [isinstance(answer, Exception) for answer in found] == [False, True, False]


def test_the_model_is_described(client, run_dir):
    model = client.get("/v1/model").json()
    assert model["labels"] == Predictor.from_pretrained(run_dir).labels
    assert model["metrics"] == json.loads((run_dir / "evaluation/test/metrics.json").read_text())["scores"]


def test_figures_for_prometheus_count_what_was_asked(client):
    ask(client, text="x")
    text = client.get("/metrics").text
    assert 'requests_total{path="/v1/predict",status="200"}' in text
    assert "batch_pairs_bucket" in text
    assert "pairs_waiting 0.0" in text


@pytest.mark.parametrize("path", ["/v1/nothing", "/../etc/passwd", "/v1/model/../../x", "/%2e%2e/x"])
def test_what_is_not_there_is_told_in_the_same_form(client, path):
    reply = client.get(path)
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "http_error")


def test_every_answer_has_the_headers_that_protect_it(client):
    for reply in (client.get("/healthz"), client.get("/nothing"), client.post("/x", content=b"x" * 2_000_001)):
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'self'" in reply.headers["content-security-policy"]


def test_only_the_origin_one_names_may_show_it_in_a_frame(client, run_dir):
    assert client.get("/healthz").headers["content-security-policy"].endswith("frame-ancestors 'self'")
    app = build_app(str(run_dir), replace(SETTINGS, embed_in="https://huggingface.co"))[0]
    with TestClient(app, BASE) as other:
        policy = other.get("/healthz").headers["content-security-policy"]
    assert policy.endswith("frame-ancestors 'self' https://huggingface.co")
    with pytest.raises(ValueError, match="expected an origin"):
        build_app(str(run_dir), replace(SETTINGS, embed_in="*; script-src *"))


@pytest.mark.parametrize("key", [None, "secret"])
def test_requests_made_from_its_description_find_no_server_error(run_dir, key):
    with live(build_app(str(run_dir), SETTINGS, key)[0]) as address:
        check_against_description(schemathesis.openapi.from_url(f"{address}/openapi.json"), key)


def check_against_description(schema, key):
    headers, kinds = {"Authorization": f"Bearer {key}"} if key else {}, set()
    operations = [operation.ok() for operation in schema.get_all_operations()]
    assert len(operations) == 5
    # What is of the right form may still be no image; and no path of the API hides behind another method.
    excluded = [schemathesis.checks.CHECKS.get_one(name) for name in ("positive_data_acceptance", "unsupported_method")]
    for operation in operations:

        @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(operation.as_strategy())
        def check(case):
            kinds.add(case.media_type)
            case.call_and_validate(excluded_checks=excluded, headers=headers)

        check()
    assert kinds >= {"application/json", "multipart/form-data"}


def test_thirty_two_clients_at_once_share_batches_and_get_their_own_answers(run_dir, shapes_folder):
    app, engine = build_app(str(run_dir), SETTINGS)
    predictor = engine.predictor
    images = [(shapes_folder / f"images/test/{i}.png").read_bytes() for i in range(8)]
    asked = [(images[i % 8], ["how many shapes are there?", "is there a red circle?"][i // 8 % 2]) for i in range(64)]
    expected = predictor.predict(asked, top_k=1)
    with live(app) as address, ThreadPoolExecutor(32) as clients:

        def ask_one(pair) -> dict:
            image, text = pair
            reply = httpx.post(f"{address}/v1/predict", files={"image": image}, data={"text": text}, timeout=30)
            return reply.json()["predictions"][0]

        found = list(clients.map(ask_one, asked))
        text = httpx.get(f"{address}/metrics").text
    for one, other in zip(found, expected, strict=True):
        assert one["answers"][0]["probability"] == pytest.approx(other.confidence, abs=1e-4)
        assert one["labels"] == other.labels
    batches = float(re.search(r"batch_pairs_count (\S+)", text)[1])
    assert batches < 40, "64 pairs in fewer batches"


def test_what_was_accepted_is_answered_when_the_server_is_told_to_stop(run_dir, tmp_path):
    """SIGTERM under load: every request that got through is answered, or told to come again; then the process ends."""
    outcomes: list[str] = []
    with command(run_dir, tmp_path, "--no-page") as served:
        address = served.address

        def ask_until_refused() -> None:
            while True:
                try:
                    reply = httpx.post(f"{address}/v1/predict", data={"text": "x"}, files={"image": PNG}, timeout=30)
                except httpx.ConnectError:
                    return  # no longer accepted
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
            assert slow.recv(1000).startswith(b"HTTP/1.1 503"), "connected before, asked after"
        for client in clients:
            client.join(30)
        assert served.process.wait(30) == 143
        assert "Traceback" not in served.output
    assert set(outcomes) == {"200", "503"}, outcomes
