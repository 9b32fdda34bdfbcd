"""Images of every format and shape, in every command that reads images."""

import pandas as pd
import pytest
from hostile import BAD_IMAGES, GOOD_IMAGES, encode, picture
from PIL import Image
from tiny import TINY, shared_encoder

import eval as evaluation
import train
from app.__main__ import main as app

ODD = GOOD_IMAGES | {
    "a pixel": encode(Image.new("RGB", (1, 1)), "PNG"),
    "a column": encode(Image.new("L", (1, 20_000), 200), "PNG"),
    "a line": encode(Image.new("RGB", (20_000, 1), "red"), "PNG"),
    "palette tiff": encode(picture("P"), "TIFF"),
    "lab tiff": encode(picture("LAB"), "TIFF"),
    "cmyk tiff": encode(picture("CMYK"), "TIFF"),
    "bits tiff": encode(picture("1"), "TIFF", compression="group4"),
    "integer tiff": encode(picture("I"), "TIFF"),
    "float tiff": encode(picture("F"), "TIFF"),
    "pages of two sizes": encode(picture(), "TIFF", save_all=True, append_images=[picture("L", (9, 3))]),
}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Two tables with two rows for each odd image, and two for each file that is not an image."""
    folder = tmp_path_factory.mktemp("odd")
    rows = []
    for number, (name, data) in enumerate([*ODD.items(), *BAD_IMAGES.items()]):
        (folder / f"{number}.bin").write_bytes(data)
        rows += [(f"{number}.bin", f"is it {name}?", "yes"), (f"{number}.bin", f"is it no {name}?", "no")]
    pd.DataFrame(rows, columns=["image", "text", "label"]).to_csv(folder / "train.csv", index=False)
    pd.DataFrame(rows[::-1], columns=["image", "text", "label"]).to_csv(folder / "test.csv", index=False)
    return folder


def test_odd_images_are_trained_on_examined_scored_and_answered(tables, capsys, blank_charts):
    sources = [str(tables / "train.csv"), str(tables / "test.csv")]
    data = ["--data.train", sources[0], "--data.test", sources[1], "--data.on_bad_image", "skip"]
    model = [*TINY, "--model.image_encoder", shared_encoder()]
    run = train.main([*data, *model, "--run_dir", str(tables / "run"), "--train.epochs", "1"])
    assert evaluation.main([str(run), "--pictures", "0"])["rows"] == 2 * len(ODD)
    app(["doctor", *data[:4], *model])
    assert f"{2 * len(BAD_IMAGES)} rows have an image that cannot be read" in capsys.readouterr().out
    app(["predict", str(run), "--data.test", sources[0], "--output", str(tables / "answers.csv")])
    errors = pd.read_csv(tables / "answers.csv")["error"]
    assert errors.notna().tolist() == [False] * 2 * len(ODD) + [True] * 2 * len(BAD_IMAGES)
    assert errors.dropna().str.len().max() < 300


@pytest.mark.parametrize("name", ["a column", "a line", "a pixel", "lab tiff"])
def test_an_explanation_is_drawn_for_images_of_any_shape(run_dir, tmp_path, name):
    (tmp_path / "image").write_bytes(ODD[name])
    output = tmp_path / "explanation.png"
    app(["explain", str(run_dir), "--image", str(tmp_path / "image"), "--text", "what?", "--output", str(output)])
    assert output.is_file()
