"""Descriptions of Keras models: what is not known to be harmless is refused."""

import copy
import functools
import operator
import re
from collections.abc import Callable
from typing import Any

import pytest

from lstm_jax.errors import ExchangeError
from lstm_jax.exchange.keras_models import IDLE_LAYERS, describe

LSTM = {"activation": "tanh", "recurrent_activation": "sigmoid", "use_bias": True, "units": 5}


def layer(kind: str, name: str, **config: Any) -> dict[str, Any]:
    return {"module": "keras.layers", "class_name": kind, "config": {"name": name, **config}}


def lstm(name: str, *, last: bool = True, backwards: bool = False) -> dict[str, Any]:
    return layer("LSTM", name, **LSTM, return_sequences=not last, go_backwards=backwards)


def bidirectional(name: str, *, last: bool = True) -> dict[str, Any]:
    parts = {
        "layer": lstm("f", last=last),
        "backward_layer": lstm("b", last=last, backwards=True),
    }
    return layer("Bidirectional", name, **parts, merge_mode="concat")


def dense(**config: Any) -> dict[str, Any]:
    return layer("Dense", "out", **{"units": 10, "activation": "linear", "use_bias": True, **config})


INPUT = layer("InputLayer", "images", batch_shape=[None, 28, 28], dtype="float32")
ONE_WAY = [INPUT, lstm("first", last=False), lstm("second"), dense()]
BOTH_WAYS = [INPUT, bidirectional("first", last=False), bidirectional("second"), dense()]


def sequential(layers: list[dict[str, Any]]) -> dict[str, Any]:
    return {"module": "keras", "class_name": "Sequential", "config": {"name": "model", "layers": layers}}


def call_3(name: str, **besides: Any) -> dict[str, Any]:
    """A call on the first output of a layer, as Keras 3 describes it."""
    tensor = {"class_name": "__keras_tensor__", "config": {"keras_history": [name, 0, 0]}}
    return {"args": [tensor], "kwargs": {"mask": None, "training": False, **besides}}


def call_2(name: str, **besides: Any) -> list[Any]:
    """The same in Keras 2."""
    return [[name, 0, 0, besides]]


def functional(layers: list[dict[str, Any]], call: Callable[..., Any] = call_3) -> dict[str, Any]:
    """A Functional model of a chain of layers."""
    names = [each["config"]["name"] for each in layers]
    wired = [
        {**each, "name": name, "inbound_nodes": [call(before)] if before else []}
        for each, name, before in zip(layers, names, [None, *names], strict=False)
    ]
    ends = {"input_layers": [[names[0], 0, 0]], "output_layers": [[names[-1], 0, 0]]}
    return {"class_name": "Functional", "config": {"name": "model", "layers": wired[::-1], **ends}}


WAYS = [
    sequential,
    functional,
    functools.partial(functional, call=call_2),
    # Sequential models were a bare list of layers once, and Functional ones had another name.
    lambda layers: {"class_name": "Sequential", "config": layers},
    lambda layers: {**functional(layers, call_2), "class_name": "Model"},
]


def refusal(model: Any) -> str:
    with pytest.raises(ExchangeError) as raised:
        describe(model)
    return str(raised.value)


@pytest.mark.parametrize("way", WAYS)
def test_the_layers_are_found_however_they_are_described(way: Callable[[Any], Any]) -> None:
    assert describe(way(ONE_WAY)) == (("first", "second"), (True, True, True), False, "images")
    assert describe(way(BOTH_WAYS)) == (("first", "second"), (True,) * 5, True, "images")
    without = copy.deepcopy(BOTH_WAYS)
    without[3]["config"]["use_bias"] = without[1]["config"]["layer"]["config"]["use_bias"] = False
    for each in without[1:3]:  # as Keras 2 writes them
        del each["config"]["backward_layer"]
    assert describe(way(without)) == (("first", "second"), (False, False, True, True, False), True, "images")


@pytest.mark.parametrize("way", WAYS[:2])
def test_layers_that_do_nothing_at_inference_are_no_matter(way: Callable[[Any], Any]) -> None:
    idle = [layer(kind, kind) for kind in IDLE_LAYERS]
    linear = layer("Activation", "linear", activation="linear")
    flatten, flat = layer("Flatten", "flatten"), layer("Reshape", "flat", target_shape=[5])
    rows = layer("Reshape", "rows", target_shape=[28, 28])
    first, second, head = ONE_WAY[1:]
    soft = layer("Softmax", "softmax", axis=-1)
    for layers in (
        [INPUT, *idle, rows, first, linear, second, head],
        [INPUT, first, *idle, second, flatten, flat, linear, head],
        [INPUT, first, second, *idle, head, soft],
        [INPUT, first, second, dense(activation="softmax"), *idle],
    ):
        assert describe(way(layers)).names == ("first", "second")


def test_a_second_softmax_is_refused() -> None:
    for last in (layer("Softmax", "last"), layer("Activation", "last", activation="softmax")):
        for below, words in (
            ([dense(activation="softmax")], "got activation='softmax' in the layer 'out', expected 'linear'"),
            ([dense(), layer("Softmax", "below")], "got the layers LSTM, LSTM, Dense, Softmax"),
        ):
            assert words in refusal(sequential([*ONE_WAY[:-1], *below, last]))


@pytest.mark.parametrize("kind", ["DTypePolicy", "Policy"])
def test_types_may_be_described_as_objects(kind: str) -> None:
    layers = copy.deepcopy(ONE_WAY)
    layers[1]["config"]["dtype"] = {"class_name": kind, "config": {"name": "mixed_float16"}}
    assert describe(sequential(layers)).names == ("first", "second")


OTHERS = ["GRU", "Masking", "Embedding", "BatchNormalization", "LayerNormalization", "Lambda", "Rescaling"]
OTHERS += ["TimeDistributed", "Sequential", "Permute", "InputLayer", "Mine", "GlobalAveragePooling1D"]
RELU = layer("Activation", "relu", activation="relu")


@pytest.mark.parametrize("way", WAYS[:2])
def test_any_other_layer_is_refused_wherever_it_is(way: Callable[[Any], Any]) -> None:
    def places(other: dict[str, Any], layers: list[dict[str, Any]], *places: int) -> None:
        for place in places or range(1, len(layers) + 1):
            assert refusal(way([*layers[:place], other, *layers[place:]])).startswith("got the layers ")

    for kind in OTHERS:
        places(layer(kind, "other"), ONE_WAY)
    places(RELU, ONE_WAY)
    places(lstm("third"), BOTH_WAYS)
    places(bidirectional("third"), ONE_WAY)
    places(dense() | {"config": {**dense()["config"], "name": "third"}}, ONE_WAY)
    # In another place these are no matter.
    places(layer("Flatten", "flatten"), ONE_WAY, 1, 2)
    places(layer("Reshape", "flat", target_shape=[784]), ONE_WAY, 1)
    places(layer("Reshape", "cut", target_shape=[14, 10]), ONE_WAY, 2, 3)
    places(layer("Softmax", "softmax"), ONE_WAY, 1, 2, 3)
    places(layer("Softmax", "softmax", axis=0), ONE_WAY)


PLACES: list[tuple[Any, ...]] = [(), (0,), (1,), (2,), (3,)]
IN_BOTH: list[tuple[Any, ...]] = [(1, "config", "layer"), (1, "config", "backward_layer"), (2,)]


@pytest.mark.parametrize("layers", [ONE_WAY, BOTH_WAYS])
def test_any_setting_that_is_not_known_is_refused_everywhere(layers: list[dict[str, Any]]) -> None:
    for place in PLACES + (IN_BOTH if layers is BOTH_WAYS else []):
        model = sequential(copy.deepcopy(layers))
        found = functools.reduce(operator.getitem, place, model["config"]["layers"] if place else model)
        found["config"]["surprise"] = 3
        assert "got surprise=3 in the layer" in refusal(model)
        del found["config"]["surprise"]
        found["module"] = "mine.layers"
        assert "of mine.layers, expected one of Keras's own" in refusal(model)
        found.update(module=None, registered_name="mine>LSTM")
        assert "of mine>LSTM, expected one of Keras's own" in refusal(model)


@pytest.mark.parametrize(
    ("number", "change", "words"),
    [
        (0, {"dtype": "uint8"}, "got dtype 'uint8' in the layer 'images'"),
        (0, {"sparse": True}, "got sparse=True"),
        (0, {"ragged": True}, "got ragged=True"),
        (1, {"time_major": True}, "got time_major=True in the layer 'first', expected False"),
        (1, {"stateful": True}, "got stateful=True"),
        (1, {"activation": "relu"}, "got activation='relu'"),
        (1, {"recurrent_activation": "hard_sigmoid"}, "got recurrent_activation='hard_sigmoid'"),
        (1, {"return_sequences": False}, "got return_sequences=False"),
        (2, {"return_sequences": True}, "got return_sequences=True"),
        (1, {"go_backwards": True}, "got go_backwards=True"),
        (2, {"use_bias": 7}, "got use_bias=7"),
        (1, {"dtype": {"class_name": "DTypePolicy", "config": {"name": "int8"}}}, "got dtype {'class_name'"),
        (
            1,
            {"dtype": {"class_name": "Mine", "config": {"name": "float32"}}},
            "got dtype {'class_name': 'Mine'",
        ),
        (1, {"dtype": {"class_name": "DTypePolicy", "config": {}}}, "got a description that cannot be read"),
        (1, {"inner_activation": "sigmoid"}, "got the layer 'first' of Keras 1"),
        (3, {"activation": "relu"}, "got activation='relu' in the layer 'out'"),
        (3, {"lora_rank": 4}, "got lora_rank=4"),
        (3, {"quantization_mode": "int8"}, "got quantization_mode='int8'"),
    ],
)
def test_settings_that_change_numbers_are_refused(number: int, change: dict[str, Any], words: str) -> None:
    layers = copy.deepcopy(ONE_WAY)
    layers[number]["config"].update(change)
    for way in WAYS:
        assert words in refusal(way(layers))


def test_settings_that_must_be_there_are_missed() -> None:
    for key in (*LSTM, "return_sequences", "go_backwards"):
        layers = copy.deepcopy(ONE_WAY)
        del layers[1]["config"][key]
        if key != "units":
            assert f"got no {key} in the layer 'first'" in refusal(sequential(layers))


STATE = [{"class_name": "__keras_tensor__", "config": {"keras_history": ["images", 0, 0]}}]


@pytest.mark.parametrize("call", [call_2, call_3])
@pytest.mark.parametrize(
    ("besides", "words"),
    [
        ({"initial_state": STATE}, "got call with initial_state=["),
        ({"mask": STATE[0]}, "got call with mask={"),
        ({"training": True}, "got call with training=True"),
        ({"anything": None}, "got a call of the layer 'second' with anything, expected none"),
    ],
)
def test_calls_with_more_than_an_input_are_refused(
    call: Callable[..., Any], besides: dict[str, Any], words: str
) -> None:
    model = functional(ONE_WAY, call)
    model["config"]["layers"][1]["inbound_nodes"] = [call("first", **besides)]
    assert words in refusal(model)


@pytest.mark.parametrize("call", [call_2, call_3])
def test_wires_that_make_no_chain_are_refused(call: Callable[..., Any]) -> None:
    def changed(number: int, calls: list[Any]) -> str:
        model = functional(copy.deepcopy(ONE_WAY), call)
        model["config"]["layers"][::-1][number]["inbound_nodes"] = calls
        return refusal(model)

    cell_state = re.sub("'second', 0, 0", "'second', 0, 2", repr(call("second")))
    assert "got output 2 of call 0 of the layer 'second' as the input of 'out'" in changed(
        3, [eval(cell_state)]
    )
    second_call = re.sub("'second', 0, 0", "'second', 1, 0", repr(call("second")))
    assert "got output 0 of call 1 of the layer 'second'" in changed(3, [eval(second_call)])
    assert "got 2 calls of the layer 'second'" in changed(2, [call("first"), call("first")])
    assert "got the layers second beside the chain" in changed(3, [call("first")])
    assert "beside the chain" in changed(2, [call("out")])  # a circle
    assert "got a description that cannot be read" in changed(2, [call("nowhere")])
    if call is call_3:
        two = {"args": call("first")["args"] * 2, "kwargs": {}}
        assert "got 2 inputs of the layer 'second'" in changed(2, [two])
    else:
        assert "got 2 inputs of the layer 'second'" in changed(2, [[*call("first"), *call("first")]])
    # The weights are named after the settings, the wires are not.
    model = functional(copy.deepcopy(ONE_WAY), call)
    for each, name in zip(model["config"]["layers"][1:3], ("first", "second"), strict=True):
        each["config"]["name"] = name
    assert "got the layer 'second' with the name 'first' among its settings" in refusal(model)
    model = functional(ONE_WAY, call)
    model["config"]["output_layers"] = [["out", 0, 0], ["second", 0, 0]]
    assert "got a model of 2 outputs" in refusal(model)
    model["config"]["output_layers"] = [["out", 0, 0]]
    model["config"]["input_layers"] = [["first", 0, 0]]
    assert "got another input than images" in refusal(model)


@pytest.mark.parametrize(
    "model", [None, 3, [], {}, {"class_name": "Sequential"}, {"class_name": [], "config": 1}]
)
def test_what_describes_nothing_is_refused(model: Any) -> None:
    assert refusal(model).startswith("got a ")
