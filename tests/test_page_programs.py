"""The page as programs ask it, through gradio_client, and the programs that it shows."""

import re
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gradio_client
import httpx
import pytest
from api_client import PAGE_SETTINGS
from gradio_client import handle_file
from hostile import PNG
from live import live
from page_client import paint
from PIL import Image

from app.serving.server import build_app
from app.serving.ui.code_tab import code_examples
from app.serving.ui.example_rows import held_out_examples


@pytest.fixture(scope="module")
def client(address):
    return gradio_client.Client(address, verbose=False)


def test_programs_can_ask_the_page(client):
    answer, *_ = client.predict(None, "is there a red circle?", api_name="/ask")
    assert 'class="best"' in answer


def test_programs_can_hide_a_region_too(client, shapes_folder):
    layer = Image.new("RGBA", (560, 560))
    layer.paste((0, 0, 0, 255), (0, 0, 280, 140))
    assert "(12% of the picture)" in paint(client, shapes_folder, layer)
    with pytest.raises(gradio_client.exceptions.AppError, match="Nothing is painted"):
        paint(client, shapes_folder, Image.new("RGBA", (560, 560)))
    with pytest.raises(gradio_client.exceptions.AppError, match="Nothing is painted"):
        paint(client, shapes_folder, None)


def test_a_failed_explanation_leaves_the_answer(client, shapes_folder, monkeypatch):
    def fail(*_arguments):
        raise RuntimeError("no evidence")

    monkeypatch.setattr("app.serving.ui.evidence_view.explain_example", fail)
    answer, *_, evidence = client.predict(
        handle_file(shapes_folder / "images/test/0.png"), "what color is it?", api_name="/ask"
    )
    assert 'class="best"' in answer
    assert "could not be explained" in evidence
    assert "no evidence" not in evidence


def test_a_long_text_has_numbers_at_the_words_that_matter_only(client, monkeypatch):
    *_, evidence = client.predict(None, "red circle " * 30, api_name="/ask")
    words = re.findall(r'<button[^>]*data-word="\d+".*?</button>', evidence)
    assert len(words) == 60
    assert [word for word in words if "points" in word] == words, "each has its note"
    assert all(("<small>" in word) != (" text" in word.split("style")[0]) for word in words)
    monkeypatch.setattr("app.serving.ui.evidence_view.MATTERS", 2.0)
    *_, evidence = client.predict(None, "red circle " * 30, api_name="/ask")
    assert "<small>" not in evidence


def test_concurrent_questions_and_requests_are_all_answered(served):
    address, engine = served
    with ThreadPoolExecutor(8) as people:
        clients = [gradio_client.Client(address, verbose=False) for _ in range(6)]
        waiting = [people.submit(c.predict, None, f"question {i}?", api_name="/ask") for i, c in enumerate(clients)]
        assert httpx.post(f"{address}/v1/predict", data={"text": "x"}, files={"image": PNG}).status_code == 200
        assert all('class="best"' in one.result(30)[0] for one in waiting)
    assert engine.waiting == 0


def test_the_key_is_the_password_of_the_page(predictor, run_dir):
    with live(build_app(predictor, run_dir, PAGE_SETTINGS, "secret")[0]) as address:
        with pytest.raises(Exception, match=r"[Ll]ogin|auth|401"):
            gradio_client.Client(address, verbose=False).predict(None, "x", api_name="/ask")
        client = gradio_client.Client(address, auth=("anyone", "secret"), verbose=False)
        assert 'class="best"' in client.predict(None, "x", api_name="/ask")[0]


def test_unknown_paths_of_the_api_get_its_errors_with_the_page_too(address):
    assert httpx.get(f"{address}/v1/nothing").json()["error"]["code"] == "http_error"
    reply = httpx.get(f"{address}/v1/predict")
    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")


def test_examples_have_image_and_text_and_are_empty_without_the_data(run_dir, tmp_path):
    examples = held_out_examples(run_dir)
    assert len(examples) == 6
    assert all(Path(path).is_file() and text for path, text in examples)
    config = (run_dir / "config.yaml").read_text().replace("test.csv", "gone.csv")
    (tmp_path / "config.yaml").write_text(config)
    assert held_out_examples(tmp_path) == []
    (tmp_path / "config.yaml").write_text("data:\n  setting_of_a_later_version: 1\n")
    assert held_out_examples(tmp_path) == [], "the server starts all the same"


@pytest.mark.parametrize("text", ['what\'s "this"?', "@/etc/passwd;type=x", "null"])
def test_code_examples_quote_the_text(tmp_path, text):
    shell, remote, local = code_examples("/tmp/it's.png", text, "http://x", tmp_path, has_key=True)
    assert shlex.split(shell) == [
        *("curl", "-H", "Authorization: Bearer $API_KEY", "-F", 'image=@"it\'s.png"'),
        *("--form-string", f"text={text}", "http://x/v1/predict"),
    ]
    compile(remote, "remote", "exec")
    assert "Authorization" in remote
    compile(local, "local", "exec")
    assert repr(text) in local


@pytest.mark.parametrize(("path", "text"), [("picture.png", "red?"), ("picture.png", ""), (None, "red?")])
def test_the_python_example_sends_what_the_api_accepts(address, tmp_path, monkeypatch, capsys, path, text):
    """As a form also without a picture."""
    (tmp_path / "picture.png").write_bytes(PNG)
    monkeypatch.chdir(tmp_path)
    _, remote, local = code_examples(path, text, address, tmp_path, has_key=False)
    exec(compile(remote, "remote", "exec"), {})
    assert "labels" in capsys.readouterr().out
    assert f"predictor({path!r}, {text or None!r})" in local
