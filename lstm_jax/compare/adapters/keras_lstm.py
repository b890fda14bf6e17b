"""Keras 3 on TensorFlow or JAX, as the environment variable KERAS_BACKEND says.

The model is written as in Keras's guide "Working with RNNs", which also reads digits row by row: a sequential
model, ``compile``, and ``fit`` with defaults except where the task requires other settings. On JAX, ``fit``
gets arrays. On TensorFlow it gets a ``tf.data.Dataset``, as is usual there, and two settings:

- ``steps_per_execution``: the number of steps in one call of a compiled function, which Keras's documentation
  of ``compile`` recommends for small models. On JAX this is a loop in Python, and changes nothing.
- no autotuning of the dataset. There is nothing to tune, and with it epochs took 1.3, 2.5 or 5.1 s whatever
  they computed: sums of 10 ms, 20 ms, 40 ms and so on. The end of an epoch seems to wait for a sleeping
  thread.

``LSTM`` keeps its loop (``unroll=False``, the default). Unrolled, a train step was not faster on TensorFlow,
and took nearly twice as long on JAX, which needs 20 s and more to compile it.

On TensorFlow, the model is a graph of TensorFlow's kernels (``jit_compile=False``): compiled by XLA, a train
step took a third longer. On JAX, XLA compiles everything anyway. Logits come from ``predict_on_batch``, which
needs no dataset. Gradients are computed as in the guides "Customizing what happens in `fit()`".

Keras's Adam adds epsilon before the bias correction of the averages, other frameworks after it. Its default
epsilon is 1e-7, and theirs is 1e-8, which is set here. The first difference changes the hundred losses that
are compared with the judge by up to 8e-5 of their value, a twelfth of the tolerance.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np
from jaxtyping import Float32, Int32

from lstm_jax.compare.adapter import NUM_CLASSES, Decay, Trainer
from lstm_jax.compare.size import Size
from lstm_jax.exchange.layouts import Params, from_keras, to_keras

ON_TENSORFLOW: bool = keras.config.backend() == "tensorflow"
if ON_TENSORFLOW:
    import tensorflow as tf
else:
    import jax

# A function from images and labels to loss and gradients.
GradientFunction: TypeAlias = Callable[[Any, Any], tuple[Any, Sequence[Any]]]

EPSILON = 1e-8
STEPS_PER_EXECUTION = 100 if ON_TENSORFLOW else 1


class ToFit(NamedTuple):
    """Arguments of ``fit``, the batches, and the images as tensors, which the first inference adds."""

    to_fit: Mapping[str, Any]
    images: Float32[np.ndarray, "steps batch time inputs"]
    labels: Int32[np.ndarray, "steps batch"]
    tensors: list[Any]


class Schedule(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]  # no types
    """A learning rate that rises and falls linearly. Keras has no schedule with warm-up and linear decay."""

    def __init__(self, peak: float, decay: Decay) -> None:
        self._peak, self._decay = peak, decay

    def __call__(self, step: Any) -> Any:
        """Compute the learning rate of a step, counted from 0."""
        return self._peak * keras.ops.minimum(*self._decay.lines(keras.ops.cast(step, "float32")))


class Keras(Trainer):
    """A sequential model."""

    def __init__(
        self, size: Size, params: Params, *, learning_rate: float, decay: Decay | None = None
    ) -> None:
        self._model = keras.Sequential(
            [
                keras.Input((size.time, size.inputs)),
                keras.layers.LSTM(size.hidden),
                keras.layers.Dense(NUM_CLASSES),
            ]
        )
        self._model.set_weights(to_keras(params))
        self._model.compile(
            optimizer=keras.optimizers.Adam(
                learning_rate if decay is None else Schedule(learning_rate, decay),
                epsilon=EPSILON,
                global_clipnorm=None if decay is None else decay.clip_norm,
            ),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            steps_per_execution=STEPS_PER_EXECUTION,
            jit_compile=False if ON_TENSORFLOW else "auto",
        )
        self._gradient = (_gradient_in_tensorflow if ON_TENSORFLOW else _gradient_in_jax)(self._model)

    def load(
        self,
        images: Float32[np.ndarray, "steps batch time inputs"],
        labels: Int32[np.ndarray, "steps batch"],
    ) -> ToFit:
        """Make a TensorFlow dataset of the batches, or arrays of all examples."""
        if ON_TENSORFLOW:
            options = tf.data.Options()
            options.autotune.enabled = False
            dataset = tf.data.Dataset.from_tensor_slices((images, labels)).with_options(options)
            return ToFit({"x": dataset, "shuffle": False}, images, labels, [])
        x, y = images.reshape(-1, *images.shape[2:]), labels.reshape(-1)
        return ToFit({"x": x, "y": y, "batch_size": labels.shape[1], "shuffle": False}, images, labels, [])

    def train(self, batches: ToFit) -> float:
        """Take a train step with each of the batches, and return their mean loss."""
        history = self._model.fit(**batches.to_fit, epochs=1, verbose=0).history
        return float(history["loss"][0])

    def infer(self, batches: ToFit) -> Float32[np.ndarray, "steps batch classes"]:
        """Compute the logits of all batches."""
        if not batches.tensors:
            batches.tensors.extend(keras.ops.convert_to_tensor(images) for images in batches.images)
        return np.stack([self._model.predict_on_batch(images) for images in batches.tensors])

    def gradients(self, batches: ToFit) -> tuple[float, list[Any]]:
        """Compute mean loss and mean gradients of the batches, compiled like training."""
        found = [self._gradient(*pair) for pair in zip(batches.images, batches.labels, strict=True)]
        losses, gradients = zip(*found, strict=True)
        means = [
            np.mean([np.array(each) for each in of_one], axis=0) for of_one in zip(*gradients, strict=True)
        ]
        return float(np.mean([float(loss) for loss in losses])), means

    def exchanged(self, gradients: list[Any]) -> Params:
        """Convert gradients to the layout of the parameters."""
        return from_keras(gradients)


def _gradient_in_tensorflow(model: Any) -> GradientFunction:
    def gradient(images: Any, labels: Any) -> tuple[Any, Sequence[Any]]:
        with tf.GradientTape() as tape:
            loss = model.compute_loss(images, labels, model(images, training=True))
        return loss, tape.gradient(loss, model.trainable_weights)

    compiled: GradientFunction = tf.function(gradient, jit_compile=model.jit_compile)
    return compiled


def _gradient_in_jax(model: Any) -> GradientFunction:
    def loss_of(weights: Any, others: Any, images: Any, labels: Any) -> Any:
        logits, _ = model.stateless_call(weights, others, images, training=True)
        return model.compute_loss(images, labels, logits)

    compiled = jax.jit(jax.value_and_grad(loss_of))

    def gradient(images: Any, labels: Any) -> tuple[Any, Sequence[Any]]:
        weights, others = (
            [variable.value for variable in variables]
            for variables in (model.trainable_variables, model.non_trainable_variables)
        )
        return compiled(weights, others, images, labels)

    return gradient
