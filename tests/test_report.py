"""report.html as a person sees it, in a real browser."""

import json
import re

import pytest
from browser import browser, contrast
from selenium.webdriver.common.by import By

import eval as evaluation
from app.report import describe_calibration


@pytest.fixture(scope="module")
def report(run_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    evaluation.main([str(run_dir), "--deletion", "2", "--pictures", "2", "--output_dir", str(folder)])
    return folder


def read(chrome, selector: str) -> list[str]:
    return [element.text for element in chrome.find_elements(By.CSS_SELECTOR, selector)]


@pytest.mark.parametrize(("width", "dark"), [(1440, False), (390, True)])
def test_the_report_shows_its_figures_and_pictures_at_any_width_in_light_and_dark(report, width, dark):
    figures = json.loads((report / "metrics.json").read_text())
    with browser(width, dark) as chrome:
        chrome.get((report / "report.html").as_uri())
        assert [entry["message"] for entry in chrome.get_log("browser")] == []
        assert read(chrome, ".headline b")[0] == f"{figures['scores']['image + text']['accuracy']['value']:.1%}"
        assert read(chrome, ".verdict") == [figures["inputs"]["verdict"]]
        assert len(read(chrome, "article")) == 2 * 4, "two rows in each gallery; an untrained model is seldom right"
        sizes = chrome.execute_script("return [...document.images].map(i => i.complete && i.naturalWidth)")
        assert len(sizes) == 3 * 8
        assert all(sizes), "every picture is drawn"
        assert len(chrome.find_elements(By.CSS_SELECTOR, "figure > svg")) == 5, "charts"
        page = chrome.execute_script("return document.documentElement.scrollWidth")
        assert page <= width, "nothing makes the page wider than the window"
        ink, paper = chrome.execute_script(
            "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"
        )
        assert contrast(ink, paper) > 7
        chart = chrome.find_element(By.CSS_SELECTOR, "figure > svg text")
        assert contrast(chart.value_of_css_property("fill"), paper) > 7, "charts take the ink of the page"


def test_the_report_can_be_read_aloud(report):
    with browser(1440) as chrome:
        chrome.get((report / "report.html").as_uri())
        html = chrome.find_element(By.TAG_NAME, "html")
        assert html.get_attribute("lang") == "en"
        assert read(chrome, "h1") == [str(chrome.title).removeprefix("Report: ")]
        unnamed = chrome.execute_script("return [...document.images].filter(i => !i.alt).length")
        assert unnamed == 0
        for table in chrome.find_elements(By.CSS_SELECTOR, "table thead"):
            heads = table.find_elements(By.TAG_NAME, "th")
            assert all(head.get_attribute("scope") == "col" for head in heads)
        sections = chrome.find_elements(By.TAG_NAME, "section")
        assert [section.accessible_name for section in sections] == [
            "How good are the answers?",
            "Does it use both inputs?",
            "Can its probabilities be believed?",
            "Which labels does it know?",
            "Where did it look?",
            "Do the heat-maps tell the truth?",
            "What did the model see?",
        ]


def test_the_report_needs_nothing_from_elsewhere_and_shows_texts_as_texts(run_dir, shapes_folder, tmp_path):
    rows = (shapes_folder / "test.csv").read_text().splitlines()
    evil = shapes_folder / "evil.csv"
    columns = rows[1].split(",")
    columns[rows[0].split(",").index("text")] = "<script>document.title='owned'</script>"
    evil.write_text("\n".join([rows[0], ",".join(columns), *rows[2:]]))
    options = ["--data.test", str(evil), "--output_dir", str(tmp_path), "--pictures", "1"]
    evaluation.main([str(run_dir), *options])
    page = (tmp_path / "report.html").read_text()
    assert "owned" in page
    assert "<script" not in page
    assert not re.search(r"""(src|href|url\()\s*=?\s*["']?(https?:)?//""", page)


@pytest.mark.parametrize(
    ("risk", "told"), [(None, "no answer is sure"), ({"value": 0.04}, "sure, from 80% on, of 50.0% of the rows, 4.0%")]
)
def test_how_sure_it_may_be_is_said_in_words(risk, told):
    figures = {"ece": {"before": 0.2, "after": 0.1}, "threshold": 0.8, "coverage": {"value": 0.5}, "risk": risk}
    assert told in describe_calibration(figures)
