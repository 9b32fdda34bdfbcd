"""Start a pooled classifier as logistic regression on the mean features of image and text."""

from __future__ import annotations

import math

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, send_to_device
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from tqdm.auto import tqdm

from app.evaluation.baselines import LinearModel, fit_linear
from app.evaluation.targets import Targets
from app.settings import Settings
from data import Collate, ImageBatchSampler, Rows, make_loader
from models import ImageTextClassifier
from models.build import architecture
from models.fusion import init_to_zero
from models.linear_probe import LinearProbe
from models.pooled_classifier import PooledClassifier

MAX_ROWS, MAX_PRODUCTS = 20_000, 20_000_000_000
"""Training rows that the regression learns from, and their products with features and classes; of more, a part."""
STRENGTHS = (0.3, 1.0, 3.0, 10.0)
"""Inverse regularization strengths; the validation rows choose one."""
TEXT_SCALE = 0.5
"""Scale of the features of the text beside those of the image: texts of few cases are easily learned by heart."""
FEW_ROWS = 5_000
"""Training rows below which ``auto`` starts linear."""
RARE = 5.0
"""Logit by which a class without training rows is below the least likely class."""


def starts_linear(settings: Settings, rows: Rows, is_frozen: bool) -> bool:
    """Whether a training starts linear: not if it starts from a run, reads a stream, or has the classifier mixture,
    contexts or videos.

    Args:
        rows: training rows.
        is_frozen: whether both encoders are frozen.
    """
    if settings.model.init or rows.is_stream or architecture(settings.model)["classifier"] != "pooled":
        return False
    if settings.data.context or not settings.data.has_text or settings.data.frames > 1:
        return False
    wanted = settings.train.linear_start
    return is_frozen and len(rows) < FEW_ROWS if wanted == "auto" else wanted


def start_linear(
    model: ImageTextClassifier,
    splits: tuple[Rows, Rows],
    collate: Collate,
    accelerator: Accelerator,
    batch_size: int,
    num_workers: int,
    is_balanced: bool = False,
    max_texts_per_image: int = 64,
) -> str:
    """Set the linear probe of a model to logistic regression, and let its classifier add nothing.

    A linear probe before training (Kumar et al. 2022): training starts from what the features of the encoders give a
    linear classifier. Its regularization is the one with the lowest cross-entropy on the validation rows. The
    embeddings of missing inputs start as the mean input.

    Args:
        model: with a `models.linear_probe.LinearProbe`, on the accelerator's device.
        splits: training and validation rows.
        is_balanced: weigh classes by their inverse frequency.

    Returns:
        what was done, in a line.
    """
    assert model.probe is not None
    train, validation = splits
    num_labels = len(collate.label2id)
    width = model.probe.image.in_features
    num_features = width + (0 if model.probe.text is None else model.probe.text.in_features)
    limit = max(1, min(MAX_ROWS, MAX_PRODUCTS // (num_features * num_labels)))
    if len(train) > limit:
        train = train.select(np.sort(np.random.default_rng(0).choice(len(train), limit, replace=False)).tolist())
    how = (collate, accelerator, batch_size, num_workers, max_texts_per_image)
    means = [mean_features(model, rows, *how) for rows in (train, validation)]
    start_missing(model, *means[0])
    features = [probe_inputs(model.probe, *fill_missing(part, means[0])) for part in means]
    center, scale = features[0].mean(axis=0), features[0].std(axis=0) + 1e-6
    scale *= math.sqrt(width)  # rows of about unit length
    scale[width:] /= TEXT_SCALE
    scaled = [((part - center) / scale).astype(np.float32) for part in features]
    vocabulary = (collate.label2id, collate.label_format)
    targets = [Targets.of(rows.labels, *vocabulary, rows.weights) for rows in (train, validation)]
    choice = {"metric": "loss", "is_balanced": is_balanced, "strengths": STRENGTHS, "products": 10 * MAX_PRODUCTS}
    fitted = fit_linear(*scaled, *targets, num_labels, **choice)
    weight, bias = coefficients(fitted, num_labels, num_features)
    weight = weight / scale
    set_probe(model.probe, weight, bias - weight @ center)
    assert isinstance(model.classifier, PooledClassifier)
    init_to_zero(model.classifier.output)  # the direct terms are zero
    inputs = "image" if model.probe.text is None else "image and text"
    return f"starting from logistic regression on the mean features of {inputs}, fitted on {len(train):,} rows"


@torch.inference_mode()
def mean_features(
    model: ImageTextClassifier,
    rows: Rows,
    collate: Collate,
    accelerator: Accelerator,
    batch_size: int,
    num_workers: int,
    max_texts_per_image: int = 64,
) -> tuple[np.ndarray, np.ndarray]:
    """The mean of each row's image map ``(n, D)`` and of its tokens ``(n, hidden)``; NaN if it has none."""
    assert model.probe is not None
    given: list[tuple[Tensor, ...]] = []
    hook = model.probe.register_forward_pre_hook(lambda _, inputs: given.append(inputs))
    sampler = ImageBatchSampler(
        rows.image_keys,
        batch_size,
        shuffle=False,
        max_texts_per_image=max_texts_per_image,
        num_processes=accelerator.num_processes,
        process_index=accelerator.process_index,
    )
    found = []
    model.eval()
    bar = tqdm(sampler, "linear start", leave=False, disable=not accelerator.is_main_process)
    for indices, batch in zip(bar, make_loader(rows, sampler, collate.inputs, num_workers), strict=True):
        batch = send_to_device(batch, accelerator.device)
        with accelerator.autocast():
            model(**batch)
        *features, image_index, text_index = given.pop()
        images, texts = model.probe.means(*features)
        images = images[image_index].masked_fill(batch["image_index"][:, None] < 0, torch.nan)
        texts = texts[text_index].masked_fill(batch["text_index"][:, None] < 0, torch.nan)
        found += list(zip(indices, images.cpu().numpy(), texts.cpu().numpy(), strict=True))
    model.train()
    hook.remove()
    found = sorted(gather_object(found), key=lambda row: row[0])
    return np.stack([image for _, image, _ in found]), np.stack([text for *_, text in found])


@torch.no_grad()
def start_missing(model: ImageTextClassifier, images: np.ndarray, texts: np.ndarray) -> None:
    """Set the embeddings of missing inputs to the mean features."""
    assert model.no_text is not None
    model.no_image.copy_(torch.from_numpy(mean_of_rows(images)).view_as(model.no_image))
    model.no_text.copy_(torch.from_numpy(mean_of_rows(texts)))


def fill_missing(
    means: tuple[np.ndarray, np.ndarray], train: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Features with those of rows without an input replaced by the mean of the training rows."""
    image, text = (np.where(np.isnan(part), mean_of_rows(of), part) for part, of in zip(means, train, strict=True))
    return image, text


def mean_of_rows(values: np.ndarray) -> np.ndarray:
    """Mean ``(D,)`` over the rows that are not NaN, 0 without such rows."""
    present = values[~np.isnan(values).any(axis=1)]
    return present.mean(axis=0) if len(present) else np.zeros(values.shape[1], dtype=values.dtype)


@torch.no_grad()
def probe_inputs(probe: LinearProbe, images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """What the probe is linear in ``(n, F)``."""
    parts = [probe.norm_image(torch.from_numpy(images))]
    if probe.norm_text is not None:
        parts.append(probe.norm_text(torch.from_numpy(texts)))
    return torch.cat(parts, dim=1).double().numpy()


def coefficients(model: LinearModel | int, num_labels: int, num_features: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights ``(C, F)`` and biases ``(C,)`` whose logits give the probabilities of a linear model."""
    weight, bias = np.zeros((num_labels, num_features)), np.zeros(num_labels)
    if isinstance(model, int):  # the class of all rows
        bias[model] = RARE
    elif isinstance(model, LogisticRegression):
        rows, offsets = model.coef_, model.intercept_
        if len(rows) == 1:  # the logit of the second of two classes
            rows, offsets = np.concatenate([-rows / 2, rows / 2]), np.concatenate([-offsets / 2, offsets / 2])
        bias[:] = offsets.min() - RARE
        weight[model.classes_], bias[model.classes_] = rows, offsets
    else:
        for label, one in enumerate(model.estimators_):
            if isinstance(one, LogisticRegression):
                weight[label], bias[label] = one.coef_[0], one.intercept_[0]
            else:  # no row has the label, or all have it
                bias[label] = RARE if one.predict(np.zeros((1, num_features)))[0] else -RARE
    return weight, bias


@torch.no_grad()
def set_probe(probe: LinearProbe, weight: np.ndarray, bias: np.ndarray) -> None:
    width = probe.image.in_features
    probe.image.weight.copy_(torch.from_numpy(weight[:, :width]))
    probe.image.bias.copy_(torch.from_numpy(bias))
    if probe.text is not None:
        probe.text.weight.copy_(torch.from_numpy(weight[:, width:]))
