"""A trained model as one ONNX file: written, quantised to int8, and run by onnxruntime behind the same `Predictor`."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from data import Collate, Example
from models import ImageTextClassifier, ImageTextConfig, ImageTextOutput, ImageTextProcessor

ONNX_FILE = "model.onnx"
INPUTS = ("pixel_values", "input_ids", "attention_mask", "image_index", "text_index")
MISSING = "needs packages that are not installed: pip install onnx onnxruntime onnxscript"


class OnnxModel:
    """What `Predictor` asks of a classifier, computed by onnxruntime in float32 or int8; it gives no attention.

    Args:
        folder: what `export_onnx` wrote.

    Raises:
        ValueError: onnxruntime is not installed, the file is none that it can read, or it is of another model.
    """

    def __init__(self, folder: str | Path):
        try:
            import onnxruntime
        except ImportError as error:
            raise ValueError(f"{folder} holds an ONNX model, which {MISSING}") from error
        self.config = ImageTextConfig.from_pretrained(folder)
        try:
            self.session = onnxruntime.InferenceSession(
                Path(folder) / ONNX_FILE, providers=onnxruntime.get_available_providers()
            )
        except Exception as error:
            raise ValueError(f"{folder}/{ONNX_FILE} cannot be read, it may be damaged: {error}") from error
        self.check_graph(folder)

    def check_graph(self, folder: str | Path) -> None:
        """Stop at a graph that is not the one that ``config.json`` describes."""
        inputs = {value.name: value.shape for value in self.session.get_inputs()}
        if set(inputs) != set(INPUTS):
            raise ValueError(
                f"{folder}/{ONNX_FILE} is no export of this application: its inputs are {sorted(inputs)}, expected "
                f"{sorted(INPUTS)}."
            )
        graph = self.session.get_outputs()[0].shape[-1], inputs["pixel_values"][-1]
        told = self.config.num_labels, self.config.image_size
        if graph != told:
            raise ValueError(
                f"{folder}/{ONNX_FILE} gives {graph[0]} classes for images of {graph[1]} pixels, but the "
                f"config.json beside it says {told[0]} and {told[1]}: they are of two models. Export again."
            )

    def __call__(self, **batch: Tensor) -> ImageTextOutput:
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
        return {name: (nothing | batch)[name].contiguous() for name in INPUTS}

    def probabilities(self, logits: Tensor) -> Tensor:
        return ImageTextClassifier.probabilities(self, logits)  # type: ignore[arg-type]

    def to(self, device: torch.device | str) -> OnnxModel:
        """Itself: onnxruntime has chosen where to compute."""
        return self

    def eval(self) -> OnnxModel:
        return self

    def num_parameters(self) -> int:
        import onnx

        graph = onnx.load(Path(self.session._model_path)).graph
        return sum(int(np.prod(tensor.dims)) for tensor in graph.initializer)


class Logits(nn.Module):
    """The classifier as a function of five tensors."""

    def __init__(self, model: ImageTextClassifier):
        super().__init__()
        self.model = model

    def forward(self, pixel_values, input_ids, attention_mask, image_index, text_index):
        inputs = (pixel_values, input_ids, attention_mask, image_index)
        return self.model(**dict(zip(INPUTS, inputs, strict=False)), text_index=text_index).logits


def export_onnx(model: ImageTextClassifier, processor: ImageTextProcessor, folder: Path) -> None:
    """Write ``model.onnx``, ``config.json`` and the processor; images, texts, tokens and pairs may be any number.

    Raises:
        ValueError: a gated model, whose skipped work is no fixed graph, or packages that are missing.
    """
    if model.config.gated:
        raise ValueError("A gated model skips work by sample, which a fixed graph cannot: it is not exported.")
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(f"export {MISSING}") from error
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
        warnings.filterwarnings("ignore", "# The axis name")  # one that stands for two inputs is named once
        program = torch.onnx.export(
            Logits(model.float().cpu().eval()),
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
    """Replace ``model.onnx`` by one whose convolutions and products are int8, scaled by what examples bring about.

    Static quantisation with a scale for each output channel (Jacob et al. 2018, section 3); accuracy must be measured.

    Raises:
        ValueError: no example.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    model, examples = OnnxModel(folder), iter(examples)
    first = next(examples, None)
    if first is None:
        raise ValueError("There are no rows to calibrate int8 on.")

    def batches() -> Iterator[dict[str, np.ndarray]]:
        collate, block = Collate(processor, {}), [first, *islice(examples, batch_size - 1)]
        while block:
            batch = collate(block)
            inputs = {name: batch[name] for name in INPUTS if name in batch}
            yield {name: value.numpy() for name, value in model.fill(inputs).items()}
            block = list(islice(examples, batch_size))

    class Reader(CalibrationDataReader):
        """onnxruntime asks for the next batch until there is none."""

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
