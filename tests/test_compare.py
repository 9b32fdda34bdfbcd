"""Two models on the same rows."""

import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from tiny import NUM_TRAIN, TINY, shared_encoder

import eval as evaluation
import train
from app.__main__ import main as app
from app.evaluation.compare import compare, load_predictions, sign_flip_test
from app.evaluation.interval import Interval
from app.evaluation.targets import Targets
from app.reporting.text import comparison_text
from app.studies.kfold import folds_text, gains_over_others, kfold, pooled, systems_text, together
from app.training.run import run_training
from data import LabelFormat
from data.errors import UserError


def table(right: np.ndarray, images: np.ndarray) -> pd.DataFrame:
    rows = np.arange(len(right))
    texts = [f"text {row}" for row in rows]
    keys = [f"image {i}" for i in images]
    table = {"row": rows, "image_key": keys, "group": images, "text": texts, "label": "x", "correct": right}
    return pd.DataFrame(table)


def test_a_hand_computed_difference():
    images = np.repeat(np.arange(10), 2)
    first, second = np.zeros(20, dtype=bool), np.zeros(20, dtype=bool)
    first[:4], second[2:10] = True, True
    found = compare(table(first, images), table(second, images))
    assert found.accuracy == [0.2, 0.4]
    assert found.difference.value == pytest.approx(0.2)
    assert (found.better_first, found.better_second) == (2, 6)
    # by image: one image -2, three images +2; as large a sum in 8 of the 16 ways to choose four signs, and 2 extremes
    assert found.p == pytest.approx(10 / 16)


def test_equal_models_seldom_differ_although_images_have_many_rows():
    rng = np.random.default_rng(0)
    images = np.repeat(np.arange(30), 10)
    found = [sign_flip_test(np.repeat(rng.choice([-1, 0, 1], 30), 10).astype(float), images, 1000) for _ in range(200)]
    assert np.mean(np.array(found) < 0.05) < 0.1


def test_few_groups_that_differ_are_tested_exactly():
    """Of five groups that differ in the same direction, 2 of 32 ways to choose the signs are as extreme."""
    assert sign_flip_test(np.repeat([1.0, 0.0], [5, 95]), np.arange(100)) == pytest.approx(2 / 32)
    for differences in (np.zeros(4), np.array([1.0, 0, 0, 0])):
        assert sign_flip_test(differences, np.arange(4)) == 1
        assert sign_flip_test(differences, np.zeros(4)) == 1


def test_equal_models_seldom_differ_although_patients_have_many_images():
    """Two equal models, each better on some patients: 16 of them with 10 images."""
    rng, patients = np.random.default_rng(0), np.repeat(np.arange(16), 10)
    found = []
    for _ in range(40):
        better = rng.choice([0.0, 1.0], 16)[patients]
        tables = [table(right, np.arange(160)).assign(group=patients) for right in (better, 1 - better)]
        found.append(compare(tables[0], tables[1].assign(group=np.arange(160))).p)
    assert np.mean(np.array(found) < 0.05) < 0.12, "by image it is most of them"


def test_rows_of_weight_three_are_compared_as_three_rows():
    images, rng = np.arange(40), np.random.default_rng(0)
    first, second = (table(rng.random(40) < share, images) for share in (0.4, 0.8))
    times = rng.integers(1, 4, 40)
    found = compare(first.assign(weight=times / 2), second.assign(weight=times / 2))
    gain = np.repeat(second["correct"].astype(float) - first["correct"], times)
    assert found.difference.value == pytest.approx(gain.mean())
    assert found.accuracy[0] == pytest.approx(np.repeat(first["correct"], times).mean())
    assert found.p == sign_flip_test(gain.to_numpy(), np.repeat(images, times))
    assert found.better_second == (second["correct"] & ~first["correct"]).sum()
    with pytest.raises(ValueError, match=r"different rows: 40 and 40, of which .* count the same"):
        compare(first.assign(weight=times / 2), second)


FOLDED = {
    "multi": (["a|b", "", "a", "b|c", "c", "a"], ["a|b", "", "b", "b|c", "", "a"], 4 / 6),
    "annotators": (["a|a|b", "b|b|c", "c|c|c", "a|b|c", "b|b|b", "a|a|a"], list("abcaaa"), None),
    "single": (list("abcabc"), list("abcbbb"), 4 / 6),
}


@pytest.mark.parametrize("label_type", FOLDED)
@pytest.mark.parametrize("weighed", [False, True])
def test_folds_of_every_label_type_are_scored_like_all_rows_together(label_type, weighed):
    """By the labels' names, since each fold has numbers of its own."""
    labels, answers, accuracy = FOLDED[label_type]
    form = LabelFormat(label_type)
    rows = pd.DataFrame({"label": labels, "prediction": answers, "group": [f"{i % 2} {i}" for i in range(6)]})
    rows["weight"] = np.arange(1, 7) / 3 if weighed else 1.0
    label2id = {name: number for number, name in enumerate("abc")}
    probabilities = np.zeros((6, 3))
    for row, answer in enumerate(answers):
        probabilities[row, [label2id[name] for name in form.names(answer)]] = 1
    right = Targets.of(labels, label2id, form).correctness(probabilities)
    scores = pooled(rows if weighed else rows.drop(columns="weight"), form)
    assert scores["accuracy"].value == pytest.approx(np.average(right, weights=rows["weight"]))
    if accuracy and not weighed:
        assert scores["accuracy"].value == pytest.approx(accuracy)
    assert 0 < scores["macro_f1"].value < 1


def test_folds_with_row_weights_are_averaged_by_weight_and_not_mixed_with_folds_without(monkeypatch, tmp_path):
    (tmp_path / "c.yaml").write_text("data:\n  train: shapes:4\n")
    tables = [
        table(np.array([True, False]), np.arange(2)).assign(prediction="x", probabilities=0, weight=weights)
        for weights in ([3.0, 1.0], [1.0, 3.0])
    ]
    run = SimpleNamespace(path=tmp_path)
    monkeypatch.setattr("app.studies.kfold.finished_run", lambda settings, title: run)
    monkeypatch.setattr("app.studies.kfold.load_predictions", lambda *given: next(found))
    found = iter(tables)
    kfold(tmp_path / "c.yaml", 2, tmp_path)
    assert json.loads((tmp_path / "kfold.json").read_text())["folds"] == [0.75, 0.25]
    found = iter([tables[0], tables[1].drop(columns="weight")])
    with pytest.raises(ValueError, match="without row weights"):
        kfold(tmp_path / "c.yaml", 2, tmp_path)


def test_the_folds_together_are_compared_with_other_systems_on_the_same_rows():
    """By hand: the model is right in all 40 rows, a linear classifier in the 20 of every other group."""
    groups = np.repeat(np.arange(20), 2)
    rows = table(np.ones(40, dtype=bool), groups).assign(
        **{"correct (linear, both)": groups % 2, "correct (text only)": 1}
    )
    rows["correct (linear, image)"] = [None, *[1] * 39]  # a fold of an earlier version lacks it
    found = gains_over_others(rows)
    assert list(found) == ["linear, both", "text only"]
    value, gain = found["linear, both"]
    assert (value, gain.value) == (0.5, 0.5)
    assert 0 < gain.low < 0.5 < gain.high
    assert found["text only"][1].value == 0
    told = "\n".join(systems_text(found))
    assert "linear, both     50.0%  50.0 points" in told
    assert "The model is better than the best linear classifier (linear, both)." in told
    weighted = gains_over_others(rows.assign(weight=np.where(groups % 2, 3.0, 1.0)))
    value, gain = weighted["linear, both"]
    assert (value, gain.value) == (pytest.approx(0.75), pytest.approx(0.25))
    alone = gains_over_others(rows.assign(group=np.arange(40)))["linear, both"][1]
    assert alone.high - alone.low < 0.8 * (found["linear, both"][1].high - found["linear, both"][1].low), "by group"
    same = systems_text(gains_over_others(rows.assign(**{"correct (linear, both)": 1})))
    assert (
        same[-1]
        == "The rows do not show that the model is better or worse than the best linear classifier (linear, both)."
    )
    assert systems_text({}) == []


def test_groups_of_different_folds_are_different_groups(tmp_path):
    """Each fold numbers its groups from 0: three folds of ten images are thirty groups."""
    images, right = np.arange(30), np.random.default_rng(0).random(30) < 0.5
    folds = [table(right, images)[fold::3].assign(group=np.arange(10)) for fold in range(3)]
    rows = together(folds)
    assert rows["row"].tolist() == list(range(30))
    assert rows["group"].nunique() == 30
    rows.to_parquet(tmp_path / "predictions.parquet")
    found = compare(load_predictions(tmp_path, "test"), table(~right, images))
    assert found.groups == 30
    rows.assign(group=np.arange(30) // 3).to_parquet(tmp_path / "predictions.parquet")
    with pytest.raises(ValueError, match="mixes the groups of different folds"):
        load_predictions(tmp_path, "test")


@pytest.mark.slow
@pytest.mark.usefixtures("blank_charts")
def test_the_folds_together_hold_every_row_out_once(shapes_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("app.training.new_process.train_in_new_process", run_training)
    (tmp_path / "c.yaml").write_text(f"data: {{train: {shapes_folder / 'train.csv'}}}\n")
    command = ["kfold", str(tmp_path / "c.yaml"), "--folds", "2", "--output", str(tmp_path / "out")]
    command += [*TINY, "--model.image_encoder", shared_encoder(), "--train.epochs", "1", "--train.baselines", "true"]
    app(command)
    rows = pd.read_parquet(tmp_path / "out/predictions.parquet")
    assert rows["row"].tolist() == list(range(NUM_TRAIN))
    assert rows.groupby("image_key")["fold"].nunique().max() == 1, "an image stays in one fold"
    assert rows["group"].nunique() == rows["image_key"].nunique()
    figures = json.loads((tmp_path / "out/kfold.json").read_text())
    assert figures["scores"]["accuracy"]["value"] == pytest.approx(rows["correct"].mean())
    told = capsys.readouterr().out
    assert f"2 folds, {NUM_TRAIN:,} rows, each held out once" in told
    assert figures["others"]["linear, both"]["accuracy"] == pytest.approx(rows["correct (linear, both)"].mean())
    gain = rows["correct"] - rows["correct (text only)"]
    assert figures["others"]["text only"]["gain"]["value"] == pytest.approx(gain.mean())
    assert "the best linear classifier (linear" in told
    before = (tmp_path / "out/fold_0/summary.txt").stat().st_mtime
    app(command)
    assert (tmp_path / "out/fold_0/summary.txt").stat().st_mtime == before, "what is done is not trained again"
    assert evaluation.main([str(tmp_path / "out/fold_1"), "--pictures", "0"])["rows"] == (rows["fold"] == 1).sum()
    with pytest.raises(SystemExit):
        app([*command, "--train.epochs", "2"])
    assert "has other settings: train.epochs was 1, now 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.folds", "1"], "data.folds must be 2 to"),
        (["--data.folds", "3", "--data.fold", "3"], "data.fold must be below data.folds, 3"),
        (["--data.folds", "3", "--data.test", "t.csv"], "leave out data.test"),
    ],
)
def test_impossible_folds_are_refused(shapes_folder, tmp_path, capsys, options, message):
    (tmp_path / "t.csv").write_bytes((shapes_folder / "test.csv").read_bytes())
    options = [str(tmp_path / o) if o == "t.csv" else o for o in options]
    root = ["--data.image_root", str(shapes_folder), "--recipe", "scratch"]
    with pytest.raises(SystemExit):
        train.main(
            ["--data.train", str(shapes_folder / "train.csv"), *root, *options, "--run_dir", str(tmp_path / "r")]
        )
    assert message in capsys.readouterr().err


def test_other_rows_are_refused():
    one = table(np.ones(4, dtype=bool), np.arange(4))
    with pytest.raises(ValueError, match="different rows: 4 and 3, of which 3 are the same"):
        compare(one, one[:3])


def test_equal_rows_are_counted_once_where_rows_are_refused():
    one = table(np.ones(300, dtype=bool), np.arange(300)).assign(
        image_key=None, text="is it?", label=["yes", "no"] * 150
    )
    other = one.assign(label=["yes"] * 149 + ["no"] * 151)
    with pytest.raises(UserError, match="300 and 300, of which 299 are the same"):
        compare(one, other)


def test_a_damaged_file_of_predictions_is_named(tmp_path):
    (tmp_path / "predictions.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(UserError, match=r"predictions\.parquet is damaged .*: evaluate again"):
        load_predictions(tmp_path, "test")


def test_whole_sets_of_several_labels_do_not_show_which_system_is_better():
    rows = table(np.ones(40, dtype=bool), np.arange(40)).assign(**{"correct (linear, both)": 0})
    told = "\n".join(systems_text(gains_over_others(rows), "multi"))
    assert "whole sets  the model gains" in told
    assert "do not show whether the model is better" in told


def test_two_models_of_several_labels_are_not_judged_by_whole_sets():
    rows = table(np.ones(40, dtype=bool), np.arange(40))
    rows.attrs["label_type"] = "multi"
    found = comparison_text(compare(rows, rows.assign(correct=False)), ("one", "two"))
    assert "difference of whole sets -100.0 points" in found
    assert "do not show which one is better" in found
    assert " is better on rows" not in found


def test_predictions_tell_the_type_of_their_labels(run_dir):
    assert load_predictions(run_dir, "test").attrs == {"label_type": "single"}


def test_the_folds_of_several_labels_are_scored_by_whole_sets():
    assert "whole sets 50.0% [40.0%, 60.0%]" in folds_text(
        [0.4, 0.6], 9, {"accuracy": Interval(0.5, 0.4, 0.6)}, "multi"
    )


def test_the_command_compares_two_runs(run_dir, tmp_path, capsys):
    shutil.copytree(run_dir / "evaluation", tmp_path / "other/evaluation")
    path = tmp_path / "other/evaluation/test/predictions.parquet"
    pd.read_parquet(path).assign(correct=False).to_parquet(path)
    found = evaluation.main(["compare", str(run_dir), str(tmp_path / "other"), "--output", str(tmp_path / "f.json")])
    assert found["accuracy"][1] == 0
    assert json.loads((tmp_path / "f.json").read_text()) == found
    assert f"difference {100 * found['difference']['value']:+.1f} points" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        evaluation.main(["compare", str(run_dir), str(tmp_path / "other"), "--evaluation", "elsewhere"])
    assert re.search(r"it has .*test.* \(--evaluation\)", capsys.readouterr().err)
