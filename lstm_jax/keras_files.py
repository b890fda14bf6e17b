"""Files of Keras 3, written and read without Keras: ``.keras`` models and ``.weights.h5``.

A ``.keras`` file is a ZIP archive of ``config.json``, which describes the layers, ``metadata.json``, and
``model.weights.h5``, an HDF5 file with one group for each layer:

    layers/lstm/cell/vars/0, 1, 2                          kernel, recurrent kernel, bias
    layers/bidirectional/forward_layer/cell/vars/0, 1, 2   (and backward_layer)
    layers/lstm_1/..., layers/dense/vars/0, 1

The second layer of a kind has ``_1`` behind its name, and so on. Keras itself would build whatever objects
the file names, which is more trust than weights need; and it takes many seconds to start. Here a file is
JSON and arrays, nothing else, and links out of it are not followed.
"""

import io
import json
import re
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lstm_jax.convert import Architecture, Params, architecture_of, to_keras
from lstm_jax.errors import ConversionError, one_line
from lstm_jax.packages import required

# The version of Keras whose format this is; newer ones read it.
KERAS_VERSION = "3.0.0"
CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"

# Keras does not compress what it writes; descriptions, texts, could shrink to a hundredth.
MOST_COMPRESSION = 200

# What `LSTMClassifier` computes, in the words of Keras.
LSTM_SETTINGS = {"activation": "tanh", "recurrent_activation": "sigmoid", "use_bias": True}
# The HDF5 group of a cell: the name of its layer, the layer's number among those of its kind, its direction.
CELL = re.compile("(.*?)_?([0-9]*)(?:/(forward_layer|backward_layer))?/cell/vars")
# Layers that do nothing at inference.
IDLE_LAYERS = ("InputLayer", "Dropout", "SpatialDropout1D")


def keras_model(params: Params) -> bytes:
    """A ``.keras`` file: a sequential model from images (batch, time, inputs) to logits.

    Args:
        params: the parameters of `LSTMClassifier`.

    Raises:
        ConversionError: if h5py is missing.
    """
    architecture = architecture_of(params)
    weights = io.BytesIO()
    with required("h5py").File(weights, "w") as file:
        for name, array in zip(_names(architecture), to_keras(params), strict=True):
            file[name] = array
    metadata = {"keras_version": KERAS_VERSION, "date_saved": time.strftime("%Y-%m-%d@%H:%M:%S")}
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(METADATA, json.dumps(metadata))
        archive.writestr(CONFIG, json.dumps(_model_config(architecture)))
        archive.writestr(WEIGHTS, weights.getvalue())
    return content.getvalue()


def _names(architecture: Architecture) -> Iterator[str]:
    """The HDF5 paths of the weights, in the order of `to_keras`."""
    for layer, direction, _ in architecture.cells():
        number = f"_{layer}" if layer else ""
        name = f"bidirectional{number}/{direction}_layer" if architecture.bidirectional else f"lstm{number}"
        yield from (f"layers/{name}/cell/vars/{variable}" for variable in range(3))
    yield from ("layers/dense/vars/0", "layers/dense/vars/1")


def _model_config(architecture: Architecture) -> dict[str, Any]:
    """The description of the model."""
    shape = [None, None, architecture.inputs]  # any batch, any number of time steps
    layers = [_config("InputLayer", name="images", batch_shape=shape, dtype="float32")]
    for layer in range(architecture.num_layers):
        name = f"lstm_{layer}"
        options = {
            "units": architecture.hidden_size,
            "return_sequences": layer < architecture.num_layers - 1,
            **LSTM_SETTINGS,
        }
        if architecture.bidirectional:
            forward = _config("LSTM", name=f"{name}_forward", go_backwards=False, **options)
            backward = _config("LSTM", name=f"{name}_backward", go_backwards=True, **options)
            both = {"layer": forward, "backward_layer": backward, "merge_mode": "concat"}
            layers.append(_config("Bidirectional", name=name, **both))
        else:
            layers.append(_config("LSTM", name=name, go_backwards=False, **options))
    layers.append(
        _config("Dense", name="head", units=architecture.num_classes, activation="linear", use_bias=True)
    )
    model = _config("Sequential", name="lstm_classifier", layers=layers)
    return {**model, "module": "keras", "build_config": {"input_shape": shape}}


def _config(kind: str, **settings: Any) -> dict[str, Any]:
    return {"module": "keras.layers", "class_name": kind, "config": settings, "registered_name": None}


def _check_packed_sizes(members: Sequence[zipfile.ZipInfo]) -> None:
    """Refuse a small file that would fill the memory when it is unpacked."""
    for member in members:
        growth = member.file_size // max(member.compress_size, 1)
        if growth > MOST_COMPRESSION:
            raise ConversionError(
                f"got a {member.filename} that grows {growth} times when it is unpacked, expected at most "
                f"{MOST_COMPRESSION}: not of a trained model"
            )


def read_keras(path: Path) -> dict[str, np.ndarray]:
    """The weights in a ``.keras`` or ``.weights.h5`` file, by their HDF5 paths, in the order of `from_keras`.

    Of a ``.keras`` file the description is checked as well: layers, activations, directions. A
    ``.weights.h5`` file has none.

    Raises:
        ConversionError: if it is not such a file, or a model of other layers; if h5py is missing.
    """
    content = path.read_bytes()
    if path.suffix == ".keras":
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                _check_packed_sizes([archive.getinfo(name) for name in (CONFIG, WEIGHTS)])
                config, content = json.loads(archive.read(CONFIG)), archive.read(WEIGHTS)
        except ConversionError:
            raise
        except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, RuntimeError) as error:
            raise ConversionError(
                f"got a damaged file, or none of Keras 3 ({one_line(error)}); expected one that "
                "model.save('model.keras') writes"
            ) from error
        try:
            _check_model(config)
        except (KeyError, TypeError) as error:
            raise ConversionError(
                f"got a {CONFIG} that describes no layers as Keras 3 does ({one_line(error)}); expected one "
                "that model.save('model.keras') writes"
            ) from error
    try:
        with required("h5py").File(io.BytesIO(content), "r") as file:
            arrays = _variables(file, len(content))
    except ConversionError:
        raise
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise ConversionError(
            f"got a damaged file, or none of HDF5 ({one_line(error)}); expected one that Keras 3 writes"
        ) from error
    return _in_order(arrays)


def _check_model(model: Mapping[str, Any]) -> None:
    """Refuse a model that computes something else than `LSTMClassifier`."""
    if model["class_name"] not in ("Sequential", "Functional"):
        raise ConversionError(
            f"got a model of class {model['class_name']}, whose layers the file does not describe; expected "
            "Sequential or Functional; of other models, model.save_weights('model.weights.h5') can be read"
        )
    layers = [layer for layer in model["config"]["layers"] if layer["class_name"] not in IDLE_LAYERS]
    if layers and _is_softmax(layers[-1]):  # it turns logits into probabilities, and changes no weights
        layers = layers[:-1]
    kinds = [layer["class_name"] for layer in layers]
    if kinds not in (
        ["LSTM"] * (len(kinds) - 1) + ["Dense"],
        ["Bidirectional"] * (len(kinds) - 1) + ["Dense"],
    ):
        raise ConversionError(
            f"got the layers {', '.join(kinds) or 'none'}, expected layers of LSTM, or of Bidirectional, and "
            "a Dense layer; take the others out of the model, and do to the images what they did"
        )
    for number, layer in enumerate(layers[:-1]):
        is_last = number == len(layers) - 2
        if layer["class_name"] == "LSTM":
            _check_lstm(layer, return_sequences=not is_last, go_backwards=False)
        else:
            _check_settings(layer, merge_mode="concat")
            for part, go_backwards in (("layer", False), ("backward_layer", True)):
                _check_lstm(layer["config"][part], return_sequences=not is_last, go_backwards=go_backwards)
    head = layers[-1]
    _check_settings(head, use_bias=True)
    if head["config"]["activation"] != "softmax":
        _check_settings(head, activation="linear")


def _is_softmax(layer: Mapping[str, Any]) -> bool:
    is_activation = layer["class_name"] == "Activation" and layer["config"]["activation"] == "softmax"
    return layer["class_name"] == "Softmax" or is_activation


def _check_lstm(layer: Mapping[str, Any], **settings: Any) -> None:
    if layer["class_name"] != "LSTM":
        raise ConversionError(f"got {layer['class_name']} within Bidirectional, expected LSTM")
    _check_settings(layer, **LSTM_SETTINGS, **settings)


def _check_settings(layer: Mapping[str, Any], **settings: Any) -> None:
    for key, expected in settings.items():
        got = layer["config"][key]
        if got != expected:
            raise ConversionError(
                f"got {key}={got!r} in the layer {layer['config']['name']!r}, expected {expected!r}, as "
                "LSTMClassifier has it"
            )


def _variables(file: Any, file_size: int) -> dict[str, np.ndarray]:
    """The arrays of an HDF5 file by their paths, but for those of an optimizer."""
    arrays = {}

    def visit(name: str, item: Any) -> None:  # is not called for links to other files
        shape = getattr(item, "shape", None)
        if shape is None or name.startswith("optimizer/") or "seed_generator" in name:
            return  # a group, or what only training needs
        if item.external or item.is_virtual or item.nbytes > file_size:
            raise ConversionError(
                f"{name}: got an array that is not in the file, expected its {item.nbytes} bytes"
            )
        arrays[name] = item[()]

    file.visititems(visit)
    return arrays


def _in_order(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of cell after cell, and then of the head."""
    groups = {name.rpartition("/")[0] for name in arrays}
    cells = {group: match.groups() for group in groups if (match := CELL.fullmatch(group))}
    heads = groups - set(cells)
    if not cells or len(heads) != 1:
        raise ConversionError(
            f"got {len(cells)} LSTM cells and {len(heads)} other layers ({', '.join(sorted(groups)[:4])}), "
            "expected at least one cell and one Dense layer, saved by Keras 3"
        )
    if len({series for series, _, _ in cells.values()}) > 1:
        raise ConversionError(
            f"got layers whose order the file does not tell ({', '.join(sorted(cells))}), expected names "
            "that differ in a number, as those in a Sequential model do"
        )
    # Forward before backward.
    in_order = sorted(cells, key=lambda cell: (int(cells[cell][1] or 0), cells[cell][2] == "backward_layer"))
    names = [name for group in (*in_order, *heads) for name in sorted(arrays) if name.startswith(f"{group}/")]
    return {name: arrays[name] for name in names}
