"""The budget of a training: rows and images a batch, epochs or steps."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tiny import arguments

import app.evaluation.predict
import train
from app.settings import TrainSettings, differences
from app.settings_parser import load_settings, parse_settings
from app.training.batches import images_per_batch
from app.training.run_folder import RunDir
from app.training.schedule import num_epochs

pytestmark = pytest.mark.usefixtures("blank_charts")


def rows_with(texts_per_image: list[int], without_image: int = 0) -> SimpleNamespace:
    keys = [str(image) for image, texts in enumerate(texts_per_image) for _ in range(texts)] + [None] * without_image

    class Keys(SimpleNamespace):
        def __len__(self):
            return len(keys)

    return Keys(image_keys=keys, is_stream=False)


@pytest.mark.parametrize(
    ("texts", "batch_rows", "images"),
    [
        ([1] * 100, 64, 32),
        ([8] * 100, 64, 8),
        ([8] * 100, 0, 32),
        ([200] * 5, 64, 1),
        ([4, 12] * 50, 64, 8),
    ],
)
def test_images_with_several_texts_come_in_smaller_batches(texts, batch_rows, images):
    assert images_per_batch(TrainSettings(batch_rows=batch_rows), rows_with(texts)) == images


def test_rows_without_an_image_count_as_images_of_their_own():
    assert images_per_batch(TrainSettings(batch_rows=16), rows_with([4] * 10, without_image=40)) == 10


def test_a_stream_has_batches_of_batch_size_images():
    rows = rows_with([8] * 100)
    rows.is_stream = True
    assert images_per_batch(TrainSettings(batch_rows=8), rows) == 32


@given(steps=st.integers(1, 10_000), steps_per_epoch=st.integers(1, 500))
def test_steps_are_rounded_up_to_whole_epochs(steps, steps_per_epoch):
    epochs = num_epochs(TrainSettings(epochs=7, steps=steps), steps_per_epoch)
    assert (epochs - 1) * steps_per_epoch < steps <= epochs * steps_per_epoch
    assert num_epochs(TrainSettings(epochs=7), steps_per_epoch) == 7


def test_a_run_trains_for_the_steps_asked_for_and_resumes_with_more(shapes_folder, tmp_path):
    command = arguments(shapes_folder, tmp_path / "run", "--train.batch_size", "4", "--train.schedule", "constant")
    command += ["--train.warmup", "0", "--train.epochs", "1"]
    run = RunDir(train.main([*command, "--train.steps", "1"]))
    assert [record["epoch"] for record in run.records() if "validation_accuracy" in record] == [1]
    steps = run.records()[-1]["step"]
    train.main([*command, "--train.steps", str(steps + 1)])
    assert [record["epoch"] for record in run.records() if "validation_accuracy" in record] == [1, 2]


def test_a_run_of_an_earlier_version_resumes_with_the_batches_and_the_classifier_it_had(shapes_folder, tmp_path):
    command = arguments(shapes_folder, tmp_path / "run", "--train.epochs", "1")
    run = RunDir(train.main(command))
    values = yaml.safe_load(run.config.read_text())
    del values["train"]["batch_rows"], values["model"]["classifier_product"]
    run.config.write_text(yaml.safe_dump(values))
    assert load_settings(run.config).train == replace(load_settings(run.config).train, batch_rows=0)
    assert not load_settings(run.config).model.classifier_product
    changed = differences(load_settings(run.config), parse_settings([*command, "--train.batch_rows", "64"]))
    assert changed.pop("train.batch_rows") == "train.batch_rows was 0, now 64"
    assert changed == {"model.classifier_product": "model.classifier_product was False, now True"}


def test_the_texts_of_an_image_are_limited_in_each_scoring_of_a_training(shapes_folder, tmp_path, monkeypatch):
    limits, sampler = [], app.evaluation.predict.ImageBatchSampler

    def watched(*args, **more):
        limits.append(more["max_texts_per_image"])
        return sampler(*args, **more)

    monkeypatch.setattr(app.evaluation.predict, "ImageBatchSampler", watched)
    train.main(arguments(shapes_folder, tmp_path / "run", "--data.max_texts_per_image", "3", "--train.epochs", "1"))
    assert len(limits) > 2, "after an epoch, to calibrate, and at the end"
    assert set(limits) == {3}
