"""Which image and which text make a pair."""

import torch
from torch import Tensor


def resolve_indices(
    images: Tensor | None, texts: Tensor | None, image_index: Tensor | None, text_index: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The image and the text of each pair ``(B,)``, -1 where it has none.

    Raises:
        ValueError: images, texts and indices that do not fit together.
    """
    given = {"images": images, "texts": texts, "image_index": image_index, "text_index": text_index}
    in_order = {
        name: tensor.shape[0]
        for name, tensor in given.items()
        if tensor is not None and (name.endswith("index") or given[f"{name[:-1]}_index"] is None)
    }
    if not in_order:
        raise ValueError("Give pixel_values, input_ids or both: one of them may be missing, not both.")
    number = next(iter(in_order.values()))
    if any(other != number for other in in_order.values()):
        counts = " and ".join(
            f"an {name} of {count}" if name.endswith("index") else f"{count} {name}" for name, count in in_order.items()
        ).replace("an text", "a text")
        raise ValueError(
            f"{counts} do not make pairs: say with image_index and text_index which image and which text each is of."
        )
    device = next(t for t in given.values() if t is not None).device
    indices = []
    for items, index in ((images, image_index), (texts, text_index)):
        if items is None:
            index = torch.full((number,), -1, device=device)
        indices.append(torch.arange(number, device=device) if index is None else index)
    return indices[0], indices[1]
