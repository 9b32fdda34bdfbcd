"""Read Parquet files."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Features

from data.column_names import distinct_names
from data.errors import UserError
from data.messages import enumerate_names

BATCH = 100
"""Rows in memory at a time. Rows may hold images."""


def parquet_columns(path: Path) -> Features:
    """Columns of a file. Columns with a type that `datasets` does not support are left out and printed.

    Raises:
        UserError: a file without rows.
    """
    with pq.ParquetFile(path) as file:
        schema, number = file.schema_arrow, file.metadata.num_rows
    if not number:
        raise UserError(f"{path} has no rows.")
    fields = [
        pa.field(name, plain_type(field.type)) for name, field in zip(distinct_names(schema.names), schema, strict=True)
    ]
    supported = [field for field in fields if is_supported(field)]
    if len(supported) < len(fields):
        left_out = enumerate_names(f"{field.name} ({field.type})" for field in fields if field not in supported)
        print(f"{path}: columns with types that datasets does not support are left out: {left_out}")
    return Features.from_arrow_schema(pa.schema(supported, metadata=schema.metadata))


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The value type of a dictionary type, float64 for narrower floats, text for uint64, which exceeds int64."""
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_uint64(kind):
        return pa.string()
    return pa.float64() if pa.types.is_float16(kind) or pa.types.is_float32(kind) else kind


def is_supported(field: pa.Field) -> bool:
    try:
        Features.from_arrow_schema(pa.schema([field]))
    except (ValueError, NotImplementedError):
        return False
    return True


def parquet_rows(path: Path, columns: Features) -> Iterator[dict]:
    """Rows as dictionaries."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(BATCH):
            names = distinct_names(batch.schema.names)
            cells = {
                name: to_list(column) for name, column in zip(names, batch.columns, strict=True) if name in columns
            }
            for row in range(len(batch)):
                yield {name: values[row] for name, values in cells.items()}


def to_list(column: pa.Array) -> list:
    """Python values of `plain_type`. A narrow float becomes its shortest decimal, 0.1 rather than 0.10000000149."""
    if pa.types.is_uint64(column.type):
        column = pc.cast(column, pa.string())
    if pa.types.is_float16(column.type) or pa.types.is_float32(column.type):
        column = pc.cast(pc.cast(column, pa.string()), pa.float64())
    return column.to_pylist()
