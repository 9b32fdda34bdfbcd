"""Attribution methods: how much each place of a picture speaks for an answer, or against it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from threading import get_ident
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from app.explanation.options import Method, check_number
from data.errors import UserError
from models import ImageTextClassifier
from models.onnx_classifier import OnnxModel
from models.video import join_sheets

PATH = (0.4, 0.5, 0.6)
"""Points of integrated gradients on the path from the baseline (0) to the picture (1)."""
SMOOTHING = 1 / 32
"""Standard deviation of the Gaussian that smooths integrated gradients, as a share of the picture's side."""
WINDOWS = 7
"""Windows of occlusion along each side of the picture; neighbours overlap by half."""
Inputs = dict[str, Tensor]
"""Inputs of the model for B pairs: pixels, tokens, attention mask, and the indices of the pairs."""


def evidence(
    model: ImageTextClassifier | OnnxModel,
    inputs: Inputs,
    answers: Tensor,
    method: Method | None = None,
    depth: int | None = None,
    path: Sequence[float] = PATH,
) -> Tensor:
    """Evidence for the answer of each pair, in the model's input picture: positive for it, negative against it.

    The evidence is in units of the log-odds of the answer, except for ``readout``:

    - ``integrated_gradients``: gradient × (pixels − baseline), averaged along the straight path from the baseline to
      the picture, and smoothed (Sundararajan et al. 2017). The baseline is the picture's median colour. Only the middle
      of the path is used, where the answer is decided: before it the gradients belong to other answers, after it they
      vanish (Miglani et al. 2020). The default, chosen by measurement (docs/explanation.md).
    - ``gradient``: gradient × activation after a block of the image encoder, summed over its channels (HiResCAM,
      Draelos & Carin 2021).
    - ``occlusion``: the loss when a window is replaced by the median colour (Zeiler & Fergus 2014). It needs no
      gradients; the default for ONNX models.
    - ``readout``: share of each position of the last map in the probability of the answer. It says from where the
      classifier reads the answer. A position of the last map has seen most of the picture, so it does not say which
      pixels matter.

    Args:
        answers: class of each pair ``(B,)``.
        depth: block of the image encoder for ``gradient``, counted from 1, the first by default.
        path: points of ``integrated_gradients``, each in [0, 1].

    Shape:
        - returns: ``(B, h, w)`` float32, zero for pairs without an image

    Raises:
        UserError: an unknown method, a depth that the image encoder does not have, or a method that needs more than the
            answers of an ONNX model.
        ValueError: a model in training mode.
    """
    method = method or default_method(model)
    check_method(model, method, depth)
    if inputs.get("pixel_values") is None:
        return torch.zeros(len(answers), 1, 1)
    if method == "occlusion":
        return occlusion(model, inputs, answers)
    assert isinstance(model, ImageTextClassifier)
    if method == "integrated_gradients":
        return integrated_gradients(model, inputs, answers, path)
    if method == "gradient":
        return gradient_x_activation(model, inputs, answers, 1 if depth is None else depth)
    with torch.no_grad():
        positions = model(**inputs, output_attentions=True).position_weights
    assert positions is not None
    return over_frames(positions[torch.arange(len(answers)), answers].float(), model.config.frames)


def over_frames(positions: Tensor, frames: int) -> Tensor:
    """Shares of the positions of a map ``(…, h, w)`` that is pooled over time, divided equally among the frames."""
    side = math.isqrt(frames)
    return positions.tile(side, side) / frames


def check_method(model: ImageTextClassifier | OnnxModel, method: str, depth: int | None) -> None:
    """Check that a model can be explained by a method; see `evidence` for the errors."""
    if method not in get_args(Method):
        raise UserError(f"method must be one of {', '.join(get_args(Method))}, got {method!r}.")
    if depth is not None and method != "gradient":
        raise UserError(f"depth is for the method 'gradient'; {method!r} has none.")
    if depth is not None:
        check_number("depth", depth, 1)
    if not isinstance(model, OnnxModel):
        if model.training:
            raise ValueError("The model is in training mode, with dropout: call model.eval() before explaining it.")
    elif method != "occlusion":
        raise UserError(f"An ONNX model gives answers only, which is enough for 'occlusion' but not for {method!r}.")


def default_method(model: ImageTextClassifier | OnnxModel) -> Method:
    """The method that is used if none is named."""
    return "occlusion" if isinstance(model, OnnxModel) else "integrated_gradients"


def log_odds(logits: Tensor, answers: Tensor, label_type: str) -> Tensor:
    """Log-odds of the answer of each pair ``(B,)``. Unlike probabilities they do not saturate.

    Shape:
        - logits: ``(B, C)``; answers: ``(B,)``
    """
    logits = logits.float()
    chosen = logits.gather(1, answers[:, None])[:, 0]
    if label_type == "multi" or logits.shape[1] == 1:
        return chosen
    return chosen - logits.scatter(1, answers[:, None], float("-inf")).logsumexp(dim=1)


def median_color(pixels: Tensor) -> Tensor:
    """Pictures ``(I, 3, H, W)`` of one colour, the median of each: they hold no information about the content."""
    return pixels.flatten(2).median(dim=2).values[..., None, None].expand_as(pixels)


def integrated_gradients(
    model: ImageTextClassifier,
    inputs: Inputs,
    answers: Tensor,
    path: Sequence[float] = PATH,
    no_information: Callable[[Tensor], Tensor] = median_color,
) -> Tensor:
    """Evidence ``(B, H, W)`` by integrated gradients; the path starts at the baseline ``no_information(pixels)``.

    Each point of the path is encoded once for all pairs of an image, with one backward pass for each of its pairs;
    captum's implementation would encode it once for each pair. The points are computed one after the other, so the
    memory is that of one forward pass with its gradients.
    """
    pixels, index = inputs["pixel_values"].detach(), image_indices(inputs, len(answers))
    baseline = no_information(pixels)
    found = torch.zeros(len(answers), *pixels.shape[2:], device=pixels.device)
    for position in path:
        point = (baseline + position * (pixels - baseline)).requires_grad_()
        with torch.enable_grad():
            logits = model(**inputs | {"pixel_values": point}).logits
            scores = log_odds(logits, answers, model.config.label_type)
        for pairs in one_per_image(index):
            (gradient,) = torch.autograd.grad(scores[pairs].sum(), point, retain_graph=True)
            found[pairs] += ((pixels - baseline) * gradient).sum(dim=1)[index[pairs]].float() / len(path)
    sigma = SMOOTHING * max(pixels.shape[2:])
    return gaussian_blur(found, [2 * round(3 * sigma) + 1] * 2, [sigma, sigma])


def image_indices(inputs: Inputs, number: int) -> Tensor:
    """Row of the image of each pair ``(B,)``, -1 without one."""
    index = inputs.get("image_index")
    return torch.arange(number, device=inputs["pixel_values"].device) if index is None else index


def one_per_image(index: Tensor) -> Iterator[Tensor]:
    """Split the pairs with an image into groups in which no image occurs twice; yields their positions.

    Shape:
        - index: ``(B,)``, row of the image of each pair, -1 without one
    """
    left = [[place for place in range(len(index)) if index[place] == image] for image in index.unique() if image >= 0]
    while left:
        yield torch.tensor([places.pop() for places in left], device=index.device)
        left = [places for places in left if places]


def gradient_x_activation(model: ImageTextClassifier, inputs: Inputs, answers: Tensor, depth: int) -> Tensor:
    """Evidence ``(B, h, w)`` by gradient × activation after a block of the image encoder.

    Raises:
        UserError: the image encoder has no such block.
    """
    stages = model.image_encoder.stages()
    if not 1 <= depth <= len(stages):
        raise UserError(f"This image encoder has blocks 1 to {len(stages)}; there is no depth {depth}.")
    pixels, index = inputs["pixel_values"].detach().requires_grad_(), image_indices(inputs, len(answers))
    outputs, own = list[Tensor](), get_ident()

    def record(_: nn.Module, __: tuple, output: Any) -> None:
        if get_ident() == own:  # other threads may ask the same model meanwhile
            while not isinstance(output, Tensor):  # the map or the tokens come first, at any depth of tuples
                output = output[0]
            outputs.append(output)

    hook = stages[depth - 1].register_forward_hook(record)
    try:
        with torch.enable_grad():
            logits = model(**inputs | {"pixel_values": pixels}).logits
            scores = log_odds(logits, answers, model.config.label_type)
    finally:
        hook.remove()
    (activation,) = outputs
    found: list[Tensor | None] = [None] * len(answers)
    for pairs in one_per_image(index):
        (gradient,) = torch.autograd.grad(scores[pairs].sum(), activation, retain_graph=True)
        maps = to_maps((activation * gradient).detach().float())
        maps = join_sheets(maps[:, None], model.config.frames)[:, 0]
        for pair in pairs.tolist():
            found[pair] = maps[index[pair]]
    empty = torch.zeros_like(next(maps for maps in found if maps is not None))
    return torch.stack([empty if maps is None else maps for maps in found])


def to_maps(features: Tensor) -> Tensor:
    """Sum over channels ``(B, h, w)`` of a map ``(B, C, h, w)``, or of tokens ``(B, L, C)``: a square after others."""
    if features.dim() == 4:
        return features.sum(dim=1)
    side = math.isqrt(features.shape[1])
    return features[:, -(side**2) :].sum(dim=2).unflatten(1, (side, side))


def occlusion(
    model: ImageTextClassifier | OnnxModel, inputs: Inputs, answers: Tensor, windows: int = WINDOWS
) -> Tensor:
    """Evidence ``(B, H, W)`` by occlusion with square windows, each image once for each of its pairs.

    Args:
        windows: number of windows along each side of the picture.
    """
    from captum.attr import Occlusion  # takes a third of a second to import

    index = image_indices(inputs, len(answers))
    has_image = index >= 0
    pixels = inputs["pixel_values"].detach()[index.clamp_min(0)]
    others = {name: value for name, value in inputs.items() if name not in ("pixel_values", "image_index")}
    rows = torch.where(has_image, torch.arange(len(index), device=index.device), -1)

    def score(pictures: Tensor) -> Tensor:
        """Log-odds ``(B,)``, for a copy of each pair's picture."""
        logits = model(pixel_values=pictures, image_index=rows, **others).logits
        assert logits is not None
        return log_odds(logits, answers.to(logits.device), model.config.label_type).to(pictures.device)

    window = max(1, round(2 * pixels.shape[-1] / (windows + 1)))
    channels, stride = pixels.shape[1], max(1, window // 2)
    with torch.no_grad():
        found = Occlusion(score).attribute(
            pixels,
            sliding_window_shapes=(channels, window, window),
            strides=(channels, stride, stride),
            baselines=median_color(pixels),
        )
    return torch.where(has_image[:, None, None], found[:, 0].float(), 0.0)  # captum repeats the loss for each channel
