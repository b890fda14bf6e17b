"""The writer of LSTM classifiers as ONNX models, for ONNX Runtime.

The reader is `lstm_jax.exchange.onnx_reader`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from lstm_jax.exchange.layouts import ONNX_GATES, Params, architecture_of, join_gates
from lstm_jax.exchange.metadata import DIGEST, digest
from lstm_jax.system.packages import required

# Versions of the operators (opset) and of the file format, old enough for any recent ONNX Runtime.
ONNX_OPSET, ONNX_IR_VERSION = 17, 8


def onnx_file(params: Params, metadata: Mapping[str, str]) -> bytes:
    """Return the content of a file of `onnx_model`, with a digest in its metadata."""
    model = onnx_model(params, metadata=metadata)
    onnx = required("onnx")
    arrays = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    onnx.helper.set_model_props(model, {**metadata, DIGEST: digest(arrays, metadata)})
    content: bytes = model.SerializeToString()
    return content


def onnx_model(params: Params, *, metadata: Mapping[str, str] = MappingProxyType({})) -> Any:
    """Make a model for ONNX Runtime, from ``images`` to ``logits``.

    Args:
        params: the parameters of `LSTMClassifier`.
        metadata: the metadata of the file.

    Returns:
        An ``onnx.ModelProto``. ``images`` is float32 (batch, time, inputs) with any batch and time, and
        ``logits`` (batch, classes).

    Raises:
        ExchangeError: if the package onnx is missing.
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
        else:  # the output of each direction at its own last step: (directions, batch, hidden)
            outputs, perm, shape = ["", f"{name}.h_T"], [1, 0, 2], [0, architecture.features]
        h = node(
            "LSTM",
            below,
            constant(f"{name}.W", np.stack([cell.input_kernel.T for cell in cells])),
            constant(f"{name}.R", np.stack([cell.recurrent_kernel.T for cell in cells])),
            # ONNX has two biases; the second is zero.
            constant(f"{name}.B", np.stack([np.pad(cell.bias, (0, cell.bias.size)) for cell in cells])),
            outputs=outputs,
            hidden_size=architecture.hidden_size,
            direction="bidirectional" if architecture.bidirectional else "forward",
        )
        # Concatenate the directions; a 0 keeps a dimension as it is.
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
