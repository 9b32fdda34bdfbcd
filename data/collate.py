"""Examples → batches of tensors. A batch holds each different image and each different text once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from data.audio import collate_sounds
from data.context_features import collate_features
from data.contexts import unique
from data.example import Example
from data.feature_store import FeatureStore
from data.hashing import content_key
from data.image_formats import BadImageError
from data.images import MAX_PIXELS, decode_image
from data.label_format import SINGLE, LabelFormat
from data.sampler import ImageBatchSampler
from data.value_range import ValueRange
from data.workers import Loader, end_workers_at_exit, ignore_stop_signals

if TYPE_CHECKING:
    from data.rows import Rows

FAST = torch.channels_last
"""Memory format of images in which VGG16 is faster, on CPU and GPU."""


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

    inputs: dict[str, Any]
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
        frames: number of frames of each video; 1 if the images are pictures.
        side: height and width in pixels to which pictures are resized, see `data.images.reduce_jpeg`.
        image_features, text_features: precomputed outputs of frozen encoders. They replace the images or the texts.
        features_level: block of the image encoder that ``image_features`` come from.
        contexts: the entries of the model's ``contexts``.
        context_maps: name of a context → last maps of its frozen image encoder, which replace its pictures.
        context_sounds: name of a context → tokens of its frozen audio encoder, which replace sounds.
    """

    processor: Callable
    max_pixels: int = MAX_PIXELS
    value_range: ValueRange = None
    frames: int = 1
    side: int | None = None
    image_features: FeatureStore | None = None
    text_features: FeatureStore | None = None
    features_level: int | None = None
    contexts: Sequence[Mapping[str, Any]] = ()
    context_maps: Mapping[str, FeatureStore] = field(default_factory=dict)
    context_sounds: Mapping[str, FeatureStore] = field(default_factory=dict)

    @classmethod
    def of(cls, processor: Callable, config, max_pixels: int = MAX_PIXELS) -> InputCollate:
        """The collation that a model's configuration asks for."""
        how = (max_pixels, config.value_range, config.frames, config.image_size)
        return cls(processor, *how, contexts=config.contexts or ())

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Inputs of B examples with I different images and T different texts.

        Shape:
            - pixel_values: ``(I, 3, H, W)``; absent if no example has an image
            - input_ids, attention_mask: ``(T, L)``; absent if no example has a text
            - image_features ``(I, D, h, w)`` in place of ``pixel_values``, and context_features ``(T, hidden, L)`` in
              place of ``input_ids``, if features are given
            - image_index, text_index: ``(B,)``, the image and the text of each example, -1 if missing
        - contexts: name → tensors, as `ImageTextClassifier.forward` takes them; absent if the model has none

        Raises:
            BadImageError: an image cannot be decoded; the message names its row.
            UserError: features that differ from those of the training; the message names the row.
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
        inputs |= {"image_index": torch.tensor(image_index), "text_index": torch.tensor(text_index)}
        contexts = self.collate_contexts(examples, images, inputs.get("pixel_values"))
        return inputs | {"contexts": contexts} if contexts else inputs

    def collate_contexts(
        self, examples: Sequence[Example], images: Iterable[str] = (), pixels: Tensor | None = None
    ) -> dict[str, dict[str, Tensor]]:
        """Tensors of the further contexts by name, as `ImageTextClassifier.forward` takes them.

        Args:
            images: keys of the main images, in the order of their ``pixels``; the same pictures are not decoded again.
        """
        keys = list(images)
        return {spec["name"]: self.collate_context(spec, examples, keys, pixels) for spec in self.contexts}

    def collate_context(
        self,
        spec: Mapping[str, Any],
        examples: Sequence[Example],
        images: Sequence[str] = (),
        pixels: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Tensors of one further context; only ``index`` if no example has it. For pixels see `collate_contexts`."""
        cells, index = unique([example.contexts.get(spec["name"]) for example in examples])
        found = {"index": torch.tensor(index)}
        if not cells:
            return found
        rows = [examples[index.index(place)].row for place in range(len(cells))]
        if spec["kind"] == "text":
            return found | dict(self.processor(None, [cell.value for cell in cells]))
        if (store := self.context_sounds.get(spec["name"])) is not None:
            tokens, mask = pad_tokens([store[cell.key] for cell in cells])
            return found | {"tokens": tokens, "mask": mask}
        if spec["kind"] == "audio":
            return found | collate_sounds(spec, [cell.value for cell in cells], rows)
        if spec["kind"] != "image":
            return found | collate_features(spec, [cell.value for cell in cells], rows)
        if spec["name"] in self.context_maps:
            return found | {"features": torch.cat([self.context_maps[spec["name"]][cell.key] for cell in cells])}
        if pixels is not None and [cell.key for cell in cells] == list(images):
            return found | {"pixel_values": pixels}
        return found | self.pixels([Example(row, cell.value, None) for row, cell in zip(rows, cells, strict=True)])

    def collate_images(self, images: dict[str, Example]) -> dict:
        """Tensors of the different images, given as image key → one example with that image."""
        if not images:
            return {}
        if self.image_features is None:
            return self.pixels(images.values())
        features = torch.cat([self.image_features[key] for key in images]).contiguous(memory_format=FAST)
        return {"image_features": features, "features_level": self.features_level}

    def pixels(self, examples: Iterable[Example]) -> dict:
        """Pixels of the different images."""
        decoded = [self.decode(example) for example in examples]
        return {"pixel_values": self.processor(decoded, None)["pixel_values"].contiguous(memory_format=FAST)}

    def collate_texts(self, texts: list[str]) -> dict:
        """Tensors of the different texts."""
        if not texts:
            return {}
        if self.text_features is None:
            return dict(self.processor(None, texts))
        tokens, mask = pad_tokens([self.text_features[text_key(text)] for text in texts])
        return {"context_features": tokens.transpose(1, 2), "attention_mask": mask.long()}

    def decode(self, example: Example) -> Image.Image:
        assert example.image is not None
        try:
            how: dict[str, Any] = {"value_range": self.value_range, "frames": self.frames, "side": self.side}
            return decode_image(example.image, self.max_pixels, **how)
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


def pad_tokens(tokens: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Stored tokens ``(L, hidden)`` of K inputs as ``(K, L, hidden)``, and the mask of real ones ``(K, L)`` bool."""
    masks = [torch.ones(len(one), dtype=torch.bool) for one in tokens]
    return pad_sequence(tokens, batch_first=True), pad_sequence(masks, batch_first=True)


def row_contexts(model: Any, processor: Callable, rows: Rows, index: int) -> dict[str, Any]:
    """``contexts`` of one row, as `ImageTextClassifier.forward` takes them; empty if the model has none."""
    collate = InputCollate.of(processor, model.config)
    if not collate.contexts:
        return {}
    example = rows.example(index, None)
    return {"contexts": collate.collate_contexts([example])}


def make_loader(
    rows: Rows, sampler: ImageBatchSampler, collate: Callable[[list[Example]], Any], num_workers: int
) -> Loader:
    """Load batches in the order of the sampler. The loader leaves the global random state unchanged."""
    end_workers_at_exit()
    return Loader(
        rows,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        worker_init_fn=ignore_stop_signals,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(0),
    )
