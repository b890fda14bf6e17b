"""Short runs, who listens to them, and what is asked of them."""

import os
import signal
from typing import Any

import numpy as np

from lstm_jax import train
from lstm_jax.config import Config
from lstm_jax.runs import loop
from lstm_jax.runs.console import Console
from lstm_jax.system.signals import StopSignals


class Listener(Console):
    """Remembers what it hears, and sends this process a signal after so many advances."""

    def __init__(self, signal_after: int | None = None, number: signal.Signals = signal.SIGTERM) -> None:
        self.messages: list[str] = []
        self.records: list[dict[str, Any]] = []
        self.steps = 0
        self.advances = 0
        self._signal_after, self._number = signal_after, number

    def message(self, text: str) -> None:
        self.messages.append(text)

    def advanced(self, steps: int) -> None:
        self.steps += steps
        self.advances += 1
        if self.advances == self._signal_after:
            os.kill(os.getpid(), self._number)

    def epoch_finished(self, epochs: int, record: Any) -> None:
        self.records.append(dict(record))


def train_until_told(config: Config, console: Console) -> loop.TrainResult:
    """`train` as the command line calls it: a signal ends in its result, not in an exception."""
    with StopSignals() as stop:
        return train(config, console=console, stop=stop)


# Every step has its own learning rate, random images and dropout, and moves an average.
_ALL_BUT_OPTIMIZER = {
    "schedule": "cosine",
    "warmup": 0.2,
    "clip_norm": 1.0,
    "ema_decay": 0.8,
    "label_smoothing": 0.1,
    "output_dropout_rate": 0.3,
    "recurrent_dropout_rate": 0.3,
    "recurrent_weight_dropout_rate": 0.3,
    "augment_shift": 2.0,
}


# By optimizer.
EVERY_OPTION: dict[str, dict[str, Any]] = {
    "adamw": {**_ALL_BUT_OPTIMIZER, "optimizer": "adamw", "weight_decay": 0.1},
    "muon": {**_ALL_BUT_OPTIMIZER, "optimizer": "muon", "weight_decay": 0.1},
}


def by_numpy(values: np.ndarray, t: float) -> np.ndarray:
    """The interval, by the derivative of the log-odds taken numerically."""
    centre = np.mean(values)

    def log_odds(p: Any) -> Any:
        return np.log(p) - np.log1p(-p)

    slope = (log_odds(centre + 1e-6) - log_odds(centre - 1e-6)) / 2e-6
    half = t * np.std(values, ddof=1) / np.sqrt(len(values)) * slope
    return 1 / (1 + np.exp(-(log_odds(centre) + half * np.array([-1, 1]))))
