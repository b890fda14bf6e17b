"""How well each kind of picture is read: ``python -m tests.pictures RUN_DIR [--seed INT]``.

Draws 20 test images of MNIST, two of each class, in every kind of picture, and counts those that the network
of the run names rightly. Then it draws pictures that are not one digit, and counts what is answered all the
same. Prints the tables of docs/pictures-of-digits.md.
"""

import argparse
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from lstm_jax.commands.predict import probabilities_of
from lstm_jax.data.pictures import read_picture, side_by_side
from lstm_jax.errors import ImageError
from lstm_jax.runs.trained import Trained, load_trained
from tests.helpers.pictures import KINDS, LABELS, MNIST, OTHERS, save, two_of_each

SURE = 0.9
# What docs/pictures-of-digits.png shows: a digit and a kind for each of the steps.
STEPS = (
    (4, "shadow_linear"),
    (7, "shadow_hard"),
    (6, "ruled_dark"),
    (2, "paper_on_desk"),
    (5, "dust_30"),
    (8, "hairline_canvas"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description="How well each kind of picture is read.")
    parser.add_argument("run_dir", type=Path, help="a run trained on MNIST")
    parser.add_argument("--seed", type=int, default=0, help="draws other digits, by default 0")
    parser.add_argument("--others", type=int, default=5, help="pictures of each other thing, by default 5")
    parser.add_argument("--kind", nargs="*", default=list(KINDS), help="some kinds only")
    parser.add_argument("--steps", type=Path, metavar="FILE", help="draw the steps instead, into a PNG file")
    asked = parser.parse_args()
    if asked.steps is not None:
        steps().save(asked.steps, optimize=True)
        return
    trained = load_trained(asked.run_dir)
    with tempfile.TemporaryDirectory() as folder:
        print("| kind | right of 20 | wrong with more than 0.9 |\n|---|---|---|", flush=True)
        for kind in asked.kind:
            right, wrong = of_kind(trained, kind, asked.seed, folder)
            print(f"| {words(kind)} | {right} | {wrong} |", flush=True)
        print("\n| not one digit | told so | answered | with more than 0.9 |\n|---|---|---|---|", flush=True)
        total: Counter[str] = Counter()
        for other in OTHERS:
            told = of_other(trained, other, asked.others, asked.seed, folder)
            total += told
            print(row(other, told), flush=True)
        print(row("all", total))


def steps() -> Image.Image:
    """One row for each of `STEPS`: the picture, its ink, and what the network reads."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seed, (label, kind) in enumerate(STEPS):
            generator = np.random.default_rng(seed)
            digit = MNIST[generator.choice(np.flatnonzero(label == LABELS))]
            rows.append(side_by_side(read_picture(save(KINDS[kind](digit, generator), folder, "digit"))))
    sheet = Image.new(
        "RGB", (max(row.width for row in rows), sum(row.height + 8 for row in rows) - 8), "grey"
    )
    for number, row in enumerate(rows):
        sheet.paste(row, (0, number * (row.height + 8)))
    return sheet


def answer(trained: Trained, path: Path) -> tuple[int, float] | None:
    """What `predict` answers: a digit and its probability; None if it says that it is not one digit."""
    try:
        digits = read_picture(path).digits
    except ImageError:
        return None
    if len(digits) > 1:
        return None
    probabilities = probabilities_of(trained, digits)
    return int(probabilities.argmax()), float(probabilities.max())


def words(name: str) -> str:
    """The name of a kind, as it stands in the tables."""
    return name.replace("_", " ")


def row(name: str, told: Counter[str]) -> str:
    """A line of the second table."""
    return f"| {words(name)} | {told['told']} | {told['unsure'] + told['sure']} | {told['sure']} |"


def of_kind(trained: Trained, kind: str, seed: int, folder: str) -> tuple[int, int]:
    """How many of 20 are right, and how many are wrong with a probability above `SURE`."""
    right = wrong = 0
    for number, index in enumerate(two_of_each(seed)):
        drawn = KINDS[kind](MNIST[index], np.random.default_rng((seed, number)))
        found = answer(trained, save(drawn, folder, "digit"))
        right += found is not None and found[0] == LABELS[index]
        wrong += found is not None and found[0] != LABELS[index] and found[1] > SURE
    return right, wrong


def of_other(trained: Trained, other: str, count: int, seed: int, folder: str) -> Counter[str]:
    """How many of some pictures are told to be no digit, or answered unsurely, or surely."""
    told: Counter[str] = Counter()
    for number in range(count):
        drawn = OTHERS[other](np.random.default_rng((seed, number)))
        found = answer(trained, save(drawn, folder, "other"))
        told["told" if found is None else "sure" if found[1] > SURE else "unsure"] += 1
    return told


if __name__ == "__main__":
    main()
