"""How runs end: told to by a signal, early, later than planned; and the best state beside the last."""

import dataclasses
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from lstm_jax import devices, train
from lstm_jax.config import Config
from lstm_jax.data import dataset
from lstm_jax.data.dataset import Dataset, MemorySplit
from lstm_jax.errors import CheckpointError, ConfigError, RunDirectoryError
from lstm_jax.exchange.formats import FORMATS
from lstm_jax.runs import loop
from lstm_jax.runs.checkpoint import digest
from lstm_jax.runs.run_directory import WEIGHTS_FILE
from lstm_jax.runs.trained import load_trained
from lstm_jax.system.signals import Interrupted, StopSignals
from tests.helpers.runs import Listener, train_until_told
from tests.kill_and_resume import figures_of, state_digest

pytestmark = pytest.mark.slow

STEPS_PER_EPOCH = 2
BATCH_SIZE = 16


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options of a run that takes less than a second: a small LSTM, epochs of 2 batches of random images."""
    rng = np.random.default_rng(0)

    def split(count: int) -> MemorySplit:
        images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        return MemorySplit(images, rng.integers(0, 10, count, np.int32))

    dataset = Dataset("random", split(BATCH_SIZE * STEPS_PER_EPOCH), split(10), split(10))
    nothing = split(0)

    def load_dataset(name: str, *, validation_size: int = 10, **places: Any) -> Dataset:
        return dataset if validation_size else dataclasses.replace(dataset, validation=nothing)

    monkeypatch.setattr(loop, "load_dataset", load_dataset)
    return {"run_dir": tmp_path / "run", "hidden_size": 4, "batch_size": BATCH_SIZE, "devices": 1}


Script = Callable[[Sequence[Sequence[float]]], None]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    """Gives the accuracies on validation, of each epoch those of each seed. Nothing else is evaluated."""
    real = loop.Loop.evaluate

    def script(accuracies: Sequence[Sequence[float]]) -> None:
        def evaluate(self: loop.Loop, state: Any, notes: Any, epoch: int, steps: int) -> Any:
            of_seeds: Iterator[float] = iter(accuracies[epoch - 1])

            def scores(self: loop.Loop, params: Any) -> Any:
                others = {"validation_loss": 1.0, "test_loss": 1.0, "test_accuracy": 0.5}
                return {**others, "validation_accuracy": next(of_seeds)}, np.zeros((10, 10), np.int64)

            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(loop.Loop, "scores", scores)
                return real(self, state, notes, epoch, steps)

        monkeypatch.setattr(loop.Loop, "evaluate", evaluate)

    return script


@pytest.fixture
def quick(script: Script) -> None:
    """Every epoch is better than the one before."""
    script([[epoch / 100] * 3 for epoch in range(1, 20)])


def states(run_dir: Path) -> list[int]:
    return sorted(int(path.name) for path in (run_dir / "checkpoints").iterdir() if path.name.isdigit())


@pytest.mark.usefixtures("quick")
def test_ctrl_c_ends_a_loop_of_trainings_and_loses_nothing(small: dict[str, Any], tmp_path: Path) -> None:
    begun = []
    with pytest.raises(KeyboardInterrupt) as interrupt:  # noqa: PT012  (a loop as users write it)
        for seed in range(3):
            begun.append(seed)
            options = {**small, "run_dir": tmp_path / str(seed), "seed": seed, "epochs": 3}
            train(Config.of(**options), console=Listener(signal_after=2, number=signal.SIGINT))
    assert begun == [0]
    assert interrupt.value.number == signal.SIGINT
    told = f"SIGINT; the state is saved in {tmp_path / '0'}; the same call goes on from it"
    assert str(interrupt.value) == told
    assert load_trained(tmp_path / "0").step > 0
    finished = train(Config.of(**{**small, "run_dir": tmp_path / "0", "epochs": 3}))
    whole = train(Config.of(**{**small, "run_dir": tmp_path / "whole", "epochs": 3}))
    assert digest(finished.params) == digest(whole.params)


class _AtTheEnd(Listener):
    """Interrupts when a run says where it is: after its last step, or when it was finished before."""

    def message(self, text: str) -> None:
        if text.startswith("Run directory"):
            os.kill(os.getpid(), signal.SIGINT)
        super().message(text)


@pytest.mark.usefixtures("quick")
def test_ctrl_c_after_the_last_step_is_not_lost(small: dict[str, Any]) -> None:
    for _ in ("trains", "finds it finished"):
        with pytest.raises(KeyboardInterrupt, match=r"SIGINT; the run in .*run is finished"):
            train(Config.of(**small, epochs=1), console=_AtTheEnd())


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_a_run_ends_at_the_step_at_which_it_was_stopped(
    small: dict[str, Any], tmp_path: Path, stop: int
) -> None:
    """Within an epoch there is no record of that step yet."""
    options = {**small, "checkpoint_every": 1}
    stopped = train_until_told(Config.of(**options, steps=6), Listener(signal_after=stop))
    assert load_trained(small["run_dir"]).step == stop
    assert stopped.summary is None
    ended = train(Config.of(**options, steps=stop))
    whole = train(Config.of(**{**options, "run_dir": tmp_path / "whole"}, steps=stop))
    assert ended.summary["parameters_sha256"] == whole.summary["parameters_sha256"]
    assert figures_of(small["run_dir"]) == figures_of(tmp_path / "whole")


@pytest.mark.usefixtures("quick")
def test_a_finished_run_without_its_states_is_not_begun_anew(small: dict[str, Any]) -> None:
    train(Config.of(**small, epochs=1))
    shutil.rmtree(small["run_dir"] / "checkpoints")
    files = {name: (small["run_dir"] / name).read_bytes() for name in ("summary.json", "metrics.jsonl")}
    with pytest.raises(CheckpointError, match="got no saved state, expected the last one"):
        train(Config.of(**small, epochs=2))
    assert files == {name: (small["run_dir"] / name).read_bytes() for name in files}


@pytest.mark.usefixtures("quick")
def test_a_finished_run_says_what_makes_it_longer(small: dict[str, Any]) -> None:
    for told, options in {"give more --epochs or --steps": {}, "import": {"schedule": "linear"}}.items():
        config = Config.of(**{**small, "run_dir": small["run_dir"] / told[:4]}, epochs=1, **options)
        train(config)
        listener = Listener()
        train(config, console=listener)
        assert f"To train longer, {'' if not options else 'begin another run'}" in listener.messages[-1]
        assert told in listener.messages[-1]


@pytest.mark.usefixtures("quick")
def test_a_summary_cannot_bring_seeds_of_its_own(small: dict[str, Any]) -> None:
    original = train(Config.of(**small, epochs=1)).summary
    path = small["run_dir"] / "summary.json"
    planted = {"per_seed": [{"seed": 0, "test_accuracy": 0.99, "best_validation_epoch": None}]}
    path.write_text(json.dumps({**original, "remark": "mine", **planted, "statistics": {}}))
    listener = Listener()
    found = train(Config.of(**small, epochs=1), console=listener).summary
    assert found == {**original, "remark": "mine"}
    assert listener.messages[0].endswith("(missing or wrong: statistics, per_seed)")


@pytest.mark.usefixtures("quick")
def test_a_signal_reaches_the_handler_of_the_program(
    small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        result = train(Config.of(**small, epochs=3), console=Listener(signal_after=1))
        assert heard == [signal.SIGTERM]
        assert result.stopped_by == signal.SIGTERM
        # Before there is anything to save.
        monkeypatch.setattr(loop, "load_dataset", lambda *a, **k: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted, match="SIGTERM"):
            train(Config.of(**small, epochs=3))
        assert heard == [signal.SIGTERM] * 2
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_signal_without_a_handler_does_what_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[int] = []
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        monkeypatch.setattr(signal, "raise_signal", raised.append)  # it would end the tests
        stop.hand_back(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert raised == [signal.SIGTERM]
    # What only another process has heard.
    with StopSignals() as stop:
        pass
    with pytest.raises(Interrupted, match="SIGTERM; saved"):
        stop.hand_back(signal.SIGTERM, "saved")
    assert len(raised) == 1


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("seeds", "first", "longer"),
    [
        (1, {"epochs": 1}, {"epochs": 3}),
        # Within an epoch, whose figures are those of the whole epoch then.
        (1, {"steps": 1}, {"epochs": 2}),
        (2, {"steps": 3}, {"steps": 5}),
    ],
)
def test_a_finished_run_goes_on_to_the_bits_of_a_longer_one(
    small: dict[str, Any], tmp_path: Path, seeds: int, first: dict[str, int], longer: dict[str, int]
) -> None:
    small = {**small, "seeds": seeds, "output_dropout_rate": 0.2}
    whole = train(Config.of(**{**small, **longer, "run_dir": tmp_path / "whole"}))
    assert train(Config.of(**small, **first)).summary is not None
    went_on = train(Config.of(**small, **longer))
    assert went_on.summary is not None
    assert went_on.summary["steps"] == whole.summary["steps"]
    assert digest(went_on.params) == digest(whole.params)
    assert state_digest(small["run_dir"]) == state_digest(tmp_path / "whole")
    assert figures_of(small["run_dir"]) == figures_of(tmp_path / "whole")
    assert states(small["run_dir"])[-2:] == states(tmp_path / "whole")[-2:]
    # And now it is that run: not repeated, and not to be made shorter.
    listener = Listener()
    assert train(Config.of(**small, **longer), console=listener).summary == went_on.summary
    assert listener.steps == 0
    kept = {path: path.read_bytes() for path in small["run_dir"].glob("*.json*")}
    with pytest.raises(ConfigError, match=r"expected at least \d+: this run has taken \d steps"):
        train(Config.of(**small, **first))
    assert kept == {path: path.read_bytes() for path in small["run_dir"].glob("*.json*")}


@pytest.mark.usefixtures("quick")
def test_killed_anywhere_a_run_that_becomes_longer_loses_nothing(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(Config.of(**{**small, "steps": 5, "run_dir": tmp_path / "whole"}))
    train(Config.of(**small, steps=3))
    shutil.copytree(small["run_dir"], tmp_path / "finished")

    class Killed(BaseException):
        pass

    def kill(*arguments: Any, **more: Any) -> None:
        raise Killed

    for owner, name in [
        (loop.RunDirectory, "begin"),  # before anything is written
        (loop.RunDirectory, "_write_config"),  # the summary is gone, config.json is still that of before
        (loop.Loop, "compile"),  # both are
        (loop.Loop, "save"),  # steps were taken
        (loop.RunDirectory, "add"),  # saved, but not in the metrics
    ]:
        shutil.rmtree(small["run_dir"])
        shutil.copytree(tmp_path / "finished", small["run_dir"])
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, kill)
            with pytest.raises(Killed):
                train(Config.of(**small, steps=5))
        went_on = train(Config.of(**small, steps=5))
        assert went_on.summary is not None, name
        assert digest(went_on.params) == digest(whole.params), name
        assert figures_of(small["run_dir"]) == figures_of(tmp_path / "whole"), name
        assert load_trained(small["run_dir"]).config.steps == 5


@pytest.mark.usefixtures("quick")
def test_where_the_learning_rate_follows_from_the_length_it_is_said_how_to_go_on(
    small: dict[str, Any], tmp_path: Path
) -> None:
    for name, option in [("schedule", "cosine"), ("warmup", 0.5)]:
        options = {**small, "run_dir": tmp_path / name, name: option}
        train(Config.of(**options, steps=2))
        commands = (
            f"python -m lstm_jax export {tmp_path / name} --format safetensors && "
            f"python -m lstm_jax import {tmp_path / name / 'params.safetensors'} --run-dir ANOTHER"
        )
        with pytest.raises(RunDirectoryError) as refusal:
            train(Config.of(**options, steps=4))
        assert "--steps 2 there, 4 now" in str(refusal.value)
        assert str(refusal.value).endswith(commands)
        listener = Listener()
        train(Config.of(**options, steps=2), console=listener)
        assert commands in listener.messages[-1]
        # Another schedule is another run all the same, and not one of another length.
        with pytest.raises(RunDirectoryError, match="other options"):
            train(Config.of(**{**options, "schedule": "linear", "warmup": 0.0}, steps=2))
    assert FORMATS["safetensors"].file_name == WEIGHTS_FILE


def test_patience_ends_a_run_and_more_of_it_goes_on(
    small: dict[str, Any], tmp_path: Path, script: Script
) -> None:
    script([[0.5], [0.7], [0.6], [0.7], [0.8], [0.8], [0.1]])  # an equal one is no better
    listener = Listener()
    result = train(Config.of(**small, epochs=7, patience=2), console=listener)
    assert result.summary is not None
    assert (result.summary["epochs"], result.summary["best_validation_epoch"]) == (4, 2)
    assert result.summary["stopped_early"] is True
    assert any(message.startswith("Stopped after epoch 4: ") for message in listener.messages)
    assert states(small["run_dir"]) == [4, 6, 8]
    # It is finished; and not by how it came here.
    assert train(Config.of(**small, epochs=7, patience=2)).summary == result.summary
    stopped, again = {**small, "run_dir": tmp_path / "stopped", "checkpoint_every": 1}, None
    while again is None or again.summary is None:
        again = train_until_told(Config.of(**stopped, epochs=7, patience=2), Listener(signal_after=1))
    assert state_digest(tmp_path / "stopped") == state_digest(small["run_dir"])
    assert figures_of(tmp_path / "stopped") == figures_of(small["run_dir"])
    # The learning rate does not depend on it, so it may change, with any schedule.
    more = train(Config.of(**small, epochs=7, patience=3))
    assert more.summary is not None
    assert (more.summary["epochs"], more.summary["best_validation_epoch"]) == (7, 5)
    assert more.summary["stopped_early"] is False  # the last of all epochs is not early
    whole = train(Config.of(**{**small, "run_dir": tmp_path / "whole"}, epochs=7))
    assert digest(more.params) == digest(whole.params)


def test_many_seeds_end_when_none_becomes_better(small: dict[str, Any], script: Script) -> None:
    script([[0.5, 0.1], [0.4, 0.2], [0.4, 0.3], [0.4, 0.2], [0.4, 0.3], [0.9, 0.9]])
    result = train(Config.of(**small, seeds=2, epochs=6, patience=2))
    assert result.summary is not None
    assert result.summary["epochs"] == 5
    assert [each["best_validation_epoch"] for each in result.summary["per_seed"]] == [1, 3]


def test_patience_needs_validation() -> None:
    with pytest.raises(ConfigError, match="--patience: got 3 with --train-on-all, expected"):
        Config.of(patience=3, train_on_all=True)
    with pytest.raises(ConfigError, match="--patience: got 0, expected a whole number from 1"):
        Config.of(patience=0)


@pytest.mark.parametrize("seeds", [1, 2])
def test_the_best_state_is_kept_beside_the_newest(
    small: dict[str, Any], tmp_path: Path, script: Script, seeds: int
) -> None:
    script([row[:seeds] for row in ([0.3, 0.9], [0.8, 0.2], [0.1, 0.3], [0.8, 0.4], [0.2, 0.5], [0.3, 0.1])])
    best_epochs = (2, 1)[:seeds]
    small = {**small, "seeds": seeds, "seed": 3}
    # Stopped again and again: what is kept follows from the history alone.
    result = None
    while result is None or result.summary is None:
        options = Config.of(**small, epochs=6, checkpoint_every=1)
        result = train_until_told(options, Listener(signal_after=3))
    assert states(small["run_dir"]) == sorted({*(STEPS_PER_EPOCH * epoch for epoch in best_epochs), 11, 12})
    for index, epoch in enumerate(best_epochs):
        there = {**small, "run_dir": tmp_path / str(epoch), "epochs": epoch}
        alone = train(Config.of(**there))
        params = alone.params if seeds == 1 else jax.tree.map(lambda leaf, i=index: leaf[i], alone.params)
        told: list[str] = []
        best = load_trained(small["run_dir"], seed=3 + index, best=True, report=told.append)
        assert digest(best.params) == digest(params)
        assert best.step == STEPS_PER_EPOCH * epoch
        assert f"{small['run_dir']}: epoch {epoch}, the best on validation so far" in told
        assert load_trained(small["run_dir"], seed=3 + index).step == 12
    # Damaged, it is not another that passes for it, and the newest is there.
    shutil.rmtree(small["run_dir"] / "checkpoints" / "4")
    with pytest.raises(CheckpointError, match="got no undamaged state of step 4"):
        load_trained(small["run_dir"], best=True)
    assert load_trained(small["run_dir"]).step == 12


def test_the_newest_may_be_the_best_and_without_validation_none_is(
    small: dict[str, Any], tmp_path: Path
) -> None:
    result = train(Config.of(**small, epochs=1))
    assert digest(load_trained(small["run_dir"], best=True).params) == digest(result.params)
    options = {**small, "run_dir": tmp_path / "all"}
    train(Config.of(**options, epochs=3, train_on_all=True))
    assert states(tmp_path / "all") == [4, 6]
    with pytest.raises(ConfigError, match="--best: got a run with --train-on-all"):
        load_trained(tmp_path / "all", best=True)


def test_commands_take_the_best(
    small: dict[str, Any], script: Script, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lstm_jax import __main__ as commands

    script([[0.9], [0.1], [0.2], [0.3]])
    train(Config.of(**small, epochs=4))
    monkeypatch.setattr(devices, "start", lambda *, devices: None)  # JAX has begun already
    monkeypatch.setattr(dataset, "load_dataset", loop.load_dataset)
    run_dir = str(small["run_dir"])
    for options, step in ([], 8), (["--best"], 2):
        assert commands.main(["evaluate", run_dir, *options, "--mistakes", "0"]) == 0
        assert f"{run_dir}, step {step}, on" in capsys.readouterr().out
    image = small["run_dir"] / "one.png"
    from PIL import Image

    Image.new("L", (28, 28), 255).save(image)
    with pytest.raises(SystemExit) as left:
        commands.main(["predict", run_dir, "--beset"])
    assert left.value.code == 2
    read: list[bool] = []
    real = load_trained

    def spy(*arguments: Any, best: bool, **more: Any) -> Any:
        read.append(best)
        return real(*arguments, best=best, **more)

    monkeypatch.setattr("lstm_jax.runs.trained.load_trained", spy)
    commands.main(["predict", run_dir, "--best", str(image)])
    pytest.importorskip("safetensors")
    assert commands.main(["export", run_dir, "--best", "--format", "safetensors"]) == 0
    assert "at step 2" in capsys.readouterr().err
    assert read == [True, True]
    config = json.loads((small["run_dir"] / "config.json").read_text())
    assert config["epochs"] == 4
