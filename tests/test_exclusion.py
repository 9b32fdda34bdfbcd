"""Rows whose image is in another table are left out."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data import DataSettings, prepare_data


@pytest.fixture
def tables(tmp_path):
    """Forty training pictures, and a table with two of them in another size and format, and with two others."""
    rng = np.random.default_rng(0)

    def picture() -> Image.Image:
        noise = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        return Image.fromarray(noise).resize((64, 64), Image.Resampling.BICUBIC)

    pictures = [picture() for _ in range(40)]
    for number, made in enumerate(pictures):
        made.save(tmp_path / f"{number}.png")
    for number in (3, 7):
        pictures[number].resize((48, 48)).save(tmp_path / f"same{number}.jpg", quality=80)
    for number in (0, 1):
        picture().save(tmp_path / f"other{number}.png")
    rows = [{"image": f"{n}.png", "text": f"question {q}", "label": "ab"[n % 2]} for n in range(40) for q in range(2)]
    pd.DataFrame(rows).to_csv(tmp_path / "train.csv", index=False)
    names = ["same3.jpg", "other0.png", "same7.jpg", "other1.png", None]
    pd.DataFrame({"image": names, "anything": 1}).to_csv(tmp_path / "later.csv", index=False)
    return tmp_path


def settings(folder, **more) -> DataSettings:
    return DataSettings(train=str(folder / "train.csv"), exclude=str(folder / "later.csv"), **more)


def test_images_of_the_table_are_left_out_in_any_size_and_format_and_the_note_counts_them(tables):
    data = prepare_data(settings(tables), seed=0)
    left = {data.splits[split].table[int(n)]["image"] for split in data.splits for n in data.splits[split].numbers}
    assert left == {f"{n}.png" for n in range(40)} - {"3.png", "7.png"}
    assert f"left out, because their images are in {tables}/later.csv: 4 rows with 2 images of train" in data.notes


def test_validation_rows_are_left_out_but_test_rows_stay(tables):
    given = settings(tables, validation=str(tables / "train.csv"), test=str(tables / "train.csv"))
    data = prepare_data(given, seed=0)
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 76, "validation": 76, "test": 80}
    assert any("and 4 rows with 2 images of validation" in note for note in data.notes)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda folder: (folder / "later.csv").write_text("picture\na.png\n"), "data.image"),
        (lambda folder: (folder / "later.csv").write_text("image,text\nnone.png,a\n"), "Row 0 of .*later.csv"),
        (lambda folder: (folder / "later.csv").write_text("image,text\n,a\n"), "has no images in its column 'image'"),
        (lambda folder: (folder / "later.csv").write_text((folder / "train.csv").read_text()), "No row is left"),
        (lambda folder: (folder / "later.csv").unlink(), "There is no file or folder"),
    ],
)
def test_a_table_that_cannot_be_followed_is_refused(tables, change, told):
    change(tables)
    with pytest.raises(ValueError, match=told):
        prepare_data(settings(tables), seed=0)


def test_a_stream_is_refused(tables):
    given = settings(tables, streaming=True, validation=str(tables / "train.csv"))
    with pytest.raises(ValueError, match="which a stream does not allow"):
        prepare_data(given, seed=0)
