"""SIGINT (Ctrl-C), SIGTERM and SIGHUP, remembered until it is safe to stop.

An exception in the middle of an import, or of a callback of JAX, can crash the process or get lost. Only the
standard library is imported here, so that a program can listen for signals before it imports JAX.
"""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

# A second Ctrl-C within this time is ignored: it must not stop the save that the first one began.
PATIENCE_SECONDS = 3.0


class Interrupted(KeyboardInterrupt):
    """An interruption of the current work by a signal.

    Attributes:
        number: the signal.
    """

    def __init__(self, number: signal.Signals, told: str = "") -> None:
        super().__init__(f"{number.name}; {told}" if told else number.name)
        self.number = number


class StopSignals:
    """A context manager that remembers the first SIGINT, SIGTERM or SIGHUP within it.

    A second SIGINT some seconds later interrupts at once. Outside the main thread, where Python allows
    no handlers, the signals keep their usual effect.

    Attributes:
        received: the first signal that came, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._when = 0.0
        self._at_once = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in _handled():
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def hand_back(self, number: signal.Signals, told: str = "") -> None:
        """Give a remembered signal its usual effect. Call it after `__exit__`.

        SIGTERM and SIGHUP end the process. If the program has its own handler, that is called instead, and
        this returns when the handler does. For Ctrl-C, and for a signal that only another process received,
        Interrupted is raised.

        Args:
            number: the signal.
            told: the state of the work, for the text of the exception.

        Raises:
            Interrupted: instead of Python's own KeyboardInterrupt.
        """
        # None stands for a handler that was not installed from Python.
        interrupting = (signal.default_int_handler, signal.SIG_IGN, None)
        if self.received == number and self._previous.get(number) not in interrupting:
            signal.raise_signal(number)
            return
        raise Interrupted(number, told)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Let signals interrupt the work inside, which may take long but leaves nothing half done.

        Raises:
            Interrupted: when a signal arrives, or has arrived before.
        """
        self._at_once = True
        try:
            if self.received is not None:
                raise Interrupted(self.received)
            yield
        finally:
            self._at_once = False

    def interrupting(self, action: Callable[[], T]) -> Callable[[], T]:
        """Return a function that does something which signals interrupt; see `at_once`."""

        def act() -> T:
            with self.at_once():
                return action()

        return act

    def _receive(self, number: int, frame: FrameType | None) -> None:
        first = self.received is None
        if first:
            self.received, self._when = signal.Signals(number), time.monotonic()
        insisting = not first and number == signal.SIGINT and time.monotonic() - self._when > PATIENCE_SECONDS
        if insisting or self._at_once:
            raise Interrupted(signal.Signals(number))


def _handled() -> list[signal.Signals]:
    """Return the signals that ask a program to stop. SIGHUP, for a closed terminal, is one unless ignored."""
    handled = [signal.SIGINT, signal.SIGTERM]
    # Windows has no SIGHUP; `nohup` makes the program ignore it.
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        handled.append(signal.SIGHUP)
    return handled
