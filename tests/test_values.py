"""Images of more than 8 bits: one value range for all images of a table, saved with the model and reported."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tiny import arguments, blank_charts

import eval as evaluation
import train
from app import Predictor
from app.__main__ import main as app
from data import DataSettings, decode_image, prepare_data
from data.value_range import VALUE_STATS, check_range, choose_ranges, range_of

pytestmark = pytest.mark.usefixtures("blank_charts")


def save_as(shapes_folder, folder, scale, dtype, splits=("train", "test")) -> None:
    """Save the built-in data with grey images of other values; ``scale`` gets values of 0 to 255 and a number."""
    for split in splits:
        table = pd.read_csv(shapes_folder / f"{split}.csv", keep_default_na=False)
        for number, name in enumerate(table["image"].unique()):
            grey = np.asarray(Image.open(shapes_folder / name).convert("L"), dtype=np.float64)
            grey[0, 0], grey[-1, -1] = 0, 255
            path = (folder / name).with_suffix(".tif")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(scale(grey, number).astype(dtype)).save(path)
        table["image"] = table["image"].str.replace(".png", ".tif")
        table.to_csv(folder / f"{split}.csv", index=False)


def prepare(folder, **settings):
    return prepare_data(DataSettings(train=str(folder / "train.csv"), test=str(folder / "test.csv"), **settings), 0)


@pytest.mark.parametrize(
    ("kind", "low", "high", "expected"),
    [
        ("float", 0.1, 0.9, (0, 1)),
        ("float", -0.5, 0.9, (-1, 1)),
        ("float", -0.04, 1.03, (0, 1)),
        ("float", -1.05, 1, (-1, 1)),
        ("float", 0, 200, (0, 255)),
        ("float", -3, 260, (0, 255)),
        ("float", -150, 3000, (-150, 3000)),
        ("float", -3, 5, (-3, 5)),
        ("float", 0, 5, (0, 5)),
        ("float", 0, 0.01, (0, 1)),
        ("integer", 0, 20, (0, 20)),
        ("integer", 0, 1, (0, 1)),
        ("integer", 0, 256, (0, 1023)),
        ("integer", 3, 4000, (0, 4095)),
        ("integer", 3, 40_000, (0, 65535)),
        ("integer", -1024, 3071, (-1024, 3071)),
        ("integer", 100, 70_000, (100, 70_000)),
        ("integer", 100, 100, (0, 65535)),
        ("float", -3.5, -3.5, (-3.5, -3.5)),
    ],
)
def test_the_range_is_the_narrowest_common_one_or_that_of_the_values(kind, low, high, expected):
    assert range_of(kind, low, high) == expected


def test_each_kind_has_a_range_of_its_own():
    values = np.array([(1, 0, 0.5, True), (0, 5, 4000, True), (0, 0, 9, True), (-1, np.nan, np.nan, True)], VALUE_STATS)
    assert choose_ranges(values) == {"integer": [0, 4095], "float": [0, 1]}
    assert choose_ranges(values[3:]) is None


@pytest.mark.parametrize("setting", [(5, 1), (3, 3), (float("nan"), 1), (0, float("inf")), (1,), "wide"])
def test_a_range_must_be_two_ascending_numbers(setting):
    with pytest.raises(ValueError, match=r"data.value_range must be auto or \[LOW, HIGH\], the values"):
        check_range(setting)


def test_all_images_are_read_in_the_range_of_the_training_images(shapes_folder, tmp_path):
    """A dark image stays dark, because the range is not its own."""
    save_as(shapes_folder, tmp_path, lambda grey, number: grey * (16 if number else 2), "uint16")
    data = prepare(tmp_path)
    expected = {"integer": [0, 4095]}
    assert {split: rows.value_range for split, rows in data.splits.items()} == dict.fromkeys(data.splits, expected)
    rows = data.splits["test"]
    for place, brightest in ((0, 2 * 255), (len(rows) - 1, 16 * 255)):
        assert np.asarray(rows.decoded_image(place)).max() == round(255 * brightest / 4095)


def test_the_ranges_of_a_table_are_reported_with_a_warning_if_they_differ(shapes_folder, tmp_path):
    save_as(shapes_folder, tmp_path, lambda grey, number: grey / (1 if number % 4 else 255), "float32")
    output = "\n".join(prepare(tmp_path, validation_fraction=0.25).notes)
    assert (
        "test: 8 images hold floating-point values (6 within 0 to 255, 2 within 0 to 1); 0 is read as black, 255"
        in output
    )
    assert "warning: test: 2 images (row 0, " in output
    assert "span less than an eighth of this range" in output


def test_ct_values_are_read_from_the_lowest_to_the_highest_or_in_a_window(shapes_folder, tmp_path):
    save_as(shapes_folder, tmp_path, lambda grey, number: grey * 16 - 1024, "int32", ["train"])
    save_as(shapes_folder, tmp_path, lambda grey, number: grey * 18 - (1024 if number else 0), "int32", ["test"])
    data = prepare(tmp_path)
    output, ranges = "\n".join(data.notes), data.splits["test"].value_range
    low, high = ranges["integer"]
    assert low == -1024
    assert f"{low:g} is read as black, {high:g} as white; train with a narrower --data.value_range" in output
    assert "have values outside this range" in output
    assert "warning: test: 1 images (row 0) have no negative values" in output
    data = prepare(tmp_path, value_range=(-160, 240))
    assert data.splits["train"].value_range == [-160, 240]
    assert "outside this range" not in "\n".join(data.notes)
    assert "-160 is read as black, 240 as white" in "\n".join(data.notes)


def test_images_of_eight_bits_are_not_reported(shapes_folder):
    data = prepare(shapes_folder)
    assert data.splits["train"].value_range is None
    assert not any("hold" in line for line in data.notes)


def test_images_with_nan_or_infinite_values_are_counted(shapes_folder, tmp_path):
    def scale(grey, number):
        grey[0, 0] = np.nan
        return grey if number else grey * np.inf

    save_as(shapes_folder, tmp_path, scale, "float32")
    output = "\n".join(prepare(tmp_path).notes)
    assert "warning: test: 8 images (row 0, " in output
    assert "hold NaN or infinite values; NaN becomes black" in output


@pytest.fixture(scope="module")
def float_run(shapes_folder, tmp_path_factory):
    """A run on floating-point images of 0 to 255, and the ranges with which its batches were read."""
    folder = tmp_path_factory.mktemp("float")
    save_as(shapes_folder, folder, lambda grey, number: grey, "float32")
    ranges = []

    def decode(image, *limits, value_range, **options):
        ranges.append(value_range)
        return decode_image(image, *limits, value_range=value_range, **options)

    with pytest.MonkeyPatch.context() as patch, blank_charts():
        patch.setattr("data.collate.decode_image", decode)
        run = train.main(arguments(folder, folder / "run", "--train.epochs", "1"))
    return run, ranges


def test_training_calibration_and_evaluation_use_the_same_range(float_run):
    _, ranges = float_run
    assert len(ranges) >= 24
    assert all(value_range == {"float": [0, 255]} for value_range in ranges)


def test_the_range_is_saved_with_the_model_and_shown_by_evaluation_and_report(
    float_run, shapes_folder, tmp_path, capsys
):
    run, _ = float_run
    assert json.loads((run / "model/config.json").read_text())["value_range"] == {"float": [0, 255]}
    description = "8 images hold floating-point values (8 within 0 to 255); 0 is read as black, 255 as white"
    assert description in (run / "summary.txt").read_text()
    assert description in (run / "evaluation/test/report.html").read_text()
    save_as(shapes_folder, tmp_path, lambda grey, number: grey / 255, "float32", ["test"])
    options = ["--output_dir", str(tmp_path / "out"), "--pictures", "0"]
    (values,) = evaluation.main([str(run), "--data.test", str(tmp_path / "test.csv"), *options])["saw"]["values"]
    assert values["within"] == [(0, 1, 8)]
    assert values["chosen"] == (0, 255)
    assert values["dim"] == 8
    assert "warning: 8 images" in capsys.readouterr().out


def test_every_interface_reads_an_image_as_in_training(float_run, tmp_path):
    run, _ = float_run
    predictor = Predictor.from_pretrained(run, precision="no")
    dark = Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8))
    dark.save(tmp_path / "dark.tif")
    pairs = [(image, "x") for image in (dark, tmp_path / "dark.tif", (tmp_path / "dark.tif").read_bytes())]
    seen = [np.asarray(example.image) for example in predictor.prepare(pairs)]
    assert all((pixels <= 1).all() for pixels in seen), "black: not its own range"
    assert np.asarray(decode_image(dark)).max() == 255
    (tmp_path / "rows.csv").write_text("image,text,label\ndark.tif,x,yes\n")
    app(["predict", str(run), "--data.test", str(tmp_path / "rows.csv"), "--output", str(tmp_path / "a.csv")])
    black = predictor(Image.new("RGB", (8, 8)), "x", top_k=1)[0]
    answer = pd.read_csv(tmp_path / "a.csv")
    assert answer["probability"][0] == pytest.approx(black["probability"], abs=0.02)


def test_the_doctor_reports_ranges(shapes_folder, tmp_path, capsys):
    save_as(shapes_folder, tmp_path, lambda grey, number: grey * (16 if number % 2 else 1 / 255), "float32")
    app(["doctor", *arguments(tmp_path, tmp_path / "run")])
    output = capsys.readouterr().out
    assert "· test: 8 images hold floating-point values (4 within 0 to 1, 4 within 0 to 4095); 0 is read as" in output
    assert "! test: 4 images (row 0, " in output
