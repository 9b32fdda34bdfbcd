"""Find and load a trained model: a run folder, a model folder or a Hub id."""

from pathlib import Path

import transformers
from huggingface_hub.utils import enable_progress_bars
from safetensors import SafetensorError

from app.atomic_write import surviving
from app.run_paths import MODEL_FOLDER
from data.errors import UserError
from data.paths import expand_home
from models import ImageTextClassifier, ImageTextConfig, ImageTextProcessor
from models.hub_errors import explain_hub_errors
from models.onnx_classifier import ONNX_FILE, OnnxModel


def find_model(path: str | Path) -> str:
    """The model folder of a run folder, or the path itself; a Hub id is returned unchanged.

    Raises:
        UserError: a local folder without a model; the message has the files that were expected and found.
    """
    path = expand_home(str(path))
    folder = surviving(Path(path))
    if not folder.exists():
        if str(path).count("/") == 1 and not str(path).startswith((".", "/", "runs/")):
            return str(path)
        raise UserError(
            f"There is no folder {str(path)!r}. Train a model first: python train.py configs/quickstart.yaml"
        )
    for candidate in (surviving(folder / MODEL_FOLDER), folder):
        weights = [candidate / name for name in ("model.safetensors", ONNX_FILE)]
        if (candidate / "config.json").is_file() and any(file.is_file() for file in weights):
            return str(candidate)
    found = sorted(item.name for item in folder.iterdir())[:8] if folder.is_dir() else "a file"
    raise UserError(
        f"{folder} is not a model folder: expected config.json and model.safetensors in it, or in its folder "
        f"{MODEL_FOLDER}/; found {found}."
    )


def hide_file_bars() -> None:
    """Hide the progress bars of loading files, which would interrupt those of the run; downloads keep theirs."""
    transformers.utils.logging.disable_progress_bar()
    enable_progress_bars()


def load_any(
    path: str | Path, trust_custom_encoder: bool = False
) -> tuple[ImageTextClassifier | OnnxModel, ImageTextProcessor]:
    """Load a trained classifier as `load_model` does, or one that was exported to ONNX.

    Raises:
        UserError: see `load_model`.
    """
    folder = Path(find_model(path))
    if (folder / ONNX_FILE).is_file() and not (folder / "model.safetensors").is_file():
        check_config(str(folder))
        return OnnxModel(folder), load_processor(folder)
    return load_model(path, trust_custom_encoder)


def load_model(path: str | Path, trust_custom_encoder: bool = False) -> tuple[ImageTextClassifier, ImageTextProcessor]:
    """Load a trained classifier in eval mode and its processor.

    Raises:
        UserError: no model there, another kind of model, damaged files, or a custom encoder without trust.
    """
    folder = find_model(path)
    check_config(folder)
    try:
        model = ImageTextClassifier.from_pretrained(
            folder, trust_custom_encoder=trust_custom_encoder, use_safetensors=True
        )
    except (OSError, RuntimeError, SafetensorError) as error:
        raise UserError(f"The model in {folder} could not be loaded, its files may be damaged: {error}") from error
    return model.eval(), load_processor(folder)


def check_config(folder: str) -> None:
    """Check that a folder or Hub id has the configuration of a classifier of this application.

    Raises:
        UserError: another kind of model, or a file that is missing or damaged.
    """
    with explain_hub_errors(folder, "the model"):
        settings, _ = ImageTextConfig.get_config_dict(folder)
    found = settings.get("model_type") if isinstance(settings, dict) else None  # any JSON may be in the file
    if found != ImageTextConfig.model_type:
        raise UserError(
            f"{folder} holds a model of type {found!r}, not {ImageTextConfig.model_type!r}; "
            "give a run folder of train.py."
        )


def load_processor(folder: str | Path) -> ImageTextProcessor:
    """Load the processor of a trained classifier.

    Raises:
        UserError: a file that is missing or damaged.
    """
    try:
        return ImageTextProcessor.from_pretrained(folder)
    except Exception as error:  # KeyError, JSONDecodeError and others; tokenizers raises Exception itself
        raise UserError(
            f"The processor in {folder} could not be loaded, its files may be damaged (tokenizer.json, "
            f"tokenizer_config.json or processor_config.json; copy them again): {type(error).__name__}: {error}"
        ) from error
