"""Rows with weights: how weights are read, and what they change."""

import re

import pytest
import torch
from labelled_tables import read, shapes_table, write

from app.evaluation.baselines import LINEAR_TEXT, linear_baselines
from app.evaluation.linear_inputs import linear_inputs
from app.settings import Settings
from app.studies.doctor import check_baselines
from app.training.loss import RowLoss
from data import DataSettings, LabelFormat, load_rows, prepare_data
from models.settings import ModelSettings

SCRATCH = ModelSettings(text_encoder="scratch", image_weights="none", image_size=32)


@pytest.fixture
def table(shapes_folder):
    return shapes_table(shapes_folder)


def test_row_weights_apply_to_the_loss():
    logits, labels = torch.randn(3, 4), torch.tensor([0, 1, 2])
    loss = RowLoss()
    each = torch.stack([loss(logits[i : i + 1], labels[i : i + 1], torch.ones(1)) for i in range(3)])
    weights = torch.tensor([2.0, 0.0, 0.5])
    torch.testing.assert_close(loss(logits, labels, weights), (each * weights).sum())
    assert loss.count(labels, weights) == 2.5
    sets = RowLoss(multi_label=True)
    targets = torch.tensor([[1.0, 0, 1, 0]])
    expected = torch.nn.functional.binary_cross_entropy(logits[:1].sigmoid(), targets)
    torch.testing.assert_close(sets(logits[:1], targets, torch.tensor([3.0])), 3 * expected)


@pytest.mark.parametrize(
    ("weight", "message"),
    [(-1, "row 0, 1, 2"), ("much", "row 0, 1, 2"), (0, "are 0"), (1e39, "row 0, 1, 2"), (1e-46, "1e-06 to 1e\\+06")],
)
def test_invalid_weights_are_an_error(table, tmp_path, weight, message):
    table = table.assign(trust=weight)
    with pytest.raises(ValueError, match=f"column 'trust'.*{message}|{message}.*column 'trust'"):
        read(write(table, table["label"].tolist(), tmp_path / "t.jsonl"), weight="trust")


def test_weights_can_be_read_from_a_csv(table, tmp_path):
    path = tmp_path / "t.csv"
    table.assign(trust=[0.5, 2] * (len(table) // 2)).to_csv(path, index=False)
    rows = load_rows(str(path), "train", DataSettings(train=str(path), weight="trust"))
    assert rows.weights[:4].tolist() == [0.5, 2, 0.5, 2]
    table.assign(trust="nan").to_csv(path, index=False)
    with pytest.raises(ValueError, match="row 0, 1, 2"):
        load_rows(str(path), "train", DataSettings(train=str(path), weight="trust"))


def test_rows_of_weight_0_are_left_out_and_named(table, tmp_path, capsys):
    table = table.assign(trust=[0, 1] * (len(table) // 2))
    source = write(table, table["label"].tolist(), tmp_path / "t.jsonl")
    rows = load_rows(source, "test", DataSettings(weight="trust"))
    assert rows.numbers.tolist() == list(range(1, len(table), 2))
    assert rows.texts[0] == table["text"].iloc[1]
    assert rows.weights.tolist() == [1] * len(rows)
    assert re.search(
        r"rows of .*t.jsonl have a weight of 0 and are left out: row 0, 2, 4, 6, 8, …", capsys.readouterr().out
    )


@pytest.mark.parametrize("label_type", ["single", "multi"])
def test_linear_classifiers_use_row_weights(table, tmp_path, label_type):
    """A text has two labels, and the rarer one has more weight."""
    table = table[:50].assign(question="what?", trust=[10.0 if row < 20 else 1.0 for row in range(50)])
    source = write(table, ["b" if row < 20 else "a" for row in range(50)], tmp_path / "t.jsonl")
    form = DataSettings(train=source, label_type=label_type, text="question", weight="trust")
    rows = load_rows(source, "train", form)
    splits = (rows, rows, rows)
    words = linear_inputs(splits, (), None, 2)
    found = linear_baselines(splits, words, {"a": 0, "b": 1}, LabelFormat.of(form), "accuracy")[0][LINEAR_TEXT]
    assert found[0, 1] > 0.7 > found[0, 0]


def test_held_out_rows_without_the_weight_column_have_weight_1(table, tmp_path):
    train_rows = write(table.assign(trust=2.5), table["label"].tolist(), tmp_path / "t.jsonl")
    held_out = write(table, table["label"].tolist(), tmp_path / "h.jsonl")
    data = prepare_data(DataSettings(train=train_rows, test=held_out, weight="trust", image_root="/"), 0)
    assert data.splits["test"].weights is None
    assert any("test has no column trust" in note for note in data.notes)
    assert any("train: row weights from 2.5 to 2.5" in note for note in data.notes)


def test_the_doctor_and_the_label_coverage_use_row_weights(table, tmp_path):
    """The rarest of three training labels has the most weight; an unknown label has weight 1 of 5 in validation."""
    labels = ["a", "a", "a", "b", "b", "c"] * 4
    train_rows = write(table[:24].assign(trust=[{"c": 90.0}.get(x, 1.0) for x in labels]), labels, tmp_path / "t.jsonl")
    asked = ["c", "a", "x", "x"]
    held_out = write(table[24:28].assign(trust=[6.0, 2.0, 1.0, 1.0]), asked, tmp_path / "h.jsonl")
    settings = DataSettings(train=train_rows, validation=held_out, weight="trust", image_root="/")
    data = prepare_data(settings, 0)
    assert any("validation: 80.0% of the rows have a known label" in told for told in data.notes)
    (_, told), *_ = check_baselines(Settings(settings, SCRATCH), data, LabelFormat())
    assert re.search("validation: always “c” .* 60.0%.* highest possible accuracy is 80.0%", told)
