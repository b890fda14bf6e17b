"""Frameworks for tests of the harness: of known speed, wrong, or broken; here, or in a process of their own.

They are adapters as `lstm_jax.compare.adapter` describes them, named in `FRAMEWORKS`. `LocalProcess` has the
worker in this process, where `CLOCK` stands still but for what a fake says it takes, so that what is
measured can be compared to the last digit.
"""

import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from lstm_jax.compare import judge
from lstm_jax.compare.adapter import Decay
from lstm_jax.compare.frameworks import Framework
from lstm_jax.compare.processes import FrameworkError, Process
from lstm_jax.compare.size import Size
from lstm_jax.compare.work import Digits
from lstm_jax.compare.worker import Worker

SIZE = Size(hidden=3, batch=4, time=5, inputs=28)
# What a step of training, of gradients and of inference takes, and what the first step takes besides.
STEP_SECONDS, GRADIENT_SECONDS, INFER_SECONDS, COMPILE_SECONDS = 4.0, 2.0, 1.0, 64.0
# By what share a step takes longer for each thread too many or too few.
TOO_MANY = 0.5


def few_digits() -> Digits:
    """Not digits, but as many classes, and every row differs."""
    rng = np.random.default_rng(0)
    return Digits(rng.integers(0, 256, (60, 28, 28), np.uint8), rng.integers(0, 10, 60, np.int32))


class Clock:
    """Seconds that pass only when they are said to."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 1e-9  # else a loop until some time would have no end
        return round(self.now, 6)


CLOCK = Clock()


class Infers:
    """Infers as the judge does, and takes `INFER_SECONDS` for each batch and thread."""

    def __init__(self, size: Size, params: Any, *, learning_rate: float, decay: Decay | None = None) -> None:
        self.weights = judge.weights_of(params)
        self.optimizer = judge.AdamState.start(self.weights)
        self.learning_rate, self.decay = learning_rate, decay
        self.threads = 2

    def load(self, images: Any, labels: Any) -> Any:
        return images, labels

    def infer(self, batches: Any) -> Any:
        CLOCK.now += INFER_SECONDS * self.threads * len(batches[0])
        return np.stack([judge.logits_and_states(self.weights, images)[0] for images in batches[0]])

    def set_threads(self, count: int) -> bool:
        self.threads = count
        return True


class Right(Infers):
    """Computes what the judge does, and takes `STEP_SECONDS` for each step with two threads."""

    step_seconds = STEP_SECONDS
    is_compiled = False

    def train(self, batches: Any) -> float:
        if not Right.is_compiled:
            CLOCK.now += COMPILE_SECONDS
            Right.is_compiled = True
        CLOCK.now += self.step_seconds * (1 + TOO_MANY * abs(self.threads - 2)) * len(batches[0])
        losses = []
        for images, labels in zip(*batches, strict=True):
            _, loss, gradient = judge.loss_and_gradient(self.weights, images, labels)
            rate = self.learning_rate
            if self.decay is not None:
                gradient = judge.clipped(gradient, self.decay.clip_norm)
                rate *= self.decay.share(self.optimizer.step)
            self.weights, self.optimizer = judge.adam_step(
                self.weights, gradient, self.optimizer, learning_rate=rate
            )
            losses.append(loss)
        return float(np.mean(losses))

    def gradients(self, batches: Any) -> tuple[float, Any]:
        CLOCK.now += GRADIENT_SECONDS * len(batches[0])
        _, loss, gradient = judge.loss_and_gradient(self.weights, batches[0][0], batches[1][0])
        return loss, judge.params_of(gradient)

    def exchanged(self, gradients: Any) -> Any:
        return gradients


class Slow(Right):
    """Three times as slow."""

    step_seconds = 3 * STEP_SECONDS


class SwappedGates(Right):
    """Takes the weights of the input gate for those of the forget gate: shapes fit, numbers do not."""

    def __init__(self, size: Size, params: Any, **options: Any) -> None:
        cell = params["lstm_0_forward"]["cell"]
        swapped = {**cell, "ii": cell["if"], "if": cell["ii"], "hi": cell["hf"], "hf": cell["hi"]}
        super().__init__(size, {**params, "lstm_0_forward": {"cell": swapped}}, **options)


class ForgetfulCall(Right):
    """Right step by step, but of many steps in one call it takes the first alone: fast, and wrong."""

    def train(self, batches: Any) -> float:
        return super().train(tuple(array[:1] for array in batches))


class WrongOptimizer(Right):
    """Right in the first step, but with twice the learning rate."""

    def __init__(self, size: Size, params: Any, *, learning_rate: float, decay: Decay | None = None) -> None:
        super().__init__(size, params, learning_rate=2 * learning_rate, decay=decay)


class NotANumber(Right):
    """Has a loss of NaN."""

    def gradients(self, batches: Any) -> tuple[float, Any]:
        return float("nan"), super().gradients(batches)[1]


class WrongInference(Right):
    """Right in all but the logits that it gives when nobody asks for a gradient."""

    def infer(self, batches: Any) -> Any:
        return 1.01 * super().infer(batches)


class Raises(Right):
    """Cannot train."""

    def train(self, batches: Any) -> float:
        raise RuntimeError("no kernel\nfor this")


class RaisesLater(Right):
    """Fails when it is timed: an example alone was inferred 82 times to get ready."""

    singles = 0

    def infer(self, batches: Any) -> Any:
        self.singles += len(batches[0][0]) == 1
        if self.singles > 84:
            raise RuntimeError("tired")
        return super().infer(batches)


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


class Large(Right):
    """Has 100 MB, once, while it is made; prints, as frameworks do, and computes as the judge does."""

    def __init__(self, size: Size, params: Any, **options: Any) -> None:
        super().__init__(size, params, **options)
        np.ones(100_000_000, np.uint8).sum()
        print("a warning of the framework")
        os.write(1, b"and one of its C++ part\n")


def _named(kind: type, **options: Any) -> Framework:
    adapter = f"tests.helpers.fake_frameworks:{kind.__name__}"
    return Framework(f"fake: {kind.__doc__}", adapter, ("", ""), **options)


FRAMEWORKS: Mapping[str, Framework] = {
    "right": _named(Right),
    "slow": _named(Slow),
    "swapped": _named(SwappedGates),
    "forgetful": _named(ForgetfulCall),
    "optimizer": _named(WrongOptimizer),
    "nan": _named(NotANumber),
    "inference-off": _named(WrongInference),
    "raises": _named(Raises),
    "raises-later": _named(RaisesLater),
    "dies": _named(Dies),
    "hangs": _named(Hangs),
    "large": _named(Large),
    "inference": _named(Infers, trains=False),
    "missing": Framework(
        "not installed", "nowhere:Nothing", ("", ""), {"no_such_package": "no-such-pip-name"}
    ),
}


class LocalProcess(Process):
    """A worker in this process."""

    def __init__(self, framework: Framework) -> None:
        self._worker = Worker(framework.adapter)
        self.started = time.time()
        self.is_open = True

    def call(self, method: str, *arguments: Any, seconds: float = 0.0) -> Any:
        assert self.is_open
        try:
            return getattr(self._worker, method)(*arguments)
        except Exception as error:
            raise FrameworkError(" ".join(f"{type(error).__name__}: {error}".split())) from error

    def close(self, *, at_once: bool = False) -> None:
        self.is_open = False
