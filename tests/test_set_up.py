"""What `make` installs."""

import os
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tiny import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the smaller builds are those for Linux")


@pytest.fixture
def index(tmp_path):
    """The address of an index of packages that has PyTorch."""
    (tmp_path / "index/torch").mkdir(parents=True)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "index"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def make(folder: Path, target: str, index: str, *more: str) -> tuple[list[str], str]:
    """Run make with a Python that only notes what it is to install; returns the notes and what make printed."""
    for name in ("Makefile", "requirements.txt", "requirements-dev.txt"):
        if not (folder / name).exists():
            shutil.copy(ROOT / name, folder)
    stub = folder / "venv/bin/python"
    stub.parent.mkdir(parents=True, exist_ok=True)
    stub.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} "$@"\necho "$@" >> {folder}/notes\n')
    stub.chmod(0o755)
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    for tool in ("sh", "uname", "touch"):
        if not (tools / tool).exists():
            (tools / tool).symlink_to(shutil.which(tool) or tool)
    command = [shutil.which("make") or "make", target, "VENV=venv", f"TORCH_CPU={index}", "UV=", *more]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PATH": str(tools)}, capture_output=True, text=True, check=True
    )
    notes = folder / "notes"
    return notes.read_text().splitlines() if notes.exists() else [], done.stdout


def test_without_a_gpu_the_cpu_build_of_pytorch_is_installed_and_make_says_so(index, tmp_path):
    notes, printed = make(tmp_path, "venv/.installed", index)
    assert notes == [f"-m pip install --quiet --no-compile --extra-index-url {index} -r requirements.txt"]
    assert "no GPU: PyTorch's CPU build" in printed
    assert make(tmp_path, "venv/.installed", index)[0] == notes, "installed twice"


def test_with_a_gpu_or_without_the_index_the_usual_build_is_installed(index, tmp_path):
    usual = "-m pip install --quiet --no-compile -r requirements.txt"
    assert make(tmp_path, "venv/.installed", "http://127.0.0.1:9")[0] == [usual]
    (tmp_path / "venv/.installed").unlink()
    tool = tmp_path / "tools/nvidia-smi"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    assert make(tmp_path, "venv/.installed", index)[0] == [usual] * 2


def test_bytecode_is_written_when_a_module_is_first_imported_whatever_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    command = ["make", "--no-print-directory", "-f", "-", "show"]
    rules = f"include {ROOT / 'Makefile'}\nshow:\n\t@echo [$$PYTHONDONTWRITEBYTECODE]\n"
    shown = subprocess.run(command, input=rules, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert shown == "[]\n"


def test_the_demonstration_installs_no_tools_of_development_and_the_tests_install_all(tmp_path):
    for name in ("demo", "tests"):
        (tmp_path / name).mkdir()
    notes, _ = make(tmp_path / "demo", "venv/.installed", "http://127.0.0.1:9")
    assert notes == ["-m pip install --quiet --no-compile -r requirements.txt"]
    notes, _ = make(tmp_path / "tests", "venv/.installed-dev", "http://127.0.0.1:9")
    assert notes == ["-m pip install --quiet --no-compile -r requirements-dev.txt"]
    again, _ = make(tmp_path / "tests", "venv/.installed", "http://127.0.0.1:9")
    assert again == notes, "the packages of the tests include those of the demonstration"
