"""What an option is: a field of a frozen dataclass, with its rule beside it.

    hidden_size: Annotated[int, whole_number(1, 2**16)] = 64

A dataclass of options may have groups: fields that hold another one. An option has one flat name, whatever
its group: that of its field, or the one that tyro's ``arg(name=...)`` gives it. The command line, files and
messages use it.

Nothing heavy is imported here, so that ``--help`` answers at once.
"""

import dataclasses
import difflib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from tyro.conf import arg

from lstm_jax.errors import ConfigError, printable

_FLOAT32_MAX = 3.4e38


class Rule(NamedTuple):
    """A condition on the value of an option, in words and as a test."""

    accepted: str
    fits: Callable[[Any], bool]


def whole_number(at_least: int, at_most: int) -> Rule:
    """Accept whole numbers from ``at_least`` to ``at_most``."""

    def fits(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and at_least <= value <= at_most

    return Rule(f"a whole number from {at_least} to {at_most}", fits)


def number(accepted: str, within: Callable[[float], bool]) -> Rule:
    """Accept the numbers of float32 that are ``within`` some bounds; ``accepted`` says which."""

    def fits(value: Any) -> bool:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        # Compare first: a whole number may be too large for a float. A comparison with NaN is false.
        return is_number and abs(value) <= _FLOAT32_MAX and within(value)

    return Rule(accepted, fits)


def between(low: float, high: float, what: str = "a number") -> Rule:
    """Accept the numbers from ``low`` to ``high``, both included."""
    return number(f"{what} from {low:g} to {high:g}", lambda x: low <= x <= high)


POSITIVE = number("a number above 0 (and at most 3.4e38)", lambda x: x > 0)
SHARE = number("a number from 0 up to, not including, 1", lambda x: 0 <= x < 1)


def shown_option(metavar: str, default: str) -> Any:
    """Say how ``--help`` shows an option whose default, None, stands for something else."""
    return arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


class Option(NamedTuple):
    """A field of a dataclass of options, or of one of its groups.

    Attributes:
        name: its flat name.
        field: the name of the field.
        group: the field that holds the group that it is in; empty if it is in none.
        owner: the class whose field it is.
        kind: its type, without annotations.
        marks: the annotations of its type.
        default: the value that it has if none is given.
    """

    name: str
    field: str
    group: str
    owner: type
    kind: Any
    marks: tuple[Any, ...]
    default: Any

    @property
    def kinds(self) -> tuple[Any, ...]:
        """The alternatives of its type: ``int`` and ``None`` of ``int | None``."""
        return get_args(self.kind) if get_origin(self.kind) in (Union, UnionType) else (self.kind,)

    @property
    def rule(self) -> Rule | None:
        """Its rule: the one beside it, or what its type says; None is accepted where the type has it."""
        words = tuple(word for kind in self.kinds if get_origin(kind) is Literal for word in get_args(kind))
        others = [kind for kind in self.kinds if get_origin(kind) is not Literal and kind is not NoneType]
        if given := [mark for mark in self.marks if isinstance(mark, Rule)]:
            accepted = given[0].accepted + "".join(f", or {word!r}" for word in words)
            fits = given[0].fits
        elif not others:
            accepted, fits = f"one of {', '.join(words)}", lambda value: False
        elif others == [bool]:
            accepted, fits = "True or False", lambda value: isinstance(value, bool)
        elif others == [Path]:
            accepted, fits = "a path", lambda value: isinstance(value, str | Path)
        else:
            return None
        may_be_none = NoneType in self.kinds
        return Rule(accepted, lambda value: may_be_none if value is None else fits(value) or value in words)

    def mark(self, attribute: str) -> Any:
        """Return what the first of its annotations that has such an attribute gives it, or None."""
        found = (getattr(each, attribute, None) for each in self.marks)
        return next((value for value in found if value is not None), None)

    def of(self, options: Any) -> Any:
        """Return its value in an instance of the dataclass of options."""
        return getattr(getattr(options, self.group) if self.group else options, self.field)


def options_of(kind: type) -> tuple[Option, ...]:
    """Return the options of a dataclass and of its groups, in the order in which they stand."""
    found: list[Option] = []
    for field in dataclasses.fields(kind):
        annotated: Any = field.type
        base, *marks = get_args(annotated) if get_origin(annotated) is Annotated else (annotated,)
        if isinstance(base, type) and dataclasses.is_dataclass(base):
            found += [option._replace(group=field.name) for option in options_of(base)]
        else:
            option = Option(field.name, field.name, "", kind, base, tuple(marks), field.default)
            found.append(option._replace(name=option.mark("name") or field.name))
    return tuple(found)


def values_of(options: Any) -> dict[str, Any]:
    """Return the values of all options, by flat name."""
    return {option.name: option.of(options) for option in options_of(type(options))}


def check(options: Any) -> None:
    """Refuse impossible values in a dataclass of options; each of its groups has checked itself.

    Users may give a path as text, with ``~`` for their home; a `Path` without it is put in its place.

    Raises:
        ConfigError: naming the option, what it got and what it accepts.
    """
    for option in options_of(type(options)):
        if option.group or (rule := option.rule) is None:
            continue
        value = option.of(options)
        if not rule.fits(value):
            raise refusal(option.name, value, rule.accepted)
        if Path in option.kinds and value is not None:
            # The class is frozen for all but its maker.
            object.__setattr__(options, option.field, _expanded(option.name, Path(value)))


def flag(name: str) -> str:
    """Return the name of an option on the command line: ``batch_size`` -> ``--batch-size``."""
    return "--" + name.replace("_", "-")


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return, for a message, the known name that is most like an unknown one; empty if none is."""
    close = difflib.get_close_matches(name, known, 1)
    return f" (did you mean {close[0]}?)" if close else ""


def refusal(name: str, value: object, accepted: str) -> ConfigError:
    """Make the error of an option with an impossible value."""
    return ConfigError(f"{flag(name)}: got {short(repr(value))}, expected {accepted}")


def contradiction(options: Any, name: str, other: str, *, expected: str) -> ConfigError:
    """Make the error of an option whose value is impossible beside that of another."""
    values = values_of(options)
    return ConfigError(
        f"{flag(name)}: got {values[name]} with {flag(other)} {values[other]}, expected {expected}"
    )


def short(text: str) -> str:
    """Fit what somebody wrote into a config.json on one line of a terminal."""
    return printable(text if len(text) <= 200 else f"{text[:200]} ...")


def _expanded(name: str, path: Path) -> Path:
    try:
        if "\0" in os.fsdecode(os.fsencode(path)):  # text that cannot be encoded is no path either
            raise refusal(name, str(path), "a path")
        return path.expanduser()
    except UnicodeEncodeError as error:
        raise refusal(name, str(path), "a path") from error
    except RuntimeError as error:
        raise refusal(name, str(path), "a folder; there is no such home directory") from error
