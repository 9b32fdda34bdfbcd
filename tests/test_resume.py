"""A run that is killed and started again ends with the same result as one that nothing interrupts."""

import os
import shutil

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from interrupted import RANDOM, Clock, Killed, assert_same, run_until
from tiny import arguments, blank_charts
from transformers import Dinov2Config, Dinov2Model, ViTImageProcessor

import app.training.checkpoint
import app.training.finish
import train
from app.inference.load import load_model
from app.training.checkpoint import Checkpoints
from app.training.run_folder import RunDir

pytestmark = pytest.mark.usefixtures("blank_charts")


@pytest.fixture(scope="module")
def moments(shapes_folder, tmp_path_factory) -> int:
    """The number of moments from the start of a run to its end."""
    clock = Clock()
    run_dir = tmp_path_factory.mktemp("counted") / "run"
    with blank_charts():
        run_until(clock, arguments(shapes_folder, run_dir, *RANDOM, "--train.checkpoint_steps", "1"))
    return clock.moment


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(deaths=st.lists(st.integers(0, 1000), min_size=1, max_size=3))
@example(deaths=[0])
@example(deaths=[1000])
def test_a_run_killed_at_any_moments_ends_with_the_same_result(deaths, whole, moments, shapes_folder, tmp_path_factory):
    """A death is a moment in thousandths of a run."""
    run_dir = tmp_path_factory.mktemp("killed") / "run"
    command = arguments(shapes_folder, run_dir, *RANDOM, "--train.checkpoint_steps", "1")
    for death in deaths:
        try:
            run_until(Clock(1 + death * (moments - 1) // 1000), command)
            break
        except Killed:
            if RunDir(run_dir).result() is not None:  # only the last message is missing
                break
    else:
        train.main(command)
    assert_same(run_dir, whole)


def test_a_run_killed_between_the_two_renames_of_its_last_replacement_can_finish(whole, shapes_folder, tmp_path):
    """The calibrated model replaces the model at the end, when no step is left that would save it again."""
    command, run = arguments(shapes_folder, tmp_path / "run", *RANDOM), RunDir(tmp_path / "run")
    calibrate = app.training.finish.calibrate
    with pytest.MonkeyPatch.context() as patch:

        def watched(*args):
            patch.setattr(os, "replace", Clock(2).around(os.replace))
            calibrate(*args)

        patch.setattr(app.training.finish, "calibrate", watched)
        with pytest.raises(Killed):
            train.main(command)
    assert not run.model.exists()
    assert load_model(run.path)[0].config.temperature == 1
    train.main(command)
    assert_same(run.path, whole)


def test_without_the_saved_random_states_the_result_differs(whole, shapes_folder, tmp_path, monkeypatch):
    """The comparison of these tests notices a difference in dropout."""
    command = arguments(shapes_folder, tmp_path / "run", *RANDOM, "--train.checkpoint_steps", "1")
    with pytest.raises(Killed):
        run_until(Clock(30), command)
    monkeypatch.setattr(app.training.checkpoint, "restore_random_states", lambda states: None)
    train.main(command)
    with pytest.raises(AssertionError):
        assert_same(tmp_path / "run", whole)


def test_a_run_killed_before_its_first_checkpoint_starts_again(whole, shapes_folder, tmp_path):
    command = arguments(shapes_folder, tmp_path / "run", *RANDOM)
    with pytest.raises(Killed):
        run_until(Clock(3), command)
    assert not (tmp_path / "run/checkpoints").exists()
    train.main(command)
    assert_same(tmp_path / "run", whole)


def test_a_run_counts_as_finished_only_after_its_last_file_is_written(whole, shapes_folder, tmp_path):
    command = arguments(shapes_folder, tmp_path / "run", *RANDOM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app.training.finish, "next_commands", lambda *args: Clock(1).tick())
        with pytest.raises(Killed):
            train.main(command)
    assert RunDir(tmp_path / "run").result() is None
    train.main(command)
    assert (tmp_path / "run/summary.txt").exists()
    assert_same(tmp_path / "run", whole)


@pytest.mark.parametrize("what", ["no gradient of the text encoder", "no gradient of DINOv2's mask token", "muon"])
def test_a_run_whose_parameters_have_no_or_another_state_of_the_optimizer_can_be_resumed(what, shapes_folder, tmp_path):
    more = ["--train.optimizer", "muon"] if what == "muon" else ["--model.fusion", "none"]
    if "DINOv2" in what:
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8}
        Dinov2Model(Dinov2Config(image_size=32, **sizes)).save_pretrained(tmp_path / "dinov2")
        ViTImageProcessor().save_pretrained(tmp_path / "dinov2")
        more = ["--model.image_encoder", str(tmp_path / "dinov2")]
    command = arguments(shapes_folder, tmp_path / "run", *RANDOM, *more, "--train.checkpoint_steps", "1")
    with pytest.raises(Killed):
        run_until(Clock(30), command)
    assert Checkpoints(tmp_path / "run/checkpoints").all()
    train.main(command)
    train.main(arguments(shapes_folder, tmp_path / "whole", *RANDOM, *more))
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_a_stream_is_resumed_in_the_middle_of_an_epoch(shapes_folder, tmp_path):
    stream = ["--data.streaming", "true", "--data.validation", str(shapes_folder / "test.csv")]
    train.main(arguments(shapes_folder, tmp_path / "whole", *RANDOM, *stream))
    command = arguments(shapes_folder, tmp_path / "run", *RANDOM, *stream, "--train.checkpoint_steps", "1")
    with pytest.raises(Killed):
        run_until(Clock(35), command)
    assert "step_00000002" in {path.name for path in Checkpoints(tmp_path / "run/checkpoints").all()}
    train.main(command)
    assert_same(tmp_path / "run", tmp_path / "whole")
    shutil.rmtree(tmp_path)
