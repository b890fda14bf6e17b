"""A few of the random stacks of `stacks.py`; ``python -m tests.stacks`` checks any number of them."""

import pytest

from tests import stacks

# One trace takes some tenths of a second, one comparison of numbers some seconds: it compiles two programs.
TRACED = range(8)
COMPARED = [
    (4, "fused", "float32"),
    (0, "fused", "bfloat16"),
    (5, "fused", "float64"),
    (1, "native", "float32"),
    (2, "native", "bfloat16"),
]


@pytest.mark.parametrize("implementation", ["fused", "native"])
def test_the_forward_rule_leaves_every_mapped_axis_where_the_function_does(implementation: str) -> None:
    checked = [
        stacks.check_axes(stacks.draw(number, "float32", gradient=False), implementation) for number in TRACED
    ]
    assert all(checked)  # each stack has the kernel in it


@pytest.mark.parametrize(("number", "implementation", "dtype"), COMPARED)
def test_results_and_gradients_of_a_stack(number: int, implementation: str, dtype: str) -> None:
    pytest.importorskip("torch")
    stacks.check_numbers(stacks.draw(number, dtype), implementation)
