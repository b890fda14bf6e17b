"""The adapters of Keras, PyTorch and ONNX Runtime: each computes what the judge does, and compiles once."""

import math
import os
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

from lstm_jax.compare import judge
from lstm_jax.compare.frameworks import FRAMEWORKS
from tests.helpers import programs
from tests.helpers.adapter_checks import (
    AFTER_TRAINING,
    DECAY,
    IMAGES,
    LABELS,
    LEARNING_RATE,
    PARAMS,
    SIZE,
    TOLERANCE,
    assert_close,
    check_gradient,
    check_inference,
    check_training,
    judge_train,
    keras_train,
)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["keras-jax", "keras-tensorflow"])
def test_keras(name: str) -> None:
    framework = FRAMEWORKS[name]
    if (missing := framework.why_not(time=SIZE.time)) is not None:
        pytest.skip(missing)
    # In a process that the frameworks of this one are not in.
    environment = {**os.environ, **framework.environment}
    done = programs.run_afresh("-m", "tests.helpers.adapter_checks", "Keras", env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "as the judge says"


def test_keras_adam_is_a_little_different() -> None:
    # Else there would be no need for a judge of its own; and the little is nothing in the losses.
    (losses, params), (keras_losses, keras_params) = (
        train(IMAGES, LABELS) for train in (judge_train, keras_train)
    )
    np.testing.assert_allclose(keras_losses, losses, **TOLERANCE)
    head, keras_head = (tree["lstm_0_forward"]["cell"]["ii"]["kernel"] for tree in (params, keras_params))
    assert 0 < np.max(np.abs(head - keras_head)) < LEARNING_RATE


@pytest.mark.parametrize("train", [judge_train, keras_train])
@pytest.mark.parametrize(
    "change", [{"warmup": 1}, {"total": 9}, {"clip_norm": 0.9}, {"clip_norm": math.inf}], ids=str
)
def test_another_decay_would_be_seen(train: Any, change: dict[str, float]) -> None:
    order = [0, 1, 2, 3, 0, 1, 2]
    right, wrong = (
        train(IMAGES[order], LABELS[order], decay=decay)[1] for decay in (DECAY, DECAY._replace(**change))
    )
    with pytest.raises(AssertionError):
        assert_close(wrong, right, **AFTER_TRAINING)


@pytest.fixture
def torch() -> Iterator[Any]:
    """PyTorch, with the number of threads that it had."""
    module = pytest.importorskip("torch")
    count = module.get_num_threads()
    yield module
    module.set_num_threads(count)


# PyTorch uses itself what it calls deprecated, when it imports its compiler.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", ["PyTorch", "Compiled"])
def test_pytorch(torch: Any, name: str, request: pytest.FixtureRequest) -> None:
    if name == "Compiled" and not request.config.getoption("--all"):
        pytest.skip("torch.compile takes a minute; --all runs it")
    from lstm_jax.compare.adapters import pytorch_lstm

    def build(**options: Any) -> Any:
        return getattr(pytorch_lstm, name)(SIZE, PARAMS, learning_rate=LEARNING_RATE, **options)

    def no_compilation() -> Any:
        return torch.compiler.set_stance("fail_on_recompile")

    check_gradient(build())
    check_inference(build(), again=no_compilation)
    check_training(build(), again=no_compilation)
    check_training(build(decay=DECAY), right=partial(judge_train, decay=DECAY))
    with no_compilation():
        check_training(build())  # another model of the same size has its program already
    if name == "Compiled":  # which would be seen otherwise
        adapter = build()
        with pytest.raises(RuntimeError, match="recompile"), no_compilation():
            adapter.infer(adapter.load(IMAGES[:, :, 1:], LABELS))


def test_pytorch_takes_a_number_of_threads(torch: Any) -> None:
    from lstm_jax.compare.adapters import pytorch_lstm

    adapter = pytorch_lstm.PyTorch(SIZE, PARAMS, learning_rate=LEARNING_RATE)
    for count in (1, 2):
        assert adapter.set_threads(count)
        assert torch.get_num_threads() == count


def test_two_learning_biases_would_be_seen(torch: Any) -> None:
    from lstm_jax.compare.adapters import pytorch_lstm

    class Wrong(pytorch_lstm.Classifier):
        def __init__(self, size: Any) -> None:
            super().__init__(size)
            self.lstm.bias_ih_l0.requires_grad_(True)

    class Adapter(pytorch_lstm.PyTorch):
        classifier = Wrong

    for check in (check_gradient, check_training):
        with pytest.raises(AssertionError, match="Not equal to tolerance"):
            check(Adapter(SIZE, PARAMS, learning_rate=LEARNING_RATE))


def test_onnx_runtime() -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from lstm_jax.compare.adapters.onnx_lstm import OnnxRuntime

    adapter = OnnxRuntime(SIZE, PARAMS, learning_rate=LEARNING_RATE)
    check_inference(adapter)
    for count in (1, 2, 1):
        assert adapter.set_threads(count)
        check_inference(adapter)
    assert not FRAMEWORKS["onnxruntime"].trains


def test_they_import_no_other_framework() -> None:
    for package in ("torch", "onnx", "onnxruntime"):
        if package not in sys.modules:
            pytest.importorskip(package)
    done = programs.run_afresh(
        "-c",
        """
import sys
from lstm_jax.compare.adapters import onnx_lstm
assert not {"torch", "jax", "flax"} & set(sys.modules)
from lstm_jax.compare.adapters import pytorch_lstm
print(sorted({"flax", "keras", "tensorflow", "torch", "jax"} & set(sys.modules)))
""",
        env=os.environ,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["['torch']"]


def test_wrong_training_would_be_seen() -> None:
    # Steps in another order, and a step of another size.
    _, right = judge_train(IMAGES, LABELS)
    for images, labels, learning_rate in (
        (IMAGES[::-1], LABELS[::-1], LEARNING_RATE),
        (IMAGES, LABELS, 0.98 * LEARNING_RATE),
    ):
        _, wrong = judge.train(PARAMS, images, labels, learning_rate=learning_rate)
        with pytest.raises(AssertionError, match="Not equal to tolerance"):
            np.testing.assert_allclose(wrong["head"]["kernel"], right["head"]["kernel"], **AFTER_TRAINING)
