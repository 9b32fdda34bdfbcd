"""Paths of tables: names with special characters, folders, and home folders."""

import itertools
import os

import pandas as pd
import pytest
from datasets import Dataset, disable_progress_bars
from written_tables import FORMATS, labels_of, rows_of, write

from app.command_line.scoring import Compare, Score, ScoredRows
from app.inference.load import find_model
from app.settings import Settings
from app.settings_parser import parse_settings
from data import DataSettings, load_rows, verify_images
from data.shapes import write_shapes

NAMES = [
    "train[1]", "a*b", "what?", "{a,b}", "~tilde", "100%", "50%41", "#1", "two  spaces ", "a::b", "hf:", "a;b", "é日本",
    "$HOME", "**", "[!a]", "a&b='c'", "zip:", "@x", "!x",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _quiet():
    disable_progress_bars()


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("name", "kind"), zip(NAMES, itertools.cycle(FORMATS), strict=False))
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
    assert labels_of(table) == ["c", "d"], "the cache follows the content, not the time of the last change"


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


def test_a_url_that_cannot_be_reached_is_an_error_that_names_it():
    with pytest.raises(ValueError, match=r"https://x.invalid/t.csv cannot be reached: .*Check the address"):
        labels_of("https://x.invalid/t.csv")


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
