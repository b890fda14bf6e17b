"""ONNX Runtime: the operator LSTM of ONNX, only for inference.

The model is the file of ``python -m lstm_jax export --format onnx``. The session is made as in ONNX Runtime's
"Get started with ONNX Runtime in Python". Its page "Thread management" has the option for the number of
threads within an operator. By default there is one for each core of the machine, even for cores that this
process may not use, so the option is always set. It belongs to a session, so each number has its own session.
"""

import numpy as np
import onnxruntime
from jaxtyping import Float32

from lstm_jax.compare.adapter import Decay, OfArrays
from lstm_jax.compare.size import Size
from lstm_jax.exchange.layouts import Params
from lstm_jax.exchange.onnx_files import onnx_model
from lstm_jax.system.cores import usable_cores


class OnnxRuntime(OfArrays):
    """An inference session on the CPU."""

    def __init__(
        self, size: Size, params: Params, *, learning_rate: float, decay: Decay | None = None
    ) -> None:
        self._model: bytes = onnx_model(params).SerializeToString()
        self._sessions: dict[int, onnxruntime.InferenceSession] = {}
        self.set_threads(len(usable_cores()))

    def logits(
        self, images: Float32[np.ndarray, "batch time inputs"]
    ) -> Float32[np.ndarray, "batch classes"]:
        """Compute the logits of a batch."""
        return np.asarray(self._session.run(["logits"], {"images": images})[0])

    def set_threads(self, count: int) -> bool:
        """Compute with so many threads from now on."""
        if count not in self._sessions:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = count
            self._sessions[count] = onnxruntime.InferenceSession(
                self._model, options, providers=["CPUExecutionProvider"]
            )
        self._session = self._sessions[count]
        return True
