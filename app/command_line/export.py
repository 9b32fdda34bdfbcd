"""The command ``export``: a trained model as an ONNX file."""

import shlex
import sys
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice

from jsonargparse.typing import PositiveInt

from app.command_line.ask_rows import SHOWN, open_source
from app.command_line.commands import positional
from app.command_line.reading import Reading, reading_options
from app.inference.batch_predict import name_fault
from app.inference.predictor import Predictor
from app.output_paths import ready_folder
from data import Example
from data.errors import UserError
from data.paths import expand_home, user_path
from models.onnx_classifier import ONNX_FILE, OnnxModel


@dataclass
class Export:
    """Write a model as one ONNX file, in float32 or int8.

    predict, serve and eval.py read the folder like that of a run.

    python -m app export runs/quickstart --output exported
    python -m app export runs/quickstart --output exported_int8 --int8 train.csv
    """

    output: str
    """Folder to write."""
    model: str = positional()
    """A run folder, a model folder or a Hub id."""
    int8: str = ""
    """Quantize to int8, calibrated on these rows; use some of the training rows."""
    int8_rows: PositiveInt = 256
    """Number of rows for the calibration."""
    data: Reading = field(default_factory=Reading)
    trust_custom_encoder: bool = False
    """Run the text encoder file that is saved with the model."""

    def __post_init__(self) -> None:
        self.model, self.int8 = expand_home(self.model), expand_home(self.int8)


def run_export(options: Export) -> None:
    """Write the model, its configuration and its processor."""
    from app.inference.onnx_export import export_onnx, quantize  # slow to import

    if not options.int8 and (given := list(reading_options(options.data))):
        raise UserError(f"{given[0]} is for the rows that int8 is calibrated on: add --int8 SOURCE.")
    folder = ready_folder(user_path(options.output))
    limit = {} if options.data.max_pixels is None else {"max_pixels": options.data.max_pixels}
    predictor = Predictor.from_pretrained(options.model, "cpu", options.trust_custom_encoder, precision="no", **limit)
    model, processor = predictor.model, predictor.processor
    if isinstance(model, OnnxModel):
        raise UserError(f"{options.model} is an exported model already; give the run folder it was exported from.")
    examples = calibration_rows(predictor, options) if options.int8 else []
    export_onnx(model, processor, folder)
    if examples:
        quantize(folder, processor, examples)
    size = (folder / ONNX_FILE).stat().st_size / 1e6
    print(f"wrote {folder}: {ONNX_FILE} ({size:.0f} MB), the configuration and the processor")
    print(f"Next:\n  python -m app serve {shlex.quote(str(folder))}")
    print(f"  python eval.py {shlex.quote(str(folder))} --data.test OTHER.csv")


def calibration_rows(predictor: Predictor, options: Export) -> list[Example]:
    """The first rows of the source, up to ``--int8_rows``; rows that cannot be used are counted on stderr.

    Raises:
        UserError: none can be used.
    """
    rows = list(islice(open_source(predictor, options.int8, options.data).rows, options.int8_rows))
    prepared = predictor.prepare((row.image, row.text, row.contexts) for row in rows)
    faults = Counter(
        name_fault(fault, row) for fault, row in zip(prepared, rows, strict=True) if isinstance(fault, UserError)
    )
    reasons = "; ".join(f"{number:,} × {fault}" for fault, number in faults.most_common(SHOWN))
    if faults.total() == len(rows):
        raise UserError(f"None of the {len(rows):,} rows of {options.int8} can be used to calibrate int8: {reasons}")
    if faults:
        print(f"{faults.total():,} of {len(rows):,} rows of {options.int8} are left out: {reasons}", file=sys.stderr)
    return [example for example in prepared if isinstance(example, Example)]
