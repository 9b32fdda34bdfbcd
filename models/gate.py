"""Adaptive computation: a learned gate decides for each sample whether a fusion is worth its work."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.attention import take


class GatedFusion(nn.Module):
    """A fusion behind a gate per sample (Veit & Belongie 2018, section 3).

    The gate sees the means of the image map and of the context; what it learns does not change them. In training it is
    drawn, with a straight-through gradient (Bengio et al. 2013, section 4), and every sample is computed; at inference
    a sample runs where its gate is above the threshold, and where it is not the fusion does no work at all. Samples of
    one image that skip share its map, so what follows runs once for them. It starts open (probability 0.88).

    ``held_open``, for the first epochs of a training, lets everything learn as without gates before gates do: drawn
    from the first step on, they keep the fusion from learning.

    Args:
        fusion: a fusion of `models.fusion`.
        dim: channels D of the image map.
        context_dim: channels of the context map.
        threshold: probability above which the fusion runs at inference, in [0, 1].

    Shape:
        - features, context, image_index, text_index: as of `models.fusion.Fusion`
        - returns: maps ``(R, D, h, w)``; the row of each sample in them ``(B,)``; weights over the slots, zero where
          the fusion did not run, or ``None``; and the gate ``(B,)``, a probability in training, else 1 (ran) or 0
    """

    def __init__(self, fusion: nn.Module, dim: int, context_dim: int, threshold: float = 0.5):
        super().__init__()
        self.fusion = fusion
        self.threshold = threshold
        self.held_open = False
        last = nn.Linear(64, 1)
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, 2.0)
        self.decide = nn.Sequential(nn.Linear(dim + context_dim, 64), nn.ReLU(), last)

    def forward(
        self, features: Tensor, context: Tensor, output_attentions: bool, image_index: Tensor, text_index: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        means = take(features.mean(dim=(2, 3)), image_index), take(context.mean(dim=(2, 3)), text_index)
        seen = torch.cat(means, dim=1)
        gate = self.decide(seen.detach()).squeeze(1).float().sigmoid()
        if not self.training:
            return self.run_open(features, context, output_attentions, image_index, text_index, gate > self.threshold)
        if self.held_open:
            gate = 1 + 0 * gate  # its parameters get a gradient, of 0: DistributedDataParallel waits for one
        drawn = (torch.rand_like(gate) < gate).to(gate.dtype)
        passed = (drawn + (gate - gate.detach())).to(features.dtype)[:, None, None, None]
        fused, weights = self.fusion(features, context, output_attentions, image_index, text_index)
        plain = take(features, image_index)
        weights = None if weights is None else weights * drawn[:, None, None, None].to(weights.dtype)
        return passed * fused + (1 - passed) * plain, torch.arange(len(gate), device=gate.device), weights, gate

    def run_open(
        self,
        features: Tensor,
        context: Tensor,
        output_attentions: bool,
        image_index: Tensor,
        text_index: Tensor,
        is_open: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """Fuse the samples whose gate is open; the others point at the maps of their images."""
        shut_maps, shut_rows = image_index[~is_open].unique(return_inverse=True)
        open_maps, open_rows = image_index[is_open].unique(return_inverse=True)
        texts, text_rows = text_index[is_open].unique(return_inverse=True)
        fused, some = self.fusion(features[open_maps], context[texts], output_attentions, open_rows, text_rows)
        rows = torch.empty_like(image_index)
        rows[~is_open] = shut_rows
        rows[is_open] = torch.arange(len(fused), device=rows.device) + len(shut_maps)
        weights = None
        if some is not None:
            weights = some.new_zeros(len(rows), *some.shape[1:])
            weights[is_open] = some
        return torch.cat([features[shut_maps], fused.to(features.dtype)]), rows, weights, is_open.float()


def gated_work(gates: Tensor, fusions: Sequence[float], blocks: Sequence[float]) -> Tensor:
    """Share of the work behind gates that is done, 1 where all are open ``(B,)``.

    A level's fusion is done where its gate is open. The blocks after it are done for this sample alone where its gate,
    or that of an earlier level, is open; else once for all samples of the image, which is work that no gate can save.

    Args:
        gates: probability that each level's gate is open ``(B, levels)``, or 1 and 0.
        fusions: multiplications of each level's fusion.
        blocks: multiplications of what follows each level, up to the next.
    """
    own_map = 1 - (1 - gates).cumprod(dim=1)
    shares = gates.new_tensor([fusions, blocks]) / (sum(fusions) + sum(blocks))
    return (gates * shares[0] + own_map * shares[1]).sum(dim=1)  # no matrix product: autocast would round it
