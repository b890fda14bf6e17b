"""Named sets of options. An option that a recipe does not name has its default, the tutorial's."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple


class Recipe(NamedTuple):
    """A named set of options.

    Attributes:
        purpose: what it is for, as ``--help`` says it.
        options: where it differs from the defaults.
    """

    purpose: str
    options: Mapping[str, Any]


# A short warm-up and a linear decay to nothing, and gradients kept to a norm of 1.
_DECAYED = {"schedule": "linear", "warmup": 0.05, "clip_norm": 1.0}
# Weight decay, because Muon's kernels grow as long as the learning rate is high: docs/notes.md has runs
# without it, and with Adam.
_MUON = {"optimizer": "muon", "weight_decay": 0.1}
# Random changes after which a digit is still that digit.
_AUGMENTED = {
    "augment_rotation": 12.0,
    "augment_shift": 2.0,
    "augment_scale": 0.12,
    "augment_shear": 0.15,
    "augment_elastic": 0.8,
}
# Sequences of 784 steps. Half the batch gives twice the steps in about the same time. The changes of the
# images are smaller, without bends, because there is more to learn. docs/notes.md has what was tried.
_LONG = {
    "hidden_size": 128,
    "batch_size": 64,
    "epochs": 40,
    "learning_rate": 0.008,
    "augment_rotation": 8.0,
    "augment_shift": 1.0,
    "augment_scale": 0.1,
    "augment_shear": 0.1,
    **_DECAYED,
}

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        # LSTM-64, the last output, Adam at a constant 0.01, batches of 128, 10 epochs of the first
        # 55,000 training images: the script this project began as.
        "tutorial": Recipe("the original tutorial", {}),
        "fast": Recipe(
            "98 % on the test images as soon as possible",
            {"steps": 2500, "batch_size": 32, **_DECAYED},
        ),
        "accurate": Recipe(
            "the best test accuracy found of an LSTM-64",
            {
                "epochs": 200,
                "batch_size": 256,
                **_MUON,
                "train_on_all": True,
                **_DECAYED,
                **_AUGMENTED,
            },
        ),
        "accurate-bidirectional": Recipe(
            "two bidirectional layers: the best test accuracy found",
            {
                "bidirectional": True,
                "num_layers": 2,
                "dropout_rate": 0.1,
                "output_dropout_rate": 0.1,
                "epochs": 100,
                "batch_size": 256,
                **_MUON,
                "train_on_all": True,
                **_DECAYED,
                **_AUGMENTED,
            },
        ),
        "pixels": Recipe(
            "one pixel a step, 784 steps",
            # Gates that forget slowly: with a bias of 1 it learnt nothing.
            {"task": "pixels", "forget_bias": "chrono", **_LONG},
        ),
        "permuted": Recipe(
            "one pixel a step, in a fixed random order",
            # Here a bias of 1 learnt faster than chrono, and Muon faster than Adam.
            {"task": "permuted", **_LONG, "optimizer": "muon", "epochs": 75, "train_on_all": True},
        ),
    }
)


def purposes() -> str:
    """Return all recipes on one line, for ``--help``."""
    return "; ".join(f"{name}: {recipe.purpose}" for name, recipe in RECIPES.items())
