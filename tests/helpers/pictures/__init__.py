"""Pictures of digits of many kinds, and pictures of other things, each with a seed.

`KINDS` draws an image of MNIST anew, `OTHERS` what is not one digit. Every public function of a module below
is one kind, and its name is the kind's. Their order is that of the tables in docs/pictures-of-digits.md.
"""

from collections.abc import Callable
from inspect import isfunction
from types import ModuleType

from tests.helpers.pictures import crops, files, inks, light, others, plain, sheets
from tests.helpers.pictures.drawing import LABELS, MNIST, Digit, Drawn, Generator, save, two_of_each

__all__ = ["KINDS", "LABELS", "MNIST", "OTHERS", "save", "two_of_each"]


def _public_functions(*modules: ModuleType) -> dict[str, Callable[..., Drawn]]:
    return {
        name: function
        for module in modules
        for name, function in vars(module).items()
        if isfunction(function) and function.__module__ == module.__name__ and not name.startswith("_")
    }


KINDS: dict[str, Callable[[Digit, Generator], Drawn]] = _public_functions(
    plain, light, sheets, inks, crops, files
)
OTHERS: dict[str, Callable[[Generator], Drawn]] = _public_functions(others)
