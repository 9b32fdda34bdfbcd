"""The built-in data: shapes and questions about them."""

from collections import Counter, defaultdict

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from data import decode_image
from data.shapes import COLORS, NUMBERS, PLACES, SHAPES, generate_rows, make_shapes


def test_a_split_always_gives_the_same_rows_and_splits_differ():
    assert list(generate_rows(5, 0)) == list(generate_rows(5, 0))
    assert list(generate_rows(5, 0)) != list(generate_rows(5, 2))
    assert make_shapes(3, "train")[0]["text"] == make_shapes(3, "train")[0]["text"]


def test_about_twenty_answers_over_questions_of_every_kind():
    rows = list(generate_rows(300, 0))
    assert {row["label"] for row in rows} == {*COLORS, *SHAPES, *PLACES, *NUMBERS, "yes", "no"}
    assert {row["kind"] for row in rows} == {"color", "shape", "place", "number", "existence"}


def test_the_text_alone_predicts_no_better_than_chance_within_a_kind_of_question():
    train, test = list(generate_rows(1500, 0)), list(generate_rows(500, 2))
    words = CountVectorizer(ngram_range=(1, 3)).fit([row["text"] for row in train])
    guesser = LogisticRegression(max_iter=300).fit(
        words.transform([row["text"] for row in train]), [row["label"] for row in train]
    )
    right = guesser.predict(words.transform([row["text"] for row in test])) == [row["label"] for row in test]
    odds = {"color": 1 / 6, "shape": 1 / 4, "place": 1 / 4, "number": 1 / 3, "existence": 1 / 2}
    assert right.mean() < np.mean([odds[row["kind"]] for row in test]) + 0.03


def test_the_image_alone_does_not_determine_the_answer():
    answers = defaultdict(set)
    for row in generate_rows(200, 0):
        answers[row["image"]["path"]].add(row["label"])
    assert np.mean([len(a) for a in answers.values()]) >= 5


def test_the_answers_match_the_images():
    names = {color: np.array(rgb) for color, rgb in COLORS.items()}
    checked = Counter()
    for row in generate_rows(60, 0):
        pixels = np.asarray(decode_image(row["image"]["bytes"]), dtype=int)
        background = pixels[0, 0]
        if any(place in row["text"] for place in PLACES):
            top, left = ("bottom" in row["text"]) * 32, ("right" in row["text"]) * 32
            pixels = pixels[top : top + 32, left : left + 32]
            checked[(np.abs(pixels - background).max(axis=-1) > 30).sum() > 40] += 1
        if row["kind"] == "color":
            checked[(np.abs(pixels - names[row["label"]]).max(axis=-1) <= 15).sum() > 40] += 1
    assert set(checked) == {True}
