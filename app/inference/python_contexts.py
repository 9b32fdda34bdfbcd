"""The further contexts of a model from Python objects: from the columns of a row, or by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.inference.python_inputs import read_text_input
from data.contexts import ContextCell, context_columns, read_cell
from data.errors import UserError
from data.messages import enumerate_names
from data.settings import NamedContext
from models.processor import is_missing


def contexts_of_row(row: Mapping[str, Any], contexts: Sequence[NamedContext]) -> dict[str, ContextCell | None]:
    """The contexts of a row by name.

    Args:
        row: cells by column. Pictures may be of any type that `app.inference.python_inputs.read_image_input` takes.

    Raises:
        UserError: a column that the row lacks, or a cell that cannot be read.
    """
    found = {}
    for context in contexts:
        names = list(context_columns([context]))
        if absent := [name for name in names if name not in row]:
            raise UserError(
                f"The row has no column {enumerate_names(absent)} of the context {context.name}; a cell of None is a "
                "missing one."
            )
        found[context.name] = read_python_cell(row, context, names)
    return found


def contexts_by_name(
    values: Mapping[str, Any] | None, contexts: Sequence[NamedContext]
) -> dict[str, ContextCell | None]:
    """The contexts that are given by name.

    Args:
        values: name → a picture, a text, vectors, or the cells of several columns, ``{"age": 61, "sex": "F"}``;
            ``None`` for a missing one.

    Raises:
        UserError: a context that the model does not have or that is not given, or a value that cannot be read.
    """
    values = values or {}
    names = [context.name for context in contexts]
    if unknown := [name for name in values if name not in names]:
        known = f"its contexts are {', '.join(names)}" if names else "it has none beside the text"
        raise UserError(f"The model has no context {unknown[0]!r}; {known}.")
    if absent := [name for name in names if name not in values]:
        raise UserError(
            f"The model also has the context{'s' if len(absent) > 1 else ''} {', '.join(absent)}. Give each a value, "
            "or None (null) if it is missing."
        )
    return {context.name: read_value(values[context.name], context) for context in contexts}


def read_value(value: Any, context: NamedContext) -> ContextCell | None:
    """The cell of a value that is given by the name of its context."""
    if context.kind == "text":
        text = read_text_input(value)
        return None if text is None else ContextCell(text, text)
    columns = list(context.columns)
    if context.kind != "features" or not isinstance(value, Mapping):
        if len(columns) > 1 and not is_missing(value):
            raise UserError(f"The context {context.name} has the columns {', '.join(columns)}: give {{column: value}}.")
        return read_python_cell(dict.fromkeys(columns, value), context, columns)
    if unknown := [name for name in value if name not in columns]:
        raise UserError(
            f"The context {context.name} has no column {unknown[0]!r}; its columns are {enumerate_names(columns)}."
        )
    return read_python_cell({name: value.get(name) for name in columns}, context, columns)


def read_python_cell(row: Mapping[str, Any], context: NamedContext, names: Sequence[str]) -> ContextCell | None:
    """The cell of a context from the columns that it is read from."""
    if context.kind == "image":
        value = row[names[0]]
        return None if is_missing(value) else ContextCell(value, "")
    cells = {name: None if is_missing(row[name]) else row[name] for name in names}
    try:
        return read_cell(cells, context, None, False)
    except UserError as error:
        raise UserError(f"The context {context.name} has {error}.") from error
