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


def with_products(config: Config, mesh: Mesh, implementation: str, *, before: str) -> str:
    """Return the name of an implementation with the kind of products that the run is computed with.

    Where the C++ kernel has several kinds, `native` alone would not say which bits a run has. All processes
    compute with vectors if one of them does.

    Args:
        config: the options.
        mesh: the devices.
        implementation: what `prepare_implementation` chose.
        before: the implementation that the run was computed with so far; its kind is kept.

    Raises:
        ImplementationError: if the environment names a kind that there is not, or not here.
    """
    found = implementation
    if implementation == "native" and products.why_not("tiles") is None:
        kept = before if NATIVE.get(before) and not products.named() else None
        found = kept or f"native-{products.choose(_task_of(config, mesh))}"
    others = processes.largest(int(found != "native-tiles"))
    return "native-vectors" if found == "native-tiles" and others else found


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
