"""Image-text pairs as two index tensors: the image row and the text row of each pair, -1 where it has none."""

from collections.abc import Mapping

import torch
from torch import Tensor


def resolve_indices(
    images: Tensor | None,
    texts: Tensor | None,
    image_index: Tensor | None,
    text_index: Tensor | None,
    others: Mapping[str, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Complete the indices of B pairs: without an index, pair b consists of row b.

    Args:
        others: indices of further contexts by name, ``(B,)``, or ``(1,)`` for all pairs.

    Shape:
        - images: ``(I, …)``; texts: ``(T, …)``; at least one of the two
        - image_index, text_index: ``(B,)`` int64, or ``None``
        - returns: both indices ``(B,)``, -1 for a missing image or text

    Raises:
        ValueError: no images and no texts, or sizes that do not match.
    """
    given = {"images": images, "texts": texts, "image_index": image_index, "text_index": text_index}
    sizes = {
        name: tensor.shape[0]
        for name, tensor in given.items()
        if tensor is not None and (name.endswith("index") or given[f"{name[:-1]}_index"] is None)
    }
    sizes |= {name: index.shape[0] for name, index in (others or {}).items() if index.shape[0] != 1}
    if not sizes and others:  # contexts of one pair, without image and text
        sizes = dict.fromkeys(others, 1)
    if not sizes:
        raise ValueError("Give pixel_values, input_ids or both; got neither.")
    num_pairs = next(iter(sizes.values()))
    if any(size != num_pairs for size in sizes.values()):
        found = ", ".join(f"{name}: {size}" for name, size in sizes.items())
        raise ValueError(
            f"Images, texts and indices must give the same number of pairs, got {found}. Where images or texts are "
            "shared by several pairs, give image_index and text_index: the row of each pair's image and text."
        )
    device = next(tensor for tensor in (*given.values(), *(others or {}).values()) if tensor is not None).device
    indices = []
    for items, index in ((images, image_index), (texts, text_index)):
        if items is None:
            index = torch.full((num_pairs,), -1, device=device)
        indices.append(torch.arange(num_pairs, device=device) if index is None else index)
    return indices[0], indices[1]


def real_tokens(texts: Tensor | None, attention_mask: Tensor | None) -> Tensor | None:
    """The mask of real tokens ``(T, L)`` bool; all are real without an ``attention_mask``; ``None`` without texts."""
    if texts is None:
        return None
    if attention_mask is not None:
        return attention_mask.bool()
    length = texts.shape[2:] if texts.is_floating_point() else texts.shape[1:]
    return torch.ones(len(texts), length.numel(), dtype=torch.bool, device=texts.device)


def mark_empty(index: Tensor, mask: Tensor | None) -> Tensor:
    """Set the index of inputs without a real token to -1.

    Shape:
        - index: ``(B,)``; mask: ``(T, L)`` bool, ``True`` on real tokens, or ``None`` without inputs
    """
    return index if mask is None else torch.where(mask.any(dim=1)[index], index, -1)


def drop_inputs(indices: list[Tensor], rate: float) -> list[Tensor]:
    """Drop the first input of a random share of the pairs, the second of another share, and so on: never two of one.

    Only pairs that have all inputs lose one, and an only input is not dropped.

    Args:
        rate: the share of each input, at most one divided by the number of inputs.

    Shape:
        - indices, and those returned: ``(B,)`` each, -1 for a missing or dropped input
    """
    if len(indices) == 1:
        return indices
    draw = torch.rand(len(indices[0]), device=indices[0].device)
    has_all = torch.stack(indices).ge(0).all(dim=0)
    shares = [(number * rate, (number + 1) * rate) for number in range(len(indices) - 1)] + [(1 - rate, 1.0)]
    return [
        index.masked_fill(has_all & (draw >= low) & (draw < high), -1)
        for index, (low, high) in zip(indices, shares, strict=True)
    ]


def missing_to_last(index: Tensor, rows: Tensor) -> Tensor:
    """Replace -1 by the last of the rows, which holds the learned token for a missing input."""
    return torch.where(index >= 0, index, rows.shape[0] - 1)
