"""The metadata of a file of weights: how images become the inputs of its model, and a digest of the file.

A model trained on columns gives nonsense for rows, and no shape shows that. So exported files say what the
model reads, and `import` uses it. The metadata map names to texts, which safetensors, ONNX and
``metadata.json`` of Keras can store.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from lstm_jax import __version__
from lstm_jax.config import DATASETS, SEQUENCE_LENGTHS, Config, DataOptions
from lstm_jax.errors import ExchangeError
from lstm_jax.options import Rule, between, flag

if TYPE_CHECKING:  # the command line uses this module
    import numpy as np

# The most bytes of a file, the limit of ONNX. The weights of a model that reads digits are far smaller.
LARGEST_FILE = 2 * 2**30
# The ranges of the mean that is subtracted from pixels, and of the divisor.
PIXELS: Mapping[str, Rule] = MappingProxyType(
    {"pixel_mean": between(-1e6, 1e6), "pixel_std": between(1e-6, 1e6)}
)
# The name of the SHA-256 of the arrays and the other metadata; see `digest`.
DIGEST = "sha256"
# The name and value that mark our files. Other programs may use the same names for other things.
PRODUCER, OURS = "producer", "lstm_jax"


class Inputs(NamedTuple):
    """The conversion of images to inputs of a model; None stands for unknown.

    Attributes:
        task: the input of a time step, see `lstm_jax.model`.
        permutation_seed: the order of the pixels in the task ``permuted``.
        dataset: the data set that the model was trained on.
        pixel_mean: the number subtracted from pixels from 0 (black) to 1 (white).
        pixel_std: the number by which they are divided then.
    """

    task: str | None = None
    permutation_seed: int | str | None = None
    dataset: str | None = None
    pixel_mean: float | None = None
    pixel_std: float | None = None


def digest(arrays: Mapping[str, "np.ndarray"], metadata: Mapping[str, str]) -> str:
    """Compute the SHA-256 of the metadata, without the digest itself, and of the arrays, in hex.

    Each array counts with its name, dtype, shape and values, in the order of the names.
    """
    told = sorted((name, text) for name, text in metadata.items() if name != DIGEST)
    sha = hashlib.sha256(f"{json.dumps(told)}\n".encode())
    for name in sorted(arrays):
        array = arrays[name]
        little_endian = array.astype(array.dtype.newbyteorder("<"), copy=False)
        sha.update(f"{name} {array.dtype.name} {array.shape}\n".encode())
        sha.update(little_endian.tobytes())  # row by row, whatever their order in memory
    return sha.hexdigest()


def check_digest(arrays: Mapping[str, "np.ndarray"], metadata: Mapping[str, str]) -> None:
    """Refuse arrays and metadata that have changed since the file was written, if it has a digest.

    Raises:
        ExchangeError: if the digests differ.
    """
    if DIGEST not in metadata:
        return
    found = digest(arrays, metadata)
    if metadata[DIGEST] != found:
        raise ExchangeError(
            f"got arrays and metadata of SHA-256 {found}, expected {metadata[DIGEST][:64]} as the file says: "
            "it is damaged; export or copy it again (if you changed it yourself, remove "
            f"{DIGEST} from its metadata)"
        )


def sequence_of(task: str, permutation_seed: int | str | None) -> str:
    """Describe what a model of this task reads step by step, for users of other frameworks."""
    order = f"lstm_jax.model.permutation(784, {permutation_seed!r})"
    return {
        "rows": "rows of pixels",
        "columns": "columns of pixels",
        "pixels": "single pixels, row after row",
        "permuted": f"single pixels in the order of {order}",
    }[task]


def inputs_in_words(config: Config) -> str:
    """Describe the inputs of the exported model of a run."""
    return f"{sequence_of(config.model.task, config.model.permutation_seed)}, from 0 (black) to 1 (white)"


def described(config: Config) -> dict[str, str]:
    """Make the metadata of the exported model of a run, for programs and for people."""
    task, seed = config.model.task, config.model.permutation_seed
    order = {"permutation_seed": str(seed)} if task == "permuted" else {}
    return {
        PRODUCER: f"{OURS} {__version__}",
        "task": task,
        **order,
        "dataset": config.data.dataset,
        "pixel_mean": "0",
        "pixel_std": "1",
        "images": f"float32 (batch, time, inputs): {inputs_in_words(config)}",
    }


def said(metadata: Mapping[str, str]) -> Inputs:
    """Read the inputs of a model from the metadata of one of our files; those of others are all unknown.

    Raises:
        ExchangeError: for impossible values.
    """
    if not metadata.get(PRODUCER, "").startswith(OURS):
        return Inputs()

    def value(name: str, expected: str, fits: Callable[[str], bool]) -> str | None:
        text = metadata.get(name)
        if text is not None and not fits(text):
            raise ExchangeError(f"got {name}={text[:40]!r} in the file's metadata, expected {expected}")
        return text

    def number(name: str) -> float | None:
        digits = r"-?[0-9]{1,20}(\.[0-9]{0,20})?(e-?[0-9]{1,3})?"
        text = value(
            name,
            PIXELS[name].accepted,
            lambda text: bool(re.fullmatch(digits, text)) and PIXELS[name].fits(float(text)),
        )
        return None if text is None else float(text)

    order = value(
        "permutation_seed",
        "a whole number or bit-reversal",
        lambda text: bool(re.fullmatch("[0-9]{1,10}|bit-reversal", text)),
    )
    dataset = metadata.get("dataset")
    return Inputs(
        task=value("task", f"one of {', '.join(SEQUENCE_LENGTHS)}", SEQUENCE_LENGTHS.__contains__),
        permutation_seed=int(order) if order and order.isdigit() else order,
        dataset=dataset if dataset in DATASETS else None,  # other data sets cannot be used here
        pixel_mean=number("pixel_mean"),
        pixel_std=number("pixel_std"),
    )


def agreed(in_file: Inputs, asked: Inputs, *, inputs: int) -> tuple[Inputs, list[str]]:
    """Combine the inputs that the file describes with those that the user asks for.

    The user may choose another data set for further training. All else belongs to the weights.

    Args:
        in_file: the inputs according to the file.
        asked: the inputs according to the user.
        inputs: number of inputs of the model at each time step.

    Returns:
        The inputs, without None (except for the order of pixels that are not permuted); and the assumptions
        that were made, in words.

    Raises:
        ExchangeError: if the two contradict each other, or if both lack a necessary value.
    """
    for field in ("task", "permutation_seed", "pixel_mean", "pixel_std"):
        ours, theirs = getattr(asked, field), getattr(in_file, field)
        if None not in (ours, theirs) and ours != theirs:
            raise ExchangeError(
                f"{flag(field)}: got {ours}, expected {theirs}, which the file says; leave the option out"
            )
    known: dict[str, Any] = {
        field: their if our is None else our
        for field, our, their in zip(Inputs._fields, asked, in_file, strict=True)
    }
    granted = []
    if known["task"] is None:
        if inputs == 1:
            raise ExchangeError(
                "got a model of 1 input at each time step, but not the order of the pixels; expected "
                "--task pixels, or --task permuted with --permutation-seed"
            )
        known["task"] = "rows"
        granted.append("rows of pixels, from the top (else: --task columns)")
    if known["task"] == "permuted" and known["permutation_seed"] is None:
        raise ExchangeError(
            "got --task permuted, but not the order of the pixels; expected --permutation-seed"
        )
    if known["pixel_mean"] is None and known["pixel_std"] is None:
        granted.append("pixels from 0 to 1 (else: --pixel-mean and --pixel-std)")
    usual = {"dataset": DataOptions.dataset, "pixel_mean": 0.0, "pixel_std": 1.0}
    return Inputs(**known | {field: usual[field] for field in usual if known[field] is None}), granted
