"""What one set of versions of JAX, Flax, Orbax and the others writes, another reads.

    python -m tests.across_versions write DIR       with one set of versions
    python -m tests.across_versions read DIR        with another

`write` prepares MNIST, stops a short run of each optimizer early, exports its weights in every format, and
finishes a copy of the run. `read` shows that all of it is read with the same bits, that the model computes
the same, and that the stopped run goes on to the same state, up to rounding.
"""

import contextlib
import io
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import jax
import numpy as np
from flax import serialization

from lstm_jax import train
from lstm_jax.commands.exchange import Export
from lstm_jax.compare.machine import versions
from lstm_jax.config import Config
from lstm_jax.exchange.formats import FORMATS, read_weights
from lstm_jax.exchange.layouts import to_flat
from lstm_jax.runs.checkpoint import digest
from lstm_jax.runs.trained import load_state, load_trained
from tests.helpers.runs import EVERY_OPTION, Listener, train_until_told

# Two versions of XLA round differently: some units in the seventh digit, in each of two steps. Adam divides a
# gradient by its own size, so where one is next to nothing a step may turn. A step that is left out, or one
# with other random numbers, changes the parameters by about the learning rate, 1e-3.
ROUNDING = {"rtol": 1e-3, "atol": 1e-5}
PROBABILITIES = {"rtol": 1e-5, "atol": 1e-6}

STOPPED, WHOLE, WEIGHTS = "stopped", "whole", "weights"  # the folders of each optimizer
ANSWERS, PARAMETERS, VERSIONS = "answers.npz", "parameters.npz", "versions.json"


def options_of(optimizer: str, run_dir: Path, data_dir: Path) -> Config:
    """A run of four steps that uses all that a state can hold."""
    return Config.of(
        **EVERY_OPTION[optimizer],
        hidden_size=8,
        steps=4,
        checkpoint_every=2,
        implementation="scan",
        devices=1,
        run_dir=run_dir,
        data_dir=data_dir,
    )


def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (16, 28, 28)).astype(np.uint8)


def exported_as(name: str, folder: Path) -> Path:
    return folder / ("flax.msgpack" if name == "flax" else FORMATS[name].file_name)


def write(folder: Path, *, optimizers: Iterable[str] = EVERY_OPTION, data_dir: Path | None = None) -> None:
    """Write everything to a new folder; the prepared data too, unless there is a ``data_dir``."""
    folder.mkdir(parents=True)
    for optimizer in optimizers:
        own = folder / optimizer
        stopped, whole = (
            options_of(optimizer, own / part, data_dir or folder / "data") for part in (STOPPED, WHOLE)
        )
        train_until_told(stopped, Listener(signal_after=1))
        trained = load_trained(own / STOPPED)
        (own / WEIGHTS).mkdir()
        for name in FORMATS:
            with contextlib.redirect_stdout(io.StringIO()):  # the code that reads the file
                Export(own / STOPPED, name, exported_as(name, own / WEIGHTS)).run()  # type: ignore[arg-type]
        exported_as("flax", own / WEIGHTS).write_bytes(serialization.to_bytes(trained.params))
        np.savez(own / WEIGHTS / PARAMETERS, **to_flat(jax.tree.map(np.asarray, trained.params)))
        np.savez(
            own / ANSWERS,
            probabilities=trained.probabilities(images()),
            state=digest(load_state(own / STOPPED).state),
        )
        shutil.copytree(own / STOPPED, own / WHOLE)
        train(whole)
    (folder / VERSIONS).write_text(json.dumps(dict(versions())))


def checks(folder: Path, *, data_dir: Path | None = None) -> Iterator[tuple[str, Callable[[], bool]]]:
    """List what has to hold of a folder of `write`, in words and as a function that tells whether it does."""
    for own in sorted(path.parent for path in folder.glob(f"*/{ANSWERS}")):
        yield f"{own.name}: the saved state has the same bits", partial(same_state, own)
        yield f"{own.name}: the model computes the same probabilities", partial(same_probabilities, own)
        for name in (*FORMATS, "flax"):
            yield f"{own.name}: the weights in {name} have the same bits", partial(same_weights, own, name)
        goes_on = partial(goes_on_to_the_same_state, own, data_dir or folder / "data")
        yield f"{own.name}: the stopped run goes on to the same state", goes_on


def same_state(own: Path) -> bool:
    with np.load(own / ANSWERS) as written:
        return digest(load_state(own / STOPPED).state) == str(written["state"])


def same_probabilities(own: Path) -> bool:
    with np.load(own / ANSWERS) as written:
        found = load_trained(own / STOPPED).probabilities(images())
        return np.allclose(found, written["probabilities"], **PROBABILITIES)


def same_weights(own: Path, name: str) -> bool:
    with np.load(own / WEIGHTS / PARAMETERS) as written:
        found = to_flat(read_weights(exported_as(name, own / WEIGHTS)))
        return found.keys() == set(written) and all(
            array.dtype == written[key].dtype and np.array_equal(array, written[key])
            for key, array in found.items()
        )


def goes_on_to_the_same_state(own: Path, data_dir: Path) -> bool:
    with tempfile.TemporaryDirectory() as scratch:
        run_dir = shutil.copytree(own / STOPPED, Path(scratch) / "run")
        train(options_of(own.name, run_dir, data_dir))
        one, other = (jax.tree.leaves(load_state(path).state) for path in (run_dir, own / WHOLE))
    return len(one) == len(other) and all(
        a.shape == b.shape and a.dtype == b.dtype and np.allclose(a, b, **ROUNDING)
        for a, b in zip(one, other, strict=True)
    )


def main(words: list[str]) -> int:
    if len(words) != 2 or words[0] not in ("write", "read"):
        print(__doc__, file=sys.stderr)
        return 2
    folder = Path(words[1])
    if words[0] == "write":
        write(folder)
        return 0
    written = json.loads((folder / VERSIONS).read_text())
    for verb, found in (("written", written), ("read", versions())):
        print(f"{verb} with", ", ".join(f"{name} {version}" for name, version in found.items()))
    results = []
    for what, holds in checks(folder):
        results.append(holds())
        print(f"{'yes' if results[-1] else 'NO '}  {what}", flush=True)
    return 0 if results and all(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
