"""What a person touches: settings, predictor, reports."""

from app.predictor import Predictor

__all__ = ["Predictor"]
