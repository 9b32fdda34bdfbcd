"""Tables and pairs in Python: each row is answered by the columns of the model, anything else is refused."""

import numpy as np
import pandas as pd
import pytest
from asking import COLORS, TEXT, found, plain, png
from datasets import Dataset, DatasetDict, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

TEXTS = ["one?", None, "is there a red square?"]


def frame(**more) -> pd.DataFrame:
    images = [plain(color) for color in COLORS[:3]]
    return pd.DataFrame({"file": images, "question": TEXTS, "answer": ["x"] * 3} | more)


def as_dataset(images: list) -> Dataset:
    rows = {"file": [{"bytes": png(image), "path": None} for image in images], "question": TEXTS}
    return Dataset.from_dict(rows, Features({"file": ImageFeature(), "question": Value("string")}))


TABLES = {
    "DataFrame": frame(),
    "NaN": frame(question=["one?", np.nan, "is there a red square?"]),
    "categories": frame(question=pd.Categorical(["one?", None, "is there a red square?"])),
    "other index": frame().set_index("answer"),
    "rows": frame().to_dict("records"),
    "Dataset": as_dataset([plain(color) for color in COLORS[:3]]),
    "Dataset as tensors": as_dataset([plain(color) for color in COLORS[:3]]).with_format("torch"),
    "stream": as_dataset([plain(color) for color in COLORS[:3]]).to_iterable_dataset(),
    "transformed": as_dataset([plain(color) for color in COLORS[:3]]).with_transform(lambda rows: rows),
}


@pytest.mark.parametrize("kind", TABLES)
def test_rows_of_a_table_are_answered_by_the_columns_of_the_model(asked, kind):
    pairs = [(plain(color), text) for color, text in zip(COLORS, TEXTS, strict=False)]
    np.testing.assert_allclose(found(asked.predict(TABLES[kind])), found(asked.predict(pairs)), atol=1e-6)


def test_calling_with_a_table_gives_the_answers_of_each_row(asked):
    assert asked(frame(), top_k=2) == [prediction.answers for prediction in asked.predict(frame(), top_k=2)]
    with pytest.raises(ValueError, match="texts of a table come from its columns"):
        asked(frame(), TEXT)


def test_the_text_of_a_row_can_be_a_template_of_columns(asked):
    asked.model.config.columns = {"image": "file", "text": "{question} {number}"}
    rows = frame(number=[1, 2, 3])
    texts = ["one? 1", "2", "is there a red square? 3"]
    pairs = list(zip(rows["file"], texts, strict=True))
    np.testing.assert_allclose(found(asked.predict(rows)), found(asked.predict(pairs)), atol=1e-6)


def test_a_table_may_lack_one_of_the_columns_but_not_both(asked):
    texts = [(None, "one?"), (None, "two?")]
    rows = pd.DataFrame({"question": ["one?", "two?"]})
    np.testing.assert_allclose(found(asked.predict(rows)), found(asked.predict(texts)), atol=1e-6)
    with pytest.raises(ValueError, match=r"The DataFrame has neither .* 'file', nor .* 'question'; it has 'a', 'b'"):
        asked.predict(pd.DataFrame({"a": [1], "b": [2]}))
    with pytest.raises(ValueError, match="The row has neither"):
        asked.predict([{"a": 1}])


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (DatasetDict(train=as_dataset([plain("red")] * 3)), "holds splits; give one of them, 'train'"),
        ([("x.png", "one", "two")], "A pair is .* got tuple"),
        ((Image.new("RGB", (8, 8)), "a text"), "A pair is .* got Image"),
        (["ab"], "A pair is .* got str"),
        ("x.png", "Expected pairs .* got str"),
        (None, "Expected pairs .* got NoneType"),
        (frame().rename(columns={"answer": "file"}), "more than one column 'file'"),
    ],
)
def test_other_objects_than_pairs_are_refused_with_their_type(asked, pairs, message):
    with pytest.raises(ValueError, match=message):
        asked.predict(pairs)


def test_the_first_pair_that_cannot_be_answered_is_named(asked):
    with pytest.raises(ValueError, match=r"^Pair 2 \(counted from 0\): Give an image, a text or both"):
        asked.predict([(plain("red"), TEXT), (None, TEXT), (None, None)])
    with pytest.raises(ValueError, match=r"^The image nowhere.png cannot be read"):
        asked.predict([("nowhere.png", TEXT)])
