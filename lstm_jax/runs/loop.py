"""The loop over epochs: what happens between compiled steps, from an empty folder to a summary.

A run is a sequence of steps. The state and its notes are saved together at the end of each epoch, after every
``checkpoint_every`` steps, and when the run is told to stop. A continued run reads the newest undamaged state
and computes the same bits as if it had never stopped: the order of the images and all random keys follow from
the seed, the epoch and the step.
"""

import dataclasses
import signal
import time

import jax
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from lstm_jax import __version__, devices
from lstm_jax.config import Config
from lstm_jax.data.dataset import VALIDATION_SIZE, Dataset, load_dataset
from lstm_jax.errors import CheckpointError, ConfigError, NonFiniteLossError
from lstm_jax.evaluation import Confusion, Score, compile_score, evaluate
from lstm_jax.kernels import NATIVE, products
from lstm_jax.model import Params
from lstm_jax.runs import processes
from lstm_jax.runs.checkpoint import Checkpoints
from lstm_jax.runs.console import Console
from lstm_jax.runs.feed import Feed, make_feed
from lstm_jax.runs.finished import TrainResult, finished
from lstm_jax.runs.history import Notes, has_ended, loss_sums, steps_to_keep
from lstm_jax.runs.implementation import prepare_implementation, with_products
from lstm_jax.runs.plan import Plan
from lstm_jax.runs.run_directory import Record, RunDirectory
from lstm_jax.runs.seeds import first_nonfinite_loss, members, seed_of, seed_with_nonfinite
from lstm_jax.runs.summary import (
    over_seeds,
    summarise,
    tell_end,
    tell_start,
)
from lstm_jax.system.signals import Interrupted, StopSignals
from lstm_jax.training import Method, TrainEpoch, TrainState, compile_train_epoch, init_state_on

# Seconds that one call of the compiled program takes. Between calls, the loop looks for signals and moves the
# progress bar. Not less: each call allocates memory for all that a step saves, and with shorter calls, large
# steps spent a quarter of their time on that.
DISPATCH_SECONDS = 1.0


def train(config: Config, *, console: Console | None = None, stop: StopSignals | None = None) -> TrainResult:
    """Train the model of a configuration, or continue its training, in its run directory.

    A finished run is not repeated. It continues if ``epochs`` or ``steps`` ask for more, where that is
    possible (`Config.may_go_on`).

    In the main thread, SIGINT (Ctrl-C), SIGTERM and SIGHUP save the state first. Then Ctrl-C raises
    `Interrupted`, a KeyboardInterrupt. The other signals have their usual effect: they end the process, or
    call the program's own handler. When that returns, so does this function, with the signal in
    ``stopped_by``.

    Args:
        config: the options.
        console: receives messages and progress; by default nothing is printed.
        stop: listens for signals; by default, this function does while it runs. With an argument, the caller
            decides what a signal means: once training has begun, none is raised, and the result has it in
            ``stopped_by``.

    Raises:
        UserError: an impossible option, missing or damaged data, a run directory that cannot be written or
            belongs to another configuration, or a loss that is not finite.
        Interrupted: Ctrl-C, at any time; or a signal before training began, with nothing to save.
    """
    if stop is not None:
        return _train(config, console or Console(), stop)
    stop = StopSignals()
    try:
        with stop:
            result = _train(config, console or Console(), stop)
    except Interrupted as interrupt:
        stop.hand_back(interrupt.number)
        raise
    # A signal may also have come after the last step.
    if (by := result.stopped_by or stop.received) is not None:
        saved = f"the state is saved in {result.run_dir}; the same call goes on from it"
        stop.hand_back(by, saved if result.summary is None else f"the run in {result.run_dir} is finished")
    return result


def _train(config: Config, console: Console, stop: StopSignals) -> TrainResult:
    started = time.perf_counter()
    versions = {"version of lstm_jax": __version__, "version of jax": jax.__version__}
    processes.agree({**versions, **config.shared()})
    if not processes.is_leader():
        console = Console()
    mesh = devices.make_mesh(devices=config.devices, batch_size=config.batch_size)
    implementation = processes.together(stop.interrupting(lambda: prepare_implementation(config, console)))
    processes.agree({"what --implementation auto chooses": implementation})
    with processes.leader_first(lambda: RunDirectory(config, leader=processes.is_leader())) as run:
        ended, becomes_other = processes.from_leader(lambda: [run.has_summary, run.becomes_other])
        if ended and not becomes_other and (result := finished(run, config, mesh, console)) is not None:
            return result
        with processes.leader_first(
            lambda: Checkpoints(run.checkpoints, report=console.message, options=config.identity())
        ) as checkpoints:
            dataset = processes.together(
                stop.interrupting(
                    lambda: load_dataset(
                        config.data.dataset,
                        data_dir=config.data.data_dir,
                        archive_dir=config.data.archive_dir,
                        input=config.data.input,
                        validation_size=0 if config.data.train_on_all else VALIDATION_SIZE,
                        report=console.message,
                    )
                )
            )
            plan = Plan.of(config, num_examples=len(dataset.train))
            method = method_of(config, plan, implementation)
            state = init_state_on(mesh, method, seed_of(config))
            count = processes.process_count()
            notes = Notes(devices=mesh.size, processes=count, implementation=implementation)
            before = None
            if (restored := checkpoints.restore(state)) is not None:
                state, notes = restored.state, Notes.from_json(restored.notes)
                before = notes.implementation
                refuse_what_is_behind(config, plan, state.steps_taken)
                state, notes = with_epoch_open(config, plan, mesh, state, notes)
            elif ended and becomes_other:
                raise CheckpointError(
                    f"{run.checkpoints}: got no saved state, expected the last one of this finished run; "
                    "put it back, or name another --run-dir"
                )
            implementation = with_products(config, mesh, implementation, before=before)
            method = method_of(config, plan, implementation)
            if not has_ended(config, notes.history, state.steps_taken):
                notes = computed_here(notes, mesh, implementation, console)
            tell_start(console, config, dataset, state, mesh, implementation)
            feed = make_feed(dataset.train, mesh, batch_size=config.batch_size, seed=seed_of(config))
            loop = Loop(
                config=config,
                plan=plan,
                mesh=mesh,
                dataset=dataset,
                feed=feed,
                train_epoch=compile_train_epoch(method, mesh, data_spec=feed.spec),
                score=compile_score(method.model, mesh),
                run=run,
                checkpoints=checkpoints,
                console=console,
                stop=stop,
                started=started - notes.wall_seconds,
            )
            return loop.run_to_end(state, notes)


def method_of(config: Config, plan: Plan, implementation: str) -> Method:
    """Return the method of a run with the implementation that computes it, which the messages name."""
    model = config.with_options(implementation=implementation).model
    return Method.of(model, config.optimizer, config.augmentation, total_steps=plan.total_steps)


def computed_here(notes: Notes, mesh: Mesh, implementation: str, console: Console) -> Notes:
    """Return the notes of a run as it is computed now, and report changes that change its rounding."""
    changes, count = [], processes.process_count()
    if notes.devices != mesh.size:
        changes.append(f"had {notes.devices} devices so far and now has {mesh.size}")
    elif notes.processes != count and not devices.order_is_known(mesh):
        changes.append(f"had {notes.processes} processes so far and now has {count}")
    if notes.implementation != implementation:
        changes.append(f"was computed by {notes.implementation} so far and now by {implementation}")
    threads = products.most_threads() if implementation in NATIVE else 0
    if threads != notes.threads and threads and notes.threads:
        changes.append(f"was computed by {notes.threads} threads so far and now by {threads}")
    for change in changes:
        console.message(f"This run {change}: results agree up to float32 rounding, not bit for bit.")
    return dataclasses.replace(
        notes, devices=mesh.size, processes=count, threads=threads, implementation=implementation
    )


def refuse_what_is_behind(config: Config, plan: Plan, taken: int) -> None:
    """Raise ConfigError if the options ask for fewer steps than the run has taken."""
    if taken <= plan.total_steps:
        return
    if config.steps is not None:
        told = f"--steps: got {config.steps}, expected at least {taken}"
    else:
        told = f"--epochs: got {config.epochs}, expected at least {-(-taken // plan.steps_per_epoch)}"
    raise ConfigError(f"{told}: this run has taken {taken} steps; name another --run-dir for a shorter one")


def with_epoch_open(
    config: Config, plan: Plan, mesh: Mesh, state: TrainState, notes: Notes
) -> tuple[TrainState, Notes]:
    """Return the state and notes to continue from if a longer run now includes the rest of a cut epoch.

    The record of that epoch is removed, and the sum of its losses is put back into the state, as if the run
    had never ended there.
    """
    _, done, end = plan.epoch_of(state.steps_taken)
    if not 0 < done < end or not notes.history or notes.history[-1]["step"] != state.steps_taken:
        return state, notes
    sums = np.array(loss_sums(config, notes.history, done), np.float32)
    state = state._replace(loss_sum=devices.place(mesh, sums.reshape(np.shape(state.loss_sum)), P()))
    cut = notes.history[-1]
    notes = dataclasses.replace(notes, history=notes.history[:-1], epoch_seconds=cut["train_seconds"])
    return state, notes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loop:
    """The constants of one call of `train`. The state and the notes pass through its methods.

    Attributes:
        config: the options.
        plan: the number of steps and epochs.
        mesh: the devices.
        dataset: the splits.
        feed: moves the training batches to the devices.
        train_epoch: the compiled training steps.
        score: the compiled evaluation.
        run: the run directory.
        checkpoints: the saved states.
        console: receives messages and progress.
        stop: listens for signals.
        started: when the run would have begun without any stops, by `time.perf_counter`.
    """

    config: Config
    plan: Plan
    mesh: Mesh
    dataset: Dataset
    feed: Feed
    train_epoch: TrainEpoch
    score: Score
    run: RunDirectory
    checkpoints: Checkpoints
    console: Console
    stop: StopSignals
    started: float

    def run_to_end(self, state: TrainState, notes: Notes) -> TrainResult:
        """Take all remaining steps, unless a signal stops the run."""
        processes.together(lambda: self.run.begin(notes.history))
        state, confusion = self.compile(state), None
        while not self.has_ended(state, notes):
            if self.told_to_stop():
                return self.stopped(state, notes)
            state, notes, confusion = self.run_epoch(state, notes)
        notes = dataclasses.replace(notes, wall_seconds=self.wall_seconds())
        summary = summarise(self.config, state, notes, self.mesh)
        processes.together(lambda: self.run.write_summary(summary))
        tell_end(self.console, summary, self.run.path)
        return TrainResult(state.evaluated_params, notes.history, summary, confusion, None, self.run.path)

    def has_ended(self, state: TrainState, notes: Notes) -> bool:
        """Return whether the run is at its end."""
        return has_ended(self.config, notes.history, state.steps_taken)

    def compile(self, state: TrainState) -> TrainState:
        """Compile the training program by taking no steps, so that no epoch's time includes compilation."""
        epoch, done, _ = self.plan.epoch_of(state.steps_taken)
        self.feed.begin(epoch, done)
        return self.take_steps(state, done, done)

    def take_steps(self, state: TrainState, start: int, stop: int) -> TrainState:
        """Take the steps ``start`` to ``stop - 1`` of the epoch that the feed has begun."""
        data = self.feed.take(start, stop)
        return jax.block_until_ready(self.train_epoch(state, *data, seed_of(self.config)))

    def run_epoch(self, state: TrainState, notes: Notes) -> tuple[TrainState, Notes, Confusion | None]:
        """Take the remaining steps of an epoch, evaluate and save; when told to stop, save and return.

        The confusions are those of the evaluation; None without one.
        """
        epoch, done, end = self.plan.epoch_of(state.steps_taken)
        self.feed.begin(epoch, done)
        self.console.epoch_started(epoch + 1, self.plan.epochs, done, end)
        every = self.config.checkpoint_every
        pace = 1  # steps in one call of the program
        while done < end:
            until_save = every - state.steps_taken % every if every else end - done
            here = min(pace, until_save, end - done, self.feed.limit)
            count = processes.smallest(here)  # the clocks differ
            clock = time.perf_counter()
            state = self.take_steps(state, done, done + count)
            seconds = time.perf_counter() - clock
            notes = dataclasses.replace(
                notes,
                epoch_seconds=notes.epoch_seconds + seconds,
                train_seconds=notes.train_seconds + seconds,
            )
            self.refuse_nonfinite(state)
            pace = max(1, int(DISPATCH_SECONDS * count / seconds))
            done += count
            self.console.advanced(count)
            if done < end and (count == until_save or self.told_to_stop()):
                self.save(state, notes)
                if self.told_to_stop():
                    return state, notes, None
        record, confusion = self.evaluate(state, notes, epoch + 1, steps=end)
        notes = dataclasses.replace(notes, history=(*notes.history, record), epoch_seconds=0.0)
        no_loss = np.zeros_like(np.asarray(state.loss_sum))
        state = state._replace(loss_sum=devices.place(self.mesh, no_loss, P()))
        # Save first: the metrics can be restored from the saved state, but not the reverse.
        self.save(state, notes)
        processes.together(lambda: self.run.add(record))
        self.console.epoch_finished(self.plan.epochs, record)
        return state, notes, confusion

    def evaluate(self, state: TrainState, notes: Notes, epoch: int, steps: int) -> tuple[Record, Confusion]:
        """Compute the record of an epoch that has just ended, with so many steps; see also `over_seeds`.

        Without a validation split, the figures of validation are None. The confusions on the test split are
        the sum over the seeds.
        """
        losses = np.ravel(state.loss_sum).tolist()
        scores = [self.scores(params) for _, params in members(self.config, state.evaluated_params)]
        figures = [
            {"train_loss": loss / steps, **known} for loss, (known, _) in zip(losses, scores, strict=True)
        ]
        confusion = np.sum([found for _, found in scores], axis=0)
        examples = steps * self.config.batch_size * self.config.seeds
        record = {
            "epoch": epoch,
            "step": state.steps_taken,
            **over_seeds(self.config, figures),
            "train_seconds": notes.epoch_seconds,
            "examples_per_second": examples / notes.epoch_seconds,
        }
        return record, confusion

    def scores(self, params: Params) -> tuple[Record, Confusion]:
        """Compute loss and accuracy of one model on validation and test images, and its confusions there."""
        validation = None
        if len(self.dataset.validation):
            validation = evaluate(self.score, params, self.dataset.validation, mesh=self.mesh)
        test = evaluate(self.score, params, self.dataset.test, mesh=self.mesh)
        record = {
            "validation_loss": validation and validation.loss,
            "validation_accuracy": validation and validation.accuracy,
            "test_loss": test.loss,
            "test_accuracy": test.accuracy,
        }
        return record, test.confusion

    def save(self, state: TrainState, notes: Notes) -> None:
        """Save the state and its notes, unless a parameter is not finite."""
        # A step with a finite loss can have a gradient that is not.
        if (seed := seed_with_nonfinite(self.config, state.params)) is not None:
            raise self.nonfinite("parameters", "are", state.steps_taken, seed)
        notes = dataclasses.replace(notes, wall_seconds=self.wall_seconds())
        keep = steps_to_keep(self.config, notes.history)
        self.checkpoints.save(state.steps_taken, state, dataclasses.asdict(notes), keep=keep)

    def refuse_nonfinite(self, state: TrainState) -> None:
        """Raise NonFiniteLossError if a loss was infinite or NaN."""
        if (found := first_nonfinite_loss(self.config, state)) is not None:
            raise self.nonfinite("loss", "is", *found)

    def nonfinite(self, what: str, verb: str, step: int, seed: int) -> NonFiniteLossError:
        """Make the error for a loss or parameters that are not finite, with advice."""
        whose = f" of seed {seed}" if self.config.seeds > 1 else ""
        saved = self.checkpoints.newest_step
        kept = f"the state of step {saved} is kept" if saved is not None else "no state was saved before it"
        return NonFiniteLossError(
            f"the {what}{whose} {verb} not finite at step {step}; {kept} in {self.run.path}; "
            f"try a smaller --learning-rate (it was {self.config.optimizer.learning_rate:g}) in another "
            "--run-dir"
        )

    def told_to_stop(self) -> bool:
        """Return whether any process has received a signal."""
        return self.stop_signal() != 0

    def stop_signal(self) -> int:
        """Return the number of the signal that any process has received, the largest one; 0 without."""
        return processes.largest(self.stop.received or 0)

    def stopped(self, state: TrainState, notes: Notes) -> TrainResult:
        """Save the state if need be, and return the result of a run that was told to stop."""
        if processes.from_leader(lambda: self.checkpoints.newest_step) != state.steps_taken:
            self.save(state, notes)  # stopped before the first step of this call
        by = signal.Signals(self.stop_signal())
        saved = f"step {state.steps_taken} of {self.plan.total_steps} is saved in {self.run.path}"
        self.console.message(f"Stopped by {by.name}; {saved}. The same command continues this run.")
        return TrainResult(state.evaluated_params, notes.history, None, None, by, self.run.path)

    def wall_seconds(self) -> float:
        """Return the seconds spent in `train` since the start of the run."""
        return time.perf_counter() - self.started
