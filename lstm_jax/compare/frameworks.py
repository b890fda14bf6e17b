"""The frameworks to compare: their names, adapters and packages.

No large package is imported here, because the command line uses this module.
"""

import functools
import importlib.util
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import packages_distributions, version
from types import MappingProxyType
from typing import Any, NamedTuple

NOTHING: Mapping[str, str] = MappingProxyType({})


class Framework(NamedTuple):
    """One row of a comparison.

    Attributes:
        title: its description in words.
        adapter: module and class of its adapter in `lstm_jax.compare.adapters`, as "module:Class".
        style: its colour and marker in pictures. The hues are those of Okabe & Ito, which colour-blind
            readers can distinguish, one for each family. No two in a picture have the same marker.
        packages: the names of its packages for import, each with its name for pip.
        environment: variables that must be set before it is imported.
        trains: whether it can train; if not, only inference is measured.
        slow_to_compile: whether it compiles for too long to be part of the curves over sizes.
        in_quick: whether it is part of a quick comparison by default.
        longest: the largest number of time steps to measure it with; None if there is no limit.
        tolerance: how large its errors may be, as a multiple of those of float32 (`parity.TOLERANCES`).
        note: a sentence that readers of its figures must know.
    """

    title: str
    adapter: str
    style: tuple[str, str]
    packages: Mapping[str, str] = NOTHING
    environment: Mapping[str, str] = NOTHING
    trains: bool = True
    slow_to_compile: bool = False
    in_quick: bool = True
    longest: int | None = None
    tolerance: float = 1.0
    note: str = ""

    def why_not(self, *, time: int) -> str | None:
        """Return why it cannot be started for so many time steps; None if it can."""
        missing = [pip for name, pip in self.packages.items() if importlib.util.find_spec(name) is None]
        if missing:
            return f"not installed: pip install {' '.join(missing)}"
        if self.longest is not None and time > self.longest:
            return f"left out above {self.longest} time steps: it compiles for too long"
        return None

    def versions(self) -> dict[str, str]:
        """Return the versions of its packages that are installed."""
        return {dist: version(dist) for name in self.packages for dist in _distributions().get(name, ())}


@functools.cache
def _distributions() -> Mapping[str, Sequence[str]]:
    return packages_distributions()  # cached, because it reads all installed packages


def _fixed(**names: str) -> Mapping[str, str]:
    return MappingProxyType(names)


FLAX = _fixed(flax="flax", jax="jax")
EQUINOX = _fixed(equinox="equinox", jax="jax")
KERAS = _fixed(keras="keras", jax="jax")
TORCH = _fixed(torch="torch")
ONNX = _fixed(onnxruntime="onnxruntime", onnx="onnx")
# The build without GPU code exists only for Linux on x86.
IS_LINUX_ON_X86 = platform.system() == "Linux" and platform.machine() == "x86_64"
TENSORFLOW = "tensorflow-cpu" if IS_LINUX_ON_X86 else "tensorflow"

# The most time steps of an unrolled program: T = 784 would take minutes to compile.
UNROLLED_LONGEST = 112

SLOW: Any = {"slow_to_compile": True, "in_quick": False, "longest": UNROLLED_LONGEST}

# Rounding to 8 significant bits leaves one or two digits of a gradient: enough to see a mistake.
BFLOAT16: Any = {"in_quick": False, "tolerance": 300.0}

UNROLLED = Framework(
    "lstm_jax, reference with its loop written out", "ours:Unrolled", ("#F5B98C", "v"), FLAX, **SLOW
)
NATIVE = Framework("lstm_jax, C++ kernel", "ours:Native", ("#B84A00", "o"), FLAX)
NATIVE_NNX = Framework("lstm_jax.nnx, C++ kernel", "ours_nnx:Native", ("#8C3800", "H"), FLAX, in_quick=False)
NATIVE_EQUINOX = Framework(
    "lstm_jax.equinox, C++ kernel", "ours_equinox:Native", ("#FF8A33", "^"), EQUINOX, in_quick=False
)
PREDICTOR = Framework(
    "lstm_jax.predictor, inference only",
    "ours_predictor:Compiled",
    ("#5C2400", "x"),
    FLAX,
    trains=False,
    in_quick=False,
)
FUSED = Framework("lstm_jax, JAX with a gradient of its own", "ours:Fused", ("#D55E00", "s"), FLAX)
FLAX_RNN = Framework(
    "Flax Linen, nn.RNN(nn.OptimizedLSTMCell)",
    "flax_linen:OptimizedRNN",
    ("#004C7A", "<"),
    FLAX,
    in_quick=False,
)
FLAX_NNX = Framework("Flax NNX, nnx.RNN(nnx.OptimizedLSTMCell)", "flax_nnx:NNX", ("#5AA9DB", "d"), FLAX)
EQUINOX_SCAN = Framework(
    "Equinox, eqx.nn.LSTMCell in lax.scan", "equinox_lstm:Equinox", ("#006B4E", "D"), EQUINOX
)
PYTORCH = Framework("PyTorch, nn.LSTM", "pytorch_lstm:PyTorch", ("#000000", "X"), TORCH)
ONNX_RUNTIME = Framework(
    "ONNX Runtime, inference only", "onnx_lstm:OnnxRuntime", ("#C79A00", "h"), ONNX, trains=False
)

# The frameworks of `compare`, in the order of tables and pictures.
FRAMEWORKS: Mapping[str, Framework] = MappingProxyType(
    {
        "lstm_jax-native": NATIVE,
        "lstm_jax-nnx": NATIVE_NNX,
        "lstm_jax-equinox": NATIVE_EQUINOX,
        "lstm_jax-predictor": PREDICTOR,
        "lstm_jax-fused": FUSED,
        "lstm_jax-unrolled": UNROLLED,
        "flax-rnn": FLAX_RNN,
        "flax-scan": Framework("Flax Linen, nn.scan(nn.LSTMCell)", "flax_linen:Scan", ("#0072B2", ">"), FLAX),
        "flax-nnx": FLAX_NNX,
        "equinox": EQUINOX_SCAN,
        "haiku": Framework(
            "Haiku, hk.LSTM in hk.dynamic_unroll",
            "haiku_lstm:Haiku",
            ("#2DB98F", "P"),
            _fixed(haiku="dm-haiku", jax="jax"),
            note="Haiku imports Flax where that is installed: its start-up and memory have Flax in them.",
        ),
        "keras-jax": Framework(
            "Keras 3 on JAX", "keras_lstm:Keras", ("#8C3F6F", "8"), KERAS, _fixed(KERAS_BACKEND="jax")
        ),
        "keras-tensorflow": Framework(
            "Keras 3 on TensorFlow",
            "keras_lstm:Keras",
            ("#CC79A7", "p"),
            _fixed(keras="keras", tensorflow=TENSORFLOW),
            # The second variable turns off all messages but errors.
            _fixed(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="2"),
            note="TensorFlow imports JAX where that is installed: its start-up and memory have JAX in them.",
        ),
        "pytorch": PYTORCH,
        "pytorch-compile": Framework(
            "PyTorch, torch.compile of nn.LSTMCell", "pytorch_lstm:Compiled", ("#666666", "*"), TORCH, **SLOW
        ),
        "onnxruntime": ONNX_RUNTIME,
    }
)

# The frameworks of `benchmark`, in order: the layers of Flax and Equinox, the implementations of this package
# and its layers for NNX and Equinox, PyTorch; both kinds of products, some layers in bfloat16; and, for
# inference only, our predictor and ONNX Runtime.
BASELINE = "flax"
BENCHMARKED: Mapping[str, Framework] = MappingProxyType(
    {
        BASELINE: Framework("Flax Linen, nn.RNN(nn.LSTMCell)", "flax_linen:RNN", ("#0072B2", ">"), FLAX),
        "flax-optimized": FLAX_RNN,
        "flax-nnx": FLAX_NNX,
        "equinox": EQUINOX_SCAN,
        "scan": Framework("lstm_jax, reference", "ours:Scan", ("#EB8F47", "P"), FLAX),
        "unrolled": UNROLLED._replace(longest=None),
        "fused": FUSED,
        "native": NATIVE,
        "native-vectors": Framework(
            "lstm_jax, C++ kernel, vectors", "ours:Vectors", ("#D9772B", "1"), FLAX, in_quick=False
        ),
        "native-tiles": Framework(
            "lstm_jax, C++ kernel, tiles", "ours:Tiles", ("#A33F00", "2"), FLAX, in_quick=False
        ),
        "native-nnx": NATIVE_NNX,
        "native-equinox": NATIVE_EQUINOX,
        "predictor": PREDICTOR,
        "pytorch": PYTORCH,
        "flax-bfloat16": Framework(
            "Flax Linen, nn.RNN(nn.LSTMCell), bfloat16",
            "flax_linen:BFloat16RNN",
            ("#66B2E0", "8"),
            FLAX,
            **BFLOAT16,
        ),
        "fused-bfloat16": Framework(
            "lstm_jax, JAX with a gradient of its own, bfloat16",
            "ours:BFloat16Fused",
            ("#F09A57", "p"),
            FLAX,
            **BFLOAT16,
        ),
        "native-bfloat16": Framework(
            "lstm_jax, C++ kernel, bfloat16", "ours:BFloat16Native", ("#E07B39", "*"), FLAX, **BFLOAT16
        ),
        "onnxruntime": ONNX_RUNTIME,
    }
)
