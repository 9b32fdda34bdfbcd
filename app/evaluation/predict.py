"""Probabilities for many rows, with all inputs, without each of them, and with shuffled inputs."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, send_to_device
from torch import Tensor, nn
from tqdm.auto import tqdm

from app.evaluation.targets import Targets
from data import Collate, ImageBatchSampler, Rows, make_loader
from models.decisions import Thresholds, center

MODALITIES = ("image + text", "text only", "image only", "images shuffled", "texts shuffled")
"""What the model is given: both inputs of a row, one of them, or one of them with the other input of another row."""
BOTH, TEXT_ONLY, IMAGE_ONLY, IMAGES_SHUFFLED, TEXTS_SHUFFLED = MODALITIES
ALL = "all inputs"
"""The name of `BOTH` for a model with other contexts than one text."""
Parts = dict[str, list[str]]
"""Name of an input → what the model is given without it, and with that of another row."""
IMAGE_AND_TEXT: Parts = {"image": [TEXT_ONLY, IMAGES_SHUFFLED], "text": [IMAGE_ONLY, TEXTS_SHUFFLED]}
"""The inputs of a model with one text."""


def parts_of(config) -> Parts:
    """The inputs of a model."""
    if config.has_text and not config.contexts:
        return IMAGE_AND_TEXT
    names = ["image", *(["text"] if config.has_text else []), *(spec["name"] for spec in config.contexts or ())]
    return {name: [f"without {name}", f"{name} shuffled"] for name in names}


def modalities_of(parts: Parts) -> tuple[str, ...]:
    """What the model is given in an evaluation: all inputs first."""
    if parts == IMAGE_AND_TEXT:
        return MODALITIES
    return (ALL, *(without for without, _ in parts.values()), *(shuffled for _, shuffled in parts.values()))


@dataclass
class Predictions:
    """The model's probabilities and the labels of n rows.

    Attributes:
        probabilities: modality (see `modalities_of`) → ``(n, C)``, all inputs first.
        kept: modality → number of rows whose inputs did not change, because the input that was removed is missing or
            that of the other row is equal.
        thresholds: of the model, for several labels a row.
    """

    probabilities: dict[str, np.ndarray]
    targets: Targets
    kept: dict[str, int] = field(default_factory=dict)
    thresholds: Thresholds = None

    def centered(self) -> "Predictions":
        """The same predictions with probabilities whose thresholds are all 0.5, as metrics expect them."""
        moved = {modality: center(found, self.thresholds) for modality, found in self.probabilities.items()}
        return replace(self, probabilities=moved, thresholds=None)

    @property
    def whole_name(self) -> str:
        """The name of all inputs."""
        return next(iter(self.probabilities))

    @property
    def whole(self) -> np.ndarray:
        """Probabilities ``(n, C)`` with all inputs."""
        return self.probabilities[self.whole_name]

    def correctness(self, modality: str | None = None) -> np.ndarray:
        """How correct each answer is, in [0, 1] ``(n,)``; with all inputs by default."""
        return self.targets.correctness(center(self.probabilities[modality or self.whole_name], self.thresholds))

    def accuracy(self, modality: str | None = None) -> float:
        return self.targets.mean(self.correctness(modality))

    def loss(self, modality: str | None = None) -> float:
        """Mean cross-entropy over the rows whose label is known."""
        losses = self.targets.cross_entropy(self.probabilities[modality or self.whole_name])
        known = ~np.isnan(losses)
        return self.targets.select(known).mean(losses[known]) if known.any() else float("nan")


@torch.inference_mode()
def predict(
    model: nn.Module,
    rows: Rows,
    collate: Collate,
    accelerator: Accelerator,
    batch_size: int = 32,
    num_workers: int = 0,
    modalities: tuple[str, ...] | None = None,
    max_texts_per_image: int = 64,
) -> Predictions:
    """Probabilities for all rows, each exactly once for any number of processes.

    Each image passes the image encoder once for all its texts and all ``modalities``. Rows are visited in a fixed
    random order, because shuffled inputs come from the same batch. For several modalities a batch has at least three
    images, so that few rows find no other input; `Predictions.kept` counts those.

    Args:
        model: an `ImageTextClassifier` or an `models.onnx_classifier.OnnxModel`.
        batch_size: images a batch.
    """
    parts = parts_of(accelerator.unwrap_model(model).config)
    modalities = modalities or modalities_of(parts)[:1]
    if len(modalities) > 1:
        batch_size = max(batch_size, 3)
    sampler = ImageBatchSampler(
        rows.image_keys,
        batch_size,
        shuffle=True,
        drop_last=False,
        max_texts_per_image=max_texts_per_image,
        num_processes=accelerator.num_processes,
        process_index=accelerator.process_index,
    )
    loader = make_loader(rows, sampler, collate.inputs, num_workers)
    plain = accelerator.unwrap_model(model)  # without DDP: processes may have unequal numbers of batches
    was_training = plain.training
    plain.eval()
    found = []
    bar = tqdm(loader, "evaluating", leave=False, disable=None if accelerator.is_main_process else True)
    for indices, batch in zip(sampler, bar, strict=True):
        batch = send_to_device(batch, accelerator.device)
        inputs = for_modalities(batch, modalities, parts)
        now, before = indices_of(inputs), indices_of(batch)
        same = torch.stack([now[name].view(len(modalities), -1) == before[name] for name in before])
        kept = same.all(dim=0).T.cpu().numpy()
        with accelerator.autocast():
            logits = plain(**inputs).logits
        probabilities = plain.probabilities(logits).unflatten(0, (len(modalities), -1)).transpose(0, 1)
        found += list(zip(indices, probabilities.cpu().numpy(), kept, strict=True))
    plain.train(was_training)
    found = sorted(gather_object(found), key=lambda item: item[0])
    stacked = np.stack([probabilities for _, probabilities, _ in found])
    kept_rows = np.sum([kept for *_, kept in found], axis=0).tolist()
    targets = Targets.of(rows.labels, collate.label2id, collate.label_format, rows.weights)
    by_modality = {modality: stacked[:, i] for i, modality in enumerate(modalities)}
    kept_by_modality = dict(zip(modalities, kept_rows, strict=True))
    return Predictions(by_modality, targets, kept_by_modality, plain.config.label_thresholds)


def for_modalities(batch: dict[str, Any], modalities: tuple[str, ...], parts: Parts = IMAGE_AND_TEXT) -> dict[str, Any]:
    """The rows of a batch once for each modality; each image, text and context is still encoded once.

    A shuffled image is the next image of the batch, another shuffled input is that of the row half a batch away. In a
    batch of one image, or of one row, nothing changes.
    """
    indices = indices_of(batch)
    changed = {}
    for name, (without, shuffled) in parts.items():
        index = indices[name]
        other = index.roll(len(index) // 2)
        if name == "image":
            other = torch.where(index < 0, index, (index + 1) % (index.max() + 1).clamp(min=1))
        changed[without] = indices | {name: torch.full_like(index, -1)}
        changed[shuffled] = indices | {name: other}
    chosen = [changed.get(modality, indices) for modality in modalities]
    joined = {name: torch.cat([one[name] for one in chosen]) for name in indices}
    found = batch | {"image_index": joined.pop("image"), "text_index": joined.pop("text")}
    if "contexts" in batch:
        found["contexts"] = {name: batch["contexts"][name] | {"index": index} for name, index in joined.items()}
    return found


def indices_of(batch: dict[str, Any]) -> dict[str, Tensor]:
    """Name of an input → the row of each pair ``(B,)``, -1 for a missing one."""
    others = {name: part["index"] for name, part in batch.get("contexts", {}).items()}
    return {"image": batch["image_index"], "text": batch["text_index"]} | others
