"""What computes the LSTM of a run: chosen once, named in its notes, and the same when it goes on."""

from jax.sharding import Mesh

from lstm_jax.config import SEQUENCE_LENGTHS, Config
from lstm_jax.kernels import NATIVE, products
from lstm_jax.kernels.choice import Work, choose, will_build
from lstm_jax.runs import processes
from lstm_jax.runs.console import Console


def prepare_implementation(config: Config, console: Console) -> str:
    """Choose the implementation that computes the LSTM, build it if need be, and return its name.

    Raises:
        ImplementationError: if it cannot be used here.
    """
    task = Work.of_run(config.model.dtype)
    if will_build(config.model.implementation, task):
        console.message("Building the native kernel, once; this takes some seconds")
    return choose(config.model.implementation, task)


def with_products(config: Config, mesh: Mesh, implementation: str, *, before: str | None) -> str:
    """Return the name of an implementation with the kind of products that the run is computed with.

    Where the C++ kernel has several kinds, `native` alone would not say which bits a run has. All processes
    compute with vectors if one of them does.

    Args:
        config: the options.
        mesh: the devices.
        implementation: what `prepare_implementation` chose.
        before: the implementation that the run was computed with so far, whose kind is kept; None if new.

    Raises:
        ImplementationError: if the environment names a kind that there is not, or not here.
    """
    if implementation != "native":
        return implementation
    kind = processes.together(lambda: _kind(config, mesh, NATIVE.get(before or ""), begun=before is not None))
    # A process without tiles has no choice, and says so by None.
    if processes.largest(int(kind is not None)) == 0:
        return implementation
    return "native-vectors" if processes.largest(int(kind != "tiles")) else "native-tiles"


def _kind(config: Config, mesh: Mesh, kept: str | None, *, begun: bool) -> str | None:
    """Return the kind of products of a run in this process; None where there are vectors only.

    A run that was begun where there are vectors only goes on with vectors.
    """
    if (named := products.named()) is not None:
        return named
    if products.why_not("tiles") is not None:
        return kept if kept == "vectors" else None
    return kept or ("vectors" if begun else products.choose(_task_of(config, mesh)))


def _task_of(config: Config, mesh: Mesh) -> products.Task:
    """Return what the kernel computes in a train step: the first layer on one device."""
    time = SEQUENCE_LENGTHS[config.model.task]
    return products.Task(
        members=config.seeds,
        time=time,
        batch=config.batch_size // mesh.size,
        inputs=SEQUENCE_LENGTHS["pixels"] // time,
        hidden=config.model.hidden_size,
        bfloat16=config.model.dtype == "bfloat16",
        threads=products.most_threads(),
    )
