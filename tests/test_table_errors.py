"""A table that cannot be read is an error that says why."""

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import disable_progress_bars
from datasets.exceptions import DatasetGenerationError
from written_tables import labels_of, rows_of, write

from data import DataSettings, prepare_data
from data.errors import UserError
from data.shapes import write_shapes
from data.sources import load_source
from data.table_file import READERS, Reader


@pytest.fixture(autouse=True)
def _quiet():
    disable_progress_bars()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "image;text;label\na;q, b;x\n", r"separated by semicolons, but a .csv file is read with commas"),
        ("t.csv", '"image";"text";"label"\n"a";"q";"x"\n', "separated by semicolons"),
        ("t.csv", "\nsep=;\nimage;text;label\na;q;x\n", "separated by semicolons"),
        ("t.csv", "image\ttext\tlabel\na\tq\tx\n", r"separated by tabs.*Name it .tsv"),
        ("t.csv", "image|text|label\na|q|x\n", r"separated by vertical bars"),
        ("t.tsv", "image,text,label\na,q,x\n", r"separated by commas, but a .tsv .* tabs. Name it .csv"),
        ("t.csv", 'image,text,label\na,"q,x\nb,r,y\n', r"Line 2 of .* whose double quotes do not match"),
        ("t.csv", 'image,text,label\na,"5 in,x\nb,"6 in,y\n', r"Line 2 of .* whose double quotes do not match"),
        ("t.csv", 'image,text,label\na,"say \\"hi\\"",x\n', r"Line 2 of .* inside such a cell twice"),
        ("t.csv", "image,text,label\na,q\0,x\n", r"Line 2 of .* holds a NUL character"),
        ("t.csv", "image,text,label\na,q,x,y\n", r"Line 2 of .* has 4 cells, but the header names 3 columns"),
        ("t.csv", "\n \n", "is empty"),
        ("t.csv", b"\xff\xfeimage", "is not UTF-16"),
        ("t.csv", b"image,text\na,\xc3", "is not UTF-8: byte 0xc3 at offset 13"),
        ("t.csv", b"PK\x03\x04\x14\0\0\0", "NUL character"),
        ("t.jsonl", '{"image": 1}\n{"image', r"t.jsonl could not be read as .jsonl, line 2: Unterminated"),
        ("t.jsonl", "[1, 2]", r"holds 1; expected an object"),
        ("t.jsonl", '"' + "a" * 500 + '"', r"holds 'a{70,79}…; expected an object"),
        ("t.jsonl", '{"image": "a", "text": "\\ud800", "label": "x"}', "half of a surrogate pair"),
        ("t.json", '{"image": ["a"], "text": ["q"], "label": ["x"]}', r"one object of columns"),
        ("t.json", "[" * 100_000, "could not be read as .json"),
        ("t.jsonl", "", "has no rows"),
        ("t.parquet", b"PAR1 no", "could not be read as .parquet"),
        (
            "t.csv",
            "image,text," + "a" * 500 + "\na,q,x\n",
            r"no column 'label'; it has \['image', 'text', 'a{70,79}…\]",
        ),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_a_file_that_cannot_be_read_says_why(tmp_path, name, content, message, streaming):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as error:
        labels_of(tmp_path / name, streaming=streaming)
    assert "a" * 81 not in str(error.value)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (pa.array([1, 2**60], pa.timestamp("us")), "t.parquet could not be read as .*: date value out of range"),
        (pa.array([], pa.string()), "t.parquet has no rows"),
    ],
)
def test_a_parquet_file_that_cannot_be_read_says_why(tmp_path, labels, message):
    texts = pa.array(["a", "b"][: len(labels)], pa.string())
    pq.write_table(pa.table({"image": texts, "text": texts, "label": labels}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=message):
        labels_of(tmp_path / "t.parquet")


@pytest.mark.parametrize("column", ["label", "text", "weight"])
def test_a_stream_whose_later_rows_cannot_be_read_says_why(tmp_path, column):
    texts = [str(row) for row in range(150)]
    table = {"image": texts, "text": texts, "label": texts, "weight": ["1"] * 150}
    table[column] = pa.array([*range(149), 2**60], pa.timestamp("us"))
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"t.parquet could not be read as rows: date value out of range"):
        labels_of(tmp_path / "t.parquet", streaming=True, weight="weight")


@pytest.mark.parametrize("error", [RuntimeError("a script"), DatasetGenerationError("generating")])
def test_a_data_set_of_the_hub_that_cannot_be_loaded_says_why(monkeypatch, error):
    def refuse(*args, **options):
        raise error from OSError("disk full")

    monkeypatch.setattr("data.sources.load_dataset", refuse)
    with pytest.raises(UserError, match=r"'a/b' .* data set of the HuggingFace Hub: (a script|disk full)\."):
        load_source("a/b", "train")


@pytest.mark.parametrize("streaming", [False, True])
def test_a_bug_in_a_reader_is_not_reported_as_a_fault_of_the_file(tmp_path, monkeypatch, streaming):
    def broken(path, columns):
        raise TypeError("a bug")

    monkeypatch.setitem(READERS, ".csv", Reader(READERS[".csv"].columns, broken))
    with pytest.raises((TypeError, DatasetGenerationError)):
        labels_of(write(tmp_path / "t.csv", rows_of("never cached", str(tmp_path))), streaming=streaming)


def test_long_labels_are_shortened_in_messages(tmp_path):
    train = write_shapes(tmp_path, 12, "train")
    frame = pd.read_csv(train)
    frame["label"] = frame["label"].where(frame["label"] != "yes", "a" * 1000)
    frame.to_csv(train, index=False)
    test = write(tmp_path / "t.csv", frame.assign(label="b" * 1000))
    data = prepare_data(DataSettings(train=str(train), validation=str(train), test=str(test)), seed=0)
    assert any("a" * 79 + "…" in line for line in data.notes)
    assert not any("a" * 81 in line or "b" * 81 in line for line in data.notes)
