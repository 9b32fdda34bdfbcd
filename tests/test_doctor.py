"""The examination of the data: each inserted fault is found and named."""

import io
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw
from tiny import shared_encoder

from app.__main__ import main as app
from app.studies.data_checks import check_images, contradictions
from data import DataSettings, LabelFormat, load_rows, prepare_data, verify_images
from data.near_duplicates import near_duplicates, thumbnail

TINY = [
    "--model.text_encoder",
    "scratch",
    "--model.image_weights",
    "none",
    "--model.image_size",
    "32",
    "--model.text_hidden_size",
    "16",
    "--data.num_workers",
    "0",
]
TINY += ["--model.image_encoder", shared_encoder()]


def draw(number: int, size: int = 64) -> Image.Image:
    """A picture unlike the others."""
    rng = np.random.default_rng(number)
    image = Image.new("RGB", (size, size), tuple(rng.integers(0, 255, 3).tolist()))
    canvas = ImageDraw.Draw(image)
    for _ in range(4):
        corner = rng.integers(0, size // 2, 2)
        canvas.ellipse([*corner.tolist(), *(corner + size // 3).tolist()], tuple(rng.integers(0, 255, 3).tolist()))
    return image


def recompressed(image: Image.Image) -> Image.Image:
    """As another program saves it: smaller, and as a JPEG."""
    buffer = io.BytesIO()
    image.resize((48, 48)).save(buffer, "JPEG", quality=70)
    return Image.open(buffer).convert("RGB")


@pytest.fixture
def sick(tmp_path):
    """Training and held-out rows with one fault of each kind."""
    for number in range(24):
        draw(number).save(tmp_path / f"{number}.png")
    recompressed(draw(3)).save(tmp_path / "3_again.jpg")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    train = [(f"{n}.png", f"is it number {n % 4}?", "yes" if n % 2 else "no", f"patient {n}") for n in range(20)]
    train += [("5.png", "is it number 1?", "no", "patient 5"), ("6.png", "what?", "Yes", "patient 6")]
    train += [("broken.png", "what?", "no", "patient 7"), ("7.png", "is it number 3?", "yes", "patient 7")]
    test = [(f"{n}.png", f"is it number {n % 4}?", "yes" if n % 2 else "no", f"patient {n}") for n in range(19, 24)]
    test += [("3_again.jpg", "is it?", "perhaps", "patient 99")]
    columns = ["image", "text", "label", "patient"]
    pd.DataFrame(train, columns=columns).to_csv(tmp_path / "train.csv", index=False)
    pd.DataFrame(test, columns=columns).to_csv(tmp_path / "test.csv", index=False)
    return tmp_path


def test_every_fault_is_found_and_named(sick, capsys):
    options = ["--data.group", "patient", "--train.batch_size", "4", *TINY]
    app(["doctor", "--data.train", str(sick / "train.csv"), "--data.test", str(sick / "test.csv"), *options])
    said = capsys.readouterr().out
    for finding in (
        "broken.png: not a readable JPEG",
        "! train: 1 rows have an image that cannot be read (row 22); training stops",
        "1 rows repeat another: the same image, text and label",
        "test row 5 3_again.jpg and train row 3 3.png",
        "1 of the 6 rows of test have an image and text of train",
        "values of patient of test also occur in train: patient 19",
        "differ only by case or spaces: [['Yes', 'yes']]",
        "pairs of an image and a text have several labels: rows 5, 20: no / yes",
        "perhaps",
        "always “",
        "logistic regression on the words",
        "steps of training take",
        "warnings. Train with: python train.py --data.train",
    ):
        assert finding in said, f"{finding}\n\n{said}"


def test_sound_data_raise_no_warning(shapes_folder, capsys):
    app(
        [
            "doctor",
            "--data.train",
            str(shapes_folder / "train.csv"),
            "--data.test",
            str(shapes_folder / "test.csv"),
            *TINY,
        ]
    )
    said = capsys.readouterr().out
    assert "✓ no pair of an image and a text is in two splits" in said
    assert "have several labels" not in said
    assert "\n0 warnings." in said


def test_rows_that_are_both_validation_and_test_are_found(shapes_folder, capsys):
    train, test = (str(shapes_folder / name) for name in ("train.csv", "test.csv"))
    app(["doctor", "--data.train", train, "--data.test", test, *TINY, "--data.validation", test])
    said = capsys.readouterr().out
    number = len(pd.read_csv(test))
    images = pd.read_csv(test)["image"].nunique()
    assert f"! {images} of the {images} images of test also occur in validation" in said
    assert f"! {number} of the {number} rows of test have an image and text of validation" in said


def test_rows_without_a_group_are_not_one_group(sick, capsys):
    for name in ("train.csv", "test.csv"):
        rows = pd.read_csv(sick / name)
        rows.assign(patient=["", " "] * (len(rows) // 2)).to_csv(sick / name, index=False)
    options = ["--data.group", "patient", "--train.batch_size", "4", *TINY]
    app(["doctor", "--data.train", str(sick / "train.csv"), "--data.test", str(sick / "test.csv"), *options])
    assert "values of patient" not in capsys.readouterr().out


def test_an_image_that_cannot_be_read_is_a_warning_of_its_split(shapes_folder, tmp_path, capsys):
    table = pd.read_csv(shapes_folder / "test.csv")
    table.loc[3:9, "image"] = "gone.png"
    table.to_csv(tmp_path / "test.csv", index=False)
    options = ["--data.image_root", str(shapes_folder), *TINY]
    app(
        [
            "doctor",
            "--data.train",
            str(shapes_folder / "train.csv"),
            "--data.test",
            str(tmp_path / "test.csv"),
            *options,
        ]
    )
    said = capsys.readouterr().out
    assert "! test: 7 rows have an image that cannot be read (row 3, 4, 5, 6, 7, …)" in said
    assert "\n1 warnings." in said


def test_a_missing_column_of_groups_is_a_warning(sick, capsys):
    pd.read_csv(sick / "test.csv").drop(columns="patient").iloc[1:].to_csv(sick / "test.csv", index=False)
    options = ["--data.group", "patient", "--train.batch_size", "4", *TINY]
    app(["doctor", "--data.train", str(sick / "train.csv"), "--data.test", str(sick / "test.csv"), *options])
    said = capsys.readouterr().out
    assert "! test has no column patient" in said
    assert "and no patient" not in said


def test_pictures_as_large_as_training_allows_are_compared(shapes_folder, monkeypatch):
    monkeypatch.setattr("data.images.decode_image.__defaults__", (10,))
    train, test = (str(shapes_folder / name) for name in ("train.csv", "test.csv"))
    assert check_images(prepare_data(DataSettings(train=train, test=test), 0))


def test_of_too_many_images_the_held_out_ones_are_compared_first(sick, monkeypatch, capsys):
    monkeypatch.setattr("app.studies.data_checks.MAX_COMPARED", 12)
    app(
        [
            "doctor",
            "--data.train",
            str(sick / "train.csv"),
            "--data.test",
            str(sick / "test.csv"),
            "--train.batch_size",
            "4",
            *TINY,
        ]
    )
    assert "(12 of 25 were compared, held-out images first)" in capsys.readouterr().out
    monkeypatch.setattr("app.studies.data_checks.MAX_COMPARED", 1)
    settings = DataSettings(train=str(sick / "train.csv"), test=str(sick / "test.csv"), on_bad_image="skip")
    ((grade, told),) = check_images(prepare_data(settings, 0))
    assert grade == "note", told


def test_answers_of_annotators_are_counted_one_by_one_in_any_order(sick, capsys):
    table = pd.read_csv(sick / "train.csv")
    table["label"] = ["yes|no|yes" if row % 2 else "no|yes|yes" for row in range(len(table))]
    table.loc[:4, "label"] = "yes|yes"
    table.to_csv(sick / "people.csv", index=False)
    options = ["--data.label_type", "annotators", "--data.on_bad_image", "skip", "--train.batch_size", "4", *TINY]
    app(["doctor", "--data.train", str(sick / "people.csv"), *options])
    said = capsys.readouterr().out
    assert re.search(r"yes: \d+ answers \((?!1\d\d)", said)
    assert "have several labels" not in said


def test_data_that_cannot_be_examined_are_refused_with_the_reason(sick, capsys):
    with pytest.raises(SystemExit):
        app(
            [
                "doctor",
                "--data.train",
                str(sick / "train.csv"),
                "--data.test",
                str(sick / "test.csv"),
                "--data.streaming",
                "true",
            ]
        )
    assert "leave out data.streaming" in capsys.readouterr().err
    pd.read_csv(sick / "train.csv").assign(text="").to_csv(sick / "mute.csv", index=False)
    options = ["--data.allow_missing", "true", "--train.batch_size", "4", *TINY]
    with pytest.raises(SystemExit):
        app(["doctor", "--data.train", str(sick / "mute.csv"), *options])
    said = capsys.readouterr()
    assert "no row of train has a text" in said.out
    assert "no word" in said.err


def test_a_configuration_can_be_examined(shapes_folder, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text(f"data: {{train: {shapes_folder / 'train.csv'}}}\n")
    app(["doctor", str(tmp_path / "c.yaml"), *TINY])
    assert f"Train with: python train.py {tmp_path / 'c.yaml'}" in capsys.readouterr().out


@pytest.mark.parametrize(("tables", "message"), [(["a.csv"], "--data.train FILE"), (["a.csv", "b.csv"], "b.csv")])
def test_tables_without_their_option_are_refused(tables, message, capsys):
    with pytest.raises(SystemExit) as stop:
        app(["doctor", *tables])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_near_duplicates_differ_only_by_size_and_compression():
    pictures = [draw(n) for n in range(30)] + [recompressed(draw(7)), recompressed(draw(20))]
    assert near_duplicates(np.stack([thumbnail(p) for p in pictures])) == [(7, 30), (20, 31)]


def test_contradictions_are_rows_of_one_image_and_text_with_several_labels(sick):
    settings = DataSettings(train=str(sick / "train.csv"), test=str(sick / "test.csv"), on_bad_image="skip")
    rows, _ = verify_images(load_rows(settings.train, "train", settings), settings)
    assert contradictions(rows, LabelFormat()) == [([5, 20], ["no", "yes"])]


def test_what_a_training_cannot_load_is_a_warning_beside_the_checks_of_the_data(sick, capsys):
    options = ["--data.group", "patient", *TINY, "--model.text_encoder", "someone/encoder"]
    app(["doctor", "--data.train", str(sick / "train.csv"), "--data.test", str(sick / "test.csv"), *options])
    told = capsys.readouterr().out
    assert "! A training cannot start. Could not load the text encoder 'someone/encoder'" in told
    assert "1 of the 6 images of test also occur in train" in told
