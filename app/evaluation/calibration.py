"""Can its probabilities be believed, and when should it rather say that it is not sure?"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.optimize import brentq, minimize_scalar
from scipy.special import expit, logit, softmax
from scipy.stats import beta

from app.evaluation.bootstrap import count_of, mean_interval
from app.evaluation.targets import Truth
from models.decisions import confidence as confidence_of

BINS = 15
"""Of confidence, of equal width, as in Guo et al. 2017."""
CERTAINTY = 0.9
"""That the share of wrong answers is within the allowed risk."""
TEMPERATURES = (0.05, 20.0)
"""The range in which a temperature is looked for."""


def fit_temperature(probabilities: np.ndarray, truth: Truth) -> float:
    """The temperature that makes the labels most likely (Guo et al. 2017, section 4.2).

    Where every answer is right, the lower the likelier, without end: then it is the one at which the answers are as
    probable on average as the rule of succession has it, ``(n + 1) / (n + 2)``.

    Args:
        probabilities: ``(n, C)`` at temperature 1.
        truth: the labels; rows whose label is not known do not count.

    Returns:
        what logits are to be divided by, above 1 where the model is too sure; 1 where no row has a known label.
    """
    is_known = ~np.isnan(truth.loss(probabilities))
    if not is_known.any():
        return 1.0
    probabilities, truth = probabilities[is_known], truth.select(is_known)

    def loss(log_temperature: float) -> float:
        return truth.mean(truth.loss(tempered(probabilities, np.exp(log_temperature), truth.label_type)))

    def too_sure(log_temperature: float) -> float:
        cooled = tempered(probabilities, np.exp(log_temperature), truth.label_type)
        return truth.mean(confidence_of(cooled, truth.label_type)) - (number + 1) / (number + 2)

    number = count_of(np.ones(len(truth)) if truth.weights is None else truth.weights, np.ones(len(truth)))
    coldest, hottest = np.log(TEMPERATURES)
    if (truth.right(probabilities) < 1).any():
        return float(np.exp(minimize_scalar(loss, bounds=(coldest, hottest), method="bounded").x))
    if too_sure(hottest) >= 0:  # a single class, which is certain at any temperature
        return 1.0
    return float(np.exp(coldest if too_sure(coldest) <= 0 else brentq(too_sure, coldest, hottest)))


def tempered(probabilities: np.ndarray, temperature: float, label_type: str = "single") -> np.ndarray:
    """What probabilities become when their logits are divided by a temperature."""
    if label_type == "multi":
        return expit(logit(np.clip(probabilities.astype(np.float64), 1e-15, 1 - 1e-15)) / temperature)
    return softmax(np.log(np.maximum(probabilities.astype(np.float64), 1e-30)) / temperature, axis=1)


def choose_threshold(
    confidence: np.ndarray,
    right: np.ndarray,
    risk: float,
    groups: np.ndarray,
    weights: np.ndarray | None = None,
) -> float:
    """The lowest confidence from which on no more than a share ``risk`` of the answers is wrong, most likely.

    That is, the upper end of a one-sided 90 % interval of the share (Clopper & Pearson 1934) is within the risk, as
    Geifman & El-Yaniv (2017, section 3) ask for: a few right answers do not prove that the next one will be. For 5 %
    it takes at least 45 answers, all right; more where the answers of a group are right or wrong together more often
    than their confidence says, or where some weigh more than others, and so count as fewer (the design effects of Kish
    1965, sections 5.4 and 11.7).

    Args:
        confidence: probability of each row's answer ``(n,)``.
        right: how right it is, in [0, 1] ``(n,)``.
        groups: group of each row ``(n,)``, most often its image.
        weights: what each row counts ``(n,)``, above 0; all alike where not given.

    Returns:
        the lowest confidence of all where all answers together are within the risk: of what is less sure than
        anything in these rows they say nothing; above 1 where no threshold is.
    """
    order = np.argsort(-confidence, kind="stable")
    ranked, weighed = confidence[order], np.ones(len(order)) if weights is None else weights[order]
    total, alike = np.cumsum(weighed), likeness(right - confidence, groups)
    before = pd.Series(weighed).groupby(groups[order]).cumsum().to_numpy() - weighed  # of the group, among the surer
    of_groups = weighed * (2 * before + weighed)  # what each row adds to the sum of squares of the groups' weights
    number = total**2 / np.cumsum((1 - alike) * weighed**2 + alike * of_groups)
    wrong = np.cumsum(weighed * (1 - right[order])) * number / total
    bounds = np.where(wrong < number, beta.ppf(CERTAINTY, wrong + 1, np.maximum(number - wrong, 1e-9)), 1)
    last_of_tie = np.append(ranked[1:] != ranked[:-1], True)
    allowed = np.flatnonzero((bounds <= risk) & last_of_tie)
    if not len(allowed):
        return float(np.nextafter(1, 2))
    return float(ranked[allowed[-1]])


def likeness(values: np.ndarray, groups: np.ndarray) -> float:
    """How alike the values of a group are, from 0 (no more than any) to 1 (all the same).

    The intraclass correlation by analysis of variance (Donner & Koval 1980); 0 where no group has two rows, and 1 where
    nothing varies, since then nothing is known of it.
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


def reliability(confidence: np.ndarray, right: np.ndarray, weights: np.ndarray | None = None) -> list[dict[str, float]]:
    """Rows, what they count together, mean confidence and accuracy of each bin of confidence that has rows."""
    number = np.minimum((confidence * BINS).astype(int), BINS - 1)
    weights = np.ones(len(number)) if weights is None else weights
    return [
        {
            "rows": int(there.sum()),
            "weight": float(weights[there].sum()),
            "confidence": float(np.average(confidence[there], weights=weights[there])),
            "accuracy": float(np.average(right[there], weights=weights[there])),
        }
        for there in (number == b for b in np.unique(number))
    ]


def calibration_error(bins: list[dict[str, float]]) -> float | None:
    """Expected calibration error: mean gap between confidence and accuracy over the rows (Naeini et al. 2015); ``None``
    of no rows."""
    if not bins:
        return None
    gaps = [abs(b["confidence"] - b["accuracy"]) for b in bins]
    return float(np.average(gaps, weights=[b["weight"] for b in bins]))


def risk_curve(
    confidence: np.ndarray, right: np.ndarray, weights: np.ndarray | None = None, points: int = 100
) -> dict[str, list[float]]:
    """Share of wrong answers among the surest, by the share of rows that are answered (Geifman & El-Yaniv 2017)."""
    order = np.argsort(-confidence, kind="stable")
    weighed = np.ones(len(order)) if weights is None else weights[order]
    total = np.cumsum(weighed)
    risks = np.cumsum(weighed * (1 - right[order])) / total
    places = np.unique(np.linspace(0, len(order) - 1, points).astype(int))
    return {"coverage": (total[places] / total[-1]).tolist(), "risk": risks[places].tolist()}


def calibration_figures(
    probabilities: np.ndarray, truth: Truth, groups: np.ndarray, temperature: float, threshold: float
) -> dict:
    """What the temperature and the threshold of a model do on rows it was not fitted on.

    Args:
        probabilities: ``(n, C)`` as the model gives them, the temperature applied.

    Returns:
        ``temperature``, ``threshold``, ``ece`` (``before`` and ``after`` the temperature, and ``known``, after it, on
        the rows that could be answered rightly), ``bins`` (of `reliability`, before and after), ``curve`` (of
        `risk_curve`), ``coverage`` (share of rows whose answer is sure enough) and ``risk`` (share of wrong answers
        among them, ``None`` where there are none), with intervals.
    """
    ways = {"before": tempered(probabilities, 1 / temperature, truth.label_type), "after": probabilities}
    bins = {
        way: reliability(confidence_of(p, truth.label_type), truth.right(p), truth.weights) for way, p in ways.items()
    }
    confidence, right = confidence_of(probabilities, truth.label_type), truth.right(probabilities)
    sure, known = confidence >= threshold, truth.best() > 0
    of_known = reliability(confidence[known], right[known], truth.select(known).weights)
    return {
        "temperature": temperature,
        "threshold": threshold,
        "ece": {way: calibration_error(b) for way, b in bins.items()} | {"known": calibration_error(of_known)},
        "bins": bins,
        "curve": risk_curve(confidence, right, truth.weights),
        "coverage": mean_interval(sure.astype(float), groups, weights=truth.weights),
        "risk": (
            mean_interval(1 - right[sure], groups[sure], weights=truth.select(sure).weights) if sure.any() else None
        ),
    }
