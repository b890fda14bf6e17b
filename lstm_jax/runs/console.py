"""What a run tells the person who started it."""

import sys
from collections.abc import Mapping
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lstm_jax.errors import printable


class Console:
    """The listener of a run; this one says nothing. Libraries that call `train` may bring their own."""

    def message(self, text: str) -> None:
        """A line about what happens now."""

    def epoch_started(self, epoch: int, epochs: int, done: int, steps: int) -> None:
        """Epoch ``epoch`` of ``epochs`` begins, or goes on, with ``done`` of ``steps`` steps taken."""

    def advanced(self, steps: int) -> None:
        """So many more steps were taken."""

    def epoch_finished(self, epochs: int, record: Mapping[str, Any]) -> None:
        """An epoch ended with the figures in ``record``."""

    def close(self) -> None:
        """No more will come; also after an error."""


class TerminalConsole(Console):
    """A listener that prints a line per epoch and, on a terminal, a progress bar while the epoch runs."""

    def __init__(self) -> None:
        self._bar: Progress | None = None

    def message(self, text: str) -> None:
        """Print a line; what a foreign file smuggled into it does not reach the terminal."""
        print(printable(text), flush=True)

    def epoch_started(self, epoch: int, epochs: int, done: int, steps: int) -> None:
        """Show the bar, if anybody can see it."""
        if sys.stdout.isatty():
            # Transient: the bar makes way for the epoch's line.
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("steps"),
                TimeRemainingColumn(),
                transient=True,
            )
            self._bar.add_task(f"epoch {epoch}/{epochs}", total=steps, completed=done)
            self._bar.start()

    def advanced(self, steps: int) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0], steps)

    def epoch_finished(self, epochs: int, record: Mapping[str, Any]) -> None:
        """Print the epoch's line, short enough for 80 columns."""
        self.close()
        many = "per_seed" in record
        figures = [
            f"epoch {record['epoch']:{len(str(epochs))}d}/{epochs}",
            f"loss {record['train_loss']:.4f}",
        ]
        if record["validation_accuracy"] is not None:
            figures.append(f"{'val' if many else 'validation'} {record['validation_accuracy']:.2%}")
        figures.append(f"test {record['test_accuracy']:.2%}")
        if many:  # the spread takes the place of the seconds, which follow from the speed
            figures[-1] += f" +- {100 * record['test_accuracy_standard_deviation']:.2f}"
        else:
            figures.append(f"{record['train_seconds']:.1f} s")
        figures.append(f"{record['examples_per_second']:,.0f} images/s")
        self.message("  ".join(figures))

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
