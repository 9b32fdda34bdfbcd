"""Calibration: the temperature, the threshold of sure answers, and how well both work."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.optimize import brentq, minimize_scalar
from scipy.special import expit, logit, softmax
from scipy.stats import beta

from app.evaluation.bootstrap import Resampler, effective_groups, mean_interval
from app.evaluation.calibration_figures import (
    Calibration,
    CalibrationErrors,
    ReliabilityBin,
    ReliabilityBins,
    RiskCurve,
)
from app.evaluation.targets import Targets
from models.decisions import Thresholds, center
from models.decisions import confidence as confidence_of

BINS = 15
"""Number of confidence bins of equal width, as in Guo et al. 2017."""
CERTAINTY = 0.9
"""Probability that the share of wrong answers is within the allowed risk."""
TEMPERATURES = (0.05, 20.0)
"""Range in which the temperature is searched."""


def fit_temperature(probabilities: np.ndarray, targets: Targets) -> float:
    """Temperature with the lowest cross-entropy (Guo et al. 2017, section 4.2).

    If every answer is correct, the cross-entropy falls with the temperature without a minimum. The mean confidence is
    then set to ``(n + 1) / (n + 2)``, the rule of succession.

    Args:
        probabilities: ``(n, C)`` at temperature 1.
        targets: the labels; rows with an unknown label are ignored.

    Returns:
        the divisor of the logits, above 1 for an overconfident model; 1 if no row has a known label.
    """
    is_known = ~np.isnan(targets.cross_entropy(probabilities))
    if not is_known.any():
        return 1.0
    probabilities, targets = probabilities[is_known], targets.select(is_known)

    def loss(log_temperature: float) -> float:
        scaled = apply_temperature(probabilities, np.exp(log_temperature), targets.label_type)
        return targets.mean(targets.cross_entropy(scaled))

    def excess_confidence(log_temperature: float) -> float:
        scaled = apply_temperature(probabilities, np.exp(log_temperature), targets.label_type)
        return targets.mean(confidence_of(scaled, targets.label_type)) - (number + 1) / (number + 2)

    sizes = np.ones(len(targets))
    number = effective_groups(sizes if targets.weights is None else targets.weights, sizes)
    coldest, hottest = np.log(TEMPERATURES)
    if (targets.correctness(probabilities) < 1).any():
        return float(np.exp(minimize_scalar(loss, bounds=(coldest, hottest), method="bounded").x))
    if excess_confidence(hottest) >= 0:  # a single class has probability 1 at any temperature
        return 1.0
    return float(np.exp(coldest if excess_confidence(coldest) <= 0 else brentq(excess_confidence, coldest, hottest)))


def apply_temperature(probabilities: np.ndarray, temperature: float, label_type: str = "single") -> np.ndarray:
    """Probabilities after their logits are divided by a temperature."""
    return from_logits(to_logits(probabilities, label_type) / temperature, label_type)


def to_logits(probabilities: np.ndarray, label_type: str) -> np.ndarray:
    """Logits ``(n, C)`` in float64 that give these probabilities."""
    if label_type == "multi":
        return logit(np.clip(probabilities.astype(np.float64), 1e-15, 1 - 1e-15))
    return np.log(np.maximum(probabilities.astype(np.float64), 1e-30))


def from_logits(logits: np.ndarray, label_type: str) -> np.ndarray:
    """Probabilities ``(n, C)`` of logits."""
    return expit(logits) if label_type == "multi" else softmax(logits, axis=1)


def fit_share(start: np.ndarray, end: np.ndarray, targets: Targets) -> tuple[float, np.ndarray]:
    """Where between two models of which one adds to the logits of the other the cross-entropy is lowest.

    As in WiSE-FT (Wortsman et al. 2022), which averages the weights of a model before and after fine-tuning, what
    training learned by heart counts less.

    Args:
        start: probabilities ``(n, C)`` of the model before training.
        end: those of the model after it.
        targets: the labels; rows with an unknown label are ignored.

    Returns:
        the share of the difference in the logits that is kept, in [0, 1], and the probabilities with it.
    """
    label_type = targets.label_type
    logits = [to_logits(probabilities, label_type) for probabilities in (start, end)]

    def mix(share: float) -> np.ndarray:
        return from_logits((1 - share) * logits[0] + share * logits[1], label_type)

    known = ~np.isnan(targets.cross_entropy(end))
    if not known.any():
        return 1.0, end

    def loss(share: float) -> float:
        return targets.select(known).mean(targets.select(known).cross_entropy(mix(share)[known]))

    share = float(minimize_scalar(loss, bounds=(0, 1), method="bounded").x)
    share = min((0.0, share, 1.0), key=loss)
    return share, mix(share).astype(start.dtype)


def choose_threshold(
    confidence: np.ndarray,
    correctness: np.ndarray,
    risk: float,
    groups: np.ndarray,
    weights: np.ndarray | None = None,
) -> float:
    """Lowest confidence threshold above which at most a share ``risk`` of the answers is wrong.

    The upper end of a one-sided 90 % interval of that share (Clopper & Pearson 1934) is within the risk, as in Geifman
    & El-Yaniv (2017, section 3). Their correction for the number of thresholds is left out, because few rows would then
    allow any; so where confidence does not rank the answers, the risk is exceeded more often than one time in ten.

    A risk of 5 % needs at least 45 answers, all correct. It needs more if the answers of a group are correct or wrong
    together, or if rows have different weights: both lower the effective number of answers (design effects of Kish
    1965, sections 5.4 and 11.7).

    Args:
        confidence: probability of each row's answer ``(n,)``.
        correctness: how correct it is, in [0, 1] ``(n,)``.
        groups: group of each row ``(n,)``, usually its image.
        weights: weight of each row ``(n,)``, above 0; ``None`` for equal weights.

    Returns:
        the lowest confidence of the rows if all answers together are within the risk, and a number above 1 if no
        threshold is.
    """
    order = np.argsort(-confidence, kind="stable")
    ranked, row_weights = confidence[order], np.ones(len(order)) if weights is None else weights[order]
    total, correlation = np.cumsum(row_weights), intraclass_correlation(correctness - confidence, groups)
    before = pd.Series(row_weights).groupby(groups[order]).cumsum().to_numpy() - row_weights  # earlier, in the group
    squares = row_weights * (2 * before + row_weights)  # increase of the sum of squared weights of the groups
    number = total**2 / np.cumsum((1 - correlation) * row_weights**2 + correlation * squares)
    wrong = np.cumsum(row_weights * (1 - correctness[order])) * number / total
    bounds = np.where(wrong < number, beta.ppf(CERTAINTY, wrong + 1, np.maximum(number - wrong, 1e-9)), 1)
    last_of_tie = np.append(ranked[1:] != ranked[:-1], True)
    allowed = np.flatnonzero((bounds <= risk) & last_of_tie)
    if not len(allowed):
        return float(np.nextafter(1, 2))
    return float(ranked[allowed[-1]])


def intraclass_correlation(values: np.ndarray, groups: np.ndarray) -> float:
    """Intraclass correlation by analysis of variance, in [0, 1] (Donner & Koval 1980).

    0 if no group has two rows, and 1 (the cautious choice) if all values are equal or there is a single group.
    """
    group = np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(group)
    if sizes.max() == 1:
        return 0.0
    if values.min() == values.max() or len(sizes) == 1:
        return 1.0
    means = np.bincount(group, values) / sizes
    between = (sizes * (means - values.mean()) ** 2).sum() / (len(sizes) - 1)
    within = ((values - means[group]) ** 2).sum() / (len(values) - len(sizes))
    size = (len(values) - (sizes**2).sum() / len(values)) / (len(sizes) - 1)
    return float(np.clip((between - within) / (between + (size - 1) * within), 0, 1))


def reliability_bins(
    confidence: np.ndarray, correctness: np.ndarray, weights: np.ndarray | None = None
) -> list[ReliabilityBin]:
    """Rows by confidence in `BINS` bins, without empty bins."""
    number = np.minimum((confidence * BINS).astype(int), BINS - 1)
    weights = np.ones(len(number)) if weights is None else weights
    return [
        ReliabilityBin(
            rows=int(chosen.sum()),
            weight=float(weights[chosen].sum()),
            confidence=float(np.average(confidence[chosen], weights=weights[chosen])),
            accuracy=float(np.average(correctness[chosen], weights=weights[chosen])),
        )
        for chosen in (number == b for b in np.unique(number))
    ]


def expected_calibration_error(bins: list[ReliabilityBin]) -> float | None:
    """Weighted mean of the gaps between confidence and accuracy (Naeini et al. 2015); ``None`` without bins."""
    if not bins:
        return None
    return float(np.average([abs(b.confidence - b.accuracy) for b in bins], weights=[b.weight for b in bins]))


def risk_coverage_curve(
    confidence: np.ndarray, correctness: np.ndarray, weights: np.ndarray | None = None, size: int = 100
) -> RiskCurve:
    """Share of wrong answers among the most confident rows, at up to ``size`` coverages (Geifman & El-Yaniv 2017).

    Rows of equal confidence count as their mean, so that their order does not matter.
    """
    weights = np.ones(len(confidence)) if weights is None else weights
    tie = np.unique(-confidence, return_inverse=True)[1]
    rows = np.bincount(tie)
    total = np.cumsum(np.repeat(np.bincount(tie, weights) / rows, rows))
    risks = np.cumsum(np.repeat(np.bincount(tie, weights * (1 - correctness)) / rows, rows)) / total
    places = np.unique(np.linspace(0, len(confidence) - 1, size).astype(int))
    return RiskCurve((total[places] / total[-1]).tolist(), risks[places].tolist())


def calibration_figures(
    probabilities: np.ndarray,
    targets: Targets,
    resampler: Resampler,
    temperature: float,
    threshold: float,
    label_thresholds: Thresholds = None,
) -> Calibration:
    """Effect of a model's temperature and threshold on rows that they were not fitted on.

    Args:
        probabilities: ``(n, C)`` of the model, with the temperature applied.
    """
    label_type, weights = targets.label_type, targets.weights
    correctness = targets.correctness(center(probabilities, label_thresholds))
    confidence = confidence_of(probabilities, label_type, label_thresholds)
    cuts = None if label_thresholds is None else apply_temperature(np.array(label_thresholds), 1 / temperature, "multi")
    uncalibrated = confidence_of(apply_temperature(probabilities, 1 / temperature, label_type), label_type, cuts)
    sure, known = confidence >= threshold, targets.best_correctness() > 0
    bins = ReliabilityBins(
        before=reliability_bins(uncalibrated, correctness, weights),
        after=reliability_bins(confidence, correctness, weights),
    )
    of_known = reliability_bins(confidence[known], correctness[known], targets.select(known).weights)
    errors = CalibrationErrors(
        before=expected_calibration_error(bins.before),
        after=expected_calibration_error(bins.after),
        known=expected_calibration_error(of_known),
    )
    risk = None
    if sure.any():
        risk = mean_interval(1 - correctness[sure], resampler.select(sure), weights=targets.select(sure).weights)
    return Calibration(
        temperature=temperature,
        threshold=threshold,
        ece=errors,
        bins=bins,
        curve=risk_coverage_curve(confidence, correctness, weights),
        coverage=mean_interval(sure.astype(float), resampler, weights=weights),
        risk=risk,
    )
