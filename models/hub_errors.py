"""Clear messages for errors of the HuggingFace Hub and of local model folders."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import snapshot_download
from safetensors import SafetensorError

from data.errors import UserError

WEIGHTS = ["model*.safetensors", "model.safetensors.index.json"]
"""Files with the weights of a model, whole or in several parts."""


@contextmanager
def explain_hub_errors(name: str, what: str, instead: str = "") -> Iterator[None]:
    """Turn errors while loading ``name`` into a `UserError` that says what to do.

    Args:
        name: Hub id or local folder.
        what: what is being loaded, such as "the text encoder".
        instead: an alternative to suggest, appended to the advice.

    Raises:
        UserError: the load failed.
    """
    try:
        yield
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if Path(name).is_dir():
            cause = str(error).rstrip(". ")
            raise UserError(
                f"Could not load {what} from the folder {str(name)!r}: {cause}. {describe_folder(name)}"
            ) from error
        raise UserError(
            f"Could not load {what} {name!r}. If this is a folder, check the path. If it is a Hub id, check the id "
            f"and the connection. When offline, run `hf download {name} --local-dir FOLDER` on another machine and use "
            f"FOLDER instead{instead}. The cause: {error}"
        ) from error


def fetch_weights(name: str, revision: str | None, what: str, instead: str) -> None:
    """Download the weights of a Hub id unless they are in the cache; arguments as of `explain_hub_errors`.

    Raises:
        UserError: the download failed.
    """
    if not Path(name).is_dir():
        with explain_hub_errors(name, what, instead):
            snapshot_download(name, revision=revision, allow_patterns=WEIGHTS)


def describe_folder(name: str | Path) -> str:
    """What a model folder must contain, what this one contains, and a subfolder that may have been meant."""
    folder = Path(name)
    found = sorted(item.name for item in folder.iterdir() if not item.name.startswith("."))
    text = (
        "It must contain config.json, model.safetensors (pickled weights, .bin, are not read; save_pretrained writes "
        "safetensors) and a tokenizer or an image processor. It contains "
        f"{', '.join(found[:8]) or 'nothing'}{', …' if len(found) > 8 else ''}."
    )
    inner = [file.parent for file in folder.glob("*/config.json") if file.with_name("model.safetensors").is_file()]
    return f"{text} Did you mean {inner[0]}?" if inner and "config.json" not in found else text
