"""The pictures show the numbers that they were given."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.explain import figures
from lstm_jax.explain.memory import Memory
from lstm_jax.explain.reading import Reading, Steps, cells_of
from lstm_jax.model import LSTMClassifier

pytest.importorskip("matplotlib")

HIDDEN, TIME = 3, 28


def steps(rng: np.random.Generator) -> Steps:
    """Of one image."""
    signed = [rng.uniform(-1, 1, (1, TIME, HIDDEN)) for _ in range(3)]
    gates = [rng.uniform(0, 1, (1, TIME, HIDDEN)) for _ in range(3)]
    return Steps(gates[0], gates[1], signed[0], gates[2], signed[1], signed[2])


def reading_of(layers: int = 1, directions: tuple[str, ...] = ("forward",)) -> Reading:
    rng = np.random.default_rng(0)
    probability = np.zeros((1, TIME, 10), np.float32)
    probability[0, :12, 4], probability[0, 12:, 7] = 0.9, 0.8
    probability[0, :, 2] = 0.1
    return Reading(
        rng.uniform(0, 1, (1, TIME, 28)).astype(np.float32),
        [{direction: steps(rng) for direction in directions} for _ in range(layers)],
        probability,
        np.log(probability[:, -1] + 1e-9),
    )


def texts(figure: Any) -> str:
    from matplotlib.text import Text

    return "\n".join(found.get_text() for found in figure.findobj(Text))


def maps(figure: Any) -> Iterator[Any]:
    """All that `imshow` drew, without the colour bars."""
    for ax in figure.axes:
        yield from ax.images


def test_reading_a_digit() -> None:
    found = reading_of()
    figure = figures.reading(found, title="Image <3>")
    image, *heat = maps(figure)
    np.testing.assert_array_equal(image.get_array(), found.sequence[0])
    of_one = found.layers[0]["forward"]
    order = np.argsort(of_one.cell[0, -1])
    assert len(heat) == 6
    for drawn, values in zip(heat, of_one, strict=True):
        np.testing.assert_array_equal(drawn.get_array(), values[0][:, order])
    curves = figure.axes[1]
    shown = {tuple(np.asarray(line.get_xdata())) for line in curves.lines if len(line.get_xdata()) == TIME}
    assert shown == {tuple(curve) for curve in found.probability[0].T}
    assert [text.get_text() for text in curves.texts] == ["4", "7"]
    told = texts(figure)
    for words in ("Image <3>", "from row 13 on (dashed), the answer is 7", "forget gate f", "hidden state h"):
        assert words in told
    panels = [ax for ax in figure.axes if ax.images or ax is curves]
    for ax in panels:  # one time axis, downwards, and one line at the decision
        assert ax.get_ylim() == (28.5, 0.5)
        assert [line.get_ydata()[0] for line in ax.lines if len(line.get_xdata()) == 2] == [12.5]


def test_reading_in_both_directions() -> None:
    found = reading_of(2, ("backward", "forward"))  # as JAX sorts them
    figure = figures.reading(found, task="columns")
    told = texts(figure)
    names = [f"layer {layer}, {direction}" for layer in (1, 2) for direction in ("forward", "backward")]
    assert [name for line in told.splitlines() for name in names if line == name] == names
    assert "from column 13 on" in told
    cells = list(maps(figure))[5::6]
    backward = found.layers[1]["backward"].cell[0]
    # It ends at the first step.
    np.testing.assert_array_equal(cells[3].get_array(), backward[:, np.argsort(backward[0])])


def test_memory() -> None:
    rng = np.random.default_rng(1)
    norms = {name: rng.uniform(0.1, 1, (5, 28)).astype(np.float32) for name in figures.MEMORY_COLOURS}
    norms["LSTM, forget bias 0"][:, 0] = 0
    figure = figures.memory([Memory("rows", norms)])
    (ax,) = figure.axes
    for line, values in zip(ax.lines, norms.values(), strict=True):
        np.testing.assert_allclose(line.get_ydata(), np.median(values / values[:, -1:], axis=0), rtol=1e-5)
    assert "LSTM, forget bias 0: nothing" in texts(figure)
    chrono = np.median(norms["LSTM, chrono"][:, 0] / norms["LSTM, chrono"][:, -1])
    assert f"LSTM, chrono: {chrono:.2g}" in texts(figure)
    heights = sorted(text.xy[1] for text in ax.texts)
    assert min(np.diff(np.log10(heights))) > 0.01  # no two on top of each other


def test_long_sequences_are_thinned_out() -> None:
    norms = np.random.default_rng(2).uniform(0.1, 1, (2, 784)).astype(np.float32)
    (ax,) = figures.memory([Memory("pixels", {"LSTM, chrono": norms})]).axes
    (line,) = ax.lines
    places = np.asarray(line.get_xdata())
    assert (places[0], places[-1], len(places)) == (1, 784, 262)
    np.testing.assert_allclose(
        line.get_ydata(), np.median(norms / norms[:, -1:], axis=0)[places - 1], rtol=1e-5
    )


def test_labels_are_spread() -> None:
    assert figures.spread([0.0, 0.0, 0.5, 3.0], 1.0) == [0, 1, 2, 3]
    assert figures.spread([], 1.0) == []


def test_saliency() -> None:
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (2, 28, 28), np.uint8)
    gradients = rng.normal(size=(2, 28, 28))
    figure = figures.saliency(images, gradients, named=[4, 9])
    drawn = [image.get_array() for image in maps(figure)]
    np.testing.assert_array_equal(drawn[:2], images)
    for found, gradient in zip(drawn[2:4], gradients, strict=True):
        np.testing.assert_allclose(found, gradient / np.abs(gradient).max())
    assert "read as 4" in texts(figure)
    assert "read as 9" in texts(figure)


def test_recurrent_weights() -> None:
    model = LSTMClassifier(4, bidirectional=True, implementation="scan")
    params = model.init(jax.random.key(0), jnp.zeros((1, 28, 28)))["params"]
    figure = figures.recurrent_weights(cells_of(model, params))
    drawn = list(maps(figure))
    expected = [
        params[f"lstm_0_{direction}"]["cell"][f"h{gate}"]["kernel"].T
        for direction in ("forward", "backward")
        for gate in "ifgo"
    ]
    for found, kernel in zip(drawn, expected, strict=True):
        np.testing.assert_array_equal(found.get_array(), kernel)
    assert "layer 1, backward" in texts(figure)
