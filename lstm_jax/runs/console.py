"""The listener of a run: messages and progress for the person who started it."""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lstm_jax.errors import printable

if TYPE_CHECKING:
    from rich.progress import Progress


class Console:
    """A listener that prints nothing. A program that calls `train` can pass a subclass of its own."""

    def message(self, text: str) -> None:
        """Handle a line about what happens now."""

    def epoch_started(self, epoch: int, epochs: int, done: int, steps: int) -> None:
        """Handle the start of epoch ``epoch`` of ``epochs``, with ``done`` of its ``steps`` steps taken."""

    def advanced(self, steps: int) -> None:
        """Handle the news that so many more steps were taken."""

    def epoch_finished(self, epochs: int, record: Mapping[str, Any]) -> None:
        """Handle the record of an epoch that has ended."""

    def close(self) -> None:
        """Handle the end of the run, also after an error."""


class TerminalConsole(Console):
    """A listener that prints a line per epoch and, on a terminal, a progress bar while the epoch runs."""

    def __init__(self) -> None:
        self._bar: Progress | None = None

    def message(self, text: str) -> None:
        """Print a line, without control characters that may come from a file."""
        print(printable(text), flush=True)

    def epoch_started(self, epoch: int, epochs: int, done: int, steps: int) -> None:
        """Show the progress bar, if the output is a terminal."""
        if sys.stdout.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            # Transient: the epoch's line replaces the bar.
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
        if many:  # the spread replaces the seconds, which follow from the speed
            figures[-1] += f" +- {100 * record['test_accuracy_standard_deviation']:.2f}"
        else:
            figures.append(f"{record['train_seconds']:.1f} s")
        figures.append(f"{record['examples_per_second']:,.0f} images/s")
        self.message("  ".join(figures))

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
