"""Adaptive computation: a learned gate decides for each sample whether a fusion runs."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.attention import take


class GatedFusion(nn.Module):
    """A fusion behind one gate per sample (Veit & Belongie 2018, section 3).

    The gate is a small network on the means of the image map and of the context, both detached from its gradient. In
    training, the gate is sampled with a straight-through gradient (Bengio et al. 2013, section 4) and the fusion is
    computed for every sample. At inference, the fusion is computed only for samples whose gate is above the threshold.
    Skipped samples of one image share its map, so the blocks that follow run once for them. The initial probability is
    0.88.

    While ``held_open`` is true, all gates are open and do not train. Training starts this way, because gates sampled
    from the first step keep the fusion from learning.

    Args:
        fusion: a module with the interface of `models.fusion.Fusion`.
        dim: channels D of the image map.
        context_dim: channels of the context map.
        threshold: probability above which the fusion runs at inference, in [0, 1].

    Shape:
        - features, context, image_index, text_index: as in `models.fusion.Fusion`
        - returns: maps ``(R, D, h, w)``; the row of each sample in them ``(B,)``; the weights over the slots, zero for
          skipped samples, or ``None``; and the gates ``(B,)``, probabilities in training, else 1 (ran) or 0 (skipped)
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
        gate = self.decide(torch.cat(means, dim=1).detach()).squeeze(1).float().sigmoid()
        if not self.training:
            return self.run_open(features, context, output_attentions, image_index, text_index, gate > self.threshold)
        if self.held_open:
            gate = 1 + 0 * gate  # a gradient of 0: DistributedDataParallel needs one for every parameter
        sampled = (torch.rand_like(gate) < gate).to(gate.dtype)
        switch = (sampled + (gate - gate.detach())).to(features.dtype)[:, None, None, None]
        fused, weights = self.fusion(features, context, output_attentions, image_index, text_index)
        plain = take(features, image_index)
        weights = None if weights is None else weights * sampled[:, None, None, None].to(weights.dtype)
        return switch * fused + (1 - switch) * plain, torch.arange(len(gate), device=gate.device), weights, gate

    def run_open(
        self,
        features: Tensor,
        context: Tensor,
        output_attentions: bool,
        image_index: Tensor,
        text_index: Tensor,
        is_open: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """Fuse the samples whose gate is open; the others refer to the maps of their images."""
        skipped_maps, skipped_rows = image_index[~is_open].unique(return_inverse=True)
        open_maps, open_rows = image_index[is_open].unique(return_inverse=True)
        texts, text_rows = text_index[is_open].unique(return_inverse=True)
        fused, fused_weights = self.fusion(features[open_maps], context[texts], output_attentions, open_rows, text_rows)
        rows = torch.empty_like(image_index)
        rows[~is_open] = skipped_rows
        rows[is_open] = torch.arange(len(fused), device=rows.device) + len(skipped_maps)
        weights = None
        if fused_weights is not None:
            weights = fused_weights.new_zeros(len(rows), *fused_weights.shape[1:])
            weights[is_open] = fused_weights
        return torch.cat([features[skipped_maps], fused.to(features.dtype)]), rows, weights, is_open.float()


def gated_work(gates: Tensor, fusions: Sequence[float], blocks: Sequence[float]) -> Tensor:
    """Share ``(B,)`` of the gated work that is done for each sample; 1 if all gates are open.

    The fusion of a level is done if its gate is open. The blocks after it are done for the sample alone if this gate or
    that of an earlier level is open. Otherwise they are done once per image, which no gate can avoid and which is not
    counted.

    Args:
        gates: probability ``(B, levels)`` that each gate is open, or 1 and 0.
        fusions: multiplications of each level's fusion.
        blocks: multiplications of the blocks between each level and the next.
    """
    own_map = 1 - (1 - gates).cumprod(dim=1)
    shares = gates.new_tensor([fusions, blocks]) / (sum(fusions) + sum(blocks))
    return (gates * shares[0] + own_map * shares[1]).sum(dim=1)  # not a matrix product, which autocast would round
