"""Pictures of digits of many kinds, and pictures of other things, each with a seed.

A kind is a function of an MNIST image and a random generator. It returns a picture, or a picture and the
options with which to save it.
"""

import gzip
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

_ARCHIVES = resources.files("lstm_jax.data") / "mnist"
_unpacked = [
    gzip.decompress((_ARCHIVES / f"t10k-{name}-ubyte.gz").read_bytes())
    for name in ("images-idx3", "labels-idx1")
]
MNIST = np.frombuffer(_unpacked[0], np.uint8, offset=16).reshape(-1, 28, 28)
LABELS = np.frombuffer(_unpacked[1], np.uint8, offset=8)


def two_of_each(seed):
    """The indices of 20 test images, in the order of their labels."""
    generator = np.random.default_rng(seed)
    return [
        int(index)
        for label in range(10)
        for index in generator.choice(np.flatnonzero(label == LABELS), 2, False)
    ]


def save(drawn, folder, name):
    """Save what a kind returns; give the path."""
    image, options = drawn if isinstance(drawn, tuple) else (drawn, {})
    form = options.get("format", "PNG")
    path = Path(folder) / f"{name}.{'jpg' if form == 'JPEG' else form.lower()}"
    image.save(path, **{"format": form, **options})
    return path


def mask_of(digit, size):
    """Ink 0..1 of the test image, drawn anew with `size` pixels for the 28."""
    im = (
        Image.fromarray(digit)
        .resize((size, size), Image.Resampling.BICUBIC)
        .filter(ImageFilter.GaussianBlur(size / 100))
    )
    a = np.asarray(im) / 255
    return np.clip((a - 0.35) / 0.3, 0, 1)


def blend(mask, paper, ink):
    paper = np.broadcast_to(np.asarray(paper, float), (*mask.shape, 3))
    ink = np.asarray(ink, float)
    return paper * (1 - mask[..., None]) + ink * mask[..., None]


def to_im(a):
    return Image.fromarray(np.rint(np.clip(a, 0, 1) * 255).astype(np.uint8))


def place(mask, h, w, top, left):
    c = np.zeros((h, w))
    mh, mw = mask.shape
    c[top : top + mh, left : left + mw] = mask
    return c


WHITE, BLACK, PAPER, INK = (1, 1, 1), (0, 0, 0), (0.93, 0.92, 0.88), (0.12, 0.12, 0.18)


def bbox(m):
    ys, xs = np.nonzero(m > 0.3)
    return ys.min(), ys.max() + 1, xs.min(), xs.max() + 1


def tight(m, pad=0):
    top, bottom, left, right = bbox(m)
    return m[max(top - pad, 0) : bottom + pad, max(left - pad, 0) : right + pad]


def gridyx(h, w):
    return np.mgrid[0 : 1 : h * 1j, 0 : 1 : w * 1j]


def smooth_noise(r, h, w, cells, amp):
    n = r.normal(size=(cells, cells))
    im = Image.fromarray(n.astype(np.float32)).resize((w, h), Image.Resampling.BICUBIC)
    return amp * np.asarray(im)


KINDS = {}


def kind(f):
    KINDS[f.__name__] = f
    return f


def photo(digit, r, h=600, w=800, size=330, top=None, left=None):
    m = mask_of(digit, size)
    top = r.integers(40, h - size - 40) if top is None else top
    left = r.integers(40, w - size - 40) if left is None else left
    return place(m, h, w, top, left)


def big(digit, r, size):
    im = Image.new("RGB", (4000, 3000), (237, 235, 224))
    d = to_im(
        blend(mask_of(digit, size), (237 / 255, 235 / 255, 224 / 255), INK)
        + r.normal(0, 0.02, (size, size, 1))
    )
    im.paste(d, (int(r.integers(100, 3900 - size)), int(r.integers(100, 2900 - size))))
    return (im, {"format": "JPEG", "quality": 85})


# --- plain
@kind
def plain(digit, r):
    return to_im(blend(mask_of(digit, 280), WHITE, BLACK))


@kind
def white_on_black(digit, r):
    return to_im(blend(mask_of(digit, 280), BLACK, WHITE))


@kind
def mnist28_png(digit, r):
    return Image.fromarray(digit)


@kind
def mnist28_inverted(digit, r):
    return Image.fromarray(255 - digit)


@kind
def grey_background(digit, r):
    return to_im(blend(mask_of(digit, 280), (0.5,) * 3, (0.1,) * 3))


@kind
def light_on_grey(digit, r):
    return to_im(blend(mask_of(digit, 280), (0.5,) * 3, (0.9,) * 3))


@kind
def off_centre_small(digit, r):
    return to_im(blend(photo(digit, r, 900, 1200, 200), WHITE, BLACK))


@kind
def small_in_12_megapixels(digit, r):
    return big(digit, r, 280)


@kind
def tiny_in_12_megapixels(digit, r):
    return big(digit, r, 140)


@kind
def wide_strip(digit, r):
    return to_im(blend(place(mask_of(digit, 120), 130, 1600, 5, 700), WHITE, BLACK))


@kind
def rotated_10(digit, r):
    a = float(r.choice([-10, 10]))
    im = to_im(blend(photo(digit, r, 600, 600, 400, 100, 100), WHITE, BLACK))
    return im.rotate(a, fillcolor=(255, 255, 255), resample=Image.Resampling.BICUBIC)


@kind
def rotated_black_corners(digit, r):
    a = float(r.choice([-8, 8]))
    im = to_im(blend(photo(digit, r, 600, 600, 400, 100, 100), WHITE, BLACK))
    return im.rotate(a, resample=Image.Resampling.BICUBIC)


# --- light
@kind
def shadow_linear(digit, r):
    m = photo(digit, r)
    _y, x = gridyx(*m.shape)
    return to_im(blend(m, PAPER, INK) * (0.45 + 0.55 * x)[..., None] + r.normal(0, 0.015, (*m.shape, 1)))


@kind
def shadow_corner_soft(digit, r):
    m = photo(digit, r)
    y, x = gridyx(*m.shape)
    s = 1 - 0.5 / (1 + np.exp(-((x + y) - 1.1) / 0.12))
    return to_im(blend(m, PAPER, INK) * s[..., None] + r.normal(0, 0.015, (*m.shape, 1)))


@kind
def shadow_hand_soft(digit, r):
    m = photo(digit, r)
    y, x = gridyx(*m.shape)
    s = 1 - 0.35 / (1 + np.exp(-(x - 0.55 - 0.15 * y) / 0.05))
    return to_im(blend(m, PAPER, INK) * s[..., None] + r.normal(0, 0.015, (*m.shape, 1)))


@kind
def shadow_hard(digit, r):
    m = photo(digit, r)
    y, x = gridyx(*m.shape)
    s = np.where(x > 0.6 + 0.2 * y, 0.6, 1.0)
    return to_im(blend(m, PAPER, INK) * s[..., None] + r.normal(0, 0.015, (*m.shape, 1)))


@kind
def vignette(digit, r):
    m = photo(digit, r, top=135, left=235)
    y, x = gridyx(*m.shape)
    s = 1 - 0.45 * ((x - 0.5) ** 2 + (y - 0.5) ** 2) / 0.5
    return to_im(blend(m, PAPER, INK) * s[..., None] + r.normal(0, 0.015, (*m.shape, 1)))


@kind
def vignette_strong(digit, r):
    m = photo(digit, r, top=135, left=235)
    y, x = gridyx(*m.shape)
    s = 1 - 0.9 * ((x - 0.5) ** 2 + (y - 0.5) ** 2) / 0.5
    return to_im(blend(m, PAPER, INK) * s[..., None] + r.normal(0, 0.015, (*m.shape, 1)))


@kind
def flash_spot(digit, r):
    m = photo(digit, r, top=135, left=235)
    y, x = gridyx(*m.shape)
    s = 0.55 + 0.45 * np.exp(-((x - 0.5) ** 2 + (y - 0.45) ** 2) / 0.08)
    return to_im(blend(m, PAPER, INK) * s[..., None] + r.normal(0, 0.015, (*m.shape, 1)))


@kind
def wrinkled(digit, r):
    m = photo(digit, r)
    s = 1 + smooth_noise(r, *m.shape, 7, 0.04)
    return to_im(blend(m, PAPER, INK) * s[..., None] + r.normal(0, 0.015, (*m.shape, 1)))


@kind
def dim_room_noisy(digit, r):
    m = photo(digit, r)
    return to_im(0.35 * blend(m, PAPER, INK) + r.normal(0, 0.05, (*m.shape, 3)))


@kind
def blurred(digit, r):
    m = photo(digit, r)
    return to_im(blend(m, PAPER, INK)).filter(ImageFilter.GaussianBlur(9))


# --- paper
@kind
def ruled_light(digit, r):
    m = photo(digit, r)
    p = np.ones((*m.shape, 3)) * PAPER
    p[::50] = (0.72, 0.82, 0.92)
    p[1::50] = (0.72, 0.82, 0.92)
    return to_im(blend(m, p, INK))


@kind
def ruled_dark(digit, r):
    m = photo(digit, r)
    p = np.ones((*m.shape, 3)) * PAPER
    for k in range(3):
        p[k::50] = (0.45, 0.55, 0.8)
    return to_im(blend(m, p, INK))


@kind
def ruled_and_margin(digit, r):
    m = photo(digit, r, left=330)
    p = np.ones((*m.shape, 3)) * PAPER
    p[::50] = p[1::50] = (0.65, 0.75, 0.9)
    p[:, 130:132] = (0.9, 0.4, 0.4)
    return to_im(blend(m, p, INK))


@kind
def squared_light(digit, r):
    m = photo(digit, r)
    p = np.ones((*m.shape, 3)) * PAPER
    c = (0.75, 0.82, 0.9)
    p[::33] = c
    p[:, ::33] = c
    return to_im(blend(m, p, INK))


@kind
def squared_dark(digit, r):
    m = photo(digit, r)
    p = np.ones((*m.shape, 3)) * PAPER
    c = (0.45, 0.5, 0.6)
    for k in range(2):
        p[k::33] = c
        p[:, k::33] = c
    return to_im(blend(m, p, INK))


@kind
def form_box(digit, r):
    m = photo(digit, r, 600, 600, 400, 100, 100)
    a = blend(m, WHITE, BLACK)
    a[30:34, 30:570] = a[566:570, 30:570] = 0
    a[30:570, 30:34] = a[30:570, 566:570] = 0
    return to_im(a)


@kind
def frame_at_border(digit, r):
    m = photo(digit, r, 600, 600, 400, 100, 100)
    a = blend(m, WHITE, BLACK)
    a[:4] = a[-4:] = 0
    a[:, :4] = a[:, -4:] = 0
    return to_im(a)


@kind
def frame_thin_canvas(digit, r):
    m = mask_of(digit, 280)
    a = blend(m, WHITE, BLACK)
    a[:1] = a[-1:] = 0
    a[:, :1] = a[:, -1:] = 0
    return to_im(a)


@kind
def paper_on_desk(digit, r):
    m = photo(digit, r, top=135, left=235)
    p = np.ones((*m.shape, 3)) * (0.35, 0.22, 0.12)
    p[50:550, 100:700] = PAPER
    return to_im(blend(m, p, INK) + r.normal(0, 0.015, (*m.shape, 1)))


@kind
def desk_at_one_edge(digit, r):
    m = photo(digit, r, top=135, left=235)
    p = np.ones((*m.shape, 3)) * PAPER
    p[:, :60] = (0.35, 0.22, 0.12)
    return to_im(blend(m, p, INK) + r.normal(0, 0.015, (*m.shape, 1)))


@kind
def paper_texture(digit, r):
    m = photo(digit, r)
    return to_im(blend(m, PAPER, INK) + r.normal(0, 0.06, (*m.shape, 1)))


@kind
def dust_1(digit, r):
    return dust(digit, r, 1)


@kind
def dust_8(digit, r):
    return dust(digit, r, 8)


@kind
def dust_30(digit, r):
    return dust(digit, r, 30)


@kind
def scan_speckle(digit, r):
    m = photo(digit, r, 800, 600, 330)
    a = blend(m, WHITE, BLACK)
    a[r.random(m.shape) < 0.0005] = 0
    return to_im(a)


@kind
def salt_pepper_small(digit, r):
    m = mask_of(digit, 280)
    a = blend(m, WHITE, BLACK)
    n = r.random(m.shape)
    a[n < 0.01] = 0
    a[n > 0.99] = 1
    return to_im(a)


def dust(digit, r, n):
    m = photo(digit, r, 800, 800, 450)
    im = to_im(blend(m, WHITE, BLACK))
    d = ImageDraw.Draw(im)
    for _ in range(n):
        y, x = r.integers(10, 790, 2)
        q = int(r.integers(1, 4))
        d.ellipse((x - q, y - q, x + q, y + q), fill=(30, 30, 30))
    return im


@kind
def stray_stroke(digit, r):
    m = photo(digit, r, 800, 800, 450, 250, 250)
    im = to_im(blend(m, WHITE, BLACK))
    ImageDraw.Draw(im).line((20, 60, 110, 40), fill=(40, 40, 40), width=7)
    return im


# --- ink
def ink(digit, r, paper, colour, noise=0.012):
    m = photo(digit, r)
    return to_im(blend(m, paper, colour) + r.normal(0, noise, (*m.shape, 1)))


@kind
def ink_red(digit, r):
    return ink(digit, r, PAPER, (0.8, 0.1, 0.12))


@kind
def ink_blue(digit, r):
    return ink(digit, r, PAPER, (0.12, 0.2, 0.65))


@kind
def ink_green_board(digit, r):
    return ink(digit, r, (0.15, 0.3, 0.2), (0.9, 0.9, 0.88), 0.03)


@kind
def ink_yellow_marker(digit, r):
    return ink(digit, r, PAPER, (0.98, 0.93, 0.25))


@kind
def pencil_light(digit, r):
    return ink(digit, r, PAPER, (0.7, 0.7, 0.68))


@kind
def pencil_faint(digit, r):
    return ink(digit, r, PAPER, (0.8, 0.79, 0.76))


@kind
def red_on_blue_paper(digit, r):
    return ink(digit, r, (0.5, 0.6, 0.9), (0.8, 0.2, 0.2))


@kind
def blue_on_yellow_note(digit, r):
    return ink(digit, r, (0.98, 0.93, 0.5), (0.15, 0.2, 0.6))


@kind
def chalk_smudged(digit, r):
    m = photo(digit, r)
    m = m * np.clip(r.normal(0.8, 0.25, m.shape), 0, 1)
    s = np.clip(smooth_noise(r, *m.shape, 5, 0.06), 0, 1)
    return to_im(blend(m, (0.12, 0.2, 0.15), (0.95, 0.95, 0.92)) + s[..., None])


@kind
def thin_pen(digit, r):
    m = photo(digit, r, 600, 600, 460, 70, 70)
    im = Image.fromarray((m * 255).astype(np.uint8))
    for _ in range(10):
        im = im.filter(ImageFilter.MinFilter(3))
    e = np.asarray(im) / 255
    return to_im(blend(e, PAPER, INK))


@kind
def thin_skeleton(digit, r):
    sk = skeleton(mask_of(digit, 280) > 0.5)
    im = (
        Image.fromarray((sk * 255).astype(np.uint8))
        .resize((560, 560), Image.Resampling.NEAREST)
        .filter(ImageFilter.MaxFilter(3))
        .filter(ImageFilter.GaussianBlur(2))
    )
    return to_im(blend(np.clip(np.asarray(im) / 160, 0, 1), PAPER, INK))


@kind
def hairline_canvas(digit, r):
    return to_im(blend((skeleton(mask_of(digit, 280) > 0.5)).astype(float), WHITE, BLACK))


@kind
def thick_marker(digit, r):
    im = Image.fromarray((mask_of(digit, 560) * 255).astype(np.uint8))
    for _ in range(4):
        im = im.filter(ImageFilter.MaxFilter(7))
    return to_im(blend(np.asarray(im) / 255, WHITE, BLACK))


def skeleton(b):
    """Zhang-Suen thinning."""
    b = np.pad(b.astype(np.uint8), 1)
    while True:
        changed = False
        for step in (0, 1):
            p = [
                np.roll(b, s, (0, 1))
                for s in ((1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1))
            ]
            n = sum(q.astype(int) for q in p)
            t = sum(((p[k] == 0) & (p[(k + 1) % 8] == 1)).astype(int) for k in range(8))
            c = (
                (p[0] * p[2] * p[4] == 0) & (p[2] * p[4] * p[6] == 0)
                if step == 0
                else (p[0] * p[2] * p[6] == 0) & (p[0] * p[4] * p[6] == 0)
            )
            d = (b == 1) & (n >= 2) & (n <= 6) & (t == 1) & c
            if d.any():
                b[d] = 0
                changed = True
        if not changed:
            return b[1:-1, 1:-1].astype(bool)


@kind
def broken_strokes(digit, r):
    m = mask_of(digit, 420).copy()
    for _ in range(2):
        ys, xs = np.nonzero(m > 0.5)
        k = r.integers(len(ys))
        m[max(0, ys[k] - 8) : ys[k] + 8, max(0, xs[k] - 8) : xs[k] + 8] = 0
    return to_im(blend(m, WHITE, BLACK))


# --- crops
@kind
def tight_crop(digit, r):
    return to_im(blend(tight(mask_of(digit, 400)), WHITE, BLACK))


@kind
def tight_crop_inverted(digit, r):
    return to_im(blend(tight(mask_of(digit, 400)), BLACK, WHITE))


@kind
def tight_crop_pad2(digit, r):
    return to_im(blend(tight(mask_of(digit, 400), 2), WHITE, BLACK))


@kind
def crop_squashed_28(digit, r):
    return to_im(blend(tight(mask_of(digit, 400)), WHITE, BLACK)).resize((28, 28), Image.Resampling.BOX)


@kind
def touches_bottom(digit, r):
    m = mask_of(digit, 400)
    return to_im(blend(m[: bbox(m)[1]], WHITE, BLACK))


@kind
def touches_left_photo(digit, r):
    m = mask_of(digit, 500)
    m = place(m[:, bbox(m)[2] :], 800, 800, 150, 0)
    return to_im(blend(m, PAPER, INK) + r.normal(0, 0.015, (800, 800, 1)))


# --- files
@kind
def jpeg_q10(digit, r):
    return (to_im(blend(photo(digit, r, 500, 500, 320), WHITE, BLACK)), {"format": "JPEG", "quality": 10})


@kind
def jpeg_q3(digit, r):
    return (to_im(blend(photo(digit, r, 500, 500, 320), WHITE, BLACK)), {"format": "JPEG", "quality": 3})


@kind
def jpeg_tiny_q20(digit, r):
    return (to_im(blend(mask_of(digit, 56), WHITE, BLACK)), {"format": "JPEG", "quality": 20})


@kind
def jpeg_cmyk(digit, r):
    return (
        to_im(blend(mask_of(digit, 280), WHITE, BLACK)).convert("CMYK"),
        {"format": "JPEG", "quality": 90},
    )


@kind
def jpeg_cmyk_red(digit, r):
    return (
        to_im(blend(mask_of(digit, 280), (1, 1, 0.9), (0.8, 0.1, 0.1))).convert("CMYK"),
        {"format": "JPEG", "quality": 90},
    )


def exif(digit, r, n, turn):
    m = photo(digit, r)
    im = to_im(blend(m, PAPER, INK))
    e = Image.Exif()
    e[0x112] = n
    return (im.transpose(turn), {"format": "JPEG", "quality": 85, "exif": e})


@kind
def exif_3(digit, r):
    return exif(digit, r, 3, Image.Transpose.ROTATE_180)


@kind
def exif_6(digit, r):
    return exif(digit, r, 6, Image.Transpose.ROTATE_90)


@kind
def exif_8(digit, r):
    return exif(digit, r, 8, Image.Transpose.ROTATE_270)


@kind
def exif_6_png(digit, r):
    m = photo(digit, r)
    im = to_im(blend(m, PAPER, INK))
    e = Image.Exif()
    e[0x112] = 6
    return (im.transpose(Image.Transpose.ROTATE_90), {"format": "PNG", "exif": e})


@kind
def png_16bit(digit, r):
    return Image.fromarray(np.rint((1 - mask_of(digit, 280)) * 65535).astype(np.uint16))


@kind
def png_16bit_12bit_range(digit, r):
    return Image.fromarray(np.rint((1 - mask_of(digit, 280)) * 4095).astype(np.uint16))


@kind
def png_16bit_dim(digit, r):
    return Image.fromarray(np.rint(mask_of(digit, 280) * 4095).astype(np.uint16))


@kind
def png_1bit(digit, r):
    return to_im(blend(mask_of(digit, 280), WHITE, BLACK)).convert("1")


@kind
def png_1bit_inverted(digit, r):
    return to_im(blend(mask_of(digit, 280), BLACK, WHITE)).convert("1")


@kind
def png_palette(digit, r):
    return to_im(blend(mask_of(digit, 280), (1, 1, 0.9), (0.1, 0.1, 0.6))).quantize(16)


@kind
def png_palette_transparent(digit, r):
    m = mask_of(digit, 280) > 0.5
    im = Image.fromarray(m.astype(np.uint8)).convert("P")
    im.putpalette([255, 255, 255, 0, 0, 0])
    return (im, {"format": "PNG", "transparency": 0})


@kind
def png_palette_transparent_white(digit, r):
    m = mask_of(digit, 280) > 0.5
    im = Image.fromarray(m.astype(np.uint8)).convert("P")
    im.putpalette([0, 0, 0, 255, 255, 255])
    return (im, {"format": "PNG", "transparency": 0})


def rgba(colour, alpha, behind=(0, 0, 0)):
    a = np.zeros((*alpha.shape, 4))
    a[..., :3] = np.where(alpha[..., None] > 0, colour, behind)
    a[..., 3] = alpha
    return to_im(a)


@kind
def canvas_black_on_clear(digit, r):
    return rgba((0, 0, 0), mask_of(digit, 280))


@kind
def canvas_white_on_clear(digit, r):
    return rgba((1, 1, 1), mask_of(digit, 280))


@kind
def canvas_red_on_clear(digit, r):
    return rgba((0.9, 0.1, 0.1), mask_of(digit, 280))


@kind
def canvas_blue_on_clear(digit, r):
    return rgba((0.1, 0.1, 0.9), mask_of(digit, 280))


@kind
def canvas_grey50_on_clear(digit, r):
    return rgba((0.5, 0.5, 0.5), mask_of(digit, 280))


@kind
def canvas_black_on_clear_white_rgb(digit, r):
    return rgba((0, 0, 0), mask_of(digit, 280), (1, 1, 1))


@kind
def canvas_opaque_frame_clear_inside(digit, r):
    a = np.asarray(rgba((0, 0, 0), mask_of(digit, 280))).copy()
    a[:2] = a[-2:] = (120, 120, 120, 255)
    a[:, :2] = a[:, -2:] = (120, 120, 120, 255)
    return Image.fromarray(a)


@kind
def la_png(digit, r):
    m = mask_of(digit, 280)
    return Image.fromarray(np.stack([np.zeros_like(m), m * 255], -1).astype(np.uint8))


@kind
def screenshot_rounded(digit, r):
    m = mask_of(digit, 280)
    a = np.zeros((280, 280, 4))
    a[..., :3] = blend(m, WHITE, BLACK)
    mk = Image.new("L", (280, 280), 0)
    ImageDraw.Draw(mk).rounded_rectangle((0, 0, 279, 279), 30, fill=255)
    a[..., 3] = np.asarray(mk) / 255
    return to_im(a)


@kind
def matplotlib_viridis(digit, r):
    from matplotlib import colormaps

    a = colormaps["viridis"](
        np.asarray(Image.fromarray(digit).resize((280, 280), Image.Resampling.NEAREST)) / 255
    )[..., :3]
    return to_im(a)


@kind
def matplotlib_viridis_margin(digit, r):
    from matplotlib import colormaps

    a = np.ones((480, 640, 3))
    a[100:380, 180:460] = colormaps["viridis"](
        np.asarray(Image.fromarray(digit).resize((280, 280), Image.Resampling.NEAREST)) / 255
    )[..., :3]
    return to_im(a)


@kind
def matplotlib_gray_margin(digit, r):
    a = np.ones((480, 640, 3))
    a[100:380, 180:460] = (
        np.asarray(Image.fromarray(digit).resize((280, 280), Image.Resampling.NEAREST)) / 255
    )[..., None]
    return to_im(a)


# --- formats
def saved_as(digit, form):
    return (to_im(blend(mask_of(digit, 280), WHITE, BLACK)), {"format": form})


@kind
def gif(digit, r):
    return saved_as(digit, "GIF")


@kind
def bmp(digit, r):
    return saved_as(digit, "BMP")


@kind
def webp(digit, r):
    return saved_as(digit, "WEBP")


@kind
def tiff(digit, r):
    return saved_as(digit, "TIFF")


# --- what is not one digit
def draw(f, r, size=(400, 400)):
    im = Image.new("L", size, 255)
    f(ImageDraw.Draw(im), r, *size)
    return im.filter(ImageFilter.GaussianBlur(1))


def poly(d, r, w, h, n, fill, star=False):
    c = np.array([w / 2, h / 2]) + r.uniform(-30, 30, 2)
    a = np.arange(n * (2 if star else 1)) * 2 * np.pi / (n * (2 if star else 1)) + r.uniform(0, 6)
    radius = np.where(np.arange(len(a)) % 2 == 0, 130, 55) if star else np.full(len(a), 120.0)
    pts = [tuple(c + radius[k] * np.array([np.cos(t), np.sin(t)])) for k, t in enumerate(a)]
    if fill:
        d.polygon(pts, fill=0)
    else:
        d.line(pts + pts[:2], fill=0, width=int(r.integers(10, 30)), joint="curve")


def letters(r, text, size):
    im = Image.new("L", (600, 400), 255)
    ImageDraw.Draw(im).text(
        (r.integers(20, 200), r.integers(20, 150)), text, font=ImageFont.load_default(size), fill=20
    )
    return im


WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "lazy",
    "dog",
    "while",
    "seven",
    "wizards",
    "vex",
    "jolly",
    "gnomes",
]


def page(r, n=9, size=28):
    return letters(r, "\n".join(" ".join(r.choice(WORDS, 5)) for _ in range(n)), size)


def number(r, n, gap):
    ms = [
        np.asarray(
            Image.fromarray(MNIST[r.integers(5000, 10000)]).resize((150, 150), Image.Resampling.BICUBIC)
        )
        for _ in range(n)
    ]
    out = np.zeros((400, 700))
    x = 60
    for m in ms:
        cols = np.flatnonzero(m.max(0) > 60)
        m = m[:, cols[0] : cols[-1] + 1]
        out[120:270, x : x + m.shape[1]] = np.maximum(out[120:270, x : x + m.shape[1]], m)
        x += m.shape[1] + gap
    return Image.fromarray((255 - out).astype(np.uint8))


def scribble(d, r, w, h):
    p = np.cumsum(r.normal(0, 40, (25, 2)), 0)
    p -= p.mean(0)
    p = p / np.abs(p).max() * 150 + 200
    d.line([tuple(q) for q in p], fill=0, width=int(r.integers(8, 25)), joint="curve")


def spiral(d, r, w, h):
    t = np.linspace(0, 6 * np.pi, 300)
    d.line(
        [(200 + 7 * k * np.cos(k), 200 + 7 * k * np.sin(k)) for k in t], fill=0, width=int(r.integers(8, 16))
    )


def smooth(r, cells):
    n = r.normal(128, 60, (cells, cells))
    return Image.fromarray(np.clip(n, 0, 255).astype(np.uint8)).resize((400, 400), Image.Resampling.BICUBIC)


def stripes(r):
    y, x = np.mgrid[:400, :400]
    t = r.uniform(0, 3)
    return Image.fromarray(
        ((np.sin((x * np.cos(t) + y * np.sin(t)) / r.uniform(6, 30)) > 0) * 255).astype(np.uint8)
    )


def checker(r):
    s = int(r.integers(10, 60))
    y, x = np.mgrid[:400, :400]
    return Image.fromarray((((x // s + y // s) % 2) * 255).astype(np.uint8))


OTHERS = {
    "page": lambda r: page(r),
    "line": lambda r: letters(r, " ".join(r.choice(WORDS, 3)), 40),
    "word": lambda r: letters(r, r.choice(WORDS), 100),
    "letter": lambda r: letters(r, r.choice(list("ABCDEFGHKMNPQRTUVWXYabdefhkmnprtwy&@#?%")), 220),
    "star": lambda r: draw(lambda d, r, w, h: poly(d, r, w, h, 5, r.random() < 0.5, True), r),
    "triangle": lambda r: draw(lambda d, r, w, h: poly(d, r, w, h, 3, False), r),
    "polygon filled": lambda r: draw(lambda d, r, w, h: poly(d, r, w, h, int(r.integers(3, 9)), True), r),
    "square": lambda r: draw(lambda d, r, w, h: d.rectangle((100, 100, 300, 290), outline=0, width=20), r),
    "square filled": lambda r: draw(lambda d, r, w, h: d.rectangle((100, 100, 300, 290), fill=0), r),
    "disc": lambda r: draw(lambda d, r, w, h: d.ellipse((100, 100, 300, 290), fill=0), r),
    "cross": lambda r: draw(
        lambda d, r, w, h: (
            d.line((90, 90, 300, 310), fill=0, width=25),
            d.line((300, 90, 90, 310), fill=0, width=25),
        ),
        r,
    ),
    "plus": lambda r: draw(
        lambda d, r, w, h: (
            d.line((200, 90, 200, 310), fill=0, width=25),
            d.line((310, 200, 90, 200), fill=0, width=25),
        ),
        r,
    ),
    "bars": lambda r: draw(
        lambda d, r, w, h: [
            d.rectangle((60 + 60 * k, 350 - r.integers(60, 280), 100 + 60 * k, 350), fill=0) for k in range(5)
        ],
        r,
    ),
    "arrow": lambda r: draw(
        lambda d, r, w, h: (
            d.line((60, 200, 330, 200), fill=0, width=25),
            d.line((230, 100, 330, 200, 230, 300), fill=0, width=25),
        ),
        r,
    ),
    "smile": lambda r: draw(
        lambda d, r, w, h: (
            d.ellipse((80, 80, 320, 320), outline=0, width=14),
            d.ellipse((140, 150, 165, 180), fill=0),
            d.ellipse((235, 150, 260, 180), fill=0),
            d.arc((130, 150, 270, 270), 20, 160, fill=0, width=12),
        ),
        r,
    ),
    "scribble": lambda r: draw(scribble, r),
    "spiral": lambda r: draw(spiral, r),
    "two": lambda r: number(r, 2, 40),
    "three": lambda r: number(r, 3, 40),
    "two close": lambda r: number(r, 2, 10),
    "two touching": lambda r: number(r, 2, -6),
    "three touching": lambda r: number(r, 3, -6),
    "blank": lambda r: Image.new("L", (300, 300), int(r.integers(0, 255))),
    "noise": lambda r: Image.fromarray(np.clip(r.normal(128, 40, (300, 300)), 0, 255).astype(np.uint8)),
    "clouds": lambda r: smooth(r, int(r.integers(3, 20))),
    "stripes": stripes,
    "checker": checker,
    "gradient": lambda r: Image.fromarray(np.tile(np.linspace(60, 220, 400).astype(np.uint8), (300, 1))),
}
