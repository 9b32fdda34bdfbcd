"""The folder of a run: what is written where, and never half."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import PreTrainedModel, ProcessorMixin

from app.model_folder import MODEL_FOLDER
from app.settings import Settings, differences, load_settings, save_settings


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

    def check(self, settings: Settings) -> None:
        """See, before any work and without touching it, that this run may have the folder.

        Raises:
            ValueError: it holds a run already and is not to be overwritten, or not the one to resume.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self.path} is a file; choose a folder with --run_dir FOLDER.")
        config = self.path / "config.yaml"
        if settings.resume:
            if not self.checkpoint.is_dir():
                again = "--overwrite true in place of" if self.path.exists() else "no"
                raise ValueError(f"There is no checkpoint to resume from in {self.path}: start with {again} --resume.")
            if changed := differences(load_settings(config), settings):
                raise ValueError(
                    f"The run in {self.path} cannot go on with other settings than it began with: "
                    f"{'; '.join(changed)}. Give the same ones, or start anew with --overwrite true."
                )
        elif self.path.exists() and any(self.path.iterdir()):
            if not settings.overwrite:
                way_on = "Go on from its last checkpoint with --resume true, r" if self.checkpoint.is_dir() else "R"
                raise ValueError(
                    f"The run folder {self.path} exists. {way_on}eplace it with --overwrite true, or choose another "
                    "with --run_dir FOLDER."
                )
            if not config.is_file():
                raise ValueError(f"{self.path} is not a run folder (no config.yaml in it), so it is not overwritten.")

    def open(self, settings: Settings) -> None:
        """Make the folder, emptied unless the run in it goes on, and write the configuration."""
        if self.path.exists() and not settings.resume:
            shutil.rmtree(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        save_settings(settings, self.path / "config.yaml")

    def log(self, record: dict) -> None:
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def records(self) -> list[dict]:
        """All records so far."""
        if not self.metrics.exists():
            return []
        return [json.loads(line) for line in self.metrics.read_text(encoding="utf-8").splitlines()]

    def result(self) -> dict | None:
        """The record of a run that came to its end: ``held_out`` (the split), ``accuracy`` and ``minutes``."""
        return next((record for record in self.records() if "held_out" in record), None)

    def rewind(self, step: int) -> None:
        """Forget the records after a step, which will be made again."""
        kept = [record for record in self.records() if record["step"] <= step]
        self.metrics.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")

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
