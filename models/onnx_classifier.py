"""A classifier exported to ONNX, run by onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from data.errors import UserError
from models.configuration import ImageTextConfig
from models.decisions import to_probabilities
from models.output import ImageTextOutput

ONNX_FILE = "model.onnx"
INPUTS = ("pixel_values", "input_ids", "attention_mask", "image_index", "text_index")
"""Inputs of the graph, a subset of those of `models.ImageTextClassifier`."""
MISSING = "needs packages that are not installed: pip install onnx onnxruntime onnxscript"
"""End of a message about a missing package."""


class OnnxModel(nn.Module):
    """A classifier for prediction and evaluation, run by onnxruntime in float32 or int8, without attention weights.

    The module has no parameters: onnxruntime chooses the device. Logits are returned on the CPU.

    Args:
        folder: a folder written by `app.inference.onnx_export.export_onnx`.

    Raises:
        UserError: onnxruntime is not installed, the file cannot be read, or it does not match its ``config.json``.
    """

    def __init__(self, folder: str | Path):
        super().__init__()
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError(f"{folder} holds an ONNX model, which {MISSING}") from error
        self.config = ImageTextConfig.from_pretrained(folder)
        try:
            self.session = onnxruntime.InferenceSession(
                Path(folder) / ONNX_FILE, providers=onnxruntime.get_available_providers()
            )
        except Exception as error:  # onnxruntime has many exception classes, without a common base
            raise UserError(f"{folder}/{ONNX_FILE} cannot be read; it may be damaged: {error}") from error
        self.check_graph(folder)

    def check_graph(self, folder: str | Path) -> None:
        """Check inputs, number of classes and image size of the graph against ``config.json``.

        Raises:
            UserError: the graph of another model.
        """
        inputs = {value.name: value.shape for value in self.session.get_inputs()}
        if set(inputs) != set(INPUTS):
            raise UserError(
                f"{folder}/{ONNX_FILE} was not exported by this application: it has the inputs {sorted(inputs)}, "
                f"expected {sorted(INPUTS)}."
            )
        found = self.session.get_outputs()[0].shape[-1], inputs["pixel_values"][-1]
        expected = self.config.num_labels, self.config.image_size
        if found != expected:
            raise UserError(
                f"{folder}/{ONNX_FILE} has {found[0]} classes and images of {found[1]} pixels, but the config.json "
                f"beside it has {expected[0]} and {expected[1]}: the files belong to two models. Export again."
            )

    def forward(self, **batch: Tensor) -> ImageTextOutput:
        (logits,) = self.session.run(None, {name: value.numpy() for name, value in self.fill(batch).items()})
        return ImageTextOutput(logits=torch.from_numpy(logits))

    def fill(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """All inputs of the graph; a batch without images or without texts gets one that no pair refers to."""
        side = self.config.image_size
        unused = {
            "pixel_values": torch.zeros(1, 3, side, side),
            "input_ids": torch.zeros(1, 1, dtype=torch.long),
            "attention_mask": torch.ones(1, 1, dtype=torch.long),
        }
        return {name: (unused | batch)[name].cpu().contiguous() for name in INPUTS}

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities ``(B, C)``, see `models.decisions.to_probabilities`."""
        return to_probabilities(logits, self.config.label_type)

    def num_parameters(self) -> int:
        """Number of values in the weights of the graph."""
        import onnx

        graph = onnx.load(Path(self.session._model_path)).graph
        return sum(int(np.prod(tensor.dims)) for tensor in graph.initializer)
