"""Errors in words for the derivatives that a kernel with a gradient of its own cannot give.

`jax.custom_vjp` has reverse mode only. In forward mode JAX says so, but not what to use instead, and
inside of `jit` nobody stands by who could add it. So the arguments of a kernel pass through an identity,
`reverse_mode_only`, whose tangent has a transpose (reverse mode goes through) but no value.
"""

from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import jax
from jax import Array
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from lstm_jax.errors import ImplementationError

Tree = TypeVar("Tree")

_identity_p = Primitive("lstm_jax_reverse_mode_only")
_tangent_p = Primitive("lstm_jax_reverse_mode_tangent")
_second_p = Primitive("lstm_jax_first_order_tangent")


def reverse_mode_only(tree: Tree, *, implementation: str) -> Tree:
    """The tree as it is; forward-mode differentiation of it is refused.

    Args:
        tree: arrays.
        implementation: the name of the kernel, for the message.
    """
    return jax.tree.map(lambda leaf: _identity_p.bind(leaf, implementation=implementation), tree)


def _refuse_forward_mode(*_: Any, implementation: str, **__: Any) -> NoReturn:
    raise ImplementationError(
        f"implementation {implementation!r} has no forward-mode derivative (jvp, jacfwd, linearize), "
        "only reverse mode (grad, vjp, jacrev); use implementation 'scan' for it"
    )


def _jvp(primals: Any, tangents: Any, *, implementation: str) -> Any:
    # The value does not pass through the identity again: a derivative of the gradient may be taken.
    (value,), (tangent,) = primals, tangents
    if type(tangent) is ad.Zero:
        return value, tangent
    return value, _tangent_p.bind(tangent, implementation=implementation)


_identity_p.def_impl(lambda x, *, implementation: x)
_identity_p.def_abstract_eval(lambda x, *, implementation: x)
mlir.register_lowering(_identity_p, lambda context, x, *, implementation: [x])
batching.defvectorized(_identity_p)
ad.primitive_jvps[_identity_p] = _jvp

_tangent_p.def_impl(_refuse_forward_mode)
_tangent_p.def_abstract_eval(lambda x, *, implementation: x)
mlir.register_lowering(_tangent_p, _refuse_forward_mode)
batching.primitive_batchers[_tangent_p] = (
    _refuse_forward_mode  # jacfwd: reverse mode gets no tangents to batch
)
ad.deflinear2(_tangent_p, lambda cotangent, x, *, implementation: [cotangent])


def values_of(arguments: Any) -> Any:
    """The arguments of a `custom_vjp` forward rule with symbolic zeros, without their marks."""
    return jax.tree.map(
        lambda argument: argument.value, arguments, is_leaf=lambda leaf: hasattr(leaf, "perturbed")
    )


def first_order_only(call: Callable[..., list[Array]], *, implementation: str) -> Callable[..., list[Array]]:
    """The function as it is; a derivative of it is refused where it is used.

    For a kernel's calls within its own gradient. That a derivative can be asked for, and then not be used,
    is common: first-order meta-learning stops the gradient of a gradient.

    Args:
        call: a function of arrays.
        implementation: the name of the kernel, for the message.
    """

    @jax.custom_jvp
    def run(*arguments: Array) -> list[Array]:
        return call(*arguments)

    @run.defjvp
    def rule(primals: tuple[Array, ...], tangents: tuple[Any, ...]) -> tuple[list[Array], list[Array]]:
        results = run(*primals)
        shapes = tuple(jax.ShapeDtypeStruct(result.shape, result.dtype) for result in results)
        of_floats = [tangent for tangent in tangents if tangent.dtype != jax.dtypes.float0]
        return results, _second_p.bind(*of_floats, shapes=shapes, implementation=implementation)

    return run


def _refuse_second_order(*_: Any, implementation: str, **__: Any) -> NoReturn:
    raise ImplementationError(
        f"implementation {implementation!r} has first derivatives only; use implementation 'fused' or 'scan' "
        "for derivatives of gradients"
    )


_second_p.multiple_results = True
_second_p.def_impl(_refuse_second_order)
_second_p.def_abstract_eval(
    lambda *_, shapes, implementation: [ShapedArray(shape.shape, shape.dtype) for shape in shapes]
)
mlir.register_lowering(_second_p, _refuse_second_order)
batching.primitive_batchers[_second_p] = _refuse_second_order
ad.primitive_transposes[_second_p] = _refuse_second_order
