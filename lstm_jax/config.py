"""The options of a run: frozen dataclasses, one documented line and one rule per option.

Nothing heavy is imported here, so that ``python train.py --help`` answers at once. JAX is imported
after the command line has been read and accepted. (An option that may be None is ``Optional``: for ``| None``
tyro imports another package, which takes as long as the rest of ``--help``.)
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Optional, get_args

from tyro.conf import arg, create_mutex_group

from lstm_jax.errors import ConfigError
from lstm_jax.kernels import ImplementationName
from lstm_jax.options import (
    POSITIVE,
    SHARE,
    between,
    check,
    contradiction,
    did_you_mean,
    flag,
    number,
    options_of,
    refusal,
    short,
    shown_option,
    values_of,
    whole_number,
)
from lstm_jax.recipes import RECIPES, purposes

DatasetName = Literal["mnist", "fashion_mnist", "kmnist"]
InputName = Literal["memory", "stream"]
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

# Where things are on this machine.
PLACES = ("data_dir", "archive_dir", "run_dir")
# The only options that may differ when a run is continued: places, how the same numbers are computed, and
# when to stop early. The length of training may differ too, where no step depends on it (see
# `Config.identity`).
CHANGEABLE = (*PLACES, "implementation", "devices", "patience")
LENGTH = ("epochs", "steps")

# The order of an epoch is drawn from a 64-bit (seed, epoch) key; JAX keys take 32 bits safely.
LARGEST_SEED = 2**32 - 1
# The step is counted in an int32.
MOST_STEPS = 2**31 - 1

# The limits of whole numbers are above what any machine can do. Without them, a typing mistake ends in a hang
# or a crash of the compiler.

_INT_OR_NONE = shown_option("INT", "none")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Which images, and where they come from."""

    dataset: DatasetName = "mnist"
    """Data set: 60,000 training and 10,000 test images of 28 x 28 pixels in 10 classes."""
    data_dir: Annotated[
        Optional[Path],
        shown_option("DIR", "$TFDS_DATA_DIR, else ~/tensorflow_datasets"),
    ] = None
    """Folder of prepared data sets."""
    archive_dir: Annotated[Optional[Path], shown_option("DIR", "none")] = None
    """Folder with the four original .gz archives of the data set (MNIST's come with the package)."""
    input: InputName = "memory"
    """'memory' holds the images on the device, 'stream' reads batches from disk while training."""
    train_on_all: bool = False
    """Train on all 60,000 training images; none are left for validation."""

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The classifier, and how it is computed."""

    # `lstm_jax.model.LSTMClassifier` has attributes of the same names.
    task: TaskName = "rows"
    """What one step reads: a row, a column, or a pixel (784 steps) in order or in a permuted order."""
    permutation_seed: Annotated[
        int | Literal["bit-reversal"], whole_number(0, 2**32 - 1), arg(metavar="INT|bit-reversal")
    ] = 92916
    """The order of the permuted pixels: numpy.random.RandomState(INT).permutation(784), or bit-reversal."""
    hidden_size: Annotated[int, whole_number(1, 2**16)] = 64
    """Hidden units of each LSTM layer (and of each direction)."""
    num_layers: Annotated[int, whole_number(1, 2**10)] = 1
    """LSTM layers, one on top of the other."""
    bidirectional: bool = False
    """Read the sequence in both directions, and use the last output of each."""
    dropout_rate: Annotated[float, SHARE] = 0.0
    """Share of each layer's outputs that is dropped on the way to the next layer."""
    output_dropout_rate: Annotated[float, SHARE] = 0.0
    """Share of the last layer's last outputs that is dropped on the way to the dense layer."""
    recurrent_dropout_rate: Annotated[float, SHARE] = 0.0
    """Share of the hidden units dropped on the way to the next step; for an image, the same in all steps."""
    recurrent_weight_dropout_rate: Annotated[float, SHARE] = 0.0
    """Share of the recurrent weights that is dropped, the same weights in all time steps."""
    forget_bias: Annotated[
        float | Literal["chrono"],
        number("a number from -3.4e38 to 3.4e38", lambda x: True),
        arg(metavar="FLOAT|chrono"),
    ] = 1.0
    """Initial value of the forget gate's bias; 'chrono' draws it for the length of the sequence."""
    implementation: ImplementationName = "auto"
    """How the LSTM is computed; the numbers are the same, the speed is not."""
    dtype: DtypeName = "float32"
    """Type of the computation; parameters are always float32."""
    remat: Annotated[Optional[int], whole_number(1, max(SEQUENCE_LENGTHS.values())), _INT_OR_NONE] = None
    """Cut sequences into this many parts and recompute each for its gradient: less memory, more time."""

    def __post_init__(self) -> None:
        """Refuse impossible values, and options that do nothing beside the others."""
        check(self)
        if self.dropout_rate and self.num_layers == 1:
            raise contradiction(
                self,
                "dropout_rate",
                "num_layers",
                expected="0 (dropout acts between layers), --num-layers 2 or more, or --output-dropout-rate",
            )
        if self.permutation_seed != ModelOptions.permutation_seed and self.task != "permuted":
            raise contradiction(self, "permutation_seed", "task", expected="--task permuted")
        length = SEQUENCE_LENGTHS[self.task]
        if self.remat is not None and length % self.remat:
            raise contradiction(self, "remat", "task", expected=f"a divisor of its {length} steps")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """How the loss becomes new weights."""

    name: Annotated[OptimizerName, arg(name="optimizer")] = "adam"
    """'adamw': Adam with decoupled weight decay. 'muon': nearly orthogonal updates of the LSTM's kernels,
    NAdam for the rest."""
    learning_rate: Annotated[float, POSITIVE] = 0.01
    """Step size of the optimizer; with a schedule, the largest."""
    schedule: ScheduleName = "constant"
    """How the learning rate falls until the last step."""
    warmup: Annotated[float, SHARE] = 0.0
    """Share of all steps over which the learning rate first rises linearly."""
    final_learning_rate_share: Annotated[float, between(0, 1)] = 0.0
    """Where a linear or cosine schedule ends, as a share of the learning rate."""
    weight_decay: Annotated[float, number("a number from 0 to 3.4e38", lambda x: x >= 0)] = 0.0
    """Share of itself, times the learning rate, that a kernel loses in a step; with 'muon', kernels of the
    LSTM only. Biases do not decay."""
    clip_norm: Annotated[Optional[float], POSITIVE, shown_option("FLOAT", "none")] = None
    """Largest global norm of the gradients; larger ones are scaled down to it."""
    label_smoothing: Annotated[float, SHARE] = 0.0
    """Share of the target that is spread evenly over all classes."""
    ema_decay: Annotated[
        Optional[float],
        number("a number between 0 and 1", lambda x: 0 < x < 1),
        shown_option("FLOAT", "none"),
    ] = None
    """Evaluate an exponential moving average of the weights, which keeps this share of itself in a step."""

    def __post_init__(self) -> None:
        """Refuse impossible values, and options that do nothing beside the others."""
        check(self)
        if self.weight_decay and self.name == "adam":
            raise contradiction(self, "weight_decay", "optimizer", expected="0, or --optimizer adamw or muon")
        if not self.weight_decay and self.name == "adamw":
            raise contradiction(self, "weight_decay", "optimizer", expected="a number above 0")
        if self.final_learning_rate_share and self.schedule == "constant":
            raise contradiction(
                self, "final_learning_rate_share", "schedule", expected="0, or --schedule linear or cosine"
            )

    @property
    def spans_the_run(self) -> bool:
        """Whether the learning rate of a step depends on the number of all steps."""
        return self.schedule != "constant" or bool(self.warmup)


_DEGREES = number("degrees from 0 up to, not including, 90", lambda x: 0 <= x < 90)
_PIXELS = between(0, 28, "pixels")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes of the training images; all zeros leave them as they are.

    All but the bend are drawn uniformly, for each image of each step, from minus to plus these values.
    """

    rotation: Annotated[float, arg(name="augment_rotation"), _DEGREES] = 0.0
    """Turn training images by up to this many degrees, drawn anew each time."""
    shift: Annotated[float, arg(name="augment_shift"), _PIXELS] = 0.0
    """Move training images by up to this many pixels, vertically and horizontally."""
    scale: Annotated[float, arg(name="augment_scale"), SHARE] = 0.0
    """Stretch or shrink training images by up to this share, in height and in width."""
    shear: Annotated[float, arg(name="augment_shear"), SHARE] = 0.0
    """Slant training images by up to this many pixels per pixel of height."""
    elastic: Annotated[float, arg(name="augment_elastic"), _PIXELS] = 0.0
    """Bend training images by this many pixels (root mean square)."""
    # Below 1, neighbouring pixels would move independently, by hundreds of random numbers.
    smoothness: Annotated[float, arg(name="augment_smoothness"), between(1, 28, "pixels")] = 4.0
    """How far a bend reaches, in pixels (standard deviation of a Gaussian)."""

    def __post_init__(self) -> None:
        """Refuse impossible values, and a smoothness of nothing."""
        check(self)
        if self.smoothness != Augmentation.smoothness and not self.elastic:
            raise contradiction(
                self, "augment_smoothness", "augment_elastic", expected="--augment-elastic above 0"
            )

    @property
    def is_active(self) -> bool:
        """Whether anything is changed at all."""
        return any((self.rotation, self.shift, self.scale, self.shear, self.elastic))


_RECIPE_HELP = arg(
    help="Named set of defaults for all other options; what you give besides overrides it. " + purposes()
)
_LENGTH = create_mutex_group(required=False, title="length of training (one of the two)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The options of a run. Each has the value of the original tutorial unless another one is given."""

    # The order of the options, and of those within the groups, is that of config.json. What a training step
    # computes depends on the groups model, optimizer and augmentation, and on how many steps there are.
    recipe: Annotated[RecipeName, _RECIPE_HELP] = "tutorial"
    """Named set of defaults for all other options; see `recipe_config`."""
    data: DataOptions = DataOptions()
    model: ModelOptions = ModelOptions()
    batch_size: Annotated[int, whole_number(1, 2**24)] = 128
    """Images per training step, over all devices."""
    epochs: Annotated[int, whole_number(1, MOST_STEPS), _LENGTH] = 10
    """Passes over the training images."""
    steps: Annotated[Optional[int], whole_number(1, MOST_STEPS), _LENGTH, _INT_OR_NONE] = None
    """Training steps, instead of whole epochs."""
    patience: Annotated[Optional[int], whole_number(1, MOST_STEPS), _INT_OR_NONE] = None
    """Stop after this many epochs without a better validation accuracy; many seeds, when all have."""
    optimizer: OptimizerOptions = OptimizerOptions()
    augmentation: Augmentation = Augmentation()
    seed: Annotated[int, whole_number(0, LARGEST_SEED)] = 0
    """Determines the initial weights, the order of the images, dropout and augmentation."""
    seeds: Annotated[int, whole_number(1, 2**10)] = 1
    """Number of seeds to train at once, from --seed on, in one program; reports their mean and spread."""
    run_dir: Annotated[Optional[Path], shown_option("DIR", "in runs/, named after these options")] = None
    """Folder of this run."""
    devices: Annotated[
        Optional[int],
        whole_number(1, 2**16),
        shown_option("INT", "as many as divide the batch; on a CPU, 1"),
    ] = None
    """Number of devices of each process, which share each batch. On a CPU, N makes N CPU devices."""
    checkpoint_every: Annotated[Optional[int], whole_number(1, MOST_STEPS), _INT_OR_NONE] = None
    """Save after every N steps as well, not only after each epoch."""

    def __post_init__(self) -> None:
        """Refuse impossible values, naming the option, what it got and what it accepts."""
        check(self)
        if self.devices is not None and self.batch_size % self.devices:
            raise contradiction(self, "devices", "batch_size", expected="a number that divides the batch")
        if self.all_seeds[-1] > LARGEST_SEED:
            raise contradiction(self, "seeds", "seed", expected=f"a last seed of at most {LARGEST_SEED}")
        if self.seeds > 1 and self.data.input == "stream":
            raise contradiction(
                self, "seeds", "input", expected="--input memory (each seed has its own order of the images)"
            )
        if self.patience is not None and self.data.train_on_all:
            raise ConfigError(
                f"--patience: got {self.patience} with --train-on-all, expected --no-train-on-all (without "
                "validation images nothing says when to stop)"
            )

    @classmethod
    def of(cls, /, **options: Any) -> "Config":
        """Return the configuration with these options, by their flat names; the others keep their defaults.

        ``Config.of(hidden_size=32, epochs=3)`` is ``Config(model=ModelOptions(hidden_size=32), epochs=3)``.

        Raises:
            ConfigError: for an unknown option or an impossible value.
        """
        return cls().with_options(**options)

    def with_options(self, /, **options: Any) -> "Config":
        """Return a copy in which these options, by their flat names, have other values.

        Raises:
            ConfigError: for an unknown option or an impossible value.
        """
        known = [option.name for option in options_of(Config)]
        if unknown := sorted(set(options) - set(known)):
            guess = did_you_mean(unknown[0], known)
            raise ConfigError(
                f"unknown options {short(', '.join(unknown))}{guess}; a newer lstm_jax may have them"
            )
        changes: dict[str, dict[str, Any]] = {}
        for option in options_of(Config):
            if option.name in options:
                changes.setdefault(option.group, {})[option.field] = options[option.name]
        own = changes.pop("", {})
        groups = {group: dataclasses.replace(getattr(self, group), **its) for group, its in changes.items()}
        return dataclasses.replace(self, **own, **groups)

    def to_dict(self) -> dict[str, Any]:
        """Return the options by their flat names, as plain JSON values (paths as text)."""
        return {
            # Absolute, so that the run can be read from another folder.
            name: str(value.absolute()) if isinstance(value, Path) else value
            for name, value in values_of(self).items()
        }

    @property
    def all_seeds(self) -> range:
        """The seeds that are trained: ``seed``, and those after it if there are many."""
        return range(self.seed, self.seed + self.seeds)

    @property
    def may_go_on(self) -> bool:
        """Whether a run may become longer: no step depends on how many there are going to be."""
        return not self.optimizer.spans_the_run

    def identity(self) -> dict[str, Any]:
        """Return the options that a run must keep from start to end: all that its results depend on."""
        free = (*CHANGEABLE, *LENGTH) if self.may_go_on else CHANGEABLE
        return {key: value for key, value in self.to_dict().items() if key not in free}

    def shared(self) -> dict[str, Any]:
        """Return the options that all processes of a run must share, by flag: all but the data's places."""
        values = {**self.to_dict(), "run_dir": str(self.run_directory().absolute())}
        return {flag(key): value for key, value in values.items() if key not in ("data_dir", "archive_dir")}

    def run_directory(self) -> Path:
        """Return ``run_dir``, or a name made from the options: the same options find the same run again."""
        if self.run_dir is not None:
            return self.run_dir
        # Only what differs from the defaults: a new option must not change the names of old runs.
        digest = hashlib.sha256(json.dumps(self.unusual(), sort_keys=True).encode()).hexdigest()
        seeds = f"seed{self.seed}" if self.seeds == 1 else f"seeds{self.seed}-{self.all_seeds[-1]}"
        return Path("runs") / f"{self.data.dataset}-{self.recipe}-{seeds}-{digest[:8]}"

    def unusual(self) -> dict[str, Any]:
        """Return the options that differ from the defaults, without the places."""
        usual = Config().to_dict()
        return {k: v for k, v in self.to_dict().items() if k not in PLACES and v != usual[k]}


def recipe_config(name: str, **overrides: Any) -> Config:
    """Return the configuration of a named recipe.

    Args:
        name: the recipe.
        overrides: options that differ from it, by their flat names; `epochs` replace its `steps`.

    Raises:
        ConfigError: if there is no such recipe, or an option is unknown or impossible.
    """
    if name not in RECIPES:
        raise refusal("recipe", name, f"one of {', '.join(RECIPES)}")
    if "epochs" in overrides:
        overrides = {"steps": None, **overrides}
    return Config.of(**{"recipe": name, **RECIPES[name].options, **overrides})
