"""The fast implementations behind `lstm_jax.LSTM`.

    interface.py        what an implementation is: what it gets and what it gives back
    gate_order.py       the order of the gates in joined arrays
    fused.py            pure JAX, any device
    native.py           the JAX side of the C++ kernel for CPUs: gradients, vmap
    calls.py            its two calls, as the kernel computes them and as exported programs do
    products.py         vectors or tile registers: which of them that kernel multiplies with
    build.py            getting that kernel: from the package, the cache or the compiler
    library.py          a compiled kernel as a file, and which of them a wheel brings
    cpp/                its source
    differentiation.py  errors for derivatives that a kernel cannot give
    choice.py           which of them `auto` takes, by measurement

The reference that they are tested against is in `lstm_jax/functional.py`. The names are here, because whoever
reads options imports no JAX.
"""

from typing import Literal, get_args

ImplementationName = Literal["auto", "scan", "unrolled", "fused", "native", "native-vectors", "native-tiles"]
IMPLEMENTATIONS: tuple[str, ...] = get_args(ImplementationName)
# The implementations by the C++ kernel: with the faster kind of products here, and with one kind.
NATIVE = {"native": None, "native-vectors": "vectors", "native-tiles": "tiles"}
