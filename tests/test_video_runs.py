"""Trainings on videos: scored, answered, explained, exported and started from."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageSequence
from tiny import arguments

import eval as evaluation
import train
from app import Predictor
from app.__main__ import main as app
from app.training.run import run_training
from data.errors import UserError
from data.shape_contexts import make_clips

FRAMES = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Clips as files, and one as a folder of frames, with a question each."""
    folder = tmp_path_factory.mktemp("videos")
    for split, number in (("train", 16), ("test", 6)):
        rows = []
        for place, row in enumerate(make_clips(number, split).select(range(0, 4 * number, 4))):
            path = folder / f"{split}_{place}.gif"
            path.write_bytes(row["image"]["bytes"])
            rows.append({"image": path.name, "text": f"does shape {place % 2} move?", "label": row["label"]})
        frames_of(folder / rows[0]["image"], folder / split)
        rows[0]["image"] = split
        pd.DataFrame(rows).to_csv(folder / f"{split}.csv", index=False)
    return folder


def frames_of(clip, folder):
    folder.mkdir()
    with Image.open(clip) as opened:
        for number, frame in enumerate(ImageSequence.Iterator(opened)):
            frame.convert("RGB").save(folder / f"{number}.png")


def command(folder, run, *options: str) -> list[str]:
    return arguments(folder, run, "--train.epochs", "1", *options)


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run"
    train.main(command(folder, run, "--data.frames", str(FRAMES), "--train.pictures", "1"))
    return run


@pytest.mark.slow
@pytest.mark.usefixtures("blank_charts")
def test_a_run_on_videos_is_scored_again_with_the_same_figures(run, folder):
    figures = json.loads((run / "evaluation/test/metrics.json").read_text())
    again = evaluation.main([str(run / "model"), "--data.test", str(folder / "test.csv"), "--pictures", "0"])
    assert again["scores"]["image + text"] == figures["scores"]["image + text"]
    assert "4 frames of each video" in (run / "model/README.md").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("blank_charts")
def test_frozen_features_of_videos_give_the_answers_of_the_videos_themselves(folder, tmp_path):
    frozen = ["--data.frames", str(FRAMES), "--train.scales.image_encoder", "0"]
    figures = []
    for cached in ("true", "false"):
        train.main(command(folder, tmp_path / cached, *frozen, "--train.cache_features", cached))
        figures.append(pd.read_parquet(tmp_path / cached / "evaluation/test/predictions.parquet")["probability"])
    np.testing.assert_allclose(*figures, atol=2e-3)
    train.main(command(folder, tmp_path / "nine", *frozen, "--data.frames", "9"))


@pytest.mark.slow
@pytest.mark.usefixtures("blank_charts")
def test_file_folder_sheet_and_array_of_a_clip_get_the_same_answer(run, folder):
    predictor = Predictor.from_pretrained(run, precision="no")
    with Image.open(folder / "train_0.gif") as clip:
        frames = np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(clip)])
    sheet = predictor.prepare([(folder / "train_0.gif", None)])[0].image
    given = [
        str(folder / "train_0.gif"),
        (folder / "train_0.gif").read_bytes(),
        folder / "train",
        sheet,
        frames,
        torch.from_numpy(frames).permute(0, 3, 1, 2),
    ]
    answers = [predictor(video, "does shape 0 move?") for video in given]
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.slow
def test_an_array_of_frames_is_padded_as_the_file_is(run, folder):
    predictor = Predictor.from_pretrained(run, precision="no")
    predictor.processor.fit = "letterbox"
    pictures = [Image.new("RGB", (40, 24), color) for color in ("red", "blue", "green", "white")]
    pictures[0].save(folder.parent / "wide.gif", save_all=True, append_images=pictures[1:])
    array = np.stack([np.asarray(picture) for picture in pictures])
    one, other = (predictor.prepare([(video, None)])[0].image for video in (folder.parent / "wide.gif", array))
    assert one.size == other.size == (80, 80)
    assert one.tobytes() == other.tobytes()
    with pytest.raises(UserError, match="has no frames"):
        predictor(array[:0])


@pytest.mark.slow
def test_the_frames_of_videos_are_not_augmented(folder, tmp_path):
    with pytest.raises(UserError, match="not the frames of videos"):
        run_training(train.parse_settings(command(folder, tmp_path, "--data.frames", "4", "--train.augment", "true")))


@pytest.mark.slow
@pytest.mark.usefixtures("blank_charts")
@pytest.mark.parametrize("method", ["integrated_gradients", "gradient", "occlusion", "readout"])
def test_evidence_falls_on_the_frames(run, folder, method):
    predictor = Predictor.from_pretrained(run, precision="no")
    found = predictor.explain(folder / "test_1.gif", "does shape 1 move?", method=method)
    height, width = found.evidence.shape
    assert height == width
    assert height % 2 == 0
    assert found.image.size == (128, 128)
    assert found.positions.sum() == pytest.approx(1, abs=1e-4)
    assert found.overlay().size == (448, 448)


@pytest.mark.slow
@pytest.mark.usefixtures("blank_charts")
def test_the_exported_model_gives_the_same_answers(run, folder, tmp_path):
    app(["export", str(run), "--output", str(tmp_path / "onnx")])
    asked = [(folder / f"test_{number}.gif", "does shape 1 move?") for number in range(3)] + [(None, "does it?")]
    ours, theirs = Predictor.from_pretrained(run, precision="no"), Predictor.from_pretrained(tmp_path / "onnx")
    one, other = (found.probabilities(found.prepare(asked)) for found in (ours, theirs))
    np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("blank_charts")
def test_the_command_line_answers_about_a_file_a_folder_of_frames_and_all_clips(run, folder, tmp_path, capsys):
    told = []
    for video in ("train_0.gif", "train"):
        app(["predict", str(run), "--image", str(folder / video), "--text", "does shape 0 move?"])
        told.append(capsys.readouterr().out)
    assert told[0] == told[1]
    assert "%" in told[0]
    app(["predict", str(run), "--data.test", str(folder), "--text", "x", "--output", str(tmp_path / "answers.csv")])
    assert len(pd.read_csv(tmp_path / "answers.csv")) == 22


@pytest.mark.slow
@pytest.mark.usefixtures("blank_charts")
def test_a_training_from_a_run_on_videos_sees_as_many_frames(run, folder, tmp_path):
    data = ["--data.train", str(folder / "train.csv"), "--model.init", str(run), "--run_dir", str(tmp_path / "more")]
    data += ["--data.num_workers", "0", "--train.trackers", "[]", "--train.pictures", "0", "--train.epochs", "1"]
    with pytest.raises(UserError, match=r"give --data\.frames 4"):
        run_training(train.parse_settings([*data, "--data.frames", "9"]))
