"""The folder of a run: what is written where, and never half."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import PreTrainedModel, ProcessorMixin

from app.model_folder import MODEL_FOLDER


class RunDir:
    """Files of one training run.

    ``config.yaml``, ``metrics.jsonl`` (one record a line), ``curves.png``, ``model/`` (best so far), ``checkpoints/``
    (to go on from), ``evaluation/`` and ``summary.txt``.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.metrics = self.path / "metrics.jsonl"
        self.model = self.path / MODEL_FOLDER
        self.checkpoint = self.path / "checkpoints" / "last"

    def open(self, overwrite: bool, resume: bool) -> None:
        """Make the folder, empty it, or check that there is something to go on from.

        Raises:
            ValueError: it holds a run already, or nothing to resume.
        """
        if resume:
            if not self.checkpoint.is_dir():
                raise ValueError(f"There is no checkpoint to resume from in {self.path}; start without --resume true.")
            return
        if self.path.exists() and any(self.path.iterdir()):
            if not overwrite:
                raise ValueError(
                    f"The run folder {self.path} exists. Go on from its last checkpoint with --resume true, replace it "
                    "with --overwrite true, or choose another with --run_dir FOLDER."
                )
            if not (self.path / "config.yaml").is_file():
                raise ValueError(f"{self.path} is not a run folder (no config.yaml in it), so it is not overwritten.")
            shutil.rmtree(self.path)
        self.path.mkdir(parents=True, exist_ok=True)

    def log(self, record: dict) -> None:
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def records(self) -> list[dict]:
        """All records so far."""
        if not self.metrics.exists():
            return []
        return [json.loads(line) for line in self.metrics.read_text(encoding="utf-8").splitlines()]

    def save_model(self, model: PreTrainedModel, processor: ProcessorMixin) -> None:
        """Replace the best model; a run that dies meanwhile leaves the one before."""
        with replacing(self.model) as folder:
            model.save_pretrained(folder)
            processor.save_pretrained(folder)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Write a folder beside its place and move it there when it is whole."""
    new, old = target.with_name(f"{target.name}.new"), target.with_name(f"{target.name}.old")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    yield new
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(new, target)
    shutil.rmtree(old, ignore_errors=True)
