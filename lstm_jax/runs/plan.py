"""The number of steps of a run, and their division into epochs."""

import dataclasses

from lstm_jax.config import MOST_STEPS, Config
from lstm_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Plan:
    """The number of steps of a run, and their division into epochs.

    Attributes:
        steps_per_epoch: full batches in the training split.
        total_steps: steps from the start of the run to its end.
    """

    steps_per_epoch: int
    total_steps: int

    @classmethod
    def of(cls, config: Config, num_examples: int) -> "Plan":
        """Make the plan of a configuration for so many training examples.

        Raises:
            ConfigError: if a batch is larger than the split.
        """
        steps_per_epoch = num_examples // config.batch_size
        if not steps_per_epoch:
            raise ConfigError(
                f"--batch-size: got {config.batch_size}, expected at most {num_examples}, "
                "the number of training images"
            )
        plan = cls(steps_per_epoch, config.steps or config.epochs * steps_per_epoch)
        if plan.total_steps > MOST_STEPS:  # the step is counted in an int32
            raise ConfigError(
                f"--epochs: got {config.epochs}, expected at most {MOST_STEPS // steps_per_epoch}"
            )
        return plan

    @property
    def epochs(self) -> int:
        """The number of epochs, including a last incomplete one."""
        return -(-self.total_steps // self.steps_per_epoch)

    def epoch_of(self, step: int) -> tuple[int, int, int]:
        """Return the epoch after ``step`` steps (from 0), the steps taken in it, and the steps it has."""
        epoch, done = divmod(step, self.steps_per_epoch)
        return epoch, done, min(self.steps_per_epoch, self.total_steps - epoch * self.steps_per_epoch)
