"""docs/options.md: the options of training and the recipes, as tables that are made from the code.

python -m lstm_jax.commands.options_page > docs/options.md
"""

import ast
import functools
import inspect
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, get_args, get_origin

from lstm_jax.cluster.options import ClusterOptions
from lstm_jax.config import Config
from lstm_jax.options import flag, options_of
from lstm_jax.recipes import RECIPES

COMMAND = "python -m lstm_jax.commands.options_page > docs/options.md"

_PAGE = """<!-- Made by {command} -->
# Options of training

`python train.py --help` and `python -m lstm_jax train --help` say the same. [training.md](training.md) has
examples.

- A recipe is a named set of defaults; any option may be given besides.
- What a recipe switches on is switched off by `--no-train-on-all` and the like, by 0 for a number, or by
  `None` where the default below is "none" (`--clip-norm None`).

| option | value | default | meaning |
|---|---|---|---|
{options}

## Many processes

[many-machines.md](many-machines.md) has examples. A run may go on with others of them.

| option | value | default | meaning |
|---|---|---|---|
{cluster}

## Recipes

| recipe | purpose | options that differ from the defaults |
|---|---|---|
{recipes}
"""


class Row(NamedTuple):
    """What is said of an option.

    Attributes:
        name: its name on the command line.
        values: what it can be.
        default: what it is if it is not given.
        meaning: what it does.
    """

    name: str
    values: str
    default: str
    meaning: str


def page() -> str:
    """Return the whole page, in Markdown."""
    options, cluster = (
        "\n".join(f"| `{row.name}` | {row.values} | {row.default} | {row.meaning} |" for row in rows(kind))
        for kind in (Config, ClusterOptions)
    )
    recipes = (
        f"| `{name}` | {recipe.purpose} | {_as_words(recipe.options)} |" for name, recipe in RECIPES.items()
    )
    return _PAGE.format(command=COMMAND, options=options, cluster=cluster, recipes="\n".join(recipes))


def rows(kind: type) -> Iterator[Row]:
    """Yield a row for each option of a class, in its order."""
    for option in options_of(kind):
        hint = option.mark("help_behavior_hint")
        if option.kind is bool:
            values, default = "switch", "on" if option.default else "off"
        else:
            choices = get_args(option.kind) if get_origin(option.kind) is Literal else ()
            names = ", ".join(f"`{choice}`" for choice in choices)
            values = names or (option.mark("metavar") or option.kind.__name__.upper()).replace("|", " or ")
            default = f"`{option.default}`" if hint is None else _without_brackets(hint)
        meaning = option.mark("help") or _docstrings(option.owner)[option.field]
        meaning = " ".join(meaning.split()).replace("|", "\\|")
        if option.name == "recipe":  # the purposes that --help adds have a table of their own
            meaning = meaning.partition(".")[0] + "."
        yield Row(flag(option.name), values, default, meaning)


def _without_brackets(hint: str) -> str:
    """Return what ``(default: 3)`` says."""
    return hint.removeprefix("(default: ").removesuffix(")")


@functools.cache
def _docstrings(kind: type) -> Mapping[str, str]:
    """Return the string below each field of a class, which Python itself does not keep."""
    (definition,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(definition, ast.ClassDef)
    told = {}
    for field, below in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
            assert isinstance(field.target, ast.Name)
            told[field.target.id] = ast.literal_eval(below.value)
    return told


def _as_words(options: Mapping[str, Any]) -> str:
    """Return options as they are given on the command line."""
    words = (flag(key) if value is True else f"{flag(key)} {value}" for key, value in options.items())
    return f"`{' '.join(words)}`" if options else "none: it is the defaults"


if __name__ == "__main__":
    print(page(), end="")
