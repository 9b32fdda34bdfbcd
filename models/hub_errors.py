"""Errors of the HuggingFace Hub and of local folders, told so that one knows the way out."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from data.errors import UserError


@contextmanager
def explain_hub_errors(name: str, what: str, instead: str = "") -> Iterator[None]:
    """Turn a failed look-up of ``name`` into a ``ValueError`` that says how to go on without a connection."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if Path(name).is_dir():
            cause = str(error).rstrip(". ")
            raise UserError(
                f"Could not load {what} from the folder {str(name)!r}: {cause}. {describe_folder(name)}"
            ) from error
        raise UserError(
            f"Could not load {what} {name!r}. If it is a folder, it must hold config.json, model.safetensors and "
            "a tokenizer. If it is a HuggingFace Hub id, this machine may be offline: download it elsewhere with "
            f"`hf download {name} --local-dir FOLDER` and give FOLDER in its place{instead}. The cause: {error}"
        ) from error


def describe_folder(name: str | Path) -> str:
    """What a model's folder must hold, what this one holds, and the folder in it that may be meant."""
    folder = Path(name)
    found = sorted(item.name for item in folder.iterdir() if not item.name.startswith("."))
    text = (
        "It must hold config.json, model.safetensors (pickled weights, .bin, are not read: save_pretrained writes "
        "safetensors) and a tokenizer or an image processor; it holds "
        f"{', '.join(found[:8]) or 'nothing'}{', …' if len(found) > 8 else ''}."
    )
    inner = [file.parent for file in folder.glob("*/config.json") if file.with_name("model.safetensors").is_file()]
    return f"{text} Is {inner[0]} meant?" if inner and "config.json" not in found else text
