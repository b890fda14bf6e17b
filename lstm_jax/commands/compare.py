"""The options of ``python -m lstm_jax compare``. Nothing heavy is imported here."""

import dataclasses
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from lstm_jax.compare.frameworks import FRAMEWORKS
from lstm_jax.compare.size import Size
from lstm_jax.config import recipe_config
from lstm_jax.errors import ConfigError
from lstm_jax.options import check, did_you_mean, flag, refusal, shown_option, whole_number
from lstm_jax.system.cores import CAN_BE_LIMITED, usable_cores

# An image has rows of 28 pixels; sequences of any length are made of the rows of real digits.
INPUTS = 28
# No machine could do more.
LARGEST = 2**24
COUNT = whole_number(1, LARGEST)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compare:
    """Compare frameworks on the same work: first whether they compute the same, then speed and accuracy.

    Each framework runs in a process of its own. Those that are not installed are named, with what to
    install.
    """

    frameworks: Annotated[str | None, shown_option("NAME,NAME,...", "all")] = None
    """Which to compare."""
    hidden_size: Annotated[int, COUNT] = 64
    """Hidden units."""
    batch_size: Annotated[int | None, COUNT, shown_option("INT", "that of the recipe")] = None
    """Sequences per step."""
    time_steps: Annotated[int, COUNT] = 28
    """Time steps of each sequence: rows of 28 pixels. Accuracy is compared at 28 alone, a whole digit."""
    recipe: Literal["tutorial", "fast"] = "tutorial"
    """What learns in the comparison of accuracy, as train.py has it; all else has its batch size too."""
    epochs: Annotated[int, whole_number(0, LARGEST)] = 5
    """Epochs of the comparison of accuracy, where the recipe has no number of steps; 0 leaves it out."""
    seeds: Annotated[int, COUNT] = 3
    """Runs of the comparison of accuracy, each with its own initial weights and order."""
    repeats: Annotated[int, COUNT] = 15
    """Rounds of timing, in which all take turns; the curves over sizes, and a quick look, take at most 5."""
    scaling: bool = True
    """Time larger and smaller hidden sizes, batches and sequences as well."""
    threads: Annotated[int | None, shown_option("INT", "all")] = None
    """Processor cores that each framework may use."""
    quick: bool = False
    """A first look: few rounds, no curves, no accuracy; and, unless named, none that compile for long, and
    one for all of a kind."""
    data_dir: Annotated[Path | None, shown_option("DIR", "$TFDS_DATA_DIR, else ~/tensorflow_datasets")] = None
    """Folder of prepared data sets."""
    output: Annotated[Path | None, shown_option("DIR", "comparison; with --quick, comparison-quick")] = None
    """Folder for results.json, pictures and report.html; a comparison that was stopped in it goes on."""
    overwrite: bool = False
    """Begin anew, in the place of the comparison that is in this folder."""

    def __post_init__(self) -> None:
        """Refuse impossible values, naming the option, what it got and what it accepts."""
        check(self)
        if self.threads is not None:
            if not CAN_BE_LIMITED:
                raise ConfigError("--threads: this system cannot limit a process to some cores; leave it out")
            threads = whole_number(1, len(usable_cores()))
            if not threads.fits(self.threads):
                raise refusal("threads", self.threads, threads.accepted)
        self.names()

    def names(self) -> tuple[str, ...]:
        """The frameworks asked for, in the order of tables."""
        if self.frameworks is None:
            return tuple(name for name, each in FRAMEWORKS.items() if each.in_quick or not self.quick)
        return chosen_names("frameworks", self.frameworks, tuple(FRAMEWORKS))

    @property
    def folder(self) -> Path:
        """Where the results go; a quick look does not stand in the way of a whole comparison."""
        return self.output or Path("comparison-quick" if self.quick else "comparison")

    def size(self) -> Size:
        """The size at which all is compared."""
        batch = self.batch_size or recipe_config(self.recipe).batch_size
        return Size(self.hidden_size, batch, self.time_steps, INPUTS)

    def cores(self) -> tuple[int, ...]:
        """The processor cores that each framework may use."""
        return usable_cores()[: self.threads]

    def command(self) -> str:
        """A command line that asks for the same, whatever the defaults of the day; but without places."""
        written_out = dataclasses.replace(self, batch_size=self.size().batch)
        return command_line_of("compare", written_out, without=("data_dir", "output", "overwrite"))

    def run(self) -> int:
        """Compare; the tables go to standard output as soon as all is measured."""
        from lstm_jax.commands.command_line import note
        from lstm_jax.compare import comparison

        plan = comparison.ComparisonPlan(
            command=self.command(),
            folder=self.folder,
            frameworks={name: FRAMEWORKS[name] for name in self.names()},
            size=self.size(),
            cores=self.cores(),
            steps=20 if self.quick else 100,
            rounds=min(self.repeats, 5) if self.quick else self.repeats,
            recipe=self.recipe,
            epochs=0 if self.quick else self.epochs,
            seeds=self.seeds,
            scaling=self.scaling and not self.quick,
            quick=self.quick,
            overwrite=self.overwrite,
        )
        comparison.run(plan, data_dir=self.data_dir, report=note)
        return 0


def chosen_names(field: str, text: str, known: Sequence[str]) -> tuple[str, ...]:
    """The names of a list such as ``NAME,NAME``, in the order in which they are known.

    Raises:
        ConfigError: if one of them is unknown.
    """
    asked = text.split(",")
    for name in asked:
        if name not in known:
            guess = did_you_mean(name, known)
            raise ConfigError(f"{flag(field)}: got {name!r}{guess}, expected some of {', '.join(known)}")
    return tuple(name for name in known if name in asked)


def command_line_of(command: str, options: Any, *, without: Collection[str] = ()) -> str:
    """The command line of a dataclass of options, without some of its fields."""
    words = ["python", "-m", "lstm_jax", command]
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if field.name in without or value is None:
            continue
        if isinstance(value, bool):
            words.append(flag(field.name if value else f"no_{field.name}"))
        else:
            words += [flag(field.name), str(value)]
    return shlex.join(words)
