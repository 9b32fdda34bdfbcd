"""Weights that are loaded must cover the parameters they are loaded into: none stays random unnoticed."""

import re
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import contextmanager

from torch import Tensor, nn
from transformers.utils import logging

from data.errors import UserError

NOT_NEEDED = re.compile(r"(^|\.)(pooler|hidden_states_norms|mask_token|num_batches_tracked)(\.|$)")
"""Parts that a file may lack: the features do not depend on them, or (``hidden_states_norms``, the norms that a
backbone adds to its network) they start as the identity."""
RESAVE = "Names and shapes must be those of its config.json, as save_pretrained of the model itself writes them."
"""What to do about weights in a folder."""
SHOWN = 3
"""Names in a message."""

logger = logging.get_logger(__name__)


def needed_names(model: nn.Module) -> set[str]:
    """Names of the parameters and buffers that a file must hold; transformers fills in some others."""
    filled = getattr(model, "_keys_to_ignore_on_load_missing", None) or ()
    return {
        name
        for name in model.state_dict()
        if not NOT_NEEDED.search(name) and not any(re.search(pattern, name) for pattern in filled)
    }


def check_weights(
    source: str, part: str, expected: Set[str], info: Mapping, advice: str = "", whole: bool = False
) -> None:
    """Refuse weights that leave a parameter as it was; those that are not used are named in the log.

    Args:
        source: the file, folder or Hub id.
        part: of the model, such as ``the text encoder``.
        expected: names that must be loaded, see `needed_names`.
        info: what transformers' ``output_loading_info`` or `compare_weights` found.
        advice: what to do, the end of the message.
        whole: weights that are not used are refused too.

    Raises:
        UserError: how many tensors fit, and the first names that are missing, unexpected or of another shape.
    """
    missing = expected & set(info["missing_keys"])
    shapes = {
        f"{shorten(name)} is {tuple(found)} in place of {tuple(own)}"
        for name, found, own in info["mismatched_keys"]
        if name in expected
    }
    unexpected = set(info["unexpected_keys"])
    if not missing and not shapes and not (whole and unexpected):
        if unexpected:
            logger.warning(f"{source}: {part} does not use {len(unexpected)} of the tensors: {first(unexpected)}.")
        return
    faults = {"missing": missing, "of another shape": shapes, "unexpected": unexpected}
    told = "; ".join(f"{fault}: {first(names)}" for fault, names in faults.items() if names)
    raise UserError(
        f"The weights in {source} do not fit {part}: {len(expected) - len(missing) - len(shapes)} of {len(expected)} "
        f"tensors fit; {told}.{advice and ' '}{advice}"
    )


def compare_weights(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, list]:
    """The differences of two state dicts by name and shape, in the form of transformers' ``output_loading_info``."""
    return {
        "missing_keys": [name for name in expected if name not in found],
        "unexpected_keys": [name for name in found if name not in expected],
        "mismatched_keys": [
            (name, found[name].shape, tensor.shape)
            for name, tensor in expected.items()
            if name in found and found[name].shape != tensor.shape
        ],
    }


def first(names: Iterable[str]) -> str:
    """The first names in alphabetical order, and how many there are besides."""
    ordered = sorted(names)
    more = len(ordered) - SHOWN
    return ", ".join(map(shorten, ordered[:SHOWN])) + (f" and {more:,} more" if more > 0 else "")


def shorten(name: str) -> str:
    return name if len(name) <= 80 else f"{name[:79]}…"


@contextmanager
def no_loading_report() -> Iterator[None]:
    """Without transformers' own table of names that do not fit: `check_weights` says it."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
