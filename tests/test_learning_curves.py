"""Curves of a training: the validation rows as a whole and by slice."""

import pandas as pd
import pytest
from matplotlib.figure import Figure
from tiny import arguments

import train
from app.reporting.charts import MAX_LEGEND, draw_curves
from app.training.run_folder import RunDir


@pytest.mark.usefixtures("blank_charts")
def test_each_epoch_records_the_accuracy_of_every_slice(shapes_folder, tmp_path):
    validation = shapes_folder / "test.csv"
    more = ["--data.validation", str(validation), "--data.slice_by", "[kind]", "--train.epochs", "2"]
    run = RunDir(train.main(arguments(shapes_folder, tmp_path / "run", *more)))
    rows = pd.read_csv(validation).kind.value_counts()
    epochs = [record for record in run.records() if "validation_accuracy" in record]
    assert len(epochs) == 2
    for record in epochs:
        assert {name for name in record if "/" in name} == {f"validation_accuracy/kind/{kind}" for kind in rows.index}
        mean = sum(record[f"validation_accuracy/kind/{kind}"] * number for kind, number in rows.items()) / rows.sum()
        assert mean == pytest.approx(record["validation_accuracy"])


@pytest.mark.usefixtures("blank_charts")
def test_a_column_that_only_the_test_rows_have_is_no_slice_of_the_validation_rows(shapes_folder, tmp_path):
    pd.read_csv(shapes_folder / "test.csv").drop(columns="kind").to_csv(tmp_path / "validation.csv", index=False)
    more = ["--data.validation", str(tmp_path / "validation.csv"), "--data.image_root", str(shapes_folder)]
    more += ["--data.slice_by", "[kind,text_tokens]", "--train.epochs", "1"]
    run = RunDir(train.main(arguments(shapes_folder, tmp_path / "run", *more)))
    (epoch,) = [record for record in run.records() if "validation_accuracy" in record]
    assert {name.split("/")[1] for name in epoch if "/" in name} == {"text_tokens"}


def test_slices_are_lines_with_their_names(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **options: drawn.append(figure))
    names = ["_", "a/b", "$x", "色"]
    draw_curves(records(names), tmp_path / "curves.png")
    draw_curves(records(map(str, range(MAX_LEGEND + 1))), tmp_path / "curves.png")
    draw_curves(records([]), tmp_path / "curves.png")
    some, many, none = (figure.axes[1] for figure in drawn)
    assert [text.get_text().strip() for text in some.get_legend().get_texts()] == names
    assert len(some.lines) == 1 + len(names)
    assert len(many.lines) == 1 + MAX_LEGEND + 1
    assert many.get_legend() is none.get_legend() is None
    assert not any(text.get_parse_math() for text in some.get_legend().get_texts())
    assert all(label.get_parse_math() for label in drawn[0].axes[0].get_yticklabels(which="both")), "10 to a power"


def test_slices_can_have_any_name(tmp_path):
    draw_curves(records(["$x", "_", "色", "a\nb"]), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def records(names) -> list[dict]:
    """A training of two epochs with slices."""
    losses = [{"step": step, "loss": 1 / step, "learning_rate": 0.1} for step in (1, 2)]
    figures = {"validation_accuracy": 0.5, "validation_loss": 1.0} | {f"validation_accuracy/c/{n}": 0.5 for n in names}
    return [*losses, *({"step": epoch, "epoch": epoch, **figures} for epoch in (1, 2))]
