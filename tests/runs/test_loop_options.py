"""Whole runs with the options that change what a run keeps or reports: averaged weights, no validation."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from lstm_jax import train
from lstm_jax.config import Config
from lstm_jax.kernels import choice
from lstm_jax.runs.checkpoint import digest
from lstm_jax.runs.trained import load_state, load_trained
from tests.helpers.project import Run
from tests.helpers.runs import EVERY_OPTION, Listener, train_until_told
from tests.kill_and_resume import figures_of, state_digest

pytestmark = pytest.mark.slow


@pytest.fixture(params=EVERY_OPTION)
def every_option(request: pytest.FixtureRequest) -> dict[str, Any]:
    return EVERY_OPTION[request.param]


@pytest.fixture
def small(data_dir: Path, tmp_path: Path) -> dict[str, Any]:
    """Options of a run that takes a second or two: a small LSTM, 2 epochs of 5 large batches."""
    places = {"data_dir": data_dir, "run_dir": tmp_path / "run"}
    return {**places, "hidden_size": 4, "batch_size": 440, "epochs": 2, "devices": 1}


@pytest.fixture
def averaged_run(small: dict[str, Any], every_option: dict[str, Any]) -> Any:
    return train(Config.of(**small, **every_option))


def test_an_averaged_run_is_judged_and_used_by_its_average(
    averaged_run: Any, small: dict[str, Any], every_option: dict[str, Any]
) -> None:
    trained, state = load_trained(small["run_dir"]), load_state(small["run_dir"]).state
    average = state.opt_state.average
    assert digest(trained.params) == digest(average) == digest(averaged_run.params)
    assert digest(average) == averaged_run.summary["parameters_sha256"] != digest(state.params)
    # An independent count of right answers, by the parameters that prediction uses.
    from tests.helpers.mnist import oracle

    images, labels = oracle()["test_images"], oracle()["test_labels"]
    accuracy = float(np.mean(np.argmax(trained.probabilities(images), axis=1) == labels))
    assert averaged_run.summary["test_accuracy"] == pytest.approx(accuracy)
    # A finished run gives them back.
    again = train(Config.of(**small, **every_option))
    assert digest(again.params) == digest(average)


def test_with_every_option_a_stopped_run_goes_on_to_the_same_bits(
    averaged_run: Any, small: dict[str, Any], every_option: dict[str, Any], tmp_path: Path
) -> None:
    options = {**small, **every_option, "run_dir": tmp_path / "stopped", "checkpoint_every": 1}
    stops, result = 0, None
    while result is None or result.summary is None:
        result = train_until_told(Config.of(**options), Listener(signal_after=3))
        stops += result.summary is None
    assert stops >= 2
    assert state_digest(tmp_path / "stopped") == state_digest(small["run_dir"])
    assert figures_of(tmp_path / "stopped") == figures_of(small["run_dir"])


def test_what_does_not_train_is_not_asked_for(small: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    # Not to begin or to score either: it would be built for nothing, or said to be missing.
    monkeypatch.setattr(choice, "why_not_available", lambda: pytest.fail("native was asked for"))
    result = train(Config.of(**small, implementation="fused"))
    assert result.summary is not None
    assert result.summary["implementation"] == "fused"


def test_training_on_all_images_has_no_validation(small: dict[str, Any]) -> None:
    listener = Listener()
    result = train(Config.of(**{**small, "batch_size": 1440}, train_on_all=True), console=listener)
    assert result.summary is not None
    assert result.summary["steps"] == 2 * 7_200 // 1_440
    metrics = (small["run_dir"] / "metrics.jsonl").read_text().splitlines()
    for record in map(json.loads, metrics):
        assert record["validation_accuracy"] is None
        assert record["validation_loss"] is None
        assert 0 < record["test_accuracy"] < 1
    for figure in (
        "validation_accuracy",
        "best_validation_accuracy",
        "best_validation_epoch",
        "best_validation_test_accuracy",
    ):
        assert result.summary[figure] is None
    told = "\n".join(listener.messages)
    assert "mnist: 7,200 training, 1,000 test images" in told
    assert "validation" not in told
    assert train(Config.of(**{**small, "batch_size": 1440}, train_on_all=True)).summary == result.summary


def test_a_run_of_pixels_is_trained_evaluated_and_used(run: Run, tmp_path: Path) -> None:
    options = ["--run-dir", tmp_path / "run", "--hidden-size", "3", "--steps", "1", "--train-on-all"]
    recipe = ["--recipe", "permuted", "--permutation-seed", "bit-reversal", "--remat", "28"]
    done = run("train.py", *options, *recipe)
    assert done.returncode == 0, done.stderr
    assert "validation" not in done.stdout
    evaluated = run("-m", "lstm_jax", "evaluate", tmp_path / "run")
    assert evaluated.returncode == 0, evaluated.stderr
    accuracy = json.loads((tmp_path / "run" / "summary.json").read_text())["test_accuracy"]
    assert f"accuracy {accuracy:.2%}" in evaluated.stdout
    trained = load_trained(tmp_path / "run")
    assert trained.model.task == "permuted"
    images = np.random.default_rng(0).integers(0, 256, (2, 28, 28), np.uint8)
    assert trained.probabilities(images).shape == (2, 10)


def test_old_states_are_read(small: dict[str, Any]) -> None:
    """A state of the tutorial has no more in it than before these options were there."""
    train(Config.of(**small))
    names = {
        jax.tree_util.keystr(path[:2])
        for path, _ in jax.tree_util.tree_leaves_with_path(load_state(small["run_dir"]).state)
        if ".params" not in jax.tree_util.keystr(path[:1])
    }
    assert names == {".step", ".loss_sum", ".nonfinite_step", ".opt_state[0]"}
