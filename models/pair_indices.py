"""Image-text pairs as two index tensors: the image row and the text row of each pair, -1 where it has none."""

import torch
from torch import Tensor


def resolve_indices(
    images: Tensor | None, texts: Tensor | None, image_index: Tensor | None, text_index: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Complete the indices of B pairs: without an index, pair b consists of row b.

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
    if not sizes:
        raise ValueError("Give pixel_values, input_ids or both; got neither.")
    num_pairs = next(iter(sizes.values()))
    if any(size != num_pairs for size in sizes.values()):
        found = ", ".join(f"{name}: {size}" for name, size in sizes.items())
        raise ValueError(
            f"Images, texts and indices must give the same number of pairs, got {found}. Where images or texts are "
            "shared by several pairs, give image_index and text_index: the row of each pair's image and text."
        )
    device = next(tensor for tensor in given.values() if tensor is not None).device
    indices = []
    for items, index in ((images, image_index), (texts, text_index)):
        if items is None:
            index = torch.full((num_pairs,), -1, device=device)
        indices.append(torch.arange(num_pairs, device=device) if index is None else index)
    return indices[0], indices[1]


def mark_empty_texts(text_index: Tensor, mask: Tensor | None) -> Tensor:
    """Set the index of texts without a real token to -1.

    Shape:
        - text_index: ``(B,)``; mask: ``(T, L)`` bool, ``True`` on real tokens, or ``None`` without texts
    """
    return text_index if mask is None else torch.where(mask.any(dim=1)[text_index], text_index, -1)


def drop_modality(image_index: Tensor, text_index: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """Drop the text of a random share of the pairs that have both, and the image of an equal share; never both.

    Args:
        rate: the share, in [0, 0.5).

    Shape:
        - image_index, text_index, and both that are returned: ``(B,)``, -1 for a missing or dropped one
    """
    draw = torch.rand(len(text_index), device=text_index.device)
    has_both = (image_index >= 0) & (text_index >= 0)
    drops_text, drops_image = has_both & (draw < rate), has_both & (draw >= 1 - rate)
    return image_index.masked_fill(drops_image, -1), text_index.masked_fill(drops_text, -1)


def missing_to_last(index: Tensor, rows: Tensor) -> Tensor:
    """Replace -1 by the last of the rows, which holds the learned token for a missing input."""
    return torch.where(index >= 0, index, rows.shape[0] - 1)
