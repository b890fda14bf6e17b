"""A run as one page of HTML: its options, learning curves, confusions, calibration and mistakes."""

from collections.abc import Mapping, Sequence

from lstm_jax.config import Config
from lstm_jax.data.dataset import Split
from lstm_jax.errors import printable
from lstm_jax.options import flag
from lstm_jax.report import plots
from lstm_jax.report.drawing import as_files
from lstm_jax.report.figures import CONFIDENCE, Figures
from lstm_jax.report.files import plots_of
from lstm_jax.report.page import page
from lstm_jax.report.tables import Table, as_markdown
from lstm_jax.runs.run_directory import CONFUSION, LEARNING, Record
from lstm_jax.runs.summary import result_in_words

# What the page says of each picture: heading, description for those who cannot see it, how to read it.
SECTIONS: Mapping[str, tuple[str, str, str]] = {
    LEARNING: (
        "Learning curves",
        "Loss and accuracy over the epochs",
        "Accuracies are on a scale that is stretched towards 100 %. Of many seeds: their mean, and a band "
        "from the lowest to the highest.",
    ),
    CONFUSION: (
        "Confusions",
        "Confusion matrix",
        "How many test images of each class (row) the model took for each class (column). In colour: errors.",
    ),
    "calibration": (
        "Calibration",
        "Accuracy against probability, in bins",
        "Where a bar ends on the dashed line, the model is right as often as it says.",
    ),
    "mistakes": (
        "Misclassified digits",
        "Misclassified images, each with the probability of its predicted and of its true class",
        "The most confident mistakes first. In orange the predicted class, in blue the true one.",
    ),
}


def run_page(
    name: str,
    config: Config,
    *,
    about: str,
    seeds: Sequence[Sequence[Record]],
    summary: Record | None,
    figures: Figures,
    split: Split,
) -> str:
    """Make the page of a run.

    Args:
        name: the name of the run.
        config: its options.
        about: which of its models was evaluated, and on what.
        seeds: the records of each seed.
        summary: what summary.json says; None if the run is not finished.
        figures: the evaluation.
        split: the examples that it is about.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    drawn = {LEARNING: plots.learning_curves({name: seeds})} if any(seeds) else {}
    drawn |= plots_of(figures, split)
    low, high = figures.interval
    evaluation = figures.evaluation
    parts = [
        f"# Run {_code(name)}",
        f"{about[:1].upper()}{about[1:]}:\n"
        f"accuracy **{evaluation.accuracy:.2%}**, {CONFIDENCE:.0%} interval {low:.2%} to {high:.2%};\n"
        f"loss {evaluation.loss:.4f}; expected calibration error {figures.calibration_error:.2%}.",
        _result(summary),
    ]
    for kind in drawn:
        heading, description, how_to_read = SECTIONS[kind]
        parts.append(f"## {heading}\n\n![{description}]({kind}.svg)\n\n*{how_to_read}*")
    parts.append(f"## Options\n\n{as_markdown(_options(config))}")
    pictures = {f"{kind}.svg": as_files(figure, suffixes=["svg"])["svg"] for kind, figure in drawn.items()}
    return page("\n\n".join(parts), pictures)


def _result(summary: Record | None) -> str:
    """Return the result of a run in words."""
    if summary is None:
        return "The run is not finished."
    try:
        return "  \n".join(result_in_words(summary))
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return "Its summary.json has no result: the command that trained the run writes it again."


def _code(text: object) -> str:
    """Return a text as code in Markdown, where nothing in it is a mark."""
    return f"`{printable(str(text)).replace('`', '')}`"


def _options(config: Config) -> Table:
    """Return a table of all options; those that differ from the defaults are in bold."""
    unusual = config.unusual()
    rows = []
    for name, value in config.to_dict().items():
        told = {None: "none", "True": "yes", "False": "no"}.get(value if value is None else str(value), value)
        rows.append((_code(flag(name)), f"**{_code(told)}**" if name in unusual else _code(told)))
    return Table(("option", "value"), rows, ("In bold: what differs from the defaults.",), of_words=True)
