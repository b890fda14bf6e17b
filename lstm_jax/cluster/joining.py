"""A command as one of many processes: connected before it begins, ended in words when one of them fails."""

import contextlib
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Protocol

import jax

from lstm_jax.cluster.options import ClusterOptions, Membership, membership, with_environment
from lstm_jax.cluster.watch import CRASHED, LOOPBACK, OF_ANOTHER, SAYING_SECONDS, Ending, Watch
from lstm_jax.errors import ClusterError, one_line
from lstm_jax.system.signals import StopSignals
from lstm_jax.system.versions import detected_cluster

# The watch does what JAX's heartbeats are for; so long they do not matter.
_NEVER = 10**7
# At the end the processes wait for each other: process 0 draws pictures.
_END_SECONDS = 3600
_GOES_ON = ": the same command goes on from what is saved"
_KNOWN = "Slurm, Open MPI, Kubernetes or Cloud TPU"
_ADVICE = "say it with --coordinator-address, --num-processes and --process-id"


class Word(Protocol):
    """What to say of an error that ends a command: `command_line.LastWord`."""

    @property
    def text(self) -> str:
        """The error itself, for the other processes."""

    @property
    def line(self) -> str:
        """What is printed; empty for nothing."""

    @property
    def code(self) -> int:
        """The exit code."""


def process_of(options: ClusterOptions) -> Membership | None:
    """Return which process this is; None if it is alone.

    Raises:
        ConfigError: if the options and the environment say it in part.
        ClusterError: with ``--distributed``, if JAX finds no cluster here.
    """
    if not options.distributed:
        return membership(options)
    given = with_environment(options)
    try:
        found = detected_cluster(
            given.coordinator_address, given.num_processes, given.process_id, options.initialization_timeout
        )
    except Exception as error:  # whatever a detector meets: it asks servers, and reads the environment
        told = f"--distributed: JAX cannot ask the cluster ({one_line(error)}); {_ADVICE}"
        raise ClusterError(told) from error
    address, count, number, local = found
    if address is None or count is None or number is None:
        raise ClusterError(f"--distributed: got no cluster that JAX knows, expected {_KNOWN}; {_ADVICE}")
    devices = None if local is None or "JAX_LOCAL_DEVICE_IDS" in os.environ else tuple(local)
    return Membership(address, count, number, options.initialization_timeout, devices)


@contextlib.contextmanager
def joined(
    member: Membership | None,
    *,
    stop: StopSignals,
    last_word: Callable[[BaseException], Word | None],
    tell: Callable[[str], None],
    before_end: Callable[[], None],
) -> Iterator[None]:
    """Do what is inside as one process of many, or alone.

    When it fails here, the others hear of it, and this process ends at once: the interpreter would wait at
    its end for processes that do not come any more. When another one fails, this one ends, whatever it is
    doing: it may be waiting for that one. What is on disk is whole, since files appear in one step.

    Args:
        member: which process this is; None if it is alone.
        stop: listens for signals, which interrupt the wait for the others.
        last_word: returns what to say of an error; None for a bug, which gets a traceback.
        tell: prints an error, on one line.
        before_end: called before a process ends at once, perhaps from another thread.

    Raises:
        ClusterError: if the processes do not come together.
    """
    if member is None:
        yield
        return

    def end(code: int) -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)

    def end_soon(code: int) -> None:
        # Who reads the output may not read on, or another thread may hold what is needed to print. Then the
        # process ends without a word.
        threading.Timer(SAYING_SECONDS, os._exit, (code,)).start()
        with contextlib.suppress(Exception):
            before_end()

    def end_with(ending: Ending) -> None:
        end_soon(ending.code)
        tell(f"{ending.told()}; this process, {member.number}, ends too{_GOES_ON}")
        end(ending.code)

    watch = Watch(member, on_ending=end_with)
    with stop.at_once():
        watch.join()
    try:
        _connect_jax(member, watch.coordinator_port)
        yield
        jax.distributed.shutdown()
    except BaseException as error:
        said = last_word(error)
        word = f"{type(error).__name__}: {one_line(error)}" if said is None else said.text
        code = OF_ANOTHER if not isinstance(error, KeyboardInterrupt) or said is None else said.code
        watch.fail(word, code=code, echo=_may_be_an_echo(error))
        own_code = CRASHED if said is None else said.code
        end_soon(own_code)
        with contextlib.suppress(OSError, ValueError):
            if said is None:
                traceback.print_exception(error)
            elif said.line:
                print(said.line, file=sys.stderr)
        end(own_code)
    watch.leave()


def _connect_jax(member: Membership, port: int) -> None:
    # `StopSignals` listens for SIGTERM, which this service would take away.
    jax.config.update("jax_enable_preemption_service", False)
    at = f"{LOOPBACK}:{port}"
    jax.distributed.initialize(
        at,
        member.processes,
        member.number,
        None if member.local_device_ids is None else list(member.local_device_ids),
        cluster_detection_method="deactivate",
        initialization_timeout=member.timeout,
        heartbeat_timeout_seconds=_NEVER,
        shutdown_timeout_seconds=_END_SECONDS,
        coordinator_bind_address=at,
    )


def _may_be_an_echo(error: BaseException | None) -> bool:
    """Return whether an error may be that of a collective operation that another process has left."""
    while error is not None:
        if isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
