"""PyTorch: ``nn.LSTM`` and ``nn.Linear``, and the same with ``torch.compile``.

The model is written as in PyTorch's example ``mnist_rnn``, which also reads digits row by row. But here the
linear layer reads ``h_n``, the last output, which ``nn.LSTM`` returns. The loop is that of the tutorial
"Optimizing Model Parameters", with the advice of PyTorch's "Performance Tuning Guide": no host
synchronisation within the loop, so losses stay tensors until its end; gradients set to None instead of zero;
the fused optimizer; and ``inference_mode`` where no gradient is needed. The guide also advises to try numbers
of threads, which the harness does.

``nn.LSTM`` adds two biases. Adam would move each of them by a full step, and so their sum twice as fast as
the one bias of the other frameworks. Therefore ``bias_ih_l0`` stays zero here: with ``requires_grad_(False)``
it is no parameter of the optimizer.

``torch.compile`` does not compile ``nn.LSTM``: it breaks its graph there on purpose, so the model would run
as if it were not compiled (PyTorch issue 141184). It can compile a loop over ``nn.LSTMCell``, which has the
same equations and names of weights. The loop is unrolled, so compile time grows with the number of steps.
Two variants were not faster: all products with the input as one before the loop, and
``torch._dynamo.config.allow_rnn``, which needs oneDNN turned off.
"""

from collections.abc import Callable
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int32
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR

from lstm_jax.compare.adapter import NUM_CLASSES, Decay, Trainer
from lstm_jax.compare.size import Size
from lstm_jax.exchange.layouts import Params, from_pytorch, to_pytorch

# The most times that `torch.compile` compiles a function, by default 8. Here it compiles once for each size,
# mode and number of threads.
RECOMPILE_LIMIT = 256

# The suffix of the weights of `nn.LSTM`, which those of `nn.LSTMCell` do not have.
FIRST_LAYER = "_l0"


class Classifier(nn.Module):
    """``nn.LSTM`` and a linear layer on its last output."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.lstm = nn.LSTM(size.inputs, size.hidden, batch_first=True)
        self.head = nn.Linear(size.hidden, NUM_CLASSES)
        self.lstm.bias_ih_l0.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (batch, time, inputs) to logits (batch, classes)."""
        _, (h, _) = self.lstm(images)
        logits: Tensor = self.head(h[-1])
        return logits


class CellClassifier(nn.Module):
    """``nn.LSTMCell`` in a loop, and a linear layer on the last output."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.lstm = nn.LSTMCell(size.inputs, size.hidden)
        self.head = nn.Linear(size.hidden, NUM_CLASSES)
        self.lstm.bias_ih.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (batch, time, inputs) to logits (batch, classes)."""
        h = c = images.new_zeros(len(images), self.lstm.hidden_size)
        for x in images.unbind(dim=1):
            h, c = self.lstm(x, (h, c))
        logits: Tensor = self.head(h)
        return logits


class Tensors(NamedTuple):
    """Batches as tensors, (steps, batch, time, inputs) and (steps, batch)."""

    images: Tensor
    labels: Tensor


class PyTorch(Trainer):
    """``nn.LSTM``."""

    classifier: ClassVar[type[nn.Module]] = Classifier

    def __init__(
        self, size: Size, params: Params, *, learning_rate: float, decay: Decay | None = None
    ) -> None:
        self._model = self.classifier(size)
        names = self._model.state_dict()
        arrays = to_pytorch(params).items()
        state = {name if name in names else name.removesuffix(FIRST_LAYER): array for name, array in arrays}
        self._model.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
        self._forward: Callable[[Tensor], Tensor] = self._model
        self._learnt = {
            name: weight for name, weight in self._model.named_parameters() if weight.requires_grad
        }
        self._optimizer = torch.optim.Adam(self._learnt.values(), lr=learning_rate, fused=True)
        self._decay = decay
        self._schedule = None if decay is None else LambdaLR(self._optimizer, decay.share)

    def load(
        self,
        images: Float32[np.ndarray, "steps batch time inputs"],
        labels: Int32[np.ndarray, "steps batch"],
    ) -> Tensors:
        """Convert the batches to tensors; PyTorch expects labels in 64 bits."""
        return Tensors(torch.tensor(images), torch.tensor(labels, dtype=torch.int64))

    def train(self, batches: Tensors) -> float:
        """Take a train step with each of the batches, and return their mean loss."""
        losses = []
        for images, labels in zip(*batches, strict=True):
            loss = functional.cross_entropy(self._forward(images), labels)
            self._optimizer.zero_grad()
            loss.backward()
            if self._decay is not None:
                nn.utils.clip_grad_norm_(self._learnt.values(), self._decay.clip_norm)
            self._optimizer.step()
            if self._schedule is not None:
                self._schedule.step()
            losses.append(loss.detach())
        return float(torch.stack(losses).mean())

    def infer(self, batches: Tensors) -> Float32[np.ndarray, "steps batch classes"]:
        """Compute the logits of all batches."""
        with torch.inference_mode():
            return torch.stack([self._forward(images) for images in batches.images]).numpy()

    def gradients(self, batches: Tensors) -> tuple[float, dict[str, Tensor]]:
        """Compute mean loss and mean gradients of the batches; each backward pass adds to the gradients."""
        self._optimizer.zero_grad()
        losses = []
        for images, labels in zip(*batches, strict=True):
            loss = functional.cross_entropy(self._forward(images), labels)
            loss.backward()
            losses.append(loss.detach())
        summed = {name: weight.grad for name, weight in self._learnt.items() if weight.grad is not None}
        return float(torch.stack(losses).mean()), {n: grad / len(losses) for n, grad in summed.items()}

    def exchanged(self, gradients: dict[str, Tensor]) -> Params:
        """Convert gradients to the layout of the parameters; the trained bias has that of the sum of both."""
        zeros = {name: torch.zeros_like(tensor) for name, tensor in self._model.state_dict().items()}
        arrays = {name: np.array(tensor.numpy()) for name, tensor in {**zeros, **gradients}.items()}
        is_cell = {name: name.startswith("lstm.") and not name.endswith(FIRST_LAYER) for name in arrays}
        return from_pytorch({name + FIRST_LAYER * is_cell[name]: array for name, array in arrays.items()})

    def set_threads(self, count: int) -> bool:
        """Compute with so many threads from now on."""
        torch.set_num_threads(count)
        return True


class Compiled(PyTorch):
    """``torch.compile`` of a loop over ``nn.LSTMCell``, with one program for each size."""

    classifier = CellClassifier

    def __init__(
        self, size: Size, params: Params, *, learning_rate: float, decay: Decay | None = None
    ) -> None:
        super().__init__(size, params, learning_rate=learning_rate, decay=decay)
        torch.compiler.config.recompile_limit = RECOMPILE_LIMIT
        self._forward = torch.compile(self._model, dynamic=False, fullgraph=True)
