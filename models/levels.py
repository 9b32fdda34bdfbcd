"""Fusion at one or several levels: the image map meets the context after some blocks of the image encoder."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from data.errors import UserError
from models.attention import take
from models.attention_kinds import build_attention
from models.configuration import ImageTextConfig
from models.fusion import build_fusion, check_fusion
from models.gate import GatedFusion, gated_work
from models.image_encoder import ImageEncoder
from models.vgg import GRID, LAST, WIDTH, check_levels


class LevelFusions(nn.ModuleDict):
    """The fusions of a classifier by level, and the pass through them and the blocks that follow each.

    Pairs share the map of their image until their first fusion; from there on each pair has a map of its own. Several
    contexts are read one after the other, each by a fusion of its own. All together in one attention they were learned
    less well (docs/context.md).

    Args:
        config: levels, fusion, attention and gates.
        image_encoder: gives widths and sizes of the maps. It is passed to `forward` again and not held here.

    Shape:
        - maps: ``(I, D, h, w)``, the maps at the first level
        - contexts: ``(T, 512, 7, 7)``; of K contexts ``(T, 512, 7·K, 7)``
        - image_index, text_index: ``(B,)`` int64, the rows of ``maps`` and ``contexts`` of each pair
        - returns: the fused maps after the last block ``(B, D', h', w')``; the attention weights of each level over
          the slots of all contexts ``(B, H, N, 49 · K)``, which sum to 1 over those of one, or ``None``; and, if gated,
          the gates ``(B, levels · K)`` and the share of work done ``(B,)``, else ``None``

    Raises:
        UserError: levels, heads or kinds of attention that do not go together.
    """

    def __init__(self, config: ImageTextConfig, image_encoder: ImageEncoder):
        check_fusion(config.fusion, config.attention, config.gated)
        levels = check_levels(config.levels)
        number = max(1, config.num_contexts)
        names = [fusion_name(level, context) for level in levels for context in range(number)]
        super().__init__({name: build_level(config, image_encoder, int(name.partition("_")[0])) for name in names})
        self.levels = levels
        self.num_contexts = number
        self.gated = config.gated
        self.costs = self.count_costs(image_encoder, config.image_size) if config.gated else None

    def forward(
        self,
        maps: Tensor,
        contexts: Tensor,
        image_index: Tensor,
        text_index: Tensor,
        image_encoder: ImageEncoder,
        output_attentions: bool = False,
    ) -> tuple[Tensor, tuple[Tensor, ...] | None, Tensor | None, Tensor | None]:
        rows: Tensor | None = image_index  # the map of each pair; None once pair b has map b
        attentions: list[Tensor] = []
        gates: list[Tensor] = []
        for level, next_level in pairwise((*self.levels, LAST)):
            of_level: list[Tensor] = []
            for number, slots in enumerate(contexts.chunk(self.num_contexts, dim=2)):
                fusion = self[fusion_name(level, number)]
                if self.gated:
                    maps, rows, weights, gate = fusion(maps, slots, output_attentions, rows, text_index)
                    gates.append(gate)
                else:
                    maps, weights = fusion(maps, slots, output_attentions, rows, text_index)
                    rows = None
                of_level += [] if weights is None else [weights]
            attentions += [torch.cat(of_level, dim=-1)] if of_level else []
            maps = image_encoder.run(maps, level, next_level)
        maps = take(maps, rows)
        if self.costs is None:
            return maps, tuple(attentions) or None, None, None
        all_gates = torch.stack(gates, dim=1)
        return maps, tuple(attentions) or None, all_gates, gated_work(all_gates, *self.costs)

    def count_costs(self, image_encoder: ImageEncoder, image_size: int) -> tuple[list[float], list[int]]:
        """Multiplications of each fusion per pair, and of the blocks between it and the next fusion per map.

        A fusion's are estimated as its weights times the mean of the numbers of positions and of slots.
        """
        fusions, blocks = [], []
        for level, next_level in pairwise((*self.levels, LAST)):
            layers = [layer for layer in self[str(level)].modules() if isinstance(layer, nn.Linear)]
            weights = sum(layer.weight.numel() for layer in layers)
            work = weights * (image_encoder.side(image_size, level) ** 2 + GRID**2) / 2
            fusions += [work] * self.num_contexts
            blocks += [0] * (self.num_contexts - 1) + [image_encoder.work(image_size, level, next_level)]
        return fusions, blocks


def check_contexts(config: ImageTextConfig) -> None:
    """Refuse a fusion without a context.

    Raises:
        UserError: a fusion with nothing.
    """
    if not config.num_contexts and config.fusion != "none":
        raise UserError(
            f"The fusion {config.fusion} needs a context, and the model has neither a text nor another one. Name one "
            "with --context.NAME KIND, or classify the image alone: --model.fusion none."
        )


def fusion_name(level: int, context: int) -> str:
    """The name of the fusion with a context, counted from 0, after a block of the image encoder."""
    return f"{level}_{context + 1}" if context else str(level)


def build_level(config: ImageTextConfig, image_encoder: ImageEncoder, level: int) -> nn.Module:
    """The fusion after one block of the image encoder, behind a gate if the model is gated."""
    dim, positions = image_encoder.width(level), 0
    if config.fusion == "self" and config.attention == "low_rank":
        positions = image_encoder.side(config.image_size, level) ** 2
    check_contexts(config)
    attend = build_attention(
        config.attention,
        GRID * GRID + positions,
        window=config.attention_window,
        top_k=config.attention_top_k,
        rank=config.attention_rank,
    )
    fusion = build_fusion(config.fusion, dim, config.num_heads, WIDTH, config.fusion_dropout, attend)
    return GatedFusion(fusion, dim, WIDTH, config.gate_threshold) if config.gated else fusion
