"""Slices of rows by names, by ranges of numbers and by the length of their texts."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import eval as evaluation
from app.evaluation.slices import MAX_NAMES, MISSING, slices_by_value
from data import DataSettings, load_rows
from data.loading import scored_split


@example([1.0, 1.0000001, 2.0])
@example([float("inf"), 1.0, None])
@example([*range(11), 5e-324, 1e-323, -5e-324, -4.0] * 2)
@given(
    st.lists(st.none() | st.floats(allow_nan=False), min_size=1)
    | st.lists(st.none() | st.text(max_size=2), min_size=1)
    | st.lists(st.booleans(), min_size=1)
)
def test_each_row_is_in_one_slice(values):
    found = slices_by_value(values)
    assert (np.sum(list(found.values()), axis=0) == 1).all()
    assert all(rows.any() for rows in found.values())


def test_few_numbers_are_a_slice_each_and_many_are_quarters():
    assert list(slices_by_value([3, 1, 10, 1])) == ["1", "3", "10"]
    ages = np.random.default_rng(0).permutation(np.arange(80))
    found = slices_by_value(list(ages))
    assert list(found) == ["0 to 19", "20 to 39", "40 to 59", "60 to 79"]
    assert (found["20 to 39"] == ((ages >= 20) & (ages < 40))).all()


def test_numbers_that_are_missing_are_a_slice_of_their_own():
    assert slices_by_value([1.0, None, 2.0])[MISSING].tolist() == [False, True, False]


def test_numbers_of_a_csv_are_sliced_as_numbers(tmp_path):
    ages = np.random.default_rng(0).permutation(np.arange(80)).astype(str)
    ages[:3] = "", " ", "007"
    table = pd.DataFrame({"image": "x.png", "text": "a", "label": "b", "age": ages, "ward": np.arange(80) % 2 + 100})
    table.assign(ward=table.ward.map("0{}".format)).to_csv(tmp_path / "t.csv", index=False)
    rows = load_rows(str(tmp_path / "t.csv"), "test", DataSettings())
    found = slices_by_value(rows.column("age"))
    assert len(found) == 5
    assert next(iter(found)).startswith("0 to ")
    assert np.flatnonzero(found[MISSING]).tolist() == [0, 1]
    assert list(slices_by_value(rows.column("ward"))) == ["0100", "0101"], "few values stay as they are written"


@pytest.mark.parametrize("odd", ["unknown", "nan", "inf"])
def test_numbers_among_names_are_sliced_as_names(odd):
    assert list(slices_by_value([*map(str, range(11)), odd, ""])) == sorted([MISSING, *map(str, range(11)), odd])


@pytest.mark.parametrize("missing", [None, "", " ", float("nan")])
def test_missing_names_are_one_slice(missing):
    assert {name: rows.tolist() for name, rows in slices_by_value(["a", missing, None]).items()} == {
        MISSING: [False, True, True],
        "a": [True, False, False],
    }


@pytest.mark.parametrize("numbers", [[1000001, 1000002], [20240101.0, 20240102.0], [0.12345678, 0.12345679]])
def test_numbers_that_differ_late_are_slices_of_their_own(numbers):
    assert list(slices_by_value(numbers * 2)) == [str(number).removesuffix(".0") for number in numbers]


def test_ranges_of_large_numbers_are_printed_in_full():
    days = [20240101 + day for day in range(28)]
    assert list(slices_by_value(days)) == [f"{days[i]} to {days[i + 6]}" for i in (0, 7, 14, 21)]


def test_infinite_numbers_are_slices_of_their_own():
    found = slices_by_value([*map(float, range(20)), np.inf, -np.inf, None])
    assert [found[name].nonzero()[0].tolist() for name in ("-inf", "inf", MISSING)] == [[21], [20], [22]]
    assert list(found)[1:5] == ["0 to 4", "5 to 9", "10 to 14", "15 to 19"]


def test_a_number_that_most_rows_have_is_a_slice_of_its_own():
    found = slices_by_value([0] * 90 + list(range(1, 20)))
    assert {name: rows.sum() for name, rows in found.items()} == {"0": 90, "1 to 19": 19}
    found = slices_by_value([20] * 90 + list(range(1, 20)))
    assert {name: rows.sum() for name, rows in found.items()} == {"1 to 19": 19, "20": 90}


def test_few_numbers_of_a_csv_and_none():
    found = slices_by_value(["1", "", "2", None])
    assert {name: rows.tolist() for name, rows in found.items()} == {
        "1": [True, False, False, False],
        "2": [False, False, True, False],
        MISSING: [False, True, False, True],
    }


def test_rare_names_are_one_slice_if_there_are_many_names():
    names = ["a"] * 5 + [f"rare {i}" for i in range(40)]
    found = slices_by_value(names)
    assert len(found) == MAX_NAMES
    assert found["a"].sum() == 5
    assert found["(others)"].sum() == 40 - (MAX_NAMES - 2)


@pytest.mark.usefixtures("blank_charts")
def test_accuracy_can_be_sliced_by_text_length_and_by_truncation(run_dir, shapes_folder, tmp_path):
    rows = pd.read_csv(shapes_folder / "test.csv")
    rows.loc[:9, "text"] = rows.text[:10] + " please" * 70
    rows.to_csv(shapes_folder / "long.csv", index=False)
    options = ["--data.test", str(shapes_folder / "long.csv"), "--output_dir", str(tmp_path), "--pictures", "0"]
    slices = evaluation.main([str(run_dir), *options, "--data.slice_by", "[text_cut, text_tokens]"])["slices"]
    assert {name: part["rows"] for name, part in slices["text_cut"].items()} == {
        "cut at 64 tokens": 10,
        "whole": len(rows) - 10,
    }
    table = pd.read_parquet(tmp_path / "predictions.parquet")
    right = table.correct[:10].mean()
    assert slices["text_cut"]["cut at 64 tokens"]["accuracy"]["value"] == pytest.approx(right)
    assert sum(part["rows"] for part in slices["text_tokens"].values()) == len(rows)
    assert json.loads((tmp_path / "metrics.json").read_text())["slices"] == slices


def test_with_folds_the_scored_rows_are_those_of_train():
    assert scored_split(DataSettings(train="t.csv", validation="v.csv", folds=3)) == "train"
