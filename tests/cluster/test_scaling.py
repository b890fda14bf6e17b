"""The model of the time on many devices."""

import pytest

from lstm_jax.cluster.scaling import DEVICES, Terms, model_table

TERMS = Terms(overhead=0.001, example=0.0001, evaluation=2.0, latency=0.00002, bandwidth=1e9, size=100_000)


def test_one_device_waits_for_nobody_and_many_for_each_other() -> None:
    assert TERMS.mean(1) == 0
    assert TERMS.step(128) == pytest.approx(0.0138)
    assert TERMS.epoch(1, batch=128, examples=1280) == pytest.approx(10 * 0.0138 + 2)
    # Two devices: half of the examples, and there and back; half of the bytes each way.
    assert TERMS.mean(2) == pytest.approx(2 * 0.00002 + 0.0001)
    assert TERMS.epoch(2, batch=128, examples=1280) == pytest.approx(10 * (0.0074 + 0.00014) + 1)


def test_the_table_says_where_it_stops_paying() -> None:
    table = model_table("a network", TERMS)
    rows = [line for line in table.splitlines() if line.startswith("| ") and line[2].isdigit()]
    assert [int(row.split("|")[1].replace(",", "")) for row in rows] == list(DEVICES)
    assert max(DEVICES) == 1024
    speed_up = [float(row.split("|")[5].strip(" x")) for row in rows[:8]]
    best = speed_up.index(max(speed_up))
    assert 0 < best < 7
    assert f"the shortest on {DEVICES[best]} devices" in table
