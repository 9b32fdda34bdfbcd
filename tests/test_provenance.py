"""A run is resumed and scored with the data it was trained on, under whatever name, and with no other data."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from interrupted import Killed
from PIL import Image
from safetensors.torch import load_file
from tiny import TINY, arguments, blank_charts, small_encoder

import app.training.step
import eval as evaluation
import train
from app.__main__ import main as app_main
from app.training.provenance import Provenance, row_changes, row_table
from app.training.run_folder import RunDir
from data.rows import Rows
from data.string_column import write_columns

pytestmark = pytest.mark.usefixtures("blank_charts")


def train_until(step: int, command: list[str]) -> None:
    """Train, and kill the run before the step of this number."""

    def step_or_die(training, accelerator, options, group, number):
        if number == step:
            raise Killed
        return real(training, accelerator, options, group, number)

    real = app.training.step.train_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app.training.step, "train_step", step_or_die)
        with pytest.raises(Killed):
            train.main(command)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> list[str]:
    return [*small_encoder(tmp_path_factory.mktemp("encoder")), "--train.checkpoint_steps", "1"]


@pytest.fixture(scope="module")
def stopped_once(encoder, shapes_folder, tmp_path_factory) -> Path:
    """A folder with data and a run that was killed in its second epoch."""
    folder = tmp_path_factory.mktemp("stopped")
    shutil.copytree(shapes_folder, folder / "data")
    table = pd.read_csv(folder / "data/train.csv")
    table.assign(trust=1 + table.index % 2, patient=table.image.str[-5]).to_csv(folder / "data/train.csv", index=False)
    with blank_charts():
        train_until(8, arguments(folder / "data", folder / "run", *encoder, *COLUMNS))
    return folder


COLUMNS = ["--data.weight", "trust", "--data.group", "patient"]


@pytest.fixture
def stopped(stopped_once, encoder, tmp_path) -> tuple[Path, list[str]]:
    """A copy of it, and the command that resumes the run."""
    shutil.copytree(stopped_once, tmp_path, dirs_exist_ok=True)
    return tmp_path, arguments(tmp_path / "data", tmp_path / "run", *encoder, *COLUMNS)


def content_of(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def refused(command: list[str], capsys, main=train.main) -> str:
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert stop.value.code == 2
    return capsys.readouterr().err


def edit(path: Path, change) -> None:
    change(pd.read_csv(path)).to_csv(path, index=False)


def cell(row: int, column: str, value):
    def change(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[row, column] = value
        return table

    return change


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("train", cell(12, "label", "purple"), "row 12 (label"),
        ("train", cell(12, "text", "what now?"), "row 12 (text changed)"),
        ("train", cell(12, "trust", 9), "row 12 (weight 1 → 9)"),
        ("train", lambda table: table.drop(index=12), "now"),
        ("train", lambda table: table.iloc[::-1], "differ"),
        ("train", lambda table: pd.concat([table, table[:1]]), "before"),
        ("test", cell(3, "label", "purple"), "test: 96 rows before, 96 now, 1 differ; the first difference"),
        ("test", lambda table: table[:-1], "test: 96 rows before, 95 now, the first 95 are the same"),
    ],
)
def test_a_run_is_not_resumed_with_other_rows(file, change, message, stopped, capsys):
    folder, command = stopped
    before = content_of(folder / "run")
    edit(folder / f"data/{file}.csv", change)
    error = refused(command, capsys)
    assert message in error
    assert "--overwrite true" in error
    assert "--run_dir FOLDER" in error
    assert content_of(folder / "run") == before, "nothing is lost"


def test_a_run_is_not_resumed_with_other_images_or_classes_or_without_its_test_rows(stopped, capsys):
    folder, command = stopped
    image = folder / "data" / pd.read_csv(folder / "data/train.csv").image[0]
    kept = image.read_bytes()
    Image.new("RGB", (32, 32), "white").save(image)
    assert "(image changed)" in refused(command, capsys)
    image.write_bytes(kept)
    edit(folder / "data/train.csv", lambda table: table.assign(label=table.label.replace("yes", "sure")))
    assert "(gone 'yes'; new 'sure')" in refused(command, capsys)
    assert "'yes' → 'sure'" in refused(command, capsys)
    test = command.index("--data.test")
    assert "test: 96 rows before, 0 now" in refused(command[:test] + command[test + 2 :], capsys)


def test_a_run_is_resumed_with_the_same_content_under_another_name(stopped, encoder, tmp_path):
    folder, command = stopped
    train.main(arguments(folder / "data", tmp_path / "whole", *encoder, *COLUMNS))
    shutil.move(folder / "data", folder / "moved")
    shutil.move(folder / "moved/train.csv", folder / "elsewhere.csv")
    test = pd.read_csv(folder / "moved/test.csv")
    test.to_parquet(folder / "moved/test.parquet")
    named = {"train": folder / "elsewhere.csv", "image_root": folder / "moved", "test": folder / "moved/test.parquet"}
    train.main([*command, *(part for name, path in named.items() for part in (f"--data.{name}", str(path)))])
    weights, whole = (load_file(run / "model/model.safetensors") for run in (folder / "run", tmp_path / "whole"))
    assert [name for name in whole if not torch.equal(weights[name], whole[name])] == []
    assert "elsewhere.csv" in (folder / "run/config.yaml").read_text(), "the settings have the new path"


def test_other_encoders_behind_the_same_name_are_refused(pretrained, encoder, shapes_folder, tmp_path, capsys):
    folder = tmp_path / "encoder"
    shutil.copytree(encoder[encoder.index("--model.image_encoder") + 1], folder)
    command = arguments(shapes_folder, tmp_path / "run", *encoder, "--model.image_encoder", str(folder))
    command += ["--model.text_encoder", pretrained]
    train_until(3, command)
    settings = Path(pretrained) / "config.json"
    kept = settings.read_text()
    settings.write_text(kept.replace('"hidden_dropout_prob": 0.1', '"hidden_dropout_prob": 0.4'))
    assert "the text encoder has changed" in refused(command, capsys)
    settings.write_text(kept)
    tokenizer = Path(pretrained) / "tokenizer.json"
    kept = tokenizer.read_text()
    tokenizer.write_text(kept.replace('"Lowercase"', '"NFC"'))
    assert "the tokenizer has changed" in refused(command, capsys)
    tokenizer.write_text(kept)
    small_encoder(folder)  # with other random weights
    assert "the image encoder has changed" in refused(command, capsys)


def test_another_file_of_the_own_text_encoder_is_refused(encoder, shapes_folder, tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\n"
        "class Mine(torch.nn.Module):\n"
        "    def __init__(self, vocab_size, pad_token_id):\n"
        "        super().__init__()\n"
        "        self.hidden_size, self.embed = 8, torch.nn.Embedding(vocab_size, 8)\n"
        "    def forward(self, input_ids, attention_mask):\n"
        "        return self.embed(input_ids)\n"
    )
    command = arguments(shapes_folder, tmp_path / "run", *encoder, "--model.text_encoder", f"{file}:Mine")
    train_until(3, command)
    file.write_text(file.read_text().replace("self.embed(input_ids)", "2 * self.embed(input_ids)"))
    assert "the text encoder has changed" in refused(command, capsys)


def test_a_changed_stream_is_noticed(encoder, shapes_folder, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(shapes_folder, data)
    stream = ["--data.streaming", "true", "--data.validation", str(data / "test.csv")]
    command = arguments(data, tmp_path / "run", *encoder, *stream)
    train_until(3, command)
    edit(data / "train.csv", cell(5, "label", "purple"))
    assert "train: 272 rows before, 272 now, 1 differ; the first difference is in row 5" in refused(command, capsys)


def test_a_run_without_a_record_is_resumed_with_a_note_and_a_damaged_record_is_an_error(stopped, stopped_once, capsys):
    folder, command = stopped
    record = RunDir(folder / "run").provenance
    record.write_bytes(record.read_bytes()[:-100])
    message = refused(command, capsys)
    assert str(record) in message
    assert "delete it" in message
    record.unlink()
    config = folder / "run/config.yaml"
    config.write_text(config.read_text().replace(str(stopped_once), str(folder)))
    train.main(command)
    assert "has no record of its training data" in capsys.readouterr().out
    assert record.is_file()


def test_a_run_of_an_early_version_with_unreadable_checkpoints_is_not_replaced(stopped, capsys):
    folder, command = stopped
    shutil.rmtree(folder / "run/checkpoints")
    (folder / "run/checkpoints/last").mkdir(parents=True)
    before = content_of(folder / "run")
    assert "cannot be read any more" in refused(command, capsys)
    assert content_of(folder / "run") == before


def test_a_split_of_a_table_that_changed_is_not_scored(stopped, capsys):
    folder, command = stopped
    train.main(command)
    options = [str(folder / "run"), "--pictures", "0", "--split"]
    assert evaluation.main([*options, "validation"])["role"] == "validation"
    edit(folder / "data/train.csv", lambda table: table.drop(index=range(40)))
    for split in ("validation", "train"):
        message = refused([*options, split], capsys, evaluation.main)
        assert "is not what" in message
        assert f"{split}: " in message
        assert "--data.test SOURCE" in message
    assert evaluation.main([*options, "test"])["rows"] == 96, "test rows have a table of their own"
    capsys.readouterr()
    edit(folder / "data/test.csv", cell(3, "label", "purple"))
    evaluation.main([*options, "test"])
    output = capsys.readouterr().out
    assert "has changed since" in output
    assert "label" in output
    RunDir(folder / "run").provenance.unlink()
    evaluation.main([*options, "validation"])
    assert "has no record of its training data" in capsys.readouterr().out


def test_a_study_does_not_use_finished_runs_on_other_data(shapes_folder, encoder, tmp_path, capsys):
    shutil.copytree(shapes_folder, tmp_path / "data")
    config, table = tmp_path / "tiny.yaml", tmp_path / "data/train.csv"
    kept = table.read_bytes()
    config.write_text(json.dumps({"data": {"train": str(table)}}))
    options = [*encoder, *TINY, "--train.epochs", "1", "--train.batch_size", "4"]
    folds = ["--data.folds", "2", "--data.fold"]
    for run, more in (("a/one_3", ["--train.seed", "3"]), ("k/fold_0", [*folds, "0"]), ("k/fold_1", [*folds, "1"])):
        train.main([str(config), *options, *more, "--run_dir", str(tmp_path / run)])
    ablate = ["ablate", str(config), "--output", str(tmp_path / "a"), "--seeds", "[3]", "--variant+", "one"]
    kfold = ["kfold", str(config), "--output", str(tmp_path / "k"), "--folds", "2"]
    for study in (ablate, kfold):
        app_main([*study, *options])
        edit(table, cell(7, "text", "what now?"))
        message = refused([*study, *options], capsys, app_main)
        assert "was trained on other data than these" in message
        assert "row 7 (text changed)" in message
        assert "--output FOLDER" in message
        table.write_bytes(kept)


def many_rows(number: int) -> Rows:
    """Rows of a table that is never read."""
    rows = ((f"{i % 9999:020}", f"what is on picture {i}?", f"label {i % 100}") for i in range(number))
    keys, texts, labels = write_columns(rows, 3)
    table = Dataset.from_dict({"image": []})
    return Rows("many.csv", table, "image", None, np.arange(number), texts, labels, keys)


def test_many_rows_take_seconds(tmp_path):
    rows = many_rows(100_000)
    began = time.perf_counter()
    found = Provenance({"train": row_table(rows, None)}, {"classes": ["a"]}, {})
    found.save(tmp_path)
    loaded = Provenance.load(tmp_path)
    assert loaded is not None
    assert loaded.changes(found) == []
    assert time.perf_counter() - began < 10
    assert (tmp_path / "provenance.parquet").stat().st_size < 2e6


def test_a_difference_between_rows_is_described_in_one_line():
    before, now = (row_table(many_rows(number), None) for number in (10, 10))
    assert row_changes("train", before, now) is None
    assert row_changes("test", None, now) == "test: 0 rows before, 10 now"
    assert row_changes("test", before, None) == "test: 10 rows before, 0 now"
    changed = now.set_column(now.column_names.index("label"), "label", [["l" * 500, *now["label"].to_pylist()[1:]]])
    assert len(row_changes("train", before, changed)) < 160
    assert row_changes("train", before, changed, without=["label"]) is None
    assert row_changes("train", before, now[1:]).endswith(
        "the first difference is in row 1 (image changed, text changed, label 'label 0' → 'label 1')"
    )
