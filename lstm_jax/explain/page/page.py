"""The page as one file that needs nothing else: no network, no library, no other file.

Scripts share one scope, in the order of `SCRIPTS`; each may use what those before it define.
"""

import base64
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float32, Int32

from lstm_jax.config import IMAGE_SHAPE, SEQUENCE_LENGTHS, Config
from lstm_jax.data.dataset import Split
from lstm_jax.errors import ConfigError
from lstm_jax.evaluation import BATCH_SIZE
from lstm_jax.exchange.layouts import architecture_of, join_gates
from lstm_jax.model import HEAD, Params
from lstm_jax.runs.trained import Trained

SCRIPTS = (
    "words", "network", "ink", "canvas", "drawing", "link", "pictures", "formula", "view", "visitor",
)  # fmt: skip
# What a page shows: 28 steps. In 784 of one pixel there is nothing to see.
TASKS = tuple(task for task, steps in SEQUENCE_LENGTHS.items() if steps == IMAGE_SHAPE[0])


def page(trained: Trained, test: Split, *, name: str) -> str:
    """Make the page of a trained model.

    Args:
        trained: the model.
        test: the images to score it on, and to choose 20 examples from.
        name: what the page calls the run.

    Raises:
        ConfigError: if the model does not read digits in 28 steps.
    """
    check_run(trained.config)
    return filled(content(trained, test, name=name))


def check_run(config: Config) -> None:
    """Refuse a run of which no page can be made.

    Raises:
        ConfigError: if it does not read digits in 28 steps.
    """
    task, dataset = config.model.task, config.data.dataset
    if task not in TASKS:
        raise ConfigError(
            f"got a run with --task {task}, expected {' or '.join(TASKS)}: the page shows "
            f"{IMAGE_SHAPE[0]} steps, not {SEQUENCE_LENGTHS[task]}"
        )
    if dataset != "mnist":
        raise ConfigError(f"got a run with --dataset {dataset}, expected mnist: on the page one draws digits")


def content(trained: Trained, test: Split, *, name: str) -> dict[str, Any]:
    """Return all that differs from page to page, as plain JSON values."""
    _, probabilities, labels = trained.predictions(test)
    images = np.concatenate([batch.image for batch in test.batches(BATCH_SIZE)])
    right = probabilities.argmax(axis=1) == labels
    weights = packed(trained.params)
    return {
        "name": name,
        "accuracy": float(np.mean(right)),
        "testImages": len(labels),
        "parameters": int(weights.size),
        "network": {
            "task": trained.model.task,
            "steps": IMAGE_SHAPE[0],
            "inputs": IMAGE_SHAPE[1],
            "hidden": trained.model.hidden_size,
            "layers": trained.model.num_layers,
            "bidirectional": trained.model.bidirectional,
            "classes": trained.model.num_classes,
        },
        "examples": [
            {
                "index": int(index),
                "label": int(labels[index]),
                "hard": bool(hard),
                "image": _base64(images[index]),
            }
            for hard, chosen in enumerate(chosen_examples(labels, probabilities, right))
            for index in chosen
        ],
        "weights": _base64(weights),
    }


def filled(content: Mapping[str, Any]) -> str:
    """Return the page with this content."""
    scripts = "\n".join(f"<script>\n{_read(f'{name}.js')}</script>" for name in SCRIPTS)
    # HTML looks for its own marks within a script element, too.
    data = json.dumps(content).replace("<", "\\u003c")
    # The data come last: what they hold is not looked through.
    parts = {"{{style}}": _read("page.css"), "{{scripts}}": scripts, "{{data}}": data}
    html = _read("page.html")
    for place, part in parts.items():
        html = html.replace(place, part)
    return html


def packed(params: Params) -> Float32[np.ndarray, " weights"]:
    """Return all weights in the order in which network.js takes them.

    For each layer and direction W_x [inputs, 4 hidden], W_h [hidden, 4 hidden] and b [4 hidden], with the
    gates side by side; at last the dense layer's kernel [features, classes] and bias [classes].
    """
    params = jax.tree.map(np.asarray, params)
    arrays: list[np.ndarray] = []
    for layer, direction, _ in architecture_of(params).cells():
        arrays += join_gates(params[f"lstm_{layer}_{direction}"]["cell"])
    arrays += [np.asarray(params[HEAD][kind]) for kind in ("kernel", "bias")]
    return np.concatenate([array.ravel() for array in arrays], dtype=np.float32)


def chosen_examples(
    labels: Int32[np.ndarray, " examples"],
    probabilities: Float32[np.ndarray, "examples classes"],
    right: Bool[np.ndarray, " examples"],
) -> tuple[list[int], list[int]]:
    """Choose two images of each digit that is there: the first that is read right, and the hardest.

    The hardest is the one whose own digit has the least probability; most likely it is read wrong.
    """
    digits = np.unique(labels)
    of_label = probabilities[np.arange(len(labels)), labels]
    usual = [int(np.argmax(right & (labels == digit))) for digit in digits if np.any(right[labels == digit])]
    hard = [int(np.argmin(np.where(labels == digit, of_label, np.inf))) for digit in digits]
    return usual, hard


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode()


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text("utf-8")
