"""`benchmarks.gpu` gives a table for each part at tiny sizes on a CPU, within its time, whatever fails."""

import re
import time
from functools import partial
from importlib import import_module
from itertools import islice
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny import shared_encoder
from torch.nn.attention.flex_attention import flex_attention

import benchmarks.gpu.__main__
import benchmarks.gpu.rows
import benchmarks.serving
from app.settings_parser import parse_settings
from benchmarks.attention import SIZES, build_kind, random_inputs
from benchmarks.gpu.__main__ import PARTS, main, run
from benchmarks.gpu.attention import window_mask
from benchmarks.gpu.compile import table as table_of_compile
from benchmarks.gpu.rows import read_rows, read_sizes, write_rows
from benchmarks.gpu.sizes import Sizes
from benchmarks.gpu.start import main as start
from benchmarks.gpu.step import Endless
from benchmarks.gpu.table import Table, attempt, lines
from data import ImageBatchSampler
from models.settings import ModelSettings

TINY = Sizes(32, 6, (2, 3), (0, 0), 64, (9,), 1, (1, 2), 2, 0, "eager")
GPU_ONLY = {"float32, TF32 convolutions", "TF32", "sdpa, efficient", "sdpa, cuDNN", "flex", "flex, window"}
"""Rows that a CPU cannot measure."""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The rows of a run at tiny sizes, whose model has a small image encoder in place of VGG16."""
    small = shared_encoder()
    monkeypatch.setattr(
        benchmarks.gpu.rows, "parse_settings", lambda given: parse_settings([*given, "--model.image_encoder", small])
    )
    monkeypatch.setattr(benchmarks.serving, "ModelSettings", partial(ModelSettings, image_encoder=small))
    monkeypatch.setattr(benchmarks.gpu.rows, "PHOTO", (40, 30))
    write_rows(tmp_path, TINY)
    return tmp_path


def two_rows(first, second) -> Table:
    return Table("## About", ["name", "figure", "unit"], [(["one"], first), (["two"], second)])


@pytest.mark.parametrize("part", PARTS)
def test_every_part_has_a_figure_in_each_cell_of_its_table(part, folder):
    table = import_module(f"benchmarks.gpu.{part}").table(TINY, folder)
    assert table.about.startswith("## ")
    assert all(len(line) <= 250 for line in table.about.splitlines())
    for names, measure in table.cases:
        with torch.compiler.set_stance("force_eager"):  # compiling takes long
            cells = attempt(measure, 0)
        if GPU_ONLY & set(names):
            assert re.fullmatch(r"not measured: \w+: .+", cells[0])
        else:
            assert len(names) + len(cells) == len(table.columns)
            assert all(re.match(r"-?\d[\d.,e+]*|–$", cell) for cell in cells), cells


def test_the_training_step_and_the_model_are_compiled_where_the_table_says_so(folder, monkeypatch):
    calls, compiled = [], {}
    monkeypatch.setattr(torch, "compile", lambda model, **options: calls.append(options) or model)
    for names, measure in table_of_compile(TINY, folder).cases[:5]:
        attempt(measure, 0)
        compiled[names[0], names[2]] = [(call["backend"], call.get("mode")) for call in calls]
        calls.clear()
    assert compiled == {
        ("training step", "no"): [],
        ("training step", "eager"): [("eager", None)],
        ("inference", "no"): [],
        ("inference", "default"): [("eager", "default")],
        ("inference", "reduce-overhead"): [("eager", "reduce-overhead")],
    }


def test_rows_for_which_no_time_is_left_are_named():
    until = time.time() + 0.2
    found = list(lines(two_rows(lambda until: (time.sleep(0.3), ["1", "ms"])[1], lambda until: ["2", "ms"]), until))
    assert found[1:] == [
        "| name | figure | unit |",
        "| --- | --- | --- |",
        "| one | 1 | ms |",
        "\nThe time was over before 1 rows: two.",
    ]


def test_rows_share_the_time_and_leave_the_rest_to_those_after():
    seen, now = [], time.time()
    list(
        lines(
            two_rows(lambda until: seen.append(until) or ["", ""], lambda until: seen.append(until) or ["", ""]),
            now + 10,
        )
    )
    assert seen == pytest.approx([now + 5, now + 10], abs=0.5)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."), "out of memory"),
        (RuntimeError("\nno kernel | for this\nmore"), "RuntimeError: no kernel / for this"),
        (ImportError(), "ImportError: "),
    ],
)
def test_an_error_in_a_row_is_said_in_it_and_does_not_lose_the_next(error, said):
    def fail(until):
        raise error

    *_, first, second = lines(two_rows(fail, lambda until: ["2", "ms"]), time.time() + 10)
    assert (first, second) == (f"| one | not measured: {said} | – |", "| two | 2 | ms |")


def test_a_part_that_fails_or_hangs_is_said_and_ends(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "works.py").write_text("import os; print(os.environ['TORCHINDUCTOR_FORCE_DISABLE_CACHES'])")
    (tmp_path / "fails.py").write_text("print('| row |', flush=True); raise SystemExit(3)")
    (tmp_path / "hangs.py").write_text("import time; print('| row |', flush=True); time.sleep(60)")
    assert run("works", ["works"], "FOLDER", time.time() + 60)
    assert not run("fails", ["fails"], "FOLDER", time.time() + 60)
    started = time.time()
    assert not run("hangs", ["hangs"], "FOLDER", time.time() + 3)
    assert time.time() - started < 20
    assert capfd.readouterr().out.splitlines() == [
        "1",
        "| row |",
        "",
        "The part fails failed with exit code 3; its traceback is in the error output.",
        "",
        "| row |",
        "",
        "The part hangs did not end in its time and was stopped.",
        "",
    ]


def test_parts_share_the_minutes_and_a_failed_one_does_not_end_the_others(monkeypatch):
    ran = []

    def pretend(name, module, folder, until):
        ran.append((name, module, until))
        return name != "step"

    monkeypatch.setattr(benchmarks.gpu.__main__, "run", pretend)
    now = time.time()
    assert main(["--minutes", "2", "--parts", "step", "serving", "--sizes", "small"]) == 1
    (_, module, end), (_, step, half), (_, _, last) = ran
    assert [name for name, *_ in ran] == ["start", "step", "serving"]
    assert module[-3:] == [
        "python -m benchmarks.gpu --minutes 2 --parts step serving --sizes small",
        "--sizes",
        "small",
    ]
    assert (end - now, half - now, last - now) == pytest.approx((120, 80, 120), abs=1)
    assert float(step[-1]) - now == pytest.approx(72, abs=1)
    assert main(["--parts", "serving"]) == 0
    monkeypatch.setattr(benchmarks.gpu.__main__, "run", lambda *given: False)
    assert main([]) == 1


def test_the_first_lines_say_device_versions_command_and_commit(tmp_path, capsys):
    start([str(tmp_path), "python -m benchmarks.gpu", "--sizes", "small"])
    printed = capsys.readouterr().out
    for said in ("device: ", "driver: ", f"torch {torch.__version__}", "precision: ", "`python -m benchmarks.gpu`"):
        assert said in printed
    assert re.search(r"commit: ([0-9a-f]{7,}(, with changes)?|unknown)\n", printed)
    assert 50 < int(re.search(r"median (\d+) KB", printed)[1]) < 200
    assert len({image for image, _ in read_rows(tmp_path)}) == read_sizes(tmp_path).pictures


def test_pictures_of_a_folder_are_used_if_they_fill_a_batch(tmp_path):
    (tmp_path / "own" / "inner").mkdir(parents=True)
    for name in ("a.jpg", "inner/b.JPEG", "inner/c.jpeg", "d.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / "own" / name)
    found = write_rows(tmp_path, TINY, tmp_path / "own")
    assert [path.name for path in found] == ["a.jpg", "b.JPEG", "c.jpeg"]
    assert len(read_rows(tmp_path)) == 3
    with pytest.raises(ValueError, match=r"There are 0 JPEG files .* needs 3"):
        write_rows(tmp_path, TINY, tmp_path / "none")


def test_the_order_of_steps_has_no_end_and_changes_from_epoch_to_epoch():
    sampler = ImageBatchSampler([str(number) for number in range(32)], 16, shuffle=True)
    found = list(islice(Endless(sampler), 6))
    assert all(sorted(first + second) == list(range(32)) for first, second in zip(found[::2], found[1::2], strict=True))
    assert found[:2] != found[2:4]


def test_the_window_of_flex_attention_is_that_of_window_attention():
    tensors = [tensor.detach() for tensor in random_inputs(144, torch.float32)]
    expected = build_kind("window", 144)(*tensors, None, False)[0]
    torch.testing.assert_close(flex_attention(*tensors, block_mask=window_mask(144, SIZES["window"])), expected)
