"""The application: training, evaluation, prediction and serving of image + text classifiers."""

from typing import TYPE_CHECKING

from data.lazy_names import lazy_names

if TYPE_CHECKING:
    from app.inference.predictor import Predictor
else:
    __getattr__ = lazy_names(__name__, __file__)

__all__ = ["Predictor"]
