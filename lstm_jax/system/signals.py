"""SIGINT (Ctrl-C), SIGTERM and SIGHUP: remembered, and acted on where it is safe to stop.

Only the standard library is imported here, so that a program can listen before it imports JAX: an
exception in the middle of an import, or of a callback of JAX, can crash the process or get lost.
"""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

# A double Ctrl-C in haste must not throw away what the first is about to save.
PATIENCE_SECONDS = 3.0


class Interrupted(KeyboardInterrupt):
    """A signal has ended what was going on.

    Attributes:
        number: the signal.
    """

    def __init__(self, number: signal.Signals, told: str = "") -> None:
        super().__init__(f"{number.name}; {told}" if told else number.name)
        self.number = number


class StopSignals:
    """A context manager that remembers the first SIGINT, SIGTERM or SIGHUP while it is entered.

    A second SIGINT some seconds later interrupts at once. Outside the main thread, where Python allows
    no handlers, the signals keep the meaning they have.

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
        """Let a signal do what it would have done, had nobody remembered it here. For after `__exit__`.

        SIGTERM and SIGHUP end the process, unless the program has a handler of its own: that is called, and
        when it returns, this does. Ctrl-C, and a signal that only another process has heard, interrupt.

        Args:
            number: the signal.
            told: what has become of the work, for those who read the exception.

        Raises:
            Interrupted: instead of Python's own KeyboardInterrupt.
        """
        # None is a handler that Python cannot know.
        interrupting = (signal.default_int_handler, signal.SIG_IGN, None)
        if self.received == number and self._previous.get(number) not in interrupting:
            signal.raise_signal(number)
            return
        raise Interrupted(number, told)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """For work that takes long and leaves nothing half done: signals interrupt it.

        Raises:
            Interrupted: when a signal comes, or came before.
        """
        self._at_once = True
        try:
            if self.received is not None:
                raise Interrupted(self.received)
            yield
        finally:
            self._at_once = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        first = self.received is None
        if first:
            self.received, self._when = signal.Signals(number), time.monotonic()
        insisting = not first and number == signal.SIGINT and time.monotonic() - self._when > PATIENCE_SECONDS
        if insisting or self._at_once:
            raise Interrupted(signal.Signals(number))


def _handled() -> list[signal.Signals]:
    """The signals that ask a program to stop; SIGHUP, of a closed terminal, unless `nohup` shields us."""
    handled = [signal.SIGINT, signal.SIGTERM]
    # There is no SIGHUP on Windows.
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        handled.append(signal.SIGHUP)
    return handled
