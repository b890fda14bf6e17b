"""The size of a task, and the arithmetic that it takes."""

from types import MappingProxyType
from typing import NamedTuple


class Size(NamedTuple):
    """The size of a task: hidden units H, sequences B, time steps T, inputs D of each step."""

    hidden: int
    batch: int
    time: int
    inputs: int


# The sizes that curves are drawn over, in words.
AXES = MappingProxyType({"hidden": "hidden size", "batch": "batch size", "time": "time steps"})


def forward_flop(size: Size) -> int:
    """Additions and multiplications of the matrix products of a forward pass, those of the LSTM alone.

    Four gates, each (B, D + H) by (D + H, H) in every step; a product of n by k by m takes 2 n k m.
    """
    return 8 * size.time * size.batch * (size.inputs + size.hidden) * size.hidden


def train_flop(size: Size) -> int:
    """The same of a gradient or train step: the backward pass has two products for each one forward.

    But not that which would give the gradient by the inputs: nobody needs it.
    """
    return 3 * forward_flop(size) - 8 * size.time * size.batch * size.inputs * size.hidden
