"""What stands around a digit is taken away, and what is not one digit is told.

The oracle is the MNIST image that a picture was drawn from: what the network would see is compared with it.
"""

import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lstm_jax.data.decoding import LARGEST_SIDE
from lstm_jax.data.ink import as_wide_as_mnist, inks_of
from lstm_jax.data.likeness import likeness
from lstm_jax.data.marks import without_lines
from lstm_jax.data.pictures import Picture, read_digit, read_picture, side_by_side
from lstm_jax.errors import ImageError
from tests.helpers.mnist import correlation
from tests.helpers.pictures import KINDS, LABELS, MNIST, OTHERS, save

# Kinds with something around the digit, and the median correlation with the original that is asked for.
# Digits that are drawn turned or thin differ from it, and are read rightly all the same.
HARD = {
    "frame_thin_canvas": 0.9,
    "frame_at_border": 0.9,
    "rotated_black_corners": 0.6,
    "form_box": 0.9,
    "paper_on_desk": 0.9,
    "desk_at_one_edge": 0.9,
    "matplotlib_viridis_margin": 0.9,
    "shadow_hand_soft": 0.9,
    "shadow_hard": 0.9,
    "vignette_strong": 0.9,
    "flash_spot": 0.9,
    "ruled_dark": 0.9,
    "ruled_and_margin": 0.9,
    "squared_dark": 0.9,
    "ruled_turned": 0.8,
    "squared_turned": 0.8,
    "dust_30": 0.9,
    "scan_speckle": 0.9,
    "stray_stroke": 0.9,
    "thin_skeleton": 0.65,
    "hairline_canvas": 0.65,
    "png_16bit_12bit_range": 0.9,
}


@pytest.mark.parametrize("slant", [-0.09, -0.04, 0.0, 0.07])
@pytest.mark.parametrize("pen", [12, 29])
def test_a_one_from_end_to_end_is_no_ruled_line(pen: int, slant: float) -> None:
    y, x = np.mgrid[:280, :280]
    one = (abs(x - 140 - slant * (y - 140)) < pen / 2) & (y >= 25) & (y < 255)
    np.testing.assert_array_equal(without_lines(one), one)
    np.testing.assert_array_equal(without_lines(one.T), one.T)
    line = abs(y - 200 - 0.02 * (x - 140)) < 2
    left = without_lines(one | line)
    assert left[line & ~one].mean() < 0.1  # a little stays where they cross
    assert left[one].mean() > 0.97


@pytest.mark.parametrize("slope", np.linspace(-0.099, 0.099, 12))
def test_a_fine_line_of_any_slope_goes(slope: float) -> None:
    y, x = np.mgrid[:420, :560]
    line = abs(y - 200 - slope * (x - 280)) < 0.6
    assert without_lines(line).mean() < 0.1 * line.mean()
    assert without_lines(line.T).mean() < 0.1 * line.mean()


def test_lines_that_converge_go() -> None:
    y, x = np.mgrid[:420, :560]
    middles = np.arange(20, 420, 40)
    lines = np.any([abs(y - middle - (middle - 210) / 4000 * (x - 280)) < 1 for middle in middles], axis=0)
    assert without_lines(lines).mean() < 0.1 * lines.mean()


def test_two_lines_with_a_pixel_between_go() -> None:
    lines = np.zeros((420, 560), bool)
    lines[[200, 202]] = True
    assert not without_lines(lines).any()


def test_a_stroke_from_top_to_bottom_of_a_strip_is_no_line() -> None:
    strip = np.zeros((20, 560), bool)
    strip[2:18, 300:302] = True
    np.testing.assert_array_equal(without_lines(strip), strip)


@pytest.mark.slow
@pytest.mark.parametrize("kind", HARD)
def test_what_stands_around_a_digit_is_taken_away(kind: str, tmp_path: Path) -> None:
    found = []
    for seed in range(3):
        generator = np.random.default_rng(seed)
        digit = MNIST[generator.integers(len(MNIST))]
        path = save(KINDS[kind](digit, generator), tmp_path, "digit")
        found.append(correlation(read_digit(path), digit))
    assert np.median(found) > HARD[kind], found


def row_of(digits: list[np.ndarray], gap: int) -> np.ndarray:
    """Digits of 5 x 5 times their size beside one another, `gap` pixels apart, dark on light."""
    parts = []
    for digit in digits:
        large = np.kron(digit, np.ones((5, 5), np.uint8))
        inked = np.flatnonzero(large.max(axis=0) > 80)
        parts += [large[:, inked[0] : inked[-1] + 1], np.zeros((len(large), gap), np.uint8)]
    return 255 - np.pad(np.concatenate(parts, axis=1), 40)


def one_of(label: int, seed: int) -> np.ndarray:
    return MNIST[np.random.default_rng(seed).choice(np.flatnonzero(label == LABELS))]


@pytest.mark.parametrize("labels", [(3, 1), (8, 0, 2), (6, 6, 0, 7)])
def test_several_digits_are_counted_and_read_from_left_to_right(
    labels: tuple[int, ...], tmp_path: Path
) -> None:
    digits = [one_of(label, seed) for seed, label in enumerate(labels)]
    path = tmp_path / "digits.png"
    Image.fromarray(row_of(digits, gap=40)).save(path)
    found = read_picture(path).digits
    assert len(found) == len(digits)
    for place, one in enumerate(found):
        like = [correlation(one, digit) for digit in digits]
        assert like[place] > max(0.7, *like[:place], *like[place + 1 :]), like
    with pytest.raises(ImageError, match=rf"digits\.png: {len(digits)} digits, expected one; crop"):
        read_digit(path)


def test_the_pieces_of_a_digit_are_one_digit() -> None:
    colours = np.ones((100, 100, 3))
    colours[20:26, 40:70] = 0  # the bar of a 5, and its bow
    colours[32:80, 40:46] = colours[74:80, 40:70] = 0
    assert len(inks_of(colours)) == 1


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ("page", r"found \d+ marks apart from one another, as in a page of text or a texture"),
        ("square_filled", "no digit found: what stands out is a filled shape, not the stroke of a pen"),
        ("blank", "no digit found: the image is nearly one colour"),
        ("gradient", "no digit found: nothing stands out from the noise"),
    ],
)
def test_what_is_not_one_digit_is_told(other: str, told: str, tmp_path: Path) -> None:
    path = save(OTHERS[other](np.random.default_rng(3)), tmp_path, "other")
    with pytest.raises(ImageError, match=told):
        read_digit(path)


@pytest.mark.slow
def test_few_other_things_are_like_a_digit(tmp_path: Path) -> None:
    like = []
    for seed, other in enumerate(OTHERS):
        path = save(OTHERS[other](np.random.default_rng(100 + seed)), tmp_path, "other")
        try:
            like.append(likeness(read_digit(path)[np.newaxis])[0] > 0.9)
        except ImageError:
            like.append(False)
    assert sum(like) <= 0.15 * len(OTHERS)  # of these, the network is not sure of all


def test_digits_are_like_digits() -> None:
    # Other images than `likeness` compares with, which are of the training set.
    found = likeness(MNIST[5000:5300])
    assert np.mean(found > 0.5) > 0.97
    assert np.median(found) > 0.97


def test_thin_strokes_are_widened_and_others_are_not() -> None:
    ink = np.zeros((200, 120))
    ink[20:180, 60] = ink[100, 20:100] = 1
    wide = as_wide_as_mnist(ink)
    assert 14 <= (wide.sum(axis=1) > 0.5).sum() - 160 <= 26  # by half a stroke at either end
    assert 16 <= (wide[len(wide) // 4] > 0.5).sum() <= 26
    np.testing.assert_array_equal(as_wide_as_mnist(wide), wide)


def test_a_picture_of_12_megapixels_is_quick(tmp_path: Path) -> None:
    drawn = KINDS["small_in_12_megapixels"](MNIST[0], np.random.default_rng(0))
    path = save(drawn, tmp_path, "large")
    start = time.process_time()
    read_digit(path)
    assert time.process_time() - start < 1.5


def test_side_by_side_shows_picture_ink_and_digit() -> None:
    colours = np.full((50, 100, 3), 0.5)
    ink = np.zeros((50, 100))
    ink[:, 50:] = 1
    sheet = np.asarray(side_by_side(Picture(colours, [ink], [MNIST[0]])))
    assert sheet.shape == (224, 448 + 8 + 448 + 8 + 224, 3)
    assert (sheet[:, :448] == 127).all()
    assert (sheet[:, 456 : 456 + 224] == 0).all()
    assert (sheet[:, 680:904] == 255).all()
    np.testing.assert_array_equal(sheet[4::8, 916::8, 0], MNIST[0])


@pytest.mark.parametrize("shape", [(19, 560), (560, 19), (1, 560)])
def test_a_strip_is_shown_on_a_sheet_of_common_size(shape: tuple[int, int]) -> None:
    sheet = side_by_side(Picture(np.ones((*shape, 3)), [np.ones(shape)], [MNIST[0]]))
    assert sheet.height == 224
    assert sheet.width <= 448 + 8 + 448 + 8 + 224
    assert (np.asarray(sheet)[111, 0] == 255).all()  # in the middle of the height


def test_large_pictures_are_shown_as_they_were_read(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.fromarray(255 - np.kron(MNIST[0], np.ones((40, 40), np.uint8))).save(path)
    assert read_picture(path).colours.shape == (LARGEST_SIDE, LARGEST_SIDE, 3)
