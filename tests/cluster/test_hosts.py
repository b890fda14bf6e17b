"""Two and three hosts, as network namespaces on this machine: one is cut off, dies, or comes late.

Each host has a network and a name of its own, and the cable of each leads to one switch. That takes the
rights of an administrator; without them, the tests are skipped.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from lstm_jax.cluster.watch import OF_ANOTHER, PROMISED_SECONDS
from tests.helpers.project import PROJECT
from tests.kill_and_resume import newest_step

pytestmark = pytest.mark.slow

START_SECONDS = 300.0
PORT = 1234
ENDLESS = ("--hidden-size", "4", "--batch-size", "432", "--epochs", "100000", "--checkpoint-every", "2")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def why_not() -> str | None:
    """Why there can be no network namespaces here; None if there can."""
    missing = [name for name in ("ip", "unshare", "mount") if shutil.which(name) is None]
    if missing:
        return f"no network namespaces without {', '.join(missing)}"
    try:
        name = f"lstm-jax-{os.getpid()}-try"
        ip("netns", "add", name)
        ip("netns", "delete", name)
    except subprocess.CalledProcessError as error:
        return f"network namespaces are not allowed here: {error.stderr.strip()}"
    return None


class Network:
    """Hosts at a switch.

    Attributes:
        names: the names of the hosts.
    """

    def __init__(self, folder: Path, hosts: int) -> None:
        self._mark = f"lstm-jax-{os.getpid()}"
        self._folder = folder
        self._switch = f"{self._mark}-switch"
        self.names = [f"host-{number}" for number in range(hosts)]
        self._running: list[subprocess.Popen[str]] = []
        table = "".join(f"10.77.0.{number + 1} {name}\n" for number, name in enumerate(self.names))
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{table}")

    def __enter__(self) -> "Network":
        ip("netns", "add", self._switch)
        ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
        ip("-n", self._switch, "link", "set", "bridge", "up")
        for number in range(len(self.names)):
            host, port = f"{self._mark}-{number}", f"port-{number}"
            ip("netns", "add", host)
            ip(
                "-n",
                host,
                "link",
                "add",
                "cable",
                "type",
                "veth",
                "peer",
                "name",
                port,
                "netns",
                self._switch,
            )
            ip("-n", self._switch, "link", "set", port, "master", "bridge", "up")
            ip("-n", host, "address", "add", f"10.77.0.{number + 1}/24", "dev", "cable")
            ip("-n", host, "link", "set", "cable", "up")
            ip("-n", host, "link", "set", "lo", "up")
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self._running:
            process.kill()
            process.communicate()
        for name in (*(f"{self._mark}-{number}" for number in range(len(self.names))), self._switch):
            subprocess.run(["ip", "netns", "delete", name], check=False)

    def start(self, number: int, run_dir: Path, environment: Mapping[str, str]) -> subprocess.Popen[str]:
        """Start this host's process of the run."""
        cluster = [
            "--coordinator-address",
            f"{self.names[0]}:{PORT}",
            "--num-processes",
            str(len(self.names)),
        ]
        train = [sys.executable, "train.py", *cluster, "--process-id", str(number), *ENDLESS]
        name = f"echo {self.names[number]} > /proc/sys/kernel/hostname"
        own = f"mount --bind {self._folder}/hosts /etc/hosts && {name}"
        enter = ["ip", "netns", "exec", f"{self._mark}-{number}", "unshare", "--uts", "sh", "-c"]
        process = subprocess.Popen(
            [*enter, f'{own} && exec "$@"', "sh", *train, "--run-dir", str(run_dir)],
            cwd=PROJECT,
            env=dict(environment),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._running.append(process)
        return process

    def cut_off(self, number: int) -> None:
        """Let nothing pass between a host and the others, which neither side is told."""
        ip("-n", self._switch, "link", "set", f"port-{number}", "nomaster")

    def plug_in(self, number: int) -> None:
        ip("-n", self._switch, "link", "set", f"port-{number}", "master", "bridge")


@pytest.fixture
def network(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Network]:
    if not request.config.getoption("--all"):
        pytest.skip("several hosts take long to start; --all starts them")
    if reason := why_not():
        pytest.skip(reason)
    with Network(tmp_path, request.param) as hosts:
        yield hosts


def wait_for_state(run_dir: Path, running: list[subprocess.Popen[str]], *, after: int = 0) -> None:
    deadline = time.monotonic() + START_SECONDS
    while newest_step(run_dir) <= after:
        assert all(process.poll() is None for process in running), [each.communicate() for each in running]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ends_in_time(running: list[subprocess.Popen[str]]) -> list[str]:
    """The one line of each, all of which end now, for another's sake."""
    began, lines = time.monotonic(), []
    for process in running:
        _, errors = process.communicate(timeout=PROMISED_SECONDS + began - time.monotonic())
        lines.append(errors)
        assert (process.returncode, errors.count("\n")) == (OF_ANOTHER, 1), errors
    return lines


@pytest.mark.parametrize("network", [2, 3], indirect=True)
def test_a_host_that_is_cut_off_ends_as_the_others_do_and_the_run_goes_on(
    network: Network, tmp_path: Path, environment: dict[str, str]
) -> None:
    run_dir = tmp_path / "run"
    last = len(network.names) - 1
    running = [network.start(number, run_dir, environment) for number in range(last + 1)]
    wait_for_state(run_dir, running)
    network.cut_off(last)
    *others, cut = ends_in_time(running)
    for told in others:
        assert f"process {last} on host-{last} does not answer any more" in told
        assert "its machine, or the network to it, is down" in told
    assert "process 0 on host-0 does not answer any more" in cut
    # The same command goes on; the coordinator dies.
    network.plug_in(last)
    before = newest_step(run_dir)
    running = [network.start(number, run_dir, environment) for number in range(last + 1)]
    wait_for_state(run_dir, running, after=before)
    running[0].kill()
    for told in ends_in_time(running[1:]):
        assert "process 0 on host-0 has ended without a word" in told


@pytest.mark.parametrize("network", [3], indirect=True)
def test_a_coordinator_that_is_cut_off_and_a_host_that_comes_late(
    network: Network, tmp_path: Path, environment: dict[str, str]
) -> None:
    run_dir = tmp_path / "run"
    running = [network.start(number, run_dir, environment) for number in range(2)]
    time.sleep(15)
    assert all(process.poll() is None for process in running)
    running.append(network.start(2, run_dir, environment))
    wait_for_state(run_dir, running)
    network.cut_off(0)
    _, second, third = ends_in_time(running)
    for told in (second, third):
        assert "process 0 on host-0 does not answer any more" in told
