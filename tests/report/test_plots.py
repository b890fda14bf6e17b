"""The pictures of a training and of an evaluation show the numbers that they were given."""

from typing import Any

import numpy as np
import pytest

from lstm_jax.report import drawing, plots
from lstm_jax.report.figures import Mistake

pytest.importorskip("matplotlib")


def records(*accuracies: float, validation: bool = True) -> list[dict[str, Any]]:
    return [
        {
            "epoch": epoch,
            "train_loss": 2 * (1 - accuracy),
            "validation_loss": 3 * (1 - accuracy) if validation else None,
            "validation_accuracy": accuracy - 0.01 if validation else None,
            "test_loss": 4 * (1 - accuracy),
            "test_accuracy": accuracy,
        }
        for epoch, accuracy in enumerate(accuracies, 1)
    ]


def curves(ax: Any) -> list[list[float]]:
    return [np.asarray(line.get_ydata()).tolist() for line in ax.lines]


def test_learning_curves_of_several_runs_with_seeds_as_bands() -> None:
    seeds = [records(0.9, 0.98), records(0.94, 0.99)]
    figure = plots.learning_curves({"many": seeds, "one": [records(0.8, 0.9)]})
    loss, validation, test = figure.axes
    np.testing.assert_allclose(curves(test), [[92, 98.5], [80, 90]])
    np.testing.assert_allclose(curves(validation), [[91, 97.5], [79, 89]])
    # Training, then validation, of each run.
    np.testing.assert_allclose(curves(loss), [[0.16, 0.03], [0.24, 0.045], [0.4, 0.2], [0.6, 0.3]])
    (band,) = test.collections
    (path,) = band.get_paths()
    assert {tuple(corner) for corner in np.round(path.vertices, 6)} == {(1, 90), (1, 94), (2, 98), (2, 99)}
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["many", "one"]
    drawing.as_files(figure)
    low, high = test.get_ylim()
    assert low < 80
    assert high > 98.5


def test_a_run_without_an_epoch_is_left_out() -> None:
    figure = plots.learning_curves({"begun": [[], []], "ended": [records(0.9)]})
    _, _, test = figure.axes
    np.testing.assert_allclose(curves(test), [[90]])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["ended"]


def test_names_of_runs_are_no_formulas() -> None:
    names = [r"$\nonsense$", "_hidden", "a$b"]
    figure = plots.learning_curves({name: [records(0.9)] for name in names})
    drawing.as_files(figure)
    (legend,) = figure.legends
    shown = [text.get_text().replace(r"\$", "$").strip() for text in legend.get_texts()]
    assert shown == names


def test_learning_curves_without_validation() -> None:
    figure = plots.learning_curves({"run": [records(0.9, 1.0, validation=False)]})
    loss, test = figure.axes
    assert "test (dashed)" in loss.get_title(loc="left")
    np.testing.assert_allclose(curves(loss), [[0.2, 0], [0.4, 0]], atol=1e-12)
    np.testing.assert_allclose(curves(test), [[90, 100]])
    assert figure.legends == []
    drawing.as_files(figure)  # an accuracy of 100 % has a place on the scale
    assert 100 < test.get_ylim()[1] < 100.01


def test_confusion() -> None:
    counts = np.array([[7, 2, 0], [0, 5, 1], [9, 0, 4]])
    (ax,) = plots.confusion(counts).axes
    np.testing.assert_array_equal(ax.images[0].get_array(), counts * (1 - np.eye(3)))
    assert [text.get_text() for text in ax.texts] == ["7", "2", "5", "1", "9", "4"]
    assert ax.get_title(loc="left") == "16 of 28 classified correctly"


def test_mistakes() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (13, 28, 28), np.uint8)
    wrong = [Mistake(100 + k, k % 10, (k + 1) % 10, 0.9 - k / 100, k / 100) for k in range(13)]
    (ax,) = plots.mistakes(wrong, images).axes
    mosaic = np.asarray(ax.images[0].get_array())
    height = mosaic.shape[0] // 2
    for k, image in enumerate(images):
        top, left = k // 10 * height + plots.CAPTION, k % 10 * (28 + plots.GAP)
        np.testing.assert_array_equal(mosaic[top : top + 28, left : left + 28], image)
    widths = np.array([bar.get_width() for bar in ax.patches]).reshape(13, 2) / (28 - 4)
    np.testing.assert_allclose(widths, [(m.probability, m.true_probability) for m in wrong])
    shown = [text.get_text() for text in ax.texts]
    assert shown[:4] == ["0 as 1", "100", "1", "0"]
    assert len(shown) == 4 * 13


def test_equal_figures_give_equal_files() -> None:
    files = [drawing.as_files(plots.confusion(np.eye(10, dtype=int))) for _ in range(2)]
    assert files[0] == files[1]
    assert files[0]["png"].startswith(b"\x89PNG")
    assert b"<svg" in files[0]["svg"]
    assert b"#ffffff" in files[0]["svg"]  # the ground is opaque


def test_the_style_does_not_leak() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    plots.confusion(np.eye(3, dtype=int))
    assert dict(matplotlib.rcParams) == before
