"""The candidate in PyTorch: ``torch.nn.LSTM`` on the CPU, with as many threads as suit it best.

PyTorch's way to take many steps is a loop in Python; so its train step is a dispatched one already.
PyTorch may be missing, so nothing here is imported before it is asked for.
"""

import importlib
import importlib.util
import time
from typing import Any

import numpy as np

from lstm_jax.benchmark.timing import Clock, Run, steps_for
from lstm_jax.benchmark.work import (
    LEARNING_RATE,
    NUM_BATCHES,
    NUM_CLASSES,
    TINY_SIZE,
    Answer,
    CannotRunError,
    Params,
    Prepared,
    Task,
    make_task,
)
from lstm_jax.exchange.layouts import from_pytorch, to_pytorch
from lstm_jax.system.cores import fastest, thread_counts, usable_cores


class Model:
    """An LSTM and a dense layer in PyTorch, with the parameters and batches of a task."""

    def __init__(self, task: Task) -> None:
        torch = _import()
        self._lstm = torch.nn.LSTM(task.size.inputs, task.size.hidden, batch_first=True)
        self._head = torch.nn.Linear(task.size.hidden, NUM_CLASSES)
        self._model = torch.nn.ModuleDict({"lstm": self._lstm, "head": self._head})
        state = to_pytorch(as_classifier(task.params))
        self._model.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
        self._parameters = list(self._model.parameters())
        self._optimizer = torch.optim.Adam(self._parameters, lr=LEARNING_RATE, fused=True)
        self._inputs = torch.from_numpy(task.inputs)
        self._labels = torch.from_numpy(task.labels).long()
        self._cross_entropy = torch.nn.functional.cross_entropy
        self._inference_mode = torch.inference_mode

    def forward(self, steps: int) -> float:
        """Take steps of inference; returns the largest logit of the last."""
        logits = None
        with self._inference_mode():
            for index in range(steps):
                logits = self._logits(index)
        return float("nan") if logits is None else float(logits.max())

    def gradient(self, steps: int) -> float:
        """Compute gradients; returns the last loss."""
        loss = None
        for index in range(steps):
            for parameter in self._parameters:
                parameter.grad = None
            loss = self._cross_entropy(self._logits(index), self._labels[index % NUM_BATCHES])
            loss.backward()
        return float("nan") if loss is None else float(loss.detach())

    def train(self, steps: int) -> None:
        """Take train steps."""
        for index in range(steps):
            self._optimizer.zero_grad()
            loss = self._cross_entropy(self._logits(index), self._labels[index % NUM_BATCHES])
            loss.backward()
            self._optimizer.step()

    def answer(self) -> Answer:
        """What the first step computes."""
        largest, loss = self.forward(1), self.gradient(1)
        gradients = {name: parameter.grad.numpy() for name, parameter in self._model.named_parameters()}
        # That of either bias is the gradient of their sum, and reading adds them up.
        gradients["lstm.bias_ih_l0"] = np.zeros_like(gradients["lstm.bias_ih_l0"])
        return Answer(largest, loss, from_classifier(from_pytorch(gradients)))

    def _logits(self, index: int) -> Any:
        _, (h, _) = self._lstm(self._inputs[index % NUM_BATCHES])
        return self._head(h[-1])


def prepare(task: Task, *, devices: int, seconds: float, clock: Clock = time.perf_counter) -> Prepared:
    """Build the candidate, take its first steps, and choose its number of threads.

    Args:
        task: what to compute.
        devices: the devices of the other candidates.
        seconds: the length of a trial for each number of threads.
        clock: seconds since any moment.

    Raises:
        CannotRunError: if PyTorch is not installed, or the others share the batch among devices.
    """
    if importlib.util.find_spec("torch") is None:
        raise CannotRunError("it is not installed (pip install -r requirements-compare.txt)")
    if devices > 1:
        raise CannotRunError("it is compared on one device only")
    torch = _import()
    Model(make_task(TINY_SIZE)).train(1)  # what PyTorch does once in a process is nobody's first step
    start = clock()
    model = Model(task)
    model.train(1)
    first_step_seconds = clock() - start
    answer = Model(task).answer()
    steps = steps_for(model.train, seconds=seconds / 3, clock=clock)

    def train(count: int) -> None:
        torch.set_num_threads(count)
        model.train(steps)

    threads = fastest(train, thread_counts(len(usable_cores())), clock=clock)

    def with_threads(run: Run) -> Run:
        def with_its_threads(steps: int) -> None:
            torch.set_num_threads(threads)
            run(steps)

        return with_its_threads

    runs = {"forward": model.forward, "gradient": model.gradient, "train step": model.train}
    timed = {measure: with_threads(run) for measure, run in runs.items()}
    return Prepared("pytorch", first_step_seconds, None, threads, answer, timed)


def as_classifier(params: Params) -> Params:
    """The parameters of a task as `lstm_jax.exchange.layouts` and `LSTMClassifier` name them."""
    return {"lstm_0_forward": {"cell": params["cell"]}, "head": params["head"]}


def from_classifier(params: Params) -> Params:
    """The inverse of `as_classifier`."""
    return {"cell": params["lstm_0_forward"]["cell"], "head": params["head"]}


def _import() -> Any:
    return importlib.import_module("torch")
