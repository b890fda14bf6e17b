"""The connections between the processes of a run: who has come, and who is gone.

JAX's own runtime has no way out that a user could read. It notices a killed process when its heartbeats stay
away, after 100 s, and then aborts all others with a stack of C++. From Python that cannot be changed
(``missed_heartbeat_callback`` of jaxlib 0.10 to 0.12 raises ``std::bad_cast``), and with shorter heartbeats a
busy machine loses processes that are well. So JAX's heartbeats are switched off (`joining.py`), and the
operating system watches: process 0 has a TCP connection to each process. The kernel closes that of a process
which ends, however it ends, at once; and it asks the other machine for signs of life, whatever the processes
there are busy with. Before a process ends with an error, it says so.

    process 0    the hub listens at HOST:PORT, ``--coordinator-address``
    every one    one connection to the hub, in which it says who it is, and why it ends

JAX's messages take the same way, so that one port is enough, and JAX's coordinator, which asks nobody who he
is, can be reached on the machine of process 0 only:

    JAX's client -> a relay in its own process -> the hub -> JAX's coordinator in process 0

The relay does not hang up when process 0 is gone. JAX would abort at once; so it waits, and this module has
the time to say what has happened.

All of it runs in one thread with an event loop. A main thread that hangs in a collective operation, because
one of those it waits for is gone, cannot do anything any more, but this thread can end the process.
"""

import asyncio
import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from lstm_jax.cluster.options import Membership
from lstm_jax.errors import ClusterError, one_line

LOOPBACK = "127.0.0.1"
# The kernel asks a machine that is silent for IDLE seconds for a sign of life, then so often every so many
# seconds: one that is gone is noticed after 11 s. Less would end runs whose network is away for some seconds.
IDLE, EVERY, TIMES = 3, 2, 4
# The seconds that an event may take until every process has ended, which all others here must add up to.
PROMISED_SECONDS = 15
# A process whose collective operation failed waits so long for the news that another one is gone.
ECHO_SECONDS = 3.0
# When another process ends with an error, this one may be about to raise the same, and to say it better.
OWN_WORD_SECONDS = 1.0
# How long a word to the other processes may take.
SAYING_SECONDS = 2.0
# The exit code of a process that ended because another one did: EX_TEMPFAIL of sysexits.h, "try again later".
OF_ANOTHER = 75
# That of a process that ends with a traceback: EX_SOFTWARE. Another try may go better. The code 1 is for what
# the user has to put right.
CRASHED = 70
# The environment variable with the process that started this one, and without which this one has to end.
LAUNCHER = "LSTM_JAX_LAUNCHER"
# Who connects to the hub says within this time who he is.
_HELLO_SECONDS = 10.0
_RETRY_SECONDS = 0.2
# JAX's environment variable of the one address at which process 0 is to listen; the port in it is not used.
_BIND = "JAX_COORDINATOR_BIND_ADDRESS"
# Names of this machine that are not for others.
_INSIDE = ("localhost", LOOPBACK, "::1")
# The longest message, and the longest word in it.
_MOST_BYTES, _LONGEST = 2**16, 2**12
# Missing processes that a message names.
_NAMED = 8
# What ends those that serve a connection, when the event loop ends; Python 3.11 would log it.
_AT_THE_END = (asyncio.CancelledError,)
# The version of these messages.
_PROTOCOL = "lstm_jax 1"


class Ending(NamedTuple):
    """The end of a process before that of the run.

    Attributes:
        process: its number.
        host: its machine.
        word: what became of it; with its own last words, if it had any.
        spoken: whether it had.
        code: the exit code of the others.
    """

    process: int
    host: str
    word: str
    spoken: bool = False
    code: int = OF_ANOTHER

    def told(self) -> str:
        """Return it as a sentence without a full stop."""
        return f"process {self.process} on {self.host} {self.word}"


class _Stream(NamedTuple):
    """A connection, on which JSON objects are sent, a line each."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def to(cls, host: str, port: int) -> "_Stream":
        stream = cls(*await asyncio.open_connection(host, port, limit=_MOST_BYTES))
        stream.let_the_kernel_watch()
        return stream

    def let_the_kernel_watch(self) -> None:
        """Notice within seconds when the machine at the other end is gone."""
        connection = self.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # macOS has the first by another name, and not the last, which is about messages under way.
        idle = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))
        settings = {
            idle: IDLE,
            getattr(socket, "TCP_KEEPINTVL", None): EVERY,
            getattr(socket, "TCP_KEEPCNT", None): TIMES,
            getattr(socket, "TCP_USER_TIMEOUT", None): 1000 * (IDLE + EVERY * TIMES),
        }
        for option, value in settings.items():
            if option is not None:
                connection.setsockopt(socket.IPPROTO_TCP, option, value)

    def send(self, **message: Any) -> None:
        """Send an object; what is short goes to the kernel at once, and arrives though the process ends."""
        self.writer.write(json.dumps(message).encode() + b"\n")

    async def receive(self) -> dict[str, Any] | None:
        """Return the next object; None at the end, or if what comes is none.

        Raises:
            OSError: if the connection broke.
        """
        try:
            message = json.loads(await self.reader.readline())
        except ValueError:
            return None
        return message if isinstance(message, dict) else None

    async def pass_on_to(self, other: "_Stream") -> bool:
        """Pass on all that comes; return whether that came to its end, and the other one took it."""
        try:
            while data := await self.reader.read(_MOST_BYTES):
                other.writer.write(data)
                await other.writer.drain()
        except OSError:
            return False
        return True


async def _connected(host: str, port: int) -> _Stream | None:
    """Return a connection; None if there is none."""
    with contextlib.suppress(OSError):
        return await _Stream.to(host, port)
    return None


def _reason(error: OSError) -> str:
    """Return why there is no connection; asyncio says it in words of its own."""
    if isinstance(error, socket.gaierror):
        return one_line(error)
    return os.strerror(error.errno) if error.errno else "no answer"


def _without_a_word(error: OSError | None) -> str:
    """Return what became of a process whose connection has ended."""
    if error is None or isinstance(error, ConnectionResetError | BrokenPipeError):
        return "has ended without a word (killed, out of memory, or crashed)"
    return f"does not answer any more ({_reason(error)}): its machine, or the network to it, is down"


class _Hub:
    """What process 0 does for all: it knows who is here, and tells each who is gone.

    Attributes:
        coordinator_port: where JAX's coordinator listens on this machine.
        emptied: set when all are gone.
    """

    def __init__(self, membership: Membership) -> None:
        self.coordinator_port = free_port()
        self.emptied = asyncio.Event()
        self._count = membership.processes
        self._timeout = membership.timeout
        self._here: dict[int, tuple[str, _Stream]] = {}
        self._gone: set[int] = set()
        self._ending: Ending | None = None

    async def listen(self, address: str | None, port: int) -> asyncio.Server:
        """Begin to let processes in, at one address of this machine or, with None, at all."""
        asyncio.get_running_loop().call_later(self._timeout, self._wait_no_longer)
        return await asyncio.start_server(self._meet, address, port, limit=_MOST_BYTES)

    async def _meet(self, *connection: Any) -> None:
        stream = _Stream(*connection)
        with contextlib.suppress(OSError, *_AT_THE_END), contextlib.closing(stream.writer):
            stream.let_the_kernel_watch()
            hello = await asyncio.wait_for(stream.receive(), _HELLO_SECONDS)
            if hello is None or hello.get("protocol") != _PROTOCOL:
                return
            if "number" in hello:
                await self._accompany(stream, hello["number"], hello["count"], hello["host"])
            else:
                await self._relay(stream)

    async def _relay(self, stream: _Stream) -> None:
        """Pass JAX's messages between a process and the coordinator, which may still be starting."""
        while (coordinator := await _connected(LOOPBACK, self.coordinator_port)) is None:
            await asyncio.sleep(_RETRY_SECONDS)
        with contextlib.closing(coordinator.writer):
            ways = (stream.pass_on_to(coordinator), coordinator.pass_on_to(stream))
            _, others = await asyncio.wait(
                map(asyncio.create_task, ways), return_when=asyncio.FIRST_COMPLETED
            )
            for other in others:
                other.cancel()

    async def _accompany(self, stream: _Stream, number: int, count: int, host: str) -> None:
        """Listen to one process until it is gone."""
        if why := self._why_not(number, count):
            stream.send(ending=Ending(number, host, f"was refused: {why}", spoken=True))
            return
        self._here[number] = host, stream
        if self._ending is not None:
            stream.send(ending=self._ending)
        elif len(self._here) == self._count:
            self._tell_all(go=self._here[0][0])
        error = None
        try:
            while (message := await stream.receive()) is not None:
                if "ending" in message:
                    self._end(Ending(*message["ending"]))
                else:
                    self._has_gone(number)
        except OSError as broken:
            error = broken
        if number in self._gone:
            return
        if len(self._here) < self._count:
            del self._here[number]  # it may come again, until all are here
        else:
            self._has_gone(number)
            self._end(Ending(number, host, _without_a_word(error)))

    def _why_not(self, number: int, count: int) -> str | None:
        """Return why a process cannot join; None if it can."""
        if count != self._count:
            return f"--num-processes: got {self._count} in process 0, {count} in process {number}"
        if number in self._here:
            other, _ = self._here[number]
            return (
                f"--process-id: got {number}, but there is one already, on {other}; each process has its own"
            )
        return None

    def _has_gone(self, number: int) -> None:
        self._gone.add(number)
        if len(self._gone) == self._count:
            self.emptied.set()

    def _end(self, ending: Ending) -> None:
        """Tell all of the first end; those that follow from it need no telling."""
        if self._ending is None:
            self._ending = ending
            self._tell_all(ending=ending)

    def _tell_all(self, **message: Any) -> None:
        for _, (_, stream) in sorted(self._here.items(), reverse=True):  # this process, which may end, last
            with contextlib.suppress(OSError):
                stream.send(**message)

    def _wait_no_longer(self) -> None:
        missing = [number for number in range(self._count) if number not in self._here]
        if missing and self._ending is None:
            names = ", ".join(map(str, missing[:_NAMED])) + (", ..." if len(missing) > _NAMED else "")
            word = (
                f"has waited {self._timeout} s for process {names} of {self._count} in vain; see what became "
                "of it, or give it longer with --initialization-timeout"
            )
            self._end(Ending(0, socket.gethostname(), word, spoken=True))


class Watch:
    """This process's connection to the others of its run.

    Attributes:
        coordinator_port: where JAX finds its coordinator on this machine, once all processes are here.
    """

    def __init__(self, membership: Membership, *, on_ending: Callable[[Ending], None]) -> None:
        """Prepare a connection.

        Args:
            membership: which process this is.
            on_ending: called in a thread of its own when another process has ended; it ends this one.
        """
        self.coordinator_port = 0
        self._membership = membership
        self._on_ending = on_ending
        # The name of a machine may stand for its loopback only, so that others would not find it there.
        inside = membership.host if membership.host in _INSIDE else None
        self._address = os.environ.get(_BIND, "").rpartition(":")[0].strip("[]") or inside
        self._hub_host = (self._address or LOOPBACK) if membership.number == 0 else membership.host
        self._hub: _Hub | None = None
        self._stream: _Stream | None = None
        self._servers: list[asyncio.Server] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._leaving = False
        self._decided = threading.Event()
        self._own_word = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._quit = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="lstm_jax watch", daemon=True)

    def join(self) -> None:
        """Connect, and wait until all processes are here.

        Raises:
            ClusterError: if they do not come in time, or this one is refused.
        """
        self._thread.start()
        try:
            self._do(self._join())
        except BaseException:
            self._close()
            raise

    def fail(self, word: str, *, code: int = OF_ANOTHER, echo: bool = False) -> None:
        """Tell the others that this process ends with an error. Then it should end at once.

        Args:
            word: the error, on one line.
            code: the exit code of the others.
            echo: whether the error may come from the end of another process. Then that is waited for; when
                the news of it comes, this does not return.
        """
        if echo and self._decided.wait(ECHO_SECONDS):
            threading.Event().wait()
        self._own_word.set()
        own = Ending(
            self._membership.number, socket.gethostname(), f"has ended: {word[:_LONGEST]}", True, code
        )
        with contextlib.suppress(OSError):
            self._do(self._send(ending=own), SAYING_SECONDS)
            self._decided.wait(SAYING_SECONDS)  # until the hub has told all

    def leave(self) -> None:
        """Part from the others at the end of the run; a second time, do nothing."""
        if self._leaving:
            return
        self._leaving = True
        with contextlib.suppress(OSError):  # of a process that ended meanwhile: all is done
            self._do(self._send(leaves=True))
        if self._hub is not None:
            self._do(self._hub.emptied.wait())
        self._close()

    def _close(self) -> None:
        self._loop.call_soon_threadsafe(self._quit.set)
        self._thread.join()

    def _do(self, work: Coroutine[Any, Any, Any], timeout: float | None = None) -> None:
        """Do something in the thread, and wait for it; signals interrupt the wait."""
        asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._until_quit())

    async def _until_quit(self) -> None:
        await self._quit.wait()
        for server in self._servers:
            server.close()
        if self._stream is not None:
            self._stream.writer.close()

    async def _join(self) -> None:
        member = self._membership
        if member.number == 0:
            self._hub = _Hub(member)
            try:
                self._servers.append(await self._hub.listen(self._address, member.port))
            except OSError as error:
                raise ClusterError(
                    f"--coordinator-address: cannot listen on port {member.port} ({_reason(error)}); name "
                    "another one, the same for all processes"
                ) from error
        deadline = time.monotonic() + member.timeout
        while (coordinator_is_on := await self._try(deadline)) is None:
            await asyncio.sleep(_RETRY_SECONDS)
        if self._hub is not None:
            self.coordinator_port = self._hub.coordinator_port
        else:
            self._servers.append(await asyncio.start_server(self._relay, LOOPBACK, 0))
            self.coordinator_port = self._servers[0].sockets[0].getsockname()[1]
        self._tasks.append(asyncio.create_task(self._listen(coordinator_is_on)))
        self._tasks.append(asyncio.create_task(self._look_after_launcher(os.environ.get(LAUNCHER))))

    async def _try(self, deadline: float) -> str | None:
        """Try once to join. Return the name of process 0's machine; None to try again.

        Raises:
            ClusterError: if the hub refuses this process or waits no longer, or if it is too late.
        """
        member = self._membership
        failure, answer, stream = "nothing there is a process of lstm_jax", None, None
        try:
            async with asyncio.timeout(max(_RETRY_SECONDS, deadline - time.monotonic())):
                stream = await _Stream.to(self._hub_host, member.port)
            # From here on the hub says when it waits no longer. It may have begun to wait later.
            async with asyncio.timeout(2 * member.timeout):
                host = socket.gethostname()
                stream.send(protocol=_PROTOCOL, number=member.number, count=member.processes, host=host)
                answer = await stream.receive()
        except OSError as error:
            failure = _reason(error)
        if answer is not None and "go" in answer:
            self._stream = stream
            return str(answer["go"])
        if stream is not None:
            stream.writer.close()
        if answer is not None:
            raise ClusterError(Ending(*answer["ending"]).told())
        if time.monotonic() < deadline:
            return None
        raise ClusterError(
            f"no answer from {member.address} in {member.timeout} s ({failure}); see that process 0 runs "
            "there, or give it longer with --initialization-timeout"
        )

    async def _listen(self, host: str) -> None:
        """Wait for the news that a process is gone; the end of the connection is that of process 0."""
        assert self._stream is not None
        error, message = None, None
        try:
            message = await self._stream.receive()
        except OSError as broken:
            error = broken
        ending = Ending(0, host, _without_a_word(error)) if message is None else Ending(*message["ending"])
        self._decided.set()
        if self._leaving or (ending.process == self._membership.number and ending.spoken):
            return
        if ending.spoken:
            await asyncio.to_thread(self._own_word.wait, OWN_WORD_SECONDS)
        if not self._own_word.is_set():
            self._on_ending(ending)

    async def _look_after_launcher(self, launcher: str | None) -> None:
        """End this process when the one that has started it, and shows what it writes, is gone."""
        if launcher is None:
            return
        while str(os.getppid()) == launcher:
            await asyncio.sleep(1)
        self._on_ending(Ending(self._membership.number, socket.gethostname(), "has lost its launcher"))

    async def _send(self, **message: Any) -> None:
        assert self._stream is not None
        self._stream.send(**message)

    async def _relay(self, *connection: Any) -> None:
        """Pass JAX's messages on to the hub. Only JAX ends this: it would abort if we did."""
        jax = _Stream(*connection)
        with contextlib.suppress(*_AT_THE_END), contextlib.closing(jax.writer):
            hub = await _connected(self._hub_host, self._membership.port)
            if hub is None:
                await asyncio.Event().wait()
                return
            with contextlib.closing(hub.writer):
                hub.send(protocol=_PROTOCOL)
                back = asyncio.create_task(hub.pass_on_to(jax))
                if not await jax.pass_on_to(hub):
                    await asyncio.Event().wait()
                back.cancel()


def free_port() -> int:
    """Return a port of this machine's loopback on which nothing listens."""
    with socket.socket() as free:
        free.bind((LOOPBACK, 0))
        return int(free.getsockname()[1])
