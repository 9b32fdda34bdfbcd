"""Texts of any script are drawn with a font that has it; where none is installed, one warning names a package."""

import warnings
from io import BytesIO
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from PIL import Image

import app.explanation.fonts
from app.evaluation.figures import Confusion
from app.explanation.attribution import Explanation
from app.explanation.drawn_explanations import explanation_figure
from app.explanation.fonts import font_families, warn_of_boxes
from app.reporting.charts import draw_confusion


def make_font(path: Path, name: str, characters: str) -> None:
    """A font that draws each of the characters as a black square of the full height."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 900), (900, 900), (900, 0)):
        pen.lineTo(corner)
    pen.closePath()
    square, names = pen.glyph(), [f"u{ord(character):X}" for character in characters]
    builder = FontBuilder(1000)
    builder.setupGlyphOrder([".notdef", *names])
    builder.setupCharacterMap({ord(c): glyph for c, glyph in zip(characters, names, strict=True)})
    builder.setupGlyf(dict.fromkeys([".notdef", *names], square))
    builder.setupHorizontalMetrics(dict.fromkeys([".notdef", *names], (1000, 0)))
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": name, "styleName": "Regular"})
    builder.setupOS2(usWeightClass=400)
    builder.setupPost()
    builder.save(path)


@pytest.fixture(autouse=True)
def fonts(monkeypatch, tmp_path):
    """As if only matplotlib's own fonts were there; returns what installs others."""
    own = [font for font in fontManager.ttflist if font.fname.startswith(mpl.get_data_path())]
    monkeypatch.setattr(fontManager, "ttflist", own)
    monkeypatch.setattr(app.explanation.fonts, "findSystemFonts", lambda: [])
    for function in (app.explanation.fonts.cover, app.explanation.fonts.add_new_fonts, warn_of_boxes):
        function.cache_clear()

    def install(name: str, characters: str) -> Path:
        path = tmp_path / f"{name}.ttf"
        make_font(path, name, characters)
        fontManager.addfont(path)
        return path

    yield install
    for function in (app.explanation.fonts.cover, app.explanation.fonts.add_new_fonts, warn_of_boxes):
        function.cache_clear()


def explanation(*words: str) -> Explanation:
    """An explanation in which every word has a map."""
    number, heat = len(words), np.ones((2, 2))
    maps, effects = dict.fromkeys(range(number), heat), np.full(number, 0.1)
    return Explanation(
        Image.new("RGB", (9, 9)), " ".join(words), "yes", 0.5, "readout", heat, list(words), effects, maps, None
    )


def draw(text: str) -> np.ndarray:
    """A text alone on white, 0 where it is black."""
    with mpl.rc_context({"font.family": font_families(text)}):
        figure = Figure(figsize=(2, 1))
        FigureCanvasAgg(figure)
        figure.text(0.1, 0.3, text, fontsize=40)
    buffer = BytesIO()
    figure.savefig(buffer)
    return np.asarray(Image.open(buffer).convert("L"))


@pytest.mark.parametrize("text", ["中", "か", "한", "क", "🦆"])
def test_a_character_is_drawn_by_a_font_that_has_it(text, fonts):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fonts("Squares", text)
        black = (draw(text) == 0).sum()
        assert black > 0.6 * (40 / 72 * 100 * 0.9) ** 2, "a full square, not an outline of a box"


def test_the_usual_font_stays_the_first_and_alone_where_it_has_all(fonts):
    fonts("Squares", "红中aß")
    assert font_families("is there a “red” square? → 37 %\näöß é Ж ب") == mpl.rcParams["font.family"]
    assert font_families("红 is 中") == [*mpl.rcParams["font.family"], "Squares"]


def test_one_font_that_has_all_is_preferred_to_several(fonts):
    fonts("Few", "中文")
    fonts("Many Serif", "中文字体")
    fonts("Many Sans", "中文字体")
    assert font_families("中文字体")[1:] == ["Many Sans"]
    fonts("Duck", "🦆")
    assert font_families("中文字体 🦆")[1:] == ["Many Sans", "Duck"]


def test_a_font_that_was_installed_since_is_found(fonts, monkeypatch, tmp_path):
    make_font(tmp_path / "new.ttf", "New", "中")
    (tmp_path / "damaged.ttf").write_bytes(b"no font")
    monkeypatch.setattr(
        app.explanation.fonts, "findSystemFonts", lambda: [str(path) for path in tmp_path.glob("*.ttf")]
    )
    assert font_families("中")[1:] == ["New"]


@pytest.mark.parametrize(
    ("text", "package"),
    [
        ("这是中文吗", "fonts-noto-cjk"),
        ("これは何ですか", "fonts-noto-cjk"),
        ("무슨 색입니까", "fonts-noto-cjk"),
        ("यह क्या है", "fonts-noto-core"),
        ("🦆🧪", "fonts-symbola"),
    ],
)
def test_where_no_font_has_them_one_warning_names_a_package(text, package):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            explanation_figure(explanation(text, "red", text), f"{text}\n→ yes").savefig(BytesIO())
    (warning,) = caught
    assert f"apt-get install {package}" in str(warning.message)


def test_what_no_font_can_have_is_not_warned_of():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = explanation("a\u200bb", "x\ufe0f", "\ue000", "\U0003fffd")
        explanation_figure(found, "a\tb\u3000c").savefig(BytesIO())
    assert caught == []


def test_an_explanation_draws_title_and_words_with_the_fonts_they_need(fonts):
    fonts("Squares", "中文")
    figure = explanation_figure(explanation("中文", "red"), "中?")
    drawn = {text.get_text(): text.get_fontfamily() for text in [figure._suptitle, *(a.title for a in figure.axes)]}
    assert (
        drawn["中文  +10 points"]
        == drawn["中?"]
        == drawn["red  +10 points"]
        == [*mpl.rcParams["font.family"], "Squares"]
    )


def test_the_names_of_classes_are_drawn_without_a_warning_in_a_chart_whose_reader_has_fonts(fonts):
    confusion = Confusion(["红色", "蓝色"], [[3, 1], [0, 2]])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert "红色" in draw_confusion(confusion)
        fonts("Squares", "红蓝色")
        assert "Squares" in draw_confusion(confusion)
    assert caught == []
