"""The page in a browser."""

import re

import pytest
from browser import browser, contrast
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from app.serving.ui.example_rows import held_out_examples

LAYERS = (By.CSS_SELECTOR, ".evidence .layer")


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
