"""Random augmentation of training images."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2


class Augmentation:
    """Randomly transform each image of a batch, independently, with torch's global random state.

    Rotation by up to 10°, translation by up to a tenth of the side, scaling by 0.9 to 1.1, and brightness and contrast
    by up to 20 %. Images are not flipped and keep their hue, because a text may ask about left and right or about
    colours.

    Args:
        mean, std: per-channel statistics that the images were normalized with.

    Shape:
        - pixel_values: ``(I, 3, H, W)``, normalized
        - returns: the same shape and memory format
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
        augmented = torch.empty_like(pixel_values)
        for target, image in zip(augmented, pixel_values, strict=True):
            target.copy_(self.transform(image))
        return augmented
