"""``metrics.json``: the figures of an evaluation, with the sentences about its inputs and its maps."""

import json
from pathlib import Path
from typing import Any

from app.evaluation.figures import Evaluation
from app.evaluation.interval import Interval, Scores
from app.reporting.text import advantage_text, input_use_text, trust_text
from data.errors import UserError


def metrics_content(figures: Evaluation) -> dict[str, Any]:
    """Content of ``metrics.json``."""
    content = figures.to_json()
    content["inputs"]["verdict"] = input_use_text(figures)
    if figures.advantage:
        content["advantage"]["verdict"] = advantage_text(figures)
    if figures.deletion:
        content["deletion"]["verdict"] = trust_text(figures)
    return content


def write_metrics(figures: Evaluation, path: Path) -> None:
    """Write ``metrics.json``."""
    text = json.dumps(metrics_content(figures), indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text, encoding="utf-8")


def read_scores(path: Path) -> dict[str, Scores]:
    """The scores in a ``metrics.json``: what the model was given → metric → value with interval."""
    return {
        system: {metric: Interval(**interval) for metric, interval in scores.items()}
        for system, scores in read_metrics(path)["scores"].items()
    }


def read_source(path: Path) -> str | None:
    """The source of the rows in a ``metrics.json``; ``None`` in files of early versions."""
    return read_metrics(path).get("source")


def read_metrics(path: Path) -> dict[str, Any]:
    """The content of a ``metrics.json``.

    Raises:
        UserError: the file is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): delete it, and evaluate again with eval.py.") from error
