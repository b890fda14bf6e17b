"""Weights in the files of other frameworks: what is written for each, and reading them back.

Nothing here opens a pickle, or writes one. All models take images as float32 rows of pixels from 0 (black) to
1 (white), which is what `lstm_jax.model.logits_of` makes of grey levels, and give logits.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from lstm_jax import convert, keras_files
from lstm_jax.convert import ONNX_GATES, Architecture, Params, architecture_of, join_gates
from lstm_jax.errors import ConversionError, one_line
from lstm_jax.packages import required

# Of the operators (opset) and of the file: old enough for every ONNX Runtime of the last years.
ONNX_OPSET, ONNX_IR_VERSION = 17, 8


class Format(NamedTuple):
    """A kind of file.

    Attributes:
        file_name: what such a file is called by default.
        encode: its content, from the parameters and what it is to say besides.
        example: Python code that reads it and computes ``logits`` of ``images``.
    """

    file_name: str
    encode: Callable[[Params, Mapping[str, str]], bytes]
    example: Callable[[Architecture, Path], str]

    @property
    def suffix(self) -> str:
        """How the names of such files end, because the programs that read them want it so."""
        return Path(self.file_name).suffix


def _pytorch_file(params: Params, metadata: Mapping[str, str]) -> bytes:
    state = convert.to_pytorch(params)
    content: bytes = required("safetensors.numpy").save(state, {"format": "pt", **metadata})
    return content


def _safetensors_file(params: Params, metadata: Mapping[str, str]) -> bytes:
    content: bytes = required("safetensors.numpy").save(
        {name: np.ascontiguousarray(array) for name, array in convert.to_flat(params).items()},
        {"format": "lstm_jax", **metadata},
    )
    return content


def _keras_file(params: Params, metadata: Mapping[str, str]) -> bytes:
    return keras_files.keras_model(params)  # which has no place for metadata of ours


def _onnx_file(params: Params, metadata: Mapping[str, str]) -> bytes:
    content: bytes = onnx_model(params, metadata=metadata).SerializeToString()
    return content


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


def onnx_model(params: Params, *, metadata: Mapping[str, str] = MappingProxyType({})) -> Any:
    """A model for ONNX Runtime, from ``images`` to ``logits``.

    Args:
        params: the parameters of `LSTMClassifier`.
        metadata: what the file is to say besides.

    Returns:
        An ``onnx.ModelProto``. ``images`` is float32 (batch, time, inputs) with any batch and time, and
        ``logits`` (batch, classes).

    Raises:
        ConversionError: if the package onnx is missing.
    """
    onnx = required("onnx")
    helper = onnx.helper
    architecture = architecture_of(params)
    nodes: list[Any] = []
    constants: list[Any] = []

    def constant(name: str, array: np.ndarray) -> str:
        constants.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(kind: str, *inputs: str, outputs: list[str], **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, outputs, name=outputs[-1], **attributes))
        return outputs[-1]

    below = node("Transpose", "images", outputs=["steps"], perm=[1, 0, 2])  # time first
    for layer in range(architecture.num_layers):
        name = f"lstm_{layer}"
        cells = [
            join_gates(params[f"{name}_{direction}"]["cell"], gates=ONNX_GATES)
            for direction in architecture.directions
        ]
        if layer < architecture.num_layers - 1:  # all outputs: (time, directions, batch, hidden)
            outputs, perm, shape = [f"{name}.h"], [0, 2, 1, 3], [0, 0, architecture.features]
        else:  # of each direction the one after its own last step: (directions, batch, hidden)
            outputs, perm, shape = ["", f"{name}.h_T"], [1, 0, 2], [0, architecture.features]
        h = node(
            "LSTM",
            below,
            constant(f"{name}.W", np.stack([cell.input_kernel.T for cell in cells])),
            constant(f"{name}.R", np.stack([cell.recurrent_kernel.T for cell in cells])),
            # Two biases, of which the second is zero.
            constant(f"{name}.B", np.stack([np.pad(cell.bias, (0, cell.bias.size)) for cell in cells])),
            outputs=outputs,
            hidden_size=architecture.hidden_size,
            direction="bidirectional" if architecture.bidirectional else "forward",
        )
        # The directions side by side; a 0 keeps a dimension as it is.
        side_by_side = constant(f"{name}.shape", np.array(shape, np.int64))
        turned = node("Transpose", h, outputs=[f"{name}.turned"], perm=perm)
        below = node("Reshape", turned, side_by_side, outputs=[f"{name}.features"])
    kernel, bias = (constant(f"head.{kind}", np.asarray(params["head"][kind])) for kind in ("kernel", "bias"))
    node("Gemm", below, kernel, bias, outputs=["logits"])

    float32 = onnx.TensorProto.FLOAT
    images = helper.make_tensor_value_info("images", float32, ["batch", "time", architecture.inputs])
    logits = helper.make_tensor_value_info("logits", float32, ["batch", architecture.num_classes])
    graph = helper.make_graph(nodes, "LSTMClassifier", [images], [logits], constants)
    model = helper.make_model(
        graph,
        producer_name="lstm_jax",
        ir_version=ONNX_IR_VERSION,
        opset_imports=[helper.make_opsetid("", ONNX_OPSET)],
    )
    helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    return model


# Files that run whatever code they hold when they are opened, or may do so.
_PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt")


# Types of weights; `float32` holds what the others do, or nearly.
_FLOATS = ("float32", "float64", "float16", "bfloat16")


def read_weights(path: Path) -> Params:
    """The parameters of `LSTMClassifier` from a file of PyTorch, Keras or this package.

    Args:
        path: a ``.safetensors`` file with PyTorch's names or ours, a ``.keras`` file, or a ``.weights.h5``.

    Returns:
        The parameters, float32.

    Raises:
        ConversionError: if the file cannot be read, or holds something else.
    """
    try:
        if path.suffix.lower() in _PICKLES:
            raise ConversionError(
                f"got a {path.suffix} file, a pickle, which can run any code when it is opened; expected "
                "safetensors: where it comes from, safetensors.torch.save_file(model.state_dict(), "
                "'model.safetensors') writes that"
            )
        if path.suffix not in (".safetensors", ".keras", ".h5"):
            raise ConversionError(
                f"got {path.suffix or 'nothing'} at the end of the name, expected .safetensors, .keras or "
                ".weights.h5"
            )
        if not path.is_file():
            raise ConversionError(f"got {'a folder' if path.is_dir() else 'no such file'}, expected a file")
        if path.suffix == ".safetensors":
            arrays = _checked(_read_safetensors(path))
            is_ours = any(name.startswith("lstm_0_forward.") for name in arrays)
            return convert.from_flat(arrays) if is_ours else convert.from_pytorch(arrays)
        arrays = _checked(keras_files.read_keras(path))
        bidirectional = any("/backward_layer/" in name for name in arrays)
        return convert.from_keras(list(arrays.values()), bidirectional=bidirectional)
    except ConversionError as error:
        raise ConversionError(f"{path}: {error}") from error


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    required("ml_dtypes")  # which JAX brings: without it, NumPy has no bfloat16
    safetensors = required("safetensors.numpy")
    try:
        arrays: dict[str, np.ndarray] = safetensors.load_file(path)
    except (KeyError, AttributeError) as error:  # there are types that NumPy still lacks
        raise ConversionError(
            f"got arrays of a type that cannot be read ({one_line(error)}), expected {', '.join(_FLOATS)}; "
            "call model.float() before saving"
        ) from error
    except required("safetensors").SafetensorError as error:
        raise ConversionError(
            f"got a damaged file, or none of safetensors ({one_line(error)}); expected one that "
            "safetensors.torch.save_file writes"
        ) from error
    return arrays


def _checked(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays in float32, if they are numbers to compute with."""
    checked = {}
    for name, array in arrays.items():
        if array.dtype.name not in _FLOATS:
            raise ConversionError(f"{name}: got values of type {array.dtype}, expected {', '.join(_FLOATS)}")
        with np.errstate(over="ignore"):  # of float64 values; they are refused below
            checked[name] = array.astype(np.float32)
        if not np.isfinite(checked[name]).all():
            raise ConversionError(
                f"{name}: got NaN or infinite values, expected finite ones: those of another checkpoint"
            )
    return checked
