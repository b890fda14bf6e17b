"""The options of ``python -m lstm_jax benchmark``. Nothing heavy is imported here."""

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from lstm_jax.commands.compare import COUNT, LARGEST, chosen_names, command_line_of
from lstm_jax.compare.frameworks import BENCHMARKED
from lstm_jax.compare.size import Size
from lstm_jax.options import check, number, refusal

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
    inputs: Annotated[int, COUNT] = 28
    """Inputs of each time step."""
    implementations: NameList = (
        "flax,flax-optimized,flax-nnx,equinox,fused,native,native-nnx,native-equinox,pytorch"
    )
    """Which to time; also scan, unrolled, native-{vectors,tiles}, {flax,fused,native}-bfloat16, and, for
    inference only, predictor and onnxruntime. What cannot run here says why."""
    devices: Annotated[int, COUNT] = 1
    """Devices to share each batch in JAX. On a CPU, N makes N CPU devices."""
    rounds: Annotated[int, COUNT] = 7
    """How often each is timed; they take turns."""
    seconds: Annotated[float, number("more than 0, at most 3600", lambda x: 0 < x <= 3600)] = 0.3
    """Shortest time of one measurement, in seconds; it is filled with steps, at least two."""
    output: Annotated[Path, arg(metavar="DIR")] = Path("benchmark")
    """Folder for results.json, plot.png and plot.svg."""

    def __post_init__(self) -> None:
        """Refuse impossible values, naming the option, what it got and what it accepts."""
        check(self)
        for size in self.sizes():
            if size.batch % self.devices:
                raise refusal("batch_size", size.batch, f"multiples of {self.devices}, the number of devices")
        self.names()

    def names(self) -> tuple[str, ...]:
        """The names of the implementations, in the order of tables."""
        return chosen_names("implementations", self.implementations, tuple(BENCHMARKED))

    def sizes(self) -> tuple[Size, ...]:
        """All combinations of the sizes asked for, the hidden size running fastest."""
        times, batches, hiddens = (
            _numbers(field, getattr(self, field)) for field in ("time_steps", "batch_size", "hidden_size")
        )
        return tuple(Size(h, b, t, self.inputs) for t, b, h in product(times, batches, hiddens))

    def command(self) -> str:
        """A command line that asks for the same, whatever the defaults of the day."""
        return command_line_of("benchmark", self)

    def run(self) -> int:
        """Measure; print a table per size as soon as it is there."""
        from lstm_jax.commands.command_line import note
        from lstm_jax.compare import benchmark

        benchmark.run(
            self.command(),
            {name: BENCHMARKED[name] for name in self.names()},
            self.sizes(),
            rounds=self.rounds,
            seconds=self.seconds,
            devices=self.devices,
            folder=self.output,
            report=note,
        )
        return 0


def _numbers(field: str, text: str) -> tuple[int, ...]:
    """The whole numbers of a list such as ``32,64``."""
    words = text.split(",")
    numbers = tuple(int(word) for word in words if word.isascii() and word.isdigit())
    possible = all(1 <= number <= LARGEST for number in numbers)
    if len(set(numbers)) < len(words) or not possible:
        raise refusal(field, text, f"different whole numbers from 1 to {LARGEST}, as in 32,64")
    return numbers
