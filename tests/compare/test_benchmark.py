"""The benchmark: who is timed and how, and what is told. No test depends on how fast anything is."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest
from lstm_jax.benchmark import jax_lstm, plot, report, sweep, torch_lstm, work
from lstm_jax.benchmark.options import Benchmark
from lstm_jax.benchmark.size import Size, forward_flop, train_flop
from lstm_jax.benchmark.timing import Timing, steps_for, take_turns, turn
from lstm_jax.benchmark.work import MEASURES, TOLERANCE, Answer, CannotRunError, Prepared, difference

from lstm_jax import devices
from lstm_jax.commands import command_line
from lstm_jax.errors import ConfigError
from lstm_jax.kernels.build import why_not_available
from tests.helpers.project import Run
from tests.helpers.references import Case, numpy_lstm

SIZE = Size(hidden=4, batch=6, time=3, inputs=2)  # all different
SPEEDS = {"flax": 0.5, "scan": 0.5, "fused": 0.25, "native": 0.125, "pytorch": 0.375}  # exact in binary


class FakeClock:
    """A clock that only work moves; candidates of known speed, one that is wrong and one that cannot run."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[tuple[str, int]] = []

    def __call__(self) -> float:
        return self.now

    def work(self, name: str, seconds_per_step: float, *, overhead: float = 0.0) -> Any:
        def run(steps: int) -> None:
            self.log.append((name, steps))
            self.now += overhead + steps * seconds_per_step

        return run

    def prepare(self, name: str, *_: Any) -> Prepared:
        if name == "unrolled":
            raise CannotRunError("there is no such loop")
        answer = Answer(1.0, 2.0 + (name == "scan"), {"kernel": np.ones(3)})
        measures = MEASURES[:3] if name == "pytorch" else MEASURES
        memory, threads = (None, 2) if name == "pytorch" else (3_000_000, None)
        runs = {measure: self.work(name, SPEEDS[name]) for measure in measures}
        return Prepared(name, 1.25, memory, threads, answer, runs)

    def measure(self, names: str = "flax,scan,unrolled,fused,native,pytorch") -> report.SizeResult:
        options = Benchmark(implementations=names, rounds=3)
        # 2 * 2048 ** 3 floating-point operations in this time are 100 GFLOP/s.
        peak = self.work("peak", 0.17179869184)
        return sweep.measure(options, Size(64, 128, 28, 28), self.prepare, peak=peak, clock=self)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("hidden_size", "32,x", "--hidden-size: got '32,x', expected different whole numbers from 1 to"),
        ("batch_size", "0", "--batch-size: got '0'"),
        ("time_steps", "28,28", "--time-steps: got '28,28', expected different"),
        ("inputs", 0, "--inputs: got 0, expected a whole number from 1 to"),
        ("seconds", float("nan"), "--seconds: got nan, expected more than 0"),
        ("devices", 3, "--batch-size: got 128, expected multiples of 3"),
        (
            "implementations",
            "flax,keras",
            "got 'flax,keras', expected different ones of flax, flax-optimized",
        ),
        ("implementations", "flax,flax", "--implementations: got 'flax,flax'"),
    ],
)
def test_impossible_options_are_refused(field: str, value: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Benchmark(**{field: value})


def test_mistakes_are_told_in_one_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for args, code, words in [
        (["--hidden-size", "many"], 2, "--hidden-size: got 'many'"),
        (["--rounds", "few"], 2, "--rounds: got 'few', expected a whole number"),
        (["--output", str(tmp_path / "file")], 1, "file: File exists"),
    ]:
        done = run("-m", "lstm_jax", "benchmark", *args)
        assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
        assert words in done.stderr


def test_options_have_a_fixed_order_and_a_command() -> None:
    options = Benchmark(hidden_size="8,4", batch_size="2,6", implementations="native,scan,flax", seconds=0.5)
    assert [(size.hidden, size.batch) for size in options.sizes()] == [(8, 2), (4, 2), (8, 6), (4, 6)]
    assert options.candidates() == ("flax", "scan", "native")
    words = options.command().split()
    assert words[:4] == ["python", "-m", "lstm_jax", "benchmark"]
    assert command_line.parse(Benchmark, words[4:], prog="test") == options


def test_each_round_has_everybody_once_and_another_order() -> None:
    keys = ["a", "b", "c", "d", "e"]
    orders = [turn(keys, index, 5) for index in range(5)]
    assert all(sorted(order) == keys for order in orders)
    assert len({tuple(order) for order in orders}) == 5
    # Nobody has the same one before it in all rounds.
    for key in keys:
        assert len({order[order.index(key) - 1] for order in orders if order[0] != key}) > 1


@pytest.mark.parametrize(
    ("seconds_per_step", "overhead"), [(1e-6, 0.0), (1e-3, 0.05), (0.29, 0.0), (40.0, 0.0)]
)
def test_a_measurement_is_filled_with_steps(seconds_per_step: float, overhead: float) -> None:
    clock = FakeClock()
    steps = steps_for(clock.work("a", seconds_per_step, overhead=overhead), seconds=0.3, clock=clock)
    assert overhead + steps * seconds_per_step >= 0.3
    assert steps == 1 or steps * seconds_per_step < 0.3 * 2
    # A step of 40 s is taken once before the rounds: it needs no second look.
    assert seconds_per_step < 40 or sum(steps for _, steps in clock.log) == 1


def test_a_cold_start_does_not_shorten_the_measurement() -> None:
    clock = FakeClock()
    starts = iter([0.0, 1.0])  # the compilation's run of no steps; then a slow first step

    def run(steps: int) -> None:
        clock.now += next(starts, 0.0) + steps * 1e-3

    assert steps_for(run, seconds=0.3, clock=clock) >= 300


def test_medians_and_quartiles_are_those_of_single_steps() -> None:
    clock = FakeClock()
    runs = {"slow": clock.work("slow", 0.5), "fast": clock.work("fast", 0.0078125)}
    timings = take_turns(runs, rounds=4, seconds=0.1, clock=clock)
    assert timings["slow"] == Timing(1, (0.5,) * 4)
    assert timings["fast"].seconds == (0.0078125,) * 4
    assert timings["fast"].steps * 0.0078125 >= 0.1
    assert Timing(1, (5.0, 1.0, 3.0, 2.0, 4.0)).quartiles == (2.0, 3.0, 4.0)
    # Before each measurement of many steps, some of the same kind are taken untimed.
    for index in (i for i, entry in enumerate(clock.log) if entry == ("fast", timings["fast"].steps)):
        assert clock.log[index - 1][0] == "fast"


def test_the_arithmetic_is_that_of_the_products() -> None:
    hidden, batch, time, inputs = SIZE
    # Of each step (rows, inner, columns); backward: the kernel of x, that of h, and h of the step before.
    forward = [(batch, inputs, 4 * hidden), (batch, hidden, 4 * hidden)]
    backward = [(inputs, batch, 4 * hidden), (hidden, batch, 4 * hidden), (batch, 4 * hidden, hidden)]
    assert forward_flop(SIZE) == time * sum(2 * n * k * m for n, k, m in forward)
    assert train_flop(SIZE) == time * sum(2 * n * k * m for n, k, m in forward + backward)


def prepare_in_jax(name: str, *, devices: int = 1) -> Prepared:
    mesh = devices.make_mesh(devices=devices, batch_size=SIZE.batch)
    return jax_lstm.prepare(name, work.make_task(SIZE), mesh)


@pytest.fixture(scope="module")
def reference() -> Prepared:
    return prepare_in_jax("flax")


def test_the_reference_answers_as_numpy_does(reference: Prepared) -> None:
    task = work.make_task(SIZE)
    zeros = np.zeros((SIZE.batch, SIZE.hidden))
    (_, h), _ = numpy_lstm(Case(task.params, task.inputs[0], (zeros, zeros)))
    logits = h @ task.params["head"]["kernel"] + task.params["head"]["bias"]
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(SIZE.batch), task.labels[0]]
    assert reference.answer.largest == pytest.approx(logits.max(), rel=1e-5)
    assert reference.answer.loss == pytest.approx(losses.mean(), rel=1e-5)


def test_long_sequences_have_gradients() -> None:
    """Denormal numbers would slow down whoever computes with them, and so be timed in the layer's place."""
    task = work.make_task(Size(hidden=8, batch=2, time=784, inputs=5))
    layer = nn.RNN(nn.LSTMCell(8))

    def last_output(inputs: jax.Array) -> jax.Array:
        return layer.apply({"params": {"cell": task.params["cell"]}}, inputs)[:, -1].sum()

    of_steps = np.abs(jax.grad(last_output)(task.inputs[0])).max(axis=(0, 2))
    assert of_steps.shape == (784,)
    assert of_steps.min() > 1e-20


@pytest.mark.parametrize("name", ["flax-optimized", "scan", "unrolled", "fused", "native"])
def test_candidates_in_jax_agree(name: str, reference: Prepared) -> None:
    if name == "native" and (reason := why_not_available()) is not None:
        pytest.skip(reason)
    prepared = prepare_in_jax(name)
    assert difference(prepared.answer, reference.answer) < 1e-5
    assert prepared.memory > sum(leaf.nbytes for leaf in jax.tree.leaves(prepared.answer.gradients))
    assert tuple(prepared.runs) == MEASURES
    for run in prepared.runs.values():
        run(0)
        run(3)


def test_two_devices_give_the_same_gradients(reference: Prepared) -> None:
    answer = prepare_in_jax("fused", devices=2).answer
    # The largest logit is another: it is the mean of two halves' largest.
    assert difference(answer._replace(largest=reference.answer.largest), reference.answer) < 1e-5


def test_two_devices_take_many_steps_one_by_one(run: Run) -> None:
    """More than JAX lets wait for a device. In a process of its own: without a limit, it hung."""
    code = f"""
import jax
jax.config.update("jax_num_cpu_devices", 2)
from lstm_jax import devices
from lstm_jax.benchmark import jax_lstm, work
from lstm_jax.benchmark.size import Size
mesh = devices.make_mesh(devices=2, batch_size={SIZE.batch})
jax_lstm.prepare("fused", work.make_task({SIZE}), mesh).runs["dispatched"](200)
"""
    done = run("-c", code, timeout=120)
    assert done.returncode == 0, done.stderr


def test_many_steps_in_one_program_are_the_steps_one_by_one() -> None:
    task = work.make_task(SIZE)
    programs = jax_lstm.Programs("fused", SIZE.hidden, devices.make_mesh(devices=1, batch_size=SIZE.batch))
    batches = (task.inputs, task.labels)
    state = programs.init(jax.tree.map(np.copy, task.params))
    at_once = programs.train(state, batches, np.int32(3))
    for index in (0, 1, 0):
        state = programs.step(state, (task.inputs[index], task.labels[index]))
    assert int(at_once.opt_state[0].count) == 3
    for one, other in zip(jax.tree.leaves(at_once), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-7)
    sums = [float(programs.forward(task.params, batches, np.int32(steps))) for steps in range(4)]
    first, second = sums[1], sums[2] - sums[1]
    assert first != pytest.approx(second)  # the batches differ, and take turns
    assert sums[3] == pytest.approx(2 * first + second, rel=1e-5)
    # What keeps the compiler from dropping work changes nothing.
    params, _, _ = programs.gradient(task.params, batches, np.int32(5))
    jax.tree.map(np.testing.assert_array_equal, params, task.params)


def test_too_large_a_step_is_refused_before_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax_lstm, "free_memory", lambda: 10)
    with pytest.raises(CannotRunError, match=r"it needs 0\.0 GB, and 0\.0 GB are free"):
        prepare_in_jax("scan")


def test_pytorch_agrees(reference: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch_lstm, "usable_cores", lambda: (0, 1))
    prepared = torch_lstm.prepare(work.make_task(SIZE), devices=1, seconds=0.01)
    assert difference(prepared.answer, reference.answer) < 1e-5
    assert prepared.threads in (1, 2)
    assert tuple(prepared.runs) == MEASURES[:3]
    for run in prepared.runs.values():
        torch.set_num_threads(3 - prepared.threads)
        run(2)
        assert torch.get_num_threads() == prepared.threads


def test_what_pytorch_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_lstm.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CannotRunError, match=r"not installed \(pip install -r requirements-compare\.txt\)"):
        torch_lstm.prepare(work.make_task(SIZE), devices=1, seconds=0.01)


def test_answers_that_differ_are_seen() -> None:
    good = Answer(1.0, 2.0, {"a": np.array([1.0, 0.0]), "b": np.array([1e-9])})
    assert difference(good, good) == 0
    # Small parameters count as much as large ones.
    small = good._replace(gradients={**good.gradients, "b": np.array([1.1e-9])})
    for wrong in (small, good._replace(largest=1.01), good._replace(loss=float("nan"))):
        assert difference(wrong, good) > TOLERANCE


def test_wrong_candidates_are_not_timed() -> None:
    clock = FakeClock()
    result = clock.measure()
    assert {name for name, _ in clock.log} == {"flax", "fused", "native", "pytorch", "peak"}
    assert "differs: its answer is off by 5.0e-01 from that of flax" in result.candidate("scan").why_not_timed
    assert result.candidate("unrolled").why_not_timed == "cannot run: there is no such loop"
    # The baseline is the reference even if nobody asked for it.
    clock = FakeClock()
    assert clock.measure("scan,native").candidate("scan").train_step is None
    assert {name for name, _ in clock.log} == {"native", "peak"}


def test_the_table() -> None:
    lines = report.table(FakeClock().measure(), devices=1).splitlines()
    assert lines[0].startswith(
        "**hidden size 64, batch 128, 28 time steps of 28 inputs**; peak of the matrix"
    )
    rows = {
        cells[1].strip(): [*map(str.strip, cells[2:-1])]
        for cells in (line.split("|") for line in lines[4:10])
    }
    # 3 * 8 * 28 * 128 * 92 * 64 - 8 * 28 * 128 * 28 * 64 are 0.455 GFLOP.
    assert rows["native"] == [*["125 (0)"] * 4, "4.00x", "3.6", "4%", "1.25", "3.0"]
    assert rows["pytorch (2 threads)"] == [*["375 (0)"] * 3, "—", "1.33x", "1.2", "1%", "1.25", "—"]
    assert rows["scan"][0] == "differs"
    assert rows["unrolled"][0] == "cannot run"
    assert "unrolled: cannot run: there is no such loop" in lines


def test_the_json_has_every_measurement() -> None:
    options = Benchmark(rounds=3)
    told = json.loads(json.dumps(report.as_json(options, [FakeClock().measure()])))
    assert (told["command"], told["machine"]["cpu"]) == (options.command(), report.cpu_model())
    assert {"python", "jax", "jaxlib", "flax", "lstm_jax"} <= set(told["versions"])
    (size,) = told["sizes"]
    assert (size["hidden_size"], size["batch_size"], size["time_steps"], size["inputs"]) == (64, 128, 28, 28)
    assert size["peak"]["gflops"] == pytest.approx(100)
    step = size["candidates"]["native"]["timings"]["train step"]
    assert (step["n"], step["median"], step["seconds_per_step"]) == (3, 0.125, [0.125] * 3)
    assert size["candidates"]["scan"]["timings"] == {}


def test_an_interrupted_sweep_has_written_what_it_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = FakeClock()
    measure = partial(sweep.measure, clock=clock)
    left = iter("123")

    def interrupted(*args: Any, **kwargs: Any) -> report.SizeResult:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return measure(*args, **kwargs)

    monkeypatch.setattr(sweep, "measure", interrupted)
    monkeypatch.setattr(sweep.runtime, "start", lambda devices: None)
    monkeypatch.setattr(sweep.jax.config, "update", lambda name, value: None)  # it is for the whole process
    monkeypatch.setattr(sweep.jax_lstm, "prepare", clock.prepare)
    monkeypatch.setattr(sweep.jax_lstm, "peak_run", lambda: clock.work("peak", 0.5))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    sweep.run(Benchmark(implementations="flax,native", output=tmp_path))
    out, err = capsys.readouterr()
    assert "no plot: matplotlib is not installed" in err
    assert out.count("| native |") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    with pytest.raises(KeyboardInterrupt):
        sweep.run(Benchmark(hidden_size="8,16,32", implementations="native", output=tmp_path))
    told = json.loads((tmp_path / "results.json").read_text())
    assert [size["hidden_size"] for size in told["sizes"]] == [8, 16]


def test_the_command_and_a_plot_of_lines(run: Run, tmp_path: Path) -> None:
    sizes = ["--hidden-size", "4", "--batch-size", "4", "--time-steps", "3", "--inputs", "2"]
    short = ["--rounds", "2", "--seconds", "0.001", "--devices", "2", "--implementations", "flax,fused"]
    done = run("-m", "lstm_jax", "benchmark", *sizes, *short, "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "| flax |" in done.stdout
    assert "2 devices" in done.stdout
    (size,) = json.loads((tmp_path / "results.json").read_text())["sizes"]
    assert list(size["candidates"]) == ["flax", "fused"]
    for candidate in size["candidates"].values():
        assert candidate["difference_from_reference"] < TOLERANCE
        assert {len(timing["seconds_per_step"]) for timing in candidate["timings"].values()} == {2}
    bars = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "results.json"}
    one = FakeClock().measure()
    options = (one.reference, one.peak, one.peak_flop, one.candidates)
    plot.write_plots([one, report.SizeResult(one.size._replace(hidden=128), *options)], tmp_path)
    for name, start in {"plot.png": b"\x89PNG", "plot.svg": b"<?xml"}.items():
        assert bars[name].startswith(start)
        assert (tmp_path / name).read_bytes().startswith(start)
        assert (tmp_path / name).read_bytes() != bars[name]
