"""The figures of an evaluation, as ``metrics.json`` holds them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from app.evaluation.calibration_figures import Calibration
from app.evaluation.interval import Interval, Scores
from app.evaluation.predict import IMAGE_AND_TEXT
from data.value_range_report import ValueRangeReport

Role = Literal["test", "validation", "train"]
"""Use of the rows in training: none, choice of epoch, temperature and threshold, or learning."""


@dataclass
class ClassFigures:
    """One class against all others.

    Attributes:
        rows: number of rows with this label.
        threshold: probability from which the class is answered; ``None`` if one class is answered for each row.
    """

    rows: int
    precision: Interval
    recall: Interval
    f1: Interval
    threshold: float | None = None


@dataclass
class SliceFigures:
    """Some of the rows, chosen by the value of a column.

    Attributes:
        scores: accuracy and macro F1.
    """

    rows: int
    scores: Scores


@dataclass
class Confusion:
    """Confusion matrix.

    Attributes:
        labels: the most frequent labels of the rows, and last "others".
        counts: ``counts[i][j]`` is the number of rows with label i and answer j.
    """

    labels: list[str]
    counts: list[list[int]]


@dataclass
class InputUse:
    """Whether the model uses its inputs.

    Attributes:
        lost: what the model was given (see `app.evaluation.predict.MODALITIES`) → the metric with both inputs minus
            the metric with this, on the same rows.
        kept: the same key → number of rows for which the input did not change, because it was missing or equal.
        metric: the metric by which the best epoch was chosen; the accuracy if that was the loss.
        parts: name of an input → the keys of ``lost`` without it, and with that of another row.
    """

    lost: Scores
    kept: dict[str, int]
    metric: str = "accuracy"
    parts: dict[str, list[str]] = field(default_factory=lambda: dict(IMAGE_AND_TEXT))


@dataclass
class Advantage:
    """What the model gains over linear classifiers of the same training rows.

    Attributes:
        gained: name of a linear classifier → metric of the model minus its metric, on the same rows.
        images: what the linear classifiers see of an image, in words.
        metric: as in `InputUse`.
    """

    gained: Scores
    images: str
    metric: str = "accuracy"


@dataclass
class Deletion:
    """Check of the maps of evidence by hiding and revealing places of the picture (RISE, Petsiuk et al. 2018).

    Attributes:
        method: attribution method of the maps, see `app.explanation.evidence.evidence`.
        fractions: shares of the picture that are hidden or revealed.
        deletion: order of the places, ``method`` or "random" → mean probability of the answer while they are hidden.
        insertion: the same, while they are revealed, from a picture that is hidden as a whole.
        areas: "deletion" and "insertion" → mean difference from the random order over the fractions, in [-1, 1];
            positive if the places with most evidence matter more.
        share: the fraction of ``beyond_random``.
        beyond_random: probability that the answer loses when this share with most evidence is hidden, minus that when
            as much is hidden at random.
    """

    rows: int
    method: str
    fractions: list[float]
    deletion: dict[str, list[float]]
    insertion: dict[str, list[float]]
    areas: Scores
    share: float
    beyond_random: Interval


@dataclass
class InputCoverage:
    """How much of the rows reaches the model.

    Attributes:
        texts: number of different texts.
        limit: tokens after which a text is cut.
        cut: different texts that are longer.
        unknown: different texts with words that the tokenizer does not know.
        no_text, no_image: rows without one.
        values: how images of more than 8 bits a channel are read.
    """

    texts: int
    limit: int
    cut: int
    unknown: int
    no_text: int
    no_image: int
    values: list[ValueRangeReport]


@dataclass
class CaseFigures:
    """Figures with one answer for each case, from the mean of the probabilities of its rows.

    Attributes:
        column: column that names the case of a row.
        cases: number of cases.
        scores: as those of `Evaluation`.
    """

    column: str
    cases: int
    scores: dict[str, Scores]
    inputs: InputUse
    advantage: Advantage | None = None


@dataclass
class Evaluation:
    """All figures of a model on some rows.

    Attributes:
        source: where the rows come from.
        weighed_by: column with the weights of the rows; ``None`` if all have the same weight.
        images: number of different images.
        resampled_by: the groups that the intervals are resampled by, in words.
        label_type: see `data.LabelFormat`.
        ceiling: accuracy of the best possible answers; below 1 if labels are unknown or annotators disagree.
        unknown_labels: label that the model does not have → number of rows.
        scores: what the model was given, a linear classifier, or "majority answer" → metrics.
        classes: label → figures.
        confusion: ``None`` for several labels a row.
        slices: column → value → figures.
        saw: how much of the rows reaches the model.
        deletion: ``None`` without a check of the maps.
        advantage: ``None`` if no linear classifiers were fitted.
        by_case: ``None`` without ``data.pool``.
        seen_images: number of the images that the training rows have too; ``None`` if it is 0 or not known.
    """

    source: str
    role: Role
    weighed_by: str | None
    rows: int
    images: int
    resampled_by: str
    label_type: str
    ceiling: float
    unknown_labels: dict[str, int]
    scores: dict[str, Scores]
    inputs: InputUse
    classes: dict[str, ClassFigures]
    confusion: Confusion | None
    slices: dict[str, dict[str, SliceFigures]]
    calibration: Calibration
    saw: InputCoverage
    deletion: Deletion | None = None
    advantage: Advantage | None = None
    by_case: CaseFigures | None = None
    seen_images: int | None = None

    @property
    def whole(self) -> str:
        """The name of the model with all inputs among the scores."""
        return next(iter(self.scores))

    def to_json(self) -> dict[str, Any]:
        """The figures in the layout of ``metrics.json``, with Python's own types alone."""
        content = asdict(replace(self, saw=replace(self.saw, values=[])))
        content["saw"]["values"] = [values.to_json() for values in self.saw.values]
        content["confusion"] = content["confusion"] or {}
        for column in content["slices"].values():
            for value, found in column.items():
                column[value] = {"rows": found["rows"], **found["scores"]}
        for name in ("deletion", "advantage", "by_case", "seen_images"):
            if content[name] is None:
                del content[name]
        return content
