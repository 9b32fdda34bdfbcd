"""What commands import, in a process of their own, and the benchmark of their start."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import app
import data
import models
from benchmarks.start import cost, table_of

ROOT = Path(__file__).parent.parent
PAGE = {"gradio", "fastapi", "starlette", "uvicorn", "pydantic"}
STUDIES = {"optuna", "sqlalchemy", "onnx", "onnxruntime", "captum", "av", "pydicom", "tensorboard"}
TABLES = {"datasets", "pandas", "pyarrow"}
FIGURES = {"sklearn", "evaluate", "matplotlib", "peft", "scipy.signal", "scipy.stats", "scipy.ndimage"}
APP = "runpy.run_module('app', run_name='__main__', alter_sys=True)"
ARRAYS = {"torch", "transformers", "accelerate", "numpy", "scipy"}


def imported(code: str, *arguments: str) -> set[str]:
    """The modules of a new Python process when it ends, with code 0, after it has run ``code``."""
    listing = "import atexit, runpy, sys; atexit.register(lambda: print('MODULES', *sys.modules, file=sys.stderr))"
    command = [sys.executable, "-c", f"{listing}; {code}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return set(done.stderr.rpartition("MODULES ")[2].split())


@pytest.mark.parametrize(
    "command",
    [
        [APP, "--help"],
        [APP, "predict", "--help"],
        [APP, "search", "--help"],
        ["runpy.run_path('train.py', run_name='__main__')", "--help"],
        ["runpy.run_path('eval.py', run_name='__main__')", "--help"],
        ["import app, data, models"],
    ],
    ids=" ".join,
)
def test_help_imports_no_library_that_computes_or_reads_tables(command):
    found = imported(*command)
    assert "data.lazy_names" in found
    assert found & (PAGE | STUDIES | TABLES | FIGURES | ARRAYS) == set()


@pytest.mark.slow
def test_an_answer_to_one_pair_imports_neither_tables_nor_figures_nor_the_page(run_dir, tmp_path):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    found = imported(APP, "predict", str(run_dir), "--image", str(tmp_path / "red.png"), "--text", "how many?")
    assert "app.inference.predictor" in found
    unused = {"httpx", "app.explanation.attribution", "app.command_line.ask_rows"}
    assert found & (PAGE | STUDIES | TABLES | FIGURES | unused) == set()


@pytest.mark.slow
@pytest.mark.parametrize("module", ["app.training.run", "app.command_line.score_run"])
def test_training_and_evaluation_import_neither_the_page_nor_what_studies_need(module):
    found = imported(f"import {module}")
    assert {module, "torch"} <= found
    assert found & (PAGE | STUDIES) == set()


@pytest.mark.parametrize("package", [app, data, models], ids=lambda package: package.__name__)
def test_a_package_offers_what_it_lists_and_nothing_else(package):
    assert all(hasattr(package, name) for name in package.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        package.Nothing  # noqa: B018


def test_the_time_and_the_peak_memory_of_commands_are_measured(tmp_path):
    kept = [sys.executable, "-c", "kept = b'x' * 60_000_000"]
    lines = list(table_of({"small": [sys.executable, "-c", ""], "large": kept}, [tmp_path, ROOT], rounds=1))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert [row[:2] for row in rows] == [
        [name, folder.name] for name in ("small", "large") for folder in (tmp_path, ROOT)
    ]
    peaks = [float(row[4]) for row in rows]
    assert min(peaks[2:]) - max(peaks[:2]) == pytest.approx(57, abs=15)
    with pytest.raises(RuntimeError, match="failed: no"):
        cost([sys.executable, "-c", "raise SystemExit('no')"], tmp_path)
