"""A classifier that was exported to ONNX, run by onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from data.errors import UserError
from models import ImageTextClassifier, ImageTextConfig, ImageTextOutput

ONNX_FILE = "model.onnx"


INPUTS = ("pixel_values", "input_ids", "attention_mask", "image_index", "text_index")


MISSING = "needs packages that are not installed: pip install onnx onnxruntime onnxscript"


class OnnxModel(nn.Module):
    """A classifier for prediction and evaluation, computed by onnxruntime in float32 or int8. It gives no attention.

    A module without parameters: onnxruntime chooses where to compute, and the logits are on the CPU.

    Args:
        folder: what `export_onnx` wrote.

    Raises:
        UserError: onnxruntime is not installed, the file is none that it can read, or it is of another model.
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
        except Exception as error:
            raise UserError(f"{folder}/{ONNX_FILE} cannot be read, it may be damaged: {error}") from error
        self.check_graph(folder)

    def check_graph(self, folder: str | Path) -> None:
        """Stop at a graph that is not the one that ``config.json`` describes."""
        inputs = {value.name: value.shape for value in self.session.get_inputs()}
        if set(inputs) != set(INPUTS):
            raise UserError(
                f"{folder}/{ONNX_FILE} is no export of this application: its inputs are {sorted(inputs)}, expected "
                f"{sorted(INPUTS)}."
            )
        graph = self.session.get_outputs()[0].shape[-1], inputs["pixel_values"][-1]
        told = self.config.num_labels, self.config.image_size
        if graph != told:
            raise UserError(
                f"{folder}/{ONNX_FILE} gives {graph[0]} classes for images of {graph[1]} pixels, but the "
                f"config.json beside it says {told[0]} and {told[1]}: they are of two models. Export again."
            )

    def forward(self, **batch: Tensor) -> ImageTextOutput:
        (logits,) = self.session.run(None, {name: value.numpy() for name, value in self.fill(batch).items()})
        return ImageTextOutput(logits=torch.from_numpy(logits))

    def fill(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """All inputs of the graph: one that no pair points to where there are no images, or no texts."""
        side = self.config.image_size
        nothing = {
            "pixel_values": torch.zeros(1, 3, side, side),
            "input_ids": torch.zeros(1, 1, dtype=torch.long),
            "attention_mask": torch.ones(1, 1, dtype=torch.long),
        }
        return {name: (nothing | batch)[name].cpu().contiguous() for name in INPUTS}

    def probabilities(self, logits: Tensor) -> Tensor:
        return ImageTextClassifier.probabilities(self, logits)  # type: ignore[arg-type]

    def num_parameters(self) -> int:
        import onnx

        graph = onnx.load(Path(self.session._model_path)).graph
        return sum(int(np.prod(tensor.dims)) for tensor in graph.initializer)
