"""lstm_jax: an LSTM in JAX and Flax that reads MNIST row by row.

The public names are imported when they are first used, so that the command line can read its options
and answer ``--help`` without waiting for JAX. The layers, the function that they call and the classifier need
the packages of requirements-layer.txt, the others those of requirements-train.txt too.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lstm_jax.config import Config
    from lstm_jax.data.dataset import load_dataset
    from lstm_jax.functional import lstm
    from lstm_jax.linen import LSTM
    from lstm_jax.model import LSTMClassifier
    from lstm_jax.predictor import Predictor
    from lstm_jax.runs.loop import train

__version__ = "0.1.0"  # packaging reads it here, too
__all__ = ["LSTM", "Config", "LSTMClassifier", "Predictor", "__version__", "load_dataset", "lstm", "train"]

_HOME = {
    "LSTM": "lstm_jax.linen",
    "lstm": "lstm_jax.functional",
    "Config": "lstm_jax.config",
    "LSTMClassifier": "lstm_jax.model",
    "Predictor": "lstm_jax.predictor",
    "load_dataset": "lstm_jax.data.dataset",
    "train": "lstm_jax.runs.loop",
}

# These need what every installation has.
_OF_THE_LAYER = ("LSTM", "LSTMClassifier", "Predictor", "lstm")

if "jax" in sys.modules:  # else the command line, or a program that has no use for the kernel yet
    from lstm_jax.kernels.build import load_if_built

    load_if_built()


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        home = importlib.import_module(_HOME[name])
    except ModuleNotFoundError as error:
        if name in _OF_THE_LAYER:
            raise
        from lstm_jax.system.packages import what_is_missing

        raise ImportError(f"lstm_jax.{name}: {what_is_missing(error, 'train')}") from error
    return getattr(home, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
