"""The pictures and tables of the tutorial: ``python -m lstm_jax.explain.tutorial``.

It draws the diagrams, draws what was measured, and writes the tables into the documents. With ``--measure``
it measures before, which takes some minutes for all:

    python -m lstm_jax.explain.tutorial --measure all
    python -m lstm_jax.explain.tutorial --measure batch_sizes seeds

What was measured is kept in ``measured.json`` beside the pictures, so numbers in the text have one source. A
document has a place for each table, between ``<!-- table: NAME -->`` and ``<!-- end -->``.
"""

import dataclasses
import json
import re
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from types import MappingProxyType
from typing import Any

import numpy as np

from lstm_jax import devices
from lstm_jax.commands import command_line
from lstm_jax.compare import machine
from lstm_jax.config import Config
from lstm_jax.data.dataset import load_dataset
from lstm_jax.errors import ConfigError
from lstm_jax.explain import diagrams, figures
from lstm_jax.explain.experiments import BATCH, DIRECTIONS, EXPERIMENTS, HIDDEN, TUTORIAL, Measured
from lstm_jax.explain.memory import measure_memory
from lstm_jax.explain.reading import read_steps
from lstm_jax.report.drawing import BLUE, ORANGE, PALE, Axes, Figure, new_figure, styled, write
from lstm_jax.report.plots import learning_curves
from lstm_jax.report.tables import Table, as_markdown
from lstm_jax.runs.loop import train
from lstm_jax.system.files import write_whole
from lstm_jax.training import build_model

PROG = "python -m lstm_jax.explain.tutorial"
DOCUMENTS = MappingProxyType({"en": "tutorial.md", "ko": "tutorial.ko.md"})
RESULTS = "measured.json"

# The test image that the tutorial shows being read.
READ_IMAGE = 18
# Images whose gradients are measured, over the rows and over the pixels.
MEMORY_IMAGES: Mapping[str, int] = MappingProxyType({"rows": 256, "pixels": 32})
# Pictures that are drawn when they are measured: their data are too large to be kept.
PICTURES = ("memory", "reading")


@dataclasses.dataclass(frozen=True)
class Tutorial:
    """Draw the pictures of the tutorial, and write its tables; measure first what is named."""

    docs: Path = Path("docs")
    """The folder of tutorial.md. The pictures go into its folder tutorial/."""
    measure: tuple[str, ...] = ()
    """What to measure again: all, or some of batch_sizes, static_and_dynamic, both_directions, seeds,
    first_digit, memory, reading."""

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        known = ("all", *EXPERIMENTS, *PICTURES)
        if unknown := [name for name in self.measure if name not in known]:
            raise ConfigError(f"--measure: got {', '.join(unknown)}, expected some of {', '.join(known)}")

    def run(self) -> int:
        """Measure, draw and write."""
        folder = self.docs / "tutorial"
        folder.mkdir(exist_ok=True)
        # No cache of compiled programs: compiling is one of the things that are measured.
        measured = _read(folder / RESULTS)
        for name, experiment in EXPERIMENTS.items():
            if self._wants(name):
                print(f"measuring {name}", flush=True)
                measured[name] = experiment()
                measured["machine"] = {
                    **machine.machine(),
                    "versions": machine.versions(),
                    "date": machine.now(),
                }
                write_whole(folder / RESULTS, json.dumps(measured, indent=1) + "\n")
        devices.start(devices=None)
        for name, draw in (("memory", draw_memory), ("reading", draw_reading)):
            if self._wants(name):
                print(f"measuring {name}", flush=True)
                write(draw(), folder, name, suffixes=("svg",) if name == "memory" else ("png",))
        for path, content in drawn(measured).items():
            write_whole(self.docs / path, content)
        for name, draw_measured in FIGURES.items():
            write(draw_measured(measured), folder, name, suffixes=("svg",))
        for language, name in DOCUMENTS.items():
            document = self.docs / name
            write_whole(document, with_tables(document.read_text(), measured, language))
        return 0

    def _wants(self, name: str) -> bool:
        return "all" in self.measure or name in self.measure


def drawn(measured: Measured) -> Mapping[str, str]:
    """Return the diagrams: the text of each file, by its path in docs/."""
    digit = next(load_dataset("mnist").train.batches(1)).image[0]
    own = (
        diagrams.cell,
        diagrams.gates,
        diagrams.shapes,
        diagrams.epochs,
        diagrams.static_and_dynamic,
        diagrams.bidirectional,
    )
    return {
        "data_flow.svg": diagrams.data_flow(digit, measured["first_digit"]["probabilities"]),
        **{f"tutorial/{draw.__name__}.svg": draw() for draw in own},
    }


# --------------------------------------------------------------------------------------------------
# Figures of what was measured
# --------------------------------------------------------------------------------------------------


@styled
def batch_sizes(measured: Measured) -> Figure:
    """Draw the accuracy of each batch size over the epochs and over the seconds."""
    found = measured["batch_sizes"]
    figure = new_figure(10, 4.2)
    over_epochs, over_seconds = figure.subplots(1, 2, sharey=True)
    from matplotlib import colormaps

    colours = colormaps["viridis"](np.linspace(0, 0.82, len(found["sizes"])))
    markers = "osD^vPX"
    for number, size in enumerate(found["sizes"]):
        accuracy = 100 * np.mean(size["test_accuracy"], axis=0)
        epochs = np.arange(1, len(accuracy) + 1)
        look = {"color": colours[number], "marker": markers[number % len(markers)], "markersize": 5}
        over_epochs.plot(epochs, accuracy, label=str(size["batch_size"]), **look)
        over_seconds.plot(epochs * size["epoch_seconds"], accuracy, **look)
    for ax, what in ((over_epochs, "epochs"), (over_seconds, "seconds of training")):
        _panel(ax, xlabel=what)
    over_epochs.set_ylabel("test accuracy, %")
    over_epochs.set_title(f"After so many epochs (mean of {found['seeds']} seeds)")
    over_seconds.set_title("After so many seconds")
    over_epochs.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(title="batch size", loc="outside right center")
    return figure


@styled
def static_times(measured: Measured) -> Figure:
    """Draw the times to compile and to run a static and a dynamic RNN."""
    lengths = measured["static_and_dynamic"]["lengths"]
    steps = [length["time_steps"] for length in lengths]
    figure = new_figure(9, 3.8)
    compiling, running = figure.subplots(1, 2)
    for name, colour, marker in (("unrolled", ORANGE, "s"), ("scan", BLUE, "o")):
        for ax, key in ((compiling, "compile_seconds"), (running, "run_ms")):
            ax.plot(steps, [length[name][key] for length in lengths], color=colour, marker=marker, label=name)
    for ax in (compiling, running):
        _panel(ax, xlabel="time steps")
        ax.set_xticks(steps)
        ax.set_ylim(bottom=0)
    compiling.set(title="Compiling the gradient", ylabel="seconds")
    running.set(title="Running it once", ylabel="milliseconds")
    compiling.legend(frameon=False)
    return figure


def seeds(measured: Measured) -> Figure:
    """Draw loss and accuracy of many seeds over the epochs."""
    found = measured["seeds"]
    return learning_curves({f"{found['seeds']} seeds": found["records"]})


@styled
def directions(measured: Measured) -> Figure:
    """Draw the accuracy of each way to read the directions, a point for each seed."""
    found = measured["both_directions"]["test_accuracy"]
    figure = new_figure(8, 2.8)
    ax = figure.subplots()
    for place, (name, accuracies) in enumerate(found.items()):
        wrong = DIRECTIONS[name][1]
        ax.plot(
            100 * np.array(accuracies), [-place] * len(accuracies), linestyle="none",
            marker="X" if wrong else "o", markersize=8, color=ORANGE if wrong else BLUE, alpha=0.8,
        )  # fmt: skip
    ax.set_yticks([-place for place in range(len(found))], list(found))
    _panel(ax, xlabel="test accuracy, %")
    ax.set_xlim(0, 100)
    return figure


FIGURES: Mapping[str, Callable[[Measured], Figure]] = MappingProxyType(
    {draw.__name__: draw for draw in (batch_sizes, static_times, seeds, directions)}
)


def draw_memory() -> Figure:
    """Measure how far back gradients reach before training, and draw it."""
    test = load_dataset("mnist").test
    measured = []
    for task, count in MEMORY_IMAGES.items():
        images, labels = next(test.batches(count))
        measured.append(measure_memory(images, labels, task=task, hidden_size=HIDDEN))
    return figures.memory(measured)


def draw_reading() -> Figure:
    """Train the tutorial's model, and draw how it reads a digit."""
    with tempfile.TemporaryDirectory() as run_dir:
        params = train(Config.of(run_dir=Path(run_dir) / "run")).params
    image = load_dataset("mnist").test.part(READ_IMAGE, READ_IMAGE + 1)
    return figures.reading(read_steps(build_model(TUTORIAL.model), params, next(image.batches(1)).image))


def _panel(ax: Axes, *, xlabel: str) -> None:
    ax.set_xlabel(xlabel)
    ax.grid(visible=True, color=PALE, linewidth=0.6)
    ax.set_axisbelow(True)


# --------------------------------------------------------------------------------------------------
# Tables
# --------------------------------------------------------------------------------------------------

# The words of the tables, in each language.
WORDS: Mapping[str, Mapping[str, Sequence[str]]] = MappingProxyType(
    {
        "en": {
            "batch_sizes": (
                "batch size",
                "steps in an epoch",
                "time of an epoch (128: 1)",
                "after 1 epoch",
                "after {epochs} epochs",
                "learning rate that grows",
                "after {epochs} epochs with it",
            ),
            "static_and_dynamic": ("time steps", "lines", "compile", "run"),
            "both_directions": ("what is read", "test accuracy"),
            "directions": (
                "forward only",
                "both, each at its last step",
                "both, backward at index -1",
                "backward only, at its last step",
                "backward only, at index -1",
            ),
            "seeds": ("seeds", "mean", "standard deviation", "lowest", "highest"),
            "machine": ("Measured on {date} on {cores} cores of {cpu}, with jax {jax} and flax {flax}.",),
        },
        "ko": {
            "batch_sizes": (
                "배치 크기",
                "에포크당 스텝 수",
                "에포크당 시간 (128이 1)",
                "1 에포크 후",
                "{epochs} 에포크 후",
                "배치에 맞춘 학습률",
                "그 학습률로 {epochs} 에포크 후",
            ),
            "static_and_dynamic": ("시간 스텝 수", "줄 수", "컴파일", "실행"),
            "both_directions": ("무엇을 읽는가", "테스트 정확도"),
            "directions": (
                "정방향만",
                "양방향, 각각 마지막 스텝에서",
                "양방향, 역방향은 인덱스 -1에서",
                "역방향만, 마지막 스텝에서",
                "역방향만, 인덱스 -1에서",
            ),
            "seeds": ("시드 수", "평균", "표준편차", "최저", "최고"),
            "machine": ("측정 일자 {date}, {cpu} 코어 {cores}개, jax {jax}, flax {flax}.",),
        },
    }
)


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    return as_markdown(Table(heads, [[str(cell) for cell in row] for row in rows])).rstrip("\n")


def _share(accuracies: Sequence[float]) -> str:
    return f"{100 * mean(accuracies):.2f} %"


def _batch_sizes(measured: Measured, words: Mapping[str, Sequence[str]]) -> str:
    found = measured["batch_sizes"]
    seconds = {size["batch_size"]: size["epoch_seconds"] for size in found["sizes"]}
    rows = [
        [
            size["batch_size"],
            f"{size['steps_per_epoch']:,}",
            f"{size['epoch_seconds'] / seconds[BATCH]:.1f}",
            _share([run[0] for run in size["test_accuracy"]]),
            _share([run[-1] for run in size["test_accuracy"]]),
            f"{size['scaled_learning_rate']:.4f}",
            _share([run[-1] for run in size["scaled_test_accuracy"]]),
        ]
        for size in found["sizes"]
    ]
    return _table([head.format(epochs=found["epochs"]) for head in words["batch_sizes"]], rows)


def _static_and_dynamic(measured: Measured, words: Mapping[str, Sequence[str]]) -> str:
    lengths, (time, *heads) = measured["static_and_dynamic"]["lengths"], words["static_and_dynamic"]
    lines, compiling, running = heads
    rows = [
        [
            length["time_steps"],
            f"{length['unrolled']['lines']:,}",
            f"{length['scan']['lines']:,}",
            *(
                f"{length['unrolled'][key] / length['scan'][key]:.1f}"
                for key in ("compile_seconds", "run_ms")
            ),
        ]
        for length in lengths
    ]
    quotient = "`unrolled` / `scan`"
    return _table(
        [
            time,
            f"{lines}, `unrolled`",
            f"{lines}, `scan`",
            *(f"{head}, {quotient}" for head in (compiling, running)),
        ],
        rows,
    )


def _both_directions(measured: Measured, words: Mapping[str, Sequence[str]]) -> str:
    found = measured["both_directions"]["test_accuracy"]
    names = words["directions"]
    return _table(
        words["both_directions"],
        [[name, _share(found[key])] for name, key in zip(names, DIRECTIONS, strict=True)],
    )


def _seeds(measured: Measured, words: Mapping[str, Sequence[str]]) -> str:
    last = [run[-1]["test_accuracy"] for run in measured["seeds"]["records"]]
    row = [len(last), _share(last), f"{100 * stdev(last):.2f} %", _share([min(last)]), _share([max(last)])]
    return _table(words["seeds"], [row])


def _machine(measured: Measured, words: Mapping[str, Sequence[str]]) -> str:
    found = measured["machine"]
    return words["machine"][0].format(**{**found, **found["versions"], "date": found["date"][:10]})


TABLES: Mapping[str, Callable[[Measured, Mapping[str, Sequence[str]]], str]] = MappingProxyType(
    {
        "batch_sizes": _batch_sizes,
        "static_and_dynamic": _static_and_dynamic,
        "both_directions": _both_directions,
        "seeds": _seeds,
        "machine": _machine,
    }
)


def with_tables(document: str, measured: Measured, language: str) -> str:
    """Return a document with each of its tables as it was measured."""
    words = WORDS[language]

    def filled(match: re.Match[str]) -> str:
        return f"{match[1]}\n{TABLES[match[2]](measured, words)}\n\n<!-- end -->"

    return re.sub(r"(<!-- table: (\w+) -->\n).*?<!-- end -->", filled, document, flags=re.DOTALL)


def _read(path: Path) -> Measured:
    return json.loads(path.read_text()) if path.exists() else {}


if __name__ == "__main__":
    command_line.run(lambda: command_line.parse(Tutorial, sys.argv[1:], prog=PROG).run(), prog=PROG)
