"""Load pretrained weights, and check that they cover a model.

Without the check, a parameter that a file lacks would keep its random initialization unnoticed.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import contextmanager

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from data.errors import UserError
from data.messages import excerpt
from models.hub_errors import explain_hub_errors

NOT_NEEDED = re.compile(r"(^|\.)(pooler|hidden_states_norms|mask_token|num_batches_tracked)(\.|$)")
"""Parameters that a file may lack: the features do not depend on them, or they are initialized to the identity
(``hidden_states_norms``, which a backbone adds to its network)."""
RESAVE = "Names and shapes must match its config.json, as written by the save_pretrained method of that model."
"""Advice for weights in a folder."""
SHOWN = 3
"""Number of names in a message."""

logger = logging.get_logger(__name__)


def needed_names(model: nn.Module) -> set[str]:
    """Names of the parameters and buffers that a file must contain, without those that transformers can fill in."""
    filled = getattr(model, "_keys_to_ignore_on_load_missing", None) or ()
    return {
        name
        for name in model.state_dict()
        if not NOT_NEEDED.search(name) and not any(re.search(pattern, name) for pattern in filled)
    }


def check_weights(
    source: str, part: str, expected: Set[str], info: Mapping, advice: str = "", whole: bool = False
) -> None:
    """Refuse weights that do not cover the expected parameters. Unused tensors are logged as a warning.

    Args:
        source: file, folder or Hub id of the weights.
        part: part of the model, such as "the text encoder".
        expected: names that must be loaded, see `needed_names`.
        info: result of transformers' ``output_loading_info`` or of `compare_weights`.
        advice: what to do; the end of the message.
        whole: also refuse tensors that are not used.

    Raises:
        UserError: gives the number of tensors that match, and the first names of those that are missing, unexpected or
            of another shape.
    """
    missing = expected & set(info["missing_keys"])
    shapes = {
        f"{excerpt(name)} is {tuple(found)} instead of {tuple(own)}"
        for name, found, own in info["mismatched_keys"]
        if name in expected
    }
    unexpected = set(info["unexpected_keys"])
    if not missing and not shapes and not (whole and unexpected):
        if unexpected:
            logger.warning(f"{source}: {part} does not use {len(unexpected)} of the tensors: {list_names(unexpected)}.")
        return
    faults = {"missing": missing, "of another shape": shapes, "unexpected": unexpected}
    details = "; ".join(f"{fault}: {list_names(names)}" for fault, names in faults.items() if names)
    raise UserError(
        f"The weights in {source} do not match {part}: {len(expected) - len(missing) - len(shapes)} of {len(expected)} "
        f"tensors match; {details}.{advice and ' '}{advice}"
    )


def compare_weights(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, list]:
    """Compare two state dicts by name and shape; the result is as transformers' ``output_loading_info``."""
    return {
        "missing_keys": [name for name in expected if name not in found],
        "unexpected_keys": [name for name in found if name not in expected],
        "mismatched_keys": [
            (name, found[name].shape, tensor.shape)
            for name, tensor in expected.items()
            if name in found and found[name].shape != tensor.shape
        ],
    }


def list_names(names: Iterable[str]) -> str:
    """The first names in alphabetical order, and the number of the others."""
    ordered = sorted(names)
    more = len(ordered) - SHOWN
    return ", ".join(map(excerpt, ordered[:SHOWN])) + (f" and {more:,} more" if more > 0 else "")


def load_pretrained(
    model_class: type[PreTrainedModel],
    name: str,
    config: PreTrainedConfig,
    *,
    part: str,
    instead: str,
    prefix: str,
    revision: str | None = None,
    **options: bool,
) -> tuple[PreTrainedModel, Mapping]:
    """Load the weights of a Hub id or local folder (safetensors only). `check_weights` must follow.

    Args:
        part: part of the classifier, such as "the text encoder".
        instead: an alternative to suggest if loading fails.
        prefix: of the part's parameters in a saved `ImageTextClassifier`.
        options: more arguments of the model class.

    Returns:
        The model, and transformers' ``output_loading_info``.

    Raises:
        UserError: weights that cannot be read.
    """
    with explain_hub_errors(name, part, instead), no_loading_report():
        return model_class.from_pretrained(
            name,
            config=config,
            revision=revision or "main",
            use_safetensors=True,
            key_mapping={f"^{re.escape(prefix)}": ""},
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
        )


@contextmanager
def no_loading_report() -> Iterator[None]:
    """Silence transformers' table of mismatched names; `check_weights` reports them."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
