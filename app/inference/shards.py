"""Shards: tables of one form, each answered once, into a file of its own, by one process or by several at a time."""

import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from app.output_paths import ready_folder
from data.errors import UserError
from data.remote_files import cache_folder, file_exists, is_url, list_files, normal_url
from data.table_file import READERS

ANSWERS = (".parquet", ".csv")
"""Endings of files of answers. A shard with another ending has its answers in the first of them."""


@dataclass(frozen=True)
class Shard:
    """A table and the file for its answers, each a path or a URL."""

    source: str
    output: str

    def is_done(self) -> bool:
        """Whether its answers are there. They are written in one step, so they are whole."""
        return file_exists(self.output) if is_url(self.output) else os.path.exists(self.output)

    @contextmanager
    def claim(self) -> Iterator[bool]:
        """Keep other processes away from the shard; yields whether none of them has it.

        The operating system ends the claim of a process that dies. An answer of `is_done` is final within a claim.
        Claims of a URL hold on this machine.
        """
        lock = FileLock(self.lock_file())
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        done = False
        try:
            yield True
            done = self.is_done()
        finally:
            lock.release()
            if done:  # of a shard that is not done, processes must all lock the same file
                with suppress(OSError):
                    os.unlink(lock.lock_file)

    def lock_file(self) -> Path:
        """The file that a process locks while it answers the shard."""
        if is_url(self.output):
            return cache_folder("lock", self.output) / "lock"
        folder, name = os.path.split(self.output)
        return Path(folder, f".{name}.lock")


def find_shards(pattern: str, folder: str) -> list[Shard]:
    """The tables that match a pattern, in the order of their names, and the files for their answers in a folder.

    Args:
        pattern: path or URL with ``*``, ``?``, ``[…]`` and, for any depth of folders, ``**``; or the name of one file.
        folder: path or URL; a local one is created.

    Raises:
        UserError: no match, a match that is no table, two shards with one name, or a folder that cannot be written or
            holds the shards.
    """
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise UserError(f"--output {folder} is a file; with --rows it is a folder, with one file for each shard.")
    sources = list_files(pattern) if is_url(pattern) else local_files(pattern)
    if not sources:
        hint = f" It is a folder: give a pattern, such as '{pattern}/*.parquet'." * os.path.isdir(pattern)
        raise UserError(f"--rows {pattern!r} matches no file.{hint}")
    check_names(sources)
    folder = normal_url(folder) if is_url(folder) else str(folder)
    for source in sources:
        if is_same_folder(source.rpartition("/")[0] if is_url(source) else os.path.dirname(source), folder):
            raise UserError(f"--output {folder} is the folder of the shard {source}: name another folder.")
    if is_url(folder):
        return [Shard(source, f"{folder}/{answers_name(source)}") for source in sources]
    ready_folder(Path(folder))
    return [Shard(source, os.path.join(folder, answers_name(source))) for source in sources]


def local_files(pattern: str) -> list[str]:
    """The files that match a pattern; a file with just this name comes first."""
    found = [pattern] if os.path.isfile(pattern) else glob.glob(pattern, recursive=True)
    return sorted(filter(os.path.isfile, found))


def is_same_folder(one: str, other: str) -> bool:
    """Whether two paths or URLs are one folder."""
    if is_url(one) or is_url(other):
        return one == other
    return os.path.realpath(one) == os.path.realpath(other)


def check_names(sources: list[str]) -> None:
    """Check that shards are tables, and that no two have the same name without its ending.

    Raises:
        UserError: they are not, or do.
    """
    names: dict[str, str] = {}
    for source in sources:
        path = Path(source)
        if path.suffix.lower() not in READERS:
            raise UserError(f"--rows matches {source}, which is no table; expected one of {', '.join(READERS)}.")
        if path.stem in names:
            raise UserError(
                f"The shards {names[path.stem]} and {source} have the same name, {path.stem!r}, for their answers in "
                "one folder: answer them with two commands, into two folders."
            )
        names[path.stem] = source


def answers_name(source: str) -> str:
    """The name of the file for the answers to a shard."""
    path = Path(source)
    ending = path.suffix.lower()
    return path.stem + (ending if ending in ANSWERS else ANSWERS[0])
