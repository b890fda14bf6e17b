"""ONNX models of others: those that compute what ours does are read, and no others."""

import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lstm_jax.errors import ExchangeError
from lstm_jax.exchange import formats, layouts, onnx_files
from lstm_jax.exchange.formats import read_file
from lstm_jax.exchange.layouts import Architecture
from lstm_jax.exchange.onnx_content import LARGEST_GRAPH
from tests.helpers.weights import assert_same_bits, random_params

onnx = pytest.importorskip("onnx")
ARCHITECTURES = [
    Architecture(3, 5, 1, False, 4),
    Architecture(3, 5, 2, True, 4),
    Architecture(1, 2, 2, False, 2),
]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_our_models_come_back_with_the_same_bits(architecture: Architecture, tmp_path: Path) -> None:
    params, path = random_params(architecture), tmp_path / "x.onnx"
    path.write_bytes(onnx_files.onnx_file(params, {"task": "rows"}))
    read = read_file(path)
    assert_same_bits(read.params, params)
    assert read.granted == ()
    # One bit of a weight, one letter of the metadata: the digest in the file tells.
    path.write_bytes(path.read_bytes().replace(b"rows", b"rowz"))
    with pytest.raises(ExchangeError, match=r"got arrays and metadata of SHA-256 .* it is damaged"):
        read_file(path)
    content = bytearray(path.read_bytes().replace(b"rowz", b"rows"))
    content[content.index(np.asarray(params["head"]["kernel"]).tobytes()) + 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ExchangeError, match=r"got arrays and metadata of SHA-256 .* it is damaged"):
        read_file(path)


def exported(path: Path, forward: Callable[..., Any], **options: Any) -> dict[str, np.ndarray]:
    """What PyTorch writes of a module of nn.LSTM and nn.Linear; returns its state dict."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)

    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = torch.nn.LSTM(3, 5, **{"batch_first": True, **options})
            self.head = torch.nn.Linear(
                10 if options.get("bidirectional") else 5, 4, bias=options.get("bias", True)
            )

        def forward(self, images: Any) -> Any:
            return forward(self.head, *self.lstm(images))

    module = Module()
    with warnings.catch_warnings():  # it says that there is a newer exporter, which needs one more package
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (torch.ones(2, 7, 3),), str(path), dynamo=False)
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


def last_state(head: Any, outputs: Any, state: Any) -> Any:
    return head(state[0][-1])


def both_last_states(head: Any, outputs: Any, state: Any) -> Any:
    import torch

    return torch.softmax(head(torch.cat((state[0][-2], state[0][-1]), -1)), -1)


@pytest.mark.parametrize(
    ("forward", "options"),
    [
        (last_state, {}),
        (last_state, {"bias": False}),
        (last_state, {"batch_first": False}),
        (both_last_states, {"bidirectional": True, "num_layers": 2}),
        (lambda head, outputs, state: head(outputs[:, -1, :]), {"num_layers": 2}),
    ],
)
def test_what_pytorch_exports_is_read(forward: Any, options: dict[str, Any], tmp_path: Path) -> None:
    state = exported(tmp_path / "x.onnx", forward, **options)
    expected = layouts.to_flat(layouts.from_pytorch(state))
    found = layouts.to_flat(read_file(tmp_path / "x.onnx").params)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        # Of two biases the sum is rounded once, here or there.
        np.testing.assert_allclose(found[name], array, rtol=1e-6, atol=1e-7, err_msg=name)


@pytest.mark.parametrize(
    ("forward", "options", "words"),
    [
        (lambda head, outputs, state: head(state[1][-1]), {}, "computes other logits"),
        (lambda head, outputs, state: head(outputs[:, 0]), {}, "computes other logits"),
        (lambda head, outputs, state: head(outputs[:, -1]), {"bidirectional": True}, "computes other logits"),
        (lambda head, outputs, state: head(outputs.mean(1)), {}, "got the operator ReduceMean"),
        (lambda head, outputs, state: head(state[0][-1].relu()), {}, "got the operator Relu"),
        (lambda head, outputs, state: head(state[0][-1]) + head(state[0][-1]), {}, "got an Add of shapes"),
        (lambda head, outputs, state: (head(state[0][-1]), outputs), {}, "got 1 inputs and 2 outputs"),
    ],
)  # fmt: skip
def test_models_of_pytorch_that_compute_something_else_are_refused(
    forward: Any, options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    exported(tmp_path / "x.onnx", forward, **options)
    with pytest.raises(ExchangeError, match=words):
        read_file(tmp_path / "x.onnx")


def changed(change: Callable[[Any], object], path: Path) -> str:
    """Why a changed model of ours is refused."""
    model = onnx_files.onnx_model(random_params(ARCHITECTURES[1]))
    change(model)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ExchangeError) as raised:
        read_file(path)
    return str(raised.value)


def first_lstm(model: Any) -> Any:
    return next(node for node in model.graph.node if node.op_type == "LSTM")


def with_option(name: str, value: Any) -> Callable[[Any], object]:
    return lambda model: first_lstm(model).attribute.append(onnx.helper.make_attribute(name, value))


def with_input(place: int, array: np.ndarray) -> Callable[[Any], object]:
    def change(model: Any) -> None:
        node = first_lstm(model)
        node.input.extend([""] * (place + 1 - len(node.input)))
        node.input[place] = "more"
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, "more"))

    return change


HUGE = np.array([10**6, 10**6])


def with_node(kind: str, *arrays: np.ndarray) -> Callable[[Any], object]:
    """A graph that makes something else besides."""

    def change(model: Any) -> None:
        names = [f"more_{number}" for number in range(len(arrays))]
        for name, array in zip(names, arrays, strict=True):
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        options = {"axis": 0} if kind == "Concat" else {}
        model.graph.node.insert(0, onnx.helper.make_node(kind, names, ["made"], **options))

    return change


def doubled(model: Any) -> None:
    """Thirty times twice as much."""
    made = [onnx.helper.make_node("Concat", [f"m{n}"] * 2, [f"m{n + 1}"], axis=0) for n in range(30)]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(1000, np.float32), "m0"))
    for node in reversed(made):
        model.graph.node.insert(0, node)


def many_values(model: Any) -> None:
    """Forty values, none of them too large."""
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([10**6]), "many"))
    for number in range(40):
        model.graph.node.insert(0, onnx.helper.make_node("ConstantOfShape", ["many"], [f"made_{number}"]))


def many_copies(model: Any) -> None:
    """A value once, and many arrays of its numbers in another order."""
    for name, array in (("many", np.array([1000, 1000])), ("all", np.array([-1]))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    made = [onnx.helper.make_node("ConstantOfShape", ["many"], ["made"])]
    made += [onnx.helper.make_node("Transpose", ["made"], ["turned"])]
    made += [onnx.helper.make_node("Reshape", ["turned", "all"], [f"copy_{number}"]) for number in range(40)]
    for node in reversed(made):
        model.graph.node.insert(0, node)


def many_nodes(model: Any) -> None:
    model.graph.node.extend([onnx.NodeProto()] * (LARGEST_GRAPH // 2))


def weights_of_images(model: Any) -> None:
    """The bias of the dense layer is a number of the images."""
    first = np.zeros(3, np.int64)
    nodes = [onnx.helper.make_node("Flatten", ["images"], ["flat"], axis=0)]
    nodes += [onnx.helper.make_node("Slice", ["flat", "starts", "ends", "axes"], ["one"])]
    nodes += [onnx.helper.make_node("Reshape", ["one", "all"], ["bias"])]
    for name, array in (
        ("starts", first[:1]), ("ends", first[:1] + 4), ("axes", first[:1] + 1), ("all", first[:1] - 1)
    ):  # fmt: skip
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model.graph.node[-1].input[2] = "bias"
    for node in reversed(nodes):
        model.graph.node.insert(0, node)


def of_another_domain(model: Any) -> None:
    """Without a word of it among the imports."""
    model.graph.node[-1].domain = "mine"


def dropout(*, training: bool) -> Callable[[Any], object]:
    """A Dropout before the dense layer, that says its mode."""

    def change(model: Any) -> None:
        head = model.graph.node[-1]
        for name, array in (("ratio", np.array(0.5, np.float32)), ("mode", np.array(training))):
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        inputs = [head.input[0], "ratio", "mode"]
        model.graph.node.insert(
            len(model.graph.node) - 1, onnx.helper.make_node("Dropout", inputs, ["fewer"])
        )
        model.graph.node[-1].input[0] = "fewer"

    return change


def elsewhere(location: str, offset: str = "0") -> Callable[[Any], object]:
    def change(model: Any) -> None:
        for tensor in model.graph.initializer:
            tensor.data_location = onnx.TensorProto.EXTERNAL
            where = {"location": location, "offset": offset, "length": str(len(tensor.raw_data))}
            for key, value in where.items():
                tensor.external_data.add(key=key, value=value)
            tensor.ClearField("raw_data")

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (with_option("activations", ["Relu", "Tanh", "Tanh"] * 2), "got an LSTM with"),
        (with_option("clip", 0.5), "got an LSTM with clip"),
        (with_option("input_forget", 1), "got an LSTM with input_forget"),
        (with_input(4, np.array([7, 7, 7], np.int32)), "got an LSTM with lengths or peepholes"),
        (with_input(5, np.full((2, 3, 5), 1e-9, np.float32)), "got an LSTM with an initial state"),
        (with_input(7, np.ones((2, 15), np.float32)), "got an LSTM with lengths or peepholes"),
        (with_node("ConstantOfShape", HUGE), "makes a value of shape (1000000, 1000000), expected at most"),
        (with_node("Expand", np.ones(1), HUGE), "makes a value of shape (1000000, 1000000)"),
        (with_node("MatMul", np.ones((4000, 1)), np.ones((1, 4000))), "makes a value of shape (4000, 4000)"),
        (with_node("Add", np.ones((4000, 1)), np.ones((1, 4000))), "makes a value of shape (4000, 4000)"),
        (with_node("Loop", np.array(10**12)), "got the operator Loop, expected those of an LSTM classifier"),
        (doubled, "expected at most 8,388,608 numbers in all values together"),
        (many_values, "makes a value of shape (1000000,), expected at most 8,388,608 numbers in all values"),
        (many_copies, "expected at most 8,388,608 numbers in all values together"),
        (many_nodes, "got a graph of more than 1,048,576 bytes without its arrays"),
        (weights_of_images, "computes other logits"),
        (of_another_domain, "got operators of mine, expected only those of ONNX"),
        (dropout(training=True), "got a Dropout in training mode"),
        (elsewhere("../secret"), "got an array in the file '../secret' (not the name of a file beside"),
        (elsewhere("nowhere"), "got an array in the file 'nowhere'"),
        (elsewhere("x.onnx"), "got more bytes of arrays than x.onnx has, expected each once"),
        (elsewhere("x.onnx", "-9"), "got a damaged file"),
        (elsewhere("x.onnx", "1" * 5000), "got a damaged file"),
        (lambda model: model.graph.input[0].type.tensor_type.shape.dim[0].__setattr__("dim_value", 2**40),
         "got an input of shape"),
    ],
)  # fmt: skip
def test_hostile_and_other_models_are_refused(
    change: Callable[[Any], object], words: str, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(bytes(10**6))
    (tmp_path / "folder").mkdir()
    assert words in changed(change, tmp_path / "folder" / "x.onnx")


def test_graphs_that_would_fill_the_memory_are_refused_before(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    for change in (many_values, many_copies):
        changed(change, path)  # imports, once
        tracemalloc.start()
        try:
            with pytest.raises(ExchangeError):
                read_file(path)
            # Twice 8 million numbers would be 128 MB, and 40 values 320 MB.
            assert tracemalloc.get_traced_memory()[1] < 80e6
        finally:
            tracemalloc.stop()


def test_a_dropout_at_inference_is_no_matter(tmp_path: Path) -> None:
    params = random_params(ARCHITECTURES[1])
    model = onnx_files.onnx_model(params)
    dropout(training=False)(model)
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    assert_same_bits(formats.read_weights(tmp_path / "x.onnx"), params)


def test_arrays_in_a_second_file_are_read(tmp_path: Path) -> None:
    params = random_params(ARCHITECTURES[1])
    onnx.save(
        onnx_files.onnx_model(params), tmp_path / "x.onnx", save_as_external_data=True, size_threshold=0
    )
    assert (tmp_path / "x.onnx").stat().st_size < sum(a.nbytes for a in layouts.to_flat(params).values())
    assert_same_bits(formats.read_weights(tmp_path / "x.onnx"), params)
