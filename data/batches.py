"""Batches: all texts of an image travel together, so that VGG16 sees the image once; equal texts are read once."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice

import numpy as np
import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Sampler

from data.features import FeatureStore
from data.images import MAX_PIXELS, BadImageError, content_key, decode_image
from data.rows import Example, Rows
from data.targets import SINGLE, LabelFormat
from data.values import ValueRange


class ImageBatchSampler(Sampler[list[int]]):
    """Batches of ``batch_size`` images, each with all its texts.

    The order depends on seed and epoch alone, not on what ran before, so any epoch can be made again. With several
    processes each takes every n-th batch. For training batches are full (an epoch leaves out up to a batch of images,
    others each time; small batches would upset batch norm) and every process gets as many; otherwise no image is left
    out, and batches are as equal as can be.

    Args:
        image_keys: image of each row; rows without one (``None``) stand for themselves.
        batch_size: images a batch.
        shuffle: a new order each epoch; otherwise the order of the rows.
        weights: of each row; where given, an epoch's images are drawn with replacement, each as often as its rows weigh
            on average.
        drop_last: full batches only; what ``shuffle`` is where not given.
        seed: of the order.
        max_texts_per_image: images with more texts travel as several.
        num_processes, process_index: this process's share.
    """

    def __init__(
        self,
        image_keys: Sequence[str | None],
        batch_size: int,
        *,
        shuffle: bool,
        weights: np.ndarray | None = None,
        drop_last: bool | None = None,
        seed: int = 0,
        max_texts_per_image: int = 64,
        num_processes: int = 1,
        process_index: int = 0,
    ):
        numbers: dict[str | int, int] = {}
        image_of_row = np.array(
            [numbers.setdefault(row if key is None else key, len(numbers)) for row, key in enumerate(image_keys)],
            dtype=np.int64,
        )
        self.rows = np.argsort(image_of_row, kind="stable")  # those of each image beside each other
        self.ends = np.cumsum(np.bincount(image_of_row))
        self.weights: torch.Tensor | None = None
        if weights is not None:
            self.weights = torch.from_numpy(np.bincount(image_of_row, weights) / np.bincount(image_of_row))
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = shuffle if drop_last is None else drop_last
        self.seed = seed
        self.epoch = self.start = 0
        self.max_texts_per_image = max_texts_per_image
        self.num_processes = num_processes
        self.process_index = process_index

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch whose order the next iteration gives, and the number of the batch it starts with."""
        self.epoch, self.start = epoch, start

    def units(self) -> Iterator[list[int]]:
        """Rows of one image, in pieces of at most ``max_texts_per_image``, in this epoch's order."""
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        for image in self.order(generator):
            group = self.rows[self.ends[image - 1] if image else 0 : self.ends[image]]
            if self.shuffle:
                group = group[torch.randperm(len(group), generator=generator).numpy()]
            for start in range(0, len(group), self.max_texts_per_image):
                yield group[start : start + self.max_texts_per_image].tolist()

    def order(self, generator: torch.Generator) -> Iterable[int]:
        """Numbers of the images of an epoch; drawn ones are at least as many units as there are."""
        number = len(self.ends)
        if self.weights is not None:
            return torch.multinomial(self.weights, self.num_units, replacement=True, generator=generator).numpy()
        return torch.randperm(number, generator=generator).numpy() if self.shuffle else range(number)

    def __iter__(self) -> Iterator[list[int]]:
        units, total = self.units(), self.num_batches
        smaller, larger = divmod(self.num_units, max(1, total))
        for number in range(total):
            size = self.batch_size if self.drop_last else smaller + (number < larger)
            batch = list(chain.from_iterable(islice(units, size)))
            if number % self.num_processes == self.process_index and number // self.num_processes >= self.start:
                yield batch

    def __len__(self) -> int:
        return len(range(self.process_index, self.num_batches, self.num_processes))

    @property
    def num_left_out(self) -> int:
        """Images, or pieces of one, that an epoch leaves out on all processes together."""
        return max(0, self.num_units - self.num_batches * self.batch_size)

    @property
    def pieces(self) -> np.ndarray:
        """In how many pieces each image travels."""
        return np.ceil(np.diff(self.ends, prepend=0) / self.max_texts_per_image).astype(np.int64)

    @property
    def num_units(self) -> int:
        """Images, and pieces of one, on all processes together."""
        return int(self.pieces.sum())

    @property
    def num_batches(self) -> int:
        """Batches of all processes together."""
        num_units = self.num_units
        if not self.drop_last:
            return math.ceil(num_units / self.batch_size)
        full = num_units // self.batch_size // self.num_processes * self.num_processes
        if full == 0 and self.num_processes > 1:
            raise ValueError(
                f"{num_units} images make no batch of {self.batch_size} for each of {self.num_processes} processes; "
                "lower --train.batch_size."
            )
        return max(1, full)


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
