"""The connections between processes, without JAX: here, all of them in one process."""

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from lstm_jax.cluster import watch
from lstm_jax.cluster.options import Membership
from lstm_jax.cluster.watch import OF_ANOTHER, Ending, Watch
from lstm_jax.errors import ClusterError

# An event and what follows from it: seconds that no machine needs.
LONG = 20.0


class Member:
    """One process: it joins in a thread, and remembers what it hears."""

    def __init__(self, membership: Membership) -> None:
        self.heard: queue.Queue[Ending] = queue.Queue()
        self.watch = Watch(membership, on_ending=self.heard.put)
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._join)
        self.thread.start()

    def _join(self) -> None:
        try:
            self.watch.join()
        except BaseException as error:
            self.error = error

    def joined(self) -> "Member":
        self.thread.join(LONG)
        assert not self.thread.is_alive()
        assert self.error is None, self.error
        return self

    def refused(self) -> str:
        self.thread.join(LONG)
        assert not self.thread.is_alive()
        assert isinstance(self.error, ClusterError), self.error
        return str(self.error)

    def vanish(self) -> None:
        """End as a killed process does: its connections are closed, without a word."""
        assert self.watch._stream is not None
        self.watch._loop.call_soon_threadsafe(self.watch._stream.writer.transport.abort)


def memberships(processes: int, timeout: int = 20) -> Iterator[Membership]:
    address = f"127.0.0.1:{watch.free_port()}"
    return (Membership(address, processes, number, timeout) for number in range(processes))


@pytest.fixture
def together() -> Iterator[Callable[[int], list[Member]]]:
    """Connect so many processes; in the end, part."""
    everyone: list[Member] = []

    def connect(processes: int) -> list[Member]:
        members = [Member(membership) for membership in memberships(processes)]
        everyone.extend(member.joined() for member in members)
        return members

    yield connect
    for member in reversed(everyone):
        if member.watch._hub is not None:
            member.watch._hub.emptied.set()
        member.watch.leave()


def test_they_come_and_part_in_any_order(together: Callable[[int], list[Member]]) -> None:
    members = together(4)
    threads = [threading.Thread(target=member.watch.leave) for member in members]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()
    assert all(member.heard.empty() for member in members)


@pytest.mark.parametrize("gone", [0, 1, 3])
def test_all_others_hear_who_vanished(together: Callable[[int], list[Member]], gone: int) -> None:
    members = together(4)
    began = time.monotonic()
    if gone == 0:  # with the hub go the connections to it
        hub = members[0].watch._hub
        assert hub is not None
        for _, stream in hub._here.values():
            members[0].watch._loop.call_soon_threadsafe(stream.writer.transport.abort)
    else:
        members[gone].vanish()
    for number, member in enumerate(members):
        if number != gone:
            ending = member.heard.get(timeout=LONG)
            assert (ending.process, ending.host, ending.code) == (gone, socket.gethostname(), OF_ANOTHER)
            assert "without a word (killed, out of memory, or crashed)" in ending.told()
    assert time.monotonic() - began < watch.PROMISED_SECONDS


@pytest.mark.parametrize("failing", [0, 2])
def test_all_others_hear_the_last_words(together: Callable[[int], list[Member]], failing: int) -> None:
    members = together(3)
    members[failing].watch.fail("disk/full: no space left on device", code=9)
    for number, member in enumerate(members):
        if number != failing:
            ending = member.heard.get(timeout=LONG)
            told = (
                f"process {failing} on {socket.gethostname()} has ended: disk/full: no space left on device"
            )
            assert (ending.told(), ending.code) == (told, 9)
    assert members[failing].heard.empty()


def test_an_error_that_follows_from_the_end_of_another_is_not_blamed(
    together: Callable[[int], list[Member]],
) -> None:
    members = together(2)
    # The main thread of process 0 meets the broken collective before the news arrives, and never returns.
    threading.Thread(
        target=members[0].watch.fail, args=("Gloo all-reduce failed",), kwargs={"echo": True}, daemon=True
    ).start()
    members[1].vanish()
    ending = members[0].heard.get(timeout=LONG)
    assert (ending.process, ending.spoken) == (1, False)


def test_of_an_error_that_all_have_each_tells_its_own(together: Callable[[int], list[Member]]) -> None:
    members = together(2)
    for member in members:
        member.watch.fail("--hidden-size: got 8 in process 0, 9 in process 1")
    time.sleep(2 * watch.OWN_WORD_SECONDS)
    assert all(member.heard.empty() for member in members)


def test_one_that_never_comes_is_named_to_all() -> None:
    first, second, _ = memberships(3, timeout=2)
    members = [Member(membership) for membership in (first, second)]
    told = [member.refused() for member in members]
    assert f"process 0 on {socket.gethostname()} has waited 2 s for process 2 of 3 in vain" in told[0]
    assert "--initialization-timeout" in told[0]
    # The second may have come to a hub that was gone already.
    assert told[1] == told[0] or "no answer from 127.0.0.1" in told[1]


def test_a_coordinator_that_is_not_there_is_named() -> None:
    _, second = memberships(2, timeout=1)
    told = Member(second).refused()
    assert told.startswith(f"no answer from {second.address} in 1 s (Connection refused)")


def test_a_port_that_is_taken_is_named() -> None:
    (first,) = memberships(1)
    with socket.create_server((first.host, first.port)):
        told = Member(first).refused()
    assert told.startswith(f"--coordinator-address: cannot listen on port {first.port} (")


def test_one_that_comes_late_is_waited_for() -> None:
    first, second = memberships(2)
    late = Member(second)  # before there is anything to connect to
    time.sleep(0.5)
    early = Member(first)
    for member in (late.joined(), early.joined()):
        threading.Thread(target=member.watch.leave).start()


def test_a_second_process_of_a_number_is_refused_and_the_run_goes_on(
    together: Callable[[int], list[Member]],
) -> None:
    members = together(2)
    again = members[1].watch._membership
    told = Member(again).refused()
    assert "was refused: --process-id: got 1, but there is one already" in told
    other = again._replace(processes=3, number=2)
    assert "--num-processes: got 2 in process 0, 3 in process 2" in Member(other).refused()
    time.sleep(0.2)
    assert all(member.heard.empty() for member in members)


def test_a_process_ends_when_its_launcher_is_gone(
    together: Callable[[int], list[Member]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(watch.LAUNCHER, "0")  # of no process
    (member,) = together(1)
    assert "process 0 on" in (told := member.heard.get(timeout=LONG).told())
    assert told.endswith("has lost its launcher")


def test_process_0_listens_where_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_COORDINATOR_BIND_ADDRESS", "127.0.0.2:1")
    address = Membership(f"127.0.0.2:{watch.free_port()}", 1, 0, 5)
    member = Member(address).joined()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", address.port))
    member.watch.leave()


def test_strangers_at_the_port_are_not_listened_to(together: Callable[[int], list[Member]]) -> None:
    members = together(2)
    place = members[0].watch._membership
    for words in (b"GET / HTTP/1.1\r\n\r\n", b"[]\n", b'{"protocol": "other"}\n', b"x" * 100_000 + b"\n"):
        with socket.create_connection((place.host, place.port)) as stranger, contextlib.suppress(OSError):
            stranger.sendall(words)
            assert stranger.recv(100) == b""
    assert all(member.heard.empty() for member in members)


def test_the_kernel_asks_silent_machines_for_a_sign_of_life_in_time() -> None:
    assert watch.IDLE + watch.EVERY * watch.TIMES + 2 < watch.PROMISED_SECONDS
