"""Explanations of the API."""

import base64
import io
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from app.serving.schemas import MAX_EXPLAINED
from app.serving.server import ServeSettings, build_app

SETTINGS = ServeSettings(page=False, precision="no", timeout=30)
TEXT = "what color is the circle?"


@pytest.fixture(scope="module")
def served(predictor, run_dir):
    """A client and the engine that it asks."""
    app, engine = build_app(predictor, run_dir, SETTINGS)
    with TestClient(app, "http://localhost", raise_server_exceptions=False) as client:
        yield client, engine


@pytest.fixture(scope="module")
def client(served):
    return served[0]


@pytest.fixture(scope="module")
def image(shapes_folder) -> bytes:
    """A picture that is twice as wide as high."""
    file = io.BytesIO()
    Image.open(shapes_folder / "images/test/0.png").convert("RGB").resize((80, 40)).save(file, "PNG")
    return file.getvalue()


def ask(client, *pairs, **options):
    inputs = [{key: base64.b64encode(v).decode() if key == "image" else v for key, v in pair.items()} for pair in pairs]
    return client.post("/v1/predict", json={"inputs": inputs, "explain": True} | options)


def decode(png: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png)), formats=["PNG"]))


def test_an_answer_comes_with_the_explanation_that_the_predictor_gives(client, predictor, image):
    reply = ask(client, {"image": image, "text": TEXT}, maps="numbers").json()["predictions"][0]
    expected, found = predictor.explain(image, TEXT, max_maps=6), reply["explanation"]
    assert found["answer"] == reply["answers"][0]["label"] == expected.answer
    assert found["probability"] == pytest.approx(expected.probability, abs=1e-4)
    assert (found["method"], found["sentence"]) == (expected.method, expected.sentence)
    assert [word["word"] for word in found["words"]] == expected.words
    assert [word["effect"] for word in found["words"]] == pytest.approx(expected.effects.tolist(), abs=1e-4)
    assert np.allclose(found["map"], expected.evidence, rtol=1e-2, atol=1e-3 * expected.most)
    with_map = [number for number, word in enumerate(found["words"]) if "map" in word]
    assert with_map == sorted(expected.word_evidence)
    if expected.region is not None:
        assert found["region"]["share"] == pytest.approx(expected.region.share)
        assert found["region"]["hidden"] == pytest.approx(expected.region.hidden, abs=1e-4)
        assert found["region"]["matters"] == expected.region.matters


def test_maps_are_transparent_pictures_of_the_shape_of_the_picture(client, predictor, image):
    found = ask(client, {"image": image, "text": TEXT}).json()["predictions"][0]["explanation"]
    layer, expected = decode(found["map"]), predictor.explain(image, TEXT, max_maps=6)
    assert layer.shape == (224, 448, 4)
    assert np.abs(layer.astype(int) - np.asarray(expected.layer(None, (448, 224))).astype(int)).mean() < 1
    for word, number in zip(found["words"], range(len(found["words"])), strict=True):
        assert ("map" in word) == (number in expected.word_evidence)


def test_a_form_is_explained_too(client, image):
    form = {"text": [TEXT, "how many shapes are there?"], "explain": "true", "maps": "numbers", "top_k": 1}
    found = client.post("/v1/predict", files={"image": image}, data=form).json()["predictions"]
    assert [len(one["answers"]) for one in found] == [1, 1]
    assert all(len(one["explanation"]["map"]) > 1 for one in found)


def test_a_text_alone_has_words_and_a_picture_alone_has_a_map(client, image):
    text, picture = (one["explanation"] for one in ask(client, {"text": TEXT}, {"image": image}).json()["predictions"])
    assert len(text["words"]) >= 5
    assert (text["sentence"], "map" in text, "region" in text) == ("", False, False)
    assert picture["words"] == []
    assert picture["sentence"]
    assert decode(picture["map"]).shape[2] == 4


def test_without_explain_there_is_no_explanation(client, image):
    for options in ({}, {"explain": False}):
        reply = client.post("/v1/predict", json={"inputs": [{"text": TEXT}]} | options)
        assert "explanation" not in reply.json()["predictions"][0]


def test_an_invalid_pair_has_its_error_and_the_others_their_own_explanation(client, image):
    pairs = {"text": "is there a red square?"}, {"image": b"no"}, {"text": TEXT}
    found = ask(client, *pairs).json()["predictions"]
    assert found[1]["error"]["code"] == "unreadable_image"
    assert "explanation" not in found[1]
    assert [len(found[i]["explanation"]["words"]) for i in (0, 2)] == [6, 6]
    assert found[0]["explanation"]["words"][0]["word"] == "is"
    assert found[2]["explanation"]["words"][0]["word"] == "what"


@pytest.mark.parametrize("way", ["json", "form"])
def test_explanations_of_too_many_pairs_are_refused_with_one_message(client, way):
    texts = [TEXT] * (MAX_EXPLAINED + 1)
    if way == "json":
        reply = ask(client, *({"text": text} for text in texts))
    else:
        reply = client.post("/v1/predict", files={"text": (None, TEXT)}, data={"text": texts, "explain": "true"})
    assert reply.status_code == 422
    assert reply.json()["error"]["code"] == "invalid_request"
    assert f"{MAX_EXPLAINED}" in reply.json()["error"]["message"]
    assert ask(client, *({"text": text} for text in texts), explain=False).status_code == 200


@pytest.mark.parametrize("options", [{"explain": "perhaps"}, {"maps": "jpeg"}])
def test_invalid_options_are_refused(client, options):
    reply = ask(client, {"text": TEXT}, **options)
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "invalid_request")
    assert next(iter(options)) in reply.json()["error"]["message"]


def test_answers_do_not_wait_for_an_explanation(served, monkeypatch):
    client, engine = served

    def slow(*_arguments):
        time.sleep(2)
        return []

    monkeypatch.setattr("app.serving.api.explain_all", slow)
    with ThreadPoolExecutor() as pool:
        explained = pool.submit(ask, client, {"text": TEXT})
        time.sleep(0.5)
        assert engine.waiting == 1, "it has its place in the queue until it ends"
        assert ask(client, {"text": TEXT}, explain=False).status_code == 200
        assert not explained.done()
        assert explained.result().status_code == 200
    assert engine.waiting == 0


def test_an_explanation_that_takes_too_long_gets_504_and_one_that_has_not_begun_is_dropped(served, monkeypatch):
    client, engine = served
    begun = []

    def slow(*_arguments):
        begun.append(1)
        time.sleep(2)
        return []

    monkeypatch.setattr("app.serving.api.explain_all", slow)
    monkeypatch.setattr(engine, "timeout", 1)
    with ThreadPoolExecutor() as pool:
        replies = list(pool.map(lambda _: ask(client, {"text": TEXT}), range(3)))
    assert [reply.status_code for reply in replies] == [504] * 3
    assert {reply.json()["error"]["code"] for reply in replies} == {"timeout"}
    time.sleep(1.5)
    assert len(begun) == 1
    assert engine.waiting == 0


def test_a_failed_explanation_is_an_error_without_a_stack_trace(served, monkeypatch):
    client, engine = served

    def fail(*_arguments):
        raise RuntimeError("no evidence")

    monkeypatch.setattr("app.serving.api.explain_all", fail)
    reply = ask(client, {"text": TEXT})
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "model_failed")
    assert "no evidence" not in reply.text
    assert engine.waiting == 0


def test_the_description_of_the_api_has_the_options_and_the_explanation(client):
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    for body in ("PredictRequest", "PredictForm"):
        assert schemas[body]["properties"]["maps"]["enum"] == ["png", "numbers"]
        assert str(MAX_EXPLAINED) in schemas[body]["properties"]["explain"]["description"]
    assert {"words", "sentence", "map", "region", "method"} <= set(schemas["ExplanationReply"]["properties"])
