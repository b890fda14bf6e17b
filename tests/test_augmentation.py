"""Augmentation against the same changes computed pixel by pixel, in float64, without JAX."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from lstm_jax import augmentation
from lstm_jax.augmentation import Changes
from lstm_jax.config import Augmentation

augment = jax.jit(augmentation.augment, static_argnums=3)
draw_changes = jax.jit(augmentation.draw_changes, static_argnums=(2, 3, 4))
places = jax.jit(augmentation.places, static_argnums=(1, 2, 3))
read = jax.jit(augmentation.read)

NONE = Augmentation()
ALL = Augmentation(rotation=15.0, shift=3.0, scale=0.2, shear=0.3, elastic=1.2, smoothness=3.0)
EACH = {
    "rotation": Augmentation(rotation=15.0),
    "shift": Augmentation(shift=3.0),
    "scale": Augmentation(scale=0.2),
    "shear": Augmentation(shear=0.3),
    "elastic": Augmentation(elastic=1.2),
    "all": ALL,
}

# Places in float32 are off by some 1e-6 pixels, which changes a grey level by up to 255 times as much. A
# wrong direction of anything changes them by tens.
GREY_TOLERANCE = 0.02
# 4 standard errors of a mean, or a root mean square, over so many examples; the seeds are fixed.
EXAMPLES = 4096
STATISTICAL_TOLERANCE = 4 / math.sqrt(EXAMPLES)


def random_images(batch: int, rows: int = 28, columns: int = 28, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (batch, rows, columns), np.uint8)


def read_by_loops(image: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Bilinear reading of one image, by its definition, pixel by pixel."""
    rows, columns = image.shape
    result = np.zeros(y.shape)
    for place in np.ndindex(y.shape):
        top, left = math.floor(y[place]), math.floor(x[place])
        for row in (top, top + 1):
            for column in (left, left + 1):
                if 0 <= row < rows and 0 <= column < columns:
                    share = (1 - abs(y[place] - row)) * (1 - abs(x[place] - column))
                    result[place] += share * float(image[row, column])
    return result


def places_by_matrices(
    changes: Changes, example: int, rows: int, columns: int, smoothness: float
) -> tuple[np.ndarray, np.ndarray]:
    """Where the pixels of one changed image come from: the inverse of what is done to an image."""
    angle, shear, size, shift, bends = (np.asarray(leaf, np.float64)[..., example] for leaf in changes)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    slant = np.array([[1, 0], [shear, 1]])
    back = np.linalg.inv(turn @ slant @ np.diag(size))
    y, x = np.mgrid[:rows, :columns].astype(np.float64)
    centre = np.array([(rows - 1) / 2, (columns - 1) / 2])
    field = np.zeros((2, rows, columns))
    _, down, across = bends.shape
    if down:
        bumps = []
        for extent, count in ((rows, down), (columns, across)):
            ends = -1.5 * smoothness, extent - 1 + 1.5 * smoothness
            bump = [
                np.exp(-((np.arange(extent) - centre) ** 2) / (2 * smoothness**2))
                for centre in np.linspace(*ends, count)
            ]
            bumps.append(np.array(bump) / np.sqrt(np.sum(np.square(bump), axis=0)))
        for i in range(down):
            for j in range(across):
                field += bends[:, i, j, None, None] * np.outer(bumps[0][i], bumps[1][j])
    from_centre = np.stack([y - centre[0], x - centre[1]])
    source = np.einsum("ij,jyx->iyx", back, from_centre) + (centre + shift)[:, None, None] + field
    return source[0], source[1]


def no_changes(batch: int, bumps: int = 0) -> Changes:
    zeros = jnp.zeros(batch)
    return Changes(
        zeros, zeros, jnp.ones((2, batch)), jnp.zeros((2, batch)), jnp.zeros((2, bumps, bumps, batch))
    )


def changed(images: np.ndarray, changes: Changes, settings: Augmentation = NONE) -> np.ndarray:
    """The images after given changes, which are not drawn."""
    y, x = places(changes, settings, *images.shape[1:])
    return np.swapaxes(read(images, y, x), 0, 1)


# --------------------------------------------------------------------------------------------------
# What is computed
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "rows", "columns"), [(3, 28, 28), (3, 2, 9), (3, 7, 2), (1, 2, 2), (1, 3, 2)]
)
@pytest.mark.parametrize("seed", range(3))
def test_reading_is_bilinear(batch: int, rows: int, columns: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = random_images(batch, rows, columns, seed)
    shape = (30, batch, 5)
    y, x = rng.uniform(-2.5, rows + 2, shape), rng.uniform(-2.5, columns + 2, shape)
    # A third at whole numbers, at the edges and just beyond, and some far away.
    whole = rng.random(shape) < 0.3
    y, x = np.where(whole, np.round(y), y), np.where(whole, np.round(x), x)
    y = np.where(rng.random(shape) < 0.1, y * 1e6, y)
    y, x = y.astype(np.float32), x.astype(np.float32)
    got = read(images, y, x)
    for example, image in enumerate(images):
        expected = read_by_loops(image, y[:, example], x[:, example])
        np.testing.assert_allclose(got[:, example], expected, atol=GREY_TOLERANCE)


@pytest.mark.parametrize(
    ("name", "shape"), [*((name, (28, 28)) for name in EACH), ("all", (9, 14)), ("all", (2, 3))]
)
def test_augment_is_what_the_equations_say(name: str, shape: tuple[int, int], strict_dtypes: None) -> None:
    settings = EACH[name]
    images, index = random_images(4, *shape), jnp.array([0, 5, 1000, 2])
    key = jax.random.key(3)
    got = augment(key, images, index, settings)
    assert (got.shape, got.dtype) == (images.shape, jnp.float32)
    changes = draw_changes(key, index, settings, *shape)
    for example, image in enumerate(images):
        y, x = places_by_matrices(changes, example, *shape, settings.smoothness)
        assert max(np.max(np.abs(y - np.mgrid[: shape[0], : shape[1]][0])), np.max(np.abs(x))) > 0.1
        np.testing.assert_allclose(got[example], read_by_loops(image, y, x), atol=GREY_TOLERANCE)


def test_nothing_changes_nothing() -> None:
    images = random_images(3)
    index = jnp.arange(3)
    np.testing.assert_array_equal(augment(jax.random.key(0), images, index, Augmentation()), images)
    np.testing.assert_array_equal(changed(images, no_changes(3)), images)
    with_bumps = Augmentation(elastic=1.0, smoothness=4.0)
    np.testing.assert_array_equal(changed(images, no_changes(3, bumps=8), with_bumps), images)


@pytest.mark.parametrize(("down", "right"), [(0, 1), (3, 0), (-2, 5), (27, 0), (0, -28), (40, 40)])
def test_a_shift_by_whole_pixels_is_exact(down: int, right: int) -> None:
    images = random_images(2)
    shift = jnp.broadcast_to(jnp.array([[down], [right]], jnp.float32), (2, 2))
    got = changed(images, no_changes(2)._replace(shift=shift))
    # What is read `down` further down appears that much further up.
    expected = np.zeros_like(images)
    for y in range(28):
        for x in range(28):
            if 0 <= y + down < 28 and 0 <= x + right < 28:
                expected[:, y, x] = images[:, y + down, x + right]
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("extent", [28, 7])
@pytest.mark.parametrize("quarters", [1, 2, 3, 4])
def test_rotations_by_quarters(extent: int, quarters: int) -> None:
    images = random_images(2, extent, extent)
    got = changed(images, no_changes(2)._replace(angle=jnp.full(2, quarters * math.pi / 2)))
    np.testing.assert_allclose(got, np.rot90(images, quarters, axes=(1, 2)), atol=GREY_TOLERANCE)


def test_a_size_is_that_of_the_digit() -> None:
    # A block of 6 x 6 becomes one of 12 (down) x 3 (across).
    image = np.zeros((1, 28, 28), np.uint8)
    image[:, 11:17, 11:17] = 200
    got = changed(image, no_changes(1)._replace(size=jnp.array([[2.0], [0.5]])))
    ink = got.sum() / 200
    assert ink == pytest.approx(12 * 3, abs=0.5)
    np.testing.assert_allclose(got[0, 9:19, 13:15], 200, atol=GREY_TOLERANCE)
    assert got[0, 9:19, :11].max() == got[0, :7].max() == 0


# --------------------------------------------------------------------------------------------------
# What is drawn
# --------------------------------------------------------------------------------------------------


@functools.cache
def many_changes() -> Changes:
    return draw_changes(jax.random.key(1), jnp.arange(EXAMPLES), ALL, 28, 28)


def test_numbers_are_uniform_and_independent() -> None:
    changes = many_changes()
    drawn = {
        "angle": (changes.angle, math.radians(ALL.rotation)),
        "shear": (changes.shear, ALL.shear),
        "height": (changes.size[0] - 1, ALL.scale),
        "width": (changes.size[1] - 1, ALL.scale),
        "down": (changes.shift[0], ALL.shift),
        "right": (changes.shift[1], ALL.shift),
        "a bend": (changes.bends[0, 2, 3], ALL.elastic * math.sqrt(3)),
        "its neighbour": (changes.bends[0, 2, 4], ALL.elastic * math.sqrt(3)),
        "its partner": (changes.bends[1, 2, 3], ALL.elastic * math.sqrt(3)),
    }
    shares = []
    for name, (values, most) in drawn.items():
        share = np.sort(np.asarray(values, np.float64) / most)
        # Kolmogorov and Smirnov's distance from the uniform distribution: above 2 / sqrt(n) once in 1500.
        distance = np.max(np.abs((share + 1) / 2 - np.linspace(0, 1, EXAMPLES)))
        assert distance < 2 / math.sqrt(EXAMPLES), name
        assert np.abs(share).max() <= 1 + 1e-6, name
        shares.append(np.asarray(values, np.float64) / most)
    correlations = np.corrcoef(shares) - np.eye(len(shares))
    assert np.abs(correlations).max() < STATISTICAL_TOLERANCE


def test_zero_settings_draw_nothing() -> None:
    changes = draw_changes(jax.random.key(0), jnp.arange(50), Augmentation(shift=1.0), 28, 28)
    assert changes.bends.size == 0
    assert np.all(changes.angle == 0)
    assert np.all(changes.shear == 0)
    assert np.all(changes.size == 1)
    assert np.abs(changes.shift).max() > 0.9


def test_a_bend_is_as_strong_as_said_at_every_pixel() -> None:
    settings = Augmentation(elastic=1.2, smoothness=3.0)
    changes = draw_changes(jax.random.key(2), jnp.arange(EXAMPLES), settings, 28, 28)
    y, x = places(changes, settings, 28, 28)
    for bend in (y - np.mgrid[:28, :28][0][:, None], x - np.mgrid[:28, :28][1][:, None]):
        strength = np.sqrt(np.mean(np.square(bend), axis=1))
        np.testing.assert_allclose(strength, settings.elastic, rtol=STATISTICAL_TOLERANCE)


@pytest.mark.parametrize("smoothness", [1.0, 3.0, 4.0, 28.0])
def test_a_bend_is_simards(smoothness: float) -> None:
    # The covariance of independent noise at every pixel, of a field large enough to have no edges,
    # after a Gaussian filter of this width.
    margin = round(5 * smoothness)
    pixels, sources = np.arange(28), np.arange(-margin, 28 + margin)
    blur = np.exp(-((pixels[:, None] - sources) ** 2) / (2 * smoothness**2))
    along = blur @ blur.T / (blur @ blur.T)[14, 14]
    simard = np.kron(along, along)
    # Ours: with noise of a single bump at a time, the fields of which independent noise is made.
    settings = Augmentation(elastic=1.0, smoothness=smoothness)
    _, down, across, _ = draw_changes(jax.random.key(0), jnp.arange(1), settings, 28, 28).bends.shape
    single = jnp.eye(down * across).reshape(down, across, -1)
    changes = no_changes(down * across)._replace(bends=jnp.stack([single, single]))
    y, _ = places(changes, settings, 28, 28)
    fields = np.swapaxes(y - np.mgrid[:28, :28][0][:, None], 1, 2).reshape(784, -1)
    np.testing.assert_allclose(fields @ fields.T, simard, atol=0.05)


def test_strength_in_simards_numbers() -> None:
    # "sigma 4, alpha 34" by its definition: uniform noise from -1 to 1, filtered by a normalised Gaussian.
    sigma, alpha = 4.0, 34.0
    offsets = np.arange(-30, 31)
    weights = np.exp(-(offsets**2) / (2 * sigma**2))
    weights = np.outer(weights, weights) / np.sum(weights) ** 2
    strength = alpha * math.sqrt(np.sum(weights**2) / 3)
    assert strength == pytest.approx(alpha / (2 * sigma * math.sqrt(3 * math.pi)), rel=1e-6)
    assert strength == pytest.approx(1.38, abs=0.005)


# --------------------------------------------------------------------------------------------------
# Keys, devices, transformations
# --------------------------------------------------------------------------------------------------


def test_the_key_and_the_index_decide() -> None:
    images = np.repeat(random_images(1), 6, axis=0)
    index = jnp.arange(6)
    key = jax.random.key(7)
    first = np.asarray(augment(key, images, index, ALL))
    np.testing.assert_array_equal(augment(key, images, index, ALL), first)
    for a in range(6):
        for b in range(a):
            assert np.abs(first[a] - first[b]).max() > 50
    assert np.abs(np.asarray(augment(jax.random.key(8), images, index, ALL)) - first).max() > 50
    order = np.array([4, 2, 5])
    few = augment(key, images[order], jnp.asarray(order), ALL)
    np.testing.assert_allclose(few, first[order], atol=GREY_TOLERANCE)


def test_the_number_of_devices_does_not() -> None:
    images, key = random_images(8), jax.random.key(0)

    def share(key: jax.Array, images: jax.Array) -> tuple[jax.Array, Changes]:
        rows = len(images)
        index = jax.lax.axis_index("data") * rows + jnp.arange(rows)
        changes = augmentation.draw_changes(key, index, ALL, 28, 28)
        last_axis = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -1, 0), changes)
        return augmentation.augment(key, images, index, ALL), last_axis

    results = []
    for devices in (1, 2):
        mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
        over = jax.shard_map(share, mesh=mesh, in_specs=(P(), P("data")), out_specs=P("data"))
        results.append(jax.jit(over)(key, images))
    # The same numbers are drawn, to the bit. Images of a smaller share are rounded otherwise.
    jax.tree.map(np.testing.assert_array_equal, results[0][1], results[1][1])
    np.testing.assert_allclose(results[0][0], results[1][0], atol=GREY_TOLERANCE)
    np.testing.assert_allclose(results[0][0], augment(key, images, jnp.arange(8), ALL), atol=GREY_TOLERANCE)


def test_many_seeds_at_once() -> None:
    keys = jax.random.split(jax.random.key(0), 3)
    images = np.stack([random_images(4, seed=seed) for seed in range(3)])
    index = jnp.arange(4)
    got = jax.jit(jax.vmap(lambda key, images: augment(key, images, index, ALL)))(keys, images)
    for key, image, result in zip(keys, images, got, strict=True):
        np.testing.assert_allclose(result, augment(key, image, index, ALL), atol=GREY_TOLERANCE)


@pytest.mark.parametrize("kind", ["rbg", "unsafe_rbg"])
def test_other_kinds_of_keys(kind: str) -> None:
    images, index = random_images(4), jnp.arange(4)
    key = jax.random.key(0, impl=kind)
    results = [np.asarray(augment(jax.random.fold_in(key, i), images, index, ALL)) for i in range(2)]
    assert np.abs(results[0] - results[1]).max() > 50


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_it_compiles_for_every_platform(platform: str) -> None:
    function = jax.jit(functools.partial(augmentation.augment, settings=ALL))
    arguments = (
        jax.eval_shape(lambda: jax.random.key(0)),
        jax.ShapeDtypeStruct((128, 28, 28), jnp.uint8),
        jax.ShapeDtypeStruct((128,), jnp.int32),
    )
    exported = jax.export.export(function, platforms=[platform])(*arguments)
    assert exported.out_avals[0].shape == (128, 28, 28)


def test_grey_levels_stay_grey_levels() -> None:
    images = random_images(64)
    got = np.asarray(augment(jax.random.key(0), images, jnp.arange(64), ALL))
    assert got.min() >= 0
    assert got.max() <= 255 * (1 + 1e-6)
    white = np.full((64, 28, 28), 255, np.uint8)
    got = np.asarray(augment(jax.random.key(0), white, jnp.arange(64), Augmentation(elastic=0.5)))
    np.testing.assert_allclose(got[:, 5:-5, 5:-5], 255, rtol=1e-6)
