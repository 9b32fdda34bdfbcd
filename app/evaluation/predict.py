"""Probabilities for many rows, with both inputs, without either, and with another row's, shared over processes."""

from dataclasses import dataclass, field

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, send_to_device
from torch import Tensor, nn
from tqdm.auto import tqdm

from app.evaluation.targets import Truth
from data import Collate, ImageBatchSampler, Rows, make_loader

MODALITIES = ("image + text", "text only", "image only", "images shuffled", "texts shuffled")
"""What the model is given: the row's own image and text, one of them, or one of them with another row's other."""


@dataclass
class Predictions:
    """Probabilities ``(n, C)`` by what the model was given, and what would have been right.

    Beside them ``kept``: by what it was given how many rows had nothing but their own, since they lack what was taken
    or the other row's is the same.
    """

    probabilities: dict[str, np.ndarray]
    truth: Truth
    kept: dict[str, int] = field(default_factory=dict)

    def right(self, modality: str = MODALITIES[0]) -> np.ndarray:
        """How right each answer is, in [0, 1] ``(n,)``."""
        return self.truth.right(self.probabilities[modality])

    def accuracy(self, modality: str = MODALITIES[0]) -> float:
        return self.truth.mean(self.right(modality))

    def loss(self, modality: str = MODALITIES[0]) -> float:
        """Mean cross-entropy over the rows whose label is known."""
        losses = self.truth.loss(self.probabilities[modality])
        known = ~np.isnan(losses)
        return self.truth.select(known).mean(losses[known]) if known.any() else float("nan")


@torch.inference_mode()
def predict(
    model: nn.Module,
    rows: Rows,
    collate: Collate,
    accelerator: Accelerator,
    batch_size: int = 32,
    num_workers: int = 0,
    modalities: tuple[str, ...] = MODALITIES[:1],
    max_texts_per_image: int = 64,
) -> Predictions:
    """Probabilities for all rows, every row once however many processes share the work.

    ``model`` is an `ImageTextClassifier` or an `models.onnx_classifier.OnnxModel`.

    One pass of VGG16 an image serves all its texts and all ``modalities``. The order is random (always the same one),
    so that what shuffling takes from the same batch is of any row; batches are then of three images at least, so that
    few are left alone with their own. These are counted: rows without an image, and the parts of an image of more than
    ``max_texts_per_image`` texts, may still be all that a batch has.
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
    plain = accelerator.unwrap_model(model)  # processes may have unequal numbers of batches: none waits for another
    was_training = plain.training
    plain.eval()
    found = []
    bar = tqdm(loader, "evaluating", leave=False, disable=None if accelerator.is_main_process else True)
    for indices, batch in zip(sampler, bar, strict=True):
        batch = send_to_device(batch, accelerator.device)
        asked = for_modalities(batch, modalities)
        same = [asked[name].view(len(modalities), -1) == batch[name] for name in ("image_index", "text_index")]
        kept = (same[0] & same[1]).T.cpu().numpy()
        with accelerator.autocast():
            logits = plain(**asked).logits
        probabilities = plain.probabilities(logits).unflatten(0, (len(modalities), -1)).transpose(0, 1)
        found += list(zip(indices, probabilities.cpu().numpy(), kept, strict=True))
    plain.train(was_training)
    found = sorted(gather_object(found), key=lambda item: item[0])
    stacked = np.stack([probabilities for _, probabilities, _ in found])
    kept_rows = np.sum([kept for *_, kept in found], axis=0).tolist()
    truth = Truth.of(rows.labels, collate.label2id, collate.label_format, rows.weights)
    by_modality = {modality: stacked[:, i] for i, modality in enumerate(modalities)}
    return Predictions(by_modality, truth, dict(zip(modalities, kept_rows, strict=True)))


def for_modalities(batch: dict[str, Tensor], modalities: tuple[str, ...]) -> dict[str, Tensor]:
    """The batch once for each modality; each image and each text is still encoded once.

    Shuffled images are those of the next image of the batch, shuffled texts those of the row half a batch away; a batch
    of one image, or of one row, keeps its own.
    """
    images, texts = batch["image_index"], batch["text_index"]
    other_images = torch.where(images < 0, images, (images + 1) % (images.max() + 1).clamp(min=1))
    pairs = {
        "image + text": (images, texts),
        "text only": (torch.full_like(images, -1), texts),
        "image only": (images, torch.full_like(texts, -1)),
        "images shuffled": (other_images, texts),
        "texts shuffled": (images, texts.roll(len(texts) // 2)),
    }
    chosen = [pairs[modality] for modality in modalities]
    return batch | {
        "image_index": torch.cat([image for image, _ in chosen]),
        "text_index": torch.cat([text for _, text in chosen]),
    }
