"""The file formats of other frameworks: their writers, and one reader for all of them.

Nothing here opens or writes a pickle. All models take images as float32 rows of pixels from 0 (black) to
1 (white), to which `lstm_jax.model.logits_of` converts grey levels, and return logits.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from lstm_jax.errors import ExchangeError, one_line
from lstm_jax.exchange import flax_files, keras_files, layouts, onnx_files, onnx_reader
from lstm_jax.exchange.layouts import Architecture, Params
from lstm_jax.exchange.metadata import DIGEST, LARGEST_FILE, check_digest, digest
from lstm_jax.system.files import read_bytes
from lstm_jax.system.packages import required


class Format(NamedTuple):
    """A file format.

    Attributes:
        file_name: the default file name.
        encode: returns the content of a file, from the parameters and the metadata.
        example: returns Python code that reads a file and computes ``logits`` of ``images``.
    """

    file_name: str
    encode: Callable[[Params, Mapping[str, str]], bytes]
    example: Callable[[Architecture, Path], str]

    @property
    def suffix(self) -> str:
        """The suffix that the programs that read such files require."""
        return Path(self.file_name).suffix


def _safetensors(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    content: bytes = required("safetensors.numpy").save(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()},
        {**metadata, DIGEST: digest(arrays, metadata)},
    )
    return content


def _pytorch_file(params: Params, metadata: Mapping[str, str]) -> bytes:
    return _safetensors(layouts.to_pytorch(params), {"format": "pt", **metadata})


def _safetensors_file(params: Params, metadata: Mapping[str, str]) -> bytes:
    return _safetensors(layouts.to_flat(params), {"format": "lstm_jax", **metadata})


def _keras_file(params: Params, metadata: Mapping[str, str]) -> bytes:
    return keras_files.keras_model(params, metadata)


def _onnx_file(params: Params, metadata: Mapping[str, str]) -> bytes:
    return onnx_files.onnx_file(params, metadata)


def _pytorch_example(architecture: Architecture, path: Path) -> str:
    inputs, hidden_size, num_layers, bidirectional, num_classes = architecture
    last = "torch.cat((h[-2], h[-1]), dim=-1)" if bidirectional else "h[-1]"
    return f"""\
import torch
from safetensors.torch import load_file

class Classifier(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = torch.nn.LSTM(
            {inputs}, {hidden_size}, num_layers={num_layers}, bidirectional={bidirectional}, batch_first=True
        )
        self.head = torch.nn.Linear({architecture.features}, {num_classes})

    def forward(self, images):
        _, (h, _) = self.lstm(images)
        return self.head({last})

model = Classifier()
model.load_state_dict(load_file({str(path)!r}))
logits = model(images)"""


def _keras_example(architecture: Architecture, path: Path) -> str:
    return f"""\
import keras

model = keras.models.load_model({str(path)!r})
logits = model(images)"""


def _safetensors_example(architecture: Architecture, path: Path) -> str:
    _, hidden_size, num_layers, bidirectional, num_classes = architecture
    return f"""\
from flax.traverse_util import unflatten_dict
from lstm_jax import LSTMClassifier
from safetensors.flax import load_file

params = unflatten_dict(load_file({str(path)!r}), sep=".")
model = LSTMClassifier({hidden_size}, {num_classes}, num_layers={num_layers}, bidirectional={bidirectional})
logits = model.apply({{"params": params}}, images)"""


def _onnx_example(architecture: Architecture, path: Path) -> str:
    return f"""\
import onnxruntime

session = onnxruntime.InferenceSession({str(path)!r})
(logits,) = session.run(None, {{"images": images}})"""


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "pytorch": Format("pytorch.safetensors", _pytorch_file, _pytorch_example),
        "keras": Format("model.keras", _keras_file, _keras_example),
        "safetensors": Format("params.safetensors", _safetensors_file, _safetensors_example),
        "onnx": Format("model.onnx", _onnx_file, _onnx_example),
    }
)


# Suffixes of files that can run any code when they are opened.
_PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt")
# Suffixes of files that can be read.
SUFFIXES = (".safetensors", ".keras", ".h5", ".hdf5", ".msgpack", ".onnx")

# The accepted dtypes of weights, which are converted to float32.
_FLOATS = ("float32", "float64", "float16", "bfloat16")

# The dtypes of safetensors. Integers occur as counters of steps.
_SAFETENSORS_TYPES: Mapping[str, str] = MappingProxyType(
    {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "bfloat16", "BOOL": "?", "C64": "<c8"}
    | {f"{kind}{8 * size}": f"<{kind.lower()}{size}" for kind in "IU" for size in (1, 2, 4, 8)}
)

_CELL_GRANTED = "gates with sigmoid, cells with tanh, no masking, an initial state of zeros"
_BY_NUMBER = "layers in the order of the numbers in their names"
# Assumptions that a file with only arrays cannot confirm.
GRANTED_OF_PYTORCH = (
    "the linear layer reads only the last state h_n of nn.LSTM, of both directions if there are two (not "
    "output[:, -1], which differs then)",
    "an initial state of zeros, and no activation or normalisation without weights in between",
    "nn.LSTM reads the time steps of each image in order, from the first one (batch_first as the images had "
    "it, no flip)",
)
GRANTED_OF_KERAS = (
    f"{_CELL_GRANTED}, each direction read at its own last step",
    "an LSTM outside of Bidirectional reads forwards (no go_backwards)",
)
# Files of Keras 2 list their layers in order; files of Keras 3 do not.
GRANTED_OF_KERAS_3 = (*GRANTED_OF_KERAS, _BY_NUMBER)
GRANTED_OF_FLAX = (
    f"{_CELL_GRANTED}, the dense layer reads the output of each direction at its own last step",
    f"{_BY_NUMBER}, the first of two cells without forward and backward in their names reads forwards, "
    "a single cell reads forwards (no reverse)",
)


class WeightFile(NamedTuple):
    """The weights in a file.

    Attributes:
        params: the parameters of `LSTMClassifier`, float32.
        metadata: the metadata of the file, see `lstm_jax.exchange.metadata.said`.
        granted: the assumptions, in words, that the file cannot confirm.
    """

    params: Params
    metadata: Mapping[str, str] = MappingProxyType({})
    granted: tuple[str, ...] = ()


def read_weights(path: Path) -> Params:
    """Read the parameters of `LSTMClassifier` from a file; see `read_file`."""
    return read_file(path).params


def read_file(path: Path) -> WeightFile:
    """Read the weights in a file of PyTorch, Keras, Flax, ONNX or this package.

    Args:
        path: a ``.safetensors`` file with the names of PyTorch, Flax or this package; a ``.keras`` file; an
            HDF5 file of Keras with a model or weights; a ``.msgpack`` file of Flax; an ``.onnx`` file.

    Raises:
        ExchangeError: if the file cannot be read, or does not hold an LSTM classifier.
    """
    try:
        _check_kind(path)
        content = _content(path)
        if path.suffix == ".safetensors":
            return _read_safetensors(content)
        if path.suffix == ".msgpack":
            flat = _checked(flax_files.read_msgpack(content))
            return WeightFile(layouts.from_flax(flat), granted=GRANTED_OF_FLAX)
        if path.suffix == ".onnx":
            return WeightFile(*onnx_reader.read_onnx(content, path.parent))
        keras = keras_files.read_keras(content, is_archive=path.suffix == ".keras")
        params = layouts.from_keras(list(_checked(keras.arrays).values()), bidirectional=keras.bidirectional)
        unsaid = GRANTED_OF_KERAS if keras.lists_layers else GRANTED_OF_KERAS_3
        return WeightFile(params, keras.metadata, () if keras.described else unsaid)
    except ExchangeError as error:
        raise ExchangeError(f"{path}: {error}") from error


def _check_kind(path: Path) -> None:
    """Refuse a file of another format before it is opened."""
    beside = [path.with_name(path.name + end) for end in (".index", ".meta")]
    if path.suffix in (".index", ".meta") or ".data-0" in path.name or any(map(Path.is_file, beside)):
        raise ExchangeError(
            "got a checkpoint of TensorFlow 1 (or of tf.train.Checkpoint), expected a file of weights; read "
            "it with tf.train.load_checkpoint, and write the arrays as safetensors with the names of "
            "nn.LSTM: a BasicLSTMCell has the gates i, g, f, o and adds forget_bias (1.0) to the bias of f"
        )
    if path.suffix.lower() in _PICKLES:
        raise ExchangeError(
            f"got a {path.suffix} file, a pickle, which can run any code when it is opened; expected "
            "safetensors: in the program that wrote it, safetensors.torch.save_file(model.state_dict(), "
            "'model.safetensors') writes that"
        )
    if path.is_dir():
        raise ExchangeError("got a folder, expected a file")
    if path.suffix not in SUFFIXES:
        raise ExchangeError(
            f"got {path.suffix or 'nothing'} at the end of the name, expected {', '.join(SUFFIXES)}"
        )


def _content(path: Path) -> bytes:
    """Read the content of a file, unless it is too large."""
    try:
        return read_bytes(path, most_bytes=LARGEST_FILE)
    except OSError as error:
        raise ExchangeError(f"cannot be read ({error.strerror}), expected a file of weights") from error
    except ValueError as error:
        raise ExchangeError(str(error)) from error


def _read_safetensors(content: bytes) -> WeightFile:
    required("ml_dtypes")  # a dependency of JAX; it adds bfloat16 to NumPy
    safetensors = required("safetensors")
    try:
        arrays = {
            name: np.frombuffer(each["data"], _SAFETENSORS_TYPES[each["dtype"]]).reshape(each["shape"])
            for name, each in safetensors.deserialize(content)
        }
        # The library returns the metadata only for a path. It has checked that they map names to texts.
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        metadata: dict[str, str] = header.get("__metadata__") or {}
    except KeyError as error:
        raise ExchangeError(
            f"got arrays of a type that cannot be read ({one_line(error)}), expected {', '.join(_FLOATS)}; "
            "call model.float() before saving"
        ) from error
    except safetensors.SafetensorError as error:
        raise ExchangeError(
            f"got a damaged file, or no safetensors file ({one_line(error)}); expected one that "
            "safetensors.torch.save_file writes"
        ) from error
    check_digest(arrays, metadata)
    arrays = _checked(arrays)
    if any(name.startswith("lstm_0_forward.") for name in arrays):
        # The names are those of this package, so nothing has to be assumed.
        return WeightFile(layouts.from_flat(arrays), metadata)
    if any(re.search(r"(^|[./])ii[./]kernel$", name) for name in arrays):
        return WeightFile(layouts.from_flax(arrays), metadata, GRANTED_OF_FLAX)
    # A file that `export` wrote, and that is unchanged, is of a known model. Others may have any forward().
    granted = () if DIGEST in metadata else GRANTED_OF_PYTORCH
    return WeightFile(layouts.from_pytorch(arrays), metadata, granted)


def _checked(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays in float32, without counters. Refuse other dtypes and values that are not finite."""
    checked = {}
    for name, array in arrays.items():
        if array.dtype.kind in "iub" and array.size == 1:
            continue  # a counter: of steps, of averaged models, or of the batches of BatchNorm
        if array.dtype.name not in _FLOATS:
            raise ExchangeError(f"{name}: got values of type {array.dtype}, expected {', '.join(_FLOATS)}")
        with np.errstate(over="ignore"):  # a float64 that overflows is refused below
            checked[name] = array.astype(np.float32)
        if not np.isfinite(checked[name]).all():
            raise ExchangeError(
                f"{name}: got NaN or infinite values, expected finite ones; use another checkpoint"
            )
    return checked
