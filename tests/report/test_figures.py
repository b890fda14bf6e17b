"""The report on a model: its figures against their definitions, its text and its files."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lstm_jax.config import Config
from lstm_jax.data.dataset import MemorySplit
from lstm_jax.errors import RunDirectoryError
from lstm_jax.evaluation import Predictions
from lstm_jax.report.figures import (
    Mistake,
    as_json,
    as_text,
    calibration_bins,
    compute_figures,
    wilson_interval,
)
from lstm_jax.report.files import MOST_SHOWN, images_of, write_report
from lstm_jax.runs.loop import train
from tests.helpers.project import Run

# Bounds found as roots of a quadratic, and by a formula.
ROUNDING = 1e-9


def predictions(examples: int, classes: int = 10, seed: int = 0) -> Predictions:
    """Of a model that is right about half of the time, more often where it is surer."""
    rng = np.random.default_rng(seed)
    probability = rng.dirichlet(np.full(classes, 0.2), examples).astype(np.float32)
    named = probability.argmax(axis=1)
    label = np.where(
        rng.random(examples) < probability.max(axis=1) ** 2, named, rng.integers(0, classes, examples)
    )
    loss = -np.log(np.maximum(probability[np.arange(examples), label], 1e-30))
    return Predictions(loss.astype(np.float32), probability, label.astype(np.int32))


def by_hand() -> Predictions:
    """Five examples of three classes, none of class 2."""
    probability = np.array(
        [[0.5, 0.25, 0.25], [0.1, 0.9, 0.0], [0.05, 0.95, 0.0], [0.0, 0.75, 0.25], [0.3, 0.0, 0.7]],
        np.float32,
    )
    label = np.array([0, 1, 0, 1, 0], np.int32)
    return Predictions(np.array([1, 2, 3, 4, 5], np.float32), probability, label)


# --------------------------------------------------------------------------------------------------
# Wilson's interval
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "examples"), [(9954, 10_000), (1, 7), (7, 7), (0, 3), (500, 1000), (59_999, 60_000)]
)
@pytest.mark.parametrize("confidence", [0.95, 0.99])
def test_wilsons_interval_holds_every_rate_that_is_not_refuted(
    right: int, examples: int, confidence: float
) -> None:
    # The bounds are the rates q at which the observed share is z standard deviations of a sample away:
    # (p - q)^2 = z^2 q (1 - q) / n.
    z = {0.95: 1.959963984540054, 0.99: 2.5758293035489004}[confidence]
    share = right / examples
    quadratic = [1 + z**2 / examples, -2 * share - z**2 / examples, share**2]
    expected = sorted(np.real(np.roots(quadratic)))
    got = wilson_interval(right, examples, confidence=confidence)
    np.testing.assert_allclose(got, expected, rtol=ROUNDING, atol=ROUNDING)
    assert 0 <= got[0] <= share <= got[1] <= 1


def test_wilsons_interval_by_hand() -> None:
    # 1 of 1: from 1 / (1 + z^2) = 1 / 4.8415 to 1.
    low, high = wilson_interval(1, 1)
    assert low == pytest.approx(0.20655, abs=1e-5)
    assert high == 1
    assert wilson_interval(0, 0) == (0, 1)


# --------------------------------------------------------------------------------------------------
# Calibration
# --------------------------------------------------------------------------------------------------


def calibration_error_by_loops(probability: np.ndarray, right: np.ndarray, bins: int) -> float:
    """Guo et al. 2017, equations 2 to 5, example by example."""
    total = 0.0
    for m in range(1, bins + 1):
        members = [i for i, p in enumerate(probability) if (m - 1) / bins < p <= m / bins]
        if members:
            accuracy = sum(bool(right[i]) for i in members) / len(members)
            confidence = sum(float(probability[i]) for i in members) / len(members)
            total += len(members) / len(probability) * abs(accuracy - confidence)
    return total


@pytest.mark.parametrize("seed", range(3))
def test_calibration_error_is_guos(seed: int) -> None:
    given = predictions(500, seed=seed)
    sureness, right = given.probability.max(axis=1), given.probability.argmax(axis=1) == given.label
    expected = calibration_error_by_loops(sureness.astype(np.float64), right, 15)
    assert expected > 0.02
    report = compute_figures(given)
    assert report.calibration_error == pytest.approx(expected, rel=ROUNDING)
    assert [len(report.bins), sum(b.examples for b in report.bins)] == [15, 500]


def test_bins_by_hand() -> None:
    # Four bins; a bound belongs to the bin below it. What rounding lifts above 1 is in the last.
    probability = np.array([0.25, 0.26, 0.5, 0.9, 1.0, 1.0000001], np.float32)
    right = np.array([True, True, False, False, True, True])
    bins = calibration_bins(probability, right, count=4)
    assert [b.examples for b in bins] == [1, 2, 0, 3]
    assert [(b.above, b.up_to) for b in bins] == [(0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1)]
    assert [b.accuracy for b in bins if b.examples] == [1, 0.5, 2 / 3]
    assert bins[1].probability == pytest.approx(0.38)
    assert math.isnan(bins[2].probability)
    assert math.isnan(bins[2].accuracy)


# --------------------------------------------------------------------------------------------------
# The report
# --------------------------------------------------------------------------------------------------


def test_a_report_by_hand() -> None:
    given = by_hand()
    report = compute_figures(given)
    assert report.evaluation.loss == 3
    np.testing.assert_array_equal(report.evaluation.confusion, [[1, 1, 1], [0, 2, 0], [0, 0, 0]])
    assert report.evaluation.accuracy == 3 / 5
    assert report.interval == wilson_interval(3, 5)
    assert report.class_intervals == [wilson_interval(1, 3), wilson_interval(2, 2), (0, 1)]
    assert report.mistakes == [
        Mistake(2, 0, 1, float(np.float32(0.95)), float(given.probability[2, 0])),
        Mistake(4, 0, 2, float(np.float32(0.7)), float(given.probability[4, 0])),
    ]
    # In bins of a fifteenth: 0.5; 0.7; 0.75; 0.9; 0.95. Only the second and the last are wrong.
    assert report.calibration_error == pytest.approx((0.5 + 0.7 + 0.25 + 0.1 + 0.95) / 5, rel=1e-6)


def test_every_mistake_is_listed_the_most_confident_first() -> None:
    given = predictions(300)
    report = compute_figures(given)
    named = given.probability.argmax(axis=1)
    assert sorted(m.index for m in report.mistakes) == [i for i in range(300) if named[i] != given.label[i]]
    sureness = [m.probability for m in report.mistakes]
    assert sureness == sorted(sureness, reverse=True)
    for mistake in report.mistakes:
        assert (mistake.true, mistake.named) == (given.label[mistake.index], named[mistake.index])
        assert mistake.probability == given.probability[mistake.index].max()
        assert mistake.true_probability == given.probability[mistake.index, mistake.true]


def test_the_text() -> None:
    text = as_text(compute_figures(by_hand()), most_mistakes=1)
    lines = text.splitlines()
    assert lines[0] == "loss 3.0000"
    assert lines[1] == "accuracy 60.00% (3 of 5), 95% interval 23.07% to 88.24%"
    assert lines[2] == "expected calibration error 50.00%"
    assert "  0   33.33%  6.15% to 79.23%" in lines
    assert "  2     nan%  0.00% to 100.00%" in lines
    listed = lines.index("misclassified: 2, the 1 most confident (index, true, predicted, probability)")
    assert [line.split() for line in lines[listed + 1 : listed + 3]] == [["2", "0", "1", "95.00%"], []]
    assert " 66.7% to  73.3%       1   70.00%    0.00%" in lines
    assert lines[-1].split() == ["2", "0", "0", "0"]
    assert "misclassified: 2, most confident first" in as_text(compute_figures(by_hand()), most_mistakes=2)


def test_the_json_holds_the_same() -> None:
    report = compute_figures(by_hand())
    read = json.loads(json.dumps(as_json(report), allow_nan=False))
    assert read["accuracy"] == 0.6
    assert tuple(read["accuracy_interval"]) == report.interval
    assert read["confusion"] == report.evaluation.confusion.tolist()
    assert read["classes"][2] == {"examples": 0, "accuracy": None, "accuracy_interval": [0, 1]}
    assert read["expected_calibration_error"] == report.calibration_error
    assert [b["examples"] for b in read["calibration"]] == [b.examples for b in report.bins]
    assert read["calibration"][0]["accuracy"] is None
    first = report.mistakes[0]
    assert read["mistakes"][0] == {
        "index": 2,
        "true": 0,
        "named": 1,
        "probability": float(np.float32(0.95)),
        "true_probability": first.true_probability,
    }


# --------------------------------------------------------------------------------------------------
# Files
# --------------------------------------------------------------------------------------------------


def split_for(given: Predictions) -> MemorySplit:
    images = np.random.default_rng(5).integers(0, 256, (len(given.label), 28, 28), np.uint8)
    return MemorySplit(images, given.label.copy())


def test_files(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    given, notes = predictions(400), list[str]()
    folder = tmp_path / "new" / "folder"
    write_report(compute_figures(given), split_for(given), folder, about={"step": 7}, report=notes.append)
    assert notes == [f"written to {folder}"]
    drawn = ("calibration", "confusion", "mistakes")
    names = {"evaluation.json", *(f"{name}.{suffix}" for name in drawn for suffix in ("png", "svg"))}
    assert {path.name for path in folder.iterdir()} == names
    assert json.loads((folder / "evaluation.json").read_text())["step"] == 7
    for name in drawn:
        picture = np.asarray(Image.open(folder / f"{name}.png").convert("L"))
        assert min(picture.shape) > 500
        assert picture.std() > 10  # it is not blank


def test_without_matplotlib_the_rest_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    given, notes = predictions(50), list[str]()
    write_report(compute_figures(given), split_for(given), tmp_path, about={}, report=notes.append)
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]
    assert notes[0].startswith("no pictures: matplotlib is not installed")


def test_a_perfect_model_has_no_gallery(tmp_path: Path) -> None:
    given = predictions(20)
    perfect = given._replace(label=given.probability.argmax(axis=1).astype(np.int32))
    report = compute_figures(perfect)
    assert report.mistakes == []
    write_report(report, split_for(perfect), tmp_path, about={})
    assert not (tmp_path / "mistakes.png").exists()
    assert "misclassified: 0" in as_text(report, most_mistakes=5)


def test_images_are_those_of_the_mistakes() -> None:
    given = predictions(400, seed=3)
    report, split = compute_figures(given), split_for(given)
    shown = report.mistakes[:MOST_SHOWN]
    for mistake, image in zip(shown, images_of(shown, split), strict=True):
        np.testing.assert_array_equal(image, split.images[mistake.index])


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    given = predictions(5)
    report = compute_figures(given)
    with pytest.raises(RunDirectoryError, match=r"--output: got .*file/below, expected a folder"):
        write_report(report, split_for(given), tmp_path / "file" / "below", about={})


def test_the_command_writes_what_it_prints(run: Run, data_dir: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    train(Config.of(data_dir=data_dir, run_dir=run_dir, steps=100, hidden_size=16, devices=1))
    done = run("-m", "lstm_jax", "evaluate", run_dir, "--output", tmp_path / "out", "--mistakes", 3)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == f"written to {tmp_path / 'out'}"
    read = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    record = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[-1])
    assert [read["step"], read["dataset"], read["examples"]] == [100, "mnist", 1_000]
    assert read["accuracy"] == pytest.approx(record["test_accuracy"], abs=1e-9)
    assert read["loss"] == pytest.approx(record["test_loss"], rel=1e-5)
    assert f"accuracy {read['accuracy']:.2%}" in done.stdout
    assert len(read["mistakes"]) == round(1_000 * (1 - read["accuracy"]))
    lines = done.stdout.splitlines()
    listed = lines.index(
        f"misclassified: {len(read['mistakes']):,}, the 3 most confident "
        "(index, true, predicted, probability)"
    )
    for line, mistake in zip(lines[listed + 1 : listed + 4], read["mistakes"], strict=False):
        assert [int(word) for word in line.split()[:3]] == [
            mistake[key] for key in ("index", "true", "named")
        ]
    assert lines[listed + 4] == ""


def test_a_negative_number_of_mistakes(run: Run) -> None:
    done = run("-m", "lstm_jax", "evaluate", "nowhere", "--mistakes", -1)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--mistakes: got -1, expected a whole number from 0 to" in done.stderr
