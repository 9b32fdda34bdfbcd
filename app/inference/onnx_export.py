"""Export a trained model to one ONNX file, and quantize it to int8."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from app.evaluation.predict import for_modalities, modalities_of, parts_of
from data import Example, InputCollate
from data.audio import collate_sounds
from data.errors import UserError
from data.messages import excerpt
from models import ImageTextClassifier, ImageTextProcessor
from models.onnx_classifier import MISSING, ONNX_FILE, OnnxModel, flatten_inputs, graph_inputs, nest_inputs


class Logits(nn.Module):
    """The classifier as a function of the tensors that `graph_inputs` names."""

    def __init__(self, model: ImageTextClassifier):
        super().__init__()
        self.model = model

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.model(**nest_inputs(inputs)).logits


def example_inputs(model: ImageTextClassifier, processor: ImageTextProcessor) -> dict[str, Tensor]:
    """Inputs of seven pairs, some without an image or a text, that the graph is traced with."""
    config, side = model.config, model.config.image_size
    texts = dict(processor(None, ["what is it?", "what color is the circle in the middle?", "how many?"]))
    index = torch.tensor([0, 1, 0, 1, 2, -1, -1])
    contexts = {spec["name"]: example_context(spec, side, texts) | {"index": index} for spec in config.contexts or ()}
    pixels = torch.randn(5, 3, config.input_size, config.input_size)
    batch = {"pixel_values": pixels, "image_index": torch.tensor([0, 1, 2, -1, 3, 4, 0])}
    flat = flatten_inputs(batch | texts | {"text_index": index, "contexts": contexts})
    return {name: flat[name].clone() for name in graph_inputs(config)}  # inputs that are one tensor would be one input


def example_context(spec: dict[str, Any], side: int, texts: dict[str, Tensor]) -> dict[str, Tensor]:
    """Inputs of three values of a further context."""
    if spec["kind"] == "text":
        return texts
    if spec["kind"] == "image":
        return {"pixel_values": torch.randn(3, 3, side, side)}
    if spec["kind"] == "audio":
        return collate_sounds(spec, [(np.zeros(4000, np.float32), 16000)] * 3, range(3))
    shape = (3, 4) if spec["kind"] == "vectors" else (3, len(spec["columns"]))
    values = torch.randn(*shape, spec["width"]) if spec["kind"] == "vectors" else torch.zeros(shape)
    return {"values": values, "mask": torch.ones(shape, dtype=torch.bool)}


def dynamic_axes(name: str, spec: dict[str, Any] | None) -> dict[int, Dim]:
    """The axes of an input whose sizes the graph leaves open.

    Args:
        spec: the entry of ``contexts`` that the input belongs to.
    """
    part = name.rpartition(".")[2]
    if part.endswith("index"):
        return {0: Dim("pairs")}
    of = f"context_{spec['name']}" if spec else "images" if part == "pixel_values" else "texts"
    axes = {0: Dim(of)}
    if part in ("input_ids", "attention_mask") or (spec and spec["kind"] == "vectors"):
        axes[1] = Dim(f"context_{spec['name']}_tokens" if spec else "tokens")
    return axes


def export_onnx(model: ImageTextClassifier, processor: ImageTextProcessor, folder: Path) -> None:
    """Write ``model.onnx``, ``config.json`` and the processor; the numbers of images, texts, tokens and pairs
    are dynamic.

    Raises:
        UserError: a gated model, which has no fixed graph, an encoder that cannot be traced, or missing packages.
    """
    if model.config.gated:
        raise UserError("A gated model cannot be exported: it skips work by sample, which a fixed graph cannot.")
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"export {MISSING}") from error
    example = example_inputs(model, processor)
    specs = {spec["name"]: spec for spec in model.config.contexts or ()}
    shapes = {name: dynamic_axes(name, specs.get(name.partition(".")[0]) if "." in name else None) for name in example}
    with warnings.catch_warnings(), explain_exporter_errors(model):
        warnings.filterwarnings("ignore", "# The axis name")  # two inputs share an axis, which has one name
        program = torch.onnx.export(
            Logits(model.float().cpu()).eval(),
            kwargs={"inputs": example},
            dynamo=True,
            dynamic_shapes={"inputs": shapes},
            input_names=list(example),
            output_names=["logits"],
            verbose=False,
        )
    assert program is not None
    folder.mkdir(parents=True, exist_ok=True)
    program.save(folder / ONNX_FILE)
    model.config.save_pretrained(folder)
    processor.save_pretrained(folder)


@contextmanager
def explain_exporter_errors(model: ImageTextClassifier) -> Iterator[None]:
    """Turn errors of the exporter into one line that names the encoders.

    Raises:
        UserError: the model cannot be exported.
    """
    try:
        yield
    except torch.onnx.OnnxExporterError as error:
        config, encoders = model.config, f"image encoder ({getattr(model.config.image_config, 'model_type', 'vgg16')})"
        if model.text_encoder is not None:
            text = config.custom_text_encoder or getattr(config.text_config, "model_type", None)
            encoders = f"text encoder ({text}) or its {encoders}"
        cause = excerpt(str(error.__cause__ or error).strip().partition("\n")[0], 300)
        raise UserError(
            f"The model cannot be exported, most likely for its {encoders}: {cause.rstrip('.')}. A graph has "
            "no decisions on values: an encoder must compute without if and .item() on its inputs."
        ) from error


def quantize(folder: Path, processor: ImageTextProcessor, examples: Iterable[Example], batch_size: int = 16) -> None:
    """Quantize the convolutions and matrix products of ``model.onnx`` to int8, in place.

    Static quantization per output channel (Jacob et al. 2018, section 3), calibrated on each example as a whole and
    without each of its inputs. Measure the accuracy afterwards.

    Raises:
        UserError: no examples.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    model, examples = OnnxModel(folder), iter(examples)
    first = next(examples, None)
    if first is None:
        raise UserError("There are no rows to calibrate int8 on.")

    parts = parts_of(model.config)
    modalities = modalities_of(parts)[: 1 + len(parts)]  # without shuffled inputs

    def batches() -> Iterator[dict[str, np.ndarray]]:
        collate, block = InputCollate.of(processor, model.config), [first, *islice(examples, batch_size - 1)]
        while block:
            batch = for_modalities(collate(block), modalities, parts)
            yield {name: value.numpy() for name, value in model.fill(batch).items()}
            block = list(islice(examples, batch_size))

    class Reader(CalibrationDataReader):
        """Calibration batches, until ``get_next`` returns ``None``."""

        def __init__(self):
            self.batches = batches()

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    prepared, small = folder / "prepared.onnx", folder / "int8.onnx"
    quant_pre_process(folder / ONNX_FILE, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared,
        small,
        Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv", "MatMul", "Gemm"],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    prepared.unlink()
    small.replace(folder / ONNX_FILE)
