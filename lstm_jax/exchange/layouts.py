"""Weights in the layouts of other frameworks, as pure functions of NumPy arrays.

Frameworks differ in the order of the gates, the transposition of kernels, and the number of biases:

    framework           gates         kernels                           bias
    Flax, lstm_jax      i f g o       one each, (D, H) and (H, H)       one per gate, (H,)
    PyTorch             i f g o       (4H, D) and (4H, H)               two of (4H,), whose sum counts
    Keras               i f g o       (D, 4H) and (H, 4H)               one, (4H,)
    ONNX                i o f g       (4H, D) and (4H, H)               two of (4H,), concatenated

(Keras and ONNX call the gate g "c".) All of them compute x W, or the same with a transposed kernel. The
parameters of `lstm_jax` are those of `LSTMClassifier`:

    {"lstm_0_forward": {"cell": {"ii": {"kernel"}, "hi": {"kernel", "bias"}, "if": ...}},
     "lstm_0_backward": ...,    in a bidirectional model
     "lstm_1_forward": ...,     in a model of several layers
     "head": {"kernel", "bias"}}
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float

from lstm_jax.errors import ExchangeError
from lstm_jax.kernels.gate_order import GATES

Params: TypeAlias = Mapping[str, Any]  # as above
Shape: TypeAlias = tuple[int, ...]

PYTORCH_GATES = "ifgo"
KERAS_GATES = "ifgo"
ONNX_GATES = "iofg"


class Joined(NamedTuple):
    """The weights of a cell with the gates side by side.

    Attributes:
        input_kernel: W_x, (D, 4H).
        recurrent_kernel: W_h, (H, 4H).
        bias: b, (4H,).
    """

    input_kernel: Float[np.ndarray, "inputs gates"]
    recurrent_kernel: Float[np.ndarray, "hidden gates"]
    bias: Float[np.ndarray, " gates"]


def join_gates(cell: Mapping[str, Mapping[str, np.ndarray]], *, gates: str = GATES) -> Joined:
    """Put the gates of a cell side by side.

    Args:
        cell: the weights, under the names of `flax.linen.LSTMCell`.
        gates: the order of the gates.
    """
    return Joined(
        np.concatenate([np.asarray(cell[f"i{gate}"]["kernel"]) for gate in gates], axis=1),
        np.concatenate([np.asarray(cell[f"h{gate}"]["kernel"]) for gate in gates], axis=1),
        np.concatenate([np.asarray(cell[f"h{gate}"]["bias"]) for gate in gates]),
    )


def split_gates(joined: Joined, *, gates: str = GATES) -> dict[str, dict[str, np.ndarray]]:
    """Split the weights of a cell into gates: the inverse of `join_gates`."""
    cell = {}
    parts = (np.split(np.asarray(array), len(gates), axis=-1) for array in joined)
    for gate, kernel, recurrent_kernel, bias in zip(gates, *parts, strict=True):
        cell[f"i{gate}"] = {"kernel": kernel}
        cell[f"h{gate}"] = {"kernel": recurrent_kernel, "bias": bias}
    return cell


class Architecture(NamedTuple):
    """The sizes of an `LSTMClassifier`, which the shapes of its weights determine.

    Attributes:
        inputs: D, the number of inputs of a time step.
        hidden_size: H, of each layer and direction.
        num_layers: number of LSTM layers.
        bidirectional: whether each layer reads its inputs from both ends.
        num_classes: number of logits.
    """

    inputs: int
    hidden_size: int
    num_layers: int
    bidirectional: bool
    num_classes: int

    @property
    def directions(self) -> tuple[str, ...]:
        """The directions of a layer, in the order in which their outputs are concatenated."""
        return ("forward", "backward") if self.bidirectional else ("forward",)

    @property
    def features(self) -> int:
        """The number of outputs of a layer, all its directions together."""
        return self.hidden_size * len(self.directions)

    def cells(self) -> Iterator[tuple[int, str, int]]:
        """Yield layer, direction and number of inputs of each cell."""
        for layer in range(self.num_layers):
            for direction in self.directions:
                yield layer, direction, self.features if layer else self.inputs


def architecture_of(params: Params) -> Architecture:
    """Return the architecture of parameters of `LSTMClassifier`."""
    inputs, hidden_size = np.shape(params["lstm_0_forward"]["cell"]["ii"]["kernel"])
    return Architecture(
        inputs=inputs,
        hidden_size=hidden_size,
        num_layers=sum(name.endswith("_forward") for name in params),
        bidirectional="lstm_0_backward" in params,
        num_classes=len(params["head"]["bias"]),
    )


def to_flat(params: Params) -> dict[str, np.ndarray]:
    """Flatten the parameters of `LSTMClassifier` to names like ``lstm_0_forward.cell.ii.kernel``."""
    flat: dict[str, np.ndarray] = {}
    for layer, direction, _ in architecture_of(params).cells():
        name = f"lstm_{layer}_{direction}"
        for part, arrays in params[name]["cell"].items():
            flat |= {f"{name}.cell.{part}.{kind}": np.asarray(array) for kind, array in arrays.items()}
    return flat | {f"head.{kind}": np.asarray(array) for kind, array in params["head"].items()}


def from_flat(flat: Mapping[str, np.ndarray]) -> Params:
    """Make the tree of parameters from flat names: the inverse of `to_flat`.

    Raises:
        ExchangeError: for missing or unknown arrays, and for shapes that do not fit together.
    """
    hidden_size, inputs = (
        _size(flat, f"lstm_0_forward.cell.{part}.kernel", axis=0, ndim=2) for part in ("hi", "ii")
    )
    architecture = Architecture(
        inputs=inputs,
        hidden_size=hidden_size,
        num_layers=sum(name.endswith("_forward.cell.ii.kernel") for name in flat),
        bidirectional="lstm_0_backward.cell.ii.kernel" in flat,
        num_classes=_size(flat, "head.bias", axis=0, ndim=1),
    )
    expected: dict[str, Shape] = {}
    for layer, direction, inputs in architecture.cells():
        cell = f"lstm_{layer}_{direction}.cell"
        for gate in GATES:
            expected[f"{cell}.i{gate}.kernel"] = (inputs, hidden_size)
            expected[f"{cell}.h{gate}.kernel"] = (hidden_size, hidden_size)
            expected[f"{cell}.h{gate}.bias"] = (hidden_size,)
    expected["head.kernel"] = (architecture.features, architecture.num_classes)
    expected["head.bias"] = (architecture.num_classes,)
    _check_shapes(flat, expected)

    params: dict[str, Any] = {}
    for name, array in flat.items():
        *path, last = name.split(".")
        node = params
        for key in path:
            node = node.setdefault(key, {})
        node[last] = array
    return params


def from_flax(flat: Mapping[str, np.ndarray]) -> Params:
    """Convert the parameters of a model of Flax layers to those of `LSTMClassifier`.

    Args:
        flat: the parameters of layers of ``LSTMCell`` and one ``Dense``, under names joined by ``.`` or
            ``/``. The layers may have any names: ``rnn.cell.ii.kernel``, ``LSTMCell_0.ii.kernel``. The
            numbers in the names give the order, and ``forward`` and ``backward`` the directions. Without
            these words, if the head reads two directions, the first of each two cells is the forward one.

    Raises:
        ExchangeError: for missing arrays, arrays of other layers, names that do not give the order, and
            shapes that do not fit together.
    """
    dotted = {name.replace("/", "."): array for name, array in flat.items()}
    cells = [name.removesuffix("ii.kernel") for name in dotted if re.search(r"(^|\.)ii\.kernel$", name)]
    kernels = [name for name in dotted if not name.startswith(tuple(cells)) and name.endswith("kernel")]
    if not cells or len(kernels) != 1:
        raise ExchangeError(
            f"got {len(cells)} LSTMCells and {len(kernels)} other kernels among {_listed(flat)}, expected at "
            "least one LSTMCell and one Dense"
        )
    head = kernels[0].removesuffix("kernel")

    def place(cell: str) -> tuple[list[int], bool]:
        return [int(digits) for digits in re.findall("[0-9]{1,9}", cell)], "backward" in cell

    if len({re.sub("[0-9]+|forward|backward", "#", cell) for cell in cells}) > 1:
        raise ExchangeError(
            f"got layers whose order the names do not tell ({_listed(sorted(cells))}), expected names that "
            "differ in a number, or in forward and backward"
        )
    cells.sort(key=place)
    backwards = ["backward" in cell for cell in cells]
    if any(backwards) and backwards != [False, True] * (len(cells) // 2):
        raise ExchangeError(
            f"got {_listed(cells)}, expected for each cell that reads backwards one that reads forwards: "
            "LSTMClassifier reads forwards, or in both directions"
        )
    hidden_size = _size(dotted, f"{cells[-1]}hi.kernel", axis=0, ndim=2)
    two = len(cells) % 2 == 0 and _size(dotted, kernels[0], axis=0, ndim=2) == 2 * hidden_size
    bidirectional = two or any("backward" in cell for cell in cells)
    directions = ("forward", "backward") if bidirectional else ("forward",)
    renamed: dict[str, np.ndarray] = {}
    for name, array in dotted.items():
        number = next((number for number, cell in enumerate(cells) if name.startswith(cell)), None)
        if number is not None:
            layer, direction = divmod(number, len(directions))
            name = f"lstm_{layer}_{directions[direction]}.cell.{name.removeprefix(cells[number])}"
        elif name.startswith(head):
            name = f"head.{name.removeprefix(head)}"
        renamed[name] = array
    classes = _size(renamed, "head.kernel", axis=1, ndim=2)
    return from_flat(_with_zeros(renamed, ["head.bias"], {"head.bias": (classes,)}))


def to_pytorch(params: Params) -> dict[str, np.ndarray]:
    """Make the ``state_dict`` of an equivalent PyTorch module.

    The module has ``self.lstm = nn.LSTM(D, H, num_layers, bidirectional=..., batch_first=True)`` and
    ``self.head = nn.Linear(...)``, which reads the last output of each direction, ``h_n`` of PyTorch. The
    first of the two biases is zero.

    Args:
        params: the parameters of `LSTMClassifier`.
    """
    state = {}
    for layer, direction, _ in architecture_of(params).cells():
        joined = join_gates(params[f"lstm_{layer}_{direction}"]["cell"], gates=PYTORCH_GATES)
        suffix = _pytorch_suffix(layer, direction)
        state[f"lstm.weight_ih_{suffix}"] = np.ascontiguousarray(joined.input_kernel.T)
        state[f"lstm.weight_hh_{suffix}"] = np.ascontiguousarray(joined.recurrent_kernel.T)
        state[f"lstm.bias_ih_{suffix}"] = np.zeros_like(joined.bias)
        state[f"lstm.bias_hh_{suffix}"] = joined.bias
    state["head.weight"] = np.ascontiguousarray(np.asarray(params["head"]["kernel"]).T)
    state["head.bias"] = np.asarray(params["head"]["bias"])
    return state


def from_pytorch(state: Mapping[str, np.ndarray]) -> Params:
    """Convert a PyTorch ``state_dict`` to the parameters of `LSTMClassifier`.

    Args:
        state: the arrays of one `nn.LSTM` and one `nn.Linear`, which may have any names in the module.

    Raises:
        ExchangeError: for missing arrays, arrays of other layers, and shapes that do not fit together.
    """
    lstm = _prefix(state, "weight_ih_l0", "nn.LSTM")
    head = _prefix(state, "weight", "nn.Linear")
    if f"{lstm}weight_hr_l0" in state:
        raise ExchangeError(
            f"got {lstm}weight_hr_l0, of an nn.LSTM with proj_size, whose outputs are projected; expected "
            "one without"
        )
    hidden_size = _hidden_size(state, f"{lstm}weight_hh_l0", gates_axis=0)
    architecture = Architecture(
        inputs=_size(state, f"{lstm}weight_ih_l0", axis=1, ndim=2),
        hidden_size=hidden_size,
        num_layers=sum(bool(re.fullmatch(rf"{re.escape(lstm)}weight_ih_l\d+", name)) for name in state),
        bidirectional=f"{lstm}weight_ih_l0_reverse" in state,
        num_classes=_size(state, f"{head}weight", axis=0, ndim=2),
    )
    expected: dict[str, Shape] = {}
    for layer, direction, inputs in architecture.cells():
        suffix = _pytorch_suffix(layer, direction)
        expected[f"{lstm}weight_ih_{suffix}"] = (4 * hidden_size, inputs)
        expected[f"{lstm}weight_hh_{suffix}"] = (4 * hidden_size, hidden_size)
        expected[f"{lstm}bias_ih_{suffix}"] = expected[f"{lstm}bias_hh_{suffix}"] = (4 * hidden_size,)
    expected[f"{head}weight"] = (architecture.num_classes, architecture.features)
    expected[f"{head}bias"] = (architecture.num_classes,)
    # With bias=False, nn.LSTM has no biases at all.
    of_lstm = [name for name in expected if name.startswith(f"{lstm}bias_")]
    absent = [] if any(name in state for name in of_lstm) else of_lstm
    state = _with_zeros(state, [*absent, f"{head}bias"], expected)
    _check_shapes(state, expected)

    params: dict[str, Any] = {}
    for layer, direction, _ in architecture.cells():
        suffix = _pytorch_suffix(layer, direction)
        joined = Joined(
            state[f"{lstm}weight_ih_{suffix}"].T,
            state[f"{lstm}weight_hh_{suffix}"].T,
            state[f"{lstm}bias_ih_{suffix}"] + state[f"{lstm}bias_hh_{suffix}"],
        )
        params[f"lstm_{layer}_{direction}"] = {"cell": split_gates(joined, gates=PYTORCH_GATES)}
    params["head"] = {"kernel": state[f"{head}weight"].T, "bias": state[f"{head}bias"]}
    return params


def _with_zeros(
    arrays: Mapping[str, np.ndarray], names: Collection[str], shapes: Mapping[str, Shape]
) -> dict[str, np.ndarray]:
    """Add zeros for those of the names that are missing: a missing bias is zero."""
    return {**{name: np.zeros(shapes[name], np.float32) for name in names}, **arrays}


def _pytorch_suffix(layer: int, direction: str) -> str:
    return f"l{layer}_reverse" if direction == "backward" else f"l{layer}"


def to_keras(params: Params) -> list[np.ndarray]:
    """Make the weights of an equivalent Keras model, for its ``set_weights``.

    The model has ``LSTM(H)`` layers, each within ``Bidirectional`` if there are two directions, all but the
    last with ``return_sequences=True``, and a ``Dense`` layer.

    Args:
        params: the parameters of `LSTMClassifier`.

    Returns:
        Kernel, recurrent kernel and bias of each cell, forward before backward; then kernel and bias of the
        head.
    """
    weights: list[np.ndarray] = []
    for layer, direction, _ in architecture_of(params).cells():
        weights += join_gates(params[f"lstm_{layer}_{direction}"]["cell"], gates=KERAS_GATES)
    return [*weights, np.asarray(params["head"]["kernel"]), np.asarray(params["head"]["bias"])]


def from_keras(weights: Sequence[np.ndarray], *, bidirectional: bool = False) -> Params:
    """Convert ``get_weights`` of a Keras model to the parameters of `LSTMClassifier`; see `to_keras`.

    Args:
        weights: kernel, recurrent kernel and bias of each cell; then kernel and bias of the head.
        bidirectional: whether the cells are those of ``Bidirectional`` layers.

    Raises:
        ExchangeError: for missing weights, weights of other layers, and shapes that do not fit together.
    """
    cells, rest = divmod(len(weights), 3)
    if rest != 2 or not cells:
        raise ExchangeError(
            f"got {len(weights)} weights, expected 3 for each LSTM cell (kernel, recurrent kernel, bias) and "
            "2 for a Dense layer, no other layers, and no missing bias"
        )
    names = [f"cell {cell} {kind}" for cell in range(cells) for kind in Joined._fields]
    found = dict(zip([*names, "head kernel", "head bias"], weights, strict=True))
    hidden_size = _hidden_size(found, "cell 0 recurrent_kernel", gates_axis=1)
    architecture = Architecture(
        inputs=_size(found, "cell 0 input_kernel", axis=0, ndim=2),
        hidden_size=hidden_size,
        num_layers=cells // 2 if bidirectional else cells,
        bidirectional=bidirectional,
        num_classes=_size(found, "head kernel", axis=1, ndim=2),
    )
    expected: dict[str, Shape] = {}
    for cell, (_, _, inputs) in enumerate(architecture.cells()):
        expected[f"cell {cell} input_kernel"] = (inputs, 4 * hidden_size)
        expected[f"cell {cell} recurrent_kernel"] = (hidden_size, 4 * hidden_size)
        expected[f"cell {cell} bias"] = (4 * hidden_size,)
    expected["head kernel"] = (architecture.features, architecture.num_classes)
    expected["head bias"] = (architecture.num_classes,)
    _check_shapes(found, expected)

    params: dict[str, Any] = {}
    for cell, (layer, direction, _) in enumerate(architecture.cells()):
        joined = Joined(*weights[3 * cell : 3 * cell + 3])
        params[f"lstm_{layer}_{direction}"] = {"cell": split_gates(joined, gates=KERAS_GATES)}
    params["head"] = {"kernel": weights[-2], "bias": weights[-1]}
    return params


def _prefix(state: Mapping[str, np.ndarray], suffix: str, kind: str) -> str:
    """Return the text before ``suffix`` in the only name that ends in it: the name of a module, and a dot."""
    names = [name for name in state if name == suffix or name.endswith(f".{suffix}")]
    if len(names) != 1:
        raise ExchangeError(
            f"got {len(names)} arrays called {suffix}, as {kind} has it, among {_listed(names or state)}; "
            "expected one: a module of one nn.LSTM and one nn.Linear"
        )
    return names[0].removesuffix(suffix)


def _size(arrays: Mapping[str, np.ndarray], name: str, *, axis: int, ndim: int) -> int:
    """Return one dimension of an array, after a check of their number."""
    if name not in arrays:
        raise ExchangeError(
            f"got no {name} among {_listed(arrays)}, expected the weights of an LSTM classifier"
        )
    shape = np.shape(arrays[name])
    if len(shape) != ndim or 0 in shape:
        raise ExchangeError(f"{name}: got shape {shape}, expected {ndim} dimensions, none of them 0")
    return shape[axis]


def _hidden_size(arrays: Mapping[str, np.ndarray], name: str, *, gates_axis: int) -> int:
    """Return H of a recurrent kernel, after a check that it has the gates of an LSTM."""
    hidden_size = _size(arrays, name, axis=1 - gates_axis, ndim=2)
    gates = _size(arrays, name, axis=gates_axis, ndim=2)
    if gates != 4 * hidden_size:
        kind = {hidden_size: " (a plain RNN?)", 3 * hidden_size: " (a GRU?)"}.get(gates, "")
        raise ExchangeError(
            f"{name}: got shape {arrays[name].shape}{kind}, expected the 4 gates of an LSTM, "
            f"{4 * hidden_size} for {hidden_size} hidden units"
        )
    return hidden_size


def _check_shapes(found: Mapping[str, np.ndarray], expected: Mapping[str, Shape]) -> None:
    """Refuse arrays unless they are exactly those of the architecture."""
    missing = [name for name in expected if name not in found]
    others = [name for name in found if name not in expected]
    if missing or others:
        told = [f"no {_listed(missing)}"] if missing else []
        told += [f"{_listed(others)} besides"] if others else []
        raise ExchangeError(
            f"got {' and '.join(told)}, expected the {len(expected)} arrays of an LSTM classifier with this "
            "first layer and head"
        )
    for name, shape in expected.items():
        if found[name].shape != shape:
            raise ExchangeError(
                f"{name}: got shape {found[name].shape}, expected {shape} to fit the first layer and the head"
            )


def _listed(names: Collection[str]) -> str:
    """Return the first few names as text."""
    shown = ", ".join(list(names)[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown or "nothing"


def with_normalized_inputs(params: Params, *, mean: float, std: float) -> Params:
    """Change parameters so that inputs x give the results that (x - mean) / std gave before.

    W (x - m) / s + b = (W / s) x + (b - m / s times the sum of the rows of W). So only the weights and biases
    of the first layer change.

    Args:
        params: the parameters of `LSTMClassifier`.
        mean: the number that was subtracted from the inputs in training.
        std: the number by which they were divided then; not 0.
    """
    changed = dict(params)
    for direction in architecture_of(params).directions:
        cell = join_gates(params[f"lstm_0_{direction}"]["cell"])
        kernel = cell.input_kernel / std
        scaled = Joined(kernel, cell.recurrent_kernel, cell.bias - mean * kernel.sum(axis=0))
        changed[f"lstm_0_{direction}"] = {"cell": split_gates(scaled)}
    return changed
