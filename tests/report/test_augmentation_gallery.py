"""The picture in docs/augmentation.md, and the command that times augmentation."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lstm_jax.compare.augmentation_cost import as_text, variants
from lstm_jax.config import Augmentation
from lstm_jax.report.augmentation_gallery import GAP, LABEL_WIDTH, MAGNIFICATION, gallery, rows_of
from tests.helpers.mnist import oracle
from tests.helpers.project import PROJECT, Run

DOCUMENT = (PROJECT / "docs" / "augmentation.md").read_text()
ALL = Augmentation(rotation=12.0, shift=2.0, scale=0.1, shear=0.2, elastic=0.8, smoothness=3.0)

# Another version of Pillow or of XLA may round, or draw letters, a little otherwise.
GREY_TOLERANCE = 1.0


def tiles(picture: Image.Image) -> np.ndarray:
    """The images in the picture without their frames, (rows, digits, 28, 28), white on black."""
    pixels = 255 - np.asarray(picture, np.int32)[:, LABEL_WIDTH:]
    step = 28 * MAGNIFICATION + GAP
    cells = pixels.reshape(pixels.shape[0] // step, step, pixels.shape[1] // step, step).swapaxes(1, 2)
    return cells[:, :, : step - GAP : MAGNIFICATION, : step - GAP : MAGNIFICATION]


def test_each_row_shows_its_change() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
    shown = tiles(gallery(images, ALL, seed=0))[..., 1:-1, 1:-1]
    assert shown.shape == (len(rows_of(ALL)), 3, 26, 26)
    np.testing.assert_array_equal(shown[0], images[:, 1:-1, 1:-1])
    for a in range(len(shown)):
        for b in range(a):
            assert np.abs(shown[a] - shown[b]).mean() > 10
    np.testing.assert_array_equal(shown, tiles(gallery(images, ALL, seed=0))[..., 1:-1, 1:-1])
    changes = list(rows_of(ALL).values())
    assert changes[:2] == [Augmentation(), Augmentation(rotation=12.0)]
    assert changes[-1] == ALL


def test_the_picture_in_the_document_is_what_its_command_makes(run: Run, tmp_path: Path) -> None:
    (command,) = re.findall(
        r"^python -m lstm_jax\.report\.augmentation_gallery (.*)$", DOCUMENT, re.MULTILINE
    )
    made = tmp_path / "made.png"
    words = command.replace("docs/augmentation.png", str(made)).split()
    done = run("-m", "lstm_jax.report.augmentation_gallery", *words)
    assert (done.returncode, done.stderr) == (0, "")
    pictures = [
        np.asarray(Image.open(path), np.float64) for path in (made, PROJECT / "docs/augmentation.png")
    ]
    assert np.abs(pictures[0] - pictures[1]).mean() < GREY_TOLERANCE
    # Ten digits in order: the first row is the first image of each class.
    labels, images = oracle()["train_labels"], oracle()["train_images"]
    first = [images[np.flatnonzero(labels == digit)[0]] for digit in range(10)]
    np.testing.assert_array_equal(tiles(Image.open(made))[0][:, 1:-1, 1:-1], np.stack(first)[:, 1:-1, 1:-1])


def test_a_recipe_that_changes_nothing_is_refused(run: Run, tmp_path: Path) -> None:
    done = run(
        "-m", "lstm_jax.report.augmentation_gallery", "--recipe", "tutorial", "--output", tmp_path / "x.png"
    )
    assert done.returncode == 1
    assert "got tutorial, which changes no images, expected one that does" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_table_of_costs() -> None:
    timings = {
        "none": (0.002, 0.004, 0.0035),
        "affine": (0.0035, 0.0035, 0.0035),
        "all": (0.007, 0.007, 0.0005),
    }
    assert as_text("wall clock", timings).splitlines() == [
        "| augmentation | wall clock, ms per step | added |",
        "|---|---:|---:|",
        "| none | 3.50 (1.00) | +0% |",
        "| affine | 3.50 (0.00) | +0% |",
        "| all | 7.00 (3.25) | +100% |",
    ]
    assert list(variants()) == list(timings)
    assert variants()["affine"].elastic == 0 != variants()["all"].elastic
    assert not variants()["none"].is_active


@pytest.mark.slow
def test_the_costs_can_be_measured(run: Run, request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--all"):
        pytest.skip("20 s for what only a command of a document runs; --all runs it")
    done = run("-m", "lstm_jax.compare.augmentation_cost", "--rounds", 1, "--seconds", 0.01)
    assert done.returncode == 0, done.stderr
    assert (
        len(re.findall(r"^\| (none|affine|all) \| [\d.]+ \([\d.]+\) \| [+-]\d+% \|$", done.stdout, re.M)) == 6
    )


@pytest.mark.parametrize("option", ["--rounds", "--seconds"])
def test_impossible_measurements_are_refused(run: Run, option: str) -> None:
    done = run("-m", "lstm_jax.compare.augmentation_cost", option, 0)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"{option}: got 0" in done.stderr
