"""The frameworks that are compared: what they are called, and where their adapters are.

Nothing heavy is imported here: it is read before the command line is.
"""

import importlib.util
import platform
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Framework(NamedTuple):
    """One row of the comparison.

    Attributes:
        title: what it is, in words.
        adapter: module and class of its adapter in `lstm_jax.compare.adapters`, as "module:Class".
        packages: the names under which it is imported, each with its name for pip, where that is another.
        environment: variables that must be set before it is imported.
        trains: whether it can train; if not, it is measured in inference alone.
        slow_to_compile: whether its first step takes so long that the curves over sizes, and a quick
            comparison, leave it out.
        stand_in: another row of its kind that stands for both in a quick comparison; None if it stays.
        longest: the most time steps it is given; None if there is no limit.
        note: what a reader of its figures must know, a sentence.
    """

    title: str
    adapter: str
    packages: Mapping[str, str] = MappingProxyType({})
    environment: Mapping[str, str] = MappingProxyType({})
    trains: bool = True
    slow_to_compile: bool = False
    stand_in: str | None = None
    longest: int | None = None
    note: str = ""

    def why_not_quick(self) -> str | None:
        """Why a quick comparison leaves it out, unless it is asked for by name; None if it does not."""
        if self.slow_to_compile:
            return "it compiles for long"
        return None if self.stand_in is None else f"{self.stand_in} stands for it"

    def missing(self) -> list[str]:
        """What pip would have to install."""
        return [pip for name, pip in self.packages.items() if importlib.util.find_spec(name) is None]


def _packages(**names: str) -> Mapping[str, str]:
    return MappingProxyType(names)


def _environment(**names: str) -> Mapping[str, str]:
    return MappingProxyType(names)


FLAX = _packages(flax="flax", jax="jax")
EQUINOX = _packages(equinox="equinox", jax="jax")
HAIKU = _packages(haiku="dm-haiku", jax="jax")
KERAS_ON_JAX = _packages(keras="keras", jax="jax")

# The build without GPU code is there for Linux on x86 alone.
IS_LINUX_ON_X86 = platform.system() == "Linux" and platform.machine() == "x86_64"
TENSORFLOW = "tensorflow-cpu" if IS_LINUX_ON_X86 else "tensorflow"
# The second: no messages but errors.
ON_TENSORFLOW = _environment(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="2")

TENSORFLOW_NOTE = "TensorFlow imports JAX where that is installed: its start-up and memory have JAX in them."
HAIKU_NOTE = "Haiku imports Flax where that is installed: its start-up and memory have Flax in them."

# A compiled program for each time step: T = 784 would take minutes to compile.
UNROLLED_LONGEST = 112

# In the order of tables and pictures.
FRAMEWORKS: Mapping[str, Framework] = MappingProxyType(
    {
        "lstm_jax-native": Framework("lstm_jax, C++ kernel", "ours:Native", FLAX),
        "lstm_jax-fused": Framework("lstm_jax, JAX with a gradient of its own", "ours:Fused", FLAX),
        "lstm_jax-scan": Framework("lstm_jax, reference", "ours:Scan", FLAX, stand_in="flax-scan"),
        "lstm_jax-unrolled": Framework(
            "lstm_jax, reference with its loop written out",
            "ours:Unrolled",
            FLAX,
            slow_to_compile=True,
            longest=UNROLLED_LONGEST,
        ),
        "flax-rnn": Framework(
            "Flax Linen, nn.RNN(nn.OptimizedLSTMCell)", "flax_linen:RNN", FLAX, stand_in="flax-nnx"
        ),
        "flax-scan": Framework("Flax Linen, nn.scan(nn.LSTMCell)", "flax_linen:Scan", FLAX),
        "flax-nnx": Framework("Flax NNX, nnx.RNN(nnx.OptimizedLSTMCell)", "flax_nnx:NNX", FLAX),
        "equinox": Framework(
            "Equinox, eqx.nn.LSTMCell in lax.scan",
            "equinox_lstm:Equinox",
            EQUINOX,
        ),
        "haiku": Framework("Haiku, hk.LSTM in hk.dynamic_unroll", "haiku_lstm:Haiku", HAIKU, note=HAIKU_NOTE),
        "keras-jax": Framework(
            "Keras 3 on JAX",
            "keras_lstm:Keras",
            KERAS_ON_JAX,
            _environment(KERAS_BACKEND="jax"),
        ),
        "keras-tensorflow": Framework(
            "Keras 3 on TensorFlow, graph",
            "keras_lstm:Keras",
            _packages(keras="keras", tensorflow=TENSORFLOW),
            ON_TENSORFLOW,
            stand_in="keras-tensorflow-xla",
            note=TENSORFLOW_NOTE,
        ),
        "keras-tensorflow-xla": Framework(
            "Keras 3 on TensorFlow, jit_compile",
            "keras_lstm:KerasXLA",
            _packages(keras="keras", tensorflow=TENSORFLOW),
            ON_TENSORFLOW,
            note=TENSORFLOW_NOTE,
        ),
        "pytorch": Framework("PyTorch, nn.LSTM", "pytorch_lstm:PyTorch", _packages(torch="torch")),
        "pytorch-compile": Framework(
            "PyTorch, torch.compile of nn.LSTMCell",
            "pytorch_lstm:Compiled",
            _packages(torch="torch"),
            slow_to_compile=True,
            longest=UNROLLED_LONGEST,
        ),
        "onnxruntime": Framework(
            "ONNX Runtime, inference only",
            "onnx_lstm:OnnxRuntime",
            _packages(onnxruntime="onnxruntime", onnx="onnx"),
            trains=False,
        ),
    }
)
