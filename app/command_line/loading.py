"""The model of a command, loaded after its options are checked: what loads it is slow to import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.quick_start import first_imports

if TYPE_CHECKING:
    from app.inference.predictor import Predictor


def load_predictor(model: str, trust_custom_encoder: bool, device: str | None = None, **options: Any) -> Predictor:
    """Load a model as `Predictor.from_pretrained` does; progress bars are those of downloads alone."""
    with first_imports():
        from app.inference.load import hide_file_bars
        from app.inference.predictor import Predictor

    hide_file_bars()
    return Predictor.from_pretrained(model, device, trust_custom_encoder, **options)
