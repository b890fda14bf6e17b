"""Weights in other layouts: there and back, and computed by the frameworks they are for."""

import functools
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.errors import ExchangeError
from lstm_jax.exchange import keras_files, layouts
from lstm_jax.exchange.formats import read_file, read_weights
from lstm_jax.exchange.layouts import Architecture, architecture_of
from lstm_jax.exchange.onnx_files import onnx_model
from lstm_jax.kernels import interface
from tests.helpers.weights import assert_same_bits, model_of, random_params

pytestmark = pytest.mark.slow

# Frameworks round a float32 sum in other orders, and their sigmoid and tanh differ in the last digits: after
# seven steps of three layers, that is some units in the seventh digit of logits near 3. Two gates in the
# wrong order, or a bias forgotten, change the first.
EQUAL = {"rtol": 1e-5, "atol": 1e-5}

TIME, BATCH = 7, 5
# Odd sizes, no two of them equal, and the smallest there are; one layer and more; one direction and both.
ARCHITECTURES = [
    Architecture(3, 5, 1, False, 4),
    Architecture(3, 5, 1, True, 4),
    Architecture(3, 5, 2, True, 4),
    Architecture(3, 5, 3, False, 4),
    Architecture(1, 1, 2, True, 2),
]


def label(architecture: Architecture) -> str:
    return "-".join(map(str, architecture))


each_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES, ids=label)


def random_images(architecture: Architecture) -> np.ndarray:
    shape = (BATCH, TIME, architecture.inputs)
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


@functools.cache
def compiled(architecture: Architecture) -> Any:
    return jax.jit(model_of(architecture).apply)


def logits_of(architecture: Architecture, params: Any, images: np.ndarray) -> np.ndarray:
    return np.asarray(compiled(architecture)({"params": params}, jnp.asarray(images, jnp.float32)))


@functools.cache
def expected_logits(architecture: Architecture) -> np.ndarray:
    return logits_of(architecture, random_params(architecture), random_images(architecture))


def test_the_order_of_the_gates_is_that_of_the_layer() -> None:
    assert layouts.GATES == interface.GATES == "ifgo"


@each_architecture
def test_every_layout_comes_back_with_the_same_bits(architecture: Architecture) -> None:
    params = random_params(architecture)
    assert architecture_of(params) == architecture
    assert_same_bits(layouts.from_flat(layouts.to_flat(params)), params)
    assert_same_bits(layouts.from_pytorch(layouts.to_pytorch(params)), params)
    bidirectional = architecture.bidirectional
    assert_same_bits(layouts.from_keras(layouts.to_keras(params), bidirectional=bidirectional), params)
    for arrays in (layouts.to_flat(params), layouts.to_pytorch(params)):
        # Writers of files take the memory as it lies.
        assert all(array.flags.c_contiguous and array.dtype == np.float32 for array in arrays.values())


def pytorch_module(torch: Any, architecture: Architecture) -> Any:
    inputs, hidden_size, num_layers, bidirectional, num_classes = architecture

    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = torch.nn.LSTM(
                inputs, hidden_size, num_layers, bidirectional=bidirectional, batch_first=True
            )
            self.head = torch.nn.Linear(hidden_size * (1 + bidirectional), num_classes)

        def forward(self, images: Any) -> Any:
            _, (h, _) = self.lstm(images)
            return self.head(torch.cat((h[-2], h[-1]), dim=-1) if bidirectional else h[-1])

    return Classifier()


@each_architecture
def test_pytorch_computes_the_same(architecture: Architecture) -> None:
    torch = pytest.importorskip("torch")
    module = pytorch_module(torch, architecture)
    state = layouts.to_pytorch(random_params(architecture))
    module.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    with torch.no_grad():
        logits = module(torch.from_numpy(random_images(architecture))).numpy()
    np.testing.assert_allclose(logits, expected_logits(architecture), **EQUAL)


@each_architecture
def test_a_module_of_pytorch_is_computed_the_same_here(architecture: Architecture) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module = pytorch_module(torch, architecture)  # with two random biases, as it was made
    images = random_images(architecture)
    with torch.no_grad():
        expected = module(torch.from_numpy(images)).numpy()
    state = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    renamed = {
        name.replace("lstm.", "_orig_mod.rnn.").replace("head.", "_orig_mod.fc."): array
        for name, array in state.items()
    }
    for arrays in (state, renamed):
        params = layouts.from_pytorch(arrays)
        logits = logits_of(architecture, params, images)
        np.testing.assert_allclose(logits, expected, **EQUAL)


@each_architecture
def test_onnx_runtime_computes_the_same(architecture: Architecture) -> None:
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    model = onnx_model(random_params(architecture), metadata={"step": "3"})
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map == {"step": "3"}
    images = random_images(architecture)
    (logits,) = session.run(None, {"images": images})
    np.testing.assert_allclose(logits, expected_logits(architecture), **EQUAL)


def test_a_model_of_onnx_takes_any_batch_and_any_number_of_steps() -> None:
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    architecture = ARCHITECTURES[2]
    params, images = random_params(architecture), random_images(architecture)
    session = onnxruntime.InferenceSession(onnx_model(params).SerializeToString())
    for part in (images[:1], images[:2, :3]):
        (logits,) = session.run(None, {"images": part})
        np.testing.assert_allclose(logits, logits_of(architecture, params, part), **EQUAL)


# In a process of its own, since a process has one backend of Keras: reads our files, computes, and saves the
# models once more in all ways that Keras has.
KERAS_PROGRAM = """
import sys
from pathlib import Path
sys.modules["tensorflow"] = None  # Keras would import it in order to save, which takes many seconds
import keras, numpy as np
folder = Path(sys.argv[1])
for path in sorted(folder.glob("*.keras")):
    model = keras.models.load_model(path)
    np.save(path.with_suffix(".logits.npy"), model(np.load(path.with_suffix(".images.npy"))))
    model.save(path.with_suffix(".again.keras"))
    model.save_weights(path.with_suffix(".again.weights.h5"))
    model.set_weights([weight + 1 for weight in model.get_weights()])
    model.save_weights(path.with_suffix(".plus1.weights.h5"))
# As a user may write it: layers with names, dropout, a softmax, and an optimizer's state in the file.
images = keras.Input((28, 28))
x = keras.layers.LSTM(3, return_sequences=True, name="z")(images)
x = keras.layers.LSTM(3, dropout=0.5, name="a")(keras.layers.Dropout(0.2)(x))
model = keras.Model(images, keras.layers.Softmax()(keras.layers.Dense(10)(x)))
model.compile("adam")
model.optimizer.build(model.trainable_variables)
model.save(folder / "functional.keras")
x = np.random.default_rng(0).random((5, 28, 28), np.float32)
np.savez(folder / "functional.npz", images=x, probabilities=model(x))
model.save(folder / "functional.h5")
# With more layers that do nothing at inference, in both directions, without biases.
layers = keras.layers
lstm = {"use_bias": False, "return_state": True}
x = layers.Reshape((28, 28))(layers.GaussianNoise(0.1)(images))
x = layers.Bidirectional(layers.LSTM(3, return_sequences=True), name="lower")(x)
x = layers.ActivityRegularization(l2=0.1)(x)
x, *_ = layers.Bidirectional(layers.LSTM(3, **lstm), name="a_second")(x)
x = layers.Dense(10, use_bias=False)(layers.Reshape((6,))(layers.Flatten()(layers.GaussianDropout(0.1)(x))))
model = keras.Model(images, x)
model.save(folder / "harmless.keras")
model.save(folder / "harmless.h5")
x = np.random.default_rng(0).random((5, 28, 28), np.float32)
np.savez(folder / "harmless.npz", images=x, logits=model(x))
# Other models with the same weights.
def wrong(name, outputs):
    keras.Model(images, outputs).save(folder / f"wrong_{name}.keras")
_, h, c = layers.LSTM(10, return_state=True)(images)
wrong("cell_state", layers.Dense(10)(c))
wrong("initial_state", layers.Dense(10)(layers.LSTM(10)(images, initial_state=[h, c])))
wrong("mask", layers.Dense(10)(layers.LSTM(10)(images, mask=images[:, :, 0] > 0)))
wrong("masking", layers.Dense(10)(layers.LSTM(10)(layers.Masking()(images))))
wrong("dropout", layers.Dense(10)(layers.Dropout(0.5)(layers.LSTM(10)(images), training=True)))
twice = layers.LSTM(28, return_sequences=True)
wrong("twice", layers.Dense(10)(layers.LSTM(28)(twice(twice(images)))))
wrong("sum", layers.Dense(10)(layers.Add()([layers.LSTM(10)(images), h])))
wrong("two_outputs", [layers.Dense(10)(h), h])
wrong("relu", layers.Dense(10)(layers.Activation("relu")(h)))
"""


# What our files say in these tests.
SAID = {"task": "permuted", "permutation_seed": "bit-reversal", "dataset": "kmnist"}


@pytest.fixture(scope="module")
def keras_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Keras made of the models of all architectures."""
    pytest.importorskip("h5py")
    if importlib.util.find_spec("keras") is None:  # not imported here, where no backend has been chosen
        pytest.skip("could not import 'keras'")
    folder = tmp_path_factory.mktemp("keras")
    for number, architecture in enumerate(ARCHITECTURES):
        path = folder / f"{number}.keras"
        path.write_bytes(keras_files.keras_model(random_params(architecture), SAID))
        np.save(path.with_suffix(".images.npy"), random_images(architecture))
    subprocess.run(
        [sys.executable, "-c", KERAS_PROGRAM, folder],
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        check=True,
        timeout=300,
    )
    return folder


@pytest.mark.parametrize("number", range(len(ARCHITECTURES)), ids=lambda number: label(ARCHITECTURES[number]))
def test_keras_computes_the_same(keras_folder: Path, number: int) -> None:
    logits = np.load(keras_folder / f"{number}.logits.npy")
    np.testing.assert_allclose(logits, expected_logits(ARCHITECTURES[number]), **EQUAL)


@pytest.mark.parametrize("number", range(len(ARCHITECTURES)), ids=lambda number: label(ARCHITECTURES[number]))
def test_files_of_keras_are_read_weights(keras_folder: Path, number: int) -> None:
    params = random_params(ARCHITECTURES[number])
    for suffix in (".keras", ".again.keras", ".again.weights.h5"):
        read = read_file(keras_folder / f"{number}{suffix}")
        assert_same_bits(read.params, params)
        # Keras keeps the name of the input where it describes the model, and nothing of the rest.
        kept = SAID if suffix == ".keras" else {key: SAID[key] for key in ("task", "permutation_seed")}
        assert read.metadata == ({} if "weights" in suffix else {"producer": "lstm_jax", **kept})
        assert bool(read.granted) == ("weights" in suffix)
    # `get_weights` of Keras has the order that `to_keras` has.
    plus_1 = read_weights(keras_folder / f"{number}.plus1.weights.h5")
    assert_same_bits(plus_1, jax.tree.map(lambda leaf: leaf + np.float32(1), params))


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_a_model_as_a_user_of_keras_writes_it_is_read_weights(keras_folder: Path, suffix: str) -> None:
    params = read_weights(keras_folder / f"functional.{suffix}")
    case = np.load(keras_folder / "functional.npz")
    logits = logits_of(Architecture(28, 3, 2, False, 10), params, case["images"])
    np.testing.assert_allclose(jax.nn.softmax(logits), case["probabilities"], **EQUAL)


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_a_model_of_keras_with_harmless_layers_and_no_biases_is_read_weights(
    keras_folder: Path, suffix: str
) -> None:
    read = read_file(keras_folder / f"harmless.{suffix}")
    assert read.granted == ()
    case = np.load(keras_folder / "harmless.npz")
    logits = logits_of(Architecture(28, 3, 2, True, 10), read.params, case["images"])
    np.testing.assert_allclose(logits, case["logits"], **EQUAL)


def test_other_models_of_keras_are_refused(keras_folder: Path) -> None:
    words = {
        "cell_state": "got output 2 of call 0 of the layer",
        "initial_state": "got call with initial_state=",
        "mask": "got call with mask={",
        "masking": "got call with mask={",
        "dropout": "got call with training=True",
        "twice": "got output 0 of call 1 of the layer",
        "sum": "got 2 inputs of the layer 'add'",
        "two_outputs": "got a model of 2 outputs",
        "relu": "got output 1 of call 0 of the layer",
    }
    told = {}
    for path in keras_folder.glob("wrong_*"):
        with pytest.raises(ExchangeError) as raised:
            read_weights(path)
        told[path.stem.removeprefix("wrong_")] = str(raised.value)
    assert sorted(told) == sorted(words)
    assert [name for name in words if words[name] not in told[name]] == []


def test_normalized_inputs_move_into_the_weights() -> None:
    architecture = ARCHITECTURES[2]
    params, images = random_params(architecture), random_images(architecture)
    mean, std = 0.1307, 0.3081
    expected = logits_of(architecture, params, (images - mean) / std)
    folded = layouts.with_normalized_inputs(params, mean=mean, std=std)
    logits = logits_of(architecture, folded, images)
    np.testing.assert_allclose(logits, expected, **EQUAL)
    assert_same_bits(layouts.with_normalized_inputs(params, mean=0.0, std=1.0), params)


A_MODEL = ARCHITECTURES[2]


def changed(**changes: Any) -> dict[str, np.ndarray]:
    """The arrays of a PyTorch module, some of them others, or left out (None)."""
    state = layouts.to_pytorch(random_params(A_MODEL))
    state |= {name.replace("__", "."): array for name, array in changes.items()}
    return {name: array for name, array in state.items() if array is not None}


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({}, "got 0 arrays called weight_ih_l0, as nn.LSTM has it, among nothing; expected one"),
        (changed(fc__weight=np.zeros((2, 2))), "got 2 arrays called weight, as nn.Linear has it"),
        (changed(lstm__bias_hh_l1=None), "got no lstm.bias_hh_l1, expected the 18 arrays"),
        (changed(lstm__weight_hr_l0=np.zeros((2, 5))), "got lstm.weight_hr_l0, of an nn.LSTM with proj_size"),
        (changed(lstm__weight_hh_l0=np.zeros((15, 5))), "got shape (15, 5) (a GRU?), expected the 4"),
        (changed(lstm__weight_hh_l0=np.zeros((5, 5))), "got shape (5, 5) (a plain RNN?)"),
        (changed(lstm__weight_hh_l0=np.zeros(20)), "got shape (20,), expected 2 dimensions"),
        (changed(lstm__weight_hh_l0=None), "got no lstm.weight_hh_l0 among"),
        (changed(lstm__weight_ih_l1=np.zeros((20, 5))), "got shape (20, 5), expected (20, 10) to fit"),
        (changed(head__weight=np.zeros((4, 5))), "head.weight: got shape (4, 5), expected (4, 10) to"),
        (changed(lstm__bias_ih_l1_reverse=np.zeros(5)), "got shape (5,), expected (20,) to fit"),
    ],
)  # fmt: skip
def test_what_is_no_such_module_is_refused(state: dict[str, np.ndarray], words: str) -> None:
    with pytest.raises(ExchangeError) as raised:
        layouts.from_pytorch(state)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


@each_architecture
def test_biases_that_a_module_of_pytorch_does_not_have_are_zeros(architecture: Architecture) -> None:
    state = layouts.to_pytorch(random_params(architecture))
    zero = {name: np.zeros_like(array) if "bias" in name else array for name, array in state.items()}
    for kind in ("lstm.bias", "head.bias", "bias"):  # bias=False of nn.LSTM, of nn.Linear, of both
        without = {name: array for name, array in state.items() if kind not in name}
        expected = {name: zero[name] if kind in name else array for name, array in state.items()}
        assert_same_bits(layouts.from_pytorch(without), layouts.from_pytorch(expected))


def test_what_is_no_such_model_of_keras_is_refused() -> None:
    arrays = layouts.to_keras(random_params(A_MODEL))
    for wrong, words in (
        ([], "got 0 weights, expected 3 for each LSTM cell"),
        (arrays[:-1], "got 13 weights, expected 3 for each LSTM cell"),
        (
            arrays[3:],
            "got cell 2 input_kernel, cell 2 recurrent_kernel, cell 2 bias besides, expected the 8",
        ),
        ([*arrays[:9], arrays[9].T, *arrays[10:]], "cell 3 input_kernel: got shape (20, 10), expected"),
        ([arrays[0], arrays[1][:, :15], *arrays[2:]], "got shape (5, 15) (a GRU?), expected the 4 gates"),
    ):
        with pytest.raises(ExchangeError) as raised:
            layouts.from_keras(wrong, bidirectional=True)
        assert words in str(raised.value)
    # The same weights, taken for four layers one on top of the other.
    with pytest.raises(ExchangeError, match=r"got shape \(3, 20\), expected \(5, 20\) to fit"):
        layouts.from_keras(arrays)


def test_what_are_no_parameters_of_ours_is_refused() -> None:
    flat = layouts.to_flat(random_params(A_MODEL))
    for changes, words in (
        ({"head.bias": None}, "got no head.bias among"),
        (
            {"lstm_1_backward.cell.ho.bias": None},
            "got no lstm_1_backward.cell.ho.bias, expected the 50 arrays",
        ),
        ({"lstm_1_forward.cell.ig.kernel": np.zeros((5, 5))}, "got shape (5, 5), expected (10, 5) to fit"),
        ({"lstm_0_forward": np.zeros(1), "x": np.zeros(1)}, "got lstm_0_forward, x besides"),
    ):
        wrong = {name: array for name, array in (flat | changes).items() if array is not None}
        with pytest.raises(ExchangeError) as raised:
            layouts.from_flat(wrong)
        assert words in str(raised.value)
