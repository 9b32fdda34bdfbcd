"""What a person touches: settings, predictor, reports."""

from app.inference.predictor import Predictor

__all__ = ["Predictor"]
