"""Runs of many seeds at once: each is what a run of that seed alone is; what is said of them; one of them."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from lstm_jax import __main__ as commands
from lstm_jax import devices, train
from lstm_jax.config import Config
from lstm_jax.errors import ConfigError, NonFiniteLossError, RunDirectoryError
from lstm_jax.runs import loop
from lstm_jax.runs.checkpoint import digest
from lstm_jax.runs.console import TerminalConsole
from lstm_jax.runs.seeds import seed_of, seed_with_nonfinite
from lstm_jax.runs.trained import load_trained
from tests.helpers.mnist import TEST, oracle
from tests.helpers.runs import EVERY_OPTION, Listener, by_numpy, train_until_told
from tests.kill_and_resume import figures_of, state_digest

pytestmark = pytest.mark.slow

SEEDS = (2, 3, 4)
# Student's t of 2 degrees of freedom, from a table.
T_OF_THREE = 4.303

# Programs that round otherwise, over 4 steps of Adam, which makes much of rounding where a gradient is
# near 0.
FEW_STEPS = {"rtol": 1e-4, "atol": 1e-5}
# Of another seed, no weights are so near.
ANOTHER_SEED = 0.01
# Test images that may be named otherwise for it.
FEW_IMAGES = 1


def options(data_dir: Path, run_dir: Path) -> dict[str, Any]:
    """Options of a run that takes a second or two: a small LSTM, 2 epochs of 2 large batches."""
    places = {"data_dir": data_dir, "run_dir": run_dir}
    return {**places, "hidden_size": 4, "batch_size": 1080, "epochs": 2, "devices": 1, "seed": SEEDS[0]}


@pytest.fixture
def small(data_dir: Path, tmp_path: Path) -> dict[str, Any]:
    return {**options(data_dir, tmp_path / "run"), "seeds": len(SEEDS)}


@pytest.fixture(scope="module")
def many(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[loop.TrainResult, Listener]:
    """A finished run of three seeds, and what it said."""
    run_dir, listener = tmp_path_factory.mktemp("many") / "run", Listener()
    config = Config.of(**options(data_dir, run_dir), seeds=len(SEEDS))
    return train(config, console=listener), listener


def test_each_seed_is_what_a_run_of_it_alone_is(many: Any, data_dir: Path, tmp_path: Path) -> None:
    result, _ = many
    for index, seed in enumerate(SEEDS):
        alone = train(Config.of(**{**options(data_dir, tmp_path / str(seed)), "seed": seed}))
        of_seed = jax.tree.map(lambda leaf, index=index: np.asarray(leaf[index]), result.params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **FEW_STEPS), of_seed, alone.params)
        for record, expected in zip(result.history, alone.history, strict=True):
            each = record["per_seed"][index]
            assert each["seed"] == seed
            for key in ("train_loss", "validation_loss", "test_loss"):
                assert each[key] == pytest.approx(expected[key], rel=1e-4)
            assert abs(each["test_accuracy"] - expected["test_accuracy"]) <= FEW_IMAGES / TEST
    head = np.asarray(result.params["head"]["kernel"])
    assert np.max(np.abs(head[0] - head[1])) > ANOTHER_SEED


def test_one_seed_is_no_array_of_one() -> None:
    assert (np.ndim(seed_of(Config.of(seed=7))), int(seed_of(Config.of(seed=7)))) == (0, 7)
    np.testing.assert_array_equal(seed_of(Config.of(seed=7, seeds=2)), [7, 8])


def test_means_and_spread_are_those_of_the_seeds(many: Any) -> None:
    result, listener = many
    metrics = [json.loads(line) for line in (result.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert metrics == list(result.history) == listener.records
    for record in metrics:
        for key in ("train_loss", "validation_loss", "validation_accuracy", "test_loss", "test_accuracy"):
            assert record[key] == pytest.approx(np.mean([each[key] for each in record["per_seed"]]))
        accuracies = [each["test_accuracy"] for each in record["per_seed"]]
        assert len(set(accuracies)) > 1
        assert record["test_accuracy_standard_deviation"] == pytest.approx(np.std(accuracies, ddof=1))
        assert record["examples_per_second"] == pytest.approx(3 * 2 * 1080 / record["train_seconds"])

    summary = json.loads((result.run_dir / "summary.json").read_text())
    assert summary == result.summary
    assert summary["parameter_count"] == 4 * (4 * (28 + 4) + 4) + 5 * 10
    assert summary["parameters_sha256"] == digest(result.params)
    assert summary["best_validation_epoch"] is None
    assert [each["seed"] for each in summary["per_seed"]] == list(SEEDS)
    for index, each in enumerate(summary["per_seed"]):
        own = [record["per_seed"][index] for record in metrics]
        best = int(np.argmax([record["validation_accuracy"] for record in own]))
        assert each["test_accuracy"] == own[-1]["test_accuracy"]
        assert each["best_validation_epoch"] == best + 1
        assert each["best_validation_test_accuracy"] == own[best]["test_accuracy"]
        assert each["best_validation_accuracy"] == own[best]["validation_accuracy"]
    assert len(summary["statistics"]) == 4
    for key, found in summary["statistics"].items():
        values = [each[key] for each in summary["per_seed"]]
        assert summary[key] == found["mean"] == pytest.approx(np.mean(values))
        assert found["standard_deviation"] == pytest.approx(np.std(values, ddof=1))
        assert found["interval"] == pytest.approx(by_numpy(np.array(values), T_OF_THREE), rel=1e-4)
        assert found["confidence"] == 0.95


def test_the_user_is_told_of_each_seed_and_of_all(many: Any, capsys: pytest.CaptureFixture[str]) -> None:
    result, listener = many
    summary = result.summary
    assert any("3 seeds (2 to 4) at once" in message for message in listener.messages)
    told = "\n".join(listener.messages)
    for each in summary["per_seed"]:
        assert f"seed {each['seed']}: test accuracy {each['test_accuracy']:.2%}; " in told
    found = summary["statistics"]["test_accuracy"]
    low, high = found["interval"]
    assert (
        f"Test accuracy {found['mean']:.2%} +- {100 * found['standard_deviation']:.2f} (mean and standard "
        f"deviation of 3 seeds), 95% interval of the mean {low:.2%} to {high:.2%}, after epoch 2"
    ) in told

    TerminalConsole().epoch_finished(10, {**result.history[-1], "examples_per_second": 123_456.7})
    line = capsys.readouterr().out.rstrip("\n")
    expected = r"epoch  2/10  loss \d\.\d{4}  val \d+\.\d\d%  test \d+\.\d\d% \+- \d+\.\d\d  123,457 images/s"
    assert re.fullmatch(expected, line)
    assert len(line) <= 80


def test_a_finished_run_is_not_repeated_and_gives_all_back(many: Any, data_dir: Path, tmp_path: Path) -> None:
    result, _ = many
    shutil.copytree(result.run_dir, tmp_path / "copy")
    config = Config.of(**options(data_dir, tmp_path / "copy"), seeds=len(SEEDS))
    listener = Listener()
    again = train(config, console=listener)
    assert (listener.steps, again.summary) == (0, result.summary)
    assert digest(again.params) == digest(result.params)
    with pytest.raises(RunDirectoryError, match="--seeds 3 there, 1 now"):
        train(Config.of(**options(data_dir, tmp_path / "copy")))
    damaged = {key: value for key, value in again.summary.items() if key != "per_seed"}
    (tmp_path / "copy" / "summary.json").write_text(json.dumps(damaged))
    mended = train(config, console=listener)
    assert mended.summary == result.summary
    told = "written again from the saved state (missing or wrong: per_seed"
    assert told in " ".join(listener.messages)


def test_stopped_anywhere_they_go_on_to_the_same_bits(small: dict[str, Any], tmp_path: Path) -> None:
    # With everything that is random or averaged; and without validation, so that nothing is best.
    options = {"train_on_all": True, "augment_rotation": 10.0, "batch_size": 3600}
    small = {**small, **EVERY_OPTION["muon"], **options}
    whole = train(Config.of(**{**small, "run_dir": tmp_path / "whole"}))
    stops, result = 0, None
    while result is None or result.summary is None:
        result = train_until_told(Config.of(**small, checkpoint_every=1), Listener(signal_after=1))
        stops += result.summary is None
    assert stops >= 2
    assert digest(result.params) == digest(whole.params)
    assert state_digest(small["run_dir"]) == state_digest(tmp_path / "whole")
    assert figures_of(small["run_dir"]) == figures_of(tmp_path / "whole")
    assert set(result.summary["statistics"]) == {"test_accuracy"}
    assert result.summary["best_validation_test_accuracy"] is None
    assert result.history[0]["validation_accuracy"] is None


def test_two_devices_agree_with_one(many: Any, small: dict[str, Any]) -> None:
    result, _ = many
    two = train(Config.of(**{**small, "devices": 2}))
    assert two.summary is not None
    assert two.summary["device"] == "2 x cpu"
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **FEW_STEPS), two.params, result.params)


def test_a_loss_that_is_not_finite_names_its_seed(
    small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop.compile_train_epoch

    def poisoned(*args: Any, **kwargs: Any) -> Any:
        epoch = real(*args, **kwargs)

        def run(state: Any, *rest: Any) -> Any:
            broken = jax.tree.map(lambda leaf: leaf.at[1].set(np.nan), state.params)
            return epoch(state._replace(params=broken), *rest)

        return run

    monkeypatch.setattr(loop, "compile_train_epoch", poisoned)
    with pytest.raises(NonFiniteLossError, match=r"^the loss of seed 3 is not finite at step 1; no state"):
        train(Config.of(**small))


def test_the_seed_of_a_parameter_that_is_not_finite_is_found() -> None:
    config = Config.of(seed=5, seeds=3)
    params = {"a": np.zeros((3, 2, 2)), "b": np.zeros(3)}
    assert seed_with_nonfinite(config, params) is None
    params["b"][2] = np.inf
    assert seed_with_nonfinite(config, params) == 7
    params["a"][1, 0, 1] = np.nan
    assert seed_with_nonfinite(config, params) == 6
    assert seed_with_nonfinite(Config.of(seed=5), {"a": np.array([0.0, np.nan])}) == 5


def test_one_of_the_models_is_read(many: Any) -> None:
    result, _ = many
    images, labels = oracle()["test_images"], oracle()["test_labels"]
    told: list[str] = []
    for index, seed in enumerate(SEEDS):
        trained = load_trained(result.run_dir, seed=seed, report=told.append)
        assert trained.seed == seed
        assert digest(trained.params) == digest(jax.tree.map(lambda leaf, i=index: leaf[i], result.params))
        right = np.mean(np.argmax(trained.probabilities(images), axis=1) == labels)
        expected = result.summary["per_seed"][index]["test_accuracy"]
        assert abs(right - expected) <= FEW_IMAGES / TEST
        assert told[-1] == (
            f"{result.run_dir} holds 3 seeds (2 to 4); this is seed {seed} (--seed names another)"
        )
    assert load_trained(result.run_dir).seed == SEEDS[0]


def test_a_seed_that_is_not_there_is_refused(many: Any, data_dir: Path, tmp_path: Path) -> None:
    result, _ = many
    with pytest.raises(ConfigError) as refusal:
        load_trained(result.run_dir, seed=5)
    told = f"--seed: got 5, expected one of {result.run_dir}, which holds 3 seeds (2 to 4)"
    assert str(refusal.value) == told
    train(Config.of(**{**options(data_dir, tmp_path / "one"), "epochs": 1}))
    said: list[str] = []
    assert load_trained(tmp_path / "one", seed=2, report=said.append).seed == 2
    assert said == []  # nothing to choose from
    with pytest.raises(ConfigError, match=r"got 0, expected the only one of .*/one, which holds seed 2$"):
        load_trained(tmp_path / "one", seed=0)


def test_commands_take_a_seed(
    many: Any,
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    result, _ = many
    monkeypatch.setattr(devices, "start", lambda *, devices: None)  # JAX has begun already
    run_dir, out = str(result.run_dir), tmp_path / "out"
    last = result.history[-1]["per_seed"]
    assert commands.main(["evaluate", run_dir, "--output", str(out)]) == 0
    found = capsys.readouterr()
    assert "this is seed 2 (" in found.err
    assert f"{run_dir}, seed 2, step 4, on 1,000 test images of mnist" in found.out
    assert f"loss {last[0]['test_loss']:.4f}" in found.out
    assert json.loads((out / "evaluation.json").read_text())["seed"] == 2
    assert commands.main(["evaluate", run_dir, "--seed", "4"]) == 0
    assert f"loss {last[2]['test_loss']:.4f}" in capsys.readouterr().out
    image = np.zeros((28, 28), np.uint8)
    image[4:24, 13:16] = 255
    from PIL import Image

    Image.fromarray(image).save(tmp_path / "one.png")
    assert commands.main(["predict", run_dir, str(tmp_path / "one.png"), "--seed", "3"]) == 0
    assert "this is seed 3 (" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="--seed: got 9, expected one of"):
        commands.main(["predict", run_dir, str(tmp_path / "one.png"), "--seed", "9"])


def test_one_of_the_models_is_exported(many: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("safetensors")
    from lstm_jax.exchange.formats import read_weights

    result, _ = many
    monkeypatch.setattr(devices, "start", lambda *, devices: None)
    output = tmp_path / "weights.safetensors"
    arguments = ["--format", "safetensors", "--seed", "4", "--output", str(output)]
    assert commands.main(["export", str(result.run_dir), *arguments]) == 0
    jax.tree.map(
        lambda written, own: np.testing.assert_array_equal(written, own[2]),
        read_weights(output),
        jax.tree.map(np.asarray, dict(result.params)),
    )
