"""The application: training, evaluation, prediction and serving of image + text classifiers."""

from app.inference.predictor import Predictor

__all__ = ["Predictor"]
