"""Custom gradients: right under every transformation, and an error in words where there is none.

`jax.custom_vjp` is made for this, and has two faults that a layer cannot live with:

- When `vmap` meets such a function, JAX notes where the primal function leaves the mapped axis. When the
  program is differentiated later (``grad(jit(vmap(f)))``, or a `vmap` inside `checkpoint`, `scan` or
  `cond`), JAX runs the forward rule in its place, and relies on the same note. If the primal function leaves
  the axis second, as a scan does, and the rule leaves it first, values and gradients are wrong without an
  error (JAX's issues 5832 and 39219). `custom_jvp` has the same trap. Here the results of both pass through
  one identity that puts the axis first.
- A mapped tangent cannot be transposed any more, and in forward mode JAX does not say what to use.

So `custom_gradient` is a `custom_jvp` whose tangents come from a primitive of their own. The primitive stands
for the linear map from tangents to tangents. It has no value: forward mode is refused where it is used. Its
transpose is the backward pass.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from lstm_jax.errors import ImplementationError

Tree = TypeVar("Tree")


class Rows(NamedTuple):
    """The axis of each array that counts the rows of a batch; -1 where there is none.

    Each field is a tuple, with an axis, or a tuple again, for each part of what it is about.

    `vmap` over rows that share their weights makes one larger batch of them, also in the backward pass: the
    gradients of the weights are summed up there. Else each row would have its own, to be summed up later.

    Attributes:
        arguments: of the named tuple.
        residuals: of what the backward pass needs.
        results: of the results; there may be more of them than a call returns.
    """

    arguments: tuple[Any, ...]
    residuals: tuple[Any, ...]
    results: tuple[Any, ...]


def custom_gradient(
    primal: Callable[..., Tree],
    forward: Callable[..., tuple[Tree, Any]],
    backward: Callable[..., Any],
    *,
    statics: int,
    rows: Rows,
    implementation: str,
) -> Callable[..., Tree]:
    """Make a function with a gradient of its own, in reverse mode only.

    Args:
        primal: computes the results from ``statics`` values that are not arrays, and from a named tuple
            whose fields are trees of arrays.
        forward: computes the same from the same, and the residuals, a tree of arrays. The keyword
            ``perturbed``, a named tuple of the same kind, says of each field whether a gradient by it may be
            asked for.
        backward: computes the gradients by the named tuple (None for a field that is constant) from the
            statics, the residuals and the gradients by the results (None where one is zero). It gets
            ``perturbed`` too; what is not perturbed needs no gradient.
        statics: number of arguments before the named tuple: not arrays, and not differentiated.
        rows: the axes of the batch.
        implementation: the name of the kernel, for the message.

    Returns:
        ``primal`` with that gradient. In forward mode it raises ImplementationError.
    """

    @functools.partial(jax.custom_jvp, nondiff_argnums=tuple(range(statics)))
    def run(*arguments: Any) -> Tree:
        return _mapped_axis_first(primal(*arguments), arguments[statics:])

    @functools.partial(run.defjvp, symbolic_zeros=True)
    def rule(*arguments: Any) -> tuple[Tree, Tree]:
        *fixed, (primals,), (tangents,) = arguments
        perturbed = type(primals)(*(any(map(_is_tangent, jax.tree.leaves(tangent))) for tangent in tangents))
        results, residuals = forward(*fixed, primals, perturbed=perturbed)
        results = _mapped_axis_first(results, primals)
        transpose = functools.partial(backward, *fixed, perturbed=perturbed)
        message = _no_forward_mode(implementation)
        return results, _tangents(transpose, residuals, tangents, results, message, rows)

    return run


def first_order_only(call: Callable[..., list[Array]], *, implementation: str) -> Callable[..., list[Array]]:
    """Return the function as it is, but refuse a derivative of it where that is used.

    This is for a kernel's calls within its own gradient. Derivatives that are asked for and then not used are
    common: first-order meta-learning stops the gradient of a gradient.

    Args:
        call: a function of arrays.
        implementation: the name of the kernel, for the message.
    """
    message = (
        f"implementation {implementation!r}, which 'auto' can stand for, has first derivatives only; use "
        "implementation 'fused' or 'scan' for derivatives of gradients"
    )

    def refuse(residuals: Any, gradients: Any) -> NoReturn:
        raise ImplementationError(message)

    @jax.custom_jvp
    def run(*arguments: Array) -> list[Array]:
        return _mapped_axis_first(call(*arguments), arguments)

    @functools.partial(run.defjvp, symbolic_zeros=True)
    def rule(primals: tuple[Array, ...], tangents: tuple[Any, ...]) -> tuple[list[Array], list[Array]]:
        results = run(*primals)
        return results, _tangents(refuse, (), tangents, results, message)

    return run


def _no_forward_mode(implementation: str) -> str:
    return (
        f"implementation {implementation!r}, which 'auto' can stand for, has no forward-mode derivative "
        "(jvp, jacfwd, linearize), only reverse mode (grad, vjp, jacrev); use implementation 'scan' for it"
    )


# --------------------------------------------------------------------------------------------------
# The mapped axis of vmap
# --------------------------------------------------------------------------------------------------


def _mapped_axis_first(results: Tree, arguments: Any) -> Tree:
    """Return the results; if `vmap` maps any of the arguments, all results are mapped in their first axis."""
    leaves, structure = jax.tree.flatten(results)
    leaves = _axis_first_p.bind(*leaves, *jax.tree.leaves(arguments), count=len(leaves))
    return jax.tree.unflatten(structure, leaves)


class _Axis(NamedTuple):
    """The axis that `vmap` adds: its size, and the axes of an explicit mesh that share it."""

    size: int
    spec: Any

    @classmethod
    def of(cls, operands: Any, axes: Any) -> "_Axis":
        """Return that of the operands of a batching rule; at least one of them has it."""
        x, axis = next((x, axis) for x, axis in zip(operands, axes, strict=True) if axis is not None)
        return cls(x.shape[axis], jax.typeof(x).sharding.spec[axis])

    def before(self, aval: Any) -> Any:
        """Return the abstract value with this axis before its others."""
        sharding = aval.sharding.update(spec=jax.P(self.spec, *aval.sharding.spec))
        return aval.update(shape=(self.size, *aval.shape), sharding=sharding)

    def moved(self, x: Array, axis: int | None) -> Array:
        """Return the array with this axis first: moved there, or repeated along it."""
        if axis is not None:
            return jnp.moveaxis(x, axis, 0)
        repeated = self.before(jax.typeof(x))
        return jnp.broadcast_to(x, repeated.shape, out_sharding=repeated.sharding)


def _batch_axis_first(operands: Any, axes: Any, *, count: int) -> tuple[list[Array], list[int]]:
    moved = map(_Axis.of(operands, axes).moved, operands, axes)
    return _axis_first_p.bind(*moved, count=count), [0] * count


def _jvp_axis_first(primals: Any, tangents: Any, *, count: int) -> tuple[list[Array], list[Any]]:
    return _axis_first_p.bind(*primals, count=count), tangents[:count]


_axis_first_p = Primitive("lstm_jax_mapped_axis_first")
_axis_first_p.multiple_results = True
_axis_first_p.def_impl(lambda *operands, count: list(operands[:count]))
_axis_first_p.def_abstract_eval(lambda *operands, count: list(operands[:count]))
mlir.register_lowering(_axis_first_p, lambda context, *operands, count: list(operands[:count]))
batching.primitive_batchers[_axis_first_p] = _batch_axis_first
ad.primitive_jvps[_axis_first_p] = _jvp_axis_first

# --------------------------------------------------------------------------------------------------
# A linear map that has a transpose, but no value
# --------------------------------------------------------------------------------------------------


def _is_tangent(tangent: Any) -> bool:
    """Return whether this is a tangent that is not zero; integers have none."""
    return not isinstance(tangent, SymbolicZero) and tangent.dtype != jax.dtypes.float0


def _tangents(
    transpose: Callable[[Any, Any], Any],
    residuals: Any,
    tangents: Any,
    results: Any,
    message: str,
    rows: Rows | None = None,
) -> Any:
    """Make the tangents of results; they can be transposed, and nothing else.

    Args:
        transpose: maps the residuals and the gradients by the results to those by the arguments; None
            stands for a gradient of zero.
        residuals: what ``transpose`` needs.
        tangents: the tangents of the arguments.
        results: the results, whose tangents these are.
        message: the error if a value is needed.
        rows: the axes of the batch, if rows can be put together.
    """
    arguments, structure = jax.tree.flatten(tangents, is_leaf=lambda leaf: isinstance(leaf, SymbolicZero))
    saved, saved_structure = jax.tree.flatten(residuals)
    leaves, result_structure = jax.tree.flatten(results)
    places = [place for place, leaf in enumerate(arguments) if _is_tangent(leaf)]
    parts = jax.tree.unflatten(structure, range(len(arguments)))

    def by_leaves(saved: list[Array], gradients: list[Array | None]) -> list[Array | None]:
        """Apply ``transpose`` to leaves; return those leaves of the arguments that have tangents."""
        found: dict[int, Array] = {}
        residuals = jax.tree.unflatten(saved_structure, saved)
        for part, gradient in zip(
            parts, transpose(residuals, jax.tree.unflatten(result_structure, gradients)), strict=True
        ):
            if gradient is not None:
                found |= zip(jax.tree.leaves(part), jax.tree.leaves(gradient), strict=True)
        return [found.get(place) for place in places]

    row_axes = None
    if rows is not None:
        of_arguments = _by_leaf(rows.arguments, tangents)
        row_axes = _RowAxes(
            _by_leaf(rows.residuals, residuals),
            tuple(of_arguments[place] for place in places),
            _by_leaf(rows.results, results),
        )
    outcome = _tangent_p.bind(
        *saved,
        *(arguments[place] for place in places),
        num_saved=len(saved),
        transpose=by_leaves,
        avals=tuple(jax.typeof(leaf).to_tangent_aval() for leaf in leaves),
        message=message,
        rows=row_axes,
    )
    return jax.tree.unflatten(result_structure, outcome)


class _RowAxes(NamedTuple):
    """The axes of `Rows`, by leaf."""

    saved: tuple[int, ...]
    tangents: tuple[int, ...]
    results: tuple[int, ...]


def _by_leaf(prefix: Any, tree: Any) -> tuple[int, ...]:
    """Return the axis of each leaf; ``prefix`` has an axis, or a tuple of prefixes, for each part."""
    if isinstance(prefix, tuple):
        return tuple(axis for part in map(_by_leaf, prefix, tree) for axis in part)
    return (prefix,) * len(jax.tree.leaves(tree, is_leaf=lambda leaf: isinstance(leaf, SymbolicZero)))


def _refuse(*_: Any, message: str, **__: Any) -> NoReturn:
    raise ImplementationError(message)


def _batch_tangent(
    operands: Any,
    axes: Any,
    *,
    num_saved: int,
    transpose: Any,
    avals: Any,
    message: str,
    rows: _RowAxes | None,
) -> tuple[list[Array], list[int]]:
    mapped_axis = _Axis.of(operands, axes)
    if rows is not None and _are_rows_only(axes, rows) and mapped_axis.size and mapped_axis.spec is None:
        fold = functools.partial(into_rows, size=mapped_axis.size)
        outcome = _tangent_p.bind(
            *map(fold, operands[:num_saved], axes[:num_saved], rows.saved),
            *(
                tangent if row_axis < 0 else mapped_axis.moved(tangent, axis)
                for tangent, axis, row_axis in zip(
                    operands[num_saved:], axes[num_saved:], rows.tangents, strict=True
                )
            ),
            num_saved=num_saved,
            transpose=functools.partial(_transpose_as_rows, transpose, rows, mapped_axis.size),
            avals=tuple(map(mapped_axis.before, avals)),
            message=message,
            rows=None,
        )
        return outcome, [0] * len(outcome)
    # What is the same for all members of a map is repeated: its gradients are then summed up.
    tangents = map(mapped_axis.moved, operands[num_saved:], axes[num_saved:])
    mapped = jax.vmap(transpose, in_axes=(list(axes[:num_saved]), 0))
    outcome = _tangent_p.bind(
        *operands[:num_saved],
        *tangents,
        num_saved=num_saved,
        transpose=mapped,
        avals=tuple(map(mapped_axis.before, avals)),
        message=message,
        rows=None,
    )
    return outcome, [0] * len(outcome)


def _are_rows_only(axes: Any, rows: _RowAxes) -> bool:
    """Return whether only rows of a batch are mapped, and nothing that they share."""
    of_operands = (*rows.saved, *rows.tangents)
    return all(axis is None for axis, row_axis in zip(axes, of_operands, strict=True) if row_axis < 0)


def into_rows(x: Array, axis: int | None, row_axis: int, *, size: int) -> Array:
    """Make more rows of a mapped axis; what has no rows stays as it is."""
    if row_axis < 0:
        return x
    if axis is None:
        x, axis = jnp.broadcast_to(x, (size, *x.shape)), 0
    x = jnp.moveaxis(x, axis, row_axis)
    return x.reshape(*x.shape[:row_axis], -1, *x.shape[row_axis + 2 :])


def out_of_rows(x: Array, row_axis: int, *, size: int) -> Array:
    """Take rows apart again, with the mapped axis first."""
    x = x.reshape(*x.shape[:row_axis], size, -1, *x.shape[row_axis + 1 :])
    return jnp.moveaxis(x, row_axis, 0)


def _transpose_as_rows(
    transpose: Callable[[list[Array], list[Array | None]], list[Array | None]],
    rows: _RowAxes,
    size: int,
    saved: list[Array],
    gradients: list[Array | None],
) -> list[Array | None]:
    """Apply ``transpose`` to a mapped axis that was made rows, and take the gradients by rows apart."""
    merged = [
        None if gradient is None else into_rows(gradient, 0, axis, size=size)
        for gradient, axis in zip(gradients, rows.results, strict=True)
    ]
    found = transpose(saved, merged)
    return [
        gradient if gradient is None or axis < 0 else out_of_rows(gradient, axis, size=size)
        for gradient, axis in zip(found, rows.tangents, strict=True)
    ]


def _transpose_tangent(
    gradients: Any,
    *operands: Any,
    num_saved: int,
    transpose: Any,
    avals: Any,
    message: str,
    rows: _RowAxes | None,
) -> list[Any]:
    tangents = operands[num_saved:]
    given = [None if type(gradient) is ad.Zero else gradient for gradient in gradients]
    found = [None] * len(tangents)
    if any(gradient is not None for gradient in given):
        found = transpose(list(operands[:num_saved]), given)
    return [None] * num_saved + [
        ad.Zero(tangent.aval) if gradient is None else gradient
        for tangent, gradient in zip(tangents, found, strict=True)
    ]


_tangent_p = Primitive("lstm_jax_tangent")
_tangent_p.multiple_results = True
_tangent_p.def_impl(_refuse)
_tangent_p.def_abstract_eval(lambda *_, avals, **__: list(avals))
mlir.register_lowering(_tangent_p, _refuse)
batching.primitive_batchers[_tangent_p] = _batch_tangent
ad.primitive_transposes[_tangent_p] = _transpose_tangent
ad.primitive_jvps[_tangent_p] = lambda primals, tangents, **options: _refuse(**options)
