"""Rows that share one answer: figures by case, from the mean of the probabilities of its rows."""

import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from tiny import arguments

import eval
import train
from app.evaluation.baselines import LINEAR_TEXT, Linear
from app.evaluation.bootstrap import Resampler, mean_interval
from app.evaluation.cases import pool_linear, pool_predictions
from app.evaluation.predict import BOTH, Predictions
from app.evaluation.targets import Targets
from data import DataSettings, LabelFormat, prepare_data
from data.errors import UserError
from data.groups import case_numbers
from data.loading import load_rows

pytestmark = pytest.mark.usefixtures("blank_charts")


def table_of_cases(folder, path, split: str):
    """Rows whose case is the label and a number, so that cases have one label and several rows."""
    table = pd.read_csv(folder / f"{split}.csv")
    number = table.groupby("label").cumcount() // 2
    table = table.assign(case=[f"{label} {n}" for label, n in zip(table["label"], number, strict=True)])
    table["image"] = [str(folder / image) for image in table["image"]]
    table.to_csv(path / f"{split}.csv", index=False)
    return table


def test_the_answer_to_a_case_is_the_mean_of_the_probabilities_of_its_rows():
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]], dtype=np.float32)
    targets = Targets("single", np.array([0, 0, 1, 0]), weights=np.array([1.0, 3.0, 1.0, 1.0]))
    cases = np.array([0, 0, 1, 2])
    pooled = pool_predictions(Predictions({BOTH: probabilities}, targets), cases)
    np.testing.assert_allclose(pooled.probabilities[BOTH][0], [(0.9 + 3 * 0.4) / 4, (0.1 + 3 * 0.6) / 4], atol=1e-6)
    assert pooled.targets.values.tolist() == [0, 1, 0]
    assert pooled.targets.weights.tolist() == [4, 1, 1]
    assert pooled.accuracy() == pytest.approx((4 + 1) / 6)
    linear = pool_linear(Linear({LINEAR_TEXT: probabilities}, ""), cases, targets.weights)
    np.testing.assert_array_equal(linear.probabilities[LINEAR_TEXT], pooled.probabilities[BOTH])


def test_rows_without_a_case_are_cases_of_their_own(shapes_folder, tmp_path):
    table = table_of_cases(shapes_folder, tmp_path, "test")
    table.loc[[0, 1], "case"] = None
    table.to_csv(tmp_path / "test.csv", index=False)
    rows = load_rows(str(tmp_path / "test.csv"), "test", DataSettings())
    numbers = case_numbers(rows, "case", LabelFormat())
    assert sorted(set(numbers)) == list(range(max(numbers) + 1))
    assert (numbers == numbers[0]).sum() == (numbers == numbers[1]).sum() == 1
    expected = table["case"].nunique() + 2
    assert len(set(numbers)) == expected


def test_a_case_whose_rows_have_different_labels_stops_before_the_training(shapes_folder, tmp_path):
    table = table_of_cases(shapes_folder, tmp_path, "test")
    table.loc[0, "label"] = "something else"
    table.to_csv(tmp_path / "test.csv", index=False)
    options = ["--data.test", str(tmp_path / "test.csv"), "--data.pool", "case"]
    with pytest.raises(SystemExit):
        train.main(arguments(shapes_folder, tmp_path / "run", *options))
    assert not (tmp_path / "run/metrics.jsonl").exists()
    with pytest.raises(UserError, match=r"1 of the cases in column case .* 'something else' and"):
        case_numbers(load_rows(str(tmp_path / "test.csv"), "test", DataSettings()), "case", LabelFormat())


def test_the_answers_of_annotators_may_be_in_another_order(shapes_folder, tmp_path):
    table = pd.read_csv(shapes_folder / "test.csv")[:2].assign(case="a", label=["yes|no|yes", "no|yes|yes"])
    table.to_csv(tmp_path / "t.csv", index=False)
    settings = DataSettings(label_type="annotators", image_root=str(shapes_folder))
    rows = load_rows(str(tmp_path / "t.csv"), "test", settings)
    assert case_numbers(rows, "case", LabelFormat("annotators")).tolist() == [0, 0]


def test_the_rows_of_a_case_stay_on_one_side_of_the_cut(shapes_folder, tmp_path):
    table = table_of_cases(shapes_folder, tmp_path, "train").drop_duplicates("image")
    table = table.assign(case=[f"case {number // 4}" for number in range(len(table))])
    table["label"] = ["yes" if number // 4 % 2 else "no" for number in range(len(table))]
    table.to_csv(tmp_path / "t.csv", index=False)
    settings = DataSettings(train=str(tmp_path / "t.csv"), pool="case", validation_fraction=0.3)
    splits = prepare_data(settings, 0).splits
    cases = [set(splits[split].column("case")) for split in ("train", "validation")]
    assert cases[1]
    assert not cases[0] & cases[1]


def test_linear_classifiers_of_several_labels_are_pooled_before_their_thresholds_apply():
    probabilities = np.array([[0.3], [0.01]], dtype=np.float32)
    linear = Linear({LINEAR_TEXT: probabilities}, "", {LINEAR_TEXT: [0.1]})
    pooled = pool_linear(linear, np.array([0, 0]), None)
    assert pooled.centered()[LINEAR_TEXT][0, 0] > 0.5, "the mean, 0.155, is above the threshold"


def test_training_and_evaluation_give_figures_by_case(shapes_folder, tmp_path, capsys):
    table = table_of_cases(shapes_folder, tmp_path, "test")
    options = ["--data.test", str(tmp_path / "test.csv"), "--data.pool", "case", "--train.baselines", "true"]
    run_dir = train.main(arguments(shapes_folder, tmp_path / "run", *options, "--train.epochs", "1"))
    metrics = json.loads((run_dir / "evaluation/test/metrics.json").read_text())
    by_case = metrics["by_case"]
    assert by_case["cases"] == table["case"].nunique()
    assert {"image + text", "text only", "linear, both", "majority answer"} <= by_case["scores"].keys()
    written = pd.read_parquet(run_dir / "evaluation/test/predictions.parquet")
    names = json.loads((run_dir / "model/config.json").read_text())["id2label"]
    right = [
        names[str(np.stack(rows["probabilities"]).mean(axis=0).argmax())] == rows["label"].iloc[0]
        for _, rows in written.groupby(table["case"].to_numpy())
    ]
    assert by_case["scores"]["image + text"]["accuracy"]["value"] == pytest.approx(np.mean(right))
    printed = capsys.readouterr().out
    assert f"by case: {by_case['cases']} answers" in printed
    assert "By case" in printed
    assert "<h3>By case</h3>" in (run_dir / "evaluation/test/report.html").read_text()
    assert eval.main([str(run_dir), "--pictures", "0"])["by_case"] == by_case
    assert "by_case" not in eval.main([str(run_dir), "--pictures", "0", "--data.pool", ""])


def test_the_rows_of_a_case_are_resampled_together(run_dir, shapes_folder, tmp_path):
    table = pd.read_csv(shapes_folder / "test.csv").drop_duplicates("image")
    table = table.assign(case=[f"case {number // 2}" for number in range(len(table))], label="red")
    table.to_csv(shapes_folder / "pairs.csv", index=False)
    options = ["--data.test", str(shapes_folder / "pairs.csv"), "--data.pool", "case", "--pictures", "0"]
    figures = eval.main([str(run_dir), *options, "--output_dir", str(tmp_path)])
    written = pd.read_parquet(tmp_path / "predictions.parquet")
    assert figures["resampled_by"] == "image and case"
    assert written.groupby(table["case"].to_numpy())["group"].nunique().tolist() == [1] * (len(table) // 2)
    expected = mean_interval(written["correct"].to_numpy(), Resampler(np.arange(len(table)) // 2))
    assert figures["scores"]["image + text"]["accuracy"] == pytest.approx(asdict(expected))


def test_the_threshold_of_sure_answers_counts_the_rows_of_a_case_as_a_group(shapes_folder, tmp_path, monkeypatch):
    table = pd.read_csv(shapes_folder / "test.csv").drop_duplicates("image")
    table = table.assign(case=[f"case {number // 2}" for number in range(len(table))], label="red")
    table.to_csv(shapes_folder / "validation.csv", index=False)
    found = []
    monkeypatch.setattr("app.training.finish.choose_threshold", lambda *given: found.append(given[3]) or 0.5)
    path = str(shapes_folder / "validation.csv")
    options = ["--data.validation", path, "--data.test", path, "--data.pool", "case"]
    train.main(arguments(shapes_folder, tmp_path / "run", *options, "--train.epochs", "1"))
    assert found[0].tolist() == [number // 2 for number in range(len(table))]


def test_rows_without_the_column_are_evaluated_without_cases(shapes_folder, tmp_path, capsys):
    table_of_cases(shapes_folder, tmp_path, "test")
    options = ["--data.test", str(tmp_path / "test.csv"), "--data.pool", "case", "--train.epochs", "1"]
    run_dir = train.main(arguments(shapes_folder, tmp_path / "run", *options))
    other = ["--data.test", str(shapes_folder / "test.csv"), "--pictures", "0"]
    assert "by_case" not in eval.main([str(run_dir), *other])
    assert "has no column case: there are no figures by case" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        eval.main([str(run_dir), *other, "--data.pool", "case"])
    assert "case" in capsys.readouterr().err
