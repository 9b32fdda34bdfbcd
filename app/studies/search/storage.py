"""Where a study is kept: a journal in its folder, or a database that several machines share."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import optuna
from filelock import FileLock, Timeout
from optuna import Study
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from data.errors import UserError

JOURNAL, WORKERS = "journal.log", "workers"
"""The journal of a study, and the folder with a lock for each process that works on it."""
HEARTBEAT, GRACE = 15, 60
"""Seconds between two signs of life of a trial in a database, and without one until it counts as dead."""


def open_storage(url: str, folder: Path) -> BaseStorage:
    """The storage at a URL of SQLAlchemy, or the journal in the folder.

    A database notices by their heartbeat that trials are dead; other workers then take them up.

    Raises:
        UserError: a database that cannot be reached, or that another version of Optuna wrote.
    """
    if not url:
        folder.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
    with explained_errors(url):
        return RDBStorage(
            url,
            engine_kwargs={"pool_pre_ping": True},
            heartbeat_interval=HEARTBEAT,
            grace_period=GRACE,
            heartbeat_stale_trial_callback=take_up,
        )


def check_folder(folder: Path) -> None:
    """Check that a folder is that of a study, or that a study can begin there.

    Raises:
        UserError: a file, or a folder of something else.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder} is a file; choose a folder with --output FOLDER.")
    content = {path.name for path in folder.iterdir()}
    if content and not content & {JOURNAL, WORKERS}:
        raise UserError(
            f"{folder} is not the folder of a search, so nothing is written there; choose another with --output."
        )


def take_up(study: Study, trial: FrozenTrial) -> None:
    """Queue a trial whose worker died, with what it has reported: it goes on from its checkpoint."""
    RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)(study, trial)


@contextmanager
def explained_errors(url: str) -> Iterator[None]:
    """Turn errors of a database into a `UserError`, without its password."""
    from sqlalchemy.exc import ArgumentError

    shown = without_password(url)
    try:
        yield
    except UserError:
        raise
    except ImportError as error:
        package = ", for PostgreSQL: pip install psycopg[binary]" if url.startswith("postgresql") else ""
        raise UserError(f"--storage {shown} needs the Python package of its database{package} ({error}).") from error
    except ArgumentError as error:
        raise UserError(f"--storage is a URL such as postgresql://user@host/database, got {shown!r}.") from error
    except Exception as error:
        if isinstance(error, RuntimeError) and "version" in str(error):  # of the tables
            raise UserError(f"The database {shown} holds studies of another version: {error}") from error
        if cause := database_error(error):
            raise UserError(
                f"The database {shown} does not answer: {cause}. The study is as it was; repeat the same command when "
                "the database is back."
            ) from error
        raise


def database_error(error: BaseException | None) -> str:
    """The first line of the database's own error among the causes of an error; empty if there is none."""
    from sqlalchemy.exc import SQLAlchemyError

    found = ""
    while error is not None:
        if isinstance(error, SQLAlchemyError | StorageInternalError):
            found = str(error).strip().partition("\n")[0]
        error = error.__cause__ or error.__context__
    return found


def without_password(url: str) -> str:
    """A URL whose password is hidden."""
    with suppress(ValueError):
        if password := urlsplit(url).password:
            return url.replace(f":{password}@", ":***@")
    return url


class Worker:
    """A process that works on a study with a journal. Its lock tells other processes of the machine that it lives.

    Args:
        folder: of the study.
    """

    def __init__(self, folder: Path):
        self.folder, self.name = folder / WORKERS, uuid.uuid4().hex[:12]
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(self.folder / self.name)

    def __enter__(self) -> Worker:
        self.lock.acquire()
        return self

    def __exit__(self, *error: object) -> None:
        self.lock.release()
        self.forget(self.name)

    def living(self) -> set[str]:
        """The names of the workers that live, this one included; the locks of dead ones are removed."""
        found = {self.name}
        for path in self.folder.iterdir():
            if path.name == self.name:
                continue
            try:
                with FileLock(path, timeout=0):
                    pass
                self.forget(path.name)
            except Timeout:
                found.add(path.name)
        return found

    def forget(self, name: str) -> None:
        with suppress(OSError):
            (self.folder / name).unlink()

    def take_up_dead(self, study: Study) -> None:
        """Queue the running trials of workers that are not there any more.

        A trial that does not name its worker yet is left alone while other workers live.
        """
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        living = self.living() if running else set()
        for trial in running:
            name = trial.user_attrs.get("worker")
            if name in living or (name is None and len(living) > 1):
                continue
            with suppress(optuna.exceptions.UpdateFinishedTrialError):  # another worker was faster
                study.tell(trial.number, state=TrialState.FAIL)
                take_up(study, trial)
