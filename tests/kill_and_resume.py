"""Kill a run again and again, and show that it ends with the same bits as an undisturbed one.

    python -m tests.kill_and_resume --kills 20 --checkpoint-every 25 --epochs 10

trains once undisturbed, then the same in another folder where the process gets SIGKILL at a random
moment, again and again, each time followed by the same command; the last kill waits for a new state. It
compares every array of the two last saved states (parameters, optimizer, everything) and all figures of all
epochs but the times.

    python -m tests.kill_and_resume --processes 2 --kills 200 --checkpoint-every 25 --epochs 10

does the same with two processes under `launch --restarts`: one of them, drawn at random, gets SIGKILL each
time, and the launcher starts both again.
"""

import argparse
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lstm_jax.runs.checkpoint import CHECKSUMS, digest
from lstm_jax.runs.trained import load_state

PROJECT = Path(__file__).parents[1]
# Of a kill that waits for a new state: seconds from that to the kill, at most. The run may be near its end.
AFTER_PROGRESS = 1.0
# Figures that depend on the clock.
TIMES = ("train_seconds", "examples_per_second")


def train_command(run_dir: Path, options: Sequence[str]) -> list[str]:
    return [sys.executable, str(PROJECT / "train.py"), "--run-dir", str(run_dir), *options]


def started(command: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def launch_command(run_dir: Path, options: Sequence[str], *, processes: int, restarts: int = 0) -> list[str]:
    launch = ["launch", "--processes", str(processes), "--restarts", str(restarts)]
    return [sys.executable, "-m", "lstm_jax", *launch, "--", "train", "--run-dir", str(run_dir), *options]


def children(process: int) -> list[int]:
    """The processes that a process has started and that live, in the order of their start."""
    if Path("/proc/self/stat").exists():  # a slim container has no `ps`
        rows = list(map(_in_proc, Path("/proc").glob("[0-9]*/stat")))
    else:  # macOS
        found = subprocess.run(["ps", "-axo", "pid=,stat=,ppid="], capture_output=True, text=True, check=True)
        rows = [line.split() for line in found.stdout.splitlines()]
    pids = [int(pid) for pid, state, parent in rows if parent == str(process) and not state.startswith("Z")]
    return sorted(pids)


def _in_proc(stat: Path) -> list[str]:
    """Number, state and parent of a process, which Linux says after its name; that may be anything."""
    try:
        state, parent, *_ = stat.read_text().rpartition(")")[2].split()
    except (OSError, ValueError):  # it has ended
        return [stat.parent.name, "Z", ""]
    return [stat.parent.name, state, parent]


def kill_under_launcher(
    run_dir: Path,
    options: Sequence[str],
    *,
    processes: int,
    kills: int,
    longest: float,
    rng: random.Random,
    after_progress: int = 0,
) -> list[int]:
    """Launch the run with as many restarts as kills, and kill one of its processes, so many times.

    Args, and what is returned: as of `kill_at_random_moments`; the run goes on to its end by itself.

    Raises:
        RuntimeError: if it does not end well, or the launcher has not started all processes again.
    """
    saved = []
    command = launch_command(run_dir, options, processes=processes, restarts=kills)
    with tempfile.TemporaryFile("w+") as output:
        launcher = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=PROJECT)
        seen: set[int] = set()
        for i in range(kills):
            while launcher.poll() is None and len(fresh := set(children(launcher.pid)) - seen) < processes:
                time.sleep(0.02)
            if launcher.poll() is not None:
                break
            waits = i >= kills - after_progress
            before = newest_step(run_dir)
            delay = rng.uniform(0, min(longest, AFTER_PROGRESS) if waits else longest)
            while waits and newest_step(run_dir) == before and launcher.poll() is None:
                time.sleep(0.01)
            time.sleep(delay)
            victim = rng.choice(sorted(fresh))
            seen |= fresh
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:  # the run has ended
                break
            saved.append(newest_step(run_dir))
            print(f"kill {i + 1:3d} after {delay:5.2f} s, step {saved[-1]} is saved", flush=True)
        launcher.wait()
        output.seek(0)
        told = output.read()
    if launcher.returncode or told.count("all start again") != len(saved):
        raise RuntimeError(f"the launcher ended with code {launcher.returncode}:\n{told}")
    return saved


def newest_step(run_dir: Path) -> int:
    """Of the states that are whole: one whose checksums are still to be written is not saved yet."""
    saved = run_dir.glob(f"checkpoints/*/{CHECKSUMS}")
    return max((int(path.parent.name) for path in saved if path.parent.name.isdigit()), default=0)


def kill_at_random_moments(
    run_dir: Path,
    options: Sequence[str],
    *,
    kills: int,
    longest: float,
    rng: random.Random,
    after_progress: int = 0,
    start: Callable[[Sequence[str]], Any] = started,
) -> list[int]:
    """Start the run and kill it, so many times.

    Args:
        run_dir: the run directory.
        options: of ``train.py``.
        kills: how many times.
        longest: seconds before a kill, at most.
        rng: draws the moments.
        after_progress: so many last kills wait for a new checkpoint first, and then no longer than
            `AFTER_PROGRESS`.
        start: starts a command; what it returns is used as a `subprocess.Popen`.

    Returns:
        The newest saved step after each kill that met a living process.
    """
    saved = []
    for i in range(kills):
        waits = i >= kills - after_progress
        before = newest_step(run_dir)
        delay = rng.uniform(0, min(longest, AFTER_PROGRESS) if waits else longest)
        process = start(train_command(run_dir, options))
        while waits and newest_step(run_dir) == before and process.poll() is None:
            time.sleep(0.01)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        output, _ = process.communicate()
        if process.returncode == -signal.SIGKILL:
            saved.append(newest_step(run_dir))
            print(f"kill {i + 1:2d} after {delay:4.2f} s, step {saved[-1]} is saved", flush=True)
        elif process.returncode == 0:
            print(f"finished before kill {i + 1}", flush=True)
        else:
            raise RuntimeError(f"the run failed by itself with code {process.returncode}:\n{output}")
    return saved


def figures_of(run_dir: Path) -> list[dict[str, Any]]:
    """The run's metrics without those that depend on the clock."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMES} for line in lines]


def state_digest(run_dir: Path) -> str:
    """The SHA-256 over every array of the newest saved state: parameters, optimizer and counters."""
    return digest(load_state(run_dir).state)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--longest", type=float, default=6.0, help="seconds before a kill, at most")
    parser.add_argument("--processes", type=int, default=1, help="under a launcher, if there are several")
    parser.add_argument("--seed", type=int, default=None, help="of the random moments")
    arguments, options = parser.parse_known_args()
    seed = arguments.seed if arguments.seed is not None else time.time_ns() % 10**6
    print(f"random moments from seed {seed}; training options: {' '.join(options) or '(none)'}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        calm, disturbed = Path(folder) / "calm", Path(folder) / "disturbed"
        settings: dict[str, Any] = {
            "kills": arguments.kills,
            "longest": arguments.longest,
            "rng": random.Random(seed),
            # On a slow machine all others may come while starting, of two processes most.
            "after_progress": 1 if arguments.processes == 1 else -(-arguments.kills // 2),
        }
        if arguments.processes == 1:
            subprocess.run(train_command(calm, options), check=True)
            saved = kill_at_random_moments(disturbed, options, **settings)
            subprocess.run(train_command(disturbed, options), check=True)
        else:
            subprocess.run(launch_command(calm, options, processes=arguments.processes), check=True)
            saved = kill_under_launcher(disturbed, options, processes=arguments.processes, **settings)
        leftovers = [path.name for path in (disturbed / "checkpoints").iterdir() if not path.name.isdigit()]
        steps = [0, *saved]
        fruitful = sum(later > earlier for earlier, later in itertools.pairwise(steps))
        checks = {
            f"all {arguments.kills} kills met a running process": len(saved) == arguments.kills,
            # Else nothing was ever resumed, and what follows shows nothing.
            "a kill came after a new state was saved": fruitful > 0,
            "the saved states are bit-identical": state_digest(calm) == state_digest(disturbed),
            "the figures of all epochs are identical": figures_of(calm) == figures_of(disturbed),
            "no temporary folder is left": not leftovers,
            "no checkpoint was damaged": not (disturbed / "damaged").exists(),
        }
    print(f"{fruitful} of the kills came after a new state was saved, the others while starting")
    for what, holds in checks.items():
        print(f"{'yes' if holds else 'NO '}  {what}")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
