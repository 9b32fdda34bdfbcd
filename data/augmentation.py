"""Other views of training images."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2


class Augmentation:
    """Another view of each image of a batch, drawn for each by itself from torch's random state.

    Turned by up to 10°, moved by up to a tenth of its side, scaled by 0.9 to 1.1, and brightness and contrast changed
    by up to a fifth. Nothing that a text may ask about changes its answer: images are not mirrored, since left and
    right would be exchanged, and keep their hue.

    Args:
        mean, std: what the images were normalised with, by channel.

    Shape:
        - pixel_values: ``(I, 3, H, W)``, normalised; returns the same, in the same memory format
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        self.transform = v2.Compose(
            [
                v2.Normalize([-m / s for m, s in zip(mean, std, strict=True)], [1 / s for s in std]),
                v2.RandomAffine(10, (0.1, 0.1), (0.9, 1.1), interpolation=InterpolationMode.BILINEAR),
                v2.ColorJitter(brightness=0.2, contrast=0.2),
                v2.Normalize(mean, std),
            ]
        )

    def __call__(self, pixel_values: Tensor) -> Tensor:
        views = torch.empty_like(pixel_values)
        for view, image in zip(views, pixel_values, strict=True):
            view.copy_(self.transform(image))
        return views
