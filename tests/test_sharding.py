"""Training with weights in shards (FSDP) gives the same model and the same files."""

import json
from pathlib import Path

import pytest
import torch
from launched_train import use_plain_layers
from safetensors.torch import load_file
from tiny import arguments, launch

import train
from app import Predictor

OPTIONS = ["--train.batch_size", "4", "--train.checkpoint_steps", "1"]


def outcome(run_dir: Path) -> tuple[list[dict], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Records without their times, weights, and the last state of the optimizer."""
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        record.pop("minutes", None), record.pop("held_out", None)
    last = max((run_dir / "checkpoints").iterdir())
    return records, load_file(run_dir / "model/model.safetensors"), load_file(last / "optimizer.safetensors")


def train_with(command: list[str], **environment: str) -> None:
    done = launch(2, "tests/launched_train.py", command, **environment)
    assert done.returncode == 0, done.stderr


def test_deepspeed_is_an_error_that_names_the_configuration_of_fsdp(shapes_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(SystemExit) as stop:
        train.main(arguments(shapes_folder, tmp_path / "run"))
    assert stop.value.code == 2
    assert "--config_file configs/accelerate/fsdp.yaml" in capsys.readouterr().err


@pytest.mark.usefixtures("blank_charts")
def test_training_in_shards_learns_what_one_process_learns(shapes_folder, tmp_path, pretrained, monkeypatch):
    options = [*OPTIONS, "--train.mixed_precision", "no", "--train.optimizer", "sgd", "--model.modality_dropout", "0"]
    options += ["--model.text_encoder", pretrained, "--train.lora_rank", "2"]
    train_with(arguments(shapes_folder, tmp_path / "sharded", *options), PLAIN="1", SHARDED="1", GROUPED="1")
    use_plain_layers(monkeypatch.setattr)
    train.main(arguments(shapes_folder, tmp_path / "whole", *options, "--train.batch_size", "8"))
    (records, *whole), (other_records, *sharded) = outcome(tmp_path / "whole"), outcome(tmp_path / "sharded")
    for one, two in zip(records, other_records, strict=True):
        assert two == pytest.approx(one, rel=1e-4)
    for ours, theirs in zip(whole, sharded, strict=True):
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():  # the order of sums differs, and so do the last digits
            difference = (theirs[name] - tensor).double()
            assert difference.norm() <= 1e-2 * tensor.double().norm() + 1e-5, name
    assert len(Predictor.from_pretrained(tmp_path / "sharded")(None, "is there a red circle?")) == 3


def test_a_killed_run_in_shards_is_resumed_bit_by_bit(shapes_folder, tmp_path):
    whole, halves = (arguments(shapes_folder, tmp_path / name, *OPTIONS) for name in ("whole", "halves"))
    train_with(whole, SHARDED="1")
    assert launch(2, "tests/launched_train.py", halves, SHARDED="1", DIE_AT="3").returncode != 0
    assert not (tmp_path / "halves/evaluation").exists()
    train_with(halves, SHARDED="1")
    (records, *tensors), (other_records, *other_tensors) = outcome(tmp_path / "whole"), outcome(tmp_path / "halves")
    assert other_records == records
    for ours, theirs in zip(tensors, other_tensors, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=0, atol=0)
