"""docs/RESULTS.md is true: its figures are those of the runs in docs/results/, its commands ask for them."""

import json
import re
import shlex

import pytest

from lstm_jax.commands.train import read_config
from lstm_jax.config import Config
from tests.helpers.project import PROJECT

DOCUMENT = (PROJECT / "docs" / "RESULTS.md").read_text()
RUNS = PROJECT / "docs" / "results"
# The name of a run, its command, and what came out of it.
ROWS = re.findall(r"^\| \[(.+?)\]\(results/\1/summary\.json\) \| `(.+?)` \| (.+) \|$", DOCUMENT, re.MULTILINE)


def test_every_run_is_told() -> None:
    assert sorted(name for name, _, _ in ROWS) == sorted(path.name for path in RUNS.iterdir())
    assert ROWS


@pytest.mark.parametrize(("name", "command", "figures"), ROWS, ids=[name for name, _, _ in ROWS])
def test_figures_are_those_of_the_run(name: str, command: str, figures: str) -> None:
    summary = json.loads((RUNS / name / "summary.json").read_text())
    config = json.loads((RUNS / name / "config.json").read_text())
    seeds = summary.get("per_seed", [summary])
    accuracy = f"{summary['test_accuracy']:.2%}".replace("%", " %")
    if len(seeds) > 1:
        accuracy += f" ± {100 * summary['statistics']['test_accuracy']['standard_deviation']:.2f}"
    seconds = summary["train_seconds"]
    assert figures.split(" | ") == [
        f"{summary['parameter_count']:,}",
        str(len(seeds)),
        accuracy,
        f"{summary['steps'] * config['batch_size'] / (60_000 if config['train_on_all'] else 55_000):.3g}",
        f"{seconds:,.0f} s" if seconds >= 100 else f"{seconds:.1f} s",
    ]
    for package in ("jax", "flax", "optax"):
        assert f"{package} {summary['versions'][package]}" in DOCUMENT


@pytest.mark.parametrize(("name", "command", "figures"), ROWS, ids=[name for name, _, _ in ROWS])
def test_the_command_asks_for_that_run(name: str, command: str, figures: str) -> None:
    saved = Config.of(**json.loads((RUNS / name / "config.json").read_text()))
    words = shlex.split(command)
    assert words[:2] == ["python", "train.py"]
    assert read_config(words[2:]).identity() == saved.identity()
