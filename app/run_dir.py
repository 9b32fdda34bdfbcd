"""The folder of a run: what is written where, and never half."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from transformers import PreTrainedModel, ProcessorMixin

from app.model_folder import MODEL_FOLDER
from app.settings import Settings, differences, load_settings, save_settings


class RunDir:
    """Files of one training run.

    ``config.yaml``, ``metrics.jsonl`` (one record a line), ``curves.png``, ``model/`` (best so far), ``checkpoints/``
    (to go on from), ``evaluation/`` and ``summary.txt``. One process at a time writes in it.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.model = self.path / MODEL_FOLDER
        self.checkpoints = self.path / "checkpoints"
        self.lock = FileLock(self.path / ".lock")

    def goes_on(self, settings: Settings) -> bool:
        """Whether these settings go on with an unfinished run that is there, or begin one; nothing is touched.

        Raises:
            ValueError: the folder holds something that may not be replaced: a run that is finished or has other
                settings, or no run at all.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self.path} is a file; choose a folder with --run_dir FOLDER.")
        if not self.path.exists() or not self.content():
            return False
        if not self.config.is_file():
            raise ValueError(
                f"{self.path} is not a run folder (no config.yaml in it), so nothing is written there; choose another "
                "with --run_dir FOLDER."
            )
        if settings.overwrite:
            return False
        instead = "replace it with --overwrite true, or choose another folder with --run_dir FOLDER"
        if self.result() is not None:
            raise ValueError(f"The run folder {self.path} holds a finished run: {instead}.")
        if changed := differences(load_settings(self.config), settings):
            raise ValueError(
                f"The unfinished run in {self.path} has other settings: {'; '.join(changed)}. Go on with the same "
                f"ones, {instead}."
            )
        return self.checkpoints.is_dir()

    def open(self, settings: Settings, goes_on: bool) -> None:
        """Take the folder for this process and make it ready: emptied unless the run in it goes on.

        Raises:
            ValueError: another process is writing there.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self.lock.acquire(timeout=0)
        except Timeout as error:
            raise ValueError(
                f"Another process is training in {self.path}: wait for it, or choose another folder with --run_dir "
                "FOLDER."
            ) from error
        if not goes_on:
            for item in self.content():
                shutil.rmtree(item) if item.is_dir() else item.unlink()
        save_settings(settings, self.config)

    def content(self) -> list[Path]:
        """What is in the folder, but for the lock."""
        return [item for item in self.path.iterdir() if item != Path(self.lock.lock_file)]

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

    def check_settings(self, settings: Settings) -> None:
        """Stop where the run that is here was made with other settings, so that it is not taken for one with these."""
        if changed := differences(load_settings(self.config), settings):
            raise ValueError(
                f"The finished run in {self.path} has other settings: {'; '.join(changed)}. Choose another folder with "
                "--output FOLDER, or delete that run."
            )

    def rewind(self, step: int) -> None:
        """Forget the records after a step, which will be made again."""
        kept = [record for record in self.records() if record["step"] <= step]
        self.metrics.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")

    def save_model(self, model: PreTrainedModel, processor: ProcessorMixin) -> None:
        """Replace the best model; a run that dies meanwhile leaves the one before."""
        with replacing(self.model) as folder:
            model.save_pretrained(folder)
            processor.save_pretrained(folder)


def own_evaluation(run_dir: Path) -> Path:
    """Where a run has the evaluation it ended with: of its test rows, or of its validation rows where it has none."""
    test, validation = (run_dir / "evaluation" / split for split in ("test", "validation"))
    return test if test.is_dir() or not validation.is_dir() else validation


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
