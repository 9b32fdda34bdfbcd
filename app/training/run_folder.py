"""The folder of a run: its files, its lock, and which runs may be resumed or replaced."""

import json
import os
import shutil
from pathlib import Path

from filelock import FileLock, Timeout
from transformers import PreTrainedModel, ProcessorMixin

from app.atomic_write import new_name, remove, replacing
from app.run_paths import MODEL_FOLDER, RECORD
from app.settings import BY_CONTENT, LATER, Settings, differences
from app.settings_parser import load_settings, save_settings
from app.training.checkpoint import Checkpoints, Progress, read_state
from app.training.provenance import Provenance, no_record, read_provenance
from app.training.schedule import is_enough, num_epochs, objections
from data.errors import UserError
from data.messages import quote

EVALUATION = "evaluation"
"""Folder of a run with its evaluations, one folder for each set of rows."""
PROGRESS = "progress.json"
"""File in the folder of a search: how far it is. Beside it, ``progress.png`` shows its trials."""
EARLY_CHECKPOINT = "last"
"""Name of the only checkpoint in runs of early versions, which also did not record that a run is finished."""
INSTEAD = "replace it with --overwrite true, or choose another folder with --run_dir FOLDER"
"""What to do if a run cannot be resumed."""


class RunDir:
    """Files of one training run.

    ``config.yaml``, ``metrics.jsonl`` (one record per line), ``curves.png``, ``model/`` (the best so far),
    ``checkpoints/`` (to resume from), ``provenance.parquet`` (the training data), ``evaluation/`` and ``summary.txt``.
    A lock keeps all but one process from writing.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.model = self.path / MODEL_FOLDER
        self.checkpoints = self.path / "checkpoints"
        self.provenance = self.path / RECORD
        self.lock = FileLock(self.path / ".lock")

    def resumes(self, settings: Settings) -> bool:
        """Whether a run with these settings resumes the run in this folder or starts a new one; changes nothing.

        An unfinished run is resumed if the settings are the same. A changed setting is allowed if all steps so far
        would have been the same with it (`app.training.schedule`). A finished run is resumed from its last checkpoint
        if the new settings let it train longer.

        Raises:
            UserError: the folder must not be replaced: it holds a finished run, one with other settings, or no run.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file; choose a folder with --run_dir FOLDER.")
        if not self.path.exists() or not self.content():
            return False
        if not self.config.is_file():
            raise UserError(
                f"{self.path} is not a run folder (it has no config.yaml), so nothing is written there; choose another "
                "with --run_dir FOLDER."
            )
        if settings.overwrite:
            return False
        self.check_settings(settings)
        return self.checkpoints.is_dir()

    def check_settings(self, settings: Settings) -> None:
        """Raise `UserError` if the run in this folder cannot be resumed with these settings."""
        if (self.checkpoints / EARLY_CHECKPOINT).exists():
            raise UserError(
                f"An early version trained the run in {self.path}, and its checkpoints cannot be read any more: "
                f"{INSTEAD}."
            )
        before = load_settings(self.config)
        by_content = BY_CONTENT if self.provenance.is_file() else set()
        changed = {name: told for name, told in differences(before, settings).items() if name not in by_content}
        finished = self.result() is not None
        if not changed and not finished:
            return
        newest = Checkpoints(self.checkpoints).newest()
        progress = Progress() if newest is None else Progress(**read_state(newest)["progress"])
        later = LATER if newest is None or progress.steps_per_epoch else set()  # earlier versions lack it
        others = [told for name, told in changed.items() if name not in later]
        is_done = progress.epoch >= num_epochs(settings.train, progress.steps_per_epoch) or is_enough(
            settings.train, progress
        )
        if finished and (others or not changed or (newest and is_done)):
            raise UserError(f"The run folder {self.path} holds a finished run: {INSTEAD}.")
        if others:
            raise UserError(
                f"The unfinished run in {self.path} has other settings: {'; '.join(others)}. Resume with the same "
                f"ones, {INSTEAD}."
            )
        if finished and newest is None:
            raise UserError(
                f"The finished run in {self.path} cannot be trained further: its checkpoints are missing or damaged. "
                f"Train anew: {INSTEAD}."
            )
        if reasons := objections(before.train, settings.train, settings.model.gated, progress, self.records()):
            raise UserError(
                f"The {'finished' if finished else 'unfinished'} run in {self.path} cannot be resumed with other "
                f"settings ({'; '.join(changed.values())}): {'; '.join(reasons)}. "
                + (f"Train anew: {INSTEAD}." if finished else f"Resume with the same ones, {INSTEAD}.")
            )

    def check_content(self, now: Provenance) -> str | None:
        """Check that a run is resumed on the data it was trained on.

        Returns:
            A sentence if an earlier version trained the run and left no record to compare with.

        Raises:
            UserError: with the differences, or because the record is damaged.
        """
        before = Provenance.load(self.path)
        if before is None:
            return no_record(self.path)
        if changes := before.changes(now):
            raise UserError(
                f"The run in {self.path} was trained on other data than these: {'; '.join(changes)}. Restore the data "
                f"to resume it, {INSTEAD}."
            )
        return None

    def open(self, settings: Settings, resumes: bool, provenance: Provenance) -> None:
        """Lock the folder, empty it unless its run is resumed, and write settings and provenance.

        A link, for example of ``checkpoints`` to another disk, is removed; the folder that it leads to stays.
        When a finished run is resumed, its evaluations are kept as ``evaluation_after_<N>_epochs``.

        Args:
            resumes: what `resumes` said before the data were read; meanwhile another process may have trained there.

        Raises:
            UserError: another process is writing there, or has done so meanwhile.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self.lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError(
                f"Another process is training in {self.path}: wait for it, or choose another folder with --run_dir "
                "FOLDER."
            ) from error
        if self.resumes(settings) != resumes:
            raise UserError(
                f"Another process has changed the run in {self.path} since this command began: repeat the command to "
                f"resume that run, {INSTEAD}."
            )
        if not resumes:
            for item in sorted(self.content(), key=lambda item: item == self.config):  # last what makes it a run
                shutil.rmtree(item) if item.is_dir() and not item.is_symlink() else item.unlink()
        if self.result() is not None:
            self.reopen()
        with replacing(self.config) as file:
            save_settings(settings, file)
        provenance.save(self.path)

    def reopen(self) -> None:
        """Turn a finished run into an unfinished one: remove its result and set its evaluations aside."""
        records = self.records()
        epochs = max(record["epoch"] for record in records if "epoch" in record)
        self.rewind(records[-1]["step"])
        if (self.path / EVALUATION).is_dir():
            kept = self.path / f"{EVALUATION}_after_{epochs}_epochs"
            remove(kept)
            os.replace(self.path / EVALUATION, kept)

    def content(self) -> list[Path]:
        """Everything in the folder except the lock and what a crash left of the first file, ``config.yaml``."""
        ignored = (Path(self.lock.lock_file), new_name(self.config))
        return [item for item in self.path.iterdir() if item not in ignored]

    def log(self, record: dict) -> None:
        """Append a record to ``metrics.jsonl``."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def records(self) -> list[dict]:
        """All records so far, in order, without a last one that a power loss or a full disk cut.

        Raises:
            UserError: another line is not a record.
        """
        if not self.metrics.exists():
            return []
        found = []
        lines = self.metrics.read_text(encoding="utf-8", errors="replace").splitlines()
        for number, line in enumerate(lines, start=1):
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError as error:
                if number < len(lines):
                    raise UserError(
                        f"Line {number} of {self.metrics} must be a record in JSON, got {quote(line)} ({error}): "
                        "delete the line, or restore the file."
                    ) from error
        return found

    def result(self) -> dict | None:
        """The result of a finished run, or ``None``: ``held_out`` (the split), ``accuracy`` and ``minutes``."""
        return next((record for record in self.records() if "held_out" in record), None)

    def check_same(self, settings: Settings) -> None:
        """Raise `UserError` if the finished run in this folder has other settings or data; reads the data."""
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
        """Remove the result and the records after a step, which will be written again."""
        kept = [record for record in self.records() if 0 < step >= record["step"] and "held_out" not in record]
        with replacing(self.metrics) as file:
            file.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")

    def save_model(self, model: PreTrainedModel, processor: ProcessorMixin) -> None:
        """Replace the best model; after a crash `app.inference.load.find_model` finds the previous or the new one."""
        with replacing(self.model) as folder:
            model.save_pretrained(folder)
            processor.save_pretrained(folder)


def own_evaluation(run_dir: Path) -> Path:
    """The folder of a run's final evaluation: of its test rows, or without these of its validation rows."""
    test, validation = (run_dir / EVALUATION / split for split in ("test", "validation"))
    return test if test.is_dir() or not validation.is_dir() else validation
