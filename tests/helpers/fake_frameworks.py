"""Frameworks for tests of the comparison: of known speed, wrong, slow to answer, or broken.

They are adapters as `lstm_jax.compare.adapter` describes them, named in `FRAMEWORKS` below. Time in their
processes is not that of the world: the clock stands still but for what the fake says it takes, so that what
is measured can be compared to the last digit.
"""

import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from lstm_jax.benchmark.size import Size

from lstm_jax.compare import judge
from lstm_jax.compare.adapter import Decay, Gradient
from lstm_jax.compare.frameworks import Framework
from lstm_jax.system.cores import usable_cores

# What a step of training and of inference takes, and of the first of all the compilation besides.
STEP_SECONDS, INFER_SECONDS, COMPILE_SECONDS = 4.0, 1.0, 64.0


# By what share a step takes longer for each thread too many or too few.
TOO_MANY = 0.5


class Clock:
    """Seconds that pass only when they are said to."""

    def __init__(self) -> None:
        self.now = 0.0

    def install(self) -> None:
        """Make it the clock of this process."""
        time.perf_counter = lambda: self.now


CLOCK = Clock()
COMPILED: set[str] = set()


class Right:
    """Computes what the judge does, and takes `STEP_SECONDS` for each step."""

    step_seconds = STEP_SECONDS
    # Training takes longer with another number, inference with every thread more.
    best_threads = min(2, len(usable_cores()))

    def __init__(self, size: Size, params: Any, *, learning_rate: float) -> None:
        CLOCK.install()
        self._weights = judge.weights_of(params)
        self._optimizer = judge.start_adam(self._weights)
        self._learning_rate = learning_rate
        self._threads = self.best_threads

    def load(self, images: Any, labels: Any) -> Any:
        return images, labels

    def train(self, batches: Any) -> float:
        losses = []
        # As in PyTorch, a program is there for all models of a process: only the very first step is a first.
        if "train" not in COMPILED:
            CLOCK.now += COMPILE_SECONDS
            COMPILED.add("train")
        for images, labels in zip(*batches, strict=True):
            CLOCK.now += self.step_seconds * (1 + TOO_MANY * abs(self._threads - self.best_threads))
            _, loss, gradient = judge.loss_and_gradient(self._weights, images, labels)
            self._weights, self._optimizer = judge.adam_step(
                self._weights, gradient, self._optimizer, learning_rate=self._learning_rate
            )
            losses.append(loss)
        return float(np.mean(losses))

    def infer(self, batches: Any) -> Any:
        CLOCK.now += INFER_SECONDS * len(batches[0]) * self._threads
        return np.stack([judge.logits(self.params(), images) for images in batches[0]])

    def gradient(self, images: Any, labels: Any) -> Gradient:
        return judge.gradient(self.params(), images, labels)

    def params(self) -> Any:
        return judge.params_of(self._weights)

    def set_threads(self, count: int) -> bool:
        self._threads = count
        return True


class Decays(Right):
    """Can let its learning rate decay, and clip gradients."""

    def __init__(self, size: Size, params: Any, *, learning_rate: float, decay: Decay) -> None:
        super().__init__(size, params, learning_rate=learning_rate)
        self._decay, self._batches, self._start = decay, [], params

    def train(self, batches: Any) -> float:
        CLOCK.now += self.step_seconds * len(batches[0])
        self._batches.append(batches)
        images, labels = (np.concatenate(arrays) for arrays in zip(*self._batches, strict=True))
        losses, params = judge.train(
            self._start, images, labels, learning_rate=self._learning_rate, decay=self._decay
        )
        self._weights = judge.weights_of(params)
        return float(np.mean(losses[-len(batches[0]) :]))


class Slow(Right):
    """Three times as slow."""

    step_seconds = 3 * STEP_SECONDS


class SwappedGates(Right):
    """Takes the weights of the input gate for those of the forget gate: shapes fit, numbers do not."""

    def __init__(self, size: Size, params: Any, *, learning_rate: float) -> None:
        cell = params["lstm_0_forward"]["cell"]
        swapped = {**cell, "ii": cell["if"], "if": cell["ii"], "hi": cell["hf"], "hf": cell["hi"]}
        params = {**params, "lstm_0_forward": {"cell": swapped}}
        super().__init__(size, params, learning_rate=learning_rate)


class ForgetfulChunk(Right):
    """Right step by step, but of many steps in one call it takes the first alone: fast, and wrong."""

    def train(self, batches: Any) -> float:
        return super().train(tuple(array[:1] for array in batches))


class WrongOptimizer(Right):
    """Right in the first step, but with twice the learning rate."""

    def __init__(self, size: Size, params: Any, *, learning_rate: float) -> None:
        super().__init__(size, params, learning_rate=2 * learning_rate)


class NotANumber(Right):
    """Computes NaN."""

    def gradient(self, images: Any, labels: Any) -> Gradient:
        right = super().gradient(images, labels)
        return right._replace(loss=float("nan"))


class WrongInference(Right):
    """Right in all but the logits that it gives when nobody asks for a gradient."""

    def infer(self, batches: Any) -> Any:
        return 1.01 * super().infer(batches)


class Raises(Right):
    """Cannot train."""

    def train(self, batches: Any) -> float:
        raise RuntimeError("no kernel\nfor this")


class Dies(Right):
    """Ends its process in the middle."""

    def train(self, batches: Any) -> float:
        print("the last words", flush=True)
        os._exit(3)


class Hangs(Right):
    """Does not come back."""

    def train(self, batches: Any) -> float:
        time.sleep(600)
        raise AssertionError("this process should have been ended")


class DiesLater(Right):
    """Ends its process when it is timed."""

    def infer(self, batches: Any) -> Any:
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls > 3:
            os._exit(4)
        return super().infer(batches)


class DiesWhenSmall(Right):
    """Ends its process when it trains with 2 hidden units."""

    def __init__(self, size: Size, params: Any, *, learning_rate: float) -> None:
        super().__init__(size, params, learning_rate=learning_rate)
        self._is_small = size.hidden == 2

    def train(self, batches: Any) -> float:
        if self._is_small:
            os._exit(5)
        return super().train(batches)


class Large(Right):
    """Has 100 MB, once, while it is made."""

    def __init__(self, size: Size, params: Any, *, learning_rate: float) -> None:
        super().__init__(size, params, learning_rate=learning_rate)
        np.ones(100_000_000, np.uint8).sum()


class Noisy(Right):
    """Prints, as frameworks do, to where the answers go."""

    def train(self, batches: Any) -> float:
        print("a warning of the framework")
        os.write(1, b"and one of its C++ part\n")
        return super().train(batches)


class InferenceOnly(Right):
    """Has no training."""

    def train(self, batches: Any) -> float:
        raise AssertionError("it does not train")

    gradient = train  # type: ignore[assignment]  # it takes other arguments, and is never to be called


def _named(kind: type, **options: Any) -> Framework:
    return Framework(f"fake: {kind.__doc__}", f"tests.helpers.fake_frameworks:{kind.__name__}", **options)


FRAMEWORKS: Mapping[str, Framework] = {
    "right": _named(Right),
    "decays": _named(Decays),
    "slow": _named(Slow),
    "swapped": _named(SwappedGates),
    "forgetful": _named(ForgetfulChunk),
    "optimizer": _named(WrongOptimizer),
    "nan": _named(NotANumber),
    "inference-off": _named(WrongInference),
    "raises": _named(Raises),
    "dies": _named(Dies),
    "hangs": _named(Hangs),
    "dies-later": _named(DiesLater),
    "dies-when-small": _named(DiesWhenSmall),
    "large": _named(Large),
    "noisy": _named(Noisy),
    "inference": _named(InferenceOnly, trains=False),
    "missing": Framework("not installed", "nowhere:Nothing", {"no_such_package": "no-such-pip-name"}),
}
