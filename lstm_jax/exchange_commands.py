"""``python -m lstm_jax export`` and ``import``: weights for other frameworks, and from them.

Nothing heavy is imported here, as in `lstm_jax.config`.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from lstm_jax.config import ChosenBest, ChosenSeed, Config, DatasetName, shown_option
from lstm_jax.errors import ConfigError, ConversionError
from lstm_jax.files import check_target, whole

FormatName = Literal["pytorch", "keras", "safetensors", "onnx"]


@dataclass(frozen=True)
class Export:
    """Write the newest weights of a run as a file for PyTorch, Keras, ONNX, or any reader of safetensors."""

    run_dir: Annotated[Path, Positional, arg(metavar="RUN_DIR")]
    """Folder that train.py wrote."""
    format: FormatName
    """'pytorch' is safetensors with PyTorch's names and layouts, 'safetensors' with those of lstm_jax."""
    output: Annotated[Path | None, shown_option("FILE", "in RUN_DIR, named after the format")] = None
    """The file to write."""
    overwrite: bool = False
    """Replace the file if it exists."""
    seed: ChosenSeed = None
    """Which of the models of a run of many seeds."""
    best: ChosenBest = False

    def run(self) -> int:
        """Write the file; print code that reads it."""
        from lstm_jax.interchange import FORMATS

        kind = FORMATS[self.format]
        output = self.output or self.run_dir / kind.file_name
        if output.suffix != kind.suffix:
            raise ConfigError(f"--output: got {output}, expected a name that ends in {kind.suffix}")
        if self.output is not None or self.run_dir.is_dir():  # else the run directory is what is wrong
            check_target(output, overwrite=self.overwrite, advice="give --overwrite, or another --output")

        import jax
        import numpy as np

        from lstm_jax import runtime
        from lstm_jax.convert import architecture_of
        from lstm_jax.trained import load_trained
        from lstm_jax.version import __version__

        runtime.start(devices=None)
        trained = load_trained(self.run_dir, seed=self.seed, best=self.best, report=_note)
        params = jax.tree.map(np.asarray, trained.params)
        architecture = architecture_of(params)
        sequence = _sequence(trained.config)
        metadata = {
            "producer": f"lstm_jax {__version__}",
            "dataset": trained.config.dataset,
            "seed": str(trained.seed),
            "step": str(trained.step),
            "images": f"float32 (batch, time, inputs): {sequence}, from 0 (black) to 1 (white)",
            **{field: str(value) for field, value in architecture._asdict().items()},
        }
        content = kind.encode(params, metadata)
        with whole(output) as temporary:
            temporary.write_bytes(content)
        _note(f"Wrote {output}, of {self.run_dir} at step {trained.step}. To compute logits with it:")
        shape = f"(batch, time, {architecture.inputs})"
        print(f"# images: float32 {shape}: {sequence}, from 0 (black) to 1 (white)")
        print(kind.example(architecture, output))
        return 0


@dataclass(frozen=True)
class Import:
    """Make a run directory of weights from PyTorch or Keras: to evaluate, to predict, to train further."""

    file: Annotated[Path, Positional, arg(metavar="FILE")]
    """Weights: .safetensors with the names of PyTorch or of lstm_jax, .keras or .weights.h5."""
    run_dir: Annotated[Path, arg(metavar="DIR")]
    """Folder to make."""
    pixel_mean: float = 0.0
    """What was subtracted from pixels between 0 and 1 where the weights were trained."""
    pixel_std: float = 1.0
    """What they were divided by then."""
    dataset: DatasetName = "mnist"
    """Data set to evaluate on, and to train further on."""
    batch_size: int = 128
    """Images per training step, if it is trained further."""
    epochs: int = 10
    """Passes over the training images, if it is trained further."""
    learning_rate: float = 0.01
    """Step size of Adam, if it is trained further."""
    seed: int = 0
    """Fixes the order of the images, if it is trained further."""

    def __post_init__(self) -> None:
        """Refuse impossible values, naming the option, what it got and what it accepts."""
        if not -1e6 <= self.pixel_mean <= 1e6:
            raise ConfigError(f"--pixel-mean: got {self.pixel_mean}, expected a number from -1e6 to 1e6")
        if not 1e-6 <= self.pixel_std <= 1e6:
            raise ConfigError(f"--pixel-std: got {self.pixel_std}, expected a number from 1e-6 to 1e6")
        self.options()

    def options(self) -> Config:
        """The options of the run, but for its architecture."""
        return Config(
            run_dir=self.run_dir,
            dataset=self.dataset,
            batch_size=self.batch_size,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            seed=self.seed,
        )

    def run(self) -> int:
        """Read the file, write the folder; print what can be done with it."""
        options = self.options()
        run_dir = options.run_directory()
        if run_dir.exists():
            raise ConversionError(
                f"{run_dir}: got a path that exists, expected a new one; remove it, or name another --run-dir"
            )
        from lstm_jax.convert import architecture_of, with_normalized_inputs
        from lstm_jax.interchange import read_weights

        params = with_normalized_inputs(read_weights(self.file), mean=self.pixel_mean, std=self.pixel_std)

        from lstm_jax import runtime  # and with it JAX: a file that does not fit is refused before
        from lstm_jax.imported_run import begin_run, config_for, training_command

        try:
            config = config_for(architecture_of(params), options)
        except ConversionError as error:
            raise ConversionError(f"{self.file}: {error}") from error
        runtime.start(devices=None)
        run_dir.parent.mkdir(parents=True, exist_ok=True)
        begin_run(params, config, report=_note)
        both = "in both directions" if config.bidirectional else "in one direction"
        print(f"Made {run_dir}: {config.num_layers} x LSTM-{config.hidden_size} {both}, from {self.file}.")
        print(f"It sees each pixel p, 0 (black) to 1 (white), {self._seen()}.")
        print("To evaluate it, and to train it further:\n")
        print(f"    python -m lstm_jax evaluate {run_dir}\n    {training_command(config)}")
        return 0

    def _seen(self) -> str:
        """What becomes of a pixel before the imported weights see it."""
        if (self.pixel_mean, self.pixel_std) == (0.0, 1.0):
            return "as it is; --pixel-mean and --pixel-std are for weights that were trained otherwise"
        return f"as (p - {self.pixel_mean:g}) / {self.pixel_std:g}"


def _sequence(config: Config) -> str:
    """What the exported model reads step by step: other frameworks do not know of our tasks."""
    order = f"lstm_jax.sequences.permutation(784, {config.permutation_seed!r})"
    return {
        "rows": "rows of pixels",
        "columns": "columns of pixels",
        "pixels": "single pixels, row after row",
        "permuted": f"single pixels in the order of {order}",
    }[config.task]


def _note(text: str) -> None:
    """Tell the user something that is not the result."""
    print(text, file=sys.stderr)
