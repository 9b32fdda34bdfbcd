"""The model card: parts, training, figures on held-out rows, and limits of a model."""

import html
import re
from functools import cache
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from app.evaluation.figures import Evaluation
from app.reporting.text import advantage_text, calibration_text, input_use_text, percent, role_text
from app.settings import INCIDENTAL, Settings, flat
from data import PreparedData
from data.messages import excerpt
from models import ImageTextClassifier
from models.description import describe_model

TASK = "visual-question-answering"
"""The Hub's task for these models; it has none for the classification of image and text."""
SHOWN_BESIDE = ("accuracy", "balanced_accuracy", "macro_f1")
"""Metrics that the Hub shows next to the card."""
PATHS = {"data.train", "data.validation", "data.test", "data.image_root"}
"""Settings with a path on this machine; the card shows the last part alone."""


def model_card(
    name: str,
    model: ImageTextClassifier,
    settings: Settings,
    data: PreparedData,
    split: str,
    figures: Evaluation,
) -> ModelCard:
    """A card in the Hub's format.

    Args:
        name: name of the run.
        split: the rows that were scored: ``test``, or ``validation`` without test rows.
        figures: their figures.
    """
    rows = data.splits[split]
    source, scores = Path(rows.source).name, figures.scores[figures.whole]
    results = [
        EvalResult(TASK, source, source, metric, round(scores[metric].value, 4), dataset_split=split)
        for metric in SHOWN_BESIDE
        if metric in scores
    ]
    card_data = ModelCardData(
        model_name=name,
        library_name="transformers",
        pipeline_tag=TASK,
        tags=["image-text-classification", *(["vgg16"] if model.config.image_config is None else [])],
        eval_results=results,
    )
    defaults = flat(Settings())
    return ModelCard(
        environment()
        .get_template("model_card.md.jinja")
        .render(
            card_data=card_data.to_yaml(),
            name=name,
            labels=list(model.config.id2label.values()),
            parts=describe_model(model),
            decisions=data.notes,
            changed={
                k: Path(str(v)).name if k in PATHS else v
                for k, v in flat(settings).items()
                if v != defaults[k] and k not in INCIDENTAL
            },
            source=source,
            held_out=split == "test",
            role=role_text(figures),
            figures=figures,
            scores=scores,
            input_use=f"{input_use_text(figures)} {advantage_text(figures)}".strip(),
            calibration=calibration_text(figures.calibration),
            size=model.config.image_size,
        )
    )


@cache
def environment() -> Environment:
    """The template of the card, and its filters."""
    found = Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), undefined=StrictUndefined)
    found.filters |= {"percent": percent, "thousands": "{:,}".format, "plain": plain, "label": label}
    return found


def plain(value: str) -> str:
    """Text as one line of Markdown, without tags, links, emphasis and ends of table cells."""
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", html.escape(" ".join(value.split()), quote=False))


def label(value: str) -> str:
    """A label or a value as `plain` text, which is cut if it is long."""
    return plain(excerpt(value))
