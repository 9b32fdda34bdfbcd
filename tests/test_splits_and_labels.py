"""Splits of rows into train and validation, and the names of labels."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import DataSettings, prepare_data
from data.errors import UserError
from data.labels import build_vocabulary, normalize_label, similar_labels
from data.shapes import write_shapes
from data.splits import connect_groups, split_fold, split_validation


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.sampled_from("ab")), min_size=40, max_size=120), st.integers(0, 99))
def test_no_group_is_in_both_splits(rows, seed):
    groups = connect_groups([str(group) for group, _ in rows])
    if len(set(groups)) < 4:
        return
    train, validation = split_validation([label for _, label in rows], groups, 0.25, seed)
    assert not set(groups[train]) & set(groups[validation])
    assert sorted([*train, *validation]) == list(range(len(rows)))


def test_the_split_is_stratified_by_label():
    rng = np.random.default_rng(0)
    labels = rng.choice(["a", "b", "c"], size=2000, p=[0.7, 0.2, 0.1])
    _, validation = split_validation(labels, connect_groups([str(i // 2) for i in range(2000)]), 0.1, seed=0)
    shares = {label: count / len(validation) for label, count in Counter(labels[validation]).items()}
    assert shares == pytest.approx({"a": 0.7, "b": 0.2, "c": 0.1}, abs=0.03)


def test_the_split_depends_on_the_seed():
    labels, groups = ["a", "b"] * 50, connect_groups([str(i) for i in range(100)])
    cuts = [split_validation(labels, groups, 0.2, seed)[1].tolist() for seed in (0, 0, 1)]
    assert cuts[0] == cuts[1] != cuts[2]


def test_patients_who_share_an_image_are_one_group():
    groups = connect_groups(["img1", "img1", "img2", None], ["p1", "p2", "p2", "p3"])
    assert groups[0] == groups[1] == groups[2] != groups[3]


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.25, 0.4, 0.6, 0.9])
def test_the_split_has_the_requested_share(fraction):
    _, validation = split_validation(["a", "b"] * 500, connect_groups([str(i) for i in range(1000)]), fraction, 0)
    assert len(validation) / 1000 == pytest.approx(fraction, abs=0.01)


def test_few_rows_of_each_label_can_be_split():
    labels = [str(i % 20) for i in range(100)]
    _, validation = split_validation(labels, connect_groups([str(i) for i in range(100)]), 0.1, 0)
    assert sorted(Counter(np.array(labels)[validation]).values()) == [1] * 20


def test_a_group_column_keeps_patients_in_one_split(tmp_path):
    train = write_shapes(tmp_path, 40, "train")
    rows = pd.read_csv(train)
    rows["patient"] = [f"p{image.split('/')[-1][0]}" for image in rows["image"]]
    rows.to_csv(train, index=False)
    data = prepare_data(DataSettings(train=str(train), group="patient", validation_fraction=0.3), seed=0)
    sides = [set(data.splits[split].column("patient")) for split in ("train", "validation")]
    assert sides[0]
    assert sides[1]
    assert not sides[0] & sides[1]


def test_too_few_groups_are_an_error_that_says_what_to_do():
    with pytest.raises(ValueError, match=r"only 3 groups.*data.validation"):
        split_validation(["a", "b", "a"], connect_groups(["1", "2", "3"]), 0.1, 0)


def test_the_limit_on_the_number_of_folds_is_named():
    labels, groups = [str(i // 2) for i in range(600)], np.arange(600)
    told = r"the most frequent of the 300 labels, '0', has only 2 rows"
    with pytest.raises(ValueError, match=rf"Cannot split off 10% .*: {told}; 4 are needed. Give data.validation"):
        split_validation(labels, groups, 0.1, 0)
    with pytest.raises(ValueError, match=rf"data.folds must be 2 to 2, got 5: {told}"):
        split_fold(labels, groups, 5, 0, 0)
    with pytest.raises(
        ValueError, match=r"Cannot split the rows into folds: the most frequent of the 9 labels.* only 1 rows"
    ):
        split_fold([str(i) for i in range(9)], np.arange(9), 2, 0, 0)
    with pytest.raises(ValueError, match=r"the 600 rows form only 3 groups"):
        split_fold(["a"] * 600, np.arange(600) % 3, 5, 0, 0)
    train, validation = split_validation(labels, groups, 0.3, 0)
    assert (len(train), len(validation)) == (300, 300), "what can be cut is cut"


def test_too_small_a_share_is_refused():
    with pytest.raises(ValueError, match=r"data.validation_fraction must be at least 0.008, got 0.001"):
        split_validation(["a", "b"] * 500, np.arange(1000), 0.001, 0)
    train, _ = split_validation(["a", "b"] * 50, np.arange(100), 0.999, 0)
    assert len(train) == 2


def test_given_splits_are_kept_and_shared_images_are_reported(tmp_path):
    train = write_shapes(tmp_path, 20, "train")
    data = prepare_data(DataSettings(train=str(train), validation=str(train), test=str(train)), seed=0)
    assert list(data.splits) == ["train", "validation", "test"]
    assert any("20 of the 20 images of test also occur in train" in line for line in data.notes)


def test_a_fold_without_the_number_of_folds_is_refused(shapes_folder):
    with pytest.raises(UserError, match=r"--data.fold 2 .* add --data.folds N"):
        prepare_data(DataSettings(train=str(shapes_folder / "train.csv"), fold=2), seed=0)


def test_no_image_is_in_both_train_and_validation(shapes_folder):
    data = prepare_data(DataSettings(train=str(shapes_folder / "train.csv"), validation_fraction=0.2), seed=0)
    train, validation = data.splits["train"], data.splits["validation"]
    assert not set(train.image_keys) & set(validation.image_keys)
    assert len(train) + len(validation) == len(pd.read_csv(shapes_folder / "train.csv"))


@given(st.text(max_size=20))
def test_label_normalization_is_idempotent(text):
    assert normalize_label(normalize_label(text)) == normalize_label(text)


def test_label_names_are_sorted_and_integers_by_value():
    assert build_vocabulary(Counter(["b", "a", "a"])) == ["a", "b"]
    assert build_vocabulary(Counter(["10", "9", "-1"])) == ["-1", "9", "10"]


def test_top_k_keeps_the_most_frequent_labels_and_reports_their_coverage(shapes_folder):
    labels = ["a"] * 5 + ["b"] * 3 + ["c"]
    assert build_vocabulary(Counter(labels), top_k=2) == ["a", "b"]
    with pytest.raises(ValueError, match="leaves one class"):
        build_vocabulary(Counter(labels), top_k=1)
    settings = DataSettings(
        train=str(shapes_folder / "train.csv"), test=str(shapes_folder / "test.csv"), top_k_labels=2
    )
    data = prepare_data(settings, seed=0)
    told = "\n".join(data.notes)
    assert len(data.label_names) == 2
    assert set(data.splits["train"].labels) == set(data.label_names)
    held_out = pd.read_csv(shapes_folder / "test.csv")
    assert len(data.splits["test"]) == len(held_out), "held-out rows with other labels stay"
    covered = held_out.label.isin(["yes", "no"]).mean()
    assert "training rows left out" in told
    assert f"test: {covered:.1%} of the rows have a known label" in told


def test_labels_that_differ_only_by_case_are_found():
    assert similar_labels(["Yes", "yes ", "no"]) == [["Yes", "yes "]]
