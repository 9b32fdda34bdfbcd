"""What the command ``export`` does: write a trained model as an ONNX file."""

import shlex
import sys
from collections import Counter
from itertools import islice

from app.command_line.ask_rows import SHOWN, open_source
from app.command_line.export_options import Export
from app.command_line.loading import load_predictor
from app.command_line.reading import reading_options
from app.inference.batch_predict import name_fault
from app.inference.predictor import Predictor
from app.output_paths import ready_folder
from data import Example
from data.errors import UserError
from data.paths import user_path
from models.onnx_classifier import ONNX_FILE, OnnxModel


def export(options: Export) -> None:
    """Write the model, its configuration and its processor."""
    from app.inference.onnx_export import export_onnx, quantize  # slow to import

    if not options.int8 and (given := list(reading_options(options.data))):
        raise UserError(f"{given[0]} is for the rows that int8 is calibrated on: add --int8 SOURCE.")
    folder = ready_folder(user_path(options.output))
    limit = {} if options.data.max_pixels is None else {"max_pixels": options.data.max_pixels}
    predictor = load_predictor(options.model, options.trust_custom_encoder, "cpu", precision="no", **limit)
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
