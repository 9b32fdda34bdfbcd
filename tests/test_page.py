"""The page: in a browser and through gradio_client."""

import asyncio
import re
import shlex
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import datasets
import gradio_client
import httpx
import pytest
from browser import browser, contrast
from gradio_client import handle_file
from hostile import PNG, encode, png_of_size
from live import live
from PIL import Image
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from app.serving.engine import Engine
from app.serving.server import ServeSettings, build_app
from app.serving.ui.answer_view import answer_question
from app.serving.ui.code_tab import code_examples
from app.serving.ui.example_rows import held_out_examples
from app.serving.ui.page_input import NO_ADDRESS, NOT_UPLOADED
from data.contexts import ContextCell
from data.errors import UserError

SETTINGS = ServeSettings(precision="no")
LAYERS = (By.CSS_SELECTOR, ".evidence .layer")


@pytest.fixture(scope="module")
def served(predictor, run_dir):
    """The address of one server for all tests, and its engine."""
    app, engine = build_app(predictor, run_dir, SETTINGS)
    with live(app) as address:
        yield address, engine


@pytest.fixture(scope="module")
def address(served):
    return served[0]


@pytest.fixture(scope="module")
def client(address):
    return gradio_client.Client(address, verbose=False)


@pytest.fixture(scope="module")
def chrome():
    """One browser window for tests that open the page anew."""
    with browser(1000) as chrome:
        yield chrome


def wait_for(chrome, condition):
    return WebDriverWait(chrome, 30).until(condition)


def find(chrome, selector):
    return wait_for(chrome, shown(selector))


def open_page(chrome, address):
    chrome.get(address)
    find(chrome, "#ask")
    find(chrome, "#examples button img")


def press(chrome, selector, shows):
    """Click until the condition holds: the first clicks are lost if gradio has not bound its events yet."""

    def try_once(chrome):
        find(chrome, selector).click()
        return WebDriverWait(chrome, 5).until(shows)

    return WebDriverWait(chrome, 30, ignored_exceptions=[TimeoutException]).until(try_once)


def shown(selector):
    """Condition: an element is visible."""
    return lambda c: next((e for e in c.find_elements(By.CSS_SELECTOR, selector) if e.is_displayed()), None)


def ask_example(chrome, address):
    """Select an example and ask it."""
    open_page(chrome, address)
    press(chrome, "#examples button img", lambda c: find(c, "#text textarea").get_attribute("value"))
    return press(chrome, "#ask", shown(".answer .best"))


def open_layers(chrome) -> list[str]:
    """Numbers of the words whose layers are visible; -1 is the answer."""
    return [one.get_attribute("data-word") for one in chrome.find_elements(*LAYERS) if one.is_displayed()]


def errors(chrome) -> list[str]:
    return [entry["message"] for entry in chrome.get_log("browser") if entry["level"] == "SEVERE"]


def evidence_words(chrome, has_layer: bool):
    """The buttons of the words that have a layer, or of those that have none."""
    find(chrome, ".evidence .word")
    layers = {one.get_attribute("data-word") for one in chrome.find_elements(*LAYERS)}
    words = chrome.find_elements(By.CSS_SELECTOR, ".evidence .word")
    return [word for word in words if (word.get_attribute("data-word") in layers) == has_layer]


@pytest.fixture
def every_word_matters(monkeypatch):
    """The untrained model's words change little: those that do most have a map nevertheless."""
    monkeypatch.setattr("app.explanation.attribution.MATTERS", 0.0)


@pytest.mark.parametrize(("width", "dark"), [(1440, False), (390, True)])
def test_an_example_is_explained_and_the_layer_follows_the_word(address, every_word_matters, width, dark):
    with browser(width, dark) as chrome:
        answer = ask_example(chrome, address)
        assert answer.text
        words = evidence_words(chrome, has_layer=True)
        assert 1 < len(words) <= 7
        assert words[0].text == "the answer"
        assert open_layers(chrome) == ["-1"]
        assert chrome.find_element(By.CSS_SELECTOR, ".evidence .sentence").text.endswith(".")
        assert "speaks for" in chrome.find_element(By.CSS_SELECTOR, ".evidence .legend").text
        ActionChains(chrome).move_to_element(words[1]).perform()
        assert open_layers(chrome) == [words[1].get_attribute("data-word")]
        assert "points" in chrome.find_element(By.CSS_SELECTOR, "[data-status]").text
        chrome.execute_script("arguments[0].focus()", words[0])
        assert open_layers(chrome) == ["-1"]
        words[0].send_keys(Keys.TAB)  # by keyboard
        pressed = find(chrome, ".evidence .word[aria-pressed=true]")
        assert pressed.get_attribute("data-word") == "0"
        assert pressed.text.split()[-1] == "0" or pressed.text.split()[-1][0] in "+−", "its effect in points"
        chrome.execute_script(
            "const one = document.querySelector('[data-control=opacity]'); one.value = 0;"
            "one.dispatchEvent(new Event('input', {bubbles: true}))"
        )
        assert chrome.find_element(By.CSS_SELECTOR, ".evidence .over").value_of_css_property("opacity") == "0"
        stage = chrome.find_element(By.CSS_SELECTOR, ".evidence .stage")
        assert stage.size["width"] > 400 or width < 400, "a picture of 64 pixels is shown large"
        wide = chrome.execute_script("return document.documentElement.scrollWidth")
        assert wide <= width + 8, "nothing is wider than the window"
        body = chrome.find_element(By.TAG_NAME, "body")
        assert contrast(answer.value_of_css_property("color"), body.value_of_css_property("background-color")) > 4.5
        assert errors(chrome) == []


def test_a_word_without_a_map_shows_the_plain_picture_and_says_so(chrome, address, monkeypatch):
    monkeypatch.setattr("app.explanation.attribution.MATTERS", 2.0)
    ask_example(chrome, address)
    words = evidence_words(chrome, has_layer=False)
    assert all("faint" in word.get_attribute("class") for word in words)
    ActionChains(chrome).move_to_element(words[0]).perform()
    assert not chrome.find_element(By.CSS_SELECTOR, ".evidence .over").is_displayed()
    assert "no map" in chrome.find_element(By.CSS_SELECTOR, "[data-status]").text


def test_a_region_is_hidden_with_the_brush_and_both_answers_are_shown(chrome, address):
    ask_example(chrome, address)
    canvas = find(chrome, "#editor canvas")
    assert "Nothing is painted" in press(chrome, "#hide", shown(".toast-body")).text
    chrome.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    brush = ActionChains(chrome).move_to_element_with_offset(canvas, -80, -80).click_and_hold()
    for x, y in ((160, 160), (0, -160), (-160, 160)):  # over all four corners: there is a shape in one of them
        brush.move_by_offset(x, y)
    brush.release().perform()
    compared = press(chrome, "#hide", shown(".compared"))
    sentence = compared.find_element(By.CSS_SELECTOR, ".sentence").text
    assert re.search(r"painted region \(\d+% of the picture\) “.+” (falls|rises|stays)", sentence)
    sides = compared.find_elements(By.CSS_SELECTOR, ".pair > div")
    assert len(sides) == 2
    assert all(len(side.find_elements(By.CSS_SELECTOR, ".bars li")) == 3 for side in sides)
    pictures = [side.find_element(By.TAG_NAME, "img").get_attribute("src") for side in sides]
    assert pictures[0] != pictures[1]
    assert errors(chrome) == []


def test_every_example_shows_its_own_question(chrome, address, run_dir):
    open_page(chrome, address)
    captions = [one.text for one in chrome.find_elements(By.CSS_SELECTOR, "#examples .caption-label")]
    assert captions == [text for _, text in held_out_examples(run_dir)]
    for one in chrome.find_elements(By.CSS_SELECTOR, "#examples .thumbnail-item"):
        picture, caption = one.find_element(By.TAG_NAME, "img"), one.find_element(By.CSS_SELECTOR, ".caption-label")
        assert caption.rect["y"] >= picture.rect["y"] + picture.rect["height"] - 1, "below the picture, not over it"
        assert caption.rect["y"] + caption.rect["height"] <= one.rect["y"] + one.rect["height"] + 1, "not cut off"


def test_a_text_without_a_picture_is_answered_and_its_words_have_effects(chrome, address):
    open_page(chrome, address)
    find(chrome, "#text textarea").send_keys("is there a red circle?")
    assert "without a picture" in press(chrome, "#ask", shown(".answer")).text
    words = evidence_words(chrome, has_layer=False)
    assert [word.text.split()[0] for word in words] == ["is", "there", "a", "red", "circle", "?"]
    assert not chrome.find_elements(By.CSS_SELECTOR, ".evidence .stage")
    assert not shown("#hiding")(chrome)


def test_an_empty_question_gets_an_error_message(chrome, address):
    open_page(chrome, address)
    assert "image" in press(chrome, "#ask", shown(".toast-body")).text


def test_markup_in_a_text_stays_text(chrome, address):
    open_page(chrome, address)
    find(chrome, "#text textarea").send_keys("<img src=x onerror=\"document.title='owned'\"> red?")
    press(chrome, "#ask", shown(".answer .best"))
    assert chrome.title != "owned"


def tab(chrome, name):
    next(b for b in chrome.find_elements(By.CSS_SELECTOR, "button[role=tab]") if b.text == name).click()


def test_every_tab_works(address, shapes_folder):
    with browser(1440) as chrome:
        ask_example(chrome, address)
        tab(chrome, "Batch")
        chrome.find_element(By.CSS_SELECTOR, "#rows input[type=file]").send_keys(str(shapes_folder / "test.csv"))
        find(chrome, "#rows .file-preview")
        find(chrome, "#start").click()
        assert "0 of" in find(chrome, "#summary p").text, "a table alone has no pictures"
        assert find(chrome, "#answers a").get_attribute("href")
        tab(chrome, "Evaluation")
        assert "held-out rows" in find(chrome, "iframe.report").get_attribute("srcdoc")
        tab(chrome, "Training")
        assert find(chrome, "#curves img").get_attribute("src")
        tab(chrome, "Code")
        assert wait_for(chrome, lambda c: "/v1/predict" in find(c, ".cm-content").text)
        assert errors(chrome) == []


def test_programs_can_ask_the_page(client):
    answer, *_ = client.predict(None, "is there a red circle?", api_name="/ask")
    assert 'class="best"' in answer


def paint(client, shapes_folder, layer: Image.Image | bytes | None, suffix: str = ".png"):
    """Ask about a picture, and again without what a layer covers."""
    client.predict(handle_file(shapes_folder / "images/test/0.png"), "what color is the circle?", api_name="/ask")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"layer{suffix}"
        file.write_bytes(layer if isinstance(layer, bytes) else encode(layer, "PNG") if layer else b"")
        layers = [handle_file(file)] if layer else []
        value = {"background": None, "layers": layers, "composite": None}
        return client.predict(value, api_name="/hide_and_ask")


def test_programs_can_hide_a_region_too(client, shapes_folder):
    layer = Image.new("RGBA", (560, 560))
    layer.paste((0, 0, 0, 255), (0, 0, 280, 140))
    assert "(12% of the picture)" in paint(client, shapes_folder, layer)
    with pytest.raises(gradio_client.exceptions.AppError, match="Nothing is painted"):
        paint(client, shapes_folder, Image.new("RGBA", (560, 560)))
    with pytest.raises(gradio_client.exceptions.AppError, match="Nothing is painted"):
        paint(client, shapes_folder, None)


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


def test_the_page_limits_the_length_of_a_text(client):
    with pytest.raises(gradio_client.exceptions.AppError, match=r"20,001 characters"):
        client.predict(None, "x" * 20_001, api_name="/ask")


def test_concurrent_questions_and_requests_are_all_answered(served):
    address, engine = served
    with ThreadPoolExecutor(8) as people:
        clients = [gradio_client.Client(address, verbose=False) for _ in range(6)]
        waiting = [people.submit(c.predict, None, f"question {i}?", api_name="/ask") for i, c in enumerate(clients)]
        assert httpx.post(f"{address}/v1/predict", data={"text": "x"}, files={"image": PNG}).status_code == 200
        assert all('class="best"' in one.result(30)[0] for one in waiting)
    assert engine.waiting == 0


def test_the_key_is_the_password_of_the_page(predictor, run_dir):
    with live(build_app(predictor, run_dir, SETTINGS, "secret")[0]) as address:
        with pytest.raises(Exception, match=r"[Ll]ogin|auth|401"):
            gradio_client.Client(address, verbose=False).predict(None, "x", api_name="/ask")
        client = gradio_client.Client(address, auth=("anyone", "secret"), verbose=False)
        assert 'class="best"' in client.predict(None, "x", api_name="/ask")[0]


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


def test_unknown_paths_of_the_api_get_its_errors_with_the_page_too(address):
    assert httpx.get(f"{address}/v1/nothing").json()["error"]["code"] == "http_error"
    reply = httpx.get(f"{address}/v1/predict")
    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")


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
