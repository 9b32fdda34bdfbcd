"""The main job through its real entrances: train.py, eval.py, the predictor and the command line."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import BertConfig, BertModel

import eval as evaluation
import train
from app import Predictor
from app.__main__ import main as app
from app.checkpoint import save_checkpoint
from app.explain import Explanation
from app.run_dir import RunDir
from data.shapes import SEEDS, generate_rows

ROOT = Path(__file__).parent.parent
NUM_TRAIN, NUM_TEST = (len(list(generate_rows(images, SEEDS[split]))) for images, split in ((24, "train"), (8, "test")))
TINY = ["--model.image_size", "32", "--model.classifier_hidden_size", "32", "--model.text_hidden_size", "32"]
TINY += ["--train.batch_size", "8", "--data.num_workers", "0", "--train.trackers", "[]"]
TINY += ["--train.pictures", "1"]


def arguments(folder: Path, run_dir: Path, *more: str) -> list[str]:
    data = ["--data.train", str(folder / "train.csv"), "--data.test", str(folder / "test.csv")]
    return [*data, *TINY, "--run_dir", str(run_dir), "--train.epochs", "2", *more]


@pytest.fixture(scope="module")
def run_dir(shapes_folder, tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "tiny"
    train.main(arguments(shapes_folder, run_dir, "--train.trackers", "[tensorboard]", "--data.slice_by", "[kind]"))
    return run_dir


def test_a_run_folder_holds_everything_one_needs_afterwards(run_dir):
    expected = ["config.yaml", "metrics.jsonl", "curves.png", "summary.txt", "checkpoints/last/progress.json"]
    expected += [f"model/{name}" for name in ("config.json", "model.safetensors", "tokenizer.json", "README.md")]
    expected += [f"evaluation/test/{name}" for name in ("metrics.json", "predictions.parquet", "where_it_looked.png")]
    assert [name for name in expected if not (run_dir / name).is_file()] == []
    assert list(run_dir.rglob("events.out.tfevents.*")), "TensorBoard is the default tracker"


def test_records_hold_loss_rate_and_validation(run_dir):
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert any({"loss", "learning_rate", "gradient_norm"} <= record.keys() for record in records)
    assert [record["epoch"] for record in records if "validation_accuracy" in record] == [1, 2]


def test_the_summary_tells_score_interval_baselines_time_and_what_to_type_next(run_dir):
    summary = (run_dir / "summary.txt").read_text()
    for words in ("image + text", "text only", "image only", "majority answer", "95 % intervals", "minutes", "Next:"):
        assert words in summary
    assert f"python eval.py {run_dir}" in summary
    assert "accuracy by kind" in summary


def test_the_model_card_is_in_the_hubs_format(run_dir):
    card = (run_dir / "model" / "README.md").read_text()
    assert card.startswith("---\n")
    assert "majority answer" in card


def test_eval_needs_the_run_folder_alone_and_repeats_the_figures_of_training(run_dir):
    first = json.loads((run_dir / "evaluation" / "test" / "metrics.json").read_text())
    assert evaluation.main([str(run_dir), "--pictures", "0"])["scores"].keys() == first["scores"].keys()
    again = json.loads((run_dir / "evaluation" / "test" / "metrics.json").read_text())
    assert again["rows"] == first["rows"] == NUM_TEST
    for system, scores in first["scores"].items():
        assert again["scores"][system]["accuracy"] == scores["accuracy"], system


def test_eval_needs_nothing_but_the_model_folder_for_other_rows(run_dir, shapes_folder, tmp_path):
    model = tmp_path / "copied"
    shutil.copytree(run_dir / "model", model)
    output = tmp_path / "out"
    figures = evaluation.main(
        [str(model), "--data.test", str(shapes_folder / "train.csv"), "--output_dir", str(output), "--pictures", "1"]
    )
    assert figures["rows"] == NUM_TRAIN
    table = pd.read_parquet(output / "predictions.parquet")
    assert table["correct"].mean() == pytest.approx(figures["scores"]["image + text"]["accuracy"]["value"])


def test_a_model_folder_knows_the_columns_it_was_trained_on(run_dir, shapes_folder, tmp_path):
    shutil.copytree(run_dir / "model", tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    config["columns"] = {"image": "file", "text": "{question} {hint}", "label": "answer"}
    (tmp_path / "model/config.json").write_text(json.dumps(config))
    rows = pd.read_csv(shapes_folder / "test.csv").assign(hint="please")
    rows = rows.rename(columns={"image": "file", "text": "question", "label": "answer"})
    rows.to_csv(shapes_folder / "renamed.csv", index=False)
    options = ["--data.test", str(shapes_folder / "renamed.csv"), "--output_dir", str(tmp_path), "--pictures", "0"]
    assert evaluation.main([str(tmp_path / "model"), *options])["rows"] == NUM_TEST
    assert pd.read_parquet(tmp_path / "predictions.parquet")["text"].str.endswith(" please").all()


def test_predictions_are_the_predictors_whatever_the_batch(run_dir, shapes_folder):
    evaluation.main([str(run_dir), "--pictures", "0", "--batch_size", "3", "--mixed_precision", "no"])
    table = pd.read_parquet(run_dir / "evaluation" / "test" / "predictions.parquet")
    rows = pd.read_csv(shapes_folder / "test.csv")
    predictor = Predictor.from_pretrained(run_dir)
    for i in (0, 17, NUM_TEST - 1):
        answers = predictor(shapes_folder / rows.image[i], rows.text[i], top_k=20)
        assert answers[0]["label"] == table.prediction[i]
        assert answers[0]["probability"] == pytest.approx(table.probability[i], abs=1e-4)
        assert sum(a["probability"] for a in answers) == pytest.approx(1, abs=1e-4)


def test_the_validation_rows_can_be_scored_too(run_dir):
    assert evaluation.main([str(run_dir), "--split", "validation", "--pictures", "0"])["rows"] < NUM_TRAIN


def test_other_rows_do_not_replace_the_result_on_the_runs_own(run_dir, shapes_folder, tmp_path, capsys):
    before = (run_dir / "evaluation/test/metrics.json").read_bytes()
    shutil.copytree(shapes_folder, tmp_path / "elsewhere")
    rows = pd.read_csv(tmp_path / "elsewhere/test.csv").drop(columns="kind")
    rows.loc[:3, "text"] = ""
    rows.to_csv(tmp_path / "elsewhere/test.csv", index=False)
    options = ["--data.test", str(tmp_path / "elsewhere/test.csv"), "--pictures", "0"]
    with pytest.raises(SystemExit) as stop:
        evaluation.main([str(run_dir), *options])
    assert stop.value.code == 2
    assert "--data.allow_missing true" in capsys.readouterr().err
    evaluation.main([str(run_dir), *options, "--data.allow_missing", "true"])
    assert "has no column kind: accuracy is not told apart by it" in capsys.readouterr().out
    assert (run_dir / "evaluation/elsewhere_test/metrics.json").is_file()
    assert (run_dir / "evaluation/test/metrics.json").read_bytes() == before


def test_unknown_labels_count_as_wrong_and_are_reported(run_dir, shapes_folder, tmp_path, capsys):
    rows = pd.read_csv(shapes_folder / "test.csv").assign(image=lambda r: str(shapes_folder) + "/" + r.image)
    rows.loc[:11, "label"] = "never seen"
    rows.to_csv(tmp_path / "t.csv", index=False)
    options = ["--data.image_root", "/", "--output_dir", str(tmp_path / "out"), "--pictures", "0"]
    figures = evaluation.main([str(run_dir), "--data.test", str(tmp_path / "t.csv"), *options])
    assert figures["unknown_labels"] == {"never seen": 12}
    assert figures["ceiling"] == pytest.approx(1 - 12 / NUM_TEST)
    assert f"no accuracy can exceed {1 - 12 / NUM_TEST:.1%}" in capsys.readouterr().out
    assert not pd.read_parquet(tmp_path / "out" / "predictions.parquet")["correct"][:12].any()


def test_two_runs_of_one_seed_end_with_the_same_weights(run_dir, shapes_folder, tmp_path):
    train.main(arguments(shapes_folder, tmp_path / "again"))
    one, two = (load_file(folder / "model" / "model.safetensors") for folder in (run_dir, tmp_path / "again"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    train.main(arguments(shapes_folder, tmp_path / "other", "--train.seed", "1"))
    other = load_file(tmp_path / "other" / "model" / "model.safetensors")
    assert not torch.equal(one["image_encoder.features.0.weight"], other["image_encoder.features.0.weight"])


def test_a_run_that_exists_is_neither_mixed_nor_lost(run_dir, shapes_folder, capsys):
    before = (run_dir / "metrics.jsonl").read_text()
    with pytest.raises(SystemExit) as stop:
        train.main(arguments(shapes_folder, run_dir))
    assert stop.value.code == 2
    assert "--resume true" in (message := capsys.readouterr().err)
    assert "--overwrite true" in message
    assert (run_dir / "metrics.jsonl").read_text() == before


def test_overwrite_spares_a_folder_that_is_no_run(shapes_folder, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(SystemExit):
        train.main(arguments(shapes_folder, tmp_path, "--overwrite", "true"))
    assert "is not a run folder" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").exists()


def test_a_stopped_run_goes_on_at_its_next_epoch_and_ends_as_if_it_had_not_stopped(
    run_dir, shapes_folder, tmp_path, monkeypatch
):
    def stop_after_saving(*args):
        save_checkpoint(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train, "save_checkpoint", stop_after_saving)
        with pytest.raises(KeyboardInterrupt):
            train.main(arguments(shapes_folder, tmp_path / "run"))
    RunDir(tmp_path / "run").log({"step": 3, "loss": 9.0, "learning_rate": 0.0})  # of the epoch that was cut short
    train.main(arguments(shapes_folder, tmp_path / "run", "--resume", "true"))
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(r["step"], r["epoch"]) for r in records if "epoch" in r] == [(2, 1), (4, 2)]
    assert [r["step"] for r in records if "loss" in r] == [2, 4]
    one, two = (load_file(folder / "model" / "model.safetensors") for folder in (run_dir, tmp_path / "run"))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--resume", "true", "--train.learning_rate", "1e-4"], "train.learning_rate was 0.001, now 0.0001"),
        (["--overwrite", "true", "--data.label", "lable"], "Did you mean 'label'?"),
        (["--overwrite", "true", "--train.trackers", "[nope]"], "knows no tracker 'nope'"),
        (["--overwrite", "true", "--data.slice_by", "[nope]"], "has no column 'nope'"),
    ],
)
def test_a_run_is_not_touched_before_all_is_checked(run_dir, shapes_folder, capsys, options, message):
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit):
        train.main(arguments(shapes_folder, run_dir, *options))
    assert message in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}


def test_nothing_to_resume_says_how_to_start(shapes_folder, tmp_path, capsys):
    with pytest.raises(SystemExit):
        train.main(arguments(shapes_folder, tmp_path / "none", "--resume", "true"))
    assert "start with no --resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ["--train.optimizer", "sgd", "--train.schedule", "step", "--train.learning_rate", "1e-3"],
        ["--train.class_weights", "balanced", "--train.label_smoothing", "0.1"],
        ["--train.gradient_accumulation_steps", "2", "--train.scales.image_encoder", "0"],
        ["--train.early_stopping", "1", "--train.mixed_precision", "bf16"],
        ["--model.fusion", "self", "--model.attention", "top_k", "--model.fusion_dropout", "0.1"],
        ["--model.fusion", "concat", "--model.attention", "low_rank"],
        ["--model.fusion", "none"],
        ["--model.levels", "[3, 4]", "--model.attention", "chunked"],
        ["--model.attention", "window", "--model.attention_window", "5"],
        ["--model.context_pooling", "queries", "--model.batch_norm", "false", "--data.top_k_labels", "5"],
    ],
    ids=lambda options: "-".join(options[:2]).removeprefix("--"),
)
def test_training_options_run_to_the_end(shapes_folder, tmp_path, options):
    train.main([*arguments(shapes_folder, tmp_path / "run"), *options])
    figures = json.loads((tmp_path / "run" / "evaluation" / "test" / "metrics.json").read_text())
    assert 0 <= figures["scores"]["image + text"]["accuracy"]["value"] <= 1


def test_a_stream_of_rows_trains_like_a_table(shapes_folder, tmp_path):
    options = ["--data.streaming", "true", "--data.validation", str(shapes_folder / "test.csv")]
    train.main([*arguments(shapes_folder, tmp_path / "run"), *options])
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if "epoch" in r] == [3, 6]


def test_two_processes_train_one_model_and_score_every_row_once(shapes_folder, tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    env = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    options = arguments(shapes_folder, tmp_path / "run", "--train.batch_size", "4", "--train.epochs", "1")
    options += ["--train.mixed_precision", "no"]
    command = [*launch, "train.py", *options]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert "on 2 × cpu" in done.stdout
    records = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert records[-1]["step"] == 2, "21 images in batches of 4 are 5 full batches, 2 for each process"
    figures = json.loads((tmp_path / "run/evaluation/test/metrics.json").read_text())
    assert figures["rows"] == NUM_TEST
    alone = evaluation.main([str(tmp_path / "run"), "--output_dir", str(tmp_path / "alone"), "--pictures", "0"])
    assert alone["scores"] == figures["scores"]


def test_frozen_convolutions_do_not_move(shapes_folder, tmp_path, monkeypatch):
    started = {}
    build = train.build
    monkeypatch.setattr(train, "build", lambda *args: remember(build(*args), started))
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
    assert re.search(r"not finite at step \d+.*Lower --train.learning_rate", capsys.readouterr().err)


def test_a_very_long_text_is_cut_and_counted(shapes_folder, tmp_path, capsys):
    rows = pd.read_csv(shapes_folder / "train.csv")
    rows.loc[0, "text"] = "word " * 20_000
    rows.to_csv(shapes_folder / "long.csv", index=False)
    train.main([*arguments(shapes_folder, tmp_path / "run"), "--data.train", str(shapes_folder / "long.csv")])
    assert "texts have up to 20,002 tokens; 1 of" in capsys.readouterr().out
    answers = Predictor.from_pretrained(tmp_path / "run")(Image.new("RGB", (9, 9)), "x" * 100_000)
    assert len(answers) == 3


def test_missing_modalities_are_trained_and_predicted_where_they_are_allowed(shapes_folder, tmp_path):
    rows = pd.read_csv(shapes_folder / "train.csv")
    rows.loc[0:3, "text"] = ""
    rows.loc[4:8, "image"] = ""
    rows.to_csv(shapes_folder / "gaps.csv", index=False)
    options = ["--data.train", str(shapes_folder / "gaps.csv"), "--data.allow_missing", "true"]
    train.main([*arguments(shapes_folder, tmp_path / "run"), *options])
    predictor = Predictor.from_pretrained(tmp_path / "run")
    assert len(predictor(None, "is there a red circle?")) == 3
    assert len(predictor(Image.new("RGB", (40, 40), "red"), None)) == 3


def test_the_predictor_answers_several_questions_as_one_by_one(run_dir, shapes_folder):
    predictor = Predictor.from_pretrained(run_dir)
    image = shapes_folder / "images" / "test" / "0.png"
    pairs = [(image, "count the shapes."), (image, "where is the circle?"), (None, "count the shapes."), (image, None)]
    together = predictor.predict(pairs, top_k=2)
    for pair, answers in zip(pairs, together, strict=True):
        assert [a["label"] for a in predictor(*pair, top_k=2)] == [a["label"] for a in answers]
        assert [a["probability"] for a in answers] == pytest.approx(
            [a["probability"] for a in predictor(*pair, top_k=2)], abs=1e-4
        )


def test_an_explanation_has_a_map_and_an_overlay_for_every_word(run_dir, shapes_folder):
    image = shapes_folder / "images" / "test" / "0.png"
    found = Predictor.from_pretrained(run_dir).explain(image, "where is the circle?")
    assert found.words == ["where", "is", "the", "circle", "?"]
    assert [attention.shape for attention in found.attention] == [(8, 5, 7, 7)]
    assert (found.attention[0].sum(axis=1) <= 1 + 1e-5).all(), "special tokens take the rest"
    assert {overlay.size for overlay in found.overlays()} == {(64, 64)}
    np.testing.assert_allclose(found.heat(3), found.attention[0][:, 3].mean(axis=0))
    assert found.answer_weights.sum() == pytest.approx(1, abs=1e-4)
    assert len(found.figure().axes) == 2 * 7 + 6, "image, answer and words in two rows, and a colour bar each"


def test_overlays_of_words_share_one_scale_and_words_that_do_not_fit_are_counted():
    attention = np.zeros((2, 3, 7, 7))
    attention[:, 0, 0, 0], attention[:, 1, 6, 6] = 0.8, 0.001
    found = Explanation(Image.new("RGB", (70, 70)), ["red", "is", "?"], np.full((7, 7), 1 / 49), [attention])
    red, faint, none = (np.asarray(overlay).astype(int) for overlay in found.overlays())
    assert red[3, 3].sum() > 200
    assert red[60, 60].sum() < 20
    assert abs(faint - none).max() < 5, "a thousandth of the other word's attention is not made to look like it"
    assert "first 2 of 3 words" in found.figure("title", max_words=2)._suptitle.get_text()


@pytest.mark.parametrize(
    ("image", "text", "message"),
    [
        (None, None, "neither"),
        (None, " ", "neither"),
        ("/nowhere.png", "x", "The image /nowhere.png cannot be read: cannot open the file"),
        (b"no image", "x", r"The image cannot be read: not a readable JPEG, .* image$"),
        (np.zeros((8, 8, 3)), "x", "a file, its bytes or a PIL image, got ndarray"),
    ],
)
def test_the_predictor_names_bad_input(run_dir, image, text, message):
    with pytest.raises(ValueError, match=message):
        Predictor.from_pretrained(run_dir)(image, text)


def test_the_command_line_predicts_and_explains(run_dir, shapes_folder, tmp_path):
    image = str(shapes_folder / "images" / "test" / "0.png")
    command = [sys.executable, "-m", "app", "predict", str(run_dir), "--image", image, "--text", "count the shapes."]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 3
    assert all("%" in line for line in lines)
    app(["explain", str(run_dir), "--image", image, "--text", "count it", "--output", str(tmp_path / "x.png")])
    assert Image.open(tmp_path / "x.png").size[0] > 300


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere", "There is no folder 'nowhere'"),
        ("images", r"not a model folder: expected config.json.*found \["),
        ("bert", "type 'bert'"),
    ],
)
def test_a_folder_that_is_no_model_is_told_from_one(shapes_folder, tmp_path, capsys, path, message):
    folder = {"nowhere": "nowhere", "images": shapes_folder / "images", "bert": tmp_path}[path]
    if path == "bert":
        config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9)
        BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(SystemExit) as stop:
        evaluation.main([str(folder)])
    assert stop.value.code == 2
    assert re.search(f"(?s)error: .*{message}", capsys.readouterr().err)


def test_damaged_weights_are_told_from_good_ones(run_dir, tmp_path):
    shutil.copytree(run_dir / "model", tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"could not be loaded, its files may be damaged"):
        Predictor.from_pretrained(tmp_path / "model")


def test_eval_without_held_out_rows_says_how_to_give_some(run_dir, capsys):
    with pytest.raises(SystemExit):
        evaluation.main([str(run_dir / "model")])
    assert "names no test data; give rows with --data.test FILE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.label", "lable"], "no column 'lable'"),
        (["--data.train", "none.csv"], "no file or folder 'none.csv'"),
        (["--model.text_encoder", "someone/encoder"], "hf download someone/encoder"),
        (["--model.image_weights", "nope.pth"], "no file 'nope.pth'"),
        (["--resume", "true"], "no checkpoint to resume from"),
    ],
)
def test_what_the_user_can_mend_ends_with_code_2_before_training(shapes_folder, tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as stop:
        train.main([*arguments(shapes_folder, tmp_path / "run"), *options])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_no_data_at_all_says_how_to_begin(tmp_path, capsys):
    with pytest.raises(SystemExit):
        train.main(["--run_dir", str(tmp_path / "run")])
    assert "--data.train FILE" in capsys.readouterr().err
