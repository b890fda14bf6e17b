"""Random stacks of JAX's transformations around a random layer, compared with what cannot share its faults.

A fault of one transformation inside of another shows neither with one transformation at a time nor with a
loss that is symmetric in its inputs. So a stack is drawn: a layer with its options and two to five
transformations, among them one that differentiates. Every result has a random weight in the loss, and all
results and gradients are compared

- with the reference `scan` under the same stack, and
- with plain loops over the equations in PyTorch's float64, where no transformation stands.

    python -m tests.stacks --implementation fused --stacks 200             with numbers, some seconds each
    python -m tests.stacks --implementation fused --stacks 1000 --trace    by tracing alone, see `check_axes`
"""

import argparse
import functools
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from lstm_jax import LSTM

Tree = Any
Values = dict[str, Tree]  # arguments or results by their names
Function = Callable[[Values], Values]

GATES = "ifgo"
# Where only shapes are compared, every axis has a size of its own: one in the wrong place shows. Where
# numbers are, it shows in them, and sizes are small: the plain loops run through the product of all.
DISTINCT_SIZES = (2, 3, 5, 7, 4, 6, 9, 8, 11, 10)
SMALL_SIZES = (2, 3, 4, 2, 3, 2, 3, 1, 2, 3)
POLICIES: tuple[str | None, ...] = (
    None,
    "nothing_saveable",
    "everything_saveable",
    "dots_saveable",
    "dots_with_no_batch_dims_saveable",
)
# The largest difference that rounding explains, as a share of the largest value. A fault is of its size.
TOLERANCE = {"float32": 5e-5, "bfloat16": 0.1, "float64": 1e-10}


class Layer(NamedTuple):
    """The layer at the bottom of a stack: what is given to `LSTM`, and how Flax lifts it."""

    features: int
    dtype: str
    time_major: bool
    reverse: bool
    keep_order: bool
    outputs: bool
    remat: int | None
    dropout: float
    lifted: str | None  # "remat", "vmap" or "scan"


class Step(NamedTuple):
    """A transformation: of a function of JAX, and the loop over a function of PyTorch that it stands for."""

    name: str
    wrap: Callable[[Function], Function]
    plain: Callable[[Function], Function]


class Stack(NamedTuple):
    """A layer, the steps around it from the inside out, and the arguments of all of it."""

    layer: Layer
    steps: tuple[Step, ...]
    arguments: Values

    def __str__(self) -> str:
        return f"{' of '.join(step.name for step in reversed(self.steps))} of {self.layer}"

    def function(self, implementation: str) -> Function:
        """The whole as a function of JAX."""
        return functools.reduce(
            lambda function, step: step.wrap(function), self.steps, _apply(self.layer, implementation)
        )

    def exact(self) -> Values | None:
        """The results in float64; None with dropout, whose masks JAX draws."""
        if self.layer.dropout:
            return None
        import torch

        function = functools.reduce(
            lambda function, step: step.plain(function), self.steps, functools.partial(_equations, self.layer)
        )
        to_torch = functools.partial(jax.tree.map, lambda a: torch.from_numpy(np.asarray(a)))
        return jax.tree.map(lambda a: a.detach().numpy(), function(to_torch(self.arguments)))


# --------------------------------------------------------------------------------------------------
# The layer, and its equations
# --------------------------------------------------------------------------------------------------


class _Block(nn.Module):
    """What Flax lifts: it takes positions only."""

    layer: Layer
    implementation: str

    @nn.compact
    def __call__(self, carry: Any, x: Any, lengths: Any) -> Any:
        layer = self.layer
        lstm = LSTM(
            layer.features,
            self.implementation,
            time_major=layer.time_major,
            reverse=layer.reverse,
            keep_order=layer.keep_order,
            remat=layer.remat,
            recurrent_dropout_rate=layer.dropout,
            dtype=jnp.dtype(layer.dtype),
            return_carry=True,
            return_outputs=layer.outputs,
            name="lstm",
        )
        found = lstm(x, initial_carry=carry, seq_lengths=lengths, deterministic=not layer.dropout)
        return found if layer.outputs else (found, ())


def _apply(layer: Layer, implementation: str) -> Function:
    rngs = {"params": False, "dropout": True}
    block: Any = _Block
    if layer.lifted == "remat":
        block = nn.remat(_Block)
    if layer.lifted == "vmap":
        block = nn.vmap(
            _Block, variable_axes={"params": 1}, split_rngs=rngs, in_axes=(1, 0, None), out_axes=(0, 1)
        )
    if layer.lifted == "scan":
        block = nn.scan(
            _Block, variable_broadcast="params", split_rngs=rngs, in_axes=(1, nn.broadcast), out_axes=1
        )
    module = block(layer, implementation)

    def function(values: Values) -> Values:
        (c, h), outputs = module.apply(
            {"params": {"lstm": {"cell": values["params"]}}},
            (values["c"], values["h"]),
            values["x"],
            values.get("lengths"),
            rngs={"dropout": jax.random.key(3)},
        )
        return {"c": c, "h": h, "outputs": outputs} if layer.outputs else {"c": c, "h": h}

    return function


def _equations(layer: Layer, values: Values) -> Values:
    """The layer in PyTorch: loops over time steps and sequences."""
    once = functools.partial(_sequences, layer)
    if layer.lifted == "vmap":
        axes = {"params": 1, "c": 1, "h": 1, "x": 0}
        return _loop(once, axes, {"c": 0, "h": 0, "outputs": 1})(values)
    if layer.lifted == "scan":
        return _segments(once, 1)(values)
    return once(values)


def _sequences(layer: Layer, values: Values) -> Values:
    """One call of the layer, sequence after sequence."""
    import torch

    x, c, h = (values[name] for name in ("x", "c", "h"))
    x = x if layer.time_major else x.movedim(-2, 0)  # time first
    time, batch = x.shape[0], x.shape[1:-1]
    finals: dict[str, list[Any]] = {"c": [], "h": [], "outputs": []}
    for place in itertools.product(*map(range, batch)):
        length = int(values["lengths"][place]) if "lengths" in values else time
        order = list(range(time))
        if layer.reverse:  # what is behind the end too, as Flax has it
            order = [*reversed(order[:length]), *reversed(order[length:])]
        state, outputs, last = (c[place], h[place]), [], None
        for t in order:
            state = _one_step(values["params"], x[(t, *place)], *state)
            outputs.append(state[1])
            if len(outputs) == length:
                last = state
        if layer.reverse and layer.keep_order:
            outputs = [outputs[order.index(t)] for t in range(time)]
        assert last is not None
        for name, value in zip(finals, (*last, torch.stack(outputs)), strict=True):
            finals[name].append(value)
    c, h, outputs = (torch.stack(found).reshape(*batch, *found[0].shape) for found in finals.values())
    if layer.time_major:
        outputs = outputs.movedim(-2, 0)
    return {"c": c, "h": h, "outputs": outputs} if layer.outputs else {"c": c, "h": h}


def _one_step(params: Any, x: Any, c: Any, h: Any) -> tuple[Any, Any]:
    i, f, g, o = (
        x @ params[f"i{gate}"]["kernel"] + h @ params[f"h{gate}"]["kernel"] + params[f"h{gate}"]["bias"]
        for gate in GATES
    )
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return c, o.sigmoid() * c.tanh()


# --------------------------------------------------------------------------------------------------
# The transformations as loops
# --------------------------------------------------------------------------------------------------


def _loop(function: Function, in_axes: Mapping[str, int | None], out_axes: Mapping[str, int]) -> Function:
    """What `vmap` stands for. The axes are of arguments and results by name; None and no name: the same."""
    import torch

    def run(values: Values) -> Values:
        axes = {name: axis for name, axis in in_axes.items() if axis is not None and name in values}
        size = next(jax.tree.leaves(values[name])[0].shape[axis] for name, axis in axes.items())
        found = []
        for n in range(size):
            one = {
                name: jax.tree.map(lambda a, name=name, n=n: a.select(axes[name], n), value)
                if name in axes
                else value
                for name, value in values.items()
            }
            found.append(function(one))
        return {
            name: jax.tree.map(lambda *parts, name=name: torch.stack(parts, out_axes[name]), *parts)
            for name, *parts in ((name, *(one[name] for one in found)) for name in found[0])
        }

    return run


def _segments(function: Function, axis: int) -> Function:
    """What a scan over segments of the sequence stands for: x and outputs have an axis of segments."""
    import torch

    def run(values: Values) -> Values:
        state, outputs = {"c": values["c"], "h": values["h"]}, []
        for n in range(values["x"].shape[axis]):
            found = function({**values, **state, "x": values["x"].select(axis, n)})
            state = {"c": found["c"], "h": found["h"]}
            outputs += [found["outputs"]] if "outputs" in found else []
        return {**state, "outputs": torch.stack(outputs, axis)} if outputs else state

    return run


def _differentiated(function: Function, weights: Values) -> Function:
    """Results, and the gradients of their sum with these weights."""
    import torch

    def run(values: Values) -> Values:
        values = {
            name: value if name == "lengths" else jax.tree.map(lambda a: a.detach().requires_grad_(), value)
            for name, value in values.items()
        }
        results = function(values)
        loss = sum(
            (torch.from_numpy(weight) * result).sum()
            for weight, result in zip(jax.tree.leaves(weights), jax.tree.leaves(results), strict=True)
        )
        names = [name for name in values if name != "lengths"]
        leaves, structure = jax.tree.flatten([values[name] for name in names])
        gradients = jax.tree.unflatten(structure, torch.autograd.grad(loss, leaves))
        return {**results, **{f"d_{name}": d for name, d in zip(names, gradients, strict=True)}}

    return run


# --------------------------------------------------------------------------------------------------
# Drawing a stack
# --------------------------------------------------------------------------------------------------


class _Drawing:
    """A stack in the making: the shapes of its arguments and results grow with each step."""

    def __init__(self, rng: np.random.Generator, dtype: str, sizes: tuple[int, ...]) -> None:
        self.rng = rng
        self.sizes = list(rng.permutation(sizes))
        self.layer, self.shapes, self.results = self._layer(dtype)
        self.steps: list[Step] = []
        self.differentiated = self.sharded = False

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def pick(self, *choices: Any) -> Any:
        return choices[self.rng.integers(len(choices))]

    def size(self) -> int:
        return int(self.sizes.pop())

    def _layer(self, dtype: str) -> tuple[Layer, Values, Values]:
        time, hidden, inputs = self.size(), self.size(), self.size()
        batch = tuple(self.size() for _ in range(self.pick(0, 1, 1, 1, 2)))
        lengths = self.chance(0.4)
        lifted = self.pick(None, None, None, "remat", "vmap", "scan")
        layer = Layer(
            features=hidden,
            dtype=dtype,
            time_major=self.chance(0.3),
            reverse=self.chance(0.3),
            keep_order=self.chance(0.5),
            outputs=self.chance(0.8),
            remat=None if lengths or self.chance(0.8) else self.pick(*(n for n in (1, 2, 3) if not time % n)),
            dropout=0.3 if self.chance(0.2) and lifted != "scan" else 0.0,
            lifted=lifted,
        )
        sequence = (time, *batch) if layer.time_major else (*batch, time)
        params = {}
        for gate in GATES:
            params[f"i{gate}"] = {"kernel": (inputs, hidden)}
            params[f"h{gate}"] = {"kernel": (hidden, hidden), "bias": (hidden,)}
        shapes = {"params": params, "x": (*sequence, inputs), "c": (*batch, hidden), "h": (*batch, hidden)}
        if lengths:
            shapes["lengths"] = batch
        results = {"c": (*batch, hidden), "h": (*batch, hidden)}
        if layer.outputs:
            results["outputs"] = (*sequence, hidden)
        self.time = time
        if lifted == "vmap":
            size = self.size()
            shapes |= _grown(shapes, {"params": 1, "c": 1, "h": 1, "x": 0}, size)
            results |= _grown(results, {"c": 0, "h": 0, "outputs": 1}, size)
        if lifted == "scan":
            size = self.size()
            shapes |= _grown(shapes, {"x": 1}, size)
            results |= _grown(results, {"outputs": 1}, size)
        return layer, shapes, results

    def axis(self, shapes: Tree) -> int:
        """A place for a new axis that all leaves have."""
        fewest = min(len(shape) for shape in jax.tree.leaves(shapes, is_leaf=_is_shape))
        return int(self.rng.integers(fewest + 1))

    def mapped_axes(self) -> dict[str, int | None]:
        axes = {name: self.axis(shape) if self.chance(0.6) else None for name, shape in self.shapes.items()}
        if all(axis is None for axis in axes.values()):
            name = self.pick("x", "params", "c")
            axes[name] = self.axis(self.shapes[name])
        return axes

    def draw(self, name: str) -> None:
        """Add a step."""
        self.steps.append(getattr(self, f"_{name}")())

    def _jit(self) -> Step:
        return Step("jit", jax.jit, _same)

    def _checkpoint(self) -> Step:
        policy = self.pick(*POLICIES)
        chosen = policy and getattr(jax.checkpoint_policies, policy)
        wrap = functools.partial(jax.checkpoint, policy=chosen, prevent_cse=self.chance(0.5))
        return Step(f"checkpoint({policy})", wrap, _same)

    def _vmap(self, name: str = "vmap") -> Step:
        axes, size = self.mapped_axes(), self.size()
        out = {name: self.axis(shape) for name, shape in self.results.items()}
        self.shapes |= _grown(self.shapes, axes, size)
        self.results |= _grown(self.results, out, size)

        def wrap(function: Function) -> Function:
            return jax.vmap(function, in_axes=(axes,), out_axes=out)

        return Step(f"vmap({axes} to {out})", wrap, lambda function: _loop(function, axes, out))

    def _leading(self, size: int) -> tuple[dict[str, int | None], dict[str, int]]:
        """Axes for what maps over first axes only."""
        axes = {name: axis and 0 for name, axis in self.mapped_axes().items()}
        out = dict.fromkeys(self.results, 0)
        self.shapes |= _grown(self.shapes, axes, size)
        self.results |= _grown(self.results, out, size)
        return axes, out

    def _map(self) -> Step:
        axes, out = self._leading(self.size())

        def wrap(function: Function) -> Function:
            def run(values: Values) -> Values:
                mapped = {name: value for name, value in values.items() if axes[name] is not None}
                return lax.map(lambda one: function({**values, **one}), mapped)

            return run

        return Step(f"map({axes})", wrap, lambda function: _loop(function, axes, out))

    def _shard_map(self) -> Step:
        self.sharded = True
        axes, out = self._leading(2)
        specs = {name: P() if axis is None else P("data") for name, axis in axes.items()}

        def wrap(function: Function) -> Function:
            def share(values: Values) -> Values:
                own = {
                    name: value if axes[name] is None else jax.tree.map(lambda a: a[0], value)
                    for name, value in values.items()
                }
                return jax.tree.map(lambda a: a[None], function(own))

            mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
            return jax.shard_map(share, mesh=mesh, in_specs=(specs,), out_specs=P("data"), check_vma=False)

        return Step(f"shard_map({axes})", wrap, lambda function: _loop(function, axes, out))

    def _scan(self) -> Step:
        """Over segments, if the state that comes out can go in again; `fori_loop` too."""
        if self.differentiated or any(self.results[name] != self.shapes[name] for name in "ch"):
            return self._map()
        if "outputs" not in self.results and self.chance(0.5):
            return Step("fori_loop", _twice, _twice_plain)
        axes = {"x": 0}
        size = self.size()
        self.shapes |= _grown(self.shapes, axes, size)
        if "outputs" in self.results:
            self.results |= _grown(self.results, {"outputs": 0}, size)

        def wrap(function: Function) -> Function:
            def run(values: Values) -> Values:
                def body(state: Values, x: Any) -> tuple[Values, Values]:
                    found = function({**values, **state, "x": x})
                    state = {name: found.pop(name).astype(state[name].dtype) for name in "ch"}
                    return state, found

                state, rest = lax.scan(body, {name: values[name] for name in "ch"}, values["x"])
                return {**state, **rest}

            return run

        return Step("scan", wrap, lambda function: _segments(function, 0))

    def _cond(self) -> Step:
        branches = int(self.pick(2, 3))

        def wrap(function: Function) -> Function:
            def other(values: Values) -> Values:
                return jax.tree.map(lambda a: 2 * a, function(values))

            def run(values: Values) -> Values:
                is_number = jnp.isfinite(jnp.sum(values["x"]))  # not known while tracing
                if branches == 2:
                    return lax.cond(is_number, function, other, values)
                return lax.switch(is_number.astype(jnp.int32), [other, function, other], values)

            return run

        return Step("cond" if branches == 2 else "switch", wrap, _same)

    def _gradient(self) -> Step:
        self.differentiated = True
        kind = self.pick("vjp", "value_and_grad")
        weights = jax.tree.map(self.rng.standard_normal, self.results, is_leaf=_is_shape)
        self.results |= {f"d_{name}": shape for name, shape in self.shapes.items() if name != "lengths"}

        def wrap(function: Function) -> Function:
            def run(values: Values) -> Values:
                lengths = {name: value for name, value in values.items() if name == "lengths"}
                given = {name: value for name, value in values.items() if name != "lengths"}

                def of_given(given: Values) -> Values:
                    return function({**given, **lengths})

                def loss(given: Values) -> tuple[Any, Values]:
                    results = of_given(given)
                    products = jax.tree.map(
                        lambda w, r: jnp.sum(jnp.asarray(w, r.dtype) * r), weights, results
                    )
                    return sum(jax.tree.leaves(products)), results

                if kind == "vjp":
                    results, pull_back = jax.vjp(of_given, given)
                    (found,) = pull_back(jax.tree.map(lambda w, r: jnp.asarray(w, r.dtype), weights, results))
                else:
                    (_, results), found = jax.value_and_grad(loss, has_aux=True)(given)
                return {**results, **{f"d_{name}": d for name, d in found.items()}}

            return run

        return Step(kind, wrap, lambda function: _differentiated(function, weights))

    def arguments(self) -> Values:
        """Random values for what has come together."""
        scale = {"params": 0.7}
        dtype = np.float64 if self.layer.dtype == "float64" else np.float32
        found = {}
        for name, shapes in self.shapes.items():
            if name == "lengths":
                found[name] = self.rng.integers(1, self.time + 1, shapes).astype(np.int32)
                continue
            draw = functools.partial(self._normal, scale.get(name, 1.0), dtype)
            found[name] = jax.tree.map(draw, shapes, is_leaf=_is_shape)
        return found

    def _normal(self, scale: float, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
        # Of values that bfloat16 holds, so that the dtype of the computation is the only difference.
        drawn = (scale * self.rng.standard_normal(shape)).astype(jnp.bfloat16)
        return np.asarray(drawn).astype(dtype)


def _is_shape(node: Any) -> bool:
    return isinstance(node, tuple) and all(isinstance(size, (int, np.integer)) for size in node)


def _grown(shapes: Values, axes: Mapping[str, int | None], size: int) -> Values:
    """The shapes with a new axis."""
    return {
        name: jax.tree.map(
            lambda shape, axis=axis: (*shape[:axis], size, *shape[axis:]), shapes[name], is_leaf=_is_shape
        )
        for name, axis in axes.items()
        if axis is not None and name in shapes
    }


def _same(function: Function) -> Function:
    return function


def _twice(function: Function) -> Function:
    def run(values: Values) -> Values:
        def body(_: Any, state: Values) -> Values:
            found = function({**values, **state})
            return jax.tree.map(lambda new, old: new.astype(old.dtype), found, state)

        return lax.fori_loop(0, 2, body, {name: values[name] for name in "ch"})

    return run


def _twice_plain(function: Function) -> Function:
    return lambda values: function({**values, **function(values)})


STEPS = ("jit", "jit", "vmap", "vmap", "vmap", "checkpoint", "scan", "map", "cond", "shard_map")


def draw(seed: int, dtype: str, *, gradient: bool = True) -> Stack:
    """The stack of a number: two to five steps, of which one differentiates if there is to be a gradient."""
    rng = np.random.default_rng(seed)
    drawing = _Drawing(rng, dtype, SMALL_SIZES if gradient else DISTINCT_SIZES)
    count = int(rng.integers(2, 6))
    gradient_at = int(rng.integers(count)) if gradient else None
    for place in range(count):
        name = "gradient" if place == gradient_at else drawing.pick(*STEPS)
        if name == "shard_map" and drawing.sharded:
            name = "jit"
        if name in ("vmap", "map", "scan", "shard_map") and not drawing.sizes:
            name = "jit"
        drawing.draw(name)
    return Stack(drawing.layer, tuple(drawing.steps), drawing.arguments())


# --------------------------------------------------------------------------------------------------
# The two checks
# --------------------------------------------------------------------------------------------------


def check_numbers(stack: Stack, implementation: str) -> None:
    """Compare results and gradients with `scan` under the same stack, and with float64 loops."""
    with jax.enable_x64(stack.layer.dtype == "float64"):
        actual, reference = (
            jax.tree.map(
                lambda a: np.asarray(a, np.float64),
                jax.jit(stack.function(name))(jax.tree.map(jnp.asarray, stack.arguments)),
            )
            for name in (implementation, "scan")
        )
    exact = stack.exact()
    for expected in (reference, exact):
        if expected is not None:
            _assert_close(actual, expected, TOLERANCE[stack.layer.dtype], str(stack))


def _assert_close(actual: Values, expected: Values, tolerance: float, told: str) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected), told
    for (path, one), other in zip(jax.tree.leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
        name = jax.tree_util.keystr(path)
        assert one.shape == other.shape, f"{name} of {told}: shape {one.shape}, expected {other.shape}"
        scale = max(1.0, float(np.abs(other).max(initial=0)))
        off = float(np.abs(one - other).max(initial=0)) / scale
        assert off <= tolerance, f"{name} of {told}: off by {off:.2g} of the largest value"


def check_axes(stack: Stack, implementation: str) -> int:
    """By tracing alone: where a function has its own derivative, its rule leaves all axes where it does.

    JAX goes by the function's axes and runs the rule, see `lstm_jax/kernels/differentiation.py`. Returns how
    many such functions of the layer's kernels there were.
    """
    with jax.enable_x64(stack.layer.dtype == "float64"):
        arguments = jax.tree.map(jnp.asarray, stack.arguments)
        program = jax.make_jaxpr(stack.function(implementation))(arguments)
        checked = 0
        for equation in _equations_within(program.jaxpr):
            if equation.primitive.name not in ("custom_jvp_call", "custom_vjp_call"):
                continue
            call = _alone(program, equation)
            operands = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in _variables(equation)]
            shapes = [v.aval.shape for v in equation.outvars]
            ruled = jax.eval_shape(lambda *operands, call=call: jax.vjp(call, *operands)[0], *operands)
            found = [result.shape for result in ruled]
            assert found == shapes, f"the rule gives {found}, the function {shapes}, in {stack}"
            checked += "mapped_axis_first" in str(equation.params["call_jaxpr"])
    return checked


def _variables(equation: Any) -> list[Any]:
    return list(dict.fromkeys(v for v in equation.invars if not isinstance(v, Literal)))


def _alone(program: Any, equation: Any) -> Any:
    """A function of the variables that an equation of a program reads."""
    alone = program.jaxpr.replace(
        constvars=[],
        invars=_variables(equation),
        outvars=equation.outvars,
        eqns=[equation],
        debug_info=program.jaxpr.debug_info.with_unknown_names(),
    )
    return jaxpr_as_fun(ClosedJaxpr(alone, []))


def _equations_within(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        yield equation
        for parameter in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns")
        ):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                yield from _equations_within(inner)


def main() -> None:
    """Check many stacks; the first that fails ends it, with what it is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--implementation", required=True)
    parser.add_argument("--stacks", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="the number of the first stack")
    parser.add_argument("--trace", action="store_true", help="by tracing alone")
    options = parser.parse_args()
    dtypes = ["float32", "bfloat16"] + ["float64"] * (options.implementation != "native")
    jax.config.update("jax_num_cpu_devices", 2)
    failed = functions = 0
    for number in range(options.first, options.first + options.stacks):
        stack = draw(number, dtypes[number % len(dtypes)], gradient=not options.trace)
        try:
            if options.trace:
                functions += check_axes(stack, options.implementation)
            else:
                check_numbers(stack, options.implementation)
        except Exception as error:
            failed += 1
            print(f"stack {number}: {type(error).__name__}: {error}", flush=True)
        if number % 10 == 9:
            print(f"{number + 1 - options.first} done, {failed} failed", flush=True)
            jax.clear_caches()
    what = f", {functions} functions with a rule" if options.trace else ""
    print(f"{options.implementation}: {options.stacks} stacks, {failed} failed{what}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
