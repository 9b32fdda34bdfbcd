"""Batch norm needs at least two values per channel: clear errors for training batches that have one."""

from collections.abc import Iterator
from contextlib import contextmanager

from data import ImageBatchSampler, StreamedBatches
from data.errors import UserError
from models import ImageTextClassifier

TORCH_SAYS = "Expected more than 1 value per channel when training"
CURE = (
    "Raise --train.batch_size (there must be as many images), --train.batch_rows or --model.image_size, or train VGG16 "
    "without batch norm: --model.image_encoder vgg16 --model.batch_norm false."
)


def check_batch_norm(model: ImageTextClassifier, sampler: ImageBatchSampler | StreamedBatches) -> None:
    """Refuse training batches that can hold a single image whose feature map is 1×1.

    Raises:
        UserError: with the settings to change.
    """
    size = model.config.image_size
    has_one_image = max(sampler.units_per_image) >= min(sampler.batch_size, sampler.num_units)
    if has_one_image and model.image_encoder.side(size) == 1:
        raise UserError(
            f"A training batch can hold a single image of {size}×{size} pixels, whose feature map is 1×1: batch norm "
            f"needs more than one value per channel. {CURE}"
        )


@contextmanager
def explain_batch_norm() -> Iterator[None]:
    """Turn torch's error for a batch with one value per channel, such as one of equal images, into a `UserError`."""
    try:
        yield
    except ValueError as error:
        if TORCH_SAYS not in str(error):
            raise
        raise UserError(f"A training batch has one value per channel, and batch norm needs more. {CURE}") from error
