"""Tables of every format and name: one reading of paths, columns and cells."""

import codecs
import csv
import json
import os
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, disable_progress_bars
from datasets.exceptions import DatasetGenerationError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app import Predictor
from app.command_line.scoring import Compare, Score, ScoredRows
from app.inference.batch_predict import answer_table
from app.inference.load import find_model
from app.settings import Settings, parse_settings
from data import DataSettings, load_rows, prepare_data, verify_images
from data.cells import cell_text
from data.shapes import write_shapes
from data.table_file import READERS, Reader
from data.text_template import make_text, text_columns

FORMATS = ["csv", "tsv", "json", "jsonl", "parquet"]
NAMES = [
    "train[1]", "a*b", "what?", "{a,b}", "~tilde", "100%", "50%41", "#1", "two  spaces ", "a::b", "hf:", "a;b", "é日本",
    "$HOME", "**", "[!a]", "a&b='c'", "zip:", "@x", "!x",
]  # fmt: skip
CODES = ["007", "NA", "None", "1.0", "true", "1e5", "2020-01-31", "12345678901234567890", "null", "nan", "-0", "+1"]


@pytest.fixture(autouse=True)
def _quiet():
    disable_progress_bars()


def write(path: Path, frame: pd.DataFrame) -> Path:
    """A table as pandas writes it, in the format of the path's ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".csv", ".tsv"):
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=path.suffix == ".jsonl", force_ascii=False)
    return path


def rows_of(*labels: str) -> pd.DataFrame:
    return pd.DataFrame(
        {"image": [f"{i}.png" for i in range(len(labels))], "text": [f"q{i}" for i in range(len(labels))]}
    ).assign(label=list(labels))


def labels_of(source: Path | str, **options) -> list[str]:
    return list(load_rows(str(source), "train", DataSettings(**options)).labels)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", NAMES)
def test_a_file_name_is_not_a_pattern(tmp_path, name, kind, streaming):
    for decoy in ("train1", "aXb", "what!", "a", "b", "x", "HOME"):
        write(tmp_path / f"{decoy}.{kind}", rows_of("decoy"))
    write(tmp_path / f"{name}.{kind}", rows_of("right", "rows"))
    assert labels_of(tmp_path / f"{name}.{kind}", streaming=streaming) == ["right", "rows"]


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_name_is_not_a_pattern(tmp_path, name):
    folder = tmp_path / name
    write(folder / "rows.csv", rows_of("table"))
    write(folder / "pictures/metadata.csv", rows_of("pictures").rename(columns={"image": "file_name"}))
    Dataset.from_pandas(rows_of("saved")).save_to_disk(tmp_path / "saved")
    (tmp_path / "saved").rename(folder / "saved")
    for source, streaming in [(source, s) for source in ("rows.csv", "pictures", "saved") for s in (False, True)]:
        assert labels_of(folder / source, streaming=streaming) == [source.removesuffix("rows.csv") or "table"]


@pytest.mark.parametrize("name", ["shapes:3", "owner/name", "hf:/x.csv", "#1.csv", "null", "~", "[a].csv", "~x.csv"])
def test_an_existing_relative_path_comes_first(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    table = write(tmp_path / "t.csv", rows_of("right"))
    if name.endswith(".csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        table.rename(tmp_path / name)
    else:
        Dataset.from_pandas(rows_of("right")).save_to_disk(tmp_path / "saved")
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / "saved").rename(tmp_path / name)
    for argv in (["--data.train", name], [f"--data.train={name}"]):
        assert labels_of(parse_settings(argv).data.train) == ["right"]
    assert labels_of(name.replace("hf:/", "hf://")) == ["right"]


def test_a_changed_file_is_read_again(tmp_path):
    table = write(tmp_path / "t.csv", rows_of("a", "b"))
    assert labels_of(table) == ["a", "b"]
    stamp = table.stat()
    write(table, rows_of("c", "d"))
    os.utime(table, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert labels_of(table) == ["c", "d"], "what is kept belongs to the content, not to the time of the last change"


WORDS = ("train", "test", "val", "validation", "dev", "eval", "testing")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_file_and_folder_names_do_not_select_a_split(tmp_path, kind):
    files = [f"{word}_{i}.png" for i, word in enumerate(WORDS)] + [f"{word}/0.png" for word in WORDS]
    frame = pd.DataFrame({"file_name": files, "text": files, "label": files})
    folder = write(tmp_path / "train" / f"metadata.{kind}", frame).parent
    for file in files:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).touch()
    (folder / "test" / "train.csv").write_text("x\n1\n")
    rows = load_rows(str(folder), "test", DataSettings())
    assert list(rows.labels) == list(rows.texts) == files
    assert list(rows.images()) == [str(folder / file) for file in files]


def test_all_metadata_files_of_a_folder_are_read(tmp_path, capsys):
    for part in ("train", "test/deep", ".ipynb_checkpoints"):
        write(
            tmp_path / part / "metadata.csv", pd.DataFrame({"file_name": ["1.png"], "text": ["q"], "label": [part[:4]]})
        )
    rows = load_rows(str(tmp_path), "train", DataSettings())
    assert list(rows.labels) == ["test", "trai"]
    assert list(rows.images()) == [str(tmp_path / "test/deep/1.png"), str(tmp_path / "train/1.png")]
    assert "2 tables, 'test/deep/metadata.csv', 'train/metadata.csv'" in capsys.readouterr().out
    assert labels_of(tmp_path / "test") == ["test"]


def test_metadata_files_may_differ_in_columns_and_types(tmp_path):
    write(tmp_path / "a/metadata.csv", pd.DataFrame({"file_name": ["1.png"], "text": ["q"], "label": ["07"]}))
    write(tmp_path / "b/metadata.jsonl", pd.DataFrame({"file_name": ["1"], "text": [5], "label": [7], "more": [1.5]}))
    rows = load_rows(str(tmp_path), "train", DataSettings())
    assert (list(rows.labels), list(rows.texts), rows.column("more")) == (["07", "7"], ["q", "5"], [None, 1.5])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"metadata.csv": "a,b\n1,2\n"}, r"has no column 'file_name'.*it has \['a', 'b'\]"),
        ({"metadata.csv": "file_name\n1\n", "metadata.jsonl": "{}"}, r"holds metadata.csv and metadata.jsonl"),
        ({"metadata.txt": "file_name\n1\n"}, "neither a folder saved by datasets nor an image folder"),
        ({"metadata.csv": 'file_name\n"1'}, r"Line 2 of .*metadata.csv has a cell whose double quotes do not match"),
    ],
)
def test_an_invalid_image_folder_says_why(tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        labels_of(tmp_path)


def tables(folder: Path, frame: pd.DataFrame):
    """The same table in every format, and as metadata of image folders."""
    for kind in FORMATS:
        yield write(folder / f"t.{kind}", frame)
        yield write(folder / kind / f"metadata.{kind}", frame.rename(columns={"image": "file_name"})).parent


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
    ],
    ids=["int", "bool", "float", "categories", "nullable"],
)
def test_numbers_and_booleans_have_the_same_text_in_every_format(tmp_path, values, labels):
    for source in tables(tmp_path, rows_of("", "", "").assign(label=values, text=values)):
        rows = load_rows(str(source), "train", DataSettings(text="{text}"))
        assert list(rows.labels) == list(rows.texts) == labels, source


def test_a_narrow_float_has_the_same_decimals_as_in_a_csv(tmp_path):
    frame = rows_of("", "").assign(label=pd.array([0.1, 2.5], dtype="float32"))
    for kind in ("csv", "parquet"):
        assert labels_of(write(tmp_path / f"t.{kind}", frame)) == ["0.1", "2.5"], kind


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12).filter(
            str.strip
        ),
        min_size=1,
        max_size=6,
    )
)
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


HARMLESS = {
    "pandas' index": ",image,text,label\n0,a,q,x\n1,b,r,y\n",
    "a comma at the end": "image,text,label,\na,q,x,\nb,r,y,\n",
    "commas at the end of some rows": "image,text,label\na,q,x,,\nb,r,y\n",
    "two without a name": "image,,text,,label\na,1,q,2,x\nb,1,r,2,y\n",
    "names of spaces": "image, ,text,label, \na,1,q,x,\nb,2,r,y,\n",
    "a name twice": "image,note,text,note,label\na,1,q,2,x\nb,1,r,2,y\n",
    "short rows": "image,text,label,note,more\na,q,x\nb,r,y,1\n",
    "blank lines": "\n\nimage,text,label\n\na,q,x\n   \n\nb,r,y\n\n",
    "line ends of an old Macintosh": "image,text,label\ra,q,x\rb,r,y\r",
    "no line end": "image,text,label\na,q,x\nb,r,y",
    "a byte order mark": "\ufeffimage,text,label\na,q,x\nb,r,y\n",
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["csv", "tsv", "metadata"])
@pytest.mark.parametrize("content", HARMLESS.values(), ids=list(HARMLESS))
def test_extra_columns_and_blank_lines_are_ignored(tmp_path, content, kind, streaming):
    if kind == "metadata":
        source, path = tmp_path, tmp_path / "metadata.csv"
        content = content.replace("image", "file_name")
    else:
        source = path = tmp_path / f"t.{kind}"
        content = content.replace(",", "\t") if kind == "tsv" else content
    path.write_bytes(content.encode())
    rows = load_rows(str(source), "train", DataSettings(streaming=streaming))
    assert list(zip(rows.texts, rows.labels, strict=True)) == [("q", "x"), ("r", "y")]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
def test_a_byte_order_mark_sets_the_encoding(tmp_path, encoding):
    mark = codecs.BOM_UTF16_BE if encoding == "utf-16-be" else b""
    (tmp_path / "t.csv").write_bytes(mark + "image,text,label\na,é,ß\n".encode(encoding))
    assert labels_of(tmp_path / "t.csv") == ["ß"]


def test_repeated_names_of_unused_columns_are_accepted_in_json_and_parquet(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"image": "a", "": 1, "n": 1, "n": 2, "text": "q", "label": "x"}\n')
    columns = [pa.array([value]) for value in ("a", 1, 2, "q", "x", 3)]
    pq.write_table(pa.table(columns, names=["image", "n", "n", "text", "label", ""]), tmp_path / "t.parquet")
    for kind in ("jsonl", "parquet"):
        assert labels_of(tmp_path / f"t.{kind}") == ["x"]
        with pytest.raises(ValueError, match=r"columns of the same name: \['n'\].*--data.slice_by"):
            labels_of(tmp_path / f"t.{kind}", slice_by=["n"])


@pytest.mark.parametrize(
    ("setting", "options"),
    [("text", {}), ("weight", {"weight": "text"}), ("group", {"group": "text"}), ("text", {"text": "{text} {label}"})],
)
def test_a_repeated_column_name_in_a_setting_is_an_error(tmp_path, setting, options):
    options = {"text": "label"} | options if setting != "text" else options
    (tmp_path / "t.csv").write_text("image,text,text,label\na,1,2,x\nb,3,4,y\n")
    with pytest.raises(ValueError, match=rf"same name: \['text'\].*--data.{setting} with 'text \(column 2\)' or"):
        labels_of(tmp_path / "t.csv", **options)


def test_a_repeated_column_name_can_be_chosen_by_its_position(tmp_path):
    (tmp_path / "t.csv").write_text("image,text,text,\na,1,2,x\nb,3,4,y\n")
    rows = load_rows(str(tmp_path / "t.csv"), "train", DataSettings(text="text (column 3)", label="column 4"))
    assert list(zip(rows.texts, rows.labels, strict=True)) == [("2", "x"), ("4", "y")]


def test_predict_refuses_a_repeated_column_name(run_dir, tmp_path):
    (tmp_path / "t.csv").write_text("image,text,text\na,1,2\n")
    with pytest.raises(ValueError, match=r"columns of the same name: \['text'\]"):
        answer_table(Predictor.from_pretrained(run_dir, precision="no"), tmp_path / "t.csv")


def test_a_parquet_column_of_an_unsupported_type_is_left_out_and_named(tmp_path, capsys):
    table = pa.Table.from_pandas(rows_of("x")).append_column("odd", pa.array([[("a", 1)]], pa.map_("string", "int8")))
    pq.write_table(table, tmp_path / "t.parquet")
    assert labels_of(tmp_path / "t.parquet") == ["x"]
    assert "odd" in capsys.readouterr().out


@pytest.mark.parametrize("kind", FORMATS)
def test_a_cell_may_be_long(tmp_path, kind):
    source = write(tmp_path / f"t.{kind}", rows_of("x").assign(text=["q" * 300_000], label=["y" * 200_000]))
    rows = load_rows(str(source), "train", DataSettings())
    assert (len(rows.texts[0]), len(rows.labels[0])) == (300_000, 200_000)


@pytest.mark.parametrize(
    "name",
    ["Q.1", "a[0]", "wow!", "wow!r", "a:b", "size:>10", "with space", " x ", "0", "a.b[c]!d:e", "%s", "é", "self"],
)
def test_a_template_accepts_any_column_name(tmp_path, name):
    frame = rows_of("x", "y").drop(columns="text")
    frame[name] = ["{1}", "two"]
    rows = load_rows(str(write(tmp_path / "t.csv", frame)), "train", DataSettings(text=f"is it {{{name}}}? {{{{}}}}"))
    assert list(rows.texts) == ["is it {1}? {}", "is it two? {}"]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just(True), st.text(st.characters(exclude_characters="{}"), min_size=1, max_size=8)),
            st.tuples(st.just(False), st.text(max_size=8)),
        ),
        max_size=6,
    )
)
def test_a_template_is_its_text_with_the_cells_filled_in(parts):
    if not any(is_column for is_column, _ in parts):
        return
    template = "".join(f"{{{s}}}" if is_column else s.replace("{", "{{").replace("}", "}}") for is_column, s in parts)
    row = {name: f"<{{{name}}}>" for is_column, name in parts if is_column}
    assert text_columns(template) == list(row)
    assert make_text(row, template) == "".join(row[s] if is_column else s for is_column, s in parts).strip()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{a", r"not a valid template, it has a single '\{'"),
        ("a {b}}", r"a single '\}'"),
        ("{} and {b}", "braces without a column"),
        ("{{a}}", "names no column"),
        ("{label:.1f}", r"has no column 'label:.1f'.*Did you mean 'label'\?"),
        ("{" + "a" * 500, "a{70}…"),
    ],
)
def test_an_invalid_template_says_why(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        labels_of(write(tmp_path / "t.csv", rows_of("x")), text=text)


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


@pytest.mark.parametrize("streaming", [False, True])
def test_a_bug_in_a_reader_is_not_reported_as_a_fault_of_the_file(tmp_path, monkeypatch, streaming):
    def broken(path, columns):
        raise TypeError("a bug")

    monkeypatch.setitem(READERS, ".csv", Reader(READERS[".csv"].columns, broken))
    with pytest.raises((TypeError, DatasetGenerationError)):
        labels_of(write(tmp_path / "t.csv", rows_of("never cached", str(tmp_path))), streaming=streaming)


def test_a_url_is_an_error_that_says_to_download_it():
    with pytest.raises(ValueError, match=r"no file or folder 'https://x.org/t.csv'.*Download it"):
        labels_of("https://x.org/t.csv")


def test_long_labels_are_shortened_in_messages(tmp_path):
    train = write_shapes(tmp_path, 12, "train")
    frame = pd.read_csv(train)
    frame["label"] = frame["label"].where(frame["label"] != "yes", "a" * 1000)
    frame.to_csv(train, index=False)
    test = write(tmp_path / "t.csv", frame.assign(label="b" * 1000))
    data = prepare_data(DataSettings(train=str(train), validation=str(train), test=str(test)), seed=0)
    assert any("a" * 79 + "…" in line for line in data.notes)
    assert not any("a" * 81 in line or "b" * 81 in line for line in data.notes)


def test_home_folders_are_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "t.csv", rows_of("x"))
    (tmp_path / "c.yaml").write_text("data: {train: ~/t.csv, image_root: ~/pictures}\nmodel: {text_encoder: ~/bert}\n")
    for argv in (["~/c.yaml"], ["--config", "~/c.yaml"], ["--config=~/c.yaml"]):
        found = parse_settings([*argv, "--run_dir", "~/r", "--data.test=~/t.csv", "--model.image_weights", "~/w.pth"])
        assert found.data.train == found.data.test == str(tmp_path / "t.csv")
        assert found.data.image_root == str(tmp_path / "pictures")
        assert found.model.text_encoder == str(tmp_path / "bert")
        assert found.model.image_weights == str(tmp_path / "w.pth")
        assert found.run_dir == str(tmp_path / "r")
    assert parse_settings(["~/c.yaml"]).run_dir == "runs/c"
    assert Settings().data.train is None
    assert labels_of("~/t.csv") == ["x"]
    options = Score(model="~/r", data=ScoredRows(test="~/t.csv", image_root="~/p"), output_dir="~/o")
    found = [options.model, options.data.test, options.data.image_root, options.output_dir]
    assert found == [str(tmp_path / name) for name in ("r", "t.csv", "p", "o")]
    assert Compare("~/a", "~/b", output="~/c").second == str(tmp_path / "b")
    with pytest.raises(ValueError, match=rf"There is no folder '{tmp_path}/none/here'"):
        find_model("~/none/here")


def test_an_existing_path_that_starts_with_a_tilde_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "~" / "t.csv", rows_of("here"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert labels_of("~/t.csv") == ["here"]


def test_images_of_an_image_folder_are_found(tmp_path):
    write_shapes(tmp_path, 4, "test")
    frame = pd.read_csv(tmp_path / "test.csv").rename(columns={"image": "file_name"})
    frame.to_csv(tmp_path / "metadata.csv", index=False)
    rows, _ = verify_images(load_rows(str(tmp_path), "train", DataSettings()), DataSettings())
    assert len(set(rows.image_keys)) == 4
