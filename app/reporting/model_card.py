"""The model card: what a model is, how it was trained, what held-out rows say of it, and what it cannot do."""

from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from app.evaluation.predict import MODALITIES
from app.reporting.text import describe_calibration
from app.settings import INCIDENTAL, Settings, flat
from data import PreparedData
from models import ImageTextClassifier
from models.description import describe_model

TASK = "visual-question-answering"
"""The Hub's name for what these models do; it has none for the classification of pairs."""
SHOWN_BESIDE = ("accuracy", "balanced_accuracy", "macro_f1")
"""Metrics that the Hub shows beside the card."""
PATHS = {"data.train", "data.validation", "data.test", "data.image_root"}
"""Settings of which the card tells the last part alone: where files lie on this machine is nobody's business."""


def model_card(
    name: str,
    model: ImageTextClassifier,
    settings: Settings,
    data: PreparedData,
    split: str,
    figures: dict,
) -> ModelCard:
    """A card in the Hub's format, every figure of it from the evaluation.

    Args:
        name: of the run.
        split: the rows that were scored, ``test``, or ``validation`` where there are no test rows.
        figures: what `app.evaluation.evaluate` found on them.
    """
    rows = data.splits[split]
    source, scores = Path(rows.source).name, figures["scores"][MODALITIES[0]]
    results = [
        EvalResult(TASK, source, source, metric, round(scores[metric]["value"], 4), dataset_split=split)
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
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), undefined=StrictUndefined)
    environment.filters |= {"percent": "{:.1%}".format, "thousands": "{:,}".format, "cell": cell}
    return ModelCard(
        environment.get_template("model_card.md.jinja").render(
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
            figures=figures,
            calibration=describe_calibration(figures["calibration"]),
            saw=figures["saw"],
            size=model.config.image_size,
        )
    )


def cell(value: str) -> str:
    """Text that stays within its cell of a table."""
    return value.replace("|", "\\|").replace("\n", " ")
