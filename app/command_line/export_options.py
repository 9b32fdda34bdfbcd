"""The command ``export``: a trained model as an ONNX file."""

from dataclasses import dataclass, field

from jsonargparse.typing import PositiveInt

from app.command_line.commands import positional
from app.command_line.reading import Reading
from app.quick_start import first_imports
from data.paths import expand_home


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
    with first_imports():
        from app.command_line.export import export

    export(options)
