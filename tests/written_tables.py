"""Tables in every format, as pandas writes them."""

from pathlib import Path

import pandas as pd

from data import DataSettings, load_rows

FORMATS = ["csv", "tsv", "json", "jsonl", "parquet"]


def write(path: Path, frame: pd.DataFrame) -> Path:
    """A table as pandas writes it, in the format of the path's ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".csv", ".tsv"):
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=path.suffix == ".jsonl", force_ascii=False)
    return path


def rows_of(*labels: str) -> pd.DataFrame:
    return pd.DataFrame(
        {"image": [f"{i}.png" for i in range(len(labels))], "text": [f"q{i}" for i in range(len(labels))]}
    ).assign(label=list(labels))


def labels_of(source: Path | str, **options) -> list[str]:
    return list(load_rows(str(source), "train", DataSettings(**options)).labels)


def tables(folder: Path, frame: pd.DataFrame):
    """The same table in every format, and as metadata of image folders."""
    for kind in FORMATS:
        yield write(folder / f"t.{kind}", frame)
        yield write(folder / kind / f"metadata.{kind}", frame.rename(columns={"image": "file_name"})).parent
