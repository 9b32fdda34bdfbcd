"""The folder of a run: what is written where, and never half."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from transformers import PreTrainedModel, ProcessorMixin

from app.run_paths import MODEL_FOLDER, RECORD
from app.settings import BY_CONTENT, LATER, Settings, differences, load_settings, save_settings
from app.training.checkpoint import Checkpoints, Progress, read_state
from app.training.provenance import Provenance, no_record, read_provenance
from app.training.schedule import is_enough, objections
from data.errors import UserError

EVALUATION = "evaluation"
"""Where a run keeps its evaluations, a folder for each set of rows."""
INSTEAD = "replace it with --overwrite true, or choose another folder with --run_dir FOLDER"
"""What can be done where a run cannot go on."""


class RunDir:
    """Files of one training run.

    ``config.yaml``, ``metrics.jsonl`` (one record a line), ``curves.png``, ``model/`` (best so far), ``checkpoints/``
    (to go on from), ``provenance.parquet`` (what it is trained on), ``evaluation/`` and ``summary.txt``. One process at
    a time writes in it.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.model = self.path / MODEL_FOLDER
        self.checkpoints = self.path / "checkpoints"
        self.provenance = self.path / RECORD
        self.lock = FileLock(self.path / ".lock")

    def goes_on(self, settings: Settings) -> bool:
        """Whether these settings go on with a run that is there, or begin one; nothing is touched.

        A run goes on with the settings it has, but for those that change neither what it did so far nor what it is
        trained on (`app.training.schedule`). A finished one goes on from its last checkpoint where there
        is more to do now.

        Raises:
            UserError: the folder holds something that may not be replaced: a run that is finished or has other
                settings, or no run at all.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file; choose a folder with --run_dir FOLDER.")
        if not self.path.exists() or not self.content():
            return False
        if not self.config.is_file():
            raise UserError(
                f"{self.path} is not a run folder (no config.yaml in it), so nothing is written there; choose another "
                "with --run_dir FOLDER."
            )
        if settings.overwrite:
            return False
        self.check_settings(settings)
        return self.checkpoints.is_dir()

    def check_settings(self, settings: Settings) -> None:
        """Stop where the run that is here cannot go on with these settings."""
        before = load_settings(self.config)
        by_content = BY_CONTENT if self.provenance.is_file() else set()
        changed = {name: told for name, told in differences(before, settings).items() if name not in by_content}
        finished = self.result() is not None
        if not changed and not finished:
            return
        newest = Checkpoints(self.checkpoints).newest()
        progress = Progress() if newest is None else Progress(**read_state(newest)["progress"])
        later = LATER if newest is None or progress.steps_per_epoch else set()  # unknown to earlier versions
        others = [told for name, told in changed.items() if name not in later]
        is_done = progress.epoch >= settings.train.epochs or is_enough(settings.train, progress)
        if finished and (others or not changed or (newest and is_done)):
            raise UserError(f"The run folder {self.path} holds a finished run: {INSTEAD}.")
        if others:
            raise UserError(
                f"The unfinished run in {self.path} has other settings: {'; '.join(others)}. Go on with the same ones, "
                f"{INSTEAD}."
            )
        if finished and newest is None:
            raise UserError(
                f"The finished run in {self.path} cannot be trained further: its checkpoints are gone, or damaged. "
                f"Train anew: {INSTEAD}."
            )
        if reasons := objections(before.train, settings.train, settings.model.gated, progress, self.records()):
            raise UserError(
                f"The {'finished' if finished else 'unfinished'} run in {self.path} cannot go on with other settings "
                f"({'; '.join(changed.values())}): {'; '.join(reasons)}. "
                + (f"Train anew: {INSTEAD}." if finished else f"Go on with the same ones, {INSTEAD}.")
            )

    def check_content(self, now: Provenance) -> str | None:
        """Stop where the run that is to go on was trained on something else than this.

        Returns:
            a sentence where an earlier version trained it, so that nothing can be compared.

        Raises:
            UserError: what differs, in words; or the record of what it was trained on is damaged.
        """
        before = Provenance.load(self.path)
        if before is None:
            return no_record(self.path)
        if changes := before.changes(now):
            raise UserError(
                f"The run in {self.path} was trained on other data than these: {'; '.join(changes)}. Restore what has "
                f"changed to go on, {INSTEAD}."
            )
        return None

    def open(self, settings: Settings, goes_on: bool, provenance: Provenance) -> None:
        """Take the folder for this process and make it ready: emptied unless the run in it goes on.

        Of a finished run that goes on the evaluations so far are kept as ``evaluation_after_<N>_epochs``.

        Raises:
            UserError: another process is writing there.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self.lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError(
                f"Another process is training in {self.path}: wait for it, or choose another folder with --run_dir "
                "FOLDER."
            ) from error
        if not goes_on:
            for item in self.content():
                shutil.rmtree(item) if item.is_dir() else item.unlink()
        if self.result() is not None:
            self.reopen()
        save_settings(settings, self.config)
        provenance.save(self.path)

    def reopen(self) -> None:
        """Make an unfinished run of a finished one: no result, and no evaluations of a model that will be another."""
        records = self.records()
        epochs = max(record["epoch"] for record in records if "epoch" in record)
        self.rewind(records[-1]["step"])
        if (self.path / EVALUATION).is_dir():
            kept = self.path / f"{EVALUATION}_after_{epochs}_epochs"
            shutil.rmtree(kept, ignore_errors=True)
            os.replace(self.path / EVALUATION, kept)

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

    def check_same(self, settings: Settings) -> None:
        """Stop where the finished run that is here was made with other settings, or on other data, than one with these
        would be; the data are read for it."""
        instead = "Choose another folder with --output FOLDER, or delete that run."
        before = Provenance.load(self.path)
        by_content = set() if before is None else BY_CONTENT
        changed = differences(load_settings(self.config), settings)
        if others := [told for name, told in changed.items() if name not in by_content]:
            raise UserError(f"The finished run in {self.path} has other settings: {'; '.join(others)}. {instead}")
        if before is None:
            print(no_record(self.path))
        elif changes := before.changes(read_provenance(settings)):
            raise UserError(
                f"The finished run in {self.path} was trained on other data than these: {'; '.join(changes)}. {instead}"
            )

    def rewind(self, step: int) -> None:
        """Forget the records after a step, which will be made again, and the result."""
        kept = [record for record in self.records() if record["step"] <= step and "held_out" not in record]
        self.metrics.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")

    def save_model(self, model: PreTrainedModel, processor: ProcessorMixin) -> None:
        """Replace the best model; a run that dies meanwhile leaves the one before."""
        with replacing(self.model) as folder:
            model.save_pretrained(folder)
            processor.save_pretrained(folder)


def own_evaluation(run_dir: Path) -> Path:
    """Where a run has the evaluation it ended with: of its test rows, or of its validation rows where it has none."""
    test, validation = (run_dir / EVALUATION / split for split in ("test", "validation"))
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
