"""Export a trained model to one ONNX file, and quantize it to int8."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.export import Dim

from app.evaluation.predict import MODALITIES, for_modalities
from data import Example, InputCollate
from data.errors import UserError
from models import ImageTextClassifier, ImageTextProcessor
from models.onnx_classifier import INPUTS, MISSING, ONNX_FILE, OnnxModel


class Logits(nn.Module):
    """The classifier as a function of five tensors."""

    def __init__(self, model: ImageTextClassifier):
        super().__init__()
        self.model = model

    def forward(self, pixel_values, input_ids, attention_mask, image_index, text_index):
        inputs = (pixel_values, input_ids, attention_mask, image_index)
        return self.model(**dict(zip(INPUTS, inputs, strict=False)), text_index=text_index).logits


def export_onnx(model: ImageTextClassifier, processor: ImageTextProcessor, folder: Path) -> None:
    """Write ``model.onnx``, ``config.json`` and the processor; the numbers of images, texts, tokens and pairs
    are dynamic.

    Raises:
        UserError: a gated model, which has no fixed graph, a model with other contexts than one text, or missing
            packages.
    """
    if contexts := model.config.other_contexts:
        raise UserError(f"ONNX models take an image and a text; this model has the contexts {', '.join(contexts)}.")
    if model.config.gated:
        raise UserError("A gated model cannot be exported: it skips work by sample, which a fixed graph cannot.")
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"export {MISSING}") from error
    texts = processor(None, ["what is it?", "what color is the circle in the middle?", "how many?"])
    side = model.config.image_size
    example = {
        "pixel_values": torch.randn(5, 3, side, side),
        **texts,
        "image_index": torch.tensor([0, 1, 2, -1, 3, 4, 0]),
        "text_index": torch.tensor([0, 1, 0, 1, 2, -1, -1]),
    }
    of_texts, of_pairs = {0: Dim("texts"), 1: Dim("tokens")}, {0: Dim("pairs")}
    shapes = dict(zip(INPUTS, ({0: Dim("images")}, of_texts, of_texts, of_pairs, of_pairs), strict=True))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "# The axis name")  # two inputs share an axis, which has one name
        program = torch.onnx.export(
            Logits(model.float().cpu()).eval(),
            kwargs=example,
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=INPUTS,
            output_names=["logits"],
            verbose=False,
        )
    assert program is not None
    folder.mkdir(parents=True, exist_ok=True)
    program.save(folder / ONNX_FILE)
    model.config.save_pretrained(folder)
    processor.save_pretrained(folder)


def quantize(folder: Path, processor: ImageTextProcessor, examples: Iterable[Example], batch_size: int = 16) -> None:
    """Quantize the convolutions and matrix products of ``model.onnx`` to int8, in place.

    Static quantization per output channel (Jacob et al. 2018, section 3), calibrated on each example as a pair, without
    its image and without its text. Measure the accuracy afterwards.

    Raises:
        UserError: no examples.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    model, examples = OnnxModel(folder), iter(examples)
    first = next(examples, None)
    if first is None:
        raise UserError("There are no rows to calibrate int8 on.")

    def batches() -> Iterator[dict[str, np.ndarray]]:
        collate, block = InputCollate(processor), [first, *islice(examples, batch_size - 1)]
        while block:
            batch = for_modalities(collate(block), MODALITIES[:3])
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
