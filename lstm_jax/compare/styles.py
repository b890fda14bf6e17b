"""Colours and markers of the frameworks: each keeps its own in every picture, whoever else is in it."""

from typing import Any, NamedTuple


class Style(NamedTuple):
    """How a framework is drawn."""

    colour: str
    marker: str
    hollow: bool = False


# The hues are Okabe & Ito's, which the colour-blind tell apart, one for each family; within a family the
# shade differs. No two have the same marker, so that nothing hangs on the colour alone.
STYLES = {
    "lstm_jax-native": Style("#B84A00", "o"),
    "lstm_jax-fused": Style("#D55E00", "s"),
    "lstm_jax-scan": Style("#EB8F47", "^"),
    "lstm_jax-unrolled": Style("#F5B98C", "v"),
    "flax-rnn": Style("#004C7A", "<"),
    "flax-scan": Style("#0072B2", ">"),
    "flax-nnx": Style("#5AA9DB", "d"),
    "equinox": Style("#006B4E", "D"),
    "haiku": Style("#2DB98F", "P"),
    "keras-jax": Style("#8C3F6F", "o", hollow=True),
    "keras-tensorflow": Style("#CC79A7", "s", hollow=True),
    "keras-tensorflow-xla": Style("#E0A9C8", "^", hollow=True),
    "pytorch": Style("#000000", "X"),
    "pytorch-compile": Style("#666666", "*"),
    "onnxruntime": Style("#C79A00", "h"),
}
# Of one that a later version compares.
UNKNOWN = Style("#999999", ".")


def style_of(name: str) -> Style:
    """The colour and marker of a framework."""
    return STYLES.get(name, UNKNOWN)


def line_style(name: str) -> dict[str, Any]:
    """The same as matplotlib's options of a line."""
    style = style_of(name)
    face = "white" if style.hollow else style.colour
    return {"color": style.colour, "marker": style.marker, "markerfacecolor": face}
