"""The API: answers to valid requests and errors for invalid ones."""

import json

import pytest
import schemathesis
from api_client import ask, base64_of, error_code
from hostile import BAD_BODIES, BAD_IMAGES, BAD_TEXTS, GOOD_IMAGES, GOOD_TEXTS, PNG
from hypothesis import HealthCheck, given, settings
from live import live

from app.serving.request_body import pair_error
from data import BadImageError
from data.errors import UserError


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


@pytest.mark.parametrize(("texts", "status"), [(64, 200), (65, 422), (68, 400)])
def test_a_form_has_at_most_64_texts(client, texts, status):
    reply = client.post("/v1/predict", files=[("text", (None, "x"))] * texts)
    assert reply.status_code == status


def test_a_large_field_of_a_form_is_refused(client):
    reply = client.post("/v1/predict", files={"text": (None, "x" * 100_000)})
    assert (reply.status_code, error_code(reply)) == (400, "invalid_form")


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


@pytest.mark.parametrize("key", [None, "secret"])
def test_requests_generated_from_the_description_cause_no_server_error(build_api, key):
    with live(build_api(api_key=key)[0]) as address:
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
