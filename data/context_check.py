"""Read every context once before training, to find faulty cells and equal values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from typing import Any

from datasets import Dataset
from tqdm.auto import tqdm

from data.audio import check_sound, sound_bytes
from data.context_features import columns_of, encode_features, fit_features
from data.contexts import ContextCell, Features, context_columns, read_cell
from data.errors import UserError
from data.hashing import content_key
from data.image_check import MAX_NAMED
from data.image_files import read_image
from data.images import check_and_measure
from data.messages import enumerate_names
from data.rows import Rows
from data.settings import DataSettings, NamedContext
from data.string_column import write_columns

BLOCK = 64
"""Rows in memory at a time."""


def verify_contexts(rows: Rows, settings: DataSettings) -> Rows:
    """Read the contexts of every row, each file once.

    Returns:
        the rows with the keys of their contexts. If ``on_bad_image`` is ``skip``, rows with a faulty context are left
        out, and printed.

    Raises:
        UserError: contexts that are missing or cannot be read; names rows and columns.
    """
    if not rows.contexts:
        return rows
    assert isinstance(rows.table, Dataset)
    table = rows.table.select_columns(list(dict.fromkeys(context_columns(rows.contexts)))).select(rows.numbers)
    seen: dict[tuple[str, str], str | UserError] = {}

    def check(cells: dict, context: NamedContext) -> str | UserError | None:
        """The key of a context in a row, or its fault."""
        try:
            cell = read_cell(cells, context, rows.image_root, rows.confined)
            if cell is None:
                return None if settings.allow_missing else UserError("the cell is empty")
            known = seen.get((context.kind, cell.key))
            if known is None:
                known = seen[context.kind, cell.key] = read_file(cell, context, settings)
            return known
        except UserError as error:
            return error

    found: list[list[str | UserError | None]] = []
    waiting = iter(table)
    bar = tqdm(total=len(rows), desc=f"reading contexts of {rows.source}", unit="row", leave=False)
    with ThreadPoolExecutor() as pool:
        while block := list(islice(waiting, BLOCK)):
            work = [(cells, context) for cells in block for context in rows.contexts]
            keys = list(pool.map(lambda one: check(*one), work))
            size = len(rows.contexts)
            found += [keys[start : start + size] for start in range(0, len(keys), size)]
            bar.update(len(block))
    bar.close()
    return keep_good(rows, found, settings)


def read_file(cell: ContextCell, context: NamedContext, settings: DataSettings) -> str | UserError:
    """The key of a file by content, after it was decoded; the error of one that cannot be decoded."""
    if context.kind not in ("image", "audio"):
        return cell.key
    try:
        if context.kind == "audio":
            check_sound(cell.value)
            return content_key(sound_bytes(cell.value))
        data = read_image(cell.value)  # type: ignore[arg-type]
        check_and_measure([data], settings.max_pixels)
        return content_key(data)
    except UserError as error:
        return error


def keep_good(rows: Rows, found: list[list[str | UserError | None]], settings: DataSettings) -> Rows:
    """The rows whose contexts can all be read, with their keys."""
    faults = {
        i: [
            f"{context.name}: {key}"
            for context, key in zip(rows.contexts, keys, strict=True)
            if isinstance(key, UserError)
        ]
        for i, keys in enumerate(found)
    }
    bad = {i: told for i, told in faults.items() if told}
    keys = ([None if isinstance(key, UserError) else key for key in row] for row in found)
    columns = write_columns(keys, len(rows.contexts))
    names = [context.name for context in rows.contexts]
    rows = replace(rows, context_keys=dict(zip(names, columns, strict=True)))
    if not bad:
        return rows
    lines = [f"  row {rows.numbers[i]}, {'; '.join(told)}" for i, told in bad.items()]
    more = [f"  … and {len(lines) - MAX_NAMED} more"] if len(lines) > MAX_NAMED else []
    head = f"{len(bad)} rows of {rows.source} have a context that cannot be read (rows are counted from 0):"
    told = "\n".join([head, *lines[:MAX_NAMED], *more])
    if settings.on_bad_image == "stop" or len(bad) == len(rows):
        raise UserError(
            f"{told}\nRepair them, leave their rows out with --data.on_bad_image skip, or, if cells are empty, train "
            "with a learned token for them: --data.allow_missing true."
        )
    print(f"{told}\nThese rows are left out (data.on_bad_image: skip).")
    return rows.select([i for i in range(len(rows)) if i not in bad])


def fit_contexts(rows: Rows) -> list[dict[str, Any]]:
    """What the training rows fix about the contexts beside the text: the entries of the model's ``contexts``.

    Raises:
        UserError: features of the rows that do not fit each other.
    """
    found = []
    for context in rows.contexts:
        if context.kind == "features":
            found.append(fit_features(context, read_all(rows, context)))
        else:
            own = {"encoder": context.encoder} if context.encoder else {}
            found.append({"name": context.name, "kind": context.kind, "columns": list(context.columns)} | own)
    return found


def check_features(rows: Rows, contexts: Sequence[dict[str, Any]], split: str) -> list[str]:
    """Check that features of a split can be encoded as those of the rows that ``contexts`` were fitted on.

    Returns:
        a note for each column with unknown categories.

    Raises:
        UserError: rows with features of another kind or width, or unknown categories that `note_unknown` refuses.
    """
    by_name = {context.name: context for context in rows.contexts}
    faults, notes = [], []
    for spec in contexts:
        if "kind" not in spec or spec["kind"] not in ("vectors", "columns"):
            continue
        cells = read_all(rows, by_name[spec["name"]])
        for i, cell in enumerate(cells):
            try:
                if cell is not None:
                    encode_features(spec, cell.value)  # type: ignore[arg-type]
            except UserError as error:
                faults.append(f"  row {rows.numbers[i]}, {spec['name']}: {error}")
        if not faults:
            notes += note_unknown(spec, [cell.value for cell in cells if cell is not None], rows.source, split)
    if faults:
        more = [f"  … and {len(faults) - MAX_NAMED} more"] if len(faults) > MAX_NAMED else []
        head = f"Rows of {rows.source} have features unlike those of the training rows (rows are counted from 0):"
        raise UserError("\n".join([head, *faults[:MAX_NAMED], *more]))
    return notes


def note_unknown(spec: Mapping[str, Any], values: Sequence[Features], source: str, split: str) -> list[str]:
    """A note for each column with categories that no training row has: these cells are read as empty.

    Raises:
        UserError: a column of held-out rows with no other categories, or any such column of training rows, which
            happens with a model to start from.
    """
    notes = []
    for place, column in enumerate(columns_of(spec)):
        cells = [value[place] for value in values if value[place] is not None]
        unknown = Counter(column.unknown(cells))
        if not unknown:
            continue
        names = enumerate_names((name for name, _ in unknown.most_common()), 5)
        told = f"rows have a category in the column {column.name} that no training row has"
        if split == "train" or unknown.total() == len(cells):
            raise UserError(
                f"{unknown.total():,} of {len(cells):,} {told}: {names} in {source}, context {spec['name']}. The "
                f"categories are {column.known}. Correct the cells, or train on rows with these categories."
            )
        notes.append(f"{split}: {unknown.total():,} {told}; it is read as an empty cell ({names})")
    return notes


def read_all(rows: Rows, context: NamedContext) -> list[ContextCell | None]:
    """The cell of each row for one context of features."""
    assert isinstance(rows.table, Dataset)
    table = rows.table.select_columns(list(context.columns)).select(rows.numbers)
    return [read_cell(cells, context, rows.image_root, rows.confined) for cells in table]
