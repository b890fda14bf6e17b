"""The page where one draws a digit: its numbers against JAX, and what its visitors do, in a browser.

The published page, docs/page.html, holds the weights that the digits are read with. Other architectures have
random weights: their numbers must agree all the same.
"""

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from lstm_jax.config import Config
from lstm_jax.data.dataset import MemorySplit
from lstm_jax.data.images import normalise_digit
from lstm_jax.data.pictures import read_digit
from lstm_jax.errors import ConfigError
from lstm_jax.exchange.layouts import Joined, architecture_of, join_gates, split_gates
from lstm_jax.explain.page.page import check_run, chosen_examples, content, filled, packed
from lstm_jax.model import LSTMClassifier, as_sequence, logits_of
from lstm_jax.runs.trained import Trained
from lstm_jax.training import build_model
from tests.helpers.browser import contrast, fetched, floats_of, luminance, overflow, show, start_browser
from tests.helpers.mnist import oracle
from tests.helpers.project import PROJECT, Run
from tests.helpers.strokes import by_another_hand, every_way, placed

pytestmark = pytest.mark.slow  # a browser, and a page of 300 kB in it, for nearly every test

PUBLISHED = PROJECT / "docs" / "page.html"
LARGEST = 1_000_000
PAD = 280  # the side of the drawing area in its own units
WIDTHS = (360, 768, 1200, 1600)
# The page sums in float64 and keeps float32, JAX does all in float32.
ROUNDING = 1e-5


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    started = start_browser(tmp_path_factory.mktemp("browser"))
    started.set_script_timeout(120)
    yield started
    started.quit()


@pytest.fixture
def visit(browser: Any) -> Iterator[Any]:
    """Opens the published page; fails if its console says anything, or anything was asked for."""
    browser.get_log("browser")  # forget what came before

    def opened(fragment: str = "", **options: Any) -> Any:
        show(browser, PUBLISHED, **{"width": 1200, "fragment": fragment, **options})
        return browser

    yield opened
    assert browser.get_log("browser") == []
    assert fetched(browser) <= {"data"}


# --------------------------------------------------------------------------------------------------
# The file
# --------------------------------------------------------------------------------------------------


def content_of(text: str) -> dict[str, Any]:
    """What differs from page to page."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_the_published_page_is_what_the_code_makes() -> None:
    text = PUBLISHED.read_text("utf-8")
    assert filled(content_of(text)) == text, "run: python -m lstm_jax page RUN_DIR --output docs/page.html"
    assert len(text.encode()) < LARGEST
    assert "default-src 'none'" in text
    # Nothing outside is named, but for the namespace of SVG in the icon.
    assert set(re.findall(r"(?:https?:)?//[\w.]+\.\w+[^\s'\"]*", text)) <= {"http://www.w3.org/2000/svg"}
    assert content_of(text)["parameters"] == 24_458


def test_what_a_page_holds_cannot_end_its_script() -> None:
    name = "</script><!--<script>{{scripts}}"
    made = filled({"name": name})
    assert content_of(made) == {"name": name}
    assert name not in made


def test_examples_are_the_first_right_and_the_hardest_of_each_digit() -> None:
    labels = np.array([1, 0, 1, 0, 2], np.int32)
    probabilities = np.array(
        [[0.9, 0.1, 0], [0.6, 0.4, 0], [0.2, 0.8, 0], [0.9, 0.1, 0], [0.9, 0.1, 0]], np.float32
    )
    right = probabilities.argmax(axis=1) == labels
    assert chosen_examples(labels, probabilities, right) == ([1, 2], [1, 0, 4])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "pixels"}, r"got a run with --task pixels, expected rows or columns: .* 28 steps, not 784"),
        ({"dataset": "kmnist"}, "got a run with --dataset kmnist, expected mnist"),
    ],
)
def test_runs_without_a_page_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_run(Config.of(**options))


def test_the_command_makes_a_page_of_a_run(run: Run, tmp_path: Path, browser: Any) -> None:
    short = ["--steps", "2", "--hidden-size", "5", "--num-layers", "2", "--bidirectional"]
    assert run("-m", "lstm_jax", "train", "--run-dir", str(tmp_path / "run"), *short).returncode == 0
    file = tmp_path / "a page.html"
    done = run("-m", "lstm_jax", "page", str(tmp_path / "run"), "--output", str(file))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{file}: {file.stat().st_size:,} bytes; open it in a browser\n"
    browser.get_log("browser")
    show(browser, file, width=1000)
    assert browser.get_log("browser") == []
    assert text_of(browser, "#about").startswith("An LSTM")
    assert "run" in text_of(browser, "#about b")
    assert browser.execute_script("return document.querySelectorAll('#layer option').length") == 4
    nowhere = run(
        "-m", "lstm_jax", "page", str(tmp_path / "run"), "--output", str(tmp_path / "no" / "x.html")
    )
    assert nowhere.returncode == 1
    assert nowhere.stderr.count("\n") == 1
    assert "expected" in nowhere.stderr


# --------------------------------------------------------------------------------------------------
# The numbers
# --------------------------------------------------------------------------------------------------

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "columns": {"task": "columns", "hidden_size": 12},
    "two layers": {"hidden_size": 9, "num_layers": 2},
    "two bidirectional layers": {"hidden_size": 7, "num_layers": 2, "bidirectional": True},
}


def published_params() -> Any:
    """The weights of the published page, as parameters: the inverse of `packed` for one layer."""
    held = content_of(PUBLISHED.read_text("utf-8"))
    weights, hidden = floats_of(held["weights"]), held["network"]["hidden"]
    sizes = [(28, 4 * hidden), (hidden, 4 * hidden), (4 * hidden,), (hidden, 10), (10,)]
    cuts = np.cumsum([np.prod(size) for size in sizes])[:-1]
    parts = [part.reshape(size) for part, size in zip(np.split(weights, cuts), sizes, strict=True)]
    return {
        "lstm_0_forward": {"cell": split_gates(Joined(*parts[:3]))},
        "head": {"kernel": parts[3], "bias": parts[4]},
    }


def of_kind(kind: str) -> tuple[LSTMClassifier, Any]:
    """A model and its parameters: random ones, large enough to open and close gates."""
    if kind == "published":
        return LSTMClassifier(implementation="scan"), jax.tree.map(jnp.array, published_params())
    model = build_model(Config.of(implementation="scan", **ARCHITECTURES[kind]).model)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 28, 28)))["params"]
    rng = np.random.default_rng(1)
    return model, jax.tree.map(
        lambda leaf: jnp.array(0.4 * rng.standard_normal(leaf.shape, np.float32)), shapes
    )


def test_images() -> np.ndarray:
    return oracle()["test_images"][:100]


test_images.__test__ = False  # type: ignore[attr-defined]  # it is data


def open_page_of(browser: Any, kind: str, folder: Path) -> tuple[LSTMClassifier, Any]:
    """Open a page of an architecture; return its model and parameters."""
    model, params = of_kind(kind)
    options = {} if kind == "published" else ARCHITECTURES[kind]
    if kind == "published":
        show(browser, PUBLISHED, width=1200)
    else:
        split = MemorySplit(
            oracle()["test_images"][:50].copy(), oracle()["test_labels"][:50].astype(np.int32)
        )
        trained = Trained(Config.of(**options), model, params, 1, 0)
        (folder / "page.html").write_text(filled(content(trained, split, name="random")), "utf-8")
        show(browser, folder / "page.html", width=1200)
    return model, params


READINGS = """
const [images, broken] = arguments;
const bytes = bytesOf(images);
const parts = [];
const keep = (floats) => parts.push(new Uint8Array(new Float32Array(floats).buffer));
for (let from = 0; from < bytes.length; from += 784) {
  const pixels = Float32Array.from(bytes.subarray(from, from + 784), (level) => level / 255);
  const reading = readImage(network, pixels, broken);
  keep(reading.logits);
  for (const runs of reading.layers) for (const run of runs) for (const name of "ifgoch") keep(run[name]);
  keep(gradientByPixels(network, reading, 3, broken));
}
let text = "";
for (const part of parts) {
  for (let at = 0; at < part.length; at += 8190) text += String.fromCharCode(...part.subarray(at, at + 8190));
}
return btoa(text);
"""

INTACT = {"held": {}, "unit": None, "clearAt": None, "order": None}
SHUFFLED = [int(k) for k in np.random.default_rng(2).permutation(28)]
BROKEN = {"held": {"f": 1, "o": 0}, "unit": 2, "clearAt": 11, "order": SHUFFLED}


def in_page(
    browser: Any, model: LSTMClassifier, images: np.ndarray, broken: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the page computes: logits after each step, the values of all cells, the gradient of digit 3."""
    text = browser.execute_script(READINGS, base64.b64encode(images.tobytes()).decode(), broken)
    directions = 2 if model.bidirectional else 1
    of_cells = model.num_layers * directions * 6 * 28 * model.hidden_size
    numbers = floats_of(text).reshape(len(images), -1)
    logits, cells, gradient = np.split(numbers, [29 * 10, 29 * 10 + of_cells], axis=1)
    shape = (len(images), model.num_layers, directions, 6, 28, model.hidden_size)
    return logits.reshape(-1, 29, 10), cells.reshape(shape), gradient.reshape(-1, 28, 28)


def by_the_equations(
    model: LSTMClassifier, params: Any, images: jax.Array, broken: dict[str, Any]
) -> tuple[jax.Array, jax.Array]:
    """The same in JAX: logits after each step, and i, f, g, o, c, h of all cells as they read."""
    params = jax.tree.map(np.asarray, params)
    sequence = as_sequence(images, model.task, 0)
    if broken["order"] is not None:
        sequence = sequence[:, jnp.array(broken["order"])]
    directions = architecture_of(params).directions
    layers = []
    for layer in range(model.num_layers):
        runs = []
        for direction in directions:
            cell = join_gates(params[f"lstm_{layer}_{direction}"]["cell"])
            inputs = sequence[:, ::-1] if direction == "backward" else sequence
            runs.append(run_cell(cell, inputs, broken))
        layers.append(jnp.stack(runs, axis=1))
        outputs = [
            run[:, -1, ::-1] if direction == "backward" else run[:, -1]
            for run, direction in zip(runs, directions, strict=True)
        ]
        sequence = jnp.concatenate(outputs, axis=-1)
    after = jnp.concatenate([run[:, -1] for run in runs], axis=-1)  # in the order of reading
    features = jnp.pad(after, ((0, 0), (1, 0), (0, 0)))
    head = params["head"]
    return features @ head["kernel"] + head["bias"].reshape(1, 1, -1), jnp.stack(layers, axis=1)


def run_cell(cell: Joined, inputs: jax.Array, broken: dict[str, Any]) -> jax.Array:
    """One cell over sequences [batch, time, inputs]: [batch, 6, time, hidden]."""
    hidden = cell.recurrent_kernel.shape[0]

    def step(carry: Any, given: Any) -> Any:
        c, h = carry
        x, number = given
        kept = jnp.where(number == (broken["clearAt"] or 0), 0.0, 1.0)
        c, h = c * kept, h * kept
        z = x @ cell.input_kernel + h @ cell.recurrent_kernel + cell.bias.reshape(1, -1)
        gates = [
            squash(part)
            for squash, part in zip(
                (jax.nn.sigmoid, jax.nn.sigmoid, jnp.tanh, jax.nn.sigmoid),
                jnp.split(z, 4, axis=1),
                strict=True,
            )
        ]
        for name, value in broken["held"].items():
            where = "ifgo".index(name)
            units = slice(None) if broken["unit"] is None else broken["unit"]
            gates[where] = gates[where].at[:, units].set(float(value))
        i, f, g, o = gates
        c = f * c + i * g
        h = o * jnp.tanh(c)
        return (c, h), jnp.stack([i, f, g, o, c, h], axis=1)

    nothing = jnp.zeros((len(inputs), hidden))
    _, values = jax.lax.scan(step, (nothing, nothing), (jnp.swapaxes(inputs, 0, 1), jnp.arange(1, 29)))
    return jnp.moveaxis(values, 0, 2)


@pytest.mark.parametrize("broken", [INTACT, BROKEN], ids=["intact", "broken"])
@pytest.mark.parametrize("kind", ["published", *ARCHITECTURES])
def test_logits_gates_and_gradients_are_those_of_jax(
    browser: Any, tmp_path: Path, kind: str, broken: dict[str, Any]
) -> None:
    model, params = open_page_of(browser, kind, tmp_path)
    images = test_images()
    pixels = jnp.asarray(images, jnp.float32) / 255
    logits, cells, gradient = in_page(browser, model, images, broken)
    expected_logits, expected_cells = by_the_equations(model, params, pixels, broken)
    np.testing.assert_allclose(cells, expected_cells, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(logits, expected_logits, rtol=0, atol=ROUNDING)

    def of_three(pixels: jax.Array) -> jax.Array:
        return jax.nn.log_softmax(by_the_equations(model, params, pixels, broken)[0][:, -1])[:, 3].sum()

    expected = jax.grad(of_three)(pixels)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=ROUNDING)
    if broken is INTACT:  # the equations above are those of the classifier
        np.testing.assert_allclose(
            logits[:, -1], logits_of(model, params, jnp.asarray(images)), rtol=0, atol=ROUNDING
        )


def test_weights_are_packed_in_the_order_that_the_page_takes() -> None:
    held = content_of(PUBLISHED.read_text("utf-8"))
    np.testing.assert_array_equal(packed(published_params()), floats_of(held["weights"]))


# --------------------------------------------------------------------------------------------------
# The digits
# --------------------------------------------------------------------------------------------------

DRAWN = [(digit, way, placed(drawing, size=200, left=40, top=40)) for digit, way, drawing in every_way()]


def by_other_hands(rounds: int) -> list[tuple[int, str, Any]]:
    rng = np.random.default_rng(0)
    return [
        (digit, way, by_another_hand(drawing, rng, area=PAD))
        for _ in range(rounds)
        for digit, way, drawing in every_way()
    ]


def test_a_drawing_is_prepared_as_predict_does_it(visit: Any, tmp_path: Path) -> None:
    browser = visit()
    for _, way, strokes in [*DRAWN, *by_other_hands(1)]:
        levels, image = browser.execute_script(
            """
            const ink = inkOfStrokes(arguments[0], USUAL_PEN);
            return [Array.from(ink, (v) => Math.round(255 * v)), Array.from(normaliseDigit(ink, PAD, PAD))];
            """,
            strokes,
        )
        ink = np.array(levels, np.uint8).reshape(PAD, PAD)
        seen = np.array(image, np.uint8).reshape(28, 28)
        np.testing.assert_array_equal(seen, normalise_digit(ink / 255), err_msg=way)
        # As a file: its reader measures how far the ink departs from the background, which rounds.
        Image.fromarray(ink).save(tmp_path / "drawing.png")
        of_file = read_digit(tmp_path / "drawing.png")
        assert np.abs(of_file.astype(int) - seen).max() <= 1, way


@pytest.mark.parametrize("shape", [(280, 280), (40, 60), (15, 18), (20, 20)])
def test_any_ink_is_fitted_as_predict_does_it(visit: Any, shape: tuple[int, int]) -> None:
    """Faint ink, strays, digits at the edge, squares smaller than the box: pictures that no pen draws."""
    browser = visit()
    rng = np.random.default_rng(3)
    for _ in range(5):
        ink = np.zeros(shape)
        top, left = (int(rng.integers(0, side // 3)) for side in shape)
        part = ink[top : top + shape[0] // 2, left : left + shape[1] // 3]
        part += rng.random(part.shape) * (rng.random(part.shape) < 0.4)
        ink[-1, -1] = rng.choice([0, 0.19, 0.21, 1])
        image = browser.execute_script(
            "return Array.from(normaliseDigit(Float64Array.from(arguments[0]), arguments[1], arguments[2]))",
            ink.ravel().tolist(),
            *shape,
        )
        np.testing.assert_array_equal(np.array(image).reshape(28, 28), normalise_digit(ink))


def place_of(browser: Any, name: str) -> tuple[float, float, float]:
    """Where an element is in the window, scrolled to: left, top, width."""
    box = browser.execute_script(
        """
        const found = document.querySelector(arguments[0]);
        found.scrollIntoView({block: "center"});
        const box = found.getBoundingClientRect();
        return [box.left, box.top, box.width];
        """,
        name,
    )
    return box[0], box[1], box[2]


def draw(browser: Any, strokes: Any, *, pointer: str = "mouse") -> None:
    """Draw with real events, which the browser cannot tell from a hand's."""
    left, top, width = place_of(browser, "#pad")
    for stroke in strokes:
        points = [(left + x * width / PAD, top + y * width / PAD) for x, y in stroke]
        kinds = ["Pressed", *["Moved"] * (len(points) - 1), "Released"]
        for kind, (x, y) in zip(kinds, [*points, points[-1]], strict=True):
            where = {"x": x, "y": y}
            if pointer == "touch":
                name = {"Pressed": "touchStart", "Moved": "touchMove", "Released": "touchEnd"}[kind]
                touches = [] if kind == "Released" else [where]
                browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": name, "touchPoints": touches})
            else:
                held = {"button": "left", "buttons": int(kind != "Released"), "clickCount": 1}
                event = {"type": f"mouse{kind}", "pointerType": pointer, **where, **held}
                browser.execute_cdp_cmd("Input.dispatchMouseEvent", event)


def settled(browser: Any) -> None:
    """Wait until all that was asked for is shown."""
    browser.execute_async_script(
        "const done = arguments[0]; requestAnimationFrame(() => setTimeout(done, 0))"
    )


def text_of(browser: Any, name: str) -> str:
    return str(browser.execute_script("return document.querySelector(arguments[0]).textContent", name))


def style_of(browser: Any, name: str, style: str) -> str:
    return str(
        browser.execute_script(
            "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]", name, style
        )
    )


def press(browser: Any, name: str) -> None:
    browser.execute_script("document.querySelector(arguments[0]).click()", name)
    settled(browser)


def choose(browser: Any, name: str, value: Any) -> None:
    """Set a control as a visitor does."""
    browser.execute_script(
        """
        const control = document.querySelector(arguments[0]);
        control.value = arguments[1];
        for (const name of ["input", "change"]) control.dispatchEvent(new Event(name, {bubbles: true}));
        """,
        name,
        value,
    )
    settled(browser)


def test_two_of_each_digit_are_recognised_as_they_are_drawn(visit: Any) -> None:
    browser = visit()
    answers = {}
    for digit, way, strokes in DRAWN:
        press(browser, "#clear")
        draw(browser, strokes)
        settled(browser)
        answers[digit, way] = text_of(browser, "#answer-digit")
    assert answers == {(digit, way): str(digit) for digit, way, _ in DRAWN}


def test_a_hundred_more_by_other_hands_are_recognised(visit: Any) -> None:
    hundred = by_other_hands(5)
    answers = visit().execute_script(
        """
        return arguments[0].map((strokes) => {
          const image = normaliseDigit(inkOfStrokes(strokes.map(simplified), USUAL_PEN), PAD, PAD);
          return answerOf(readImage(network, Float32Array.from(image, (level) => level / 255)), 28, 10);
        });
        """,
        [strokes for _, _, strokes in hundred],
    )
    wrong = [
        (way, digit, answer)
        for (digit, way, _), answer in zip(hundred, answers, strict=True)
        if digit != answer
    ]
    assert len(hundred) == 100
    assert len(wrong) <= 3, wrong


# --------------------------------------------------------------------------------------------------
# What visitors do
# --------------------------------------------------------------------------------------------------

SEVEN = next(strokes for digit, _, strokes in DRAWN if digit == 7)


@pytest.mark.parametrize("pointer", ["touch", "pen"])
def test_a_finger_and_a_pen_draw_and_do_not_scroll(visit: Any, pointer: str) -> None:
    browser = visit(width=360)
    draw(browser, SEVEN, pointer=pointer)
    before = browser.execute_script("return window.scrollY")
    draw(browser, [[[140, 20], [140, 140], [140, 260]]], pointer=pointer)
    settled(browser)
    assert browser.execute_script("return window.scrollY") == before
    assert browser.execute_script("return state.strokes.length") == 2
    press(browser, "#undo")
    assert browser.execute_script("return state.strokes.length") == 1
    assert text_of(browser, "#answer-digit") == "7"
    assert (
        browser.execute_script("return getComputedStyle(document.querySelector('#pad')).touchAction")
        == "none"
    )


def test_a_second_finger_is_ignored(visit: Any) -> None:
    browser = visit()
    left, top, width = place_of(browser, "#pad")
    first, second = ({"x": left + share * width, "y": top + share * width} for share in (0.3, 0.8))
    for kind, points in [
        ("touchStart", [{**first, "id": 1}]),
        ("touchStart", [{**first, "id": 1}, {**second, "id": 2}]),
        ("touchMove", [{**first, "id": 1}, {**second, "y": top, "id": 2}]),
        ("touchEnd", []),
    ]:
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    settled(browser)
    strokes = browser.execute_script("return state.strokes")
    assert len(strokes) == 1
    assert all(x < 0.5 * PAD for x, _ in strokes[0])


def keys(browser: Any, name: str, *pressed: str) -> None:
    """Press keys where an element has the focus."""
    from selenium.webdriver import ActionChains

    browser.execute_script("document.querySelector(arguments[0]).focus()", name)
    chain = ActionChains(browser)
    for key in pressed:
        chain.send_keys(key)
    chain.perform()
    settled(browser)


def test_the_keyboard_draws_undoes_and_clears(visit: Any) -> None:
    from selenium.webdriver import Keys

    browser = visit(fragment="#e=0")
    press(browser, "#clear")
    assert text_of(browser, "#answer-digit") == "\N{EN DASH}"
    before = browser.execute_script("return window.scrollY")
    keys(browser, "#pad", *[Keys.ARROW_UP] * 9, Keys.SPACE, *[Keys.ARROW_DOWN] * 18, Keys.SPACE)
    assert browser.execute_script("return state.strokes") == [[[140, 50], [140, 230]]]
    assert text_of(browser, "#answer-digit") == "1"
    assert browser.execute_script("return window.scrollY") == before
    keys(browser, "#pad", Keys.BACKSPACE)
    assert browser.execute_script("return state.strokes") == []
    keys(browser, "#pad", Keys.SPACE, Keys.ARROW_LEFT, Keys.SPACE, Keys.DELETE)
    assert browser.execute_script("return state.strokes") == []
    assert "nothing drawn" in text_of(browser, "#answer")


def test_everything_can_be_reached_with_tab(visit: Any) -> None:
    from selenium.webdriver import ActionChains, Keys

    browser = visit()
    browser.execute_script(
        "window.reached = new Set(); addEventListener('focusin', (e) => reached.add(e.target))"
    )
    ActionChains(browser).send_keys(*[Keys.TAB] * 90).perform()
    missed = browser.execute_script(
        """
        const wanted = [...document.querySelectorAll("button, select, input, [tabindex]")];
        const groups = new Set([...reached].map((e) => e.type === "radio" ? e.name : null));
        return wanted.filter((e) => !e.disabled && !e.closest("[hidden]"))
          .filter((e) => !reached.has(e) && !groups.has(e.name)).map((e) => e.outerHTML);
        """
    )
    assert missed == []


def test_a_link_brings_back_the_drawing_and_everything_else(visit: Any) -> None:
    browser = visit(fragment="#e=0&lang=en")
    draw(browser, SEVEN)
    choose(browser, "#scrub", 17)
    choose(browser, "#unit", 30)
    choose(browser, "#sort", "change")
    choose(browser, "#why", 2)
    choose(browser, "#pen", 3.3)
    choose(browser, "#clear-at", 9)
    choose(browser, "#scope", "one")
    press(browser, "input[name=held-f][value='0']")
    press(browser, "input[name=held-g][value='0']")
    press(browser, "input[name=order][value=shuffled]")
    press(browser, "#again")
    browser.execute_script("save()")
    link, state = browser.execute_script("return [location.hash, state]")
    image = browser.execute_script("return Array.from(found.image)")
    assert len(link) < 200
    browser = visit(fragment=link)
    assert browser.execute_script("return state") == state
    assert browser.execute_script("return Array.from(found.image)") == image
    assert state["held"] == {"f": 0, "g": 0}


@pytest.mark.parametrize(
    "fragment",
    [
        "#d=AAAA",
        "#d=%00",
        "#d=__________",
        "#e=20&u=64&r=29&p=99&s=no&lang=xx",
        "#b=q7&o=x&c=1&y=-1",
        "#x=1&l=4",
    ],
)
def test_a_bad_link_is_harmless(visit: Any, fragment: str) -> None:
    browser = visit(fragment=fragment)
    assert browser.execute_script("return linkOf(state, 'en')") == browser.execute_script(
        "return linkOf(usualState(), 'en')"
    )


def test_the_reading_plays_pauses_steps_and_scrubs(visit: Any) -> None:
    browser = visit(fragment="#e=2&lang=en")
    assert browser.execute_script("return state.row") == 28  # its visitor wants no motion
    choose(browser, "#scrub", 12)
    assert text_of(browser, "#answer-words").endswith("after 12 of 28 rows")
    press(browser, "#forward")
    press(browser, "#forward")
    press(browser, "#back")
    assert browser.execute_script("return state.row") == 13
    shown = browser.execute_script(
        "return [...document.querySelectorAll('#bars .bar')].map((bar) => parseFloat(bar.style.width))"
    )
    expected = browser.execute_script("return probabilitiesAt(found.reading, 13).map((p) => 100 * p)")
    np.testing.assert_allclose(shown, expected, atol=1e-3)
    choose(browser, "#speed", 8)
    press(browser, "#last")
    press(browser, "#play")  # from the start, as it is at the end
    assert browser.execute_script("return document.querySelector('#play').ariaLabel") == "Pause"
    paused = browser.execute_async_script(
        """
        const done = arguments[0];
        const look = () => {
          if (state.row < 3) return setTimeout(look, 20);
          byId("play").click();
          done(state.row);
        };
        look();
        """
    )
    assert 3 <= paused < 28
    browser.execute_async_script("setTimeout(arguments[0], 150)")
    assert browser.execute_script("return state.row") == paused
    choose(browser, "#speed", 60)
    press(browser, "#play")
    browser.execute_async_script(
        "const look = (done) => play.on ? setTimeout(look, 20, done) : done(); look(arguments[0])"
    )
    assert browser.execute_script("return state.row") == 28
    press(browser, "#first")
    assert "only guess" in text_of(browser, "#answer-words")


@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
def test_it_reads_an_example_by_itself_unless_motion_is_unwanted(visit: Any, motion: str) -> None:
    browser = visit(motion=motion)
    assert browser.execute_script("return [state.example, play.on]") == [3, motion != "reduce"]
    press(browser, ".example")
    assert browser.execute_script("return [state.example, play.on]") == [0, motion != "reduce"]


def test_the_equations_hold_the_numbers_of_the_cell_pointed_at(visit: Any) -> None:
    from selenium.webdriver import Keys

    browser = visit(fragment="#e=5&lang=en")
    choose(browser, "#sort", "cell")
    choose(browser, "#unit", browser.execute_script("return found.units[0]"))
    keys(browser, "#strips", Keys.HOME, *[Keys.ARROW_RIGHT] * 13, *[Keys.ARROW_DOWN] * 3)
    unit, row, third = browser.execute_script("return [state.unit, state.row, found.units[3]]")
    assert (unit, row) == (third, 14)
    text = text_of(browser, "#equations").replace("\N{MINUS SIGN}", "-")
    values = browser.execute_script(
        "return [...'ifgoch'].map((name) => found.run[name][(state.row - 1) * hidden + state.unit])"
    )
    results = browser.execute_script(
        "return [...document.querySelectorAll('.equation b')].map((each) => each.textContent)"
    )
    results = [float(result.replace("\N{MINUS SIGN}", "-")) for result in results]
    np.testing.assert_allclose(results, values, atol=5.1e-4)
    # What stands between the brackets adds up to what is squashed.
    sums = re.findall(r"= \S+?\((-?[\d.]+) ([+-]) ([\d.]+) ([+-]) ([\d.]+)\)", text)
    assert len(sums) == 4
    for value, name, (first, *rest) in zip(values, "ifgo", sums, strict=False):
        z = float(first) + float(rest[0] + rest[1]) + float(rest[2] + rest[3])
        squashed = np.tanh(z) if name == "g" else 1 / (1 + np.exp(-z))
        assert squashed == pytest.approx(value, abs=1e-3)
    # Pointing at another cell shows that one, as long as it is pointed at.
    left, top, width = place_of(browser, "#strips canvas")
    browser.execute_cdp_cmd(
        "Input.dispatchMouseEvent", {"type": "mouseMoved", "x": left + width / 56, "y": top + 2}
    )
    settled(browser)
    assert "at row 1." in text_of(browser, "#formula-text")
    assert f"Unit {browser.execute_script('return found.units[0]')} " in text_of(browser, "#formula-text")
    browser.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": 1, "y": 1})
    settled(browser)
    assert "at row 14." in text_of(browser, "#formula-text")


@pytest.mark.parametrize("sort", ["number", "answer", "cell", "now", "forget", "change"])
def test_units_are_sorted(visit: Any, sort: str) -> None:
    browser = visit(fragment=f"#e=5&r=9&s={sort}")
    units = browser.execute_script("return found.units")
    names = ["c", "h", "f"]
    c, h, f = (
        np.reshape(browser.execute_script("return Array.from(found.run[arguments[0]])", name), (28, 64))
        for name in names
    )
    answer = browser.execute_script("return found.answer")
    keys = {
        "number": np.arange(64),
        "answer": -h[-1] * published_params()["head"]["kernel"][:, answer],
        "cell": -c[-1],
        "now": -c[8],
        "forget": -f.mean(axis=0),
        "change": np.abs(np.diff(c, axis=0, prepend=0)).argmax(axis=0),
    }
    assert sorted(units) == list(range(64))
    assert np.all(np.diff(keys[sort][units]) >= -1e-6)


def test_what_is_broken_answers_at_once_and_is_mended(visit: Any) -> None:
    browser = visit(fragment="#e=13&lang=en")  # one that it is not sure of

    def probabilities() -> Any:
        return browser.execute_script("return probabilitiesAt(found.reading, 28)")

    whole = probabilities()
    assert browser.execute_script("return document.querySelector('#banner').hidden")
    seen = {}
    for name in ("held-f][value='0'", "held-i][value='1'", "order][value=reversed", "order][value=shuffled"):
        press(browser, f"input[name={name}]")
        seen[name] = probabilities()
        assert not browser.execute_script("return document.querySelector('#banner').hidden")
        press(browser, "[data-action=mend]")
        assert probabilities() == whole
    choose(browser, "#clear-at", 20)
    seen["clear"] = probabilities()
    assert "memory cleared before row 20" in text_of(browser, "#banner-text")
    press(browser, "[data-action=mend]")
    assert all(np.abs(np.subtract(each, whole)).max() > 0.01 for each in seen.values())
    press(browser, "input[name=held-f][value='0']")
    choose(browser, "#scope", "one")
    assert probabilities() != seen["held-f][value='0'"]
    assert browser.execute_script("return document.querySelector('#banner').hidden") is False


# --------------------------------------------------------------------------------------------------
# How it looks, and how it is read aloud
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["en", "ko"])
@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_into_every_window(visit: Any, width: int, language: str) -> None:
    browser = visit(fragment=f"#e=3&b=f0&lang={language}", width=width)
    assert overflow(browser) == 0
    cut = browser.execute_script(
        """
        return [...document.querySelectorAll("main *, .player *")]
          .filter((e) => e.getClientRects().length && !e.closest(".unseen, svg, .speed"))
          .map((e) => [e, e.getBoundingClientRect()])
          .filter(([, box]) => box.right > innerWidth + 1 || box.left < -1)
          .map(([e]) => e.outerHTML.slice(0, 80));
        """
    )
    assert cut == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(visit: Any, scheme: str) -> None:
    browser = visit(fragment="#e=3&b=f0", scheme=scheme)
    pairs = browser.execute_script(
        """
        const ground = (e) => {
          const found = getComputedStyle(e).backgroundColor;
          return found === "rgba(0, 0, 0, 0)" && e.parentElement ? ground(e.parentElement) : found;
        };
        const written = [...document.querySelectorAll("body *")].filter((e) =>
          e.getClientRects().length && !e.disabled && !e.closest("script, style")
          && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()));
        return written.map((e) => {
          const svg = e.closest("svg");
          const style = getComputedStyle(e);
          return [svg ? style.fill : style.color, ground(svg ?? e), e.textContent];
        });
        """
    )
    assert len(pairs) > 150
    assert [text for ink, behind, text in pairs if contrast(ink, behind) < 4.5] == []
    assert (luminance(pairs[0][1]) < 0.5) == (scheme == "dark")


def test_the_visitor_may_choose_dark(visit: Any) -> None:
    browser = visit(scheme="light")
    choose(browser, "#theme", "dark")
    ground = style_of(browser, "body", "backgroundColor")
    assert luminance(ground) < 0.1
    middle = browser.execute_script(
        "return [...document.querySelector('#input').getContext('2d').getImageData(3, 3, 1, 1).data]"
    )
    assert max(middle[:3]) < 80  # the pictures too


def test_it_is_printed_light_and_without_controls(visit: Any) -> None:
    browser = visit(scheme="dark", fragment="#e=3")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    settled(browser)
    ground = style_of(browser, "body", "backgroundColor")
    assert luminance(ground) > 0.8
    assert (
        browser.execute_script("return getComputedStyle(document.querySelector('.player')).display") == "none"
    )
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_korean_is_there_and_has_all_texts(visit: Any) -> None:
    browser = visit(fragment="#lang=en&e=3")
    choose(browser, "#language", "ko")
    assert browser.execute_script("return document.documentElement.lang") == "ko"
    shown = browser.execute_script("return document.body.innerText")
    for word in ("숫자", "망각 게이트(forget gate)", "기울기(gradient)", "셀 상태(cell state)"):
        assert word in shown
    tables = browser.execute_script("return WORDS")
    assert tables["en"].keys() == tables["ko"].keys()
    for name, english in tables["en"].items():
        korean = tables["ko"][name]
        fixed = {"step", "steps", "Step"}  # Korean has no plural and no capitals
        named = [set(re.findall(r"\{(\w+)\}", text)) - fixed for text in (english, korean)]
        assert named[0] == named[1], name
        assert english.strip()
        assert korean.strip()
        has_words = re.search("[A-Za-z]{2}", re.sub(r"\{\w+\}", "", english))
        assert not has_words or re.search("[가-힣]", korean), name
    missing = browser.execute_script(
        """
        return [...document.querySelectorAll("[data-words], [data-label]")]
          .flatMap((e) => [e.dataset.words, e.dataset.label]).filter((name) => name && !WORDS.ko[name]);
        """
    )
    assert missing == []
    # What is left in English is the vocabulary of the field.
    left = set(re.findall(r"\b[a-z]{4,}\b", re.sub(r"\([^)]*\)", "", shown)))
    assert left <= {"page", "python", "lstm", "accurate", "long", "tanh", "memory"}, left


ROLES_WITH_NAMES = {
    "application", "button", "checkbox", "combobox", "group", "image", "img", "link", "list", "menuitem",
    "option", "radio", "radiogroup", "region", "slider", "status", "textbox",
}  # fmt: skip


def test_everything_has_a_role_and_a_name(visit: Any) -> None:
    browser = visit(fragment="#e=3&b=f0&lang=en")
    nodes = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    told = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"] and node["role"]["value"].lower() in ROLES_WITH_NAMES
    ]
    roles = {role for role, _ in told}
    assert {"application", "button", "combobox", "radio", "slider", "list", "region"} <= roles
    assert [role for role, name in told if not name.strip() and role not in ("status",)] == []
    names = {name for _, name in told}
    assert {"Drawing area", "Play", "Row of the reading", "Stroke width", "Undo"} <= names
    problems = browser.execute_script(
        """
        const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
        const levels = [...document.querySelectorAll("h1, h2, h3")].map((e) => Number(e.tagName[1]));
        const referred = [...document.querySelectorAll("[aria-labelledby], [aria-describedby]")]
          .flatMap((e) => [e.getAttribute("aria-labelledby"), e.getAttribute("aria-describedby")])
          .filter(Boolean);
        return [
          ...ids.filter((id, k) => ids.indexOf(id) !== k),
          ...referred.filter((id) => !document.getElementById(id)),
          ...levels.filter((level, k) => k && level > levels[k - 1] + 1).map((level) => `h${level} skips`),
        ];
        """
    )
    assert problems == []
    assert browser.execute_script("return document.querySelectorAll('h1, main, header').length") == 3


def test_the_answer_is_spoken(visit: Any) -> None:
    browser = visit(fragment="#lang=en")
    draw(browser, SEVEN)
    browser.execute_async_script("setTimeout(arguments[0], 900)")
    spoken = text_of(browser, "#spoken")
    assert re.fullmatch(r"After 28 of 28 rows: 7, probability \d+(\.\d)?\N{NO-BREAK SPACE}%", spoken)


def test_a_page_that_fetches_would_be_stopped(browser: Any, tmp_path: Path) -> None:
    text = PUBLISHED.read_text("utf-8")
    (tmp_path / "page.html").write_text(
        text.replace("</main>", '<img src="http://127.0.0.1:9/x.png"></main>')
    )
    show(browser, tmp_path / "page.html", width=800)
    assert "Content Security Policy" in browser.get_log("browser")[0]["message"]
