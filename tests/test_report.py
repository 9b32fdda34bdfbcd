"""report.html as a person sees it, in a real browser."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from browser import browser, contrast
from labelled_tables import shapes_table, write
from PIL import Image
from selenium.webdriver.common.by import By
from tiny import TINY

import eval as evaluation
import train
from app.evaluation.calibration_figures import Calibration, CalibrationErrors, ReliabilityBins, RiskCurve
from app.evaluation.figures import Confusion
from app.evaluation.interval import Interval
from app.explanation.drawing import SPEAKS_AGAINST, SPEAKS_FOR
from app.reporting.charts import draw_confusion
from app.reporting.text import calibration_text, correctness_text, percent
from app.reporting.tinted_text import tint


@pytest.fixture(scope="module")
def report(run_dir, tmp_path_factory):
    """A report in which all words matter, though the small model has hardly learnt anything."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.explanation.attribution.MATTERS", 0)
        patch.setattr("app.reporting.tinted_text.MATTERS", 0)
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
        assert read(chrome, ".verdict") == [figures["inputs"]["verdict"], figures["deletion"]["verdict"]]
        galleries = len(read(chrome, "section[aria-labelledby=looked] h3"))
        assert len(read(chrome, "article")) == 2 * galleries >= 6
        sizes = chrome.execute_script("return [...document.images].map(i => i.complete && i.naturalWidth)")
        words = len(read(chrome, ".by-word figure"))
        assert words >= 1, "the words that did most"
        assert len(sizes) == 3 * 2 * galleries + words
        assert all(sizes), "every picture is drawn"
        shown = chrome.execute_script("return [...document.querySelectorAll('.pictures img')].map(i => i.clientWidth)")
        assert min(shown) >= 200, "small pictures are enlarged"
        assert all(read(chrome, ".checked"))
        assert len(chrome.find_elements(By.CSS_SELECTOR, "figure > svg")) == 6, "charts"
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
        charts = chrome.find_elements(By.CSS_SELECTOR, "figure:has(> svg)")
        for chart in charts:
            beside = chart.find_elements(By.XPATH, ".//table | following-sibling::*[1]//table")
            assert beside, f"{chart.text} has its numbers in a table"
        ids = chrome.execute_script("return [...document.querySelectorAll('[id]')].map(e => e.id)")
        assert len(ids) == len(set(ids))
        scrolling = chrome.find_elements(By.CSS_SELECTOR, ".wide")
        assert all(part.get_attribute("tabindex") == "0" and part.get_attribute("aria-label") for part in scrolling)
        sections = chrome.find_elements(By.TAG_NAME, "section")
        assert [section.accessible_name for section in sections] == [
            "How good are the answers?",
            "Does it use both inputs?",
            "Can its probabilities be believed?",
            "Which labels does it know?",
            "Where did it look?",
            "Can the maps be trusted?",
            "Which inputs reach the model?",
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


def test_tinted_words_are_the_colours_of_the_maps_and_can_be_read(report):
    """The strongest tint of each colour, on the card, in light and in dark mode."""
    for mode in (False, True):
        with browser(1440, mode) as chrome:
            chrome.get((report / "report.html").as_uri())
            for name, color in (("for", SPEAKS_FOR), ("against", SPEAKS_AGAINST)):
                ink, paper, found = chrome.execute_script(
                    "const s = n => getComputedStyle(n), card = document.querySelector('.card'); "
                    "return [s(card).color, s(card).backgroundColor, s(document.body).getPropertyValue(arguments[0])]",
                    f"--speaks-{name}",
                )
                assert tuple(map(int, found.split())) == color
                channels = [int(c) for c in re.findall(r"\d+", paper)[:3]]
                mixed = [round((a + b) / 2) for a, b in zip(color, channels, strict=True)]
                assert contrast(ink, f"rgb({', '.join(map(str, mixed))})") > 4.5, (mode, name)
    alphas = re.findall(r"--speaks-\w+\) / ([\d.]+)", (report / "report.html").read_text())
    assert alphas
    assert max(map(float, alphas)) <= 0.5


def test_words_that_matter_are_marked_where_they_are_in_the_text():
    text = "is  there a\nred-ish, red circle?"
    words = ["is", "there", "a", "red", "-", "ish", ",", "red", "circle", "?"]
    effects = np.array([0, 0.005, 0, 0, 0, 0, 0, 0.6, -0.2, 0])
    pieces = tint(text, words, effects)
    assert "".join(piece.text for piece in pieces) == text
    assert [(piece.text, piece.effect) for piece in pieces if piece.effect is not None] == [
        ("red", 0.6),
        ("circle", -0.2),
    ]
    assert text.index("red circle") == len("".join(piece.text for piece in pieces[:1]))


def test_of_a_long_text_the_parts_around_the_words_that_matter_are_shown():
    words = [f"w{i}" for i in range(500)]
    effects = np.zeros(500)
    effects[[100, 104, 400]] = 0.5, -0.3, 0.02
    pieces = tint(" ".join(words), words, effects)
    shown = "".join(piece.text for piece in pieces)
    assert [piece.text for piece in pieces if piece.effect is not None] == ["w100", "w104", "w400"]
    assert [part.split()[0] for part in shown.split("…")[1:-1]] == ["w94", "w394"]
    assert [part.split()[-1] for part in shown.split("…")[1:-1]] == ["w110", "w406"]
    many = tint(" ".join(words), words, np.linspace(0.02, 0.5, 500))
    assert sum(piece.effect is not None for piece in many) < 30
    assert max(piece.effect or 0 for piece in many) == 0.5
    assert len("".join(piece.text for piece in tint(" ".join(words), words, np.zeros(500)))) < 100


def test_words_that_are_not_written_in_the_text_are_shown_as_the_tokenizer_has_them():
    pieces = tint("playing", ["play", "##ing"], np.array([0.1, -0.2]))
    assert [piece.effect for piece in pieces if piece.effect is not None] == [0.1, -0.2]


def test_rows_of_the_example_picture_are_below_each_other_in_one_width(run_dir, shapes_folder, tmp_path):
    rows = pd.read_csv(shapes_folder / "test.csv").head(3)
    rows["text"] = ["circle", "is there a red square? " * 60, "what color is the circle?"]
    rows.to_csv(shapes_folder / "lengths.csv", index=False)
    options = ["--data.test", str(shapes_folder / "lengths.csv"), "--output_dir", str(tmp_path), "--pictures", "3"]
    evaluation.main([str(run_dir), *options, "--deletion", "0"])
    with Image.open(tmp_path / "where_it_looked.png") as picture:
        assert 1200 < picture.width < 1500
        assert 3 * 300 < picture.height < 3 * 700


def test_labels_in_charts_are_no_mathematics():
    assert "$5 or $6" in draw_confusion(Confusion(["$5 or $6", r"$\ce{a}$"], [[1, 0], [0, 1]]))


def test_labels_in_charts_are_no_colours_and_no_references():
    labels = ["#123456", "url(#a)", 'href="#b']
    chart = draw_confusion(Confusion(labels, np.eye(3, dtype=int).tolist()))
    assert [label for label in labels if f">{label}</text>" not in chart] == []


def test_labels_are_text_in_the_model_card(shapes_folder, tmp_path):
    table, long = shapes_table(shapes_folder), "x" * 300
    names = ["<script>alert(1)</script>", "a\nb", "*c*", long]
    source = write(table, [names[i % 4] for i in range(len(table))], tmp_path / "t.jsonl")
    run = train.main(["--data.train", source, *TINY, "--train.epochs", "1", "--run_dir", str(tmp_path / "run")])
    card = (run / "model/README.md").read_text()
    assert "<script" not in card
    (line,) = [line for line in card.splitlines() if line.startswith("Classifies an image")]
    assert "a b" in line
    assert r"\*c\*" in line
    assert "xxx…" in line
    assert long not in card


@pytest.mark.parametrize(("value", "told"), [(0.5, "50.0%"), (0.9962, "99.6%"), (0.99996, "99.996%"), (1.0, "100.0%")])
def test_a_share_below_one_is_not_shown_as_100_percent(value, told):
    assert percent(value) == told


def test_answers_that_some_annotators_gave_are_not_called_wrong(shapes_folder, tmp_path):
    """Two of three people say this, one says that: the best answer earns two thirds, and is no mistake."""
    rows = pd.read_csv(shapes_folder / "train.csv")
    rows["label"] = [f"{label}|{label}|none of it" for label in rows.label]
    rows.to_csv(shapes_folder / "people.csv", index=False)
    options = ["--data.train", str(shapes_folder / "people.csv"), "--data.label_type", "annotators", *TINY]
    run = train.main([*options, "--train.epochs", "1", "--run_dir", str(tmp_path / "run")])
    folder = run / "evaluation" / "validation"
    table = pd.read_parquet(folder / "predictions.parquet").sort_values("correct")
    assert 0 < table["correct"].iloc[-1] < 1
    shown = [str(table["row"].iloc[place]) for place in (0, -1)]
    evaluation.main([str(run), "--split", "validation", "--pictures", "0", "--show_rows", f"[{', '.join(shown)}]"])
    page = (folder / "report.html").read_text()
    verdicts = re.findall(r'<span class="(right|wrong|partly)">([^<]*)<', page)
    assert [kind for kind, _ in verdicts] == ["wrong", "partly"]
    assert verdicts[1][1].startswith("scores 67%, the label is")
    assert "Training used these rows to choose the epoch" in page


def test_what_a_set_of_labels_was_answered_and_is_is_said_even_where_it_is_empty():
    assert correctness_text(1, "a|b") == "correct"
    assert "“none of the labels”" in correctness_text(0, "")
    assert re.search("67%.*“a|a|b”", correctness_text(2 / 3, "a|a|b"))


@pytest.mark.parametrize(
    ("threshold", "risk", "told"),
    [
        (1.1, None, "No answer is sure"),
        (0.8, None, "all are below the threshold of 80%"),
        (0.99999, None, "all are below the threshold of 99.999%"),
        (0.9962, Interval(0.04, 0, 1), "From a threshold of 99.6% it answers"),
        (0.8, Interval(0.04, 0, 1), "From a threshold of 80% it answers 50.0% of the rows; 4.0% of those"),
    ],
)
def test_how_sure_it_may_be_is_said_in_words(threshold, risk, told):
    errors, bins = CalibrationErrors(0.2, 0.1, 0.1), ReliabilityBins([], [])
    figures = Calibration(1.0, threshold, errors, bins, RiskCurve([], []), Interval(0.5, 0, 1), risk)
    assert told in calibration_text(figures)
