"""What a file of weights says besides: how images become its model's inputs, and a digest of all that.

Weights that read columns compute nonsense from rows, and no shape shows it. So exported files say which they
read, and `import` reads it back. It is text under names, as safetensors, ONNX and Keras's ``metadata.json``
hold it.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from lstm_jax.config import DATASETS, SEQUENCE_LENGTHS, Config, DataOptions
from lstm_jax.errors import ConversionError
from lstm_jax.options import Rule, between, flag
from lstm_jax.version import __version__

# Bytes of a file, as many as ONNX allows: more are no weights of a model that reads digits.
LARGEST_FILE = 2 * 2**30
# What can be subtracted from pixels, and what they can be divided by.
PIXELS: Mapping[str, Rule] = MappingProxyType(
    {"pixel_mean": between(-1e6, 1e6), "pixel_std": between(1e-6, 1e6)}
)
# Under this name a file says the SHA-256 of its arrays and of what else it says; see `digest`.
DIGEST = "sha256"
# Files of ours say that they are: others may mean something else by the same names.
PRODUCER, OURS = "producer", "lstm_jax"


class Inputs(NamedTuple):
    """How images become the inputs of a model; None is what nobody has said.

    Attributes:
        task: what is read in a time step, see `lstm_jax.model`.
        permutation_seed: the order of the pixels in the task ``permuted``.
        dataset: the images that the model was trained on.
        pixel_mean: what is subtracted from pixels from 0 (black) to 1 (white).
        pixel_std: what they are divided by then.
    """

    task: str | None = None
    permutation_seed: int | str | None = None
    dataset: str | None = None
    pixel_mean: float | None = None
    pixel_std: float | None = None


def digest(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    """The SHA-256 of a file's metadata but for the digest itself, and of its arrays, in hex.

    Of each array it is of name, dtype, shape and values, in the order of the names.
    """
    told = sorted((name, text) for name, text in metadata.items() if name != DIGEST)
    sha = hashlib.sha256(f"{json.dumps(told)}\n".encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        little_endian = array.astype(array.dtype.newbyteorder("<"), copy=False)
        sha.update(f"{name} {array.dtype.name} {arrays[name].shape}\n".encode())
        sha.update(little_endian.tobytes())
    return sha.hexdigest()


def check_digest(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Refuse arrays and metadata that are not those the file was written with, where it says which.

    Raises:
        ConversionError: if the digests differ.
    """
    if DIGEST not in metadata:
        return
    found = digest(arrays, metadata)
    if metadata[DIGEST] != found:
        raise ConversionError(
            f"got arrays and metadata of SHA-256 {found}, expected {metadata[DIGEST][:64]}, which the file "
            "was written with: it is damaged; export or copy it again (if you changed it yourself, leave "
            f"{DIGEST} out of its metadata)"
        )


def sequence_of(task: str, permutation_seed: int | str | None) -> str:
    """What a model of this task reads step by step, in words: other frameworks do not know of our tasks."""
    order = f"lstm_jax.model.permutation(784, {permutation_seed!r})"
    return {
        "rows": "rows of pixels",
        "columns": "columns of pixels",
        "pixels": "single pixels, row after row",
        "permuted": f"single pixels in the order of {order}",
    }[task]


def inputs_in_words(config: Config) -> str:
    """What an exported model of such a run takes, in words."""
    return f"{sequence_of(config.model.task, config.model.permutation_seed)}, from 0 (black) to 1 (white)"


def described(config: Config) -> dict[str, str]:
    """What an exported file of such a run says of its inputs, for programs and for people."""
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
    """What the metadata of a file of ours say of its inputs; those of others say nothing.

    Raises:
        ConversionError: for values that are none.
    """
    if not metadata.get(PRODUCER, "").startswith(OURS):
        return Inputs()

    def value(name: str, expected: str, fits: Callable[[str], bool]) -> str | None:
        text = metadata.get(name)
        if text is not None and not fits(text):
            raise ConversionError(f"got {name}={text[:40]!r} in the file's metadata, expected {expected}")
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
        dataset=dataset if dataset in DATASETS else None,  # others name data of their own
        pixel_mean=number("pixel_mean"),
        pixel_std=number("pixel_std"),
    )


def agreed(in_file: Inputs, asked: Inputs, *, inputs: int) -> tuple[Inputs, list[str]]:
    """What is read, from what the file says and what the user says.

    The user may choose another data set, to train further on; all else belongs to the weights.

    Args:
        in_file: what the file says.
        asked: what the user says.
        inputs: of the model, at each time step.

    Returns:
        The inputs, nothing of them None but the order of pixels that are not permuted; and what had to be
        taken for granted for it, in words.

    Raises:
        ConversionError: if the two contradict each other, or if neither says what must be said.
    """
    for field in ("task", "permutation_seed", "pixel_mean", "pixel_std"):
        ours, theirs = getattr(asked, field), getattr(in_file, field)
        if None not in (ours, theirs) and ours != theirs:
            raise ConversionError(
                f"{flag(field)}: got {ours}, expected {theirs}, which the file says; leave the option out"
            )
    known: dict[str, Any] = {
        field: their if our is None else our
        for field, our, their in zip(Inputs._fields, asked, in_file, strict=True)
    }
    granted = []
    if known["task"] is None:
        if inputs == 1:
            raise ConversionError(
                "got a model of 1 input at each time step, and no word on the order of the pixels; expected "
                "--task pixels, or --task permuted with --permutation-seed"
            )
        known["task"] = "rows"
        granted.append("rows of pixels, from the top (else: --task columns)")
    if known["task"] == "permuted" and known["permutation_seed"] is None:
        raise ConversionError(
            "got --task permuted, and no word on the order of the pixels; expected --permutation-seed"
        )
    if known["pixel_mean"] is None and known["pixel_std"] is None:
        granted.append("pixels from 0 to 1 (else: --pixel-mean and --pixel-std)")
    usual = {"dataset": DataOptions.dataset, "pixel_mean": 0.0, "pixel_std": 1.0}
    return Inputs(**known | {field: usual[field] for field in usual if known[field] is None}), granted
