"""Training batches that leave batch norm a single value per channel."""

from pathlib import Path

import pytest
import torch
from test_backbones import FAMILIES, batch, classifier
from tiny import arguments
from transformers import AutoBackbone, ViTImageProcessor

import train
from app.training.batch_norm import check_batch_norm, explain_batch_norm
from data import ImageBatchSampler

NAMED = r"--train\.batch_size .*--model\.image_size.*--model\.batch_norm false"


@pytest.fixture
def resnet(tmp_path) -> str:
    """A small ResNet, whose map of 32 pixels is 1×1."""
    AutoBackbone.from_config(FAMILIES["resnet"]).save_pretrained(tmp_path / "resnet")
    ViTImageProcessor().save_pretrained(tmp_path / "resnet")
    return str(tmp_path / "resnet")


def sampler(keys: str, size: int) -> ImageBatchSampler:
    """Batches of the images that a letter for each text names; each text travels as a piece of its own."""
    return ImageBatchSampler(list(keys), size, shuffle=True, max_texts_per_image=1)


def one_image(folder: Path) -> str:
    """A table of two rows, of two classes, about one image."""
    header, *rows = (folder / "train.csv").read_text().splitlines()
    first = [row for row in rows if row.split(",")[0] == rows[0].split(",")[0]]
    (folder / "one_image.csv").write_text("\n".join([header, *first]) + "\n")
    return str(folder / "one_image.csv")


@pytest.mark.parametrize("case", ["batches of one", "one image", "pieces of one image", "stream"])
def test_batches_of_one_image_with_a_map_of_one_position_are_refused_before_training(
    shapes_folder, tmp_path, resnet, capsys, case
):
    options = {
        "batches of one": ["--train.batch_size", "1"],
        "one image": ["--data.train", one_image(shapes_folder)],
        "pieces of one image": ["--train.batch_size", "2", "--data.max_texts_per_image", "1"],
        "stream": ["--train.batch_size", "1", "--data.streaming", "true"],
    }[case]
    validation = ["--data.validation", str(shapes_folder / "test.csv"), "--model.image_encoder", resnet]
    with pytest.raises(SystemExit) as stopped:
        train.main([*arguments(shapes_folder, tmp_path / "run"), *validation, "--model.num_heads", "4", *options])
    assert stopped.value.code == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "feature map is 1×1: batch norm needs more than one value per channel" in told
    assert all(name in told for name in ("--train.batch_size", "--model.image_size", "--model.batch_norm false"))
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize(
    ("family", "image_size", "keys", "size"),
    [("resnet", 64, "abc", 1), ("resnet", 32, "abc", 2), ("resnet", 32, "aabbc", 3), ("vgg16", 32, "abc", 1)],
)
def test_batches_with_more_than_one_value_per_channel_are_trained(family, image_size, keys, size):
    model = classifier(family, image_size=image_size).train()
    batches = sampler(keys, size)
    check_batch_norm(model, batches)
    number = min(len({keys[row] for row in rows}) for rows in batches)
    model(pixel_values=torch.randn(number, 3, image_size, image_size), input_ids=torch.randint(4, 40, (number, 5)))


def test_a_batch_of_one_repeated_image_fails_with_the_names_of_the_settings():
    model = classifier("resnet", image_size=32).train()
    check_batch_norm(model, sampler("ab", 2))
    inputs = {"pixel_values": torch.randn(1, 3, 32, 32), "input_ids": torch.randint(4, 40, (1, 5))}
    with pytest.raises(ValueError, match=NAMED), explain_batch_norm():
        model(**inputs | {"image_index": torch.tensor([0, 0]), "text_index": torch.tensor([0, 0])})
    with pytest.raises(ValueError, match=r"^other$"), explain_batch_norm():
        raise ValueError("other")


def test_a_batch_without_images_trains_on_a_map_of_one_position():
    model = classifier("resnet", image_size=32).train()
    output = model(input_ids=batch()["input_ids"], labels=torch.tensor([0, 1, 2]))
    output.loss.backward()
    assert output.loss.isfinite()
    assert output.logits.shape == (3, 3)
