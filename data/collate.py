"""Batches: all texts of an image travel together, so that VGG16 sees the image once; equal texts are read once."""

from collections.abc import Callable, Sequence

import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from data.feature_store import FeatureStore
from data.images import MAX_PIXELS, BadImageError, content_key, decode_image
from data.label_format import SINGLE, LabelFormat
from data.rows import Example, Rows
from data.sampler import ImageBatchSampler
from data.value_range import ValueRange


def text_key(text: str) -> str:
    """The name of a text's features."""
    return content_key(text.encode())


class Collate:
    """Examples → the tensors that `ImageTextClassifier` takes, each different image and each different text once.

    Args:
        processor: called with lists of decoded images and of texts (``None`` where missing).
        label2id: known labels.
        label_format: how labels are written.
        max_pixels: larger images are refused.
        image_features, text_features: what frozen encoders made of all images, or of all texts; these are then not
            read.
        features_level: the block of the image encoder that the features come from.
        value_range: how images of more than 8 bits are read, see `data.images.decode_image`.

    Returns:
        ``pixel_values (I, 3, H, W)``, ``input_ids`` and ``attention_mask`` ``(T, L)``, and ``image_index``,
        ``text_index``, ``labels``, ``weights`` and ``rows`` (their numbers in the source) ``(B,)``; ``labels`` are
        class numbers, `data.labels.UNKNOWN` where not known, or for other formats than ``single`` the target of each
        class ``(B, C)``: 0 or 1, or the share of the annotators' scores; without ``pixel_values`` where
        no row has an image, without ``input_ids`` where none has a text. Features come as ``image_features
        (I, D, h, w)`` and ``context_features (T, hidden, L)`` in their place.
    """

    def __init__(
        self,
        processor: Callable,
        label2id: dict[str, int],
        label_format: LabelFormat = SINGLE,
        max_pixels: int = MAX_PIXELS,
        image_features: FeatureStore | None = None,
        text_features: FeatureStore | None = None,
        features_level: int | None = None,
        value_range: ValueRange = None,
    ):
        self.processor = processor
        self.label2id = label2id
        self.label_format = label_format
        self.max_pixels = max_pixels
        self.image_features = image_features
        self.text_features = text_features
        self.features_level = features_level
        self.value_range = value_range

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
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
        batch = self.read(images, list(texts))
        batch["image_index"] = torch.tensor(image_index)
        batch["text_index"] = torch.tensor(text_index)
        batch["labels"] = self.targets([example.label for example in examples])
        batch["weights"] = torch.tensor([example.weight for example in examples])
        batch["rows"] = torch.tensor([example.row for example in examples])
        return batch

    def targets(self, labels: Sequence[str]) -> torch.Tensor:
        """What the loss compares logits with."""
        values = torch.from_numpy(self.label_format.encode(labels, self.label2id))
        if self.label_format.type == "multi":
            return values[:, :-1]
        if self.label_format.type == "annotators":
            return values / values.sum(dim=1, keepdim=True).clamp(min=1e-9)
        return values

    def read(self, images: dict[str, Example], texts: list[str]) -> dict[str, torch.Tensor]:
        """The different images, by key an example of each, and the different texts, as the classifier takes them."""
        batch: dict = {}
        fast = torch.channels_last  # VGG16 runs faster on this memory format, on CPU and GPU
        if images and self.image_features is not None:
            features = torch.cat([self.image_features[key] for key in images])
            batch["image_features"] = features.contiguous(memory_format=fast)
            batch["features_level"] = self.features_level
        elif images:
            decoded = [self.decode(example) for example in images.values()]
            batch["pixel_values"] = self.processor(decoded, None)["pixel_values"].contiguous(memory_format=fast)
        if texts and self.text_features is not None:
            tokens = [self.text_features[text_key(text)] for text in texts]
            batch["context_features"] = pad_sequence(tokens, batch_first=True).transpose(1, 2)
            batch["attention_mask"] = pad_sequence([torch.ones(len(features)).long() for features in tokens], True)
        elif texts:
            batch |= self.processor(None, texts)
        return batch

    def decode(self, example: Example) -> Image.Image:
        assert example.image is not None
        try:
            return decode_image(example.image, self.max_pixels, value_range=self.value_range)
        except BadImageError as error:
            raise BadImageError(f"The image of row {example.row} cannot be read: {error}") from error


def make_loader(rows: Rows, sampler: ImageBatchSampler, collate: Collate, num_workers: int) -> DataLoader:
    """Batches in the sampler's order; its own generator leaves the global random state alone."""
    return DataLoader(
        rows,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(0),
    )
