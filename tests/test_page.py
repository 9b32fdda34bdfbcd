"""The page: in a browser and through gradio_client."""

import shlex
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
from hostile import PNG
from live import live
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from app.serving.server import ServeSettings, build_app, load_predictor
from app.serving.ui.code_tab import code_examples
from app.serving.ui.example_rows import held_out_examples
from app.serving.ui.page_input import NO_ADDRESS, NOT_UPLOADED

SETTINGS = ServeSettings(precision="no")


@pytest.fixture(scope="module")
def predictor(run_dir):
    return load_predictor(str(run_dir), SETTINGS)


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


def heat(chrome) -> str:
    return chrome.execute_script("return document.querySelector('.heat-map canvas').toDataURL()")


def errors(chrome) -> list[str]:
    return [entry["message"] for entry in chrome.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.mark.parametrize(("width", "dark"), [(1440, False), (390, True)])
def test_an_example_is_answered_and_the_heat_map_follows_the_word(address, width, dark):
    with browser(width, dark) as chrome:
        answer = ask_example(chrome, address)
        assert answer.text
        words = chrome.find_elements(By.CSS_SELECTOR, ".heat-map .word")
        assert len(words) > 2
        of_answer = heat(chrome)
        words[0].send_keys(Keys.TAB)  # by keyboard
        pressed = find(chrome, ".heat-map .word[aria-pressed=true]")
        assert pressed.text == words[1].text
        assert heat(chrome) != of_answer
        chrome.execute_script(
            "const one = document.querySelector('[data-control=of]'); one.value = 'attention';"
            "one.dispatchEvent(new Event('input', {bubbles: true}))"
        )
        attention = heat(chrome)
        chrome.execute_script(
            "const one = document.querySelector('[data-control=head]'); one.value = '1';"
            "one.dispatchEvent(new Event('input', {bubbles: true}))"
        )
        assert heat(chrome) != attention
        chrome.execute_script(
            "const one = document.querySelector('[data-control=opacity]'); one.value = 0.2;"
            "one.dispatchEvent(new Event('input', {bubbles: true}))"
        )
        assert chrome.find_element(By.CSS_SELECTOR, ".heat-map canvas").value_of_css_property("opacity") == "0.2"
        wide = chrome.execute_script("return document.documentElement.scrollWidth")
        assert wide <= width + 8, "nothing is wider than the window"
        body = chrome.find_element(By.TAG_NAME, "body")
        assert contrast(answer.value_of_css_property("color"), body.value_of_css_property("background-color")) > 4.5
        assert errors(chrome) == []


def test_a_text_without_a_picture_is_answered(chrome, address):
    open_page(chrome, address)
    find(chrome, "#text textarea").send_keys("is there a red circle?")
    assert "without a picture" in press(chrome, "#ask", shown(".answer")).text
    assert not chrome.find_elements(By.CSS_SELECTOR, ".heat-map")


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
