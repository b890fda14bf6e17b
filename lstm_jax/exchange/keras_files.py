"""Files of Keras, written and read without Keras: ``.keras`` models, and HDF5 files of models and weights.

A ``.keras`` file is a ZIP archive of ``config.json``, which describes the layers, ``metadata.json``, and
``model.weights.h5``, an HDF5 file with one group for each layer, which ``model.save_weights`` writes alone:

    layers/lstm/cell/vars/0, 1, 2                          kernel, recurrent kernel, bias
    layers/bidirectional/forward_layer/cell/vars/0, 1, 2   (and backward_layer)
    layers/lstm_1/..., layers/dense/vars/0, 1

The second layer of a kind has the suffix ``_1``, and so on. Keras 2 wrote all of a model into one HDF5 file,
``model.h5``, with the description in the attribute ``model_config``, and the weights under the names of
layers and variables. A file with only weights is the same without ``model_weights``:

    model_weights/lstm/lstm/lstm_cell/kernel:0, recurrent_kernel:0, bias:0
    model_weights/bidirectional/bidirectional/forward_lstm/lstm_cell/...   (and backward_lstm)
    model_weights/dense/dense/kernel:0, bias:0

Keras itself would build any objects that the file names, which is unsafe, and it takes many seconds to start.
Here only JSON and arrays are read, and links out of the file are refused. Nothing is unpacked before its
declared size has been compared with the size of the file.
"""

import io
import json
import re
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from lstm_jax.errors import ExchangeError, one_line
from lstm_jax.exchange.keras_models import Description, describe
from lstm_jax.exchange.layouts import Architecture, Params, architecture_of, to_keras
from lstm_jax.exchange.metadata import LARGEST_FILE, OURS, PRODUCER
from lstm_jax.system.packages import required

# The version of Keras in our files. Newer versions read them.
KERAS_VERSION = "3.0.0"
# In metadata.json, our metadata are under the key `OURS`, which Keras ignores.
CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"

# The most that weights may be compressed. Keras does not compress them, and they hardly shrink.
MOST_COMPRESSION = 10
# The most bytes of a description. One layer takes at most 2 kB.
LARGEST_DESCRIPTION = 2 * 2**20
# The most bytes that a list of names may take at worst. Else the numbers in names give the order of layers.
LARGEST_LIST = 2**28

# The path of a weight in a file of Keras 3: its layer, its direction, and its number within the layer.
CELL = re.compile("(?P<layer>.*?)(/(?P<direction>forward|backward)_layer)?/cell/vars/(?P<kind>[012])")
HEAD = re.compile("(?P<layer>.*)/vars/(?P<kind>[01])")
CELL_KINDS, HEAD_KINDS = ("kernel", "recurrent_kernel", "bias"), ("kernel", "bias")
# The path of a weight in an HDF5 file of Keras 2.
OLD = re.compile(
    "(model_weights/)?(?P<layer>[^/]+)/(?P<inner>.*/)?(?P<kind>kernel|recurrent_kernel|bias)(:0)?"
)
# The name of our input layer. When Keras saves a model again, it keeps this name, but not our metadata.
INPUT_NAME = re.compile("images_(?P<task>rows|columns|pixels|permuted)(_(?P<permutation_seed>.+))?")


class KerasWeights(NamedTuple):
    """The weights in a file of Keras.

    Attributes:
        arrays: the weights by their names in the file, in the order of `from_keras`, with zeros for missing
            biases.
        bidirectional: whether there are cells that read backwards.
        described: whether the file has a description of its layers, which was checked.
        lists_layers: whether it lists the layers in order.
        metadata: our metadata, if any.
    """

    arrays: dict[str, np.ndarray]
    bidirectional: bool
    described: bool
    lists_layers: bool
    metadata: Mapping[str, str]


def keras_model(params: Params, metadata: Mapping[str, str] = MappingProxyType({})) -> bytes:
    """Make a ``.keras`` file of a sequential model from images (batch, time, inputs) to logits.

    Args:
        params: the parameters of `LSTMClassifier`.
        metadata: the metadata of the file; the input is named after the task and its permutation.

    Raises:
        ExchangeError: if h5py is missing.
    """
    architecture = architecture_of(params)
    weights = io.BytesIO()
    with required("h5py").File(weights, "w") as file:
        for name, array in zip(_names(architecture), to_keras(params), strict=True):
            file[name] = array
    about = {
        "keras_version": KERAS_VERSION,
        "date_saved": time.strftime("%Y-%m-%d@%H:%M:%S"),
        OURS: dict(metadata),
    }
    told = [metadata[key] for key in ("task", "permutation_seed") if key in metadata]
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(METADATA, json.dumps(about))
        archive.writestr(CONFIG, json.dumps(_model_config(architecture, "_".join(["images", *told]))))
        archive.writestr(WEIGHTS, weights.getvalue())
    return content.getvalue()


def _names(architecture: Architecture) -> Iterator[str]:
    """Yield the HDF5 paths of the weights, in the order of `to_keras`."""
    for layer, direction, _ in architecture.cells():
        number = f"_{layer}" if layer else ""
        name = f"bidirectional{number}/{direction}_layer" if architecture.bidirectional else f"lstm{number}"
        yield from (f"layers/{name}/cell/vars/{variable}" for variable in range(3))
    yield from ("layers/dense/vars/0", "layers/dense/vars/1")


def _model_config(architecture: Architecture, input_name: str) -> dict[str, Any]:
    """Make the description of the model."""
    shape = [None, None, architecture.inputs]  # any batch, any number of time steps
    layers = [_config("InputLayer", name=input_name, batch_shape=shape, dtype="float32")]
    for layer in range(architecture.num_layers):
        name = f"lstm_{layer}"
        options = {
            "units": architecture.hidden_size,
            "return_sequences": layer < architecture.num_layers - 1,
            "activation": "tanh",
            "recurrent_activation": "sigmoid",
            "use_bias": True,
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


def read_keras(content: bytes, *, is_archive: bool) -> KerasWeights:
    """Read the weights in the content of a file of Keras.

    A description of the model, if there is one, must be that of an LSTM classifier.

    Args:
        content: the content of the file.
        is_archive: whether it is a ``.keras`` file; else it is an HDF5 file.

    Raises:
        ExchangeError: if it is not such a file, or a model of other layers; if h5py is missing.
    """
    description = None
    metadata: dict[str, str] = {}
    if is_archive:
        model, metadata, content = _unpacked(content)
        description = describe(model)
    try:
        with required("h5py").File(io.BytesIO(content), "r") as file:
            if "model_config" in file.attrs:
                description = describe(_parsed(_text(file, "model_config"), "model_config"))
            arrays = _variables(file, len(content))
            listed = _listed_layers(file, len(content), {_place(path)[0].name for path in arrays})
    except ExchangeError:
        raise
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise ExchangeError(
            f"got a damaged file, or no HDF5 file ({one_line(error)}); expected one that Keras writes"
        ) from error
    if description and (match := INPUT_NAME.fullmatch(description.input_name)):
        metadata = {**{key: text for key, text in match.groupdict().items() if text}, **metadata}
    if metadata:  # only this package writes these
        metadata = {PRODUCER: OURS, **metadata}
    weights, bidirectional = _in_order(arrays, description, listed)
    return KerasWeights(weights, bidirectional, description is not None, bool(listed), metadata)


def _unpacked(content: bytes) -> tuple[Any, dict[str, str], bytes]:
    """Return the description, our metadata and the HDF5 file in a ``.keras`` file."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            texts = [name for name in (CONFIG, METADATA) if name == CONFIG or name in archive.namelist()]
            for name in (*texts, WEIGHTS):
                _check_packed_size(archive.getinfo(name), len(content))
            model, *about = [_parsed(archive.read(name).decode(), name) for name in texts]
            weights = archive.read(WEIGHTS)
    except ExchangeError:
        raise
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        KeyError,
        ValueError,
        RuntimeError,
        OverflowError,
        NotImplementedError,
    ) as error:
        raise ExchangeError(
            f"got a damaged file, or no Keras 3 file ({one_line(error)}); expected one that "
            "model.save('model.keras') writes"
        ) from error
    ours = about[0].get(OURS) if about and isinstance(about[0], dict) else None
    texts_of_ours = ours.items() if isinstance(ours, dict) else ()
    return model, {name: text for name, text in texts_of_ours if isinstance(text, str)}, weights


def _check_packed_size(member: zipfile.ZipInfo, file_size: int) -> None:
    """Refuse a small file that would fill the memory when it is unpacked."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # Other methods do not stop at the declared size.
        raise ExchangeError(
            f"got a {member.filename} compressed by method {member.compress_type}, expected 0 or 8, stored "
            "or deflated"
        )
    if member.filename != WEIGHTS and member.file_size > LARGEST_DESCRIPTION:
        raise ExchangeError(
            f"got a {member.filename} of {member.file_size:,} bytes, expected at most {LARGEST_DESCRIPTION:,}"
        )
    # The packed size in the archive may be false. The size of the file is known.
    most = min(LARGEST_FILE, MOST_COMPRESSION * file_size)
    if member.filename == WEIGHTS and member.file_size > most:
        raise ExchangeError(
            f"got a {member.filename} of {member.file_size:,} bytes in a file of {file_size:,}, expected at "
            f"most {most:,}, because the weights of a trained model hardly shrink"
        )


def _text(file: Any, name: str) -> str:
    """Read an attribute of a file that is a text."""
    declared = file.attrs.get_id(name)
    if declared.shape != () or declared.get_storage_size() > LARGEST_DESCRIPTION:
        raise ExchangeError(
            f"got the attribute {name} of shape {declared.shape} and {declared.get_storage_size():,} bytes, "
            f"expected one text of at most {LARGEST_DESCRIPTION:,}"
        )
    text = file.attrs[name]
    return text.decode() if isinstance(text, bytes) else str(text)


def _listed_layers(file: Any, file_size: int, found: set[str]) -> tuple[str, ...]:
    """Return the layers in order, from the list of Keras 2; nothing if it lacks some of ``found``."""
    attributes = file.get("model_weights", file).attrs
    if "layer_names" not in attributes:
        return ()
    declared = attributes.get_id("layer_names")
    # Each text may be as long as the file, because all of them may share the same bytes.
    if len(declared.shape) != 1 or declared.shape[0] * file_size > LARGEST_LIST:
        return ()
    listed = tuple(
        each.decode() if isinstance(each, bytes) else str(each) for each in attributes["layer_names"]
    )
    return listed if found <= {*listed} else ()


def _parsed(text: str, name: str) -> Any:
    if len(text) > LARGEST_DESCRIPTION:
        raise ExchangeError(f"got a {name} of {len(text):,} bytes, expected at most {LARGEST_DESCRIPTION:,}")
    return json.loads(text)


def _variables(file: Any, file_size: int) -> dict[str, np.ndarray]:
    """Read the arrays of an HDF5 file by their paths, without those of an optimizer."""
    h5py = required("h5py")
    found: dict[str, Any] = {}

    def visit(name: str, item: Any) -> None:
        for key in item if isinstance(item, h5py.Group) else ():
            if not isinstance(item.get(key, getlink=True), h5py.HardLink):
                raise ExchangeError(f"{name}/{key}: got a link that may lead out of the file, expected none")
        shape = getattr(item, "shape", None)
        if shape is None or name.startswith(("optimizer/", "optimizer_weights/")) or "seed_generator" in name:
            return  # a group, or a variable that only training needs
        if item.external or item.is_virtual or item.nbytes > file_size:
            raise ExchangeError(
                f"{name}: got an array that is not in the file, expected its {item.nbytes} bytes"
            )
        if item.dtype.kind not in "fiub":  # texts and references may exceed the declared size
            raise ExchangeError(f"{name}: got values of type {item.dtype}, expected numbers")
        found[name] = item

    visit("", file)
    file.visititems(visit)
    declared = sum(item.nbytes for item in found.values())
    if declared > file_size:
        raise ExchangeError(
            f"got arrays of {declared:,} bytes together, expected at most the {file_size:,} of the file, "
            "because Keras does not compress them"
        )
    return {name: item[()] for name, item in found.items()}


class _Layer(NamedTuple):
    """A layer, or one direction of it, in a file.

    Attributes:
        name: name of the layer in the file.
        backward: whether this is the part of a Bidirectional layer that reads backwards.
    """

    name: str
    backward: bool


def _place(path: str) -> tuple[_Layer, str]:
    """Return the layer of a weight, and its kind: a known one, or else the last part of the path."""
    if match := CELL.fullmatch(path):
        kind = CELL_KINDS[int(match["kind"])]
        return _Layer(match["layer"], match["direction"] == "backward"), kind
    if match := HEAD.fullmatch(path):
        return _Layer(match["layer"], False), HEAD_KINDS[int(match["kind"])]
    if match := OLD.fullmatch(path):
        inner = (match["inner"] or "").split("/")
        return _Layer(match["layer"], any(part.startswith("backward_") for part in inner)), match["kind"]
    group, _, kind = path.rpartition("/")
    return _Layer(group, False), kind


def _in_order(
    arrays: Mapping[str, np.ndarray], description: Description | None, listed: Sequence[str]
) -> tuple[dict[str, np.ndarray], bool]:
    """Return the arrays of each cell and then of the head, and whether some cells read backwards."""
    layers: dict[_Layer, dict[str, str]] = {}
    for path in arrays:
        layer, kind = _place(path)
        if kind in layers.setdefault(layer, {}):
            raise ExchangeError(f"got both {layers[layer][kind]} and {path}, expected one {kind} in a layer")
        layers[layer][kind] = path
    cells = [layer for layer, kinds in layers.items() if "recurrent_kernel" in kinds]
    heads = [layer for layer in layers if layer not in cells]
    if not cells or len(heads) != 1:
        names = ", ".join(sorted(layer.name for layer in layers)[:4])
        raise ExchangeError(
            f"got {len(cells)} LSTM cells and {len(heads)} other layers ({names}), expected at least one "
            "cell and one Dense layer, saved by Keras 2 or 3"
        )
    in_order = [*sorted(cells, key=_ordering(cells, description.names if description else listed)), *heads]
    _check_as_described(in_order, layers, description)
    weights: dict[str, np.ndarray] = {}
    for layer in in_order:
        kinds = layers[layer]
        expected = CELL_KINDS if layer in cells else HEAD_KINDS
        if not {*expected} - {"bias"} <= {*kinds} <= {*expected}:
            raise ExchangeError(
                f"got {', '.join(sorted(kinds))} in the layer {layer.name}, expected {', '.join(expected)}"
            )
        for kind in expected:
            # A missing bias is zero.
            kernel = arrays[kinds["kernel"]]
            name = kinds.get(kind, f"{kinds['kernel']} (no bias)")
            weights[name] = arrays[name] if kind in kinds else np.zeros(kernel.shape[-1:], np.float32)
    return weights, any(cell.backward for cell in cells)


def _ordering(cells: Sequence[_Layer], in_order: Sequence[str]) -> Callable[[_Layer], Any]:
    """Return the key to sort cells by: by layer, then forward before backward."""
    names = {cell.name for cell in cells}
    if names <= {*in_order}:  # the file gives the order
        order = {name: number for number, name in enumerate(in_order)}
        return lambda cell: (order[cell.name], cell.backward)
    numbered = {name: re.fullmatch("(.*?)_?([0-9]{0,9})", name, re.DOTALL) for name in names}
    if len({match and match[1] for match in numbered.values()}) > 1:
        raise ExchangeError(
            f"got layers whose order the file does not tell ({', '.join(sorted(names))}), expected names "
            "that differ in a number, as in a Sequential model"
        )
    numbers = {name: int(match[2] or 0) for name, match in numbered.items() if match}
    return lambda cell: (numbers[cell.name], cell.backward)


def _check_as_described(
    in_order: Sequence[_Layer], layers: Mapping[_Layer, Mapping[str, str]], description: Description | None
) -> None:
    """Refuse weights that do not fit the description in the same file."""
    if description is None:
        return
    found = (tuple("bias" in layers[each] for each in in_order), any(each.backward for each in in_order))
    expected = (description.use_bias, description.bidirectional)
    if found != expected:
        raise ExchangeError(
            f"got {len(in_order)} layers and directions with weights, {sum(found[0])} of them with a bias, "
            f"expected {len(expected[0])} and {sum(expected[0])}: the file describes another model than it "
            "contains"
        )
