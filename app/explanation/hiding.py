"""Hide regions of pictures: hidden pixels are filled from their surroundings."""

import torch
from torch import Tensor
from torch.nn import functional as F


def hide(pictures: Tensor, masks: Tensor) -> Tensor:
    """Fill a region of each picture from its surroundings, by pull-push (Gortler et al. 1996, section 3.4).

    The picture is reduced to half its size, again and again, by means over visible pixels; hidden pixels take the
    values of the next smaller picture. A constant colour would leave the outline of the region, which a model can read
    (Rong et al. 2022, section 3). A picture without visible pixels becomes its mean.

    Shape:
        - pictures: ``(B, C, H, W)`` float; masks: ``(B, H, W)`` bool, ``True`` on the pixels to hide
        - returns: ``(B, C, H, W)``
    """
    visible = ~masks[:, None]
    means = pictures.mean(dim=(2, 3), keepdim=True)
    pictures = torch.where(visible.any(dim=3, keepdim=True).any(dim=2, keepdim=True), pictures, means)
    return fill(pictures, visible | ~visible.any(dim=3, keepdim=True).any(dim=2, keepdim=True))


def fill(pictures: Tensor, visible: Tensor) -> Tensor:
    """`hide` for pictures with at least one visible pixel; ``visible`` is ``(B, 1, H, W)`` bool."""
    if visible.all():
        return pictures
    weights = F.avg_pool2d(visible.to(pictures.dtype), 2, ceil_mode=True)
    means = F.avg_pool2d(pictures * visible, 2, ceil_mode=True) / weights.clamp_min(1e-6)
    smaller = fill(means, weights > 0)
    larger = F.interpolate(smaller, size=pictures.shape[2:], mode="bilinear", align_corners=False)
    return torch.where(visible, pictures, larger)
