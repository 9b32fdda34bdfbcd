"""Few-shot training uses a few rows of each class."""

from collections import Counter
from dataclasses import replace

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data import DataSettings, LabelFormat, load_rows, prepare_data
from data.shots import draw_shots


@pytest.fixture(scope="module")
def rows(shapes_folder):
    source = DataSettings(train=str(shapes_folder / "train.csv"))
    return load_rows(source.train, "train", source)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shots=st.integers(1, 12), seed=st.integers(0, 99))
def test_each_class_has_the_shots_or_all_its_rows(rows, shots, seed):
    drawn, _ = draw_shots(rows, LabelFormat(), shots, seed)
    there, found = Counter(rows.labels), Counter(drawn.labels)
    assert found == {label: min(shots, number) for label, number in there.items()}


def test_more_shots_of_a_seed_contain_fewer_and_another_seed_draws_others(rows):
    numbers = {shots: set(draw_shots(rows, LabelFormat(), shots, 0)[0].numbers.tolist()) for shots in (1, 3, 5)}
    assert numbers[1] < numbers[3] < numbers[5]
    assert numbers[1] != set(draw_shots(rows, LabelFormat(), 1, 1)[0].numbers.tolist())


def test_rows_of_several_classes_are_drawn_until_each_class_has_enough(tmp_path, shapes_folder):
    table = pd.DataFrame(
        {"image": str(shapes_folder / "images/train/0.png"), "text": "x", "label": ["a|b", "b", "a", "|"] * 9}
    )
    table.to_csv(tmp_path / "sets.csv", index=False)
    source = DataSettings(train=str(tmp_path / "sets.csv"), label_type="multi", allow_missing=True)
    drawn, _ = draw_shots(load_rows(source.train, "train", source), LabelFormat("multi"), 2, 0)
    counts = Counter(name for label in drawn.labels for name in label.split("|") if name)
    assert counts["a"] >= 2 <= counts["b"]
    assert sum(label == "" for label in drawn.labels) == 2
    assert len(drawn) < 9


def test_only_training_rows_are_drawn_and_classes_with_fewer_rows_are_counted(shapes_folder):
    source = DataSettings(train=str(shapes_folder / "train.csv"), test=str(shapes_folder / "test.csv"))
    whole, few = prepare_data(source, 0), prepare_data(replace(source, shots=15), 0)
    assert few.label_names == whole.label_names
    for split in ("validation", "test"):
        assert few.splits[split].numbers.tolist() == whole.splits[split].numbers.tolist()
    assert set(few.splits["train"].numbers) < set(whole.splits["train"].numbers)
    short = sum(number < 15 for number in Counter(whole.splits["train"].labels).values())
    assert 0 < short < len(whole.label_names)
    size, total = len(few.splits["train"]), len(whole.splits["train"])
    told = f"15 shots: {size} of {total} training rows, drawn by the seed; {short} of {len(whole.label_names)} classes"
    assert any(note.startswith(told) for note in few.notes)


def test_a_stream_has_no_shots(shapes_folder):
    test = str(shapes_folder / "test.csv")
    source = DataSettings(train=str(shapes_folder / "train.csv"), validation=test, streaming=True, shots=2)
    with pytest.raises(ValueError, match=r"data\.shots draws rows by their class"):
        prepare_data(source, 0)
