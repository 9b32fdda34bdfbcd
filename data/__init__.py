"""Rows in → batches out."""

from typing import TYPE_CHECKING

from data.lazy_names import lazy_names

if TYPE_CHECKING:
    from data.augmentation import Augmentation
    from data.collate import Batch, Collate, InputCollate, Targets, make_loader, text_key
    from data.column_names import require_columns
    from data.example import Example
    from data.feature_store import FeatureStore
    from data.image_check import verify_images
    from data.image_formats import BadImageError
    from data.images import decode_image
    from data.label_format import LabelFormat
    from data.labels import UNKNOWN, NoLabelsError
    from data.loading import load_rows
    from data.prepare import PreparedData, prepare_data
    from data.rows import Rows
    from data.sampler import ImageBatchSampler
    from data.settings import TEXT_SLICES, DataSettings
    from data.stream import StreamedBatches, stream_loader
    from data.string_column import StringColumn
else:
    __getattr__ = lazy_names(__name__, __file__)

__all__ = [
    "TEXT_SLICES",
    "UNKNOWN",
    "Augmentation",
    "BadImageError",
    "Batch",
    "Collate",
    "DataSettings",
    "Example",
    "FeatureStore",
    "ImageBatchSampler",
    "InputCollate",
    "LabelFormat",
    "NoLabelsError",
    "PreparedData",
    "Rows",
    "StreamedBatches",
    "StringColumn",
    "Targets",
    "decode_image",
    "load_rows",
    "make_loader",
    "prepare_data",
    "require_columns",
    "stream_loader",
    "text_key",
    "verify_images",
]
