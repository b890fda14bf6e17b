"""Which process of how many this is: from the command line, JAX's environment variables, or the cluster.

Nothing heavy is imported here, so that ``--help`` answers at once.
"""

import dataclasses
import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, Optional

from lstm_jax.errors import ConfigError
from lstm_jax.options import check, contradiction, flag, refusal, shown_option, whole_number

# What stands for an option that is not given. JAX itself reads the first; the others are named after it.
VARIABLES: Mapping[str, str] = {
    "coordinator_address": "JAX_COORDINATOR_ADDRESS",
    "num_processes": "JAX_NUM_PROCESSES",
    "process_id": "JAX_PROCESS_ID",
}


def _shown(kind: str, name: str) -> object:
    return shown_option(kind, f"${VARIABLES[name]}, else none")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """The processes that train together, and which of them this one is."""

    coordinator_address: Annotated[Optional[str], _shown("HOST:PORT", "coordinator_address")] = None
    """Where process 0 listens for the others: its host, and a free port there."""
    num_processes: Annotated[Optional[int], whole_number(1, 2**16), _shown("INT", "num_processes")] = None
    """Number of processes that train together."""
    process_id: Annotated[Optional[int], whole_number(0, 2**16 - 1), _shown("INT", "process_id")] = None
    """Which of them this one is, counted from 0."""
    distributed: bool = False
    """Let JAX find out what is not given of these three, from Slurm, Open MPI, Kubernetes or Cloud TPU."""
    initialization_timeout: Annotated[int, whole_number(1, 86_400)] = 60
    """Seconds to wait for all processes to come."""

    def __post_init__(self) -> None:
        """Refuse impossible values, naming the option, what it got and what it accepts."""
        check(self)
        address = self.coordinator_address
        if address is not None and not re.fullmatch(r".+:[1-9][0-9]{0,4}", address):
            raise refusal("coordinator_address", address, "HOST:PORT, such as 10.0.0.1:1234")
        number, processes = self.process_id, self.num_processes
        if number is not None and processes is not None and number >= processes:
            expected = f"0 to {processes - 1}: processes are counted from 0"
            raise contradiction(self, "process_id", "num_processes", expected=expected)


class Membership(NamedTuple):
    """One process of many.

    Attributes:
        address: host and port of process 0, as ``HOST:PORT``.
        processes: number of processes.
        number: which of them this one is.
        timeout: seconds to wait for all of them to come.
        local_device_ids: which devices of the machine are this process's; None stands for all.
    """

    address: str
    processes: int
    number: int
    timeout: int
    local_device_ids: tuple[int, ...] | None = None

    @property
    def host(self) -> str:
        """The host of process 0, without the brackets of an IPv6 address."""
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port of process 0."""
        return int(self.address.rpartition(":")[2])


def with_environment(options: ClusterOptions, environment: Mapping[str, str] = os.environ) -> ClusterOptions:
    """Return the options in which JAX's environment variables stand for what is not given.

    Raises:
        ConfigError: naming a variable with an impossible value.
    """
    found: dict[str, Any] = {}
    for name, variable in VARIABLES.items():
        text = environment.get(variable, "")
        if getattr(options, name) is not None or not text:
            continue
        if name != "coordinator_address" and not re.fullmatch("[0-9]{1,9}", text):
            raise ConfigError(f"{variable}: got {text!r}, expected a whole number")
        found[name] = text if name == "coordinator_address" else int(text)
    try:
        return dataclasses.replace(options, **found)
    except ConfigError as error:
        variables = ", ".join(VARIABLES[each] for each in found)
        raise ConfigError(f"{error} (from the environment: {variables})") from error


def membership(options: ClusterOptions, environment: Mapping[str, str] = os.environ) -> Membership | None:
    """Return which process this is, if the options and the environment say it; None if it is alone.

    With ``--distributed``, what they do not say is left to JAX: see `joining.process_of`.

    Raises:
        ConfigError: if they say it in part.
    """
    options = with_environment(options, environment)
    address, processes, number = options.coordinator_address, options.num_processes, options.process_id
    if address is None and processes is None and number is None:
        return None
    if address is None or processes is None or number is None:
        given = [flag(name) for name in VARIABLES if getattr(options, name) is not None]
        missing = [flag(name) for name in VARIABLES if getattr(options, name) is None]
        raise ConfigError(
            f"{' and '.join(missing)}: got none beside {' and '.join(given)}, expected all three of them; "
            "--distributed finds out the rest where a cluster says it"
        )
    return Membership(address, processes, number, options.initialization_timeout)
