"""A classifier exported to ONNX, run by onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.errors import UserError
from models.configuration import ImageTextConfig
from models.decisions import to_probabilities
from models.output import ImageTextOutput

ONNX_FILE = "model.onnx"
OF_TEXTS = ("input_ids", "attention_mask", "text_index")
INPUTS = ("pixel_values", "input_ids", "attention_mask", "image_index", "text_index")
"""Inputs of the graph, a subset of those of `models.ImageTextClassifier`. A model without a text lacks `OF_TEXTS`."""
OF_CONTEXTS = {
    "text": ("input_ids", "attention_mask"),
    "image": ("pixel_values",),
    "audio": ("values", "filled"),
    "vectors": ("values", "mask"),
    "columns": ("values", "mask"),
}
"""Kind of a further context → its inputs; with those goes ``index``. The graph has them as ``NAME.INPUT``."""
TYPES = {"tensor(float)": torch.float32, "tensor(int64)": torch.int64, "tensor(bool)": torch.bool}
MISSING = "needs packages that are not installed: pip install onnx onnxruntime onnxscript"
"""End of a message about a missing package."""


def graph_inputs(config: ImageTextConfig) -> list[str]:
    """Names of the inputs of the graph of a model, in order."""
    own = [name for name in INPUTS if config.has_text or name not in OF_TEXTS]
    specs = config.contexts or ()
    return own + [f"{spec['name']}.{part}" for spec in specs for part in (*OF_CONTEXTS[spec["kind"]], "index")]


def flatten_inputs(batch: dict[str, Any]) -> dict[str, Tensor]:
    """Inputs of a classifier with the names that the graph gives them."""
    further = {
        f"{name}.{part}": tensor for name, one in batch.get("contexts", {}).items() for part, tensor in one.items()
    }
    return {name: value for name, value in batch.items() if name != "contexts"} | further


def nest_inputs(flat: dict[str, Tensor]) -> dict[str, Any]:
    """Inputs as a classifier takes them; the opposite of `flatten_inputs`."""
    contexts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in flat.items():
        if "." in name:
            contexts.setdefault(name.split(".")[0], {})[name.split(".")[1]] = tensor
    own: dict[str, Any] = {name: tensor for name, tensor in flat.items() if "." not in name}
    return own | ({"contexts": contexts} if contexts else {})


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
        if set(inputs) != set(wanted := graph_inputs(self.config)):
            raise UserError(
                f"{folder}/{ONNX_FILE} was not exported by this application: it has the inputs {sorted(inputs)}, "
                f"expected {sorted(wanted)}."
            )
        found = self.session.get_outputs()[0].shape[-1], inputs["pixel_values"][-1]
        expected = self.config.num_labels, self.config.input_size
        if found != expected:
            raise UserError(
                f"{folder}/{ONNX_FILE} has {found[0]} classes and images of {found[1]} pixels, but the config.json "
                f"beside it has {expected[0]} and {expected[1]}: the files belong to two models. Export again."
            )

    def forward(self, **batch: Tensor) -> ImageTextOutput:
        (logits,) = self.session.run(None, {name: value.numpy() for name, value in self.fill(batch).items()})
        return ImageTextOutput(logits=torch.from_numpy(logits))

    def fill(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """All inputs of the graph; what a batch lacks gets one that no pair refers to."""
        given, pairs = flatten_inputs(batch), len(batch["image_index"])
        filled = {}
        for value in self.session.get_inputs():
            name, dtype = value.name, TYPES[value.type]
            if name.endswith("index"):
                found = given.get(name, torch.full((pairs,), -1)).expand(pairs)
            else:
                shape = [side if isinstance(side, int) else 1 for side in value.shape]
                found = given.get(name, torch.full(shape, 1 if "mask" in name else 0, dtype=dtype))
            filled[name] = found.to(dtype).cpu().contiguous()
        return filled

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities ``(B, C)``, see `models.decisions.to_probabilities`."""
        return to_probabilities(logits, self.config.label_type)

    def num_parameters(self) -> int:
        """Number of values in the weights of the graph."""
        import onnx

        graph = onnx.load(Path(self.session._model_path)).graph
        return sum(int(np.prod(tensor.dims)) for tensor in graph.initializer)
