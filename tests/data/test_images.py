"""A file is read as what MNIST would have made of it.

The oracle is MNIST itself: its images are shown in many ways, and must come back.
"""

import gzip
import io
import os
import struct
import zlib
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from lstm_jax.data.decoding import LARGEST_SIDE, read_colours
from lstm_jax.data.images import BOX, CENTRE, SIDE, normalise_digit
from lstm_jax.data.ink import as_wide_as_mnist, inks_of
from lstm_jax.data.pictures import read_digit
from lstm_jax.errors import ImageError
from tests.helpers.mnist import correlation

Array = np.ndarray[Any, np.dtype[Any]]

# The correlation of two images over their 784 pixels that counts as "the same digit in the same
# place": `test_the_measure_sees_defects` shows that the defects we fear stay below it.
SAME = 0.85


def archive(name: str, header: int) -> Array:
    packed = (resources.files("lstm_jax.data") / "mnist" / f"t10k-{name}-ubyte.gz").read_bytes()
    return np.frombuffer(gzip.decompress(packed), np.uint8, offset=header)


def centre_of_mass(image: Array) -> tuple[float, float]:
    positions, mass = np.arange(SIDE), image.astype(float)
    return positions @ mass.sum(1) / mass.sum(), positions @ mass.sum(0) / mass.sum()


def shown(digit: Array, size: tuple[int, int]) -> Image.Image:
    """White ink on black, enlarged with smooth edges."""
    return Image.fromarray(digit).resize(size, Image.Resampling.BICUBIC)


def two_of_each_digit() -> Array:
    """Test images, in label order, whose centre of mass is near the middle of a pixel, and not very thin.

    MNIST moves digits by whole pixels: one that lies between two may rightly come back on either. One in a
    hundred is so thin that its strokes are widened, which `test_pictures` tests.
    """
    images = archive("images-idx3", 16).reshape(-1, SIDE, SIDE)[:2000]
    labels = archive("labels-idx1", 8)[:2000]
    near = np.array([max(abs(c - CENTRE) for c in centre_of_mass(image)) < 0.2 for image in images])
    thin = np.array([any(is_widened(image, size) for size in (56, 112, 168)) for image in images])
    return np.concatenate([images[near & ~thin & (labels == digit)][:2] for digit in range(10)])


def is_widened(image: Array, size: int) -> bool:
    """Whether the strokes of an image are widened when it is shown enlarged, with smooth edges."""
    ink = np.asarray(shown(image, (size, size))) / 255
    return as_wide_as_mnist(ink) is not ink


DIGITS = two_of_each_digit()


def coloured(digit: Array, ink: tuple[int, int, int], paper: tuple[int, int, int]) -> Image.Image:
    mask = shown(digit, (140, 140))
    return Image.composite(Image.new("RGB", mask.size, ink), Image.new("RGB", mask.size, paper), mask)


def transparent(digit: Array, ink: int, hidden: int) -> Image.Image:
    """Strokes of grey `ink`; behind them nothing, though the hidden colour of nothing is `hidden`."""
    mask = shown(digit, (140, 140))
    grey = Image.fromarray(np.where(np.asarray(mask) > 0, ink, hidden).astype(np.uint8))
    return Image.merge("LA", (grey, mask)).convert("RGBA")


def rounded_screenshot(digit: Array) -> Image.Image:
    image = ImageOps.invert(shown(digit, (140, 140))).convert("RGBA")
    alpha = np.full((140, 140), 255, np.uint8)
    alpha[:12, :12] = alpha[:12, -12:] = alpha[-12:, :12] = alpha[-12:, -12:] = 0
    image.putalpha(Image.fromarray(alpha))
    return image


def on_canvas(digit: Array) -> Image.Image:
    canvas = Image.new("L", (700, 400), 255)
    canvas.paste(ImageOps.invert(shown(digit, (112, 112))), (560, 30))
    return canvas


def touching_the_border(digit: Array) -> Image.Image:
    large = shown(digit, (280, 280))
    return large.crop(large.getbbox())


def photo(digit: Array) -> Image.Image:
    """Pencil on paper: the light falls off by half towards a corner, and the sensor adds noise."""
    ink = np.asarray(shown(digit, (800, 800))) / 255
    light = np.linspace(0.55, 0.9, 800)[:, None] * np.linspace(0.8, 1, 800)[None, :]
    noise = np.random.default_rng(1).normal(0, 0.03, ink.shape)
    return Image.fromarray((255 * np.clip(light * (1 - 0.7 * ink) + noise, 0, 1)).astype(np.uint8))


def dusty(digit: Array) -> Image.Image:
    pixels = np.array(ImageOps.invert(shown(digit, (1120, 1120))))
    pixels[40:44, 1050:1054] = 0
    return Image.fromarray(pixels)


def sideways(digit: Array, rotation: int) -> tuple[Image.Image, dict[str, Any]]:
    """A file whose EXIF data ask for a quarter turn."""
    turn = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}[rotation]
    exif = Image.Exif()
    exif[0x0112] = rotation
    return shown(digit, (140, 140)).transpose(turn), {"exif": exif}


def keyed_out(digit: Array) -> tuple[Image.Image, dict[str, Any]]:
    """A grey PNG that declares its black to be transparent."""
    return shown(digit, (140, 140)), {"transparency": 0}


# Name -> (suffix, how a digit is shown there: a picture, or a picture and options to save it with).
PRESENTATIONS: dict[str, tuple[str, Callable[[Array], Any]]] = {
    "MNIST": ("png", lambda digit: Image.fromarray(digit)),
    "MNIST, black on white": ("png", lambda digit: Image.fromarray(255 - digit)),
    "28 x 28 JPEG": ("jpg", lambda digit: Image.fromarray(255 - digit)),
    "56 x 56": ("png", lambda digit: shown(digit, (56, 56))),
    "56 x 56, hard pixels": ("png", lambda digit: Image.fromarray(digit.repeat(2, 0).repeat(2, 1))),
    "512 x 512 JPEG": ("jpg", lambda digit: ImageOps.invert(shown(digit, (512, 512)))),
    "1200 x 1200": ("png", lambda digit: shown(digit, (1200, 1200))),
    "wide margin": ("png", lambda digit: ImageOps.pad(shown(digit, (100, 100)), (100, 140))),
    "off centre on a canvas": ("png", on_canvas),
    "touching the border": ("png", touching_the_border),
    "red on green": ("png", lambda digit: coloured(digit, (230, 40, 40), (40, 140, 40))),
    "blue on yellow JPEG": ("jpg", lambda digit: coloured(digit, (30, 30, 200), (250, 240, 120))),
    "grey on grey": ("png", lambda digit: coloured(digit, (150, 150, 150), (110, 110, 110))),
    "CMYK": ("jpg", lambda digit: ImageOps.invert(shown(digit, (140, 140))).convert("CMYK")),
    "dark on transparent black": ("png", lambda digit: transparent(digit, 0, 0)),
    "dark on transparent white": ("png", lambda digit: transparent(digit, 0, 255)),
    "light on transparent black": ("png", lambda digit: transparent(digit, 255, 0)),
    "light on transparent white": ("png", lambda digit: transparent(digit, 255, 255)),
    "black keyed out": ("png", keyed_out),
    "rounded screenshot": ("png", rounded_screenshot),
    "palette": ("png", lambda digit: coloured(digit, (20, 20, 90), (240, 240, 200)).quantize(16)),
    "1-bit": ("png", lambda digit: shown(digit, (140, 140)).convert("1", dither=Image.Dither.NONE)),
    "GIF": ("gif", lambda digit: ImageOps.invert(shown(digit, (140, 140)))),
    "BMP": ("bmp", lambda digit: ImageOps.invert(shown(digit, (140, 140)))),
    "WebP": ("webp", lambda digit: ImageOps.invert(shown(digit, (140, 140)))),
    "TIFF": ("tiff", lambda digit: ImageOps.invert(shown(digit, (140, 140)))),
    "12 bits of 16": (
        "png",
        lambda digit: Image.fromarray((255 - np.asarray(shown(digit, (140, 140)))) * np.uint16(16)),
    ),
    "fractions": (
        "tiff",
        lambda digit: Image.fromarray(np.asarray(shown(digit, (140, 140))).astype(np.float32) / 255),
    ),
    "16-bit": (
        "png",
        lambda digit: Image.fromarray((255 - np.asarray(shown(digit, (140, 140)))) * np.uint16(256)),
    ),
    "EXIF 6": ("jpg", lambda digit: sideways(digit, 6)),
    "EXIF 8": ("png", lambda digit: sideways(digit, 8)),
    "photo": ("jpg", photo),
    "dusty": ("png", dusty),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESENTATIONS)
def test_an_mnist_digit_comes_back_however_it_is_shown(name: str, tmp_path: Path) -> None:
    suffix, show = PRESENTATIONS[name]
    path = tmp_path / f"digit.{suffix}"
    found = []
    for digit in DIGITS:
        picture = show(digit)
        image, options = picture if isinstance(picture, tuple) else (picture, {})
        image.save(path, **options)
        found.append(correlation(read_digit(path), digit))
    # The median says that the presentation is understood, the least that no digit is lost by it.
    assert np.median(found) > 0.95
    assert min(found) > SAME, f"digit {np.argmin(found) // 2}"


def test_the_measure_sees_defects() -> None:
    defects: dict[str, Callable[[Array], Array]] = {
        "polarity": lambda digit: 255 - digit,
        "one pixel to the right": lambda digit: np.roll(digit, 1, axis=1),
        "one pixel up": lambda digit: np.roll(digit, -1, axis=0),
        "transposed": lambda digit: digit.T,
        "mirrored": lambda digit: digit[:, ::-1],
        "a tenth too small": lambda digit: np.pad(np.asarray(Image.fromarray(digit).resize((24, 24))), 2),
    }
    for name, spoil in defects.items():
        found = np.array([correlation(spoil(digit), digit) for digit in DIGITS])
        # Some digits survive a defect: a mirrored 0 or 8 is a 0 or 8 still. One that does not is enough.
        assert min(found) < SAME - 0.1, name
        assert np.median(found) < 0.95, name


@pytest.mark.parametrize("polarity", ["white on black", "black on white"])
def test_an_mnist_image_is_unchanged_to_one_grey_level(polarity: str, tmp_path: Path) -> None:
    path = tmp_path / "digit.png"
    for digit in DIGITS:
        Image.fromarray(digit if polarity == "white on black" else 255 - digit).save(path)
        # One level: some MNIST images end at 254, the result always reaches 255.
        np.testing.assert_allclose(read_digit(path).astype(int), digit, atol=1, rtol=0)


def test_reading_what_was_read_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "digit.png"
    for digit in DIGITS:
        on_canvas(digit).save(path)
        once = read_digit(path)
        Image.fromarray(once).save(path)
        np.testing.assert_allclose(read_digit(path).astype(int), once, atol=1, rtol=0)


def test_the_result_is_an_mnist_image() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        # Three random strokes, thick enough to be seen, in a picture of random shape.
        height, width = generator.integers(30, 200, 2)
        ink = np.zeros((height, width))
        for _ in range(3):
            top, left = generator.integers(0, (height - 4, width - 4))
            ink[top : top + 4, left : generator.integers(left + 4, width + 1)] = generator.uniform(0.5, 1)
            ink[top : generator.integers(top + 4, height + 1), left : left + 4] = generator.uniform(0.5, 1)
        result = normalise_digit(ink)
        assert result.shape == (SIDE, SIDE)
        assert result.dtype == np.uint8
        assert result.max() == 255
        rows, columns = (np.flatnonzero(result.any(axis)) for axis in (1, 0))
        height_found, width_found = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert max(height_found, width_found) == BOX
        # The aspect ratio of the ink is kept, to the pixel of smoothing on either side.
        extent = [np.ptp(np.flatnonzero(ink.any(axis))) + 1 for axis in (1, 0)]
        expected = BOX * np.array(extent) / max(extent)
        np.testing.assert_allclose([height_found, width_found], expected, atol=2)
        # In the middle by mass, or as near as the edge allows.
        for centre, span in zip(centre_of_mass(result), (rows, columns), strict=True):
            assert abs(centre - CENTRE) <= 0.5 or span[0] == 0 or span[-1] == SIDE - 1


def test_mnist_centres_digits_on_pixel_14() -> None:
    images = archive("images-idx3", 16).reshape(-1, SIDE, SIDE)
    centres = np.array([centre_of_mass(image) for image in images])
    np.testing.assert_allclose(centres.mean(axis=0), CENTRE, atol=0.02)
    assert np.abs(centres - CENTRE).max() < 0.52


def test_a_digit_by_hand() -> None:
    """A bar of 12 x 40 pixels becomes 6 x 20 in a box that starts at rint(14 - 9.5) = 4."""
    ink = np.zeros((90, 70))
    ink[25:65, 50:62] = 0.5
    expected = np.zeros((SIDE, SIDE), np.uint8)
    expected[4:24, 11:17] = 255
    np.testing.assert_array_equal(normalise_digit(ink), expected)


def test_large_pictures_are_averaged_down(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    on_canvas(DIGITS[0]).resize((2100, 1200)).save(path)
    assert read_colours(path).shape == (320, LARGEST_SIDE, 3)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def noise() -> Image.Image:
    pixels = np.random.default_rng(0).normal(128, 15, (200, 200))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


PICTURE = Image.fromarray(DIGITS[0])
NOT_AN_IMAGE = "not an image that can be read, or badly damaged; convert it to PNG or JPEG"
TOO_MANY_PIXELS = "too many pixels, expected at most 65,000,000; crop or shrink the image"
BAD_FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", NOT_AN_IMAGE),
    "text": (lambda: b"seven\n", NOT_AN_IMAGE),
    # Pillow would let Ghostscript run it.
    "EPS": (lambda: encoded(PICTURE, "EPS"), NOT_AN_IMAGE),
    "truncated PNG": (
        lambda: encoded(PICTURE, "PNG")[:100],
        "cannot be read as an image (image file is truncated",
    ),
    "truncated JPEG": (
        lambda: encoded(PICTURE, "JPEG")[:-100],
        "cannot be read as an image (image file is truncated",
    ),
    "damaged PNG": (
        lambda: encoded(PICTURE, "PNG").replace(b"IDAT", b"IDAX"),
        NOT_AN_IMAGE,
    ),
    "bit error": (
        lambda: encoded(noise(), "PNG").replace(b"IDAT", b"IDAT\xff"),
        "cannot be read as an image (",
    ),
    "zero size": (lambda: png(0, 0, b""), NOT_AN_IMAGE),
    "bomb, Pillow says nothing": (
        lambda: png(8_100, 8_100, b""),
        TOO_MANY_PIXELS,
    ),
    "long bomb": (
        lambda: png(65_000_001, 1, b""),
        TOO_MANY_PIXELS,
    ),
    "bomb, Pillow warns": (
        lambda: png(10_000, 10_000, b""),
        TOO_MANY_PIXELS,
    ),
    "bomb, Pillow raises": (
        lambda: png(60_000, 60_000, b""),
        TOO_MANY_PIXELS,
    ),
    "blank": (
        lambda: encoded(Image.new("RGB", (50, 50), (255, 250, 240)), "PNG"),
        "no digit found: the image is nearly one colour (contrast 0%, expected at least 10%)",
    ),
    "black": (
        lambda: encoded(Image.new("1", (28, 28)), "PNG"),
        "no digit found: the image is nearly one colour",
    ),
    "one pixel": (lambda: encoded(Image.new("L", (1, 1), 7), "PNG"), "no digit found: the image is nearly"),
    "transparent": (lambda: encoded(Image.new("RGBA", (9, 9)), "PNG"), "no digit found: the image is nearly"),
    "noise": (
        lambda: encoded(noise(), "PNG"),
        "no digit found: nothing stands out from the noise; "
        "expected one digit, darker or lighter than its paper",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_what_is_wrong_with_a_file_is_said_in_one_line(name: str, tmp_path: Path) -> None:
    content, message = BAD_FILES[name]
    path = tmp_path / "digit.png"
    path.write_bytes(content())
    with pytest.raises(ImageError) as raised:
        read_digit(path)
    assert str(raised.value).startswith(f"{path}: {message}")
    assert "\n" not in str(raised.value)


def test_a_path_without_a_file_is_said_in_one_line(tmp_path: Path) -> None:
    missing = tmp_path / "missing.png"
    with pytest.raises(ImageError) as raised:
        read_digit(str(missing))
    assert str(raised.value) == f"{missing}: no such file, expected an image (PNG, JPEG or another)"
    with pytest.raises(ImageError) as raised:
        read_digit(tmp_path)
    told = "cannot be read as an image (not a file, but a folder)"
    assert str(raised.value) == f"{tmp_path}: {told}"
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ImageError, match=r"cannot be read as an image \(Not a directory\)"):
        read_digit(tmp_path / "file" / "digit.png")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "digit.png"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero")):
        with pytest.raises(ImageError) as raised:
            read_digit(path)
        assert str(raised.value) == (
            f"{path}: cannot be read as an image (not a file, but a pipe, a socket or a device)"
        )


@pytest.mark.parametrize("side", [8_063, 60_000])
def test_a_picture_too_large_is_not_unpacked(
    side: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a file declares decides: some bytes may ask for gigabytes."""

    def load(image: ImageFile.ImageFile) -> None:
        raise AssertionError("it was unpacked")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    path = tmp_path / "digit.png"
    path.write_bytes(png(side, side, b""))
    with pytest.raises(ImageError, match=TOO_MANY_PIXELS):
        read_digit(path)
    path.write_bytes(png(8_062, 8_062, b""))
    with pytest.raises(AssertionError, match="it was unpacked"):
        read_digit(path)


@pytest.mark.parametrize("size", [(2903, 1301), (561, 700)])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "I;16"])
def test_shrinking_costs_no_colour(mode: str, size: tuple[int, int], tmp_path: Path) -> None:
    """Averaged in whatever mode, the colours are those of the average in RGBA, as Pillow computes it."""
    pixels = np.random.default_rng(5).integers(0, 256, (size[1], size[0], 3), np.uint8)
    picture = Image.fromarray(pixels).convert("L" if mode == "I;16" else mode)
    path = tmp_path / "picture.png"
    if mode == "I;16":
        Image.fromarray(np.asarray(picture).astype(np.uint16) * 256 + 255).save(path, compress_level=0)
    else:
        picture.save(path, compress_level=0)
    opaque = picture.convert("RGBA")
    opaque.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.BOX, reducing_gap=None)
    colours = read_colours(path)
    assert colours.shape[:2] == (opaque.height, opaque.width)
    np.testing.assert_array_equal(colours, np.asarray(opaque)[..., :3] / 255)


def test_what_a_file_is_called_does_not_steer_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "\x1b]0;title\x07\x1b[31mdigit.png"
    path.write_bytes(b"no picture")
    with pytest.raises(ImageError) as raised:
        read_digit(path)
    assert str(raised.value).startswith(rf"{tmp_path}/\x1b]0;title\x07\x1b[31mdigit.png: not an image")


def test_a_damaged_note_in_the_file_is_no_warning(tmp_path: Path) -> None:
    path = tmp_path / "digit.png"
    PICTURE.save(path, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01")
    assert correlation(read_digit(path), DIGITS[0]) > 0.99


def test_no_ink_is_no_digit() -> None:
    with pytest.raises(ImageError, match=r"^no digit found: there is no ink$"):
        normalise_digit(np.zeros((28, 28)))


def only_ink_of(colours: Array) -> Array:
    (ink,) = inks_of(colours)
    return ink


def test_ink_is_1_on_the_stroke_and_0_beside_it() -> None:
    colours = np.ones((20, 30, 3)) * [0.9, 0.8, 0.2]
    colours[5:15, 10:13] = [0.2, 0.8, 0.9]
    expected = np.zeros((20, 30))
    expected[5:15, 10:13] = 1
    np.testing.assert_allclose(only_ink_of(colours), expected, atol=1e-9)


def test_a_7_cut_to_its_bar_is_no_slope_of_light() -> None:
    seven = np.zeros((40, 30))
    seven[:5] = seven[5:, 12:18] = 1
    colours = np.repeat(0.9 - 0.7 * seven[..., None], 3, axis=2)
    np.testing.assert_allclose(only_ink_of(colours), seven, atol=1e-9)


def test_a_small_dark_digit_outweighs_slightly_lighter_paper() -> None:
    paper = np.full((100, 100, 3), 0.8)
    paper[1:-1, 1:-1] = 0.84
    paper[40:60, 50:53] = 0.3
    ink = only_ink_of(paper)
    assert ink[50, 51] == 1
    assert ink[20, 20] == 0
