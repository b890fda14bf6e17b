"""What can be asked of the benchmark. Nothing heavy is imported here, as in `lstm_jax.config`."""

import shlex
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from lstm_jax.benchmark.size import Size
from lstm_jax.config import option
from lstm_jax.errors import ConfigError

# In the order of tables and plots.
CANDIDATES = ("flax", "flax-optimized", "scan", "unrolled", "fused", "native", "pytorch")

LARGEST = 2**24

NumberList = Annotated[str, arg(metavar="INT,INT,...")]
NameList = Annotated[str, arg(metavar="NAME,NAME,...")]


@dataclass(frozen=True)
class Benchmark:
    """Time the forward pass, the gradient and the train step of each implementation, side by side."""

    hidden_size: NumberList = "64"
    """Hidden units: one or more numbers."""
    batch_size: NumberList = "128"
    """Sequences per step, over all devices: one or more numbers."""
    time_steps: NumberList = "28"
    """Time steps of each sequence: one or more numbers."""
    inputs: int = 28
    """Inputs of each time step."""
    implementations: NameList = "flax,flax-optimized,fused,native,pytorch"
    """Which to time; also 'scan' and 'unrolled'. Those that cannot run here are named with the reason."""
    devices: int = 1
    """Devices to share each batch in JAX. On a CPU, N makes N CPU devices."""
    rounds: int = 7
    """How often each is timed; they take turns."""
    seconds: float = 0.3
    """Shortest time of one measurement, in seconds; it is filled with steps, at least one."""
    output: Annotated[Path, arg(metavar="DIR")] = Path("benchmark")
    """Folder for results.json, plot.png and plot.svg."""

    def __post_init__(self) -> None:
        """Refuse impossible values, naming the option, what it got and what it accepts."""
        for field in ("hidden_size", "batch_size", "time_steps"):
            _numbers(field, getattr(self, field))
        for field in ("inputs", "devices", "rounds"):
            value = getattr(self, field)
            if not 1 <= value <= LARGEST:
                raise _refusal(field, str(value), f"a whole number from 1 to {LARGEST}")
        if not 0 < self.seconds <= 3600:
            raise _refusal("seconds", str(self.seconds), "more than 0, at most 3600")
        for size in self.sizes():
            if size.batch % self.devices:
                expected = f"multiples of {self.devices}, the number of devices"
                raise _refusal("batch_size", str(size.batch), expected)
        names = self.implementations.split(",")
        if len(set(names)) < len(names) or not set(names) <= set(CANDIDATES):
            expected = f"different ones of {', '.join(CANDIDATES)}"
            raise _refusal("implementations", repr(self.implementations), expected)

    def candidates(self) -> tuple[str, ...]:
        """The names of the implementations, in the order of `CANDIDATES`."""
        return tuple(name for name in CANDIDATES if name in self.implementations.split(","))

    def sizes(self) -> tuple[Size, ...]:
        """All combinations of the sizes asked for, the hidden size running fastest."""
        times, batches, hiddens = (
            _numbers(field, getattr(self, field)) for field in ("time_steps", "batch_size", "hidden_size")
        )
        return tuple(Size(h, b, t, self.inputs) for t, b, h in product(times, batches, hiddens))

    def command(self) -> str:
        """A command line that asks for the same, whatever the defaults of the day."""
        words = ["python", "-m", "lstm_jax", "benchmark"]
        for field in fields(self):
            words += [option(field.name), str(getattr(self, field.name))]
        return shlex.join(words)

    def run(self) -> int:
        """Measure; print a table per size as soon as it is there."""
        from lstm_jax.benchmark import sweep

        sweep.run(self)
        return 0


def _numbers(field: str, text: str) -> tuple[int, ...]:
    """The whole numbers of a list such as ``32,64``."""
    words = text.split(",")
    numbers = tuple(int(word) for word in words if word.isascii() and word.isdigit())
    possible = all(1 <= number <= LARGEST for number in numbers)
    if len(set(numbers)) < len(words) or not possible:
        raise _refusal(field, repr(text), f"different whole numbers from 1 to {LARGEST}, as in 32,64")
    return numbers


def _refusal(field: str, got: str, expected: str) -> ConfigError:
    return ConfigError(f"{option(field)}: got {got}, expected {expected}")
