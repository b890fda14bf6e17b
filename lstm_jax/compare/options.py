"""What can be asked of the comparison. Nothing heavy is imported here, as in `lstm_jax.config`."""

import dataclasses
import difflib
import shlex
from pathlib import Path
from typing import Annotated, Literal

from lstm_jax.benchmark.options import LARGEST
from lstm_jax.benchmark.size import Size
from lstm_jax.compare.frameworks import FRAMEWORKS
from lstm_jax.config import option, recipe_config, shown_option
from lstm_jax.errors import ConfigError
from lstm_jax.system.cores import CAN_BE_LIMITED, usable_cores

# An image has rows of 28 pixels; sequences of any length are made of the rows of real digits.
INPUTS = 28


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compare:
    """Compare frameworks on the same work: first whether they compute the same, then speed and accuracy.

    Each framework runs in a process of its own. Those that are not installed are named, with what to
    install.
    """

    frameworks: Annotated[str | None, shown_option("NAME,NAME,...", "all")] = None
    """Which to compare."""
    hidden_size: int = 64
    """Hidden units."""
    batch_size: Annotated[int | None, shown_option("INT", "that of the recipe")] = None
    """Sequences per step."""
    time_steps: int = 28
    """Time steps of each sequence: rows of 28 pixels. Accuracy is compared at 28 alone, a whole digit."""
    recipe: Literal["tutorial", "fast"] = "tutorial"
    """What learns in the comparison of accuracy, as train.py has it; all else has its batch size too."""
    epochs: int = 5
    """Epochs of the comparison of accuracy, where the recipe has no number of steps; 0 leaves it out."""
    seeds: int = 3
    """Runs of the comparison of accuracy, each with its own initial weights and order."""
    repeats: int = 15
    """Rounds of timing, in which all take turns; the curves over sizes, and a quick look, take at most 5."""
    scaling: bool = True
    """Time larger and smaller hidden sizes, batches and sequences as well."""
    threads: Annotated[int | None, shown_option("INT", "all")] = None
    """Processor cores that each framework may use."""
    quick: bool = False
    """A first look: few rounds, no curves, no accuracy; and, unless named, none that compile for long, and
    one for all of a kind."""
    against: Annotated[Path | None, shown_option("FILE", "none")] = None
    """The results.json of an earlier comparison, to say what is faster or slower now."""
    data_dir: Annotated[Path | None, shown_option("DIR", "$TFDS_DATA_DIR, else ~/tensorflow_datasets")] = None
    """Folder of prepared data sets."""
    output: Annotated[Path | None, shown_option("DIR", "comparison; with --quick, comparison-quick")] = None
    """Folder for results.json, pictures and report.html; a comparison that was stopped in it goes on."""
    overwrite: bool = False
    """Begin anew, in the place of the comparison that is in this folder."""

    def __post_init__(self) -> None:
        """Refuse impossible values, naming the option, what it got and what it accepts."""
        least = {"hidden_size": 1, "batch_size": 1, "time_steps": 1, "epochs": 0, "seeds": 1, "repeats": 1}
        for field, smallest in least.items():
            if getattr(self, field) is not None:
                _check(field, getattr(self, field), smallest, LARGEST)
        if self.threads is not None:
            if not CAN_BE_LIMITED:
                raise ConfigError("--threads: this system cannot limit a process to some cores; leave it out")
            _check("threads", self.threads, 1, len(usable_cores()))
        for name in self.names():
            if name not in FRAMEWORKS:
                close = difflib.get_close_matches(name, FRAMEWORKS, 1)
                guess = f" (did you mean {close[0]}?)" if close else ""
                raise ConfigError(
                    f"--frameworks: got {name!r}{guess}, expected some of {', '.join(FRAMEWORKS)}"
                )

    def names(self) -> tuple[str, ...]:
        """The frameworks asked for, in the order of tables."""
        if self.frameworks is None:
            return tuple(FRAMEWORKS)
        asked = self.frameworks.split(",")
        return tuple(sorted(set(asked), key=lambda name: [*FRAMEWORKS, *asked].index(name)))

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
        words = ["python", "-m", "lstm_jax", "compare"]
        for field in dataclasses.fields(self):
            value = self.size().batch if field.name == "batch_size" else getattr(self, field.name)
            if field.name in ("against", "data_dir", "output", "overwrite") or value is None:
                continue
            if isinstance(value, bool):
                words.append(option(field.name if value else f"no_{field.name}"))
            else:
                words += [option(field.name), str(value)]
        return shlex.join(words)

    def run(self) -> int:
        """Compare; the table goes to standard output as soon as all is measured."""
        from lstm_jax.compare import command

        return command.run(self)


def _check(field: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ConfigError(f"{option(field)}: got {value}, expected a whole number from {least} to {most}")
