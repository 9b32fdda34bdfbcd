"""Cells have the same text in every format."""

import codecs
import csv
import json
from pathlib import Path

import pandas as pd
import pytest
from datasets import disable_progress_bars
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from written_tables import FORMATS, labels_of, rows_of, tables, write

from data import DataSettings, load_rows
from data.cells import cell_text

CODES = ["007", "NA", "None", "1.0", "true", "1e5", "2020-01-31", "12345678901234567890", "null", "nan", "-0", "+1"]


@pytest.fixture(autouse=True)
def _quiet():
    disable_progress_bars()


def test_codes_stay_strings_in_every_format(tmp_path):
    frame = rows_of(*CODES).assign(text=CODES[::-1])
    for source in tables(tmp_path, frame.assign(image=CODES)):
        rows = load_rows(str(source), "train", DataSettings())
        assert list(rows.labels) == CODES, source
        assert list(rows.texts) == CODES[::-1], source
        assert [Path(image).name for image in rows.images()] == CODES, source


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([7, 0, -12], ["7", "0", "-12"]),
        ([True, False, True], ["True", "False", "True"]),
        ([0.5, 1.0, 100000.0], ["0.5", "1.0", "100000.0"]),
        (pd.Categorical(["b", "a", "b"]), ["b", "a", "b"]),
        (pd.array([2**62, 3, 4], dtype="Int64"), [str(2**62), "3", "4"]),
        (pd.array([2**64 - 1, 3, 4], dtype="UInt64"), [str(2**64 - 1), "3", "4"]),
    ],
    ids=["int", "bool", "float", "categories", "nullable", "unsigned"],
)
def test_numbers_and_booleans_have_the_same_text_in_every_format(tmp_path, values, labels):
    for source in tables(tmp_path, rows_of("", "", "").assign(label=values, text=values)):
        rows = load_rows(str(source), "train", DataSettings(text="{text}"))
        assert list(rows.labels) == list(rows.texts) == labels, source


def test_a_narrow_float_has_the_same_decimals_as_in_a_csv(tmp_path):
    frame = rows_of("", "").assign(label=pd.array([0.1, 2.5], dtype="float32"))
    for kind in ("csv", "parquet"):
        assert labels_of(write(tmp_path / f"t.{kind}", frame)) == ["0.1", "2.5"], kind


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12).filter(
            str.strip
        ),
        min_size=1,
        max_size=6,
    )
)
@example(['"', "a\r\nb", "\x1c|\x85|\u2028", "\ufeffx", " ,\t;\\", "'"])
def test_any_text_is_the_same_in_every_format(tmp_path, texts):
    frame = rows_of(*texts).assign(text=texts)
    wanted = [text.strip() for text in texts]
    for kind in FORMATS:
        with open(tmp_path / f"t.{kind}", "w", encoding="utf-8", newline="") as file:
            if kind in ("csv", "tsv"):
                writer = csv.writer(file, delimiter="\t" if kind == "tsv" else ",", quoting=csv.QUOTE_ALL)
                writer.writerows([list(frame), *frame.itertuples(index=False)])
            elif kind == "json":
                json.dump(frame.to_dict("records"), file)
            elif kind == "jsonl":
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in frame.to_dict("records"))
        if kind == "parquet":
            frame.to_parquet(tmp_path / "t.parquet")
        rows = load_rows(str(tmp_path / f"t.{kind}"), "train", DataSettings())
        assert (list(rows.texts), list(rows.labels)) == (wanted, wanted), kind


def test_a_json_column_with_several_types_becomes_text(tmp_path):
    labels = [7, "007", 1.5, True, "1e5", 2**70, "null"]
    lines = [{"image": "a", "text": "q", "label": label, "nested": {"a": [label]}} for label in labels]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    wanted = ["7", "007", "1.5", "True", "1e5", str(2**70), "null"]
    assert labels_of(tmp_path / "t.jsonl") == wanted


def test_a_column_may_mix_lists_of_labels_and_single_labels(tmp_path):
    lines = [{"image": "a", "text": "q", "label": label} for label in (["a", "b"], "c", [], ["1e5", 7])]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert labels_of(tmp_path / "t.jsonl", label_type="multi") == ["a|b", "c", "", "1e5|7"]


@pytest.mark.parametrize("text", ['{"image": 1,\n "text": 2, "label": 3}\n{"image": 1, "text": 2, "label": "b"}', "[]"])
def test_json_may_span_several_lines(tmp_path, text):
    (tmp_path / "t.json").write_text(text)
    if text == "[]":
        with pytest.raises(ValueError, match="has no rows"):
            labels_of(tmp_path / "t.json")
    else:
        assert labels_of(tmp_path / "t.json") == ["3", "b"]


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_nan_is_a_missing_label_and_a_missing_text(tmp_path, missing):
    assert cell_text(missing) is None
    for kind in ("csv", "jsonl", "parquet"):
        source = write(tmp_path / f"t.{kind}", rows_of("", "").assign(label=[1.0, missing]))
        with pytest.raises(ValueError, match=r"1 rows of .* have no label in column 'label': row 1"):
            labels_of(source)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
def test_a_byte_order_mark_sets_the_encoding(tmp_path, encoding):
    mark = codecs.BOM_UTF16_BE if encoding == "utf-16-be" else b""
    (tmp_path / "t.csv").write_bytes(mark + "image,text,label\na,é,ß\n".encode(encoding))
    assert labels_of(tmp_path / "t.csv") == ["ß"]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_cell_may_be_long(tmp_path, kind):
    source = write(tmp_path / f"t.{kind}", rows_of("x").assign(text=["q" * 300_000], label=["y" * 200_000]))
    rows = load_rows(str(source), "train", DataSettings())
    assert (len(rows.texts[0]), len(rows.labels[0])) == (300_000, 200_000)
