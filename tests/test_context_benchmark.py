"""`benchmarks.contexts` measures every kind of context, and the cache, at tiny sizes."""

import re

import pytest

import benchmarks.contexts
from benchmarks.contexts import CONTEXTS, Sizes, peak_memory, table_of_cache, table_of_contexts, write_rows

TINY = Sizes(batch=2, image=32, steps=1)


def figures_of(table: str) -> dict[str, list[float]]:
    """The numbers of each row of a Markdown table by its first cell."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return {name: [float(number) for number in re.findall(r"[\d.]+", " ".join(cells))] for name, *cells in rows}


@pytest.mark.slow
def test_the_cost_of_each_context_and_the_gain_of_the_cache_are_measured(tmp_path, monkeypatch):
    asked = []
    # In this process a step may reuse memory that the tests before it have left, and need no more.
    monkeypatch.setattr(benchmarks.contexts, "peak_memory", lambda _, name, sizes: asked.append(name) or 7 << 20)
    write_rows(tmp_path, TINY.batch)
    costs = figures_of(table_of_contexts(tmp_path, TINY, rounds=1))
    assert list(costs) == list(CONTEXTS)
    assert costs["text"][1:4] == [1, 1, 1]
    assert all(milliseconds > 0 and peak == 7 for milliseconds, *_, peak in costs.values())
    assert asked == list(CONTEXTS)
    (before, after, times, *_) = figures_of(table_of_cache(tmp_path, TINY, ["audio, 1 s"], rounds=1))["audio, 1 s"]
    assert times == pytest.approx(before / after, rel=0.1)
    assert len(list((tmp_path / ".features").glob("sound_*"))) == 1


@pytest.mark.slow
def test_the_memory_of_a_model_and_its_steps_is_measured_in_a_new_process(tmp_path):
    write_rows(tmp_path, TINY.batch)
    found = peak_memory(tmp_path, "text", TINY)
    assert found > 150 << 20, "the weights of VGG16 and their gradients alone"
