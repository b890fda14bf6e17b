"""The size of a task, and its number of operations."""

from types import MappingProxyType
from typing import NamedTuple


class Size(NamedTuple):
    """The size of a task: hidden units H, sequences B, time steps T, inputs D of each step."""

    hidden: int
    batch: int
    time: int
    inputs: int


# The sizes that curves are drawn over, with their names in words.
AXES = MappingProxyType({"hidden": "hidden size", "batch": "batch size", "time": "time steps"})


def forward_flop(size: Size) -> int:
    """Count the additions and multiplications in the matrix products of the LSTM, in a forward pass.

    There are four gates, each (B, D + H) by (D + H, H) in every step. A product of n by k by m takes 2 n k m.
    """
    return 8 * size.time * size.batch * (size.inputs + size.hidden) * size.hidden


def train_flop(size: Size) -> int:
    """Count the same for a gradient or train step: the backward pass has two products for each forward one.

    The product for the gradient with respect to the images does not count, because it is not needed.
    """
    return 3 * forward_flop(size) - 8 * size.time * size.batch * size.inputs * size.hidden
