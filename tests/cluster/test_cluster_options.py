"""Which process of how many: what the options and the environment say, and what is refused."""

from typing import Any

import pytest

from lstm_jax.cluster import joining
from lstm_jax.cluster.options import ClusterOptions, Membership, membership
from lstm_jax.errors import ClusterError, ConfigError

ALL: dict[str, Any] = {"coordinator_address": "node-1:1234", "num_processes": 3, "process_id": 2}
VARIABLES = {
    "JAX_COORDINATOR_ADDRESS": "node-1:1234",
    "JAX_NUM_PROCESSES": "3",
    "JAX_PROCESS_ID": "2",
}


def test_options_and_the_environment_say_the_same_and_options_come_first() -> None:
    assert membership(ClusterOptions(), {}) is None
    expected = Membership("node-1:1234", 3, 2, timeout=60)
    assert membership(ClusterOptions(**ALL), {}) == membership(ClusterOptions(), VARIABLES) == expected
    other = ClusterOptions(process_id=0, initialization_timeout=7)
    assert membership(other, VARIABLES) == Membership("node-1:1234", 3, 0, timeout=7)
    assert (expected.host, expected.port) == ("node-1", 1234)
    assert Membership("[fe80::1]:80", 1, 0, 1).host == "fe80::1"


@pytest.mark.parametrize(
    ("options", "environment", "told"),
    [
        ({"process_id": 1}, {}, "--coordinator-address and --num-processes: got none beside --process-id"),
        ({}, {"JAX_PROCESS_ID": "1"}, "--coordinator-address and --num-processes: got none beside"),
        ({}, {"JAX_PROCESS_ID": "one"}, "JAX_PROCESS_ID: got 'one', expected a whole number"),
        (
            {},
            {**VARIABLES, "JAX_PROCESS_ID": "3"},
            "--process-id: got 3 with --num-processes 3, .*JAX_PROCESS_ID",
        ),
        ({**ALL, "process_id": 3}, {}, "--process-id: got 3 with --num-processes 3, expected 0 to 2"),
        ({"coordinator_address": "node-1"}, {}, "--coordinator-address: got 'node-1', expected HOST:PORT"),
        ({"num_processes": 0}, {}, "--num-processes: got 0, expected a whole number from 1"),
    ],
)
def test_wrong_combinations_are_refused(
    options: dict[str, Any], environment: dict[str, str], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        membership(ClusterOptions(**options), environment)


def test_where_jax_detects_no_cluster_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ClusterError, match="--distributed: got no cluster that JAX knows, expected Slurm"):
        joining.process_of(ClusterOptions(distributed=True))


def test_slurm_is_detected_and_options_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    slurm = {
        "SLURM_JOB_ID": "70000",
        "SLURM_STEP_NODELIST": "node[3-4]",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": "1",
        "SLURM_LOCALID": "0",
        "SLURM_STEP_NUM_NODES": "2",
        "SLURM_JOB_NUM_NODES": "2",
    }
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    found = joining.process_of(ClusterOptions(distributed=True))
    assert found is not None
    assert (found.processes, found.number, found.host) == (2, 1, "node3")
    assert found.local_device_ids == (0,)
    monkeypatch.setenv("JAX_LOCAL_DEVICE_IDS", "0,1")  # JAX reads it
    mine = joining.process_of(ClusterOptions(distributed=True, coordinator_address="node-9:1"))
    assert mine == Membership("node-9:1", 2, 1, timeout=60)
