"""Accuracy, calibration and errors of a model: the figures of ``python -m lstm_jax evaluate``.

An accuracy is a share of a sample. Its interval is Wilson's (1927), which holds near 100 % too, where the
usual p +- 1.96 sqrt(p (1 - p) / n) is too narrow and too high:

    (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)       z = 1.96 for 95 %

It says what other test images of the same kind would give. It says nothing of other seeds of training.

A model is calibrated if 90 % of the answers that it gives with probability 0.9 are right. The expected
calibration error (Guo et al. 2017, arXiv 1706.04599) is the mean distance from that. Examples go into 15
bins of equal width by the probability of the predicted class, and

    ECE = sum_bins  examples(bin) / n  |accuracy(bin) - mean probability(bin)|
"""

import dataclasses
import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from lstm_jax.evaluation import Evaluation, Predictions

CONFIDENCE = 0.95
CALIBRATION_BINS = 15


class Bin(NamedTuple):
    """The examples whose predicted class has a probability within certain bounds.

    Attributes:
        above: the lower bound, which does not belong to the bin.
        up_to: the upper bound, which does.
        examples: how many there are.
        probability: the mean probability of the predicted class; NaN without examples.
        accuracy: the share that is classified correctly; NaN without examples.
    """

    above: float
    up_to: float
    examples: int
    probability: float
    accuracy: float


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A misclassified example.

    Attributes:
        index: its number in the split, from 0.
        true: its class.
        named: the class that the model predicts.
        probability: of the predicted class.
        true_probability: of its class.
    """

    index: int
    true: int
    named: int
    probability: float
    true_probability: float


class Figures(NamedTuple):
    """All figures of a model on a split.

    Attributes:
        evaluation: loss, accuracy, confusion matrix.
        bins: calibration, from the lowest probability to the highest.
        mistakes: the misclassified examples, the most confident errors first.
    """

    evaluation: Evaluation
    bins: Sequence[Bin]
    mistakes: Sequence[Mistake]

    @property
    def examples(self) -> int:
        """Number of scored examples."""
        return int(np.sum(self.evaluation.confusion))

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's interval of the accuracy."""
        return wilson_interval(int(np.trace(self.evaluation.confusion)), self.examples)

    @property
    def class_intervals(self) -> list[tuple[float, float]]:
        """Wilson's interval of the accuracy within each class."""
        confusion = self.evaluation.confusion
        return [wilson_interval(int(row[name]), int(np.sum(row))) for name, row in enumerate(confusion)]

    @property
    def calibration_error(self) -> float:
        """The expected calibration error, from 0 to 1."""
        distances = (b.examples * abs(b.accuracy - b.probability) for b in self.bins if b.examples)
        return math.fsum(distances) / self.examples


def compute_figures(predictions: Predictions) -> Figures:
    """Count the predictions for a split, and sort the errors among them."""
    loss, probability, label = predictions
    named = np.argmax(probability, axis=1)
    sureness = np.max(probability, axis=1)
    num_classes = probability.shape[1]
    confusion = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(confusion, (label, named), 1)
    wrong = np.flatnonzero(named != label)
    by_sureness = wrong[np.argsort(-sureness[wrong], kind="stable")]
    return Figures(
        evaluation=Evaluation(float(np.mean(loss, dtype=np.float64)), confusion),
        bins=calibration_bins(sureness, named == label),
        mistakes=[
            Mistake(i, int(label[i]), int(named[i]), float(sureness[i]), float(probability[i, label[i]]))
            for i in by_sureness.tolist()
        ],
    )


def wilson_interval(right: int, examples: int, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval of the share ``right / examples``; (0, 1) without examples."""
    if not examples:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = right / examples
    middle = share + z**2 / (2 * examples)
    half = z * math.sqrt(share * (1 - share) / examples + z**2 / (4 * examples**2))
    scale = 1 + z**2 / examples
    # The share is inside; at 0 or 1 it is the bound itself. Rounding would put it outside.
    return min(share, (middle - half) / scale), max(share, (middle + half) / scale)


def calibration_bins(
    probability: Float32[np.ndarray, " examples"],
    right: Bool[np.ndarray, " examples"],
    *,
    count: int = CALIBRATION_BINS,
) -> list[Bin]:
    """Put examples into bins of equal width by the probability of their predicted class.

    Args:
        probability: of the predicted class, above 0.
        right: whether the predicted class is the true one.
        count: number of bins.
    """
    edges = np.linspace(0, 1, count + 1)
    # A softmax may round to a little above 1.
    number = np.searchsorted(edges, np.minimum(probability.astype(np.float64), 1.0), side="left") - 1
    examples: Int[np.ndarray, " bins"] = np.bincount(number, minlength=count)
    return [
        Bin(float(edges[i]), float(edges[i + 1]), int(examples[i]), probability_i, accuracy_i)
        for i, (probability_i, accuracy_i) in enumerate(
            zip(_means(probability, number, examples), _means(right, number, examples), strict=True)
        )
    ]


def _means(
    values: np.ndarray, number: Int[np.ndarray, " examples"], examples: Int[np.ndarray, " bins"]
) -> list[float]:
    sums: Float[np.ndarray, " bins"] = np.bincount(number, values.astype(np.float64), len(examples))
    return [float(total) / n if n else math.nan for total, n in zip(sums, examples.tolist(), strict=True)]


def as_text(figures: Figures, *, most_mistakes: int) -> str:
    """Format figures as a page of text.

    Args:
        figures: the figures.
        most_mistakes: how many of the mistakes to list.
    """
    return "\n".join(
        [
            *_overall_lines(figures),
            "",
            *_class_lines(figures),
            "",
            *_calibration_lines(figures),
            "",
            *_mistake_lines(figures, most_mistakes),
            "",
            *_confusion_lines(figures.evaluation.confusion),
        ]
    )


def _overall_lines(figures: Figures) -> list[str]:
    right, evaluation = figures.examples - len(figures.mistakes), figures.evaluation
    return [
        f"loss {evaluation.loss:.4f}",
        f"accuracy {evaluation.accuracy:.2%} ({right:,} of {figures.examples:,}), "
        f"{CONFIDENCE:.0%} interval {_range(figures.interval)}",
        f"expected calibration error {figures.calibration_error:.2%}",
    ]


def _class_lines(figures: Figures) -> list[str]:
    accuracies = figures.evaluation.class_accuracy
    return [
        "accuracy per class",
        *(
            f"{name:3d} {accuracy:8.2%}  {_range(interval)}"
            for name, (accuracy, interval) in enumerate(zip(accuracies, figures.class_intervals, strict=True))
        ),
    ]


def _calibration_lines(figures: Figures) -> list[str]:
    return [
        "calibration (probability of the predicted class: examples, mean probability, accuracy)",
        *(
            f"{b.above:6.1%} to {b.up_to:6.1%} {b.examples:7,d} {b.probability:8.2%} {b.accuracy:8.2%}"
            for b in figures.bins
            if b.examples
        ),
    ]


def _mistake_lines(figures: Figures, most: int) -> list[str]:
    shown = figures.mistakes[:most]
    which = (
        f"the {len(shown)} most confident" if len(shown) < len(figures.mistakes) else "most confident first"
    )
    return [
        f"misclassified: {len(figures.mistakes):,}, {which} (index, true, predicted, probability)",
        *(f"{m.index:6d} {m.true:3d} {m.named:3d} {m.probability:8.2%}" for m in shown),
    ]


def _confusion_lines(confusion: Int[np.ndarray, "classes classes"]) -> list[str]:
    width = max(5, len(str(confusion.max())) + 1)
    return [
        "confusion matrix (row: true class, column: predicted class)",
        "   " + "".join(f"{name:{width}d}" for name in range(len(confusion))),
        *(f"{name:3d}" + "".join(f"{count:{width}d}" for count in row) for name, row in enumerate(confusion)),
    ]


def _range(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.2%} to {interval[1]:.2%}"


def as_json(figures: Figures) -> dict[str, Any]:
    """Convert figures to JSON values; undefined numbers are null."""
    evaluation = figures.evaluation
    classes = zip(
        np.sum(evaluation.confusion, axis=1).tolist(),
        evaluation.class_accuracy.tolist(),
        figures.class_intervals,
        strict=True,
    )
    return {
        "examples": figures.examples,
        "loss": evaluation.loss,
        "accuracy": evaluation.accuracy,
        "accuracy_interval": list(figures.interval),
        "confidence": CONFIDENCE,
        "expected_calibration_error": figures.calibration_error,
        "classes": [
            {"examples": examples, "accuracy": _or_null(accuracy), "accuracy_interval": list(interval)}
            for examples, accuracy, interval in classes
        ],
        "confusion": evaluation.confusion.tolist(),
        "calibration": [
            {**b._asdict(), "probability": _or_null(b.probability), "accuracy": _or_null(b.accuracy)}
            for b in figures.bins
        ],
        "mistakes": [dataclasses.asdict(mistake) for mistake in figures.mistakes],
    }


def _or_null(value: float) -> float | None:
    return None if math.isnan(value) else value
