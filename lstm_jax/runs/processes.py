"""Agreement between the processes of one run; a single process agrees with itself.

`jax.distributed.initialize` has connected them. One of them, the leader, writes the files and prints the
messages.
"""

import json
import signal
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
    said = [json.loads(text) for text in _from_all(json.dumps(values))]
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


def _from_all(text: str) -> list[str]:
    """Return the text of each process, in their order. It must have no NUL, and must not be empty."""
    if jax.process_count() == 1:
        return [text]
    own = np.frombuffer(text.encode(errors="backslashreplace"), np.uint8)
    padded = np.pad(own, (0, largest(len(own)) - len(own)))
    return [bytes(row).rstrip(b"\0").decode() for row in multihost_utils.process_allgather(padded)]


def together(action: Callable[[], T]) -> T:
    """Do something in every process. If it fails in one, fail in all: none waits for a process that is gone.

    Raises:
        Interrupted: if a signal interrupted another process only.
        UserError: if the action failed in another process only, with the words of that one.
    """
    if jax.process_count() == 1:
        return action()
    failure: BaseException | None = None
    results: list[T] = []
    try:
        results.append(action())
    except BaseException as error:
        failure = error
    said = [json.loads(text) for text in _from_all(json.dumps(_told_of(failure)))]
    for process, (words, number) in enumerate(said):
        if words:
            raise failure or _of_another(process, words, number)
    return results[0]


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


def leader_first(action: Callable[[], T]) -> T:
    """Do something in the leader first, then in the other processes, which find what the leader has made.

    Raises:
        UserError: as `together`.
    """
    made = together(lambda: [action()] if is_leader() else [])
    return together(lambda: made[0] if made else action())


def leader_only(action: Callable[[], object]) -> None:
    """Do something in the leader. The others wait until it is done, and fail if it fails.

    Raises:
        UserError: as `together`.
    """
    together(lambda: action() if is_leader() else None)


def from_leader(value: int) -> int:
    """Return the leader's value in every process: loops with collectives must take equal steps."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int64(value)))


def json_from_leader(value: T) -> T:
    """Return the leader's JSON value in every process: the disk that they share may show each another one."""
    if jax.process_count() == 1:
        return value
    told: T = json.loads(_from_all(json.dumps(value))[0])
    return told


def largest(value: int) -> int:
    """Return the largest value of any process, so that a signal to one of them can stop them all."""
    if jax.process_count() == 1:
        return value
    return int(np.max(multihost_utils.process_allgather(np.int64(value))))
