"""Columns of strings on the disk behave as the lists they stand for."""

import pickle
import tempfile
from multiprocessing import get_context

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.string_column import BLOCK, write_columns

STRINGS = st.lists(st.tuples(st.none() | st.text(st.characters(exclude_categories=["Cs"])), st.text("ab")), max_size=9)


@given(STRINGS, st.data())
def test_columns_behave_as_lists(rows, data):
    for column, expected in zip(write_columns(rows, 2), (list(c) for c in zip(*rows, strict=True)), strict=False):
        assert list(column) == expected
        assert [column[i] for i in range(len(column))] == expected
        assert column[1:-1] == expected[1:-1]
        assert list(column.present()) == [string for string in expected if string is not None]
        chosen = data.draw(st.lists(st.integers(0, len(expected) - 1)))
        twice = column.select(chosen).select(range(len(chosen))[::-1])
        assert list(twice) == [expected[i] for i in chosen][::-1]


def test_a_column_may_be_longer_than_a_block():
    (column,) = write_columns(((str(i),) for i in range(2 * BLOCK + 1)), 1)
    assert list(column) == list(map(str, range(2 * BLOCK + 1)))
    assert column[-1] == column[2 * BLOCK] == str(2 * BLOCK)


@pytest.mark.slow
def test_a_column_can_be_pickled():
    (column,) = write_columns([("a",), (None,)], 1)
    assert list(pickle.loads(pickle.dumps(column))) == ["a", None]
    with get_context("spawn").Pool(1) as pool:
        assert pool.apply(list, (column,)) == ["a", None]


def test_columns_use_a_nameless_file_and_little_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    names = []

    def rows():
        for _ in range(BLOCK):
            names.extend(tmp_path.iterdir())
            yield ("x" * 1000,)

    before = pa.total_allocated_bytes()
    (column,) = write_columns(rows(), 1)
    assert names == list(tmp_path.iterdir()) == []
    assert pa.total_allocated_bytes() - before < BLOCK * 100, "a tenth of the strings"
    assert column[-1] == "x" * 1000
