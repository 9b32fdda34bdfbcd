"""Examples → batches of tensors. A batch holds each different image and each different text once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from data.feature_store import FeatureStore
from data.images import MAX_PIXELS, BadImageError, content_key, decode_image
from data.label_format import SINGLE, LabelFormat
from data.rows import Example, Rows
from data.sampler import ImageBatchSampler
from data.value_range import ValueRange
from data.workers import end_workers_at_exit, ignore_stop_signals


class Targets(NamedTuple):
    """What the rows of a batch are trained on.

    Attributes:
        labels: ``single``: class indices ``(B,)``, `data.labels.UNKNOWN` for labels outside the vocabulary. ``multi``:
            0 or 1 for each class ``(B, C)``. ``annotators``: a distribution over the classes ``(B, C)``, the
            normalized scores of the answers.
        weights: row weights ``(B,)``.
        rows: row numbers in the source ``(B,)``; messages name rows by them.
    """

    labels: Tensor
    weights: Tensor
    rows: Tensor


class Batch(NamedTuple):
    """Inputs of the model, as keyword arguments of `ImageTextClassifier.forward`, and targets for the loss."""

    inputs: dict[str, Tensor]
    targets: Targets


def text_key(text: str) -> str:
    """Key of a text in a `FeatureStore`."""
    return content_key(text.encode())


@dataclass
class InputCollate:
    """Collate examples into the inputs of `ImageTextClassifier`.

    Args:
        processor: turns lists of decoded images and of texts into tensors; either list may be ``None``.
        max_pixels: images with more pixels raise an error.
        value_range: how images of more than 8 bits are read, see `data.images.decode_image`.
        image_features, text_features: precomputed outputs of frozen encoders. They replace the images or the texts.
        features_level: block of the image encoder that ``image_features`` come from.
    """

    processor: Callable
    max_pixels: int = MAX_PIXELS
    value_range: ValueRange = None
    image_features: FeatureStore | None = None
    text_features: FeatureStore | None = None
    features_level: int | None = None

    def __call__(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Inputs of B examples with I different images and T different texts.

        Shape:
            - pixel_values: ``(I, 3, H, W)``; absent if no example has an image
            - input_ids, attention_mask: ``(T, L)``; absent if no example has a text
            - image_features ``(I, D, h, w)`` in place of ``pixel_values``, and context_features ``(T, hidden, L)`` in
              place of ``input_ids``, if features are given
            - image_index, text_index: ``(B,)``, the image and the text of each example, -1 if missing

        Raises:
            BadImageError: an image cannot be decoded; the message names its row.
        """
        images: dict[str, Example] = {}
        positions: dict[str, int] = {}
        texts: dict[str, int] = {}
        image_index, text_index = [], []
        for number, example in enumerate(examples):
            key = example.image_key or str(number)
            if example.image is not None:
                images.setdefault(key, example)
                positions.setdefault(key, len(positions))
            image_index.append(-1 if example.image is None else positions[key])
            text_index.append(-1 if example.text is None else texts.setdefault(example.text, len(texts)))
        inputs = self.collate_images(images) | self.collate_texts(list(texts))
        return inputs | {"image_index": torch.tensor(image_index), "text_index": torch.tensor(text_index)}

    def collate_images(self, images: dict[str, Example]) -> dict:
        """Tensors of the different images, given as image key → one example with that image."""
        if not images:
            return {}
        fast = torch.channels_last  # VGG16 is faster in this memory format, on CPU and GPU
        if self.image_features is not None:
            features = torch.cat([self.image_features[key] for key in images])
            features = features.contiguous(memory_format=fast)
            return {"image_features": features, "features_level": self.features_level}
        decoded = [self.decode(example) for example in images.values()]
        return {"pixel_values": self.processor(decoded, None)["pixel_values"].contiguous(memory_format=fast)}

    def collate_texts(self, texts: list[str]) -> dict:
        """Tensors of the different texts."""
        if not texts:
            return {}
        if self.text_features is None:
            return dict(self.processor(None, texts))
        tokens = [self.text_features[text_key(text)] for text in texts]
        mask = pad_sequence([torch.ones(len(features)).long() for features in tokens], batch_first=True)
        features = pad_sequence(tokens, batch_first=True).transpose(1, 2)
        return {"context_features": features, "attention_mask": mask}

    def decode(self, example: Example) -> Image.Image:
        assert example.image is not None
        try:
            return decode_image(example.image, self.max_pixels, value_range=self.value_range)
        except BadImageError as error:
            raise BadImageError(f"The image of row {example.row} cannot be read: {error}") from error


@dataclass
class Collate:
    """Collate labelled examples into a `Batch`, for training and scoring.

    Args:
        inputs: collates images and texts.
        label2id: the vocabulary, label name → class index.
        label_format: how labels are written.
    """

    inputs: InputCollate
    label2id: dict[str, int]
    label_format: LabelFormat = SINGLE

    def __call__(self, examples: Sequence[Example]) -> Batch:
        return Batch(self.inputs(examples), self.targets(examples))

    def targets(self, examples: Sequence[Example]) -> Targets:
        labels = [example.label for example in examples if example.label is not None]
        assert len(labels) == len(examples), "training and scoring need labelled examples"
        return Targets(
            self.encode(labels),
            torch.tensor([example.weight for example in examples]),
            torch.tensor([example.row for example in examples]),
        )

    def encode(self, labels: Sequence[str]) -> Tensor:
        """Labels as `Targets.labels`."""
        values = torch.from_numpy(self.label_format.encode(labels, self.label2id))
        if self.label_format.type == "multi":
            return values[:, :-1]
        if self.label_format.type == "annotators":
            return values / values.sum(dim=1, keepdim=True).clamp(min=1e-9)
        return values


def make_loader(
    rows: Rows, sampler: ImageBatchSampler, collate: Collate | InputCollate, num_workers: int
) -> DataLoader:
    """Load batches in the order of the sampler. The loader leaves the global random state unchanged."""
    end_workers_at_exit()
    return DataLoader(
        rows,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        worker_init_fn=ignore_stop_signals,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(0),
    )
