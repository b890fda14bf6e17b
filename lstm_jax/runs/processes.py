"""Agreement between the processes of one run; a single process agrees with itself.

`jax.distributed.initialize` has connected them. One of them, the leader, writes the files and prints the
messages.
"""

import json
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from lstm_jax.devices import local_devices
from lstm_jax.errors import ConfigError, UserError
from lstm_jax.system.signals import Interrupted

T = TypeVar("T")
# Characters of the message that a process has for the others.
_LONGEST = 4000


def is_leader() -> bool:
    """Return whether this process writes the files and prints the messages."""
    return jax.process_index() == 0


def agree(values: Mapping[str, Any]) -> None:
    """Check that every process was given the same values.

    Processes with different options would compute different things, and share the mean of them. Call this
    before anything else that processes do together.

    Args:
        values: JSON values, by the name under which the user knows each.

    Raises:
        ConfigError: in every process, naming a value that differs; or if JAX finds no device.
    """
    counts = [len(jax.local_devices(process)) for process in range(process_count())]
    if len(set(counts)) > 1:
        _refuse_differences("number of devices", counts)
    said = from_all(values)
    for name in dict.fromkeys(name for each in said for name in each):
        _refuse_differences(name, [each.get(name) for each in said])


def process_count() -> int:
    """Return the number of processes.

    Raises:
        ConfigError: if JAX finds no device.
    """
    local_devices()
    return jax.process_count()


def _refuse_differences(name: str, found: list[Any]) -> None:
    for process, value in enumerate(found):
        if value != found[0]:
            raise ConfigError(
                f"{name}: got {found[0]} in process 0, {value} in process {process}, expected the same in "
                "all processes of a run"
            )


def from_all(value: Any) -> list[Any]:
    """Return the JSON value of each process, in their order."""
    if jax.process_count() == 1:
        return [value]
    own = np.frombuffer(json.dumps(value).encode(), np.uint8)
    padded = np.pad(own, (0, largest(len(own)) - len(own)))
    return [json.loads(bytes(row).rstrip(b"\0")) for row in multihost_utils.process_allgather(padded)]


def together(action: Callable[[], T]) -> T:
    """Do something in every process. If it fails in one, fail in all: none waits for a process that is gone.

    Raises:
        Interrupted: if a signal interrupted another process only.
        UserError: if the action failed in another process only, with the words of that one.
    """
    return _in_all(action)[0]


def leader_first(action: Callable[[], T]) -> T:
    """Do something in the leader first, then in the other processes, which find what the leader has made.

    Raises:
        Interrupted, UserError: as `together`.
    """
    made = together(lambda: [action()] if is_leader() else [])
    return together(lambda: made[0] if made else action())


def leader_only(action: Callable[[], object]) -> None:
    """Do something in the leader. The others wait until it is done, and fail if it fails.

    Raises:
        Interrupted, UserError: as `together`.
    """
    together(lambda: action() if is_leader() else None)


def from_leader(find: Callable[[], T]) -> T:
    """Return what the leader finds, a JSON value, in every process.

    Loops with collective operations must take equal steps, and a disk that machines share may show one of
    them what was there some seconds ago.

    Raises:
        Interrupted, UserError: as `together`.
    """
    found: list[T] = _in_all(lambda: find() if is_leader() else None, tell=True)[1]
    return found[0]


def found_by_all(find: Callable[[], T], *, times: int, again: Callable[[], None]) -> list[T]:
    """Look for something, a JSON value, in every process until all find the same.

    Args:
        find: looks for it.
        times: how often to look again, once a second.
        again: called once, before that.

    Returns:
        What each process has found at last, in their order.

    Raises:
        Interrupted, UserError: as `together`.
    """
    for left in reversed(range(times + 1)):
        found: list[T] = _in_all(find, tell=True)[1]
        if not left or all(each == found[0] for each in found):
            break
        if left == times:
            again()
        time.sleep(1)
    return found


def _in_all(action: Callable[[], T], *, tell: bool = False) -> tuple[T, list[Any]]:
    """Do something in every process; see `together`. Return the result, and with ``tell`` that of each."""
    if jax.process_count() == 1:
        result = action()
        return result, [result]
    failure: BaseException | None = None
    results: list[T] = []
    told = "null"
    try:
        results.append(action())
        told = json.dumps(results[0] if tell else None)
    except BaseException as error:
        failure = error
    said = from_all([*_told_of(failure), told])
    for process, (words, number, _) in enumerate(said):
        if words:
            raise failure or _of_another(process, words, number)
    return results[0], [json.loads(told) for *_, told in said]


def _told_of(failure: BaseException | None) -> tuple[str, int]:
    """Return an error for the other processes: its words, none without an error, and the signal behind it."""
    if failure is None:
        return "", 0
    words = " ".join(str(failure).split())[:_LONGEST] or type(failure).__name__
    return words, failure.number if isinstance(failure, Interrupted) else 0


def _of_another(process: int, words: str, number: int) -> BaseException:
    if number:
        return Interrupted(signal.Signals(number))
    return UserError(f"process {process} cannot go on: {words}")


def largest(value: int) -> int:
    """Return the largest value of any process, so that a signal to one of them can stop them all."""
    if jax.process_count() == 1:
        return value
    return int(np.max(multihost_utils.process_allgather(np.int64(value))))


def smallest(value: int) -> int:
    """Return the smallest value of any process."""
    return -largest(-value)
