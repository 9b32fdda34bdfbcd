"""The batches of a training: how many images each has, and in which order they come."""

from accelerate import Accelerator
from torch.utils.data import DataLoader

from app.settings import Settings, TrainSettings
from app.training.loss import balancing_weights
from data import Collate, ImageBatchSampler, Rows, StreamedBatches, make_loader, stream_loader
from data.errors import UserError


def images_per_batch(options: TrainSettings, rows: Rows) -> int:
    """Images in a batch: ``batch_size``, or fewer if these would have more than ``batch_rows`` rows on average.

    The mean over all images counts, so that every epoch has the same number of steps. A stream is not counted.
    """
    if not options.batch_rows or rows.is_stream:
        return options.batch_size
    images = len({row if key is None else key for row, key in enumerate(rows.image_keys)})
    return min(options.batch_size, max(1, round(options.batch_rows * images / len(rows))))


def training_batches(
    settings: Settings, rows: Rows, collate: Collate, accelerator: Accelerator
) -> tuple[ImageBatchSampler | StreamedBatches, DataLoader]:
    """The sampler and the loader of this process; ``set_epoch`` of the sampler chooses the order."""
    size, seed = images_per_batch(settings.train, rows), settings.train.seed
    share = {"num_processes": accelerator.num_processes, "process_index": accelerator.process_index}
    texts = settings.data.max_texts_per_image
    if rows.is_stream and settings.train.sampling == "balanced":
        raise UserError("--train.sampling balanced needs random access to rows, which a stream does not have.")
    if rows.is_stream:
        batches = StreamedBatches(rows, size, settings.data.shuffle_buffer, seed, texts, **share)
        return batches, stream_loader(batches, collate)
    weights = None
    if settings.train.sampling == "balanced":
        weights = balancing_weights(rows.labels, collate.label2id, collate.label_format)
    sampler = ImageBatchSampler(
        rows.image_keys, size, shuffle=True, weights=weights, seed=seed, max_texts_per_image=texts, **share
    )
    return sampler, make_loader(rows, sampler, collate, settings.data.num_workers)
