"""The classifier: layers of LSTM over an image as a sequence, and a dense layer on the last output.

    x   (B, 28, 28)    an image is a sequence of 28 rows of 28 pixels (or another, see below)
    h   (B, 28, 64)    the LSTM's output after each row
    h_T (B, 64)        the output after the last row has seen them all
    y   (B, 10)        logits = h_T W + b, one per class

A bidirectional layer reads the rows a second time from the bottom up, with weights of its own. Its last
output is the one after row 1. Some tutorials take the one aligned with row 28, which has seen one row only.

What a step reads is the task, as the literature has them:

    rows       28 steps of 28 pixels, from the top (the tutorial)
    columns    28 steps of 28 pixels, from the left
    pixels     784 steps of 1 pixel, row after row: sequential MNIST (Le, Jaitly & Hinton 2015)
    permuted   the same in a fixed random order: permuted sequential MNIST, where what is near in the
               image is far away in the sequence

Published results on the permuted task use different orders, and rarely say which. Two are common; see
`permutation`.
"""

from typing import Any, TypeAlias

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype
from jaxtyping import Array, Float, Float32, Int, Int32, Key, UInt8

from lstm_jax.layer.dropout import ExampleDropout
from lstm_jax.linen import LSTM

Params: TypeAlias = Any  # a pytree of float32 arrays

# Of the LSTM's kernels, as in the tutorial (Glorot & Bengio 2010). These start a run from the same bits on
# every machine. Flax's orthogonal recurrent kernels do as well here, but the QR decomposition behind them
# rounds differently from one LAPACK to the next.
KERNEL_INIT = nn.initializers.glorot_uniform()

# The name of the dense layer among the parameters.
HEAD = "head"


class LSTMClassifier(nn.Module):
    """A classifier of sequences by the last output of an LSTM.

    Example::

        >>> import jax, jax.numpy as jnp
        >>> from lstm_jax import LSTMClassifier
        >>> images = jnp.ones((128, 28, 28))  # (batch, time, features)
        >>> model = LSTMClassifier(hidden_size=64)
        >>> variables = model.init(jax.random.key(0), images)
        >>> model.apply(variables, images).shape
        (128, 10)

    Attributes:
        hidden_size: hidden units of each layer and direction.
        num_classes: number of logits; None leaves out the dense layer and gives what it reads, the last
            outputs.
        num_layers: LSTM layers; each reads the outputs of the one below.
        bidirectional: whether each layer also reads its inputs from the end; the two outputs are
            concatenated.
        task: how the inputs become sequences, see `as_sequence`; ``rows`` leaves them as they are.
        permutation_seed: the order of the pixels in the task ``permuted``, see `permutation`.
        dropout_rate: share of the outputs dropped between two layers.
        output_dropout_rate: share of the last outputs dropped on the way to the dense layer.
        recurrent_dropout_rate: share of the hidden units dropped on the way to the next step, see `LSTM`.
        recurrent_weight_dropout_rate: share of the recurrent weights dropped, see `LSTM`.
        forget_bias: initial value of the forget gates' biases, or ``chrono``, see `LSTM`.
        remat: number of parts to cut the sequences into, to save memory in the backward pass, see `LSTM`.
        implementation: how the LSTM is computed, see `LSTM`.
        dtype: dtype of the LSTM's computation; parameters and logits are float32.
    """

    hidden_size: int = 64
    num_classes: int | None = 10
    num_layers: int = 1
    bidirectional: bool = False
    task: str = "rows"
    permutation_seed: int | str = 92916
    dropout_rate: float = 0.0
    output_dropout_rate: float = 0.0
    recurrent_dropout_rate: float = 0.0
    recurrent_weight_dropout_rate: float = 0.0
    forget_bias: float | str = 1.0
    remat: int | None = None
    implementation: str = "auto"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        inputs: Float[Array, "batch rows columns"],
        *,
        deterministic: bool = True,
        example_index: Int[Array, " batch"] | None = None,
    ) -> Float[Array, "batch classes"]:
        """Compute the logits of a batch of images, or of sequences (time, features) in the task ``rows``.

        Args:
            inputs: the images.
            deterministic: False switches dropout on; it needs the random key ``dropout``.
            example_index: the place of each example in the whole batch; None if this is the whole
                batch. Dropout depends on it, not on how a batch is spread over devices.

        Returns:
            The logits, float32.
        """
        if example_index is None:
            example_index = jnp.arange(inputs.shape[0])
        inputs = as_sequence(inputs, self.task, self.permutation_seed)
        dropout: dict[str, Any] = {"deterministic": deterministic, "example_index": example_index}
        for layer in range(self.num_layers - 1):
            outputs: list[Any] = [
                self._lstm(layer, direction, keep_order=True)(inputs, **dropout)
                for direction in self._directions()
            ]
            inputs = ExampleDropout(self.dropout_rate, name=f"dropout_{layer}")(
                jnp.concatenate(outputs, axis=-1), **dropout
            )
        last = []
        for direction in self._directions():
            # The last output is the h of the final carry.
            lstm = self._lstm(self.num_layers - 1, direction, return_outputs=False)
            _, h = lstm(inputs, **dropout)
            last.append(h)
        features = jnp.concatenate(last, axis=-1).astype(jnp.float32)
        if self.output_dropout_rate:
            features = ExampleDropout(self.output_dropout_rate, name="dropout_output")(features, **dropout)
        if self.num_classes is None:
            return features
        return nn.Dense(self.num_classes, dtype=jnp.float32, name=HEAD)(features)

    @nn.nowrap  # no computation that `tabulate` would list
    def _directions(self) -> tuple[str, ...]:
        return ("forward", "backward") if self.bidirectional else ("forward",)

    @nn.nowrap
    def _lstm(self, layer: int, direction: str, **options: Any) -> LSTM:
        return LSTM(
            self.hidden_size,
            implementation=self.implementation,
            forget_bias=self.forget_bias,
            remat=self.remat,
            recurrent_dropout_rate=self.recurrent_dropout_rate,
            recurrent_weight_dropout_rate=self.recurrent_weight_dropout_rate,
            kernel_init=KERNEL_INIT,
            recurrent_kernel_init=KERNEL_INIT,
            reverse=direction == "backward",
            dtype=self.dtype,
            name=f"lstm_{layer}_{direction}",
            **options,
        )


def as_sequence(
    images: Float[Array, "batch rows columns"], task: str, permutation_seed: int | str
) -> Float[Array, "batch time features"]:
    """Turn images into the sequences of a task.

    Args:
        images: row by row.
        task: ``rows``, ``columns``, ``pixels`` or ``permuted``.
        permutation_seed: the order of the pixels in ``permuted``, see `permutation`.

    Raises:
        ValueError: if there is no such task.
    """
    batch, rows, columns = images.shape
    if task == "rows":
        return images
    if task == "columns":
        return jnp.swapaxes(images, 1, 2)
    pixels = images.reshape(batch, rows * columns, 1)
    if task == "pixels":
        return pixels
    if task == "permuted":
        # The indices are constants within bounds: the device has nothing to check.
        return pixels.at[:, permutation(rows * columns, permutation_seed)].get(mode="promise_in_bounds")
    raise ValueError(f"task: got {task!r}, expected rows, columns, pixels or permuted")


def permutation(count: int, seed: int | str) -> Int32[np.ndarray, " count"]:
    """Return a fixed order of ``count`` pixels: step t of the sequence reads pixel ``permutation(...)[t]``.

    Args:
        count: number of pixels.
        seed: of ``numpy.random.RandomState(seed).permutation(count)``, whose numbers NumPy has promised
            not to change. Most papers that name their order have 92916. Or ``bit-reversal``: sorted by the
            number whose binary digits are those of the index read backwards, as in the published code of S4
            (Gu, Goel & Re 2021, https://arxiv.org/abs/2111.00396).

    Raises:
        ValueError: for another text.
    """
    if seed == "bit-reversal":
        digits = max(count - 1, 0).bit_length()
        order = sorted(range(count), key=lambda index: int(f"{index:0{digits}b}"[::-1], 2))
        return np.array(order, np.int32)
    if isinstance(seed, str):
        raise ValueError(f"permutation_seed: got {seed!r}, expected a whole number or 'bit-reversal'")
    return np.random.RandomState(seed).permutation(count).astype(np.int32)


def logits_of(
    model: LSTMClassifier,
    params: Params,
    images: UInt8[Array, "batch rows columns"] | Float32[Array, "batch rows columns"],
    *,
    example_index: Int[Array, " batch"] | None = None,
    dropout_key: Key[Array, ""] | None = None,
) -> Float32[Array, "batch classes"]:
    """Compute the logits of images of grey levels 0 to 255, which the model sees as 0 to 1.

    Args:
        model: the classifier.
        params: its parameters.
        images: white ink on black, row by row.
        example_index: the place of each image in the whole batch.
        dropout_key: switches dropout on.
    """
    logits: Any = model.apply(
        {"params": params},
        images.astype(jnp.float32) / 255.0,
        deterministic=dropout_key is None,
        example_index=example_index,
        rngs=None if dropout_key is None else {"dropout": dropout_key},
    )
    return logits
