"""How every picture of the project looks, and how it becomes files.

The background is white and opaque: a picture reads alike on paper, on a light page and on a dark one. The
colours are those of Okabe & Ito, and maps that grow evenly from light to dark, which the colour-blind tell
apart.

matplotlib is an extra (requirements-plots.txt), and is imported only when a picture is drawn. pyplot is not
used: no display is needed, and no figure stays open.
"""

import io
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeAlias, TypeVar

from lstm_jax.errors import ConfigError, printable
from lstm_jax.system.files import whole
from lstm_jax.system.packages import how_to_install, required

P = ParamSpec("P")
T = TypeVar("T")

# matplotlib's `Figure` and `Axes`: without matplotlib there are none.
Figure: TypeAlias = Any
Axes: TypeAlias = Any

NO_PICTURES = f"no pictures: matplotlib is not installed ({how_to_install('plots')})"
SUFFIXES = ("png", "svg")
# Text becomes outlines, so that a picture looks the same everywhere. Equal figures give equal files.
SETTINGS: Any = {  # `rc_context` has a type for every key
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "figure.facecolor": "white",
    "figure.titlesize": 13,
    "savefig.facecolor": "white",
    "svg.hashsalt": "lstm_jax",
}
DPI = 150

BLUE, ORANGE, GREEN, PINK, SKY, AMBER = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"
COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, AMBER)
INK, GREY, PALE = "#222222", "#666666", "#dddddd"
# Maps of colours: of a gate, from shut (pale) to open; of values around zero; of a digit, dark ink on paper.
GATE_MAP, AROUND_ZERO, PAPER = "YlGnBu", "RdBu_r", "gray_r"


def require_matplotlib() -> None:
    """Raise ConfigError, with the command that installs it, if matplotlib cannot be imported."""
    required("matplotlib", extra="plots", kind=ConfigError)


def styled(draw: Callable[P, T]) -> Callable[P, T]:
    """Make a function draw in the style of the project."""

    @wraps(draw)
    def drawn(*args: P.args, **options: P.kwargs) -> T:
        from matplotlib import rc_context

        with rc_context(SETTINGS):
            return draw(*args, **options)

    return drawn


def plain(text: str) -> str:
    """Return a name from a user as text that matplotlib takes for no formula, and for no hidden label."""
    text = printable(text).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def logarithmic(ax: Axes, axis: Literal["x", "y"]) -> None:
    """Make an axis logarithmic, with plain numbers at 1, 2 and 5: powers of ten alone may be too few."""
    from matplotlib.ticker import LogLocator

    ax.set(**{f"{axis}scale": "log"})
    found = getattr(ax, f"{axis}axis")
    found.set_major_locator(LogLocator(subs=(1, 2, 5)))
    found.set_major_formatter("{x:g}")
    ax.minorticks_off()


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure, of a width and height in inches, that arranges its panels by itself."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


@styled
def as_files(figure: Figure, *, suffixes: Sequence[str] = SUFFIXES) -> dict[str, bytes]:
    """Make the files of a figure, by suffix."""
    files = {}
    for suffix in suffixes:
        file = io.BytesIO()
        undated = {"Date": None} if suffix == "svg" else {}
        figure.savefig(file, format=suffix, dpi=DPI, metadata=undated)
        figure.set_layout_engine("none")  # the layout is done, which saves time for the second file
        files[suffix] = file.getvalue()
    return files


def write(figure: Figure, folder: Path, name: str, *, suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """Write a figure to a folder, as PNG and SVG, each file whole or not at all; return the files."""
    written = []
    for suffix, content in as_files(figure, suffixes=suffixes).items():
        path = folder / f"{name}.{suffix}"
        with whole(path) as file:
            file.write_bytes(content)
        written.append(path)
    return written
