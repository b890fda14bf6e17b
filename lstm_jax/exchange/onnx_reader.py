"""The reader of LSTM classifiers in ONNX models of any exporter.

Exporters write the same model as different graphs. So the graph is not compared with a pattern but computed,
on random images in float64. The few operators below follow ONNX, and refuse every option that an
`LSTMClassifier` does not have. The weights are the arrays that the LSTM and dense layers use in this
computation. The model is accepted if our own graph with these weights computes the same logits.

All values together take no more than a few times the memory of the file, whatever sizes the graph declares.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from lstm_jax.config import SEQUENCE_LENGTHS
from lstm_jax.errors import ExchangeError, one_line
from lstm_jax.exchange.layouts import ONNX_GATES, Joined, Params, from_flat, split_gates, to_flat
from lstm_jax.exchange.metadata import check_digest
from lstm_jax.exchange.onnx_content import array_of, read_model
from lstm_jax.exchange.onnx_files import onnx_model
from lstm_jax.system.packages import required

# Tolerances for the logits of two graphs with the same weights, in float64. Exporters may have rounded the
# sum of two biases, or other constants, to float32.
RTOL, ATOL = 1e-5, 1e-6
# The number of images, and of time steps where neither the graph nor a task determines it.
BATCH, TIME = 3, 7
# The most numbers in all values together, for files with fewer bytes than this.
LEAST_LIMIT = 2**23

_ACTIVATIONS = (b"Sigmoid", b"Tanh", b"Tanh")


class _Seen(NamedTuple):
    """The arrays that the layers of a graph used.

    Attributes:
        lstms: W, R and B of each LSTM.
        kernels: the kernel of each dense layer, (features, classes).
        biases: the bias of each dense layer.
    """

    lstms: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
    kernels: list[np.ndarray]
    biases: list[np.ndarray]


class _Budget:
    """The limit of the numbers that a graph may make, and the rest of it."""

    def __init__(self, limit: int) -> None:
        self.limit = self.left = limit


class _Node(NamedTuple):
    """One operation.

    Attributes:
        attributes: its options, as Python values; arrays for tensors.
        budget: the limit for the whole graph.
        seen: the place where layers record their arrays.
    """

    attributes: Mapping[str, Any]
    budget: "_Budget"
    seen: _Seen

    def makes(self, *shape: int) -> None:
        """Count an array before it is made, and refuse it if the graph would make too many numbers."""
        self.budget.left -= math.prod(shape)
        if self.budget.left < 0:
            raise ExchangeError(
                f"got a graph that makes a value of shape {shape}, expected at most {self.budget.limit:,} "
                "numbers in all values together"
            )

    def axes(self, given: Sequence[np.ndarray]) -> tuple[int, ...]:
        """Return the axes: an attribute in older versions of an operator, an input in newer ones."""
        return tuple(int(axis) for axis in (given[0] if given else self.attributes["axes"]))


def read_onnx(content: bytes, folder: Path) -> tuple[Params, dict[str, str]]:
    """Read the parameters of `LSTMClassifier` from an equivalent ONNX model, and the metadata of the file.

    Args:
        content: the content of the file.
        folder: the folder of the file, which may have more files with arrays.

    Raises:
        ExchangeError: if it is no such file, or computes something else; if onnx is missing.
    """
    onnx = required("onnx")
    model = read_model(content, folder)
    metadata = {each.key: each.value for each in model.metadata_props}
    constants = _constants(onnx, model)
    check_digest(constants, metadata)
    shape = _input_shape(model.graph, constants)
    limit = max(LEAST_LIMIT, model.ByteSize())
    refusal = None
    for turned in (False, True):  # batch first; or time first, which is the default of nn.LSTM
        batch, time = (shape[1], shape[0]) if turned else shape[:2]
        usual = {28 * 28 // steps: steps for steps in SEQUENCE_LENGTHS.values()}.get(shape[2], TIME)
        sizes = (batch or BATCH, time or usual, shape[2])
        if math.prod(sizes) > limit:
            raise ExchangeError(f"got an input of shape {sizes}, expected at most {limit:,} numbers")
        first, others = (np.random.default_rng(seed).standard_normal(sizes) for seed in range(2))
        try:
            _, seen = _compute(onnx, model.graph, constants, _turned(first, turned), limit)
            params = _params(seen)
            ours = onnx_model(params)
            ours_constants = _constants(onnx, ours)
            for images in (first, others):  # the second show that the weights do not depend on the images
                logits, _ = _compute(onnx, model.graph, constants, _turned(images, turned), limit)
                expected, _ = _compute(onnx, ours.graph, ours_constants, images, limit)
                if logits.shape != expected.shape or not np.allclose(logits, expected, rtol=RTOL, atol=ATOL):
                    break
            else:
                return params, metadata
        except ExchangeError as error:
            refusal = refusal or error.with_traceback(None)  # a traceback would keep all values in memory
        except (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError) as error:
            refusal = refusal or ExchangeError(f"got a graph that cannot be computed ({one_line(error)})")
    raise refusal or ExchangeError(
        "got a graph that computes other logits than an LSTMClassifier with its weights; expected the dense "
        "layer to read the state of each direction after its own last step"
    )


def _turned(images: np.ndarray, turned: bool) -> np.ndarray:
    """Return the images with time first if ``turned``, else with batch first."""
    return np.swapaxes(images, 0, 1) if turned else images


def _constants(onnx: Any, model: Any) -> dict[str, np.ndarray]:
    """Return the arrays in a file, in their stored dtypes."""
    if model.functions or model.training_info or model.graph.sparse_initializer:
        raise ExchangeError("got functions, training or sparse arrays, expected a graph of plain operators")
    others = {node.domain for node in model.graph.node} - {"", "ai.onnx"}
    if others:
        raise ExchangeError(f"got operators of {', '.join(sorted(others))}, expected only those of ONNX")
    try:
        return {each.name: array_of(onnx, each) for each in model.graph.initializer}
    except (ValueError, TypeError, KeyError) as error:
        if isinstance(error, ExchangeError):
            raise
        raise ExchangeError(f"got a damaged file ({one_line(error)}), expected arrays as declared") from error


def _input_shape(graph: Any, constants: Mapping[str, np.ndarray]) -> tuple[int, int, int]:
    """Return batch, time and inputs as the file declares them; 0 stands for any size."""
    inputs = [each for each in graph.input if each.name not in constants]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise ExchangeError(
            f"got {len(inputs)} inputs and {len(graph.output)} outputs, expected one of each, images and "
            "logits"
        )
    dimensions = inputs[0].type.tensor_type.shape.dim
    shape = tuple(int(each.dim_value) for each in dimensions)
    if len(shape) != 3 or shape[2] < 1 or min(shape) < 0:
        raise ExchangeError(
            f"got an input of shape {shape} (0: any), expected (batch, time, inputs) with a number of inputs"
        )
    return shape[0], shape[1], shape[2]


def _compute(
    onnx: Any, graph: Any, constants: Mapping[str, np.ndarray], images: np.ndarray, limit: int
) -> tuple[np.ndarray, _Seen]:
    """Compute the output of a graph in float64, and return the arrays of its layers, too."""
    (name,) = (each.name for each in graph.input if each.name not in constants)
    values = {key: _wide(array) for key, array in constants.items()} | {name: images}
    seen, budget = _Seen([], [], []), _Budget(limit)
    for node in graph.node:
        attributes = {}
        for each in node.attribute:
            value = onnx.helper.get_attribute_value(each)
            attributes[each.name] = array_of(onnx, value) if isinstance(value, onnx.TensorProto) else value
        kind = node.op_type
        inputs = [values[key] if key else None for key in node.input]
        is_last = list(node.output) == [graph.output[0].name]
        if kind in ("Softmax", "LogSoftmax") and is_last and attributes.get("axis", -1) in (-1, 1):
            kind = "Identity"  # it turns logits into probabilities, and has no weights
        if kind not in _OPERATORS:
            raise ExchangeError(
                f"got the operator {kind}, expected those of an LSTM classifier: {', '.join(_OPERATORS)}"
            )
        results = _OPERATORS[kind](_Node(attributes, budget, seen), *inputs)
        results = results if isinstance(results, tuple) else (results,)
        values |= {key: _wide(result) for key, result in zip(node.output, results, strict=False) if key}
    return values[graph.output[0].name], seen


def _wide(array: np.ndarray) -> np.ndarray:
    """Convert floats to float64, so that equivalent graphs give nearly equal numbers."""
    return array if array.dtype.kind in "ib" else array.astype(np.float64, copy=False)


def _params(seen: _Seen) -> Params:
    """Make the parameters from the arrays that the layers used."""
    if not seen.lstms or len(seen.kernels) != 1 or len(seen.biases) > 1:
        raise ExchangeError(
            f"got {len(seen.lstms)} LSTM and {len(seen.kernels)} dense layers, expected LSTM layers and one "
            "dense layer"
        )
    kernel = seen.kernels[0].astype(np.float32)
    bias = np.zeros(kernel.shape[1]) if not seen.biases else seen.biases[0]
    params: dict[str, Any] = {"head": {"kernel": kernel, "bias": bias.astype(np.float32)}}
    if len({len(w) for w, _, _ in seen.lstms}) > 1:
        raise ExchangeError("got LSTM layers of one and of two directions, expected all of one kind")
    for layer, (w, r, b) in enumerate(seen.lstms):
        for direction, name in enumerate(("forward", "backward")[: len(w)]):
            both = np.split(b[direction], 2)
            joined = Joined(
                *(array.astype(np.float32) for array in (w[direction].T, r[direction].T, both[0] + both[1]))
            )
            params[f"lstm_{layer}_{name}"] = {"cell": split_gates(joined, gates=ONNX_GATES)}
    return from_flat(to_flat(params))


def _lstm(
    node: _Node,
    x: np.ndarray,
    w: np.ndarray,
    r: np.ndarray,
    b: np.ndarray | None = None,
    lengths: np.ndarray | None = None,
    initial_h: np.ndarray | None = None,
    initial_c: np.ndarray | None = None,
    peepholes: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Map x (time, batch, inputs) to outputs (time, directions, batch, hidden), the last h and the last c."""
    options = dict(node.attributes)
    direction = options.pop("direction", b"forward")
    hidden_size = options.pop("hidden_size")
    activations = options.pop("activations", None) or [*_ACTIVATIONS * len(w)]
    others = [name for name, value in options.items() if value not in (0, [])]
    directions = {b"forward": 1, b"bidirectional": 2}.get(direction, 0)
    if others or len(w) != directions or activations != [*_ACTIVATIONS * len(w)]:
        raise ExchangeError(
            f"got an LSTM with {', '.join(others) or 'a direction or activations'} that LSTMClassifier does "
            "not have, expected a forward or a bidirectional one with Sigmoid, Tanh, Tanh"
        )
    if lengths is not None or peepholes is not None:
        raise ExchangeError("got an LSTM with lengths or peepholes, expected one without")
    if any(each is not None and each.any() for each in (initial_h, initial_c)):
        raise ExchangeError("got an LSTM with an initial state, expected zeros")
    time, batch, _ = x.shape
    node.makes(time, directions, batch, hidden_size)
    for array in (w, r):  # they become parameters
        node.makes(*array.shape)
    b = np.zeros((directions, 8 * hidden_size)) if b is None else b
    node.seen.lstms.append((w, r, b))
    h, c = np.zeros((2, directions, batch, hidden_size))
    outputs = np.empty((time, directions, batch, hidden_size))
    for way in range(directions):
        from_inputs = x @ w[way].T + sum(np.split(b[way], 2))
        for step in range(time)[:: -1 if way else 1]:
            i, o, f, g = np.split(from_inputs[step] + h[way] @ r[way].T, 4, axis=1)
            c[way] = _sigmoid(f) * c[way] + _sigmoid(i) * np.tanh(g)
            outputs[step, way] = h[way] = _sigmoid(o) * np.tanh(c[way])
    return outputs, h, c


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))


def _gemm(node: _Node, a: np.ndarray, b: np.ndarray, c: np.ndarray | None = None) -> np.ndarray:
    if node.attributes.get("transA", 0):
        raise ExchangeError("got a Gemm with transA, expected features (batch, features)")
    node.makes(*b.shape)
    kernel = node.attributes.get("alpha", 1.0) * (b.T if node.attributes.get("transB", 0) else b)
    node.makes(len(a), kernel.shape[1])
    node.seen.kernels.append(kernel)
    if c is None:
        return a @ kernel
    bias = node.attributes.get("beta", 1.0) * np.broadcast_to(c, (1, kernel.shape[1]))
    node.seen.biases.append(bias[0])
    return a @ kernel + bias


def _matmul(node: _Node, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.ndim != 2 or b.ndim != 2:
        raise ExchangeError(f"got a MatMul of shapes {a.shape} and {b.shape}, expected a dense layer's")
    node.makes(len(a), b.shape[1])
    node.makes(*b.shape)  # it becomes a parameter
    node.seen.kernels.append(b)
    return a @ b


def _add(node: _Node, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    shape = np.broadcast_shapes(a.shape, b.shape)
    node.makes(*shape)
    if a.dtype.kind == "f":  # integers are shapes
        biases = [each for each in (a, b) if each.ndim == 1]
        if len(biases) != 1:
            raise ExchangeError(
                f"got an Add of shapes {a.shape} and {b.shape}, expected a dense layer's bias"
            )
        node.seen.biases.extend(biases)
    return a + b


def _reshape(node: _Node, x: np.ndarray, shape: np.ndarray) -> np.ndarray:
    node.makes(x.size)  # a copy, if it was transposed before
    if node.attributes.get("allowzero", 0):
        return x.reshape([int(size) for size in shape])
    return x.reshape([x.shape[axis] if size == 0 else int(size) for axis, size in enumerate(shape)])


def _flatten(node: _Node, x: np.ndarray) -> np.ndarray:
    node.makes(x.size)
    return x.reshape(math.prod(x.shape[: node.attributes.get("axis", 1)]), -1)


def _dropout(
    node: _Node, x: np.ndarray, ratio: np.ndarray | None = None, training: np.ndarray | None = None
) -> np.ndarray:
    if (training is not None and training.any()) or not node.attributes.get("is_test", 1):
        raise ExchangeError("got a Dropout in training mode, expected a model for inference, as exported")
    return x


def _slice(node: _Node, x: np.ndarray, starts: np.ndarray, ends: np.ndarray, *rest: np.ndarray) -> np.ndarray:
    axes = rest[0] if rest else np.arange(len(starts))
    steps = rest[1] if len(rest) > 1 else np.ones(len(starts), np.int64)
    cut = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if step < 1:
            raise ExchangeError("got a Slice that reads backwards, expected one that reads forwards")
        cut[int(axis)] = slice(int(start), int(end), int(step))
    return x[tuple(cut)]


def _gather(node: _Node, x: np.ndarray, indices: np.ndarray) -> np.ndarray:
    axis = node.attributes.get("axis", 0)
    node.makes(indices.size, x.size // max(x.shape[axis], 1))
    return np.take(x, indices, axis=axis)


def _concat(node: _Node, *arrays: np.ndarray) -> np.ndarray:
    node.makes(sum(array.size for array in arrays))
    return np.concatenate(arrays, axis=node.attributes["axis"])


def _constant(node: _Node) -> np.ndarray:
    ((name, value),) = node.attributes.items()
    if name not in ("value", "value_int", "value_ints", "value_float", "value_floats"):
        raise ExchangeError(f"got a constant of {name}, expected numbers")
    array = np.asarray(value)
    node.makes(*array.shape)
    return array


def _constant_of_shape(node: _Node, shape: np.ndarray) -> np.ndarray:
    node.makes(*(int(size) for size in shape))
    value = node.attributes.get("value", np.zeros(1, np.float32))
    return np.full(tuple(shape), value[0], value.dtype)


def _expand(node: _Node, x: np.ndarray, shape: np.ndarray) -> np.ndarray:
    whole = np.broadcast_shapes(x.shape, tuple(int(size) for size in shape))
    node.makes(*whole)
    return np.broadcast_to(x, whole)


def _cast(node: _Node, x: np.ndarray) -> np.ndarray:
    # FLOAT, FLOAT16, DOUBLE, BFLOAT16; INT32, INT64.
    kind = {1: np.float64, 10: np.float64, 11: np.float64, 16: np.float64, 6: np.int64, 7: np.int64}
    node.makes(*x.shape)
    return x.astype(kind[node.attributes["to"]])


def _squeeze(node: _Node, x: np.ndarray, *axes: np.ndarray) -> np.ndarray:
    return np.squeeze(x, node.axes(axes))


def _unsqueeze(node: _Node, x: np.ndarray, *axes: np.ndarray) -> np.ndarray:
    return np.expand_dims(x, node.axes(axes))


_OPERATORS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "LSTM": _lstm,
        "Gemm": _gemm,
        "MatMul": _matmul,
        "Add": _add,
        "Transpose": lambda node, x: np.transpose(x, node.attributes.get("perm")),
        "Reshape": _reshape,
        "Flatten": _flatten,
        "Squeeze": _squeeze,
        "Unsqueeze": _unsqueeze,
        "Slice": _slice,
        "Gather": _gather,
        "Concat": _concat,
        "Identity": lambda node, x: x,
        "Dropout": _dropout,
        "Constant": _constant,
        "ConstantOfShape": _constant_of_shape,
        "Expand": _expand,
        "Shape": lambda node, x: np.array(x.shape)[
            node.attributes.get("start", 0) : node.attributes.get("end", x.ndim)
        ],
        "Cast": _cast,
    }
)
