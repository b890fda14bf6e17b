"""From gradients to new weights: schedule of the learning rate, clipping, Adam or Muon, averaged weights.

The learning rate of step k of N, counted from 0, with W steps of warm-up and D = N - W steps of decay:

    k < W                     peak * (k + 1) / (W + 1)
    linear, j = k - W         peak + (final - peak) * j / D
    cosine, j = k - W         final + (peak - final) * (1 + cos(pi * j / D)) / 2
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float32, Int32
from optax.contrib import MuonDimensionNumbers

from lstm_jax.config import OptimizerOptions
from lstm_jax.model import HEAD

# Root mean square of an update by Muon at a learning rate of 1, if the gradient has full rank.
MUON_RMS = 0.2


def build_optimizer(options: OptimizerOptions, *, total_steps: int) -> optax.GradientTransformation:
    """Make the optimizer that the options describe, by default Adam (Kingma & Ba 2015, arXiv 1412.6980).

    Args:
        options: its options.
        total_steps: the steps of the whole run, which the schedule spans. The form of the optimizer's
            state does not depend on it.
    """
    learning_rate = learning_rate_schedule(options, total_steps=total_steps)
    if options.name == "adamw":
        # Decoupled weight decay (Loshchilov & Hutter 2019, arXiv 1711.05101). Biases do not decay: the
        # forget gate's is large on purpose.
        optimizer = optax.adamw(learning_rate, weight_decay=options.weight_decay, mask=are_kernels)
    elif options.name == "muon":
        optimizer = muon(learning_rate, weight_decay=options.weight_decay)
    else:
        optimizer = optax.adam(learning_rate)
    if options.clip_norm is not None:
        # By the norm of all gradients together (Pascanu, Mikolov & Bengio 2013, arXiv 1211.5063).
        optimizer = optax.chain(optax.clip_by_global_norm(options.clip_norm), optimizer)
    return optimizer if options.ema_decay is None else with_average(optimizer, options.ema_decay)


def learning_rate_schedule(options: OptimizerOptions, *, total_steps: int) -> float | optax.Schedule:
    """Make the learning rate: a number, or a function of the steps taken before, as the module says."""
    peak = options.learning_rate
    warmup = round(options.warmup * total_steps)
    decay = max(total_steps - warmup, 1)
    falling: optax.Schedule
    match options.schedule:
        case "linear":
            falling = optax.linear_schedule(peak, peak * options.final_learning_rate_share, decay)
        case "cosine":
            falling = optax.cosine_decay_schedule(peak, decay, alpha=options.final_learning_rate_share)
        case _ if options.warmup:
            falling = optax.constant_schedule(peak)
        case _:
            return peak  # a number: the optimizer does not need to count
    if not options.warmup:
        return falling
    # Above 0 from the first step on: a rate of 0 would waste it.
    rising = optax.linear_schedule(peak / (warmup + 1), peak, max(warmup, 1))
    return optax.join_schedules([rising, falling], [warmup])


def muon(learning_rate: float | optax.Schedule, *, weight_decay: float = 0.0) -> optax.GradientTransformation:
    """Make Muon for the kernels of the LSTM, and NAdam for biases and the dense layer.

    Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) makes the averaged gradient of a
    kernel nearly orthogonal: five steps of a polynomial bring all but tiny singular values to about 1. So it
    also learns in directions in which the gradient is small. Each gate's kernel is made orthogonal by itself.
    The kernel of a single input, where a step reads one pixel, is only scaled.

    An update has a root mean square of about 0.2 times the learning rate (less if the gradient has a lower
    rank). That is the lower end of what Liu et al. 2025 (arXiv 2502.16982, section 2.2) saw of AdamW, so
    that AdamW's learning rates are a first guess here.

    Two things differ from Jordan's use. The first layer's input kernels are made orthogonal too. And the rest
    learns with NAdam (Dozat 2016), not AdamW: in optax both look ahead by Nesterov's momentum.

    Args:
        learning_rate: of both.
        weight_decay: the share of themselves, times the learning rate, that the LSTM's kernels lose in a
            step. All updates have one size, however small the gradient, so that kernels grow as long as the
            learning rate is high. Decay limits that (Liu et al. 2025, section 2.2).
    """

    def matrices(params: Any) -> Any:
        """Say how each leaf is a matrix (inputs, outputs); None where NAdam takes it."""
        return jax.tree.map_with_path(
            lambda path, is_kernel: MuonDimensionNumbers() if is_kernel and not _is_of_head(path) else None,
            are_kernels(params),
        )

    return optax.contrib.muon(
        learning_rate,
        weight_decay=weight_decay,
        muon_weight_dimension_numbers=matrices,
        consistent_rms=MUON_RMS,
    )


def _is_of_head(path: tuple[Any, ...]) -> bool:
    return jax.tree_util.keystr(path[:1], simple=True) == HEAD


def are_kernels(params: Any) -> Any:
    """Return a tree of booleans: whether each leaf of the parameters is a kernel, not a bias."""
    return jax.tree.map_with_path(
        lambda path, _: jax.tree_util.keystr(path[-1:], simple=True) == "kernel", params
    )


class AverageState(NamedTuple):
    """The state of `with_average`.

    Attributes:
        steps: steps taken.
        average: the moving average of the parameters.
        inner: the state of the optimizer inside.
    """

    steps: Int32[Array, ""]
    average: Any
    inner: optax.OptState


def with_average(optimizer: optax.GradientTransformation, decay: float) -> optax.GradientTransformation:
    """Make an optimizer that also keeps an exponential moving average of the parameters.

    With p_t for the parameters after step t, this is Adam's average with its correction for the start
    (Polyak & Juditsky 1992 for the idea; Kingma & Ba 2015, sections 3 and 7.2, for this form):

        e_t = decay * e_{t-1} + (1 - decay) * p_t,    e_0 = 0,    average_t = e_t / (1 - decay^t)

    Args:
        optimizer: makes the updates.
        decay: the share of itself that the average keeps in a step.
    """

    def init(params: Any) -> AverageState:
        return AverageState(jnp.int32(0), jax.tree.map(jnp.copy, params), optimizer.init(params))

    def update(gradients: Any, state: AverageState, params: Any = None) -> tuple[Any, AverageState]:
        updates, inner = optimizer.update(gradients, state.inner, params)
        steps = state.steps + 1
        weight = average_weight(decay, steps)
        # Without e_t: average_t = average_{t-1} + (1 - decay) / (1 - decay^t) * (p_t - average_{t-1}).
        average = jax.tree.map(
            lambda mean, new: mean + weight * (new - mean),
            state.average,
            optax.apply_updates(params, updates),
        )
        return updates, AverageState(steps, average, inner)

    return optax.GradientTransformation(init, update)


def average_weight(decay: float, steps: Int32[Array, ""]) -> Float32[Array, ""]:
    """Compute the newest parameters' weight (1 - decay) / (1 - decay^steps), exact also near a decay of 1."""
    return (1 - decay) / -jnp.expm1(steps.astype(jnp.float32) * jnp.log1p(jnp.float32(decay - 1)))


def averaged(opt_state: optax.OptState) -> Any:
    """Return the moving average of the parameters in an optimizer's state; None if it keeps none."""
    return opt_state.average if isinstance(opt_state, AverageState) else None
