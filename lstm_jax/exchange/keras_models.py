"""The check that the description of a Keras model is that of an LSTM classifier.

Keras 2 and 3 describe a model as layers with settings. A Functional model also has the calls that connect
them. Any layer, setting or connection that is not known to be harmless is refused. Otherwise a model with,
say, a dense layer on the cell state would be read as another model, with wrong results and no warning.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from lstm_jax.errors import ExchangeError

# Layers that do nothing at inference, whatever their settings.
IDLE_LAYERS = (
    "Dropout",
    "SpatialDropout1D",
    "GaussianNoise",
    "GaussianDropout",
    "AlphaDropout",
    "ActivityRegularization",
)

# Settings and their accepted values.
Settings = Mapping[str, Sequence[Any]]
YES, NO, NONE, EITHER = (True,), (False,), (None,), (True, False)
_LSTM: Settings = MappingProxyType(
    {"activation": ("tanh",), "recurrent_activation": ("sigmoid",), "use_bias": EITHER}
)
_LSTM_IF_THERE: Settings = MappingProxyType({"time_major": NO, "stateful": NO})
_DENSE: Settings = MappingProxyType({"activation": ("linear", "softmax"), "use_bias": EITHER})
_DENSE_BELOW_SOFTMAX: Settings = MappingProxyType({**_DENSE, "activation": ("linear",)})
_DENSE_IF_THERE: Settings = MappingProxyType(
    {"lora_rank": NONE, "quantization_mode": NONE, "quantization_config": NONE}
)
_INPUT_IF_THERE: Settings = MappingProxyType({"sparse": NO, "ragged": NO})

# Settings that do not change the results at inference: names, shapes, initial values, settings for training,
# and choices of implementation. `return_state` is harmless, because connections to the state are refused.
_ANYWHERE = {"name", "trainable", "dtype", "batch_input_shape", "batch_shape", "activity_regularizer"}
_OF_WEIGHTS = {
    f"{weights}_{kind}"
    for weights in ("kernel", "recurrent", "bias")
    for kind in ("initializer", "regularizer", "constraint")
}
_HARMLESS: Mapping[str, set[str]] = MappingProxyType(
    {
        "LSTM": _ANYWHERE
        | _OF_WEIGHTS
        | {"units", "return_state", "unroll", "zero_output_for_mask", "unit_forget_bias", "dropout", "seed"}
        | {"recurrent_dropout", "implementation", "input_dim", "input_length", "use_cudnn"},
        "Bidirectional": _ANYWHERE,
        "Dense": _ANYWHERE | _OF_WEIGHTS | {"units", "lora_alpha", "input_dim"},
        "InputLayer": _ANYWHERE | {"optional"},
        "model": {
            "name",
            "trainable",
            "dtype",
            "layers",
            "build_input_shape",
            "input_layers",
            "output_layers",
        },
    }
)
# The only arguments, besides its input, that a layer may be called with.
_CALL_IF_THERE: Settings = MappingProxyType(
    {"mask": NONE, "training": (None, False), "initial_state": NONE, "constants": NONE}
)
_OF_KERAS = re.compile(r"(tensorflow\.(python\.)?)?(tf_)?keras(\..*)?")
_FLOATS = re.compile("(mixed_)?(float32|float64|float16|bfloat16)")
# The classes of a dtype described as an object: in Keras 3, in its first versions, and in Keras 2.
_POLICIES = ("DTypePolicy", "FloatDTypePolicy", "Policy")


class Description(NamedTuple):
    """The description of a model that can be read.

    Attributes:
        names: names of the LSTM or Bidirectional layers, from the first to the last.
        use_bias: whether each cell has a bias, forward before backward; then whether the head has one.
        bidirectional: whether the layers are Bidirectional ones.
        input_name: name of the input layer; empty if there is none.
    """

    names: tuple[str, ...]
    use_bias: tuple[bool, ...]
    bidirectional: bool
    input_name: str


def describe(model: Any) -> Description:
    """Check the configuration of a model, and return its description.

    Args:
        model: the JSON object in ``config.json`` of Keras, or in the attribute ``model_config``.

    Raises:
        ExchangeError: if the model computes something else than `LSTMClassifier`, or may do so.
    """
    try:
        return _describe(model)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, RecursionError) as error:
        if isinstance(error, ExchangeError):
            raise
        raise ExchangeError(
            f"got a description that cannot be read ({type(error).__name__}: {str(error)[:60]}); expected "
            "one of Keras 2 or 3, as model.save('model.keras') writes it"
        ) from error


def _describe(model: Mapping[str, Any]) -> Description:
    layers = _chain(model)
    for layer in layers:
        _check_origin(layer)
    input_name = ""
    if layers and layers[0]["class_name"] == "InputLayer":
        _check_settings(layers[0], {}, _INPUT_IF_THERE)
        input_name = layers[0]["config"]["name"]
        layers = layers[1:]
    layers = [layer for layer in layers if not _is_idle(layer)]
    of_head = _DENSE
    if layers and _is_softmax(layers[-1]):  # it turns logits into probabilities, and has no weights
        layers, of_head = layers[:-1], _DENSE_BELOW_SOFTMAX  # a second softmax would change the results
    layers = _without_reshaping(layers)
    kinds = [layer["class_name"] for layer in layers]
    if len(kinds) < 2 or kinds[-1] != "Dense" or set(kinds[:-1]) not in ({"LSTM"}, {"Bidirectional"}):
        raise ExchangeError(
            f"got the layers {', '.join(kinds) or 'none'}, expected LSTM or Bidirectional layers and a Dense "
            "layer; remove the others from the model, and change the images as they did"
        )
    *recurrent, head = layers
    use_bias: list[bool] = []
    for number, layer in enumerate(recurrent):
        for cell, go_backwards in _cells(layer):
            settings = {"return_sequences": (number < len(recurrent) - 1,), "go_backwards": (go_backwards,)}
            _check_settings(cell, {**_LSTM, **settings}, _LSTM_IF_THERE)
            use_bias.append(cell["config"]["use_bias"])
    _check_settings(head, of_head, _DENSE_IF_THERE)
    names = tuple(str(layer["config"]["name"]) for layer in recurrent)
    return Description(
        names, (*use_bias, head["config"]["use_bias"]), kinds[0] == "Bidirectional", input_name
    )


def _chain(model: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the layers from the input to the output, if each reads only the one before it."""
    kind, config = model["class_name"], model["config"]
    if kind not in ("Sequential", "Functional", "Model"):
        raise ExchangeError(
            f"got a model of class {kind}, whose layers the file does not describe; expected Sequential or "
            "Functional; of other models, model.save_weights('model.weights.h5') can be read"
        )
    _check_origin(model)
    if isinstance(config, list):  # Sequential models of Keras before 2.2.3
        return config
    _check_settings({"class_name": "model", "config": config}, {}, {})
    layers: list[Mapping[str, Any]] = config["layers"]
    if kind == "Sequential":
        return layers
    for layer in layers:  # calls use the first name, weights the second
        if layer["name"] != layer["config"]["name"]:
            raise ExchangeError(
                f"got the layer {layer['name']!r} with the name {layer['config']['name']!r} among its "
                "settings, expected the same name"
            )
    by_name = {layer["name"]: layer for layer in layers}
    name = _first_output(_the_only(config["output_layers"], "outputs"))
    chain = [by_name[name]]
    while chain[-1]["inbound_nodes"] and len(chain) <= len(layers):
        chain.append(by_name[_input_of(chain[-1])])
    others = [name for name in by_name if all(name != layer["name"] for layer in chain)]
    if others or len(chain) != len(by_name) or len(by_name) != len(layers):
        raise ExchangeError(
            f"got the layers {', '.join(others) or ', '.join(by_name)} beside the chain from input to "
            "output, expected a model in which each layer reads the one before it"
        )
    if _first_output(_the_only(config["input_layers"], "inputs")) != chain[-1]["name"]:
        raise ExchangeError(f"got another input than {chain[-1]['name']}, the first layer of the chain")
    return chain[::-1]


def _input_of(layer: Mapping[str, Any]) -> str:
    """Return the name of the one layer that a layer reads."""
    name, calls = layer["name"], layer["inbound_nodes"]
    if len(calls) != 1:
        raise ExchangeError(
            f"got {len(calls)} calls of the layer {name!r}, expected one: LSTMClassifier shares no weights"
        )
    call = calls[0]
    if isinstance(call, dict):  # Keras 3
        besides = call["kwargs"]
        tensors = [
            tensor["config"]["keras_history"]
            for each in call["args"]
            for tensor in (each if isinstance(each, list) else [each])
        ]
    else:  # Keras 2: [[name, call, output, besides]]
        tensors = [call] if isinstance(call[0], str) else call
        besides = {
            key: value for each in tensors for key, value in (each[3] if len(each) > 3 else {}).items()
        }
        tensors = [each[:3] for each in tensors]
    if len(tensors) != 1:
        raise ExchangeError(f"got {len(tensors)} inputs of the layer {name!r}, expected one")
    _check_values(name, besides, _CALL_IF_THERE, what="call with")
    unknown = sorted(set(besides) - set(_CALL_IF_THERE))
    if unknown:
        raise ExchangeError(f"got a call of the layer {name!r} with {', '.join(unknown)}, expected none")
    return _first_output(tensors[0], of=name)


def _the_only(places: Sequence[Any], what: str) -> Sequence[Any]:
    """Return the only one of the model's inputs or outputs, given as [name, 0, 0] or a list with it."""
    places = [places] if isinstance(places[0], str) else places
    if len(places) != 1:
        raise ExchangeError(f"got a model of {len(places)} {what}, expected one")
    return places[0]


def _first_output(place: Sequence[Any], *, of: str = "the model") -> str:
    """Return the layer at a place, which must be the first output of its first call."""
    name, call, output = place
    if (call, output) != (0, 0):
        raise ExchangeError(
            f"got output {output} of call {call} of the layer {name!r} as the input of {of!r}, expected "
            "output 0 of call 0: the outputs, not the cell state"
        )
    return str(name)


def _check_origin(layer: Mapping[str, Any]) -> None:
    """Refuse classes that are not from Keras, even if they have the same name."""
    module, registered = layer.get("module"), layer.get("registered_name")
    if (module is not None and not _OF_KERAS.fullmatch(module)) or registered not in (
        None,
        layer["class_name"],
    ):
        raise ExchangeError(
            f"got the class {layer['class_name']} of {module or registered}, expected one of Keras's own"
        )


def _is_idle(layer: Mapping[str, Any]) -> bool:
    is_linear = layer["class_name"] == "Activation" and layer["config"]["activation"] == "linear"
    return layer["class_name"] in IDLE_LAYERS or is_linear


def _is_softmax(layer: Mapping[str, Any]) -> bool:
    config = layer["config"]
    if layer["class_name"] == "Softmax":
        return config.get("axis", -1) in (-1, 1, [-1])
    return layer["class_name"] == "Activation" and config["activation"] == "softmax"


def _without_reshaping(layers: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the layers without reshapes that do not change the inputs of LSTM and Dense layers."""
    kinds = [layer["class_name"] for layer in layers]
    places = [place for place, kind in enumerate(kinds) if kind in ("LSTM", "Bidirectional")]
    if not places:
        return list(layers)

    def changes(place: int) -> bool:
        if kinds[place] == "Reshape":  # images to sequences before any LSTM, or features to features after
            dimensions = len(layers[place]["config"]["target_shape"])
            return not ((place < places[0] and dimensions == 2) or (place > places[-1] and dimensions == 1))
        return not (kinds[place] == "Flatten" and place > places[-1])

    return [layer for place, layer in enumerate(layers) if changes(place)]


def _cells(layer: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], bool]]:
    """Yield the LSTM layers within a layer, forward before backward, and whether each must read backwards."""
    if layer["class_name"] == "LSTM":
        yield layer, False
        return
    _check_settings(layer, {"merge_mode": ("concat",)}, {}, besides=("layer", "backward_layer"))
    forward = layer["config"]["layer"]
    # Keras 2 omits the second one if it is a copy of the first that reads backwards.
    copy = {**forward, "config": {**forward["config"], "go_backwards": not forward["config"]["go_backwards"]}}
    for part, backwards in ((forward, False), (layer["config"].get("backward_layer") or copy, True)):
        if part["class_name"] != "LSTM":
            raise ExchangeError(f"got {part['class_name']} within Bidirectional, expected LSTM")
        _check_origin(part)
        yield part, backwards


def _check_settings(
    layer: Mapping[str, Any], expected: Settings, if_there: Settings, besides: Sequence[str] = ()
) -> None:
    """Refuse values that change the results of a layer, and unknown settings."""
    kind, config = layer["class_name"], layer["config"]
    name = config.get("name", kind)
    if "inner_activation" in config:
        raise ExchangeError(f"got the layer {name!r} of Keras 1, expected one of Keras 2 or 3")
    missing = [key for key in expected if key not in config]
    if missing:
        raise ExchangeError(
            f"got no {', '.join(missing)} in the layer {name!r}, expected the settings that Keras writes"
        )
    _check_values(name, config, {**expected, **if_there}, what="")
    unknown = sorted(set(config) - _HARMLESS[kind] - {*expected, *if_there, *besides})
    if unknown:
        raise ExchangeError(
            f"got {unknown[0]}={str(config[unknown[0]])[:40]} in the layer {name!r}, an unknown setting, "
            "expected those of Keras 2 and 3"
        )
    dtype = config.get("dtype")
    if isinstance(dtype, dict):
        known, text = dtype["class_name"] in _POLICIES, dtype["config"]["name"]
    else:
        known, text = True, dtype or "float32"
    if not (known and _FLOATS.fullmatch(text)):
        raise ExchangeError(
            f"got dtype {repr(dtype)[:80]} in the layer {name!r}, expected float32 or another float"
        )


def _check_values(name: str, found: Mapping[str, Any], expected: Settings, *, what: str) -> None:
    for key, values in expected.items():
        if key in found and found[key] not in values:
            told = " or ".join(repr(each) for each in values)
            raise ExchangeError(
                f"got {what}{' ' if what else ''}{key}={repr(found[key])[:60]} in the layer {name!r}, "
                f"expected {told}, as in LSTMClassifier"
            )
