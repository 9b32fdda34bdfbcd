"""Logits that are linear in the mean features of the encoders."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from models.fusion import init_to_zero


class LinearProbe(nn.Module):
    """A linear classifier of the mean image map and the mean token, added to the logits of the fused map.

    What a linear classifier can learn, the network need not learn (wide and deep learning, Cheng et al. 2016). It gets
    the features of the encoders, before anything else is learned, so what fusion and classifier learn by heart does not
    change it. The probe starts at zero; `app.training.linear_start` sets it to logistic regression.

    Args:
        image_dim: channels D of the map.
        text_dim: width of the token features; ``None`` if the text is ignored.
        num_labels: number of classes C.

    Shape:
        - maps: ``(I, D, h, w)``
        - tokens: ``(T, L, text_dim)``; mask: ``(T, L)`` bool, ``True`` on real tokens, at least one per row
        - image_index, text_index: ``(B,)`` int64, the rows of maps and tokens of each pair
        - returns: logits ``(B, C)`` in float32
    """

    def __init__(self, image_dim: int, text_dim: int | None, num_labels: int):
        super().__init__()
        self.norm_image = nn.LayerNorm(image_dim, elementwise_affine=False)
        self.image = nn.Linear(image_dim, num_labels)
        self.norm_text = None if text_dim is None else nn.LayerNorm(text_dim, elementwise_affine=False)
        self.text = None if text_dim is None else nn.Linear(text_dim, num_labels, bias=False)
        init_to_zero(self.image)
        if self.text is not None:
            nn.init.zeros_(self.text.weight)

    def forward(self, maps: Tensor, tokens: Tensor, mask: Tensor, image_index: Tensor, text_index: Tensor) -> Tensor:
        with full_precision(maps.device.type):
            images, texts = self.means(maps, tokens, mask)
            logits = self.image(self.norm_image(images))[image_index]
            if self.norm_text is not None and self.text is not None:
                logits = logits + self.text(self.norm_text(texts))[text_index]
        return logits.float()

    def means(self, maps: Tensor, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of each map ``(I, D)`` and of the real tokens of each text ``(T, width)``."""
        dtype = self.image.weight.dtype
        real = mask[..., None].to(dtype)
        return maps.to(dtype).mean(dim=(2, 3)), (tokens.to(dtype) * real).sum(dim=1) / real.sum(dim=1)


def full_precision(device: str) -> AbstractContextManager:
    """A context without autocast; an exported graph has none."""
    return nullcontext() if torch.compiler.is_exporting() else torch.autocast(device, enabled=False)
