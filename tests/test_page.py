"""The page in a real browser, and to programs that speak gradio."""

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

from app.serving.server import ServeSettings, build_app
from app.serving.ui.ask_tab import held_out_examples
from app.serving.ui.code_tab import code_lines

SETTINGS = ServeSettings(precision="no")


@pytest.fixture(scope="module")
def address(run_dir):
    with live(build_app(str(run_dir), SETTINGS)[0]) as address:
        yield address


def wait_for(chrome, condition):
    return WebDriverWait(chrome, 30).until(condition)


def find(chrome, selector):
    return wait_for(chrome, shown(selector))


def open_page(chrome, address):
    chrome.get(address)
    find(chrome, "#ask")
    find(chrome, "#examples button img")


def press(chrome, selector, shows):
    """What is shown once it is pressed; again if nothing comes of it, as before gradio has bound its events."""

    def try_once(chrome):
        find(chrome, selector).click()
        return WebDriverWait(chrome, 5).until(shows)

    return WebDriverWait(chrome, 30, ignored_exceptions=[TimeoutException]).until(try_once)


def shown(selector):
    """A condition: something of that kind is seen."""
    return lambda c: next((e for e in c.find_elements(By.CSS_SELECTOR, selector) if e.is_displayed()), None)


def ask_example(chrome, address):
    """Take an example and ask it."""
    open_page(chrome, address)
    press(chrome, "#examples button img", lambda c: find(c, "#text textarea").get_attribute("value"))
    return press(chrome, "#ask", shown(".answer .best"))


def heat(chrome) -> str:
    return chrome.execute_script("return document.querySelector('.looked canvas').toDataURL()")


def errors(chrome) -> list[str]:
    return [entry["message"] for entry in chrome.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.mark.parametrize(("width", "dark"), [(1440, False), (390, True)])
def test_an_example_is_asked_and_the_heat_follows_the_word(address, width, dark):
    with browser(width, dark) as chrome:
        answer = ask_example(chrome, address)
        assert answer.text
        words = chrome.find_elements(By.CSS_SELECTOR, ".looked .word")
        assert len(words) > 2
        of_answer = heat(chrome)
        words[0].send_keys(Keys.TAB)  # the keyboard alone
        pressed = find(chrome, ".looked .word[aria-pressed=true]")
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
        assert chrome.find_element(By.CSS_SELECTOR, ".looked canvas").value_of_css_property("opacity") == "0.2"
        wide = chrome.execute_script("return document.documentElement.scrollWidth")
        assert wide <= width + 8, "nothing is wider than the screen"
        body = chrome.find_element(By.TAG_NAME, "body")
        assert contrast(answer.value_of_css_property("color"), body.value_of_css_property("background-color")) > 4.5
        assert errors(chrome) == []


def test_a_text_alone_is_answered_and_said_so(address):
    with browser(1000) as chrome:
        open_page(chrome, address)
        find(chrome, "#text textarea").send_keys("is there a red circle?")
        assert "without a picture" in press(chrome, "#ask", shown(".answer")).text
        assert not chrome.find_elements(By.CSS_SELECTOR, ".looked")


def test_nothing_to_ask_is_told_in_words(address):
    with browser(1000) as chrome:
        open_page(chrome, address)
        assert "Give an image, a text or both" in press(chrome, "#ask", shown(".toast-body")).text


def test_markup_in_a_text_stays_text(address):
    with browser(1000) as chrome:
        open_page(chrome, address)
        find(chrome, "#text textarea").send_keys("<img src=x onerror=\"document.title='owned'\"> red?")
        press(chrome, "#ask", shown(".answer .best"))
        assert chrome.title != "owned"


def tab(chrome, name):
    next(b for b in chrome.find_elements(By.CSS_SELECTOR, "button[role=tab]") if b.text == name).click()


def test_every_tab_shows_what_it_promises(address, shapes_folder):
    with browser(1440) as chrome:
        ask_example(chrome, address)
        tab(chrome, "Batch")
        chrome.find_element(By.CSS_SELECTOR, "#rows input[type=file]").send_keys(str(shapes_folder / "test.csv"))
        find(chrome, "#rows .file-preview")
        find(chrome, "#start").click()
        told = find(chrome, "#told p").text
        assert "0 of" in told, "a table alone brings no pictures"
        assert find(chrome, "#answers a").get_attribute("href")
        tab(chrome, "Evaluation")
        assert "held-out rows" in find(chrome, "iframe.report").get_attribute("srcdoc")
        tab(chrome, "Training")
        assert find(chrome, "#curves img").get_attribute("src")
        tab(chrome, "Code")
        assert wait_for(chrome, lambda c: "/v1/predict" in find(c, ".cm-content").text)
        assert errors(chrome) == []


def test_programs_may_ask_the_page_too(address):
    client = gradio_client.Client(address, verbose=False)
    answer, *_ = client.predict(None, "is there a red circle?", api_name="/ask")
    assert 'class="best"' in answer


def test_a_text_beyond_the_limit_is_refused_here_too(address):
    with pytest.raises(Exception, match=r"20,001 characters; 20,000 are allowed"):
        gradio_client.Client(address, verbose=False).predict(None, "x" * 20_001, api_name="/ask")


def test_people_who_ask_at_once_are_answered_in_batches_and_the_api_meanwhile(run_dir):
    app, engine = build_app(str(run_dir), SETTINGS)
    with live(app) as address, ThreadPoolExecutor(8) as people:
        clients = [gradio_client.Client(address, verbose=False) for _ in range(6)]
        waiting = [people.submit(c.predict, None, f"question {i}?", api_name="/ask") for i, c in enumerate(clients)]
        assert httpx.post(f"{address}/v1/predict", data={"text": "x"}, files={"image": PNG}).status_code == 200
        assert all('class="best"' in one.result(30)[0] for one in waiting)
    assert engine.waiting == 0


def test_with_a_key_the_page_wants_it_as_password(run_dir):
    with live(build_app(str(run_dir), SETTINGS, api_key="secret")[0]) as address:
        with pytest.raises(Exception, match=r"[Ll]ogin|auth|401"):
            gradio_client.Client(address, verbose=False).predict(None, "x", api_name="/ask")
        client = gradio_client.Client(address, auth=("anyone", "secret"), verbose=False)
        assert 'class="best"' in client.predict(None, "x", api_name="/ask")[0]


@pytest.mark.parametrize("name", ["ask", "answer_rows"])
def test_a_file_of_the_server_is_not_taken_for_an_upload(address, tmp_path, name):
    """Neither a picture nor a table that the server could read; nor as an SVG."""
    (tmp_path / "picture.png").write_bytes(PNG)
    (tmp_path / "rows.csv").write_text("text\nprivate words\n")
    file = tmp_path / {"ask": "picture.png", "answer_rows": "rows.csv"}[name]
    meta, other = {"meta": {"_type": "gradio.FileData"}}, {"meta": {"_type": "other"}}
    url = {"url": f"{address}/gradio_api/file={file}"}
    for more in (meta, {**meta, "orig_name": "a.svg"}, {**meta, **url}, {}, {"meta": {}}, other, url):
        payload = {"path": str(file), **more}
        data = [payload, "x", None] if name == "ask" else [payload]
        reply = httpx.post(f"{address}/gradio_api/run/{name}", json={"data": data}, timeout=30)
        assert (reply.status_code, reply.json()["error"]) == (500, "This file was not uploaded; upload it first.")
        assert "private words" not in reply.text
        assert "data:image" not in reply.text


def test_the_page_serves_no_file_and_fetches_no_address(address):
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
            assert reply.json()["error"] == "No address is fetched: upload the file."
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


def test_no_request_leaves_a_traceback_or_gets_an_answer_without_words(address, capfd):
    for method, path, body in REQUESTS:
        reply = httpx.request(method, f"{address}/gradio_api{path}", json=body, timeout=30)
        if path.startswith("/call") and reply.status_code == 200 and method == "POST":
            reply = httpx.get(f"{address}/gradio_api{path}/{reply.json()['event_id']}", timeout=30)
        assert reply.status_code != 500 or reply.json()["error"], (path, body)
        assert "Internal Server Error" not in reply.text
    logged = capfd.readouterr()
    assert "Traceback" not in logged.out + logged.err


@pytest.mark.parametrize("event", [None, {}, {"index": "x"}, {"index": -1}, {"index": 99}, [1]])
def test_an_example_that_is_not_there_is_told_in_words(address, event, capfd):
    take = next(one["id"] for one in httpx.get(f"{address}/config").json()["dependencies"] if one["api_name"] == "take")
    asked = {"data": [], "fn_index": take, "event_data": event, "session_hash": "taker"}
    assert httpx.post(f"{address}/gradio_api/queue/join", json=asked).status_code == 200
    with httpx.stream("GET", f"{address}/gradio_api/queue/data?session_hash=taker", timeout=30) as messages:
        assert "There is no such example" in "".join(messages.iter_text())
    assert "Traceback" not in capfd.readouterr().err


def test_what_no_page_is_for_is_told_in_the_form_of_the_api_with_the_page_on_too(address):
    assert httpx.get(f"{address}/v1/nothing").json()["error"]["code"] == "http_error"
    reply = httpx.get(f"{address}/v1/predict")
    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")
    assert reply.json()["error"]["message"] == "Ask /v1/predict with POST."


@pytest.mark.parametrize("name", ["broken.png", "b" * 100 + ".png"])
def test_a_picture_that_cannot_be_read_is_told_of_without_its_place_on_the_server(address, tmp_path, name):
    broken = tmp_path / name
    broken.write_bytes(b"no picture")
    with pytest.raises(Exception, match="The image cannot be read: not a readable JPEG"):
        gradio_client.Client(address, verbose=False).predict(handle_file(broken), "x", api_name="/ask")


def test_a_table_beyond_the_limit_is_refused_and_nothing_of_it_is_kept(address, tmp_path, monkeypatch):
    monkeypatch.setattr("app.serving.ui.table_tab.MAX_ROWS", 3)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    table = tmp_path / "rows.csv"
    table.write_text("text\n" + "a private word\n" * 4)
    client = gradio_client.Client(address, verbose=False)
    with pytest.raises(Exception, match="The table has 4 rows; 3 are allowed"):
        client.predict(handle_file(table), api_name="/answer_rows")
    table.write_text("text\n" + "another private word\n" * 3)
    assert "3 of 3 rows answered" in client.predict(handle_file(table), api_name="/answer_rows")[0]
    kept = [file for file in Path(datasets.config.HF_DATASETS_CACHE).rglob("*.arrow") if file.stat().st_size]
    assert not any(b"private word" in file.read_bytes() for file in kept)


def test_examples_are_rows_with_both_and_none_where_the_data_is_gone(run_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("data.images.decode_image.__defaults__", (10,))  # what the run allows is allowed here
    examples = held_out_examples(run_dir)
    assert len(examples) == 6
    assert all(text for _, text in examples)
    config = (run_dir / "config.yaml").read_text().replace("test.csv", "gone.csv")
    (tmp_path / "config.yaml").write_text(config)
    assert held_out_examples(tmp_path) == []
    assert "no examples" in capsys.readouterr().out


def test_lines_of_code_quote_what_was_typed(tmp_path):
    for text in ('what\'s "this"?', "@/etc/passwd;type=x", "null"):
        shell, remote, local = code_lines("/tmp/it's.png", text, "http://x", tmp_path, has_key=True)
        assert shlex.split(shell) == [
            *("curl", "-H", "Authorization: Bearer $API_KEY", "-F", 'image=@"it\'s.png"'),
            *("--form-string", f"text={text}", "http://x/v1/predict"),
        ]
        compile(remote, "remote", "exec")
        assert "Authorization" in remote
        compile(local, "local", "exec")
        assert repr(text) in local
    assert "predictor(None, " in code_lines(None, "x", "http://x", tmp_path, has_key=False)[2]
