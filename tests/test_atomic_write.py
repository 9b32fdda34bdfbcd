"""A file or a folder is replaced so that a crash at any moment leaves the previous content or the new one."""

import os
from pathlib import Path

import pytest

import app.atomic_write
from app.atomic_write import replacing, surviving


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.fixture
def kill_at(monkeypatch):
    """Kill at a moment before or after one of the operations on the disk; without one, count them."""
    moments = []

    def watch(deadline: int | None) -> None:
        moments.clear()
        monkeypatch.undo()
        for owner, name in ((os, "replace"), (app.atomic_write, "remove"), (app.atomic_write, "flush")):
            monkeypatch.setattr(owner, name, around(getattr(owner, name), deadline))

    def around(function, deadline):
        def watched(*args):
            tick(deadline)
            function(*args)
            tick(deadline)

        return watched

    def tick(deadline):
        moments.append(None)
        if len(moments) == deadline:
            raise Killed

    watch.moments = moments
    return watch


def write_folder(target: Path, content: str) -> None:
    with replacing(target) as folder:
        folder.mkdir()
        for name in ("one", "two"):
            (folder / name).write_text(content)


def write_file(target: Path, content: str) -> None:
    with replacing(target) as file:
        file.write_text(content)


def read(target: Path) -> str:
    if target.is_file():
        return target.read_text()
    one, two = ((target / name).read_text() for name in ("one", "two"))
    assert one == two
    return one


@pytest.mark.parametrize("write", [write_file, write_folder])
def test_a_kill_at_any_moment_leaves_the_previous_content_or_the_new_one(write, kill_at, tmp_path):
    def start() -> Path:
        kill_at(None)
        target = tmp_path / str(len(list(tmp_path.iterdir()))) / "target"
        write(target, "previous")
        return target

    target = start()
    kill_at(None)
    write(target, "new")
    found = []
    for moment in range(1, len(kill_at.moments) + 1):
        target = start()
        kill_at(moment)
        with pytest.raises(Killed):
            write(target, "new")
        found.append(read(surviving(target)))
        for second in range(1, 7):  # and once more, at another moment
            kill_at(second)
            with pytest.raises(Killed):
                write(target, "newer")
            assert read(surviving(target)) in ("previous", "new", "newer")
        kill_at(None)
        write(target, "last")
        assert read(target) == "last"
        assert [path.name for path in target.parent.iterdir()] == ["target"]
    assert found == sorted(found, reverse=True), "first the previous content, then the new one"
    assert set(found) == {"previous", "new"}


def test_an_error_while_writing_leaves_the_previous_content(tmp_path):
    write_folder(tmp_path / "target", "previous")
    with pytest.raises(UnicodeEncodeError):
        write_folder(tmp_path / "target", "\ud800")
    assert read(tmp_path / "target") == "previous"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
