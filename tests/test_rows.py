import io
import json
from pathlib import Path

import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage

from data import DataSettings, load_rows, prepare_data, verify_images
from data.errors import UserError
from data.image_cells import resolve_image
from data.images import content_key
from data.text_template import make_text


def png(color: str = "red") -> bytes:
    buffer = io.BytesIO()
    PILImage.new("RGB", (8, 8), color).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "img").mkdir()
    for color in ("red", "blue"):
        (tmp_path / "img" / f"{color}.png").write_bytes(png(color))
    return tmp_path


ROWS = [
    {"image": "img/red.png", "text": "what is it?", "label": "red"},
    {"image": "img/blue.png", "text": "what is it?", "label": "blue"},
    {"image": "img/red.png", "text": "is it red?", "label": "yes"},
]


def write(folder: Path, kind: str, rows: list[dict] = ROWS) -> Path:
    """The rows as a table of a kind that users have."""
    path, frame = folder / f"train.{kind}", pd.DataFrame(rows)
    if kind in ("csv", "tsv"):
        frame.to_csv(path, index=False, sep="\t" if kind == "tsv" else ",")
    elif kind == "parquet":
        frame.to_parquet(path)
    elif kind == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    elif kind == "json":
        path.write_text(json.dumps(rows))
    return path


def read(source, **settings):
    settings = DataSettings(**settings)
    return verify_images(load_rows(str(source), "train", settings), settings)[0]


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


def test_corrupt_images_are_an_error_or_are_skipped_and_named(folder, capsys):
    (folder / "img" / "blue.png").write_bytes(png("blue")[:40])
    path = write(folder, "csv")
    with pytest.raises(ValueError, match=r"(?s)1 rows of .* cannot be read:\n  .*blue.png: not a readable"):
        read(path)
    rows = read(path, on_bad_image="skip")
    assert list(rows.labels) == ["red", "yes"]
    assert "blue.png" in capsys.readouterr().out


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


def test_a_relative_path_follows_the_current_folder(tmp_path, monkeypatch):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        PILImage.new("RGB", (4, 4)).save(tmp_path / name / "x.png")
        monkeypatch.chdir(tmp_path / name)
        assert resolve_image("x.png", None) == str(tmp_path / name / "x.png")


@pytest.mark.parametrize("source", [pd.DataFrame({"a": [1]}), Dataset.from_dict({"a": [1]}), None])
def test_a_source_that_is_not_a_string_is_an_error(source):
    with pytest.raises(ValueError, match=rf"got {type(source).__name__}\. Write .*to_parquet.*save_to_disk"):
        load_rows(source, "train", DataSettings())


def test_an_image_cell_of_another_type_is_an_error(folder):
    with pytest.raises(ValueError, match=r"image column holds 7; expected the path of a file"):
        read(write(folder, "json", [row | {"image": 7} for row in ROWS]))


@pytest.fixture
def elsewhere(tmp_path_factory) -> Path:
    """A folder with pictures that is not the table's."""
    folder = tmp_path_factory.mktemp("big")
    for color in ("red", "blue"):
        (folder / f"{color}.png").write_bytes(png(color))
    return folder


@pytest.mark.parametrize("way", ["a link to the folder", "a link to each file", "..", "an absolute path"])
def test_images_may_be_outside_the_folder_of_the_table(tmp_path, elsewhere, way):
    names = {row["image"].removeprefix("img/") for row in ROWS}
    if way == "a link to the folder":
        (tmp_path / "img").symlink_to(elsewhere)
    elif way == "a link to each file":
        (tmp_path / "img").mkdir()
        for name in names:
            (tmp_path / "img" / name).symlink_to(elsewhere / name)
    start = {"..": f"../{elsewhere.name}", "an absolute path": str(elsewhere)}.get(way, "img")
    rows = [row | {"image": row["image"].replace("img", start)} for row in ROWS]
    if way == "..":
        tmp_path = elsewhere.parent / "tables"
        tmp_path.mkdir(exist_ok=True)
    path = write(tmp_path, "csv", rows)
    found = read(path)
    assert [found.decoded_image(i).getpixel((0, 0)) for i in range(3)] == [(255, 0, 0), (0, 0, 255), (255, 0, 0)]
    with pytest.raises(ValueError, match=r"3 rows of .*(?s:.*)leads out of (?s:.*)--data.confine_images false"):
        read(path, confine_images=True)


def test_a_confined_table_may_use_links_inside_its_folder(folder):
    (folder / "link").symlink_to(folder / "img")
    path = write(folder, "csv", [row | {"image": row["image"].replace("img", "link")} for row in ROWS])
    assert len(read(path, confine_images=True)) == 3


def test_windows_paths_and_home_folders_are_found(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    images = ["img\\red.png", "~/img/blue.png", "./img/../img/red.png"]
    rows = [row | {"image": image} for row, image in zip(ROWS, images, strict=True)]
    found = read(write(folder, "jsonl", rows))
    assert found.image_keys[0] == found.image_keys[2] != found.image_keys[1]
    assert len(read(write(folder, "csv"), image_root="~")) == 3


def test_an_existing_path_may_hold_any_character(tmp_path):
    names = ["a\\red.png", "~red.png", "http:red.png"]
    for name in names:
        (tmp_path / name).write_bytes(png("red"))
    (tmp_path / "a").mkdir()
    (tmp_path / "a/red.png").write_bytes(png("blue"))
    rows = read(write(tmp_path, "jsonl", [row | {"image": name} for row, name in zip(ROWS, names, strict=True)]))
    assert {rows.decoded_image(i).getpixel((0, 0)) for i in range(3)} == {(255, 0, 0)}


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, list])
def test_bytes_in_the_image_column_are_the_image(kind):
    assert resolve_image(kind(png()), None) == {"bytes": png(), "path": None}
    assert resolve_image(kind(b""), None) is None


@pytest.mark.parametrize("column", ["binary", "numbers"])
def test_a_parquet_file_of_pandas_with_raw_bytes_is_read(folder, column):
    cells = [(folder / row["image"]).read_bytes() for row in ROWS]
    rows = [row | {"image": cell if column == "binary" else list(cell)} for row, cell in zip(ROWS, cells, strict=True)]
    found = read(write(folder, "parquet", rows))
    assert found.image_keys[0] == found.image_keys[2] == content_key(png("red"))
    assert [found.decoded_image(i).getpixel((0, 0)) for i in range(3)] == [(255, 0, 0), (0, 0, 255), (255, 0, 0)]


BIG = b"\x89PNG" + b"\0" * 400_000


@pytest.mark.parametrize(
    "cell",
    [
        "iVBOR" + "A/+4" * 100_000,
        "data:image/png;base64," + "A" * 400_000,
        "https://example.org/" + "a/" * 5000,
        "img/" + "x" * 240 + ".png",
        "deep/" * 200 + "red.png",
        ".." + "/up" * 200,
        [300] * 10_000,
        [[1, 2, 3]] * 10_000,
        {"data": "x" * 10_000},
        {"bytes": "x" * 10_000, "path": None},
        {"bytes": None, "path": "y" * 10_000},
        {"path": 7, "more": "z" * 100},
    ],
    ids=lambda cell: str(cell)[:12],
)
def test_a_message_shows_at_most_80_characters_of_a_cell(folder, cell):
    for confined in (False, True):
        rows = [row | {"image": cell} for row in ROWS]
        with pytest.raises(ValueError, match="have an image that cannot be read") as caught:
            read(write(folder, "json", rows), confine_images=confined)
        message = str(caught.value)
        assert max(map(len, message.replace(str(folder), "").split("\n"))) < 400
        assert str(cell)[:81] not in message
        assert str(cell)[-81:] not in message


def test_bytes_that_are_not_an_image_are_named_by_row(folder):
    with pytest.raises(ValueError, match=r"row 0, embedded image: not a readable") as caught:
        read(write(folder, "parquet", [row | {"image": BIG} for row in ROWS]))
    assert len(str(caught.value)) < 1000


def test_rows_with_invalid_image_cells_can_be_skipped(folder, capsys):
    rows = [ROWS[0], ROWS[1] | {"image": "ftp://example.org/x.png"}, ROWS[2]]
    assert list(read(write(folder, "csv", rows), on_bad_image="skip").labels) == ["red", "yes"]
    assert (
        "row 1, cell: 'ftp://example.org/x.png' is not the path of a file: it is an address" in capsys.readouterr().out
    )


def test_unreadable_embedded_images_are_named_by_row(tmp_path):
    broken = {"bytes": png()[:40], "path": None}
    rows = [{"image": {"bytes": png(), "path": None}}, {"image": broken}, {"image": broken}]
    features = Features({"image": Image(decode=False), "text": Value("string"), "label": Value("string")})
    table = Dataset.from_list([row | {"text": "a", "label": "b"} for row in rows], features=features)
    table.save_to_disk(tmp_path / "d")
    with pytest.raises(ValueError, match=r"(?s)2 rows .*row 1, embedded image: .*row 2, embedded image: "):
        read(tmp_path / "d")


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
