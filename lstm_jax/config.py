"""The options of a run: one frozen dataclass, one documented line per option.

Nothing heavy is imported here, so that ``python train.py --help`` answers at once. JAX is imported
after the command line has been read and accepted.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple, get_args

from tyro.conf import arg, create_mutex_group

from lstm_jax.errors import ConfigError, printable
from lstm_jax.recipes import RECIPES, purposes

DatasetName = Literal["mnist", "fashion_mnist", "kmnist"]
InputName = Literal["memory", "stream"]
ImplementationName = Literal["auto", "scan", "unrolled", "fused", "native"]
DtypeName = Literal["float32", "bfloat16"]
RecipeName = Literal["tutorial", "fast", "accurate", "accurate-bidirectional", "pixels", "permuted"]
TaskName = Literal["rows", "columns", "pixels", "permuted"]
OptimizerName = Literal["adam", "adamw", "muon"]
ScheduleName = Literal["constant", "linear", "cosine"]

# Of every data set.
IMAGE_SHAPE = (28, 28)
NUM_CLASSES = 10
# Time steps of each task.
SEQUENCE_LENGTHS: Mapping[str, int] = MappingProxyType(
    {"rows": 28, "columns": 28, "pixels": 784, "permuted": 784}
)

DATASETS: tuple[str, ...] = get_args(DatasetName)
INPUTS: tuple[str, ...] = get_args(InputName)
IMPLEMENTATIONS: tuple[str, ...] = get_args(ImplementationName)

# Where things are on this machine.
PLACES = ("data_dir", "archive_dir", "run_dir")
# The only fields that may differ when a run is continued: places, how the same numbers are computed, and when
# to stop early. The length of training may differ too, where no step depends on it (see `Config.identity`).
CHANGEABLE = (*PLACES, "implementation", "patience")
LENGTH = ("epochs", "steps")
# What no training step depends on, if its batch is given.
OUTSIDE_A_STEP = (
    *PLACES, *LENGTH, "recipe", "dataset", "input", "train_on_all", "batch_size", "patience", "seed", "seeds",
    "devices", "checkpoint_every",
)  # fmt: skip

# The order of an epoch is drawn from a 64-bit (seed, epoch) key; JAX keys take 32 bits safely.
LARGEST_SEED = 2**32 - 1
# The step is counted in an int32.
MOST_STEPS = 2**31 - 1
FLOAT32_MAX = 3.4e38
# No machine can do more. Without limits, a typing mistake ends in a hang or a crash of the compiler.
_LARGEST: Mapping[str, int] = MappingProxyType(
    {
        "hidden_size": 2**16,
        "num_layers": 2**10,
        "batch_size": 2**24,
        "epochs": MOST_STEPS,
        "steps": MOST_STEPS,
        "patience": MOST_STEPS,
        "seeds": 2**10,
        "devices": 2**16,
        "checkpoint_every": MOST_STEPS,
        "remat": max(SEQUENCE_LENGTHS.values()),
    }
)


class _Number(NamedTuple):
    """A condition on a number, in words and as a test."""

    accepted: str
    fits: Callable[[float], bool]


_SHARE = _Number("a number from 0 up to, not including, 1", lambda x: 0 <= x < 1)
_POSITIVE = _Number("a number above 0 (and at most 3.4e38)", lambda x: x > 0)
_NUMBERS: Mapping[str, _Number] = MappingProxyType(
    {
        "learning_rate": _POSITIVE,
        "warmup": _SHARE,
        "final_learning_rate_share": _Number("a number from 0 to 1", lambda x: 0 <= x <= 1),
        "weight_decay": _Number("a number from 0 to 3.4e38", lambda x: x >= 0),
        "clip_norm": _POSITIVE,
        "label_smoothing": _SHARE,
        "ema_decay": _Number("a number between 0 and 1", lambda x: 0 < x < 1),
        "dropout_rate": _SHARE,
        "output_dropout_rate": _SHARE,
        "recurrent_dropout_rate": _SHARE,
        "recurrent_weight_dropout_rate": _SHARE,
        "augment_rotation": _Number("degrees from 0 up to, not including, 90", lambda x: 0 <= x < 90),
        "augment_shift": _Number("pixels from 0 to 28", lambda x: 0 <= x <= 28),
        "augment_scale": _SHARE,
        "augment_shear": _SHARE,
        "augment_elastic": _Number("pixels from 0 to 28", lambda x: 0 <= x <= 28),
        # Below 1, neighbouring pixels would move independently, by hundreds of random numbers.
        "augment_smoothness": _Number("pixels from 1 to 28", lambda x: 1 <= x <= 28),
    }
)


def shown_option(metavar: str, default: str) -> Any:
    """Say how ``--help`` shows an option whose default, None, stands for something else."""
    return arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


# Of the commands that read one model of a run.
ChosenSeed = Annotated[int | None, shown_option("INT", "the first seed of the run")]
ChosenBest = Annotated[bool, arg(help="Take the state after the best epoch on validation, not the newest.")]

_RECIPE_HELP = arg(
    help="Named set of defaults for all other options; what you give besides overrides it. " + purposes()
)
_LENGTH = create_mutex_group(required=False, title="length of training (one of the two)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Train an LSTM that reads an image as a sequence and names what it shows.

    Every option has the value of the original tutorial unless you give another one. Running the
    same command again continues an unfinished run.
    """

    recipe: Annotated[RecipeName, _RECIPE_HELP] = "tutorial"
    """Named set of defaults for all other options; see `recipe_config`."""

    dataset: DatasetName = "mnist"
    """Data set: 60,000 training and 10,000 test images of 28 x 28 pixels in 10 classes."""
    data_dir: Annotated[Path | None, shown_option("DIR", "$TFDS_DATA_DIR, else ~/tensorflow_datasets")] = None
    """Folder of prepared data sets."""
    archive_dir: Annotated[Path | None, shown_option("DIR", "none")] = None
    """Folder with the four original .gz archives of the data set (MNIST's come with the package)."""
    input: InputName = "memory"
    """'memory' holds the images on the device, 'stream' reads batches from disk while training."""
    train_on_all: bool = False
    """Train on all 60,000 training images; none are left for validation."""
    task: TaskName = "rows"
    """What one step reads: a row, a column, or a pixel (784 steps) in order or in a permuted order."""
    permutation_seed: Annotated[int | Literal["bit-reversal"], arg(metavar="INT|bit-reversal")] = 92916
    """The order of the permuted pixels: numpy.random.RandomState(INT).permutation(784), or bit-reversal."""

    hidden_size: int = 64
    """Hidden units of each LSTM layer (and of each direction)."""
    num_layers: int = 1
    """LSTM layers, one on top of the other."""
    bidirectional: bool = False
    """Read the sequence in both directions, and use the last output of each."""
    dropout_rate: float = 0.0
    """Share of each layer's outputs that is dropped on the way to the next layer."""
    output_dropout_rate: float = 0.0
    """Share of the last layer's last outputs that is dropped on the way to the dense layer."""
    recurrent_dropout_rate: float = 0.0
    """Share of the hidden units dropped on the way to the next step; for an image, the same in all steps."""
    recurrent_weight_dropout_rate: float = 0.0
    """Share of the recurrent weights that is dropped, the same weights in all time steps."""
    forget_bias: Annotated[float | Literal["chrono"], arg(metavar="FLOAT|chrono")] = 1.0
    """Initial value of the forget gate's bias; 'chrono' draws it for the length of the sequence."""
    implementation: ImplementationName = "auto"
    """How the LSTM is computed; the numbers are the same, the speed is not."""
    dtype: DtypeName = "float32"
    """Type of the computation; parameters are always float32."""
    remat: Annotated[int | None, shown_option("INT", "none")] = None
    """Cut sequences into this many parts and recompute each for its gradient: less memory, more time."""

    batch_size: int = 128
    """Images per training step, over all devices."""
    epochs: Annotated[int, _LENGTH] = 10
    """Passes over the training images."""
    steps: Annotated[int | None, _LENGTH, shown_option("INT", "none")] = None
    """Training steps, instead of whole epochs."""
    patience: Annotated[int | None, shown_option("INT", "none")] = None
    """Stop after this many epochs without a better validation accuracy; many seeds, when all have."""
    optimizer: OptimizerName = "adam"
    """'adamw': Adam with decoupled weight decay. 'muon': nearly orthogonal updates of the LSTM's kernels,
    NAdam for the rest."""
    learning_rate: float = 0.01
    """Step size of the optimizer; with a schedule, the largest."""
    schedule: ScheduleName = "constant"
    """How the learning rate falls until the last step."""
    warmup: float = 0.0
    """Share of all steps over which the learning rate first rises linearly."""
    final_learning_rate_share: float = 0.0
    """Where a linear or cosine schedule ends, as a share of the learning rate."""
    weight_decay: float = 0.0
    """Share of itself, times the learning rate, that a kernel loses in a step; with 'muon', kernels of the
    LSTM only. Biases do not decay."""
    clip_norm: Annotated[float | None, shown_option("FLOAT", "none")] = None
    """Largest global norm of the gradients; larger ones are scaled down to it."""
    label_smoothing: float = 0.0
    """Share of the target that is spread evenly over all classes."""
    ema_decay: Annotated[float | None, shown_option("FLOAT", "none")] = None
    """Evaluate an exponential moving average of the weights, which keeps this share of itself in a step."""
    augment_rotation: float = 0.0
    """Turn training images by up to this many degrees, drawn anew each time."""
    augment_shift: float = 0.0
    """Move training images by up to this many pixels, vertically and horizontally."""
    augment_scale: float = 0.0
    """Stretch or shrink training images by up to this share, in height and in width."""
    augment_shear: float = 0.0
    """Slant training images by up to this many pixels per pixel of height."""
    augment_elastic: float = 0.0
    """Bend training images by this many pixels (root mean square)."""
    augment_smoothness: float = 4.0
    """How far a bend reaches, in pixels (standard deviation of a Gaussian)."""
    seed: int = 0
    """Determines the initial weights, the order of the images, dropout and augmentation."""
    seeds: int = 1
    """Number of seeds to train at once, from --seed on, in one program; reports their mean and spread."""

    run_dir: Annotated[Path | None, shown_option("DIR", "in runs/, named after these options")] = None
    """Folder of this run."""
    devices: Annotated[int | None, shown_option("INT", "as many as divide the batch; on a CPU, 1")] = None
    """Number of devices that share each batch. On a CPU, N makes N CPU devices."""
    checkpoint_every: Annotated[int | None, shown_option("INT", "none")] = None
    """Save after every N steps as well, not only after each epoch."""

    def __post_init__(self) -> None:
        """Refuse impossible values, naming the option, what it got and what it accepts."""
        for field, choices in _CHOICES.items():
            if getattr(self, field) not in choices:
                raise _refusal(field, getattr(self, field), f"one of {', '.join(choices)}")
        for field in PLACES:
            path = getattr(self, field)
            if path is not None and not isinstance(path, str | Path):
                raise _refusal(field, path, "a path")
            # Users may give `~` and strings; the code gets paths. The class is frozen for all but its maker.
            object.__setattr__(self, field, None if path is None else _expanded(field, Path(path)))
        for field in ("bidirectional", "train_on_all"):
            if not isinstance(getattr(self, field), bool):
                raise _refusal(field, getattr(self, field), "True or False")
        for field, most in _LARGEST.items():
            # None is a value only where it is the default.
            if getattr(self, field) is not None or getattr(Config, field) is not None:
                _check_whole(field, getattr(self, field), at_least=1, at_most=most)
        _check_whole("seed", self.seed, at_least=0, at_most=LARGEST_SEED)
        for field, number in _NUMBERS.items():
            if getattr(self, field) is not None or getattr(Config, field) is not None:
                _check_number(field, getattr(self, field), number)
        if self.forget_bias != "chrono":
            any_number = _Number("a number from -3.4e38 to 3.4e38, or 'chrono'", lambda x: True)
            _check_number("forget_bias", self.forget_bias, any_number)
        if self.permutation_seed != "bit-reversal":
            _check_whole(
                "permutation_seed", self.permutation_seed, 0, 2**32 - 1, besides=", or 'bit-reversal'"
            )
        self._refuse_contradictions()

    def _refuse_contradictions(self) -> None:
        """Refuse options that are possible alone, but not together: one of them would do nothing."""
        if self.devices is not None and self.batch_size % self.devices:
            raise _contradiction(self, "devices", "batch_size", expected="a number that divides the batch")
        if self.all_seeds[-1] > LARGEST_SEED:
            raise _contradiction(self, "seeds", "seed", expected=f"a last seed of at most {LARGEST_SEED}")
        if self.seeds > 1 and self.input == "stream":
            raise _contradiction(
                self, "seeds", "input", expected="--input memory (each seed has its own order of the images)"
            )
        if self.dropout_rate and self.num_layers == 1:
            raise _contradiction(
                self,
                "dropout_rate",
                "num_layers",
                expected="0 (dropout acts between layers), --num-layers 2 or more, or --output-dropout-rate",
            )
        if self.permutation_seed != Config.permutation_seed and self.task != "permuted":
            raise _contradiction(self, "permutation_seed", "task", expected="--task permuted")
        if self.patience is not None and self.train_on_all:
            raise ConfigError(
                f"--patience: got {self.patience} with --train-on-all, expected --no-train-on-all (without "
                "validation images nothing says when to stop)"
            )
        length = SEQUENCE_LENGTHS[self.task]
        if self.remat is not None and length % self.remat:
            raise _contradiction(self, "remat", "task", expected=f"a divisor of its {length} steps")
        if self.weight_decay and self.optimizer == "adam":
            raise _contradiction(
                self, "weight_decay", "optimizer", expected="0, or --optimizer adamw or muon"
            )
        if not self.weight_decay and self.optimizer == "adamw":
            raise _contradiction(self, "weight_decay", "optimizer", expected="a number above 0")
        if self.final_learning_rate_share and self.schedule == "constant":
            raise _contradiction(
                self, "final_learning_rate_share", "schedule", expected="0, or --schedule linear or cosine"
            )
        if self.augment_smoothness != Config.augment_smoothness and not self.augment_elastic:
            raise _contradiction(
                self, "augment_smoothness", "augment_elastic", expected="--augment-elastic above 0"
            )

    @property
    def all_seeds(self) -> range:
        """The seeds that are trained: ``seed``, and those after it if there are many."""
        return range(self.seed, self.seed + self.seeds)

    def to_dict(self) -> dict[str, Any]:
        """Return the options as plain JSON values (paths as strings)."""
        return {
            # Absolute, so that the run can be read from another folder.
            key: str(value.absolute()) if isinstance(value, Path) else value
            for key, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Config":
        """Do the inverse of `to_dict`; options that ``values`` lacks keep their defaults.

        Raises:
            ConfigError: for an unknown option or an impossible value.
        """
        unknown = sorted(set(values) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise ConfigError(
                f"unknown options {_short(', '.join(unknown))}; was this written by a newer version of "
                "lstm_jax?"
            )
        return cls(**values)

    @property
    def may_go_on(self) -> bool:
        """Whether a run may become longer: no step depends on how many there are going to be."""
        return self.schedule == "constant" and not self.warmup

    def of_a_step(self) -> "Config":
        """Return the same options for a training step, and the defaults for all else."""
        return dataclasses.replace(self, **{field: getattr(Config, field) for field in OUTSIDE_A_STEP})

    def identity(self) -> dict[str, Any]:
        """Return the options that a run must keep from start to end: all that its results depend on."""
        free = (*CHANGEABLE, *LENGTH) if self.may_go_on else CHANGEABLE
        return {key: value for key, value in self.to_dict().items() if key not in free}

    def shared(self) -> dict[str, Any]:
        """Return the options that all processes of a run must share, by name: all but the data's places."""
        values = {**self.to_dict(), "run_dir": str(self.run_directory().absolute())}
        return {option(key): value for key, value in values.items() if key not in ("data_dir", "archive_dir")}

    def run_directory(self) -> Path:
        """Return ``run_dir``, or a name made from the options: the same options find the same run again."""
        if self.run_dir is not None:
            return self.run_dir
        # Only what differs from the defaults: a new option must not change the names of old runs.
        usual = Config().to_dict()
        unusual = {
            key: value for key, value in self.to_dict().items() if key not in PLACES and value != usual[key]
        }
        digest = hashlib.sha256(json.dumps(unusual, sort_keys=True).encode()).hexdigest()
        seeds = f"seed{self.seed}" if self.seeds == 1 else f"seeds{self.seed}-{self.all_seeds[-1]}"
        return Path("runs") / f"{self.dataset}-{self.recipe}-{seeds}-{digest[:8]}"


_CHOICES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "recipe": get_args(RecipeName),
        "dataset": DATASETS,
        "input": INPUTS,
        "task": tuple(SEQUENCE_LENGTHS),
        "implementation": IMPLEMENTATIONS,
        "dtype": get_args(DtypeName),
        "optimizer": get_args(OptimizerName),
        "schedule": get_args(ScheduleName),
    }
)


def recipe_config(name: str, **overrides: Any) -> Config:
    """Return the configuration of a named recipe.

    Args:
        name: the recipe.
        overrides: options that differ from it; `epochs` replace its `steps`.

    Raises:
        ConfigError: if there is no such recipe, or an option is impossible.
    """
    if name not in RECIPES:
        raise _refusal("recipe", name, f"one of {', '.join(RECIPES)}")
    if "epochs" in overrides:
        overrides = {"steps": None, **overrides}
    return Config(**{"recipe": name, **RECIPES[name].options, **overrides})


def option(field: str) -> str:
    """Return the name of a field on the command line: ``batch_size`` -> ``--batch-size``."""
    return "--" + field.replace("_", "-")


def _refusal(field: str, value: object, accepted: str) -> ConfigError:
    return ConfigError(f"{option(field)}: got {_short(repr(value))}, expected {accepted}")


def _short(text: str) -> str:
    """Fit what somebody wrote into a config.json on one line of a terminal."""
    return printable(text if len(text) <= 200 else f"{text[:200]} ...")


def _expanded(field: str, path: Path) -> Path:
    try:
        if "\0" in os.fsdecode(os.fsencode(path)):  # text that cannot be encoded is no path either
            raise _refusal(field, str(path), "a path")
        return path.expanduser()
    except UnicodeEncodeError as error:
        raise _refusal(field, str(path), "a path") from error
    except RuntimeError as error:
        raise _refusal(field, str(path), "a folder; there is no such home directory") from error


def _contradiction(config: Config, field: str, other: str, *, expected: str) -> ConfigError:
    return ConfigError(
        f"{option(field)}: got {getattr(config, field)} with {option(other)} {getattr(config, other)}, "
        f"expected {expected}"
    )


def _check_whole(field: str, value: Any, at_least: int, at_most: int, *, besides: str = "") -> None:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or not at_least <= value <= at_most:
        raise _refusal(field, value, f"a whole number from {at_least} to {at_most}{besides}")


def _check_number(field: str, value: Any, number: _Number) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # Compare first: a whole number may be too large for a float. A comparison with NaN is false.
    if not is_number or not abs(value) <= FLOAT32_MAX or not number.fits(value):
        raise _refusal(field, value, number.accepted)
