"""Other views of training images: what changes, and what must not."""

import torch

from data import Augmentation

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]


def normalised(images: torch.Tensor) -> torch.Tensor:
    """Images in [0, 1] as the model gets them."""
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


def test_each_image_of_a_batch_is_augmented_independently_every_time():
    batch = normalised(torch.rand(1, 3, 32, 32).expand(3, -1, -1, -1))
    views = Augmentation(MEAN, STD)(batch)
    assert views.shape == batch.shape
    assert views.is_contiguous(memory_format=torch.channels_last)
    for one, other in ((views[0], views[1]), (views[1], views[2]), (views[0], batch[0])):
        assert (one - other).abs().max() > 0.1
    assert (Augmentation(MEAN, STD)(batch) - views).abs().max() > 0.1


def test_augmentation_uses_the_global_random_state():
    batch, augment = normalised(torch.rand(2, 3, 32, 32)), Augmentation(MEAN, STD)
    state = torch.get_rng_state()
    first = augment(batch)
    torch.set_rng_state(state)
    assert torch.equal(augment(batch), first)


def test_augmentation_keeps_sides_and_hues():
    images = torch.zeros(64, 3, 32, 32)
    images[:, 0, 8:24, 2:10] = 0.8  # a red bar at the left
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    views = Augmentation(MEAN, STD)(normalised(images)) * std + mean
    red, left, right = views[:, 0], views[:, 0, :, :16].sum(dim=(1, 2)), views[:, 0, :, 16:].sum(dim=(1, 2))
    assert (left > 5 * right).all()
    assert (red.amax(dim=(1, 2)) > 0.4).all()
    assert views[:, 1:].abs().max() < 0.2  # less contrast lifts what is black by a share of the mean
    assert views.min() > -1e-5
    assert views.max() < 1 + 1e-5
