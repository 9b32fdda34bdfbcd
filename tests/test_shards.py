"""Answers to the shards of a pattern: each once, by one process or several, whatever is interrupted."""

import os
from pathlib import Path

import pandas as pd
import pytest
from forked import Forked
from live import until
from predict_command import ask
from tiny import ROOT, launch

from app.inference.predictor import Predictor
from app.inference.shards import Shard, find_shards
from data.errors import UserError

ROWS = 5
"""Rows of each shard."""


@pytest.fixture
def shards(shapes_folder, tmp_path):
    """A folder with four shards of the test rows; the images have absolute paths."""
    folder = tmp_path / "in"
    folder.mkdir()
    rows = pd.read_csv(shapes_folder / "test.csv").drop(columns="label")
    rows["image"] = [str(shapes_folder / image) for image in rows["image"]]
    for number, ending in enumerate(("parquet", "csv", "parquet", "jsonl")):
        part = rows[number * ROWS : (number + 1) * ROWS]
        file = folder / f"part-{number}.{ending}"
        if ending == "parquet":
            part.to_parquet(file, index=False)
        elif ending == "csv":
            part.to_csv(file, index=False)
        else:
            part.to_json(file, orient="records", lines=True)
    return folder


def start_worker(folder: Path, *options) -> Forked:
    """A process of `shard_worker` that has written half of its first answers; its output is in ``folder/told``."""
    command = [str(ROOT / "tests/shard_worker.py"), *map(str, options)]
    worker = Forked(command, folder / "told", ROOT, os.environ | {"OMP_NUM_THREADS": "1"})
    until(lambda: (folder / "told").exists() and "half\n" in (folder / "told").read_text(), "half is written", 120)
    return worker


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


ANSWERS = ["part-0.parquet", "part-1.csv", "part-2.parquet", "part-3.parquet"]


def test_each_shard_has_its_answers_in_a_file_and_the_model_is_loaded_once(
    run_dir, shards, tmp_path, capsys, monkeypatch
):
    loaded, load = [], Predictor.from_pretrained
    monkeypatch.setattr(
        Predictor, "from_pretrained", lambda *args, **options: loaded.append(1) or load(*args, **options)
    )
    output = tmp_path / "out"
    assert ask(run_dir, "--rows", shards / "part-*", "--output", output, "--top_k", "2") == 0
    assert names(output) == ANSWERS
    assert loaded == [1]
    told = capsys.readouterr().out
    counts = "4 shards: 4 answered, 0 done before, 0 being answered by other processes, 0 not answered"
    assert told.strip().splitlines()[-1] == counts
    assert f"{shards / 'part-1.csv'}: 5 of 5 rows answered, 0 not" in told
    assert ask(run_dir, "--data.test", shards / "part-3.jsonl", "--top_k", "2", "--output", tmp_path / "a.parquet") == 0
    pd.testing.assert_frame_equal(pd.read_parquet(output / "part-3.parquet"), pd.read_parquet(tmp_path / "a.parquet"))
    assert len(pd.read_csv(output / "part-1.csv")) == ROWS


def test_a_shard_that_is_done_is_not_written_again(run_dir, shards, tmp_path, capsys, monkeypatch):
    output = tmp_path / "out"
    output.mkdir()
    (output / "part-0.parquet").write_text("mine")
    assert ask(run_dir, "--rows", shards / "*.parquet", "--output", output) == 0
    assert "2 shards: 1 answered, 1 done before" in capsys.readouterr().out
    assert (output / "part-0.parquet").read_text() == "mine"
    monkeypatch.setattr(Predictor, "from_pretrained", lambda *_, **__: pytest.fail("loaded without need"))
    assert ask(run_dir, "--rows", shards / "*.parquet", "--output", output) == 0
    assert "2 shards: 0 answered, 2 done before" in capsys.readouterr().out


def test_a_shard_of_a_killed_process_is_answered_by_the_next(run_dir, shards, tmp_path, capsys):
    options = [run_dir, "--rows", shards / "part-*", "--output", tmp_path / "out"]
    worker = start_worker(tmp_path, *options)
    worker.kill()
    worker.wait()
    assert [name for name in names(tmp_path / "out") if name in ANSWERS] == [], "no part of a file has its name"
    assert ask(*options) == 0
    assert "4 shards: 4 answered" in capsys.readouterr().out
    assert names(tmp_path / "out") == ANSWERS
    assert len(pd.read_parquet(tmp_path / "out/part-0.parquet")) == ROWS


def test_a_shard_that_another_process_is_answering_is_left_to_it(run_dir, shards, tmp_path, capsys):
    output = tmp_path / "out"
    options = [run_dir, "--rows", shards / "part-*", "--output", output]
    worker = start_worker(tmp_path, *options)
    try:
        assert ask(*options) == 0
        assert "4 shards: 3 answered, 0 done before, 1 being answered" in capsys.readouterr().out
        assert not (output / "part-0.parquet").exists()
        (output / "GO").touch()
        worker.wait(120)
    finally:
        worker.kill()
    assert "4 shards: 1 answered, 3 done before, 0 being answered" in (tmp_path / "told").read_text()
    assert len(pd.read_parquet(output / "part-0.parquet")) == ROWS


def test_a_process_claims_a_shard_until_it_is_done_with_it(tmp_path):
    shard = Shard("rows.csv", str(tmp_path / "rows.csv"))
    with shard.claim() as first, shard.claim() as second:
        assert (first, second) == (True, False)
    with shard.claim() as again:
        assert again
    assert names(tmp_path) == [".rows.csv.lock"], "all processes lock one file while the answers are not there"
    with shard.claim():
        (tmp_path / "rows.csv").touch()
    assert names(tmp_path) == ["rows.csv"]


def test_launched_processes_divide_the_shards(run_dir, shards, tmp_path):
    options = ["predict", str(run_dir), "--rows", str(shards / "part-*"), "--output", str(tmp_path / "out")]
    done = launch(2, "-m", ["app", *options])
    assert done.returncode == 0, done.stderr
    assert "process 1 of 2: 2 shards: 2 answered" in done.stdout
    assert "process 2 of 2: 2 shards: 2 answered" in done.stdout
    assert names(tmp_path / "out") == ANSWERS


def test_a_shard_that_cannot_be_answered_is_named_and_the_others_are_answered(run_dir, shards, tmp_path, capsys):
    (shards / "part-0.parquet").write_bytes(b"none")
    pd.DataFrame({"image": ["gone.png"], "text": ["x"]}).to_parquet(shards / "part-2.parquet")
    assert ask(run_dir, "--rows", shards / "part-*", "--output", tmp_path / "out") == 1
    told = capsys.readouterr()
    assert "4 shards: 2 answered, 0 done before, 0 being answered by other processes, 2 not answered" in told.out
    assert f"{shards / 'part-0.parquet'} is not answered: " in told.err
    assert f"{shards / 'part-2.parquet'} is not answered: none of its rows can be answered." in told.err
    found = [name for name in names(tmp_path / "out") if not name.startswith(".")]
    assert found == ["part-1.csv", "part-3.parquet"], "they can be answered when they are repaired"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--rows", "IN/none-*.csv", "--output", "OUT"], "none-*.csv' matches no file."),
        (["--rows", "IN", "--output", "OUT"], "It is a folder: give a pattern, such as 'IN/*.parquet'"),
        (["--rows", "IN/*", "--output", "OUT"], "note.txt, which is no table; expected one of .csv"),
        (["--rows", "IN/**/part-0.*", "--output", "OUT"], "have the same name, 'part-0'"),
        (["--rows", "IN/*.parquet", "--output", "IN/note.txt"], "is a file; with --rows it is a folder"),
        (["--rows", "IN/*.parquet", "--output", "IN/../in"], "is the folder of the shard"),
        (["--rows", "IN/*.parquet"], "--rows needs a folder for the answers: add --output FOLDER"),
        (["--rows", "IN/*.parquet", "--output", "OUT", "--data.test", "a.csv"], "--rows a pattern of many: give one"),
        (["--rows", "IN/*.parquet", "--output", "OUT", "--image", "a.png"], "--rows about all of a source: give one"),
        (["--rows", "IN/*.parquet", "--output", "OUT", "--context.a", "b"], "leave out --context"),
    ],
)
def test_options_that_cannot_be_followed_are_refused(shards, tmp_path, options, told, capsys):
    (shards / "note.txt").touch()
    (shards / "more").mkdir()
    (shards / "more/part-0.csv").touch()
    places = {"IN": str(shards), "OUT": str(tmp_path / "out")}
    for name, place in places.items():
        options, told = [option.replace(name, place) for option in options], told.replace(name, place)
    assert ask("no model is loaded", *options) == 2
    error = capsys.readouterr().err
    assert told in error
    assert len(error.strip().splitlines()) == 1


def test_a_file_with_the_name_of_the_pattern_comes_first(tmp_path):
    for name in ("a[1].csv", "a1.csv"):
        (tmp_path / name).write_text("text\nx\n")
    assert [shard.source for shard in find_shards(f"{tmp_path}/a[1].csv", str(tmp_path / "out"))] == [
        f"{tmp_path}/a[1].csv"
    ]
    with pytest.raises(UserError, match="is a folder"):
        find_shards(str(tmp_path), str(tmp_path / "out"))
