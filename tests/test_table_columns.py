"""Columns of tables, and templates that join them."""

import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import disable_progress_bars
from hypothesis import given
from hypothesis import strategies as st
from written_tables import labels_of, rows_of, write

from app import Predictor
from app.inference.batch_predict import answer_table
from data import DataSettings, load_rows
from data.text_template import make_text, text_columns


@pytest.fixture(autouse=True)
def _quiet():
    disable_progress_bars()


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


@pytest.mark.parametrize(
    ("header", "name", "chosen"),
    [
        ("column 2,,image,label", "column 2", ["column 2 (column 1)", "column 2 (column 2)"]),
        ("text,text (column 1),text,image,label", "text", ["text (column 1) (column 1)", "text (column 1) (column 2)"]),
    ],
)
def test_a_column_is_not_lost_if_its_name_is_that_of_a_renamed_one(tmp_path, header, name, chosen):
    (tmp_path / "t.csv").write_text(f"{header}\n{','.join('12345'[: header.count(',') + 1])}\n")
    texts = [load_rows(str(tmp_path / "t.csv"), "train", DataSettings(text=text)).texts[0] for text in chosen]
    assert texts == ["1", "2"]
    with pytest.raises(
        ValueError, match=rf"same name: \['{name}'\].*{re.escape(chosen[0])}' or '{re.escape(chosen[1])}"
    ):
        load_rows(str(tmp_path / "t.csv"), "train", DataSettings(text=name))


def test_predict_refuses_a_repeated_column_name(run_dir, tmp_path):
    (tmp_path / "t.csv").write_text("image,text,text\na,1,2\n")
    with pytest.raises(ValueError, match=r"columns of the same name: \['text'\]"):
        answer_table(Predictor.from_pretrained(run_dir, precision="no"), tmp_path / "t.csv")


def test_a_parquet_column_of_an_unsupported_type_is_left_out_and_named(tmp_path, capsys):
    table = pa.Table.from_pandas(rows_of("x")).append_column("odd", pa.array([[("a", 1)]], pa.map_("string", "int8")))
    pq.write_table(table, tmp_path / "t.parquet")
    assert labels_of(tmp_path / "t.parquet") == ["x"]
    assert "odd" in capsys.readouterr().out


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
