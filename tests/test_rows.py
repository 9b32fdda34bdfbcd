"""Rows of tables, saved data sets and image folders."""

from pathlib import Path

import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value, Video
from three_rows import ROWS, png, read, save_images, write

from data import DataSettings, load_rows, prepare_data
from data.errors import UserError
from data.text_template import make_text


@pytest.fixture
def folder(tmp_path) -> Path:
    return save_images(tmp_path)


@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_every_kind_of_table_gives_the_same_rows(folder, kind):
    rows = read(write(folder, kind))
    assert list(rows.labels) == ["red", "blue", "yes"]
    assert list(rows.texts) == ["what is it?", "what is it?", "is it red?"]
    assert rows.image_keys[0] == rows.image_keys[2] != rows.image_keys[1]
    assert rows[0].image == str(folder / "img" / "red.png")


def test_a_saved_data_set_with_embedded_images_and_class_labels_is_read(tmp_path):
    features = Features({"image": Image(), "text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    table = Dataset.from_dict(
        {"image": [{"bytes": png()}, {"bytes": png()}], "text": ["a", "b"], "label": [1, 0]}, features=features
    )
    table.save_to_disk(tmp_path / "arrow")
    rows = read(tmp_path / "arrow")
    assert list(rows.labels) == ["yes", "no"]
    assert len(set(rows.image_keys)) == 1


@pytest.mark.parametrize("streaming", [False, True])
def test_a_column_that_is_not_used_is_not_decoded(folder, streaming):
    (folder / "a.mp4").write_bytes(b"no video")
    rows = {name: [row[name] for row in ROWS] for name in ("image", "text", "label")}
    table = Dataset.from_dict(rows | {"clip": [str(folder / "a.mp4")] * len(ROWS)})
    table.cast_column("clip", Video()).save_to_disk(folder / "saved")
    found = load_rows(str(folder / "saved"), "train", DataSettings(streaming=streaming))
    assert list(found.labels) == ["red", "blue", "yes"]
    assert next(iter(found.table))["clip"]["bytes"] == b"no video"


def test_an_image_folder_with_metadata_is_read(folder):
    frame = pd.DataFrame({"file_name": ["img/red.png", "img/blue.png"], "text": ["a", "b"], "label": ["x", "y"]})
    frame.to_csv(folder / "metadata.csv", index=False)
    rows = read(folder)
    assert sorted(rows.labels) == ["x", "y"]
    assert len(set(rows.image_keys)) == 2


def test_a_hub_id_without_network_is_an_error_that_says_what_to_do():
    with pytest.raises(ValueError, match=r"(?s)HuggingFace Hub.*Offline.*hf download --repo-type dataset"):
        load_rows("someone/some-data", "train", DataSettings())


def test_cells_of_a_csv_stay_strings(folder):
    rows = [r | {"label": label} for r, label in zip(ROWS, ["NA", "None", "01"], strict=True)]
    assert list(read(write(folder, "csv", rows)).labels) == ["NA", "None", "01"]


def test_class_indices_become_class_names(folder):
    rows = [r | {"label": number} for r, number in zip(ROWS, [2, 10, 2], strict=True)]
    path = str(write(folder, "jsonl", rows))
    data = prepare_data(DataSettings(train=path, validation=path), seed=0)
    assert data.label_names == ["2", "10"]


def test_a_template_joins_columns():
    row = {"question": "is it?", "report": "a {curly} report", "empty": None}
    assert make_text(row, "{question} | {report}") == "is it? | a {curly} report"
    assert make_text(row, "{question}{empty}") == "is it?"
    assert make_text(row, "{empty}") is None


def test_labels_are_normalized_by_option(folder):
    rows = [r | {"label": label} for r, label in zip(ROWS, ["Yes", " yes ", "YES  sir"], strict=True)]
    assert list(read(write(folder, "csv", rows), normalize_labels=True).labels) == ["yes", "yes", "yes sir"]


def test_column_names_are_never_guessed(folder):
    rows = [{"picture": r["image"], "question": r["text"], "answer": r["label"]} for r in ROWS]
    path = write(folder, "csv", rows)
    assert list(read(path, image="picture", text="question", label="answer").labels) == ["red", "blue", "yes"]
    with pytest.raises(
        ValueError, match=r"no column 'image'; it has \['picture', 'question', 'answer'\].*--data.image"
    ):
        read(path)


def test_a_missing_column_is_a_users_error_with_the_most_similar_name(folder):
    with pytest.raises(UserError, match=r"no column 'labell'.*Did you mean 'label'\?"):
        read(write(folder, "csv"), label="labell")
    with pytest.raises(UserError, match=r"no column 'textt'.*Did you mean 'text'\?"):
        read(write(folder, "csv"), text="textt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": None}, r"1 rows of .* have no label in column 'label': row 1 \(counted from 0\)"),
        ({"label": "  "}, r"1 rows of .* have no label"),
        ({"text": " "}, r"1 rows of .* have an empty text.*row 1.*allow_missing true"),
        ({"text": "a\0b"}, r"NUL characters or lone surrogates.*row 1"),
        ({"image": None}, r"row 1, no image: the cell is empty"),
        ({"image": "img/nope.png"}, r"nope.png: cannot open the file: No such file.*on_bad_image skip"),
        ({"image": "../../etc/passwd"}, r"passwd: cannot open the file: No such file.*relative to .*--data.image_root"),
        ({"image": "img"}, r"img: cannot open the file: it is a folder"),
        (
            {"image": "img/red.png\0"},
            r"row 1, cell: 'img/red.png\\x00' is not the path of a file: it has characters that no path can have",
        ),
        (
            {"image": "https://example.org/a.png"},
            r"row 1, cell: 'https://example.org/a.png' is not the path of a file: it is an address, and noth",
        ),
        (
            {"image": "S3://bucket/a.png"},
            r"'S3://bucket/a.png' is not .*: it is an address, and nothing is downloaded; download",
        ),
        (
            {"image": "data:image/png;base64,AAAA"},
            r"'data:image/png;base64,AAAA' is not .*: it is a data: address; decode it",
        ),
        ({"image": "img\\nope.png"}, r"nope.png: cannot open the file: No such file or directory; write / where"),
    ],
)
def test_a_bad_row_is_named(folder, change, message):
    rows = [ROWS[0], ROWS[1] | change, ROWS[2]]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        read(write(folder, "jsonl", rows))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": ["a"]}, r"Row 1 of .*train.jsonl .*: A cell of column 'text' holds \['a'\]; expected"),
        ({"label": ["a"]}, r"Row 1 of .*train.jsonl \(counted from 0\): Labels must be .* got \['a'\]"),
    ],
)
def test_a_list_in_place_of_a_text_or_a_label_is_named(folder, change, message):
    with pytest.raises(UserError, match=message):
        read(write(folder, "jsonl", [ROWS[0], ROWS[1] | change, ROWS[2]]))


def test_missing_texts_and_images_are_accepted_by_option(folder):
    rows = read(
        write(folder, "jsonl", [ROWS[0], ROWS[1] | {"text": ""}, ROWS[2] | {"image": None}]), allow_missing=True
    )
    assert rows.texts[1] is None
    assert rows[2].image is None
    assert rows.image_keys[2] is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"image,text,label\n", "has no rows"),
        (b"image,text,label\nx.png,caf\xe9,y\n", r"not UTF-8: byte 0xe9 at offset 26"),
        (b"image,text,text\na,b,c\n", r"columns of the same name: \['text'\]"),
        (b"image,text,label\nx.png,is it red, or blue?,red\n", r"Line 2 of .* has 4 cells.*a comma.*double quotes"),
        (b"x" * (1 << 20) + b"\xff", r"not UTF-8: byte 0xff at offset 1048576"),
    ],
)
def test_an_invalid_table_says_why(tmp_path, content, message):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "t.csv")


def test_a_text_with_commas_in_quotes_is_one_cell(folder):
    path = write(folder, "csv", [ROWS[0] | {"text": "red, blue,\n or green?"}, *ROWS[1:]])
    assert read(path).texts[0] == "red, blue,\n or green?"


def test_a_folder_with_several_splits_asks_for_one(tmp_path):
    DatasetDict({"train": Dataset.from_list(ROWS), "test": Dataset.from_list(ROWS)}).save_to_disk(tmp_path / "d")
    with pytest.raises(ValueError, match=r"holds several splits, \['test', 'train'\]; name one of them"):
        read(tmp_path / "d")


def test_the_ending_of_a_file_may_be_upper_case(folder):
    path = write(folder, "csv")
    assert len(read(path.rename(folder / "TRAIN.CSV"))) == 3


@pytest.mark.parametrize("label", [["yes"], {"name": "yes"}])
def test_a_nested_label_is_an_error(folder, label):
    with pytest.raises(ValueError, match=r"Labels must be strings, numbers or booleans, got .*'yes'"):
        read(write(folder, "json", [row | {"label": label} for row in ROWS]))


@pytest.mark.parametrize("source", [pd.DataFrame({"a": [1]}), Dataset.from_dict({"a": [1]}), None])
def test_a_source_that_is_not_a_string_is_an_error(source):
    with pytest.raises(ValueError, match=rf"got {type(source).__name__}\. Write .*to_parquet.*save_to_disk"):
        load_rows(source, "train", DataSettings())


def test_a_byte_order_mark_is_not_part_of_the_first_column_name(folder):
    path = write(folder, "csv")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read(path)) == 3


@pytest.mark.parametrize(("source", "message"), [("nope.csv", "no file or folder 'nope.csv'"), ("x.doc", "no file")])
def test_a_missing_source_lists_what_a_source_can_be(source, message):
    with pytest.raises(ValueError, match=rf"{message}.*shapes:N"):
        read(source)


def test_an_unknown_file_ending_lists_the_known_ones(tmp_path):
    (tmp_path / "x.doc").touch()
    with pytest.raises(ValueError, match=r"unknown ending.*\.csv"):
        read(tmp_path / "x.doc")


def test_a_broken_json_names_the_file(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"image": 1}\n{"image')
    with pytest.raises(ValueError, match=r"x.jsonl could not be read as .jsonl"):
        read(tmp_path / "x.jsonl")


def test_a_single_class_is_an_error(folder):
    rows = [r | {"label": "same"} for r in ROWS]
    with pytest.raises(ValueError, match=r"only one class, \['same'\]"):
        prepare_data(DataSettings(train=str(write(folder, "csv", rows)), validation_fraction=0.5), seed=0)
