"""What a run is: one frozen dataclass, one documented line per option, named recipes.

Nothing heavy is imported here, so that ``python train.py --help`` answers at once: JAX is imported
after the command line has been read and found possible.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args

from tyro.conf import arg, create_mutex_group

from lstm_jax.errors import ConfigError

DatasetName = Literal["mnist", "fashion_mnist", "kmnist"]
InputName = Literal["memory", "stream"]
ImplementationName = Literal["auto", "scan", "unrolled", "fused", "native"]
DtypeName = Literal["float32", "bfloat16"]
RecipeName = Literal["tutorial"]

DATASETS: tuple[str, ...] = get_args(DatasetName)
INPUTS: tuple[str, ...] = get_args(InputName)
IMPLEMENTATIONS: tuple[str, ...] = get_args(ImplementationName)

# Where things lie on this machine.
PLACES = ("data_dir", "archive_dir", "run_dir")
# The only fields that may differ when a run is continued: places, and how the same numbers are computed.
CHANGEABLE = (*PLACES, "implementation")

# The step is counted in an int32.
MOST_STEPS = 2**31 - 1
FLOAT32_MAX = 3.4e38
# No machine could do more; without limits, a typing mistake ends in a hang or in a crash of the compiler.
_LARGEST: Mapping[str, int] = MappingProxyType(
    {
        "hidden_size": 2**16,
        "num_layers": 2**10,
        "batch_size": 2**24,
        "epochs": MOST_STEPS,
        "steps": MOST_STEPS,
        "devices": 2**16,
        "checkpoint_every": MOST_STEPS,
    }
)


def shown_option(metavar: str, default: str) -> Any:
    """How ``--help`` shows an option whose default, None, stands for something else."""
    return arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


_LENGTH = create_mutex_group(required=False, title="length of training (one of the two)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Train an LSTM that reads an image row by row and names what it shows.

    Every option has the value of the original tutorial unless you give another one. Running the
    same command again continues an unfinished run.
    """

    recipe: RecipeName = "tutorial"
    """Named set of defaults for all other options; what you give besides overrides it."""

    dataset: DatasetName = "mnist"
    """Data set: 60,000 training and 10,000 test images of 28 x 28 pixels in 10 classes."""
    data_dir: Annotated[Path | None, shown_option("DIR", "$TFDS_DATA_DIR, else ~/tensorflow_datasets")] = None
    """Folder of prepared data sets."""
    archive_dir: Annotated[Path | None, shown_option("DIR", "none")] = None
    """Folder with the four original .gz archives of the data set (MNIST's come with the package)."""
    input: InputName = "memory"
    """'memory' holds the images on the device, 'stream' reads batches from disk while training."""

    hidden_size: int = 64
    """Hidden units of each LSTM layer (and of each direction)."""
    num_layers: int = 1
    """LSTM layers, one on top of the other."""
    bidirectional: bool = False
    """Read the rows from the top and from the bottom, and use the last output of both."""
    dropout_rate: float = 0.0
    """Share of each layer's outputs that is dropped on the way to the next layer."""
    forget_bias: float = 1.0
    """Initial value of the forget gate's bias."""
    implementation: ImplementationName = "auto"
    """How the LSTM is computed; the numbers are the same."""
    dtype: DtypeName = "float32"
    """Type of the computation; parameters are float32 always."""

    batch_size: int = 128
    """Images per training step, over all devices."""
    epochs: Annotated[int, _LENGTH] = 10
    """Passes over the training images."""
    steps: Annotated[int | None, _LENGTH, shown_option("INT", "none")] = None
    """Training steps, instead of whole epochs."""
    learning_rate: float = 0.01
    """Step size of Adam."""
    seed: int = 0
    """Fixes initial weights, order of the images and dropout."""

    run_dir: Annotated[Path | None, shown_option("DIR", "in runs/, named after these options")] = None
    """Folder of this run."""
    devices: Annotated[int | None, shown_option("INT", "all; on a CPU, 1")] = None
    """Devices to share each batch. On a CPU, N makes N CPU devices."""
    checkpoint_every: Annotated[int | None, shown_option("INT", "none")] = None
    """Save after every so many steps as well, not only after each epoch."""

    def __post_init__(self) -> None:
        """Refuse impossible values, naming the option, what it got and what it accepts."""
        for field, choices in _CHOICES.items():
            if getattr(self, field) not in choices:
                raise _refusal(field, getattr(self, field), f"one of {', '.join(choices)}")
        for field in PLACES:
            path = getattr(self, field)
            if path is not None and not isinstance(path, str | Path):
                raise _refusal(field, path, "a path")
            # Frozen for everybody but its maker: `~` and strings are for users, paths for the code.
            object.__setattr__(self, field, None if path is None else _expanded(field, Path(path)))
        if not isinstance(self.bidirectional, bool):
            raise _refusal("bidirectional", self.bidirectional, "True or False")
        for field, most in _LARGEST.items():
            # None is a value only where it is the default.
            if getattr(self, field) is not None or getattr(Config, field) is not None:
                _check_whole(field, getattr(self, field), at_least=1, at_most=most)
        # The order of an epoch is drawn from a 64-bit (seed, epoch) key; JAX keys take 32 bits safely.
        _check_whole("seed", self.seed, at_least=0, at_most=2**32 - 1)
        _check_number(
            "learning_rate", self.learning_rate, "a number above 0 (and at most 3.4e38)", lambda x: x > 0
        )
        _check_number(
            "dropout_rate", self.dropout_rate, "a number from 0 up to, not including, 1", lambda x: 0 <= x < 1
        )
        _check_number("forget_bias", self.forget_bias, "a number from -3.4e38 to 3.4e38", lambda x: True)
        if self.devices is not None and self.batch_size % self.devices:
            raise ConfigError(
                f"--devices: got {self.devices} with --batch-size {self.batch_size}, "
                "expected a number that divides the batch"
            )
        if self.dropout_rate and self.num_layers == 1:
            raise ConfigError(
                f"--dropout-rate: got {self.dropout_rate} with --num-layers 1, expected 0 "
                "(dropout acts between layers) or --num-layers 2 or more"
            )

    def to_dict(self) -> dict[str, Any]:
        """The options as plain JSON values (paths as strings)."""
        return {
            # Absolute, so that the run can be read from another folder.
            key: str(value.absolute()) if isinstance(value, Path) else value
            for key, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Config":
        """The inverse of `to_dict`; options that ``values`` lacks keep their defaults.

        Raises:
            ConfigError: for an unknown option or an impossible value.
        """
        unknown = sorted(set(values) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise ConfigError(
                f"unknown options {', '.join(unknown)}; was this written by a newer version of lstm_jax?"
            )
        return cls(**values)

    def identity(self) -> dict[str, Any]:
        """The options that a run must keep from start to end."""
        return {key: value for key, value in self.to_dict().items() if key not in CHANGEABLE}

    def run_directory(self) -> Path:
        """``run_dir``, or a name made from the options: the same options find the same run again."""
        if self.run_dir is not None:
            return self.run_dir
        # Only what differs from the defaults, so that a new option does not change the names of old runs.
        usual = Config().to_dict()
        unusual = {
            key: value for key, value in self.to_dict().items() if key not in PLACES and value != usual[key]
        }
        digest = hashlib.sha256(json.dumps(unusual, sort_keys=True).encode()).hexdigest()
        return Path("runs") / f"{self.dataset}-{self.recipe}-seed{self.seed}-{digest[:8]}"


# What each recipe changes against the defaults above.
RECIPES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # LSTM-64, the last output, Adam at a constant 0.01, batches of 128, 10 epochs of the first
        # 55,000 training images: the script this project began as.
        "tutorial": MappingProxyType({}),
    }
)

_CHOICES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "recipe": get_args(RecipeName),
        "dataset": DATASETS,
        "input": INPUTS,
        "implementation": IMPLEMENTATIONS,
        "dtype": get_args(DtypeName),
    }
)


def recipe_config(name: str) -> Config:
    """The configuration of a named recipe.

    Raises:
        ConfigError: if there is no such recipe.
    """
    if name not in RECIPES:
        raise _refusal("recipe", name, f"one of {', '.join(RECIPES)}")
    return Config(**{"recipe": name, **RECIPES[name]})


def option(field: str) -> str:
    """The name of a field on the command line: ``batch_size`` -> ``--batch-size``."""
    return "--" + field.replace("_", "-")


def _refusal(field: str, value: object, accepted: str) -> ConfigError:
    return ConfigError(f"{option(field)}: got {value!r}, expected {accepted}")


def _expanded(field: str, path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise _refusal(field, str(path), "a folder; there is no such home directory") from error


def _check_whole(field: str, value: Any, at_least: int, at_most: int) -> None:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or not at_least <= value <= at_most:
        raise _refusal(field, value, f"a whole number from {at_least} to {at_most}")


def _check_number(field: str, value: Any, accepted: str, fits: Callable[[float], bool]) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or abs(value) > FLOAT32_MAX or not fits(value):
        raise _refusal(field, value, accepted)
