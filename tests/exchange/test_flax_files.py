"""Parameters of Flax's own layers, as its users save them."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization, traverse_util

from lstm_jax.errors import ExchangeError
from lstm_jax.exchange import layouts
from lstm_jax.exchange.formats import GRANTED_OF_FLAX, read_file, read_weights
from lstm_jax.exchange.layouts import architecture_of
from tests.helpers.weights import assert_same_bits, model_of


class Compact(nn.Module):
    """Two layers, which Flax names."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        for _ in range(2):
            x = nn.RNN(nn.LSTMCell(5))(x)
        return nn.Dense(4)(x[:, -1])


class SetUp(nn.Module):
    """Layers that the user names; no bias in the head."""

    def setup(self) -> None:
        self.layers = [nn.RNN(nn.OptimizedLSTMCell(5)) for _ in range(2)]
        self.head = nn.Dense(4, use_bias=False)

    def __call__(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x)
        return self.head(x[:, -1])


class BothWays(nn.Module):
    """Two directions, cells of which Flax names."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        both = nn.Bidirectional(nn.RNN(nn.LSTMCell(5)), nn.RNN(nn.LSTMCell(5)), return_carry=True)
        carries, _ = both(x)
        return nn.Dense(4)(jnp.concatenate([h for _, h in carries], axis=-1))


class Named(nn.Module):
    """Two directions with names."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        h = []
        for name in ("backward", "forward"):
            rnn = nn.RNN(nn.LSTMCell(5, name=f"{name}_cell"), reverse=name == "backward", return_carry=True)
            h.insert(0, rnn(x)[0][1])
        return nn.Dense(4, name="out")(jnp.concatenate(h, axis=-1))


IMAGES = np.random.default_rng(0).standard_normal((3, 7, 5)).astype(np.float32)  # as many inputs as units
Write = Callable[[Path, Any], None]


def msgpack(path: Path, tree: Any) -> None:
    path.with_suffix(".msgpack").write_bytes(serialization.to_bytes(tree))


def safetensors(separator: str) -> Write:
    def write(path: Path, tree: Any) -> None:
        flat = traverse_util.flatten_dict(tree, sep=separator)
        pytest.importorskip("safetensors.numpy").save_file(flat, path.with_suffix(".safetensors"))

    return write


WAYS: list[Write] = [
    lambda path, params: msgpack(path, params),
    lambda path, params: msgpack(path, {"params": params}),
    lambda path, params: msgpack(path, {"step": np.int32(3), "params": params, "opt_state": {"mu": params}}),
    safetensors("."),
    safetensors("/"),
    lambda path, params: safetensors(".")(path, {"params": params}),
]


@pytest.mark.parametrize(
    "model", [Compact(), SetUp(), BothWays(), Named()], ids=lambda model: type(model).__name__
)
def test_models_of_flax_compute_the_same_here(model: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32),
        jax.eval_shape(model.init, jax.random.key(0), IMAGES)["params"],
    )
    expected = jax.jit(model.apply)({"params": params}, IMAGES)
    found = []
    for number, write in enumerate(WAYS):
        write(tmp_path / f"{number}", params)
        (file,) = tmp_path.glob(f"{number}.*")
        read = read_file(file)
        assert read.granted == GRANTED_OF_FLAX
        found.append(read.params)
        assert_same_bits(read.params, found[0])
    logits = jax.jit(model_of(architecture_of(found[0])).apply)({"params": found[0]}, IMAGES)
    # Cells of Flax sum in other orders: some units in the seventh digit of logits near 3.
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


CELL = {f"{part}{gate}": {"kernel": np.ones((5, 5), np.float32)} for part in "ih" for gate in "ifgo"}
for _gate in "ifgo":
    CELL[f"h{_gate}"]["bias"] = np.ones(5, np.float32)
HEAD = {"kernel": np.ones((5, 4), np.float32), "bias": np.ones(4, np.float32)}


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        (3, "got a single int, expected a tree of parameters"),
        ({"out": HEAD}, "got 0 LSTMCells and 1 other kernels"),
        ({"a": CELL, "out": HEAD, "more": HEAD}, "got 1 LSTMCells and 2 other kernels"),
        ({"upper": CELL, "lower": CELL, "out": HEAD}, "got layers whose order the names do not tell"),
        ({"params": {"a": CELL, "out": HEAD}, "batch_stats": {}}, "got batch_stats beside the parameters"),
        ({"a": {**CELL, "hi": {}}, "out": HEAD}, "got no a.hi.kernel among"),
        ({"a": CELL, "out": HEAD, "scale": np.ones(5)}, "got scale besides"),
        ({"forward": CELL, "backward": CELL, "out": HEAD}, "head.kernel: got shape (5, 4), expected (10, 4)"),
        ({"backward": CELL, "out": HEAD}, "got backward., expected for each cell that reads backwards one"),
        ({"backward_0": CELL, "forward_1": CELL, "out": HEAD}, "got backward_0., forward_1., expected"),
        ({"a": CELL, "out": {**HEAD, "bias": "text"}}, "out.bias: got text, expected an array"),
        ({"a": CELL, "out": {**HEAD, "bias": 1j}}, "got an extension 2 of MessagePack"),
    ],
)  # fmt: skip
def test_what_is_no_such_model_of_flax_is_refused(tree: Any, words: str, tmp_path: Path) -> None:
    path = tmp_path / "x.msgpack"
    path.write_bytes(serialization.msgpack_serialize(tree))
    with pytest.raises(ExchangeError) as raised:
        read_weights(path)
    assert words in str(raised.value)


def test_damaged_and_hostile_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.msgpack"
    whole_file = serialization.to_bytes({"a": CELL, "out": HEAD})
    deep = b"\x81\xa1a" * 5000 + b"\xc0"
    lists = b"\xdd" + (10**6).to_bytes(4, "big") + b"\x90" * 10**6  # a million lists, of 56 bytes each
    objects = serialization.msgpack_serialize({"a": np.ones(1)}).replace(b"float64", b"object_")
    comma = serialization.msgpack_serialize({"a": np.ones(1)}).replace(b"float64", b"(1,f4  ")
    for content in (whole_file[:-7], whole_file[7:], whole_file + b"\0", deep, lists, objects, comma, b""):
        path.write_bytes(content)
        with pytest.raises(
            ExchangeError, match=r"got (a damaged file, or no Flax file|an array of '(object_|\(1,f4))"
        ):
            read_weights(path)


@pytest.mark.parametrize("in_a_group", [100, 10**4])
def test_files_of_names_alone_do_not_fill_the_memory(in_a_group: int, tmp_path: Path) -> None:
    group = b"\xde" + in_a_group.to_bytes(2, "big") + b"\xa1a\x80" * in_a_group
    path = tmp_path / "x.msgpack"
    path.write_bytes(b"\xde" + (900).to_bytes(2, "big") + (b"\xa1a" + group) * 900)
    tracemalloc.start()
    try:
        with pytest.raises(ExchangeError, match=r"got more than 20,000 names|got a damaged file"):
            read_weights(path)
        assert tracemalloc.get_traced_memory()[1] < path.stat().st_size + 10e6
    finally:
        tracemalloc.stop()


def test_our_own_parameters_have_their_own_names() -> None:
    with pytest.raises(ExchangeError, match=r"got no head\.bias"):
        layouts.from_flat(
            {
                "lstm_0_forward.cell.hi.kernel": np.ones((5, 5)),
                "lstm_0_forward.cell.ii.kernel": np.ones((5, 5)),
            }
        )
