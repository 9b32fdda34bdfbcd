"""Probabilities for many rows, with both inputs, with one of them, and with shuffled inputs."""

from dataclasses import dataclass, field, replace

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


@dataclass
class Predictions:
    """The model's probabilities and the labels of n rows.

    Attributes:
        probabilities: modality (one of `MODALITIES`) → ``(n, C)``.
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

    def correctness(self, modality: str = BOTH) -> np.ndarray:
        """How correct each answer is, in [0, 1] ``(n,)``."""
        return self.targets.correctness(center(self.probabilities[modality], self.thresholds))

    def accuracy(self, modality: str = BOTH) -> float:
        return self.targets.mean(self.correctness(modality))

    def loss(self, modality: str = BOTH) -> float:
        """Mean cross-entropy over the rows whose label is known."""
        losses = self.targets.cross_entropy(self.probabilities[modality])
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
    modalities: tuple[str, ...] = (BOTH,),
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
        inputs = for_modalities(batch, modalities)
        same = [inputs[name].view(len(modalities), -1) == batch[name] for name in ("image_index", "text_index")]
        kept = (same[0] & same[1]).T.cpu().numpy()
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


def for_modalities(batch: dict[str, Tensor], modalities: tuple[str, ...]) -> dict[str, Tensor]:
    """The rows of a batch once for each modality; each image and each text is still encoded once.

    A shuffled image is the next image of the batch, a shuffled text is that of the row half a batch away. In a batch of
    one image, or of one row, nothing changes.
    """
    images, texts = batch["image_index"], batch["text_index"]
    other_images = torch.where(images < 0, images, (images + 1) % (images.max() + 1).clamp(min=1))
    pairs = {
        BOTH: (images, texts),
        TEXT_ONLY: (torch.full_like(images, -1), texts),
        IMAGE_ONLY: (images, torch.full_like(texts, -1)),
        IMAGES_SHUFFLED: (other_images, texts),
        TEXTS_SHUFFLED: (images, texts.roll(len(texts) // 2)),
    }
    chosen = [pairs[modality] for modality in modalities]
    return batch | {
        "image_index": torch.cat([image for image, _ in chosen]),
        "text_index": torch.cat([text for _, text in chosen]),
    }
