"""The command line of train.py: what a run writes, which options it trains with, and which errors it reports."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from huggingface_hub import ModelCard
from launched_train import use_plain_layers
from PIL import Image
from safetensors.torch import load_file
from tiny import NUM_TEST, VGG16, arguments, launch
from transformers import AutoBackbone, ResNetConfig, ViTImageProcessor

import eval as evaluation
import train
from app import Predictor
from app.training.trainer import build

ONE_EPOCH = ["--train.epochs", "1"]
pytestmark = pytest.mark.usefixtures("blank_charts")


@pytest.fixture
def weights_alone(monkeypatch):
    """Training ends without evaluation, for tests that compare weights."""
    monkeypatch.setattr("app.training.run.finish", lambda *args: None)


def test_a_run_folder_has_model_checkpoints_records_and_evaluation(run_dir):
    expected = ["config.yaml", "metrics.jsonl", "curves.png", "summary.txt", "checkpoints/step_00000004/manifest.json"]
    expected += [f"model/{name}" for name in ("config.json", "model.safetensors", "tokenizer.json", "README.md")]
    expected += [f"evaluation/test/{name}" for name in ("metrics.json", "predictions.parquet", "where_it_looked.png")]
    assert [name for name in expected if not (run_dir / name).is_file()] == []
    assert list(run_dir.rglob("events.out.tfevents.*")), "TensorBoard is the default tracker"


def test_records_hold_loss_rate_and_validation(run_dir):
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert any({"loss", "learning_rate", "gradient_norm"} <= record.keys() for record in records)
    epochs = [record for record in records if "validation_accuracy" in record]
    assert [record["epoch"] for record in epochs] == [1, 2]
    assert [record["best"] for record in epochs] == [
        True,
        epochs[1]["validation_accuracy"] > epochs[0]["validation_accuracy"],
    ]


def test_the_summary_has_scores_intervals_baselines_time_and_the_next_command(run_dir):
    summary = (run_dir / "summary.txt").read_text()
    for words in ("image + text", "text only", "image only", "majority answer", "95 % intervals", "minutes", "Next:"):
        assert words in summary
    assert f"python eval.py {run_dir}" in summary
    assert "accuracy by kind" in summary


def test_the_model_card_is_in_the_hubs_format_with_the_figures_of_the_evaluation(run_dir):
    card = ModelCard.load(run_dir / "model" / "README.md")
    figures = json.loads((run_dir / "evaluation" / "test" / "metrics.json").read_text())
    accuracy = figures["scores"]["image + text"]["accuracy"]
    found = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert found["accuracy"] == pytest.approx(accuracy["value"], abs=1e-4)
    assert {result.dataset_name for result in card.data.eval_results} == {"test.csv"}
    assert f"| accuracy | {accuracy['value']:.1%} | {accuracy['low']:.1%} – {accuracy['high']:.1%} |" in card.text
    assert figures["inputs"]["verdict"] in card.text
    assert "train.epochs: 2" in card.text, "the settings that are not the default"
    assert "{{" not in card.text
    assert "\n\n\n" not in card.text


def test_runs_have_the_same_weights_only_with_the_same_seed(run_dir, shapes_folder, tmp_path, weights_alone):
    train.main(arguments(shapes_folder, tmp_path / "again"))
    one, two = (load_file(folder / "model" / "model.safetensors") for folder in (run_dir, tmp_path / "again"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    train.main(arguments(shapes_folder, tmp_path / "other", "--train.seed", "1", "--train.epochs", "1"))
    other = load_file(tmp_path / "other" / "model" / "model.safetensors")
    assert not torch.equal(one["classifier.output.weight"], other["classifier.output.weight"])


def test_a_finished_run_is_not_overwritten_without_being_asked(run_dir, shapes_folder, capsys):
    before = (run_dir / "metrics.jsonl").read_text()
    with pytest.raises(SystemExit) as stop:
        train.main(arguments(shapes_folder, run_dir))
    assert stop.value.code == 2
    assert "holds a finished run: replace it with --overwrite true" in capsys.readouterr().err
    assert (run_dir / "metrics.jsonl").read_text() == before


def test_overwrite_spares_a_folder_that_is_not_a_run(shapes_folder, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(SystemExit):
        train.main(arguments(shapes_folder, tmp_path, "--overwrite", "true"))
    assert "is not a run folder" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--train.learning_rate", "1e-4"], "holds a finished run"),
        (["--overwrite", "true", "--data.label", "lable"], "Did you mean 'label'?"),
        (["--overwrite", "true", "--train.trackers", "[nope]"], "knows no tracker 'nope'"),
        (["--overwrite", "true", "--data.slice_by", "[nope]"], "has no column 'nope'"),
    ],
)
def test_a_run_is_not_changed_before_all_settings_are_checked(run_dir, shapes_folder, capsys, options, message):
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit):
        train.main(arguments(shapes_folder, run_dir, *options))
    assert message in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "options",
    [
        ["--train.optimizer", "sgd", "--train.schedule", "step", "--train.learning_rate", "1e-3"],
        ["--train.class_weights", "balanced", "--train.label_smoothing", "0.1"],
        ["--train.gradient_accumulation_steps", "2", "--train.scales.image_encoder", "0"],
        ["--train.early_stopping", "1", "--train.epochs", "2", "--train.mixed_precision", "bf16"],
        ["--model.fusion", "self", "--model.attention", "top_k", "--model.fusion_dropout", "0.1"],
        ["--model.fusion", "concat", "--model.attention", "low_rank"],
        ["--model.fusion", "none"],
        ["--model.attention", "chunked", "--model.levels", "[3, 4]", *VGG16, "--model.batch_norm", "false"],
        ["--model.gated", "true", "--train.gate_cost", "0.1", "--train.attention_penalty", "0.1"],
        ["--model.attention", "window", "--model.attention_window", "5"],
        ["--model.context_pooling", "queries", "--data.top_k_labels", "5"],
    ],
    ids=lambda options: "-".join(options[:2]).removeprefix("--"),
)
def test_training_options_run_to_the_end(shapes_folder, tmp_path, options):
    train.main([*arguments(shapes_folder, tmp_path / "run"), "--train.epochs", "1", *options])
    figures = json.loads((tmp_path / "run" / "evaluation" / "test" / "metrics.json").read_text())
    assert 0 <= figures["scores"]["image + text"]["accuracy"]["value"] <= 1


def test_a_cost_of_gates_closes_them(shapes_folder, tmp_path, weights_alone):
    bias = {}
    for cost in ("0", "20"):
        options = ["--model.gated", "true", "--train.gate_cost", cost, "--train.gate_warmup", "0"]
        options += ["--train.learning_rate", "1e-2"]
        run = train.main([*arguments(shapes_folder, tmp_path / cost, *VGG16), *options])
        weights = load_file(run / "model" / "model.safetensors")
        bias[cost] = weights["fusions.5.decide.2.bias"].item()
    assert bias["20"] < bias["0"] - 0.02


def test_another_image_encoder_is_fine_tuned_from_its_folder(shapes_folder, tmp_path):
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    AutoBackbone.from_config(ResNetConfig(**sizes)).save_pretrained(tmp_path / "resnet")
    ViTImageProcessor().save_pretrained(tmp_path / "resnet")
    options = ["--model.image_encoder", str(tmp_path / "resnet")]
    train.main([*arguments(shapes_folder, tmp_path / "run"), *options, *ONE_EPOCH])
    assert "resnet at 32 × 32 px" in (tmp_path / "run" / "model" / "README.md").read_text()
    assert Predictor.from_pretrained(tmp_path / "run").explain(Image.new("RGB", (9, 9)), "a b").words == ["a", "b"]


def test_a_stream_of_rows_trains_like_a_table(shapes_folder, tmp_path, weights_alone):
    options = ["--data.streaming", "true", "--data.validation", str(shapes_folder / "test.csv")]
    train.main([*arguments(shapes_folder, tmp_path / "run"), *options])
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if "epoch" in r] == [3, 6]


@pytest.fixture(scope="module")
def two_processes(shapes_folder, tmp_path_factory) -> tuple[Path, list[str], str]:
    """A run of two processes with one image that cannot be read: its folder, its options and what it printed."""
    folder = tmp_path_factory.mktemp("two_processes")
    rows = pd.read_csv(shapes_folder / "train.csv")
    broken = rows.iloc[[0]].assign(image="broken.png")
    (shapes_folder / "broken.png").write_bytes(b"no picture")
    pd.concat([rows, broken]).to_csv(shapes_folder / "broken.csv", index=False)
    options = ["--data.train", str(shapes_folder / "broken.csv"), "--data.on_bad_image", "skip"]
    options += ["--train.gradient_accumulation_steps", "2", "--train.mixed_precision", "no"]
    options += ["--model.modality_dropout", "0", "--train.label_smoothing", "0.1", "--train.optimizer", "sgd"]
    command = arguments(shapes_folder, folder / "run", *options, "--train.batch_size", "3")
    done = launch(2, "tests/launched_train.py", command, PLAIN="1")
    assert done.returncode == 0, done.stderr
    return folder / "run", options, done.stdout


def test_two_processes_train_one_model_and_score_every_row_once(two_processes, tmp_path):
    run_dir, _, printed = two_processes
    assert printed.count("on 2 × cpu") == 1
    assert printed.count("broken.png") == 1, "from the main process alone"
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert records[-1]["step"] == 4, "2 epochs of 3 batches for each process, in groups of 2"
    figures = json.loads((run_dir / "evaluation/test/metrics.json").read_text())
    assert figures["rows"] == NUM_TEST
    alone = evaluation.main([str(run_dir), "--output_dir", str(tmp_path), "--pictures", "0", "--batch_size", "3"])
    assert alone["scores"] == figures["scores"]


def test_two_processes_learn_what_one_learns_from_the_same_batches(two_processes, shapes_folder, tmp_path, monkeypatch):
    """Every row counts once and equally, though the processes have different numbers of rows and the last group of
    batches is short.
    """
    together, options, _ = two_processes
    use_plain_layers(monkeypatch.setattr)
    train.main(arguments(shapes_folder, tmp_path, *options, "--train.batch_size", "6"))
    lines = ((folder / "metrics.jsonl").read_text().splitlines() for folder in (tmp_path, together))
    for one, two in zip(*lines, strict=True):
        expected, found = json.loads(one), json.loads(two)
        expected.pop("minutes", None), expected.pop("held_out", None)
        assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    weights = load_file(together / "model/model.safetensors")
    for name, tensor in load_file(tmp_path / "model/model.safetensors").items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-3, atol=1e-5, msg=name)


def test_frozen_convolutions_do_not_change(shapes_folder, tmp_path, monkeypatch, weights_alone):
    started = {}
    monkeypatch.setattr("app.training.run.build", lambda *args: remember(build(*args), started))
    train.main([*arguments(shapes_folder, tmp_path / "run"), "--train.scales.image_encoder", "0"])
    ended = load_file(tmp_path / "run" / "model" / "model.safetensors")
    frozen = [name for name in started if name.startswith("image_encoder")]
    assert any("running_mean" in name for name in frozen)
    assert [name for name in frozen if not torch.equal(started[name], ended[name])] == []
    assert not torch.equal(started["classifier.output.weight"], ended["classifier.output.weight"])


def remember(built, started: dict):
    started.update({name: value.clone() for name, value in built[0].state_dict().items()})
    return built


def test_a_loss_that_is_not_finite_stops_and_names_the_step(shapes_folder, tmp_path, capsys):
    with pytest.raises(SystemExit):
        train.main([*arguments(shapes_folder, tmp_path / "run"), "--train.learning_rate", "1e30"])
    assert re.search(r"not finite at step \d+.*lower --train.learning_rate", capsys.readouterr().err)


def test_a_very_long_text_is_cut_and_counted(shapes_folder, tmp_path, capsys):
    rows = pd.read_csv(shapes_folder / "train.csv")
    rows.loc[0, "text"] = "word " * 20_000
    rows.to_csv(shapes_folder / "long.csv", index=False)
    train.main(
        [*arguments(shapes_folder, tmp_path / "run"), "--data.train", str(shapes_folder / "long.csv"), *ONE_EPOCH]
    )
    assert "texts have up to 20,002 tokens; 1 of" in capsys.readouterr().out
    answers = Predictor.from_pretrained(tmp_path / "run")(Image.new("RGB", (9, 9)), "x" * 100_000)
    assert len(answers) == 3


def test_missing_modalities_can_be_trained_and_predicted(shapes_folder, tmp_path):
    rows = pd.read_csv(shapes_folder / "train.csv")
    rows.loc[0:3, "text"] = ""
    rows.loc[4:8, "image"] = ""
    rows.to_csv(shapes_folder / "gaps.csv", index=False)
    options = ["--data.train", str(shapes_folder / "gaps.csv"), "--data.allow_missing", "true"]
    train.main([*arguments(shapes_folder, tmp_path / "run"), *options, *ONE_EPOCH])
    predictor = Predictor.from_pretrained(tmp_path / "run")
    assert len(predictor(None, "is there a red circle?")) == 3
    assert len(predictor(Image.new("RGB", (40, 40), "red"), None)) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.label", "lable"], "no column 'lable'"),
        (["--data.train", "none.csv"], "no file or folder 'none.csv'"),
        (["--model.text_encoder", "someone/encoder"], "hf download someone/encoder"),
        ([*VGG16, "--model.image_weights", "nope.pth"], "no file 'nope.pth'"),
        (["--train.gate_cost", "1"], "add --model.gated true"),
        (["--train.attention_penalty", "1", "--model.fusion", "concat"], "--model.fusion cross, not of concat"),
        (["--model.gated", "true", "--model.fusion", "none"], "has nothing to skip"),
        (["--train.linear_start", "true", "--model.classifier", "mixture"], "does not go with the classifier mixture"),
    ],
)
def test_an_error_of_the_user_ends_with_code_2_before_training(shapes_folder, tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as stop:
        train.main([*arguments(shapes_folder, tmp_path / "run"), *options])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_an_error_that_the_user_cannot_put_right_keeps_its_traceback(shapes_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("app.training.run.build", lambda *args: np.zeros(3).reshape(2))
    with pytest.raises(ValueError, match="reshape"):
        train.main(arguments(shapes_folder, tmp_path / "run"))


def test_an_arithmetic_error_of_numpy_keeps_its_traceback(shapes_folder, tmp_path, monkeypatch):
    def divide(*args):
        with np.errstate(all="raise"):
            return np.ones(1) / 0

    monkeypatch.setattr("app.training.run.build", divide)
    with pytest.raises(FloatingPointError):
        train.main(arguments(shapes_folder, tmp_path / "run"))


def test_training_without_data_is_an_error_that_says_how_to_name_them(tmp_path, capsys):
    with pytest.raises(SystemExit):
        train.main(["--run_dir", str(tmp_path / "run")])
    assert "--data.train FILE" in capsys.readouterr().err
