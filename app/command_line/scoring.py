"""Options of the commands of ``eval.py``."""

import shlex
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal

from jsonargparse.typing import NonNegativeInt, PositiveInt

from app.command_line.commands import positional
from app.command_line.reading import Reading, reading_options
from app.settings import Settings
from data.paths import expand_home


@dataclass
class ScoredRows(Reading):
    """Which rows are scored and how they are read; as for the training by default."""

    test: str = ""
    """Other rows than the run's own: a table, a folder, a Hub id, or built-in data such as shapes:N."""
    label: str = ""
    """Column of labels."""
    group: str = ""
    """Column of groups, such as the patient. Rows of a group are resampled together, like the rows of an image."""
    weight: str | None = None
    """Column with the weight of each row; '' for equal weights."""
    pool: str | None = None
    """Column whose rows share one answer, such as the case; '' for no figures by case."""
    slice_by: list[str] | None = None
    """Columns whose values get an accuracy each; text_tokens and text_cut slice by the length of the text."""
    on_bad_image: Literal["stop", "skip"] | None = None
    """Stop at images that cannot be read, or skip their rows and name them."""
    allow_missing: bool | None = None
    """Accept rows without an image or without a text."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.test = expand_home(self.test)

    def given(self) -> dict[str, Any]:
        """The settings that were given: name → value; an empty ``weight`` counts as given."""
        return super().given() | ({} if self.weight is None else {"weight": self.weight})


@dataclass
class Score:
    """Score a trained model on held-out rows: metrics with intervals, baselines, predictions and pictures.

    python eval.py runs/quickstart
    python eval.py runs/mine --data.test other.csv
    python eval.py compare runs/mine runs/other
    """

    model: str = positional()
    """A run folder of train.py, a model folder or a Hub id."""
    split: Literal["test", "validation", "train"] = "test"
    """Split of the run's own data."""
    data: ScoredRows = field(default_factory=ScoredRows)
    batch_size: PositiveInt = 32
    """Images in a batch."""
    pictures: NonNegativeInt = 8
    """Examples in each gallery of the report and in where_it_looked.png."""
    show_rows: list[NonNegativeInt] = field(default_factory=list)
    """Rows that the report and where_it_looked.png show, numbered from 0 as in predictions.parquet."""
    deletion: NonNegativeInt | None = None
    """Rows for the deletion check: does hiding what the maps mark lower the probability? By default as many as fit into
    a tenth of the evaluation, at least 8; 0 for no check."""
    baselines: bool | None = None
    """Compare with linear classifiers of the training rows, on each input and on all together; as in the training by
    default."""
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] | None = None
    """Arithmetic; as in the training by default."""
    output_dir: str = ""
    """Folder to write; by default MODEL/evaluation/<split or source>."""
    trust_custom_encoder: bool = False
    """Run the text encoder file that is saved with the model."""

    def __post_init__(self) -> None:
        self.model, self.output_dir = expand_home(self.model), expand_home(self.output_dir)


@dataclass
class Compare:
    """Is one model better than another? The difference in accuracy of two runs on the same rows.

    The difference has a 95 % interval and a test, by image and by the groups of --data.group. Evaluate both runs first.

    python eval.py compare runs/mine runs/other
    """

    first: str = positional()
    """A run folder, or a folder with predictions.parquet."""
    second: str = positional()
    """Another."""
    evaluation: str = "test"
    """Which evaluation of the runs: a folder's name."""
    output: str = ""
    """JSON file for the figures."""

    def __post_init__(self) -> None:
        self.first, self.second, self.output = map(expand_home, (self.first, self.second, self.output))


def answering_command(options: Score, source: str, run: Settings) -> str:
    """The command that answers rows which cannot be scored, read as ``eval.py`` would read them."""
    of_run = {} if run.data.image_root is None else {"--data.image_root": run.data.image_root}
    reading = of_run | reading_options(options.data)
    trust = ["--trust_custom_encoder", "true"] if options.trust_custom_encoder else []
    command = ["python", "-m", "app", "predict", options.model, "--data.test", source]
    return shlex.join([*command, *chain(*reading.items()), *trust])
