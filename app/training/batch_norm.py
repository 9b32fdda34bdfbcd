"""Batch norm needs two values of a channel to compare: training batches that leave it one are refused in words."""

from collections.abc import Iterator
from contextlib import contextmanager

from data import ImageBatchSampler, StreamedBatches
from data.errors import UserError
from models import ImageTextClassifier

TORCH_SAYS = "Expected more than 1 value per channel when training"
CURE = (
    "Raise --train.batch_size (there must be as many images) or --model.image_size, or train VGG16 without "
    "batch norm: --model.image_encoder vgg16 --model.batch_norm false."
)


def check_batch_norm(model: ImageTextClassifier, sampler: ImageBatchSampler | StreamedBatches) -> None:
    """Stop before training where a batch can hold a single image, of which the encoder makes a map of 1×1.

    Raises:
        UserError: names the settings that change it.
    """
    size = model.config.image_size
    has_one_image = max(sampler.units_per_image) >= min(sampler.batch_size, sampler.num_units)
    if has_one_image and model.image_encoder.side(size) == 1:
        raise UserError(
            f"A training batch can hold a single image, of whose {size}×{size} pixels the encoder makes a map of 1×1: "
            f"batch norm has one value per channel and nothing to compare it with. {CURE}"
        )


@contextmanager
def explain_batch_norm() -> Iterator[None]:
    """Name the settings where torch refuses a batch, such as one that drew the same image again and again."""
    try:
        yield
    except ValueError as error:
        if TORCH_SAYS not in str(error):
            raise
        raise UserError(f"A training batch left batch norm one value per channel. {CURE}") from error
