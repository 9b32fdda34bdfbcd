"""More epochs or patience for an existing run, if a run with them from the start would have been the same so far."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_provenance import content_of, refused, train_until
from tiny import RUN_DIR, arguments, blank_charts, small_encoder

import eval as evaluation
import train
from app.settings import TrainSettings
from app.training.checkpoint import Checkpoints, Progress
from app.training.run_folder import RunDir
from app.training.schedule import objections

pytestmark = pytest.mark.usefixtures("blank_charts")


CONSTANT = ["--train.schedule", "constant", "--train.warmup", "0.3"]
LONGER = ["--train.epochs", "3", "--train.warmup", "0.2"]
"""As many steps of warm-up in three epochs as `CONSTANT` has in two."""


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> list[str]:
    more = ["--train.checkpoint_steps", "1", "--model.modality_dropout", "0.2", "--train.augment", "true"]
    return [*small_encoder(tmp_path_factory.mktemp("encoder")), *more]


@pytest.fixture(scope="module")
def three(encoder, shapes_folder, tmp_path_factory) -> Path:
    """An uninterrupted run of three epochs at a constant rate after the warm-up."""
    run_dir = tmp_path_factory.mktemp("three") / "run"
    with blank_charts():
        return train.main(arguments(shapes_folder, run_dir, *encoder, *CONSTANT, *LONGER))


@pytest.fixture(scope="module")
def two(encoder, shapes_folder, tmp_path_factory) -> Path:
    """A run of two epochs."""
    run_dir = tmp_path_factory.mktemp("two") / "run"
    with blank_charts():
        return train.main(arguments(shapes_folder, run_dir, *encoder, *CONSTANT))


def assert_same(run: Path, whole: Path) -> None:
    weights, all_weights = (load_file(folder / "model/model.safetensors") for folder in (run, whole))
    assert [name for name in all_weights if not torch.equal(weights[name], all_weights[name])] == []
    records, all_records = (RunDir(folder).records() for folder in (run, whole))
    assert [{**record, "minutes": 0} for record in records] == [{**record, "minutes": 0} for record in all_records]
    figures, all_figures = (json.loads((f / "evaluation/test/metrics.json").read_text()) for f in (run, whole))
    assert figures == all_figures
    assert [path.name for path in Checkpoints(run / "checkpoints").all()][:1] == [
        path.name for path in Checkpoints(whole / "checkpoints").all()
    ][:1]


def test_a_stopped_run_continues_to_more_epochs_with_the_warm_up_that_the_error_names(
    encoder, shapes_folder, three, tmp_path, capsys
):
    command = arguments(shapes_folder, tmp_path / "run", *encoder, *CONSTANT)
    train_until(8, command)
    assert "add --train.warmup 0.2" in refused([*command, "--train.epochs", "3"], capsys)
    train.main([*command, *LONGER])
    assert_same(tmp_path / "run", three)


def test_a_finished_run_continues_to_more_epochs_and_keeps_its_earlier_evaluation(
    encoder, shapes_folder, two, three, tmp_path
):
    run = tmp_path / "run"
    shutil.copytree(two, run)
    figures = (run / "evaluation/test/metrics.json").read_bytes()
    command = arguments(shapes_folder, run, *encoder, *CONSTANT)
    train_until(13, [*command, *LONGER])
    assert RunDir(run).result() is None
    train.main([*command, *LONGER])
    assert_same(run, three)
    assert (run / "evaluation_after_2_epochs/test/metrics.json").read_bytes() == figures
    found = evaluation.main(["compare", str(run / "evaluation_after_2_epochs/test"), str(run)])
    assert found["rows"] == json.loads(figures)["rows"]


def test_a_finished_run_is_not_trained_further_by_its_own_command_or_without_its_checkpoints(
    encoder, shapes_folder, two, tmp_path, capsys
):
    run = tmp_path / "run"
    shutil.copytree(two, run)
    command = arguments(shapes_folder, run, *encoder, *CONSTANT)
    for more in ([], ["--train.epochs", "1"], ["--train.early_stopping", "4"], ["--train.target_risk", "0.1"]):
        assert "holds a finished run" in refused([*command, *more], capsys)
    more = [*LONGER, "--train.learning_rate", "0.1"]
    assert "holds a finished run" in refused([*command, *more], capsys)
    shutil.rmtree(run / "checkpoints")
    assert "checkpoints are missing" in refused([*command, *LONGER], capsys)


@pytest.mark.parametrize("finished", [True, False])
def test_a_cosine_schedule_cannot_be_lengthened_and_says_what_to_do(
    finished, run_dir, encoder, shapes_folder, tmp_path, capsys
):
    command = arguments(shapes_folder, tmp_path / "run", *(RUN_DIR if finished else encoder))
    if finished:
        shutil.copytree(run_dir, tmp_path / "run")
    else:
        train_until(8, command)
    before = content_of(tmp_path / "run")
    message = refused([*command, "--train.epochs", "4"], capsys)
    assert "train.epochs was 2, now 4" in message
    assert "cosine schedule lowers the learning rate to 0 over 2 epochs" in message
    assert "--run_dir FOLDER" in message
    assert ("finished run" if finished else "unfinished run") in message
    assert content_of(tmp_path / "run") == before


OLD = TrainSettings(epochs=4, schedule="constant", warmup=0.0)


def records(*accuracies: float) -> list[dict]:
    best = [accuracy > max(accuracies[:i], default=-1) for i, accuracy in enumerate(accuracies)]
    return [
        {"step": 10 * (i + 1), "epoch": i + 1, "validation_accuracy": accuracy, "best": best[i]}
        for i, accuracy in enumerate(accuracies)
    ]


@pytest.mark.parametrize(
    ("before", "after", "gated", "told"),
    [
        ({}, {"epochs": 9}, False, None),
        ({}, {"epochs": 2}, False, None),
        ({}, {"epochs": 1}, False, "2 epochs are done"),
        ({"schedule": "step", "step_epochs": 1}, {"epochs": 9}, False, None),
        ({"schedule": "cosine"}, {"epochs": 9}, False, "cosine"),
        ({"warmup": 0.5}, {"epochs": 8}, False, "add --train.warmup 0.25"),
        ({"warmup": 0.5}, {"epochs": 8, "warmup": 0.25}, False, None),
        ({"schedule": "cosine", "warmup": 1.0}, {"epochs": 8, "warmup": 0.5}, False, None),
        ({}, {"epochs": 8}, True, None),  # held open for 2 epochs, which are done, or for 4
        ({"gate_warmup": 0.25}, {"epochs": 8}, True, "add --train.gate_warmup 0.125"),
        ({"gate_warmup": 0.25}, {"epochs": 8, "gate_warmup": 0.125}, True, None),
        ({"gate_warmup": 0.25}, {"epochs": 8}, False, None),
    ],
)
def test_settings_may_change_if_the_run_would_have_been_the_same_so_far(before, after, gated, told):
    old = replace(OLD, **before)
    progress = Progress(epoch=2, step=20, steps_per_epoch=10)
    found = objections(old, replace(old, **after), gated, progress, records(0.5, 0.6))
    assert [told in reason for reason in found] == ([] if told is None else [True])


@pytest.mark.parametrize(
    ("patience", "epoch_step", "told"),
    [(0, 3, None), (3, 0, None), (2, 0, None), (2, 3, "ended the run earlier"), (1, 0, "…")],
)
def test_patience_may_change_if_it_would_not_have_ended_the_run(patience, epoch_step, told):
    progress = Progress(epoch=3, epoch_step=epoch_step, step=30 + epoch_step, steps_per_epoch=10, since_best=2)
    now = replace(OLD, early_stopping=patience)
    found = objections(OLD, now, False, progress, records(0.6, 0.5, 0.4))
    assert bool(found) == (told is not None)
    of_earlier_version = [{**record} for record in records(0.6, 0.5, 0.4)]
    for record in of_earlier_version:
        del record["best"]
    assert objections(OLD, now, False, progress, of_earlier_version) == found


@pytest.mark.parametrize(("patience", "told"), [(3, None), (2, "ended the run earlier")])
def test_the_patience_counts_from_a_linear_start_that_no_epoch_made_better(patience, told):
    start = {"step": 0, "epoch": 0, "validation_accuracy": 0.7, "best": True}
    later = [record | {"best": False} for record in records(0.6, 0.5, 0.4)]
    progress = Progress(epoch=3, step=30, steps_per_epoch=10, since_best=3)
    found = objections(OLD, replace(OLD, early_stopping=patience), False, progress, [start, *later])
    assert [told in reason for reason in found] == ([] if told is None else [True])
