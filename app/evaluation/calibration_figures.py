"""The figures of a calibration: errors before and after, reliability bins, and the risk of sure answers."""

from __future__ import annotations

from dataclasses import dataclass

from app.evaluation.interval import Interval


@dataclass
class ReliabilityBin:
    """Answers of similar confidence.

    Attributes:
        weight: sum of the rows' weights.
        confidence, accuracy: weighted means in [0, 1].
    """

    rows: int
    weight: float
    confidence: float
    accuracy: float


@dataclass
class ReliabilityBins:
    """Bins without rows are absent.

    Attributes:
        before, after: with temperature 1, and with the model's temperature.
    """

    before: list[ReliabilityBin]
    after: list[ReliabilityBin]


@dataclass
class CalibrationErrors:
    """Expected calibration errors; ``None`` without rows.

    Attributes:
        before, after: with temperature 1, and with the model's temperature.
        known: with the model's temperature, on rows that can be answered correctly.
    """

    before: float | None
    after: float | None
    known: float | None


@dataclass
class RiskCurve:
    """Risk-coverage curve: the rows are answered in the order of confidence.

    Attributes:
        coverage: shares of the rows that are answered, rising.
        risk: share of wrong answers among them.
    """

    coverage: list[float]
    risk: list[float]


@dataclass
class Calibration:
    """Effect of the model's temperature and threshold on rows that they were not fitted on.

    Attributes:
        threshold: confidence that a sure answer has at least; above 1 if no answer is sure.
        coverage: share of rows with a sure answer.
        risk: share of wrong answers among the sure ones; ``None`` if there are none.
    """

    temperature: float
    threshold: float
    ece: CalibrationErrors
    bins: ReliabilityBins
    curve: RiskCurve
    coverage: Interval
    risk: Interval | None
