"""Files of weights that are read, and those that are refused, each in one line."""

import functools
import io
import json
import operator
import os
import random
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.errors import ExchangeError
from lstm_jax.exchange import formats, keras_files, layouts
from lstm_jax.exchange.layouts import Architecture
from tests.helpers.weights import assert_same_bits, random_params

PARAMS = random_params(Architecture(3, 5, 2, True, 10))


def refusal(path: Path) -> str:
    """The line that says why a file is not read."""
    with pytest.raises(ExchangeError) as raised:
        formats.read_weights(path)
    text = str(raised.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text


def test_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    pytest.importorskip("h5py")
    for name in ("x.safetensors", "x.keras", "x.weights.h5", "x.onnx", "x.pth", "x.BIN", "x"):
        (tmp_path / name).write_bytes(b"\x80\x04nothing of the kind")
    assert "got a damaged file, or no safetensors file" in refusal(tmp_path / "x.safetensors")
    assert "got a damaged file, or no Keras 3 file" in refusal(tmp_path / "x.keras")
    assert "got a damaged file, or no HDF5 file" in refusal(tmp_path / "x.weights.h5")
    assert "got a damaged file, or no ONNX file" in refusal(tmp_path / "x.onnx")
    (tmp_path / "x.msgpack").write_bytes(b"\x84\x04nothing of the kind")
    assert "got a damaged file, or no Flax file" in refusal(tmp_path / "x.msgpack")
    assert "got nothing at the end of the name" in refusal(tmp_path / "x")
    for name in ("x.pth", "x.BIN"):
        assert "safetensors.torch.save_file(model.state_dict()" in refusal(tmp_path / name)
    assert "cannot be read (No such file or directory)" in refusal(tmp_path / "none.keras")
    (tmp_path / "folder.keras").mkdir()
    assert "got a folder" in refusal(tmp_path / "folder.keras")


def peak_of_refusal(path: Path) -> tuple[int, str]:
    """The largest memory that reading takes, in bytes, and why the file is not read."""
    refusal(path)  # imports, once
    tracemalloc.start()
    try:
        text = refusal(path)
        return tracemalloc.get_traced_memory()[1], text
    finally:
        tracemalloc.stop()


def test_files_that_would_fill_the_memory_are_refused(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    good = keras_files.keras_model(PARAMS)

    def packed(name: str, content: bytes, method: int) -> Path:
        path = tmp_path / f"{len(content)}-{method}-{name}.keras"
        with zipfile.ZipFile(io.BytesIO(good)) as old, zipfile.ZipFile(path, "w", method) as archive:
            for member in (keras_files.CONFIG, keras_files.METADATA, keras_files.WEIGHTS):
                archive.writestr(member, content if member == name else old.read(member))
        return path

    deflated, method_14 = zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA
    many = tmp_path / "many.h5"
    with h5py.File(many, "w") as file:
        for number in range(500):  # each no larger than the file, none of them in it
            file.create_dataset(f"dense_{number}/vars/0", (50_000,), "f4")
    texts = tmp_path / "texts.h5"
    with h5py.File(texts, "w") as file:
        file["dense/vars/0"] = np.array(["x" * 10] * 10, h5py.string_dtype())
    said = tmp_path / "said.h5"
    with h5py.File(said, "w") as file:
        file.attrs.create("model_config", ["{}"] * 1000, dtype=h5py.string_dtype())

    # It says of its weights that they are nearly as many packed bytes.
    lying = packed("model.weights.h5", bytes(10**7), deflated)
    content = bytearray(lying.read_bytes())
    with zipfile.ZipFile(lying) as archive:
        packed_size = archive.getinfo("model.weights.h5").compress_size.to_bytes(4, "little")
    place = content.rindex(packed_size)  # in the list at the end
    content[place : place + 4] = (9_000_000).to_bytes(4, "little")
    lying = tmp_path / "lying.keras"
    lying.write_bytes(content)

    for path, words in (
        (packed("model.weights.h5", bytes(10**7), deflated), "got a model.weights.h5 of 10,000,000 bytes in"),
        (lying, "got a model.weights.h5 of 10,000,000 bytes in a file of"),
        (
            packed("config.json", b"[" + b"{}," * 10**6 + b"1]", deflated),
            "got a config.json of 3,000,003 bytes",
        ),
        (
            packed("metadata.json", b" " * 10**7, deflated),
            "got a metadata.json of 10,000,000 bytes, expected at",
        ),
        (packed("config.json", b"[" * 10**6, deflated), "got a damaged file, or no Keras 3 file"),
        (packed("model.weights.h5", bytes(10**7), method_14), "compressed by method 14, expected 0 or 8"),
        (many, "got arrays of 100,000,000 bytes together, expected at most the"),
        (texts, "got values of type object, expected numbers"),
        (said, "got the attribute model_config of shape (1000,)"),
    ):
        peak, told = peak_of_refusal(path)
        assert words in told
        # The files, and descriptions as Python objects: some megabytes. A bomb is ten or more.
        assert peak < 8e6, told


def test_what_is_no_ordinary_file_is_not_waited_for(tmp_path: Path) -> None:
    for suffix in formats.SUFFIXES:
        os.mkfifo(tmp_path / f"x{suffix}")
        assert "cannot be read (not a file, but a pipe, a socket or a device)" in refusal(
            tmp_path / f"x{suffix}"
        )
    (tmp_path / "x").symlink_to("/dev/zero")
    (tmp_path / "y.h5").symlink_to("x")
    assert "cannot be read (not a file" in refusal(tmp_path / "y.h5")
    with (tmp_path / "large.safetensors").open("wb") as file:
        file.truncate(2**31 + 1)  # of nothing, on most disks
    assert "got a file of 2,147,483,649 bytes, expected at most 2,147,483,648" in refusal(
        tmp_path / "large.safetensors"
    )


def test_checkpoints_of_tensorflow_1_are_named(tmp_path: Path) -> None:
    for name in ("model.ckpt-100.index", "model.ckpt-100.meta", "model.ckpt-100.data-00000-of-00001"):
        (tmp_path / name).touch()
    for name in ("", ".index", ".meta", ".data-00000-of-00001"):
        assert "got a checkpoint of TensorFlow 1" in refusal(tmp_path / f"model.ckpt-100{name}")


def test_counters_are_no_weights(tmp_path: Path) -> None:
    safetensors_numpy = pytest.importorskip("safetensors.numpy")
    state = layouts.to_pytorch(PARAMS)
    averaged = {f"module.{name}": array for name, array in state.items()}
    counters = {
        "n_averaged": np.array(7, np.int64),
        "initted": np.array(True),
        "step": np.array([3], np.int32),
    }
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors_numpy.save(averaged | counters))
    assert_same_bits(formats.read_weights(path), PARAMS)
    path.write_bytes(
        safetensors_numpy.save(state | {"bn.num_batches_tracked": np.array(7), "bn.weight": np.ones(5)})
    )
    assert "got 2 arrays called weight, as nn.Linear has it" in refusal(path)
    # A number that is none: a scale, say.
    path.write_bytes(safetensors_numpy.save(state | {"scale": np.array(0.5)}))
    assert "got scale besides" in refusal(path)


@pytest.mark.parametrize("name", ["pytorch", "safetensors"])
def test_a_changed_bit_of_an_exported_file_is_found(tmp_path: Path, name: str) -> None:
    pytest.importorskip("safetensors")
    content = formats.FORMATS[name].encode(PARAMS, {"producer": "lstm_jax 1", "pixel_mean": "0.1307"})
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    assert_same_bits(formats.read_weights(path), PARAMS)
    kind = b"pt" if name == "pytorch" else b"lstm_jax"
    for old, new in (
        (b"0.1307", b"0.1507"),
        (b"pixel_mean", b"pixel_std_"),
        (b'"%s"' % kind, b'"%s"' % kind[::-1]),
    ):
        assert content.count(old) == 1
        path.write_bytes(content.replace(old, new))
        assert "got arrays and metadata of SHA-256" in refusal(path)
    begin = 8 + int.from_bytes(content[:8], "little")
    for place in random.Random(0).sample(range(8 * begin, 8 * len(content)), 20):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        assert "as the file says: it is damaged" in refusal(path)


def test_names_in_a_file_cannot_steer_the_terminal(tmp_path: Path) -> None:
    safetensors_numpy = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors_numpy.save({"\x1b[2J\x9b\r\n.weight_ih_l1": np.ones(1)}))
    assert r"\x1b[2J\x9b\r\n.weight_ih_l1" in refusal(path)


# The names of weights in a model.h5, as these have written them: Keras 2 with TensorFlow 2 and before it, and
# Keras 3; of a layer and a direction ("" for none).
OLD_NAMES = {
    "TensorFlow 2": (
        "{layer}/{layer}/{direction}lstm_cell_3/{kind}:0", "forward_{layer}/", "backward_{layer}/"
    ),
    "Keras 2.2": ("{layer}/{layer}/{direction}{kind}:0", "forward_{layer}/", "backward_{layer}/"),
    "Keras 3": (
        "{layer}/model/{layer}/{direction}lstm_cell/{kind}", "forward_{layer}/", "backward_{layer}/"
    ),
}  # fmt: skip


@pytest.mark.parametrize("names", OLD_NAMES)
@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_files_of_keras_2_are_read(tmp_path: Path, names: str, biases: bool, bidirectional: bool) -> None:
    h5py = pytest.importorskip("h5py")
    params = random_params(Architecture(3, 5, 2, bidirectional, 4))
    arrays = layouts.to_keras(params)
    if not biases:
        arrays = [np.zeros_like(each) if each.ndim == 1 else each for each in arrays]
    pattern, *directions = OLD_NAMES[names]
    if not bidirectional:
        directions = [""]
    # Names whose order is not that of the alphabet, as a user gives them.
    layers = ["upper", "lower"]
    places = [
        pattern.format(layer=layer, direction=direction.format(layer=layer), kind=kind)
        for layer in layers
        for direction in directions
        for kind in ("kernel", "recurrent_kernel", "bias")
    ]
    places += [f"head/head/{kind}:0" for kind in ("kernel", "bias")]
    lstm = {"activation": "tanh", "recurrent_activation": "sigmoid", "use_bias": biases, "units": 5}
    described = []
    for layer in layers:
        cell = {
            "class_name": "LSTM",
            "config": {
                "name": layer, **lstm, "return_sequences": layer == "upper", "go_backwards": False,
                "time_major": False, "implementation": 2, "unit_forget_bias": True,
            },
        }  # fmt: skip
        both = {
            "class_name": "Bidirectional",
            "config": {"name": layer, "layer": cell, "merge_mode": "concat"},
        }
        described.append(both if bidirectional else cell)
    head = {"name": "head", "units": 4, "activation": "softmax", "use_bias": biases}
    described.append({"class_name": "Dense", "config": head})
    model = {"class_name": "Sequential", "config": {"name": "model", "layers": described}}
    path = tmp_path / "model.h5"
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(model).encode()
        file["optimizer_weights/Adam/head/kernel/m:0"] = np.ones(7)
        for place, array in zip(places, arrays, strict=True):
            if biases or array.ndim > 1:
                file[f"model_weights/{place}"] = array
    read = formats.read_file(path)
    expected = layouts.from_keras(arrays, bidirectional=bidirectional)
    assert_same_bits(read.params, expected)
    assert read.granted == ()
    # Weights alone: the numbers in the names tell the order.
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        for place, array in zip(places, arrays, strict=True):
            if biases or array.ndim > 1:
                file[place.replace("upper", "lstm_9").replace("lower", "lstm_10")] = array
    read = formats.read_file(tmp_path / "weights.h5")
    assert_same_bits(read.params, expected)
    assert read.granted == formats.GRANTED_OF_KERAS_3
    # And where the file lists the layers, this does, whatever they are called.
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file.attrs["layer_names"] = [b"dropout", b"lstm_2", b"lstm_1", b"head"]
        for place, array in zip(places, arrays, strict=True):
            if biases or array.ndim > 1:
                file[place.replace("upper", "lstm_2").replace("lower", "lstm_1")] = array
    read = formats.read_file(tmp_path / "weights.h5")
    assert_same_bits(read.params, expected)
    assert read.granted == formats.GRANTED_OF_KERAS
    with h5py.File(path, "a") as file:
        del file["model_weights/head"]
    assert "got" in refusal(path)


def test_values_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    safetensors_numpy = pytest.importorskip("safetensors.numpy")
    state = layouts.to_pytorch(PARAMS)
    path = tmp_path / "x.safetensors"

    def refused(name: str, array: np.ndarray) -> str:
        path.write_bytes(safetensors_numpy.save({**state, name: array}))
        return refusal(path)

    bias = state["head.bias"].copy()
    bias[3] = np.nan
    assert "head.bias: got NaN or infinite values, expected finite ones" in refused("head.bias", bias)
    assert "NaN or infinite" in refused("head.bias", np.full(10, 1e300))
    assert "head.bias: got values of type int8" in refused("head.bias", np.zeros(10, np.int8))
    assert "got fc.bias besides" in refused("fc.bias", np.zeros(10))
    assert "got values of type complex64, expected float32, float64, float16" in refused(
        "head.bias", np.zeros(10, np.complex64)
    )
    # A type that NumPy has under no name.
    header = json.dumps({"head.bias": {"dtype": "F8_E8M0", "shape": [4], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert "got arrays of a type that cannot be read" in refusal(path)


def test_floats_of_other_sizes_are_read(tmp_path: Path) -> None:
    safetensors_numpy = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "x.safetensors"
    for dtype in (np.float16, np.float64, jnp.bfloat16):
        state = {name: array.astype(dtype) for name, array in layouts.to_pytorch(PARAMS).items()}
        path.write_bytes(safetensors_numpy.save(state))
        rounded = {name: array.astype("float32") for name, array in state.items()}
        assert_same_bits(formats.read_weights(path), layouts.from_pytorch(rounded))


def with_config(content: bytes, change: Callable[[Any], object]) -> bytes:
    """A ``.keras`` file with another description of its layers."""
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(changed, "w") as new:
        config = json.loads(old.read(keras_files.CONFIG))
        change(config)
        new.writestr(keras_files.CONFIG, json.dumps(config))
        new.writestr(keras_files.WEIGHTS, old.read(keras_files.WEIGHTS))
    return changed.getvalue()


FORWARD = (1, "config", "layer")


@pytest.mark.parametrize(
    ("place", "change", "words"),
    [
        ((*FORWARD, "config"), {"activation": "relu"}, "got activation='relu' in the layer 'lstm_0_forward'"),
        ((*FORWARD, "config"), {"use_bias": False}, "the file describes another model than it contains"),
        ((*FORWARD, "config"), {"go_backwards": True}, "got go_backwards=True"),
        ((*FORWARD, "config"), {"return_sequences": False}, "got return_sequences=False"),
        (FORWARD, {"class_name": "GRU"}, "got GRU within Bidirectional, expected LSTM"),
        ((2, "config"), {"merge_mode": "sum"}, "got merge_mode='sum' in the layer 'lstm_1'"),
        ((3, "config"), {"activation": "relu"}, "got activation='relu' in the layer 'head'"),
        ((0,), {"class_name": "Rescaling"}, "got the layers Rescaling, Bidirectional, Bidirectional, Dense"),
        ((2,), {"class_name": "Dense"}, "got the layers Bidirectional, Dense, Dense"),
        ((2,), {"class_name": 3}, "got a description that cannot be read (TypeError"),
    ],
)
def test_models_of_keras_that_compute_something_else_are_refused(
    tmp_path: Path, place: tuple[Any, ...], change: dict[str, Any], words: str
) -> None:
    pytest.importorskip("h5py")

    def apply(config: Any) -> None:
        functools.reduce(operator.getitem, place, config["config"]["layers"]).update(change)

    path = tmp_path / "x.keras"
    path.write_bytes(with_config(keras_files.keras_model(PARAMS), apply))
    assert words in refusal(path)


def test_models_of_keras_whose_layers_are_unknown_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    path = tmp_path / "x.keras"
    for change, words in (
        ({"class_name": "Mine"}, "got a model of class Mine, whose layers the file does not describe"),
        ({"config": {"layers": 7}}, "got a description that cannot be read"),
        ({"config": {"layers": []}}, "got the layers none, expected"),
        ({"config": {}}, "got a description that cannot be read (KeyError: 'layers'); expected one of Keras"),
    ):
        path.write_bytes(
            with_config(keras_files.keras_model(PARAMS), operator.methodcaller("update", change))
        )
        assert words in refusal(path)


def test_a_softmax_at_the_end_is_no_matter(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    path = tmp_path / "x.keras"
    last = {"class_name": "Activation", "config": {"activation": "softmax"}}
    for change in (
        lambda config: config["config"]["layers"][3]["config"].update(activation="softmax"),
        lambda config: config["config"]["layers"].append(last),
    ):
        path.write_bytes(with_config(keras_files.keras_model(PARAMS), change))
        assert_same_bits(formats.read_weights(path), PARAMS)


def test_files_of_keras_with_other_weights_are_refused(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path, secret = tmp_path / "x.weights.h5", tmp_path / "secret"
    secret.write_bytes(bytes(4096))
    cell = {"lstm/cell/vars/0": (28, 20), "lstm/cell/vars/1": (5, 20), "lstm/cell/vars/2": (20,)}
    head = {"dense/vars/0": (5, 10), "dense/vars/1": (10,)}

    def refused(
        shapes: dict[str, tuple[int, ...]], links: Callable[[Any], object] = lambda file: None
    ) -> str:
        with h5py.File(path, "w") as file:
            for name, shape in shapes.items():
                file[name] = np.ones(shape, np.float32)
            links(file)
        return refusal(path)

    other = {name.replace("lstm", "upper"): (5 if n == 28 else n, *rest) for name, (n, *rest) in cell.items()}
    assert "got 0 LSTM cells and 1 other layers (dense), expected at least one cell" in refused(head)
    assert "got 1 LSTM cells and 2 other layers" in refused({**cell, **head, "norm/vars/0": (5,)})
    assert "got layers whose order the file does not tell (lstm, upper)" in refused({**cell, **other, **head})
    assert "got 0 LSTM cells and 2 other layers" in refused(
        {name: shape for name, shape in {**cell, **head}.items() if name != "lstm/cell/vars/1"}
    )
    assert "got bias, recurrent_kernel in the layer lstm, expected kernel, recurrent_kernel, bias" in refused(
        {name: shape for name, shape in {**cell, **head}.items() if name != "lstm/cell/vars/0"}
    )
    # What lies outside of the file is not read, whoever asks for it.
    rest = {name: shape for name, shape in {**cell, **head}.items() if name != "dense/vars/1"}
    assert "dense/vars/1: got an array that is not in the file" in refused(
        rest, lambda file: file.create_dataset("dense/vars/1", (10,), "f4", external=[(secret, 0, 40)])
    )
    assert "dense/vars/1: got a link that may lead out of the file" in refused(
        rest, lambda file: file.update({"dense/vars/1": h5py.ExternalLink(str(secret), "/x")})
    )
    assert "got an array that is not in the file, expected its 4000000000000 bytes" in refused(
        rest, lambda file: file.create_dataset("dense/vars/1", (10**12,), "f4")
    )


@pytest.mark.parametrize("name", ["pytorch", "safetensors", "keras"])
def test_damaged_files_are_read_or_refused(tmp_path: Path, name: str) -> None:
    pytest.importorskip("h5py" if name == "keras" else "safetensors")
    whole_file = formats.FORMATS[name].encode(PARAMS, {})
    path = tmp_path / f"x{formats.FORMATS[name].suffix}"
    rng = random.Random(0)
    told = []
    for trial in range(150):
        damaged = bytearray(whole_file)
        if trial % 3 == 0:
            del damaged[rng.randrange(len(damaged)) :]
        else:  # some bytes: near the beginning, where the structure is, or anywhere
            end = min(len(damaged), 4000) if trial % 3 == 1 else len(damaged)
            for _ in range(rng.choice((1, 10, 100))):
                damaged[rng.randrange(end)] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            formats.read_weights(path)
        except ExchangeError as error:
            told.append(str(error))
    assert len(told) > 50
    assert all("\n" not in text for text in told)
