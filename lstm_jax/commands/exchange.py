"""``python -m lstm_jax export`` and ``import``: weights for other frameworks, and from them.

Nothing heavy is imported here, as in `lstm_jax.config`.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from lstm_jax.commands.command_line import ChosenBest, ChosenSeed, RunDir
from lstm_jax.commands.command_line import note as _note
from lstm_jax.config import DATASETS, SEQUENCE_LENGTHS, Config, DatasetName, OptimizerOptions, TaskName
from lstm_jax.errors import ConfigError, ExchangeError
from lstm_jax.exchange.metadata import PIXELS, Inputs, agreed, described, inputs_in_words, said, sequence_of
from lstm_jax.options import check, shown_option
from lstm_jax.system.files import check_target, whole

FormatName = Literal["pytorch", "keras", "safetensors", "onnx"]


@dataclass(frozen=True)
class Export:
    """Write the newest weights of a run as a file for PyTorch, Keras, ONNX, or any reader of safetensors."""

    run_dir: RunDir
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
        from lstm_jax.exchange.formats import FORMATS
        from lstm_jax.runs.run_directory import refuse_links_on_the_way

        kind = FORMATS[self.format]
        output = self.output or self.run_dir / kind.file_name
        refuse_links_on_the_way(self.run_dir, output.parent)
        if output.suffix != kind.suffix:
            raise ConfigError(f"--output: got {output}, expected a name that ends in {kind.suffix}")
        if self.output is not None or self.run_dir.is_dir():  # else the run directory is what is wrong
            check_target(output, overwrite=self.overwrite, advice="give --overwrite, or another --output")

        import jax
        import numpy as np

        from lstm_jax import devices
        from lstm_jax.exchange.layouts import architecture_of
        from lstm_jax.runs.trained import load_trained

        devices.start(devices=None)
        trained = load_trained(self.run_dir, seed=self.seed, best=self.best, report=_note)
        params = jax.tree.map(np.asarray, trained.params)
        architecture = architecture_of(params)
        metadata = {
            "seed": str(trained.seed),
            "step": str(trained.step),
            **described(trained.config),
            **{field: str(value) for field, value in architecture._asdict().items()},
        }
        content = kind.encode(params, metadata)
        with whole(output) as temporary:
            temporary.write_bytes(content)
        _note(f"Wrote {output}, of {self.run_dir} at step {trained.step}. To compute logits with it:")
        shape = f"(batch, time, {architecture.inputs})"
        print(f"# images: float32 {shape}: {inputs_in_words(trained.config)}")
        print(kind.example(architecture, output))
        return 0


@dataclass(frozen=True)
class Import:
    """Make a run directory of weights from elsewhere: to evaluate, to predict, to train further."""

    file: Annotated[Path, Positional, arg(metavar="FILE")]
    """Weights: .safetensors (PyTorch, Flax, lstm_jax), .keras, .h5, .msgpack (Flax) or .onnx."""
    run_dir: Annotated[Path, arg(metavar="DIR")]
    """Folder to make."""
    task: Annotated[TaskName | None, shown_option("|".join(SEQUENCE_LENGTHS), "the file's, else rows")] = None
    """What the weights read in a step, if the file does not say it."""
    permutation_seed: Annotated[
        int | Literal["bit-reversal"] | None, shown_option("INT|bit-reversal", "the file's")
    ] = None
    """The order of the pixels in the task 'permuted', if the file does not say it."""
    pixel_mean: Annotated[float | None, PIXELS["pixel_mean"], shown_option("FLOAT", "the file's, else 0")] = (
        None
    )
    """What was subtracted from the pixels (0 to 1) where the weights were trained."""
    pixel_std: Annotated[float | None, PIXELS["pixel_std"], shown_option("FLOAT", "the file's, else 1")] = (
        None
    )
    """What the pixels were divided by after that."""
    dataset: Annotated[DatasetName | None, shown_option("|".join(DATASETS), "the file's, else mnist")] = None
    """Data set to evaluate on, and to train further on."""
    batch_size: int = Config.batch_size
    """Images per training step, if it is trained further."""
    epochs: int = Config.epochs
    """Passes over the training images, if it is trained further."""
    learning_rate: float = OptimizerOptions.learning_rate
    """Step size of Adam, if it is trained further."""
    seed: int = Config.seed
    """Fixes the order of the images, if it is trained further."""

    def __post_init__(self) -> None:
        """Refuse impossible values, naming the option, what it got and what it accepts."""
        check(self)
        # The file may still say the rest.
        likely = self.task or ("rows" if self.permutation_seed is None else "permuted")
        self.options(dataset=self.dataset, task=likely, permutation_seed=self.permutation_seed)

    def options(self, **inputs: Any) -> Config:
        """Return the options of the run without its architecture; a None in ``inputs`` is the default."""
        return Config.of(
            run_dir=self.run_dir,
            batch_size=self.batch_size,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            seed=self.seed,
            **{name: value for name, value in inputs.items() if value is not None},
        )

    def run(self) -> int:
        """Read the file, write the folder; print what can be done with it."""
        if os.path.lexists(self.run_dir):
            check_target(self.run_dir, overwrite=False, advice="name another --run-dir")
        from lstm_jax.exchange.formats import read_file
        from lstm_jax.exchange.layouts import architecture_of, with_normalized_inputs

        weights = read_file(self.file)
        architecture = architecture_of(weights.params)
        asked = Inputs(self.task, self.permutation_seed, self.dataset, self.pixel_mean, self.pixel_std)
        try:
            inputs, granted = agreed(said(weights.metadata), asked, inputs=architecture.inputs)

            from lstm_jax import devices  # and with it JAX: a file that does not fit is refused before
            from lstm_jax.exchange.imported_run import begin_run, config_for, training_command

            options = self.options(
                dataset=inputs.dataset, task=inputs.task, permutation_seed=inputs.permutation_seed
            )
            config = config_for(architecture, options)
        except ExchangeError as error:
            raise ExchangeError(f"{self.file}: {error}") from error
        mean, std = inputs.pixel_mean or 0.0, inputs.pixel_std or 1.0
        params = with_normalized_inputs(weights.params, mean=mean, std=std)
        devices.start(devices=None)
        self.run_dir.parent.mkdir(parents=True, exist_ok=True)
        begin_run(params, config, report=_note)
        model = config.model
        both = "in both directions" if model.bidirectional else "in one direction"
        seen = "as it is" if (mean, std) == (0.0, 1.0) else f"as (p - {mean:g}) / {std:g}"
        print(f"Made {self.run_dir}: {model.num_layers} x LSTM-{model.hidden_size} {both}, from {self.file}.")
        print(f"It reads {sequence_of(model.task, model.permutation_seed)}.")
        print(f"It sees each pixel p, 0 (black) to 1 (white), {seen}.")
        if granted := [*weights.granted, *granted]:
            print(f"Taken for granted, since the file does not say it: {'; '.join(granted)}.")
            print("Evaluate it first: a low accuracy shows that something of this is not so.")
        print("To evaluate it, and to train it further:\n")
        print(f"    python -m lstm_jax evaluate {self.run_dir}\n    {training_command(config)}")
        return 0
