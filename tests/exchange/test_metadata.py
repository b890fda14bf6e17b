"""What files say of their inputs, and what an import makes of it."""

import re
from typing import Any

import numpy as np
import pytest

from lstm_jax.config import Config
from lstm_jax.errors import ExchangeError
from lstm_jax.exchange.metadata import DIGEST, Inputs, agreed, check_digest, described, digest, said


@pytest.mark.parametrize(
    ("options", "task", "order"),
    [
        ({}, "rows", None),
        ({"task": "columns", "dataset": "kmnist"}, "columns", None),
        ({"task": "pixels"}, "pixels", None),
        ({"task": "permuted"}, "permuted", 92916),
        ({"task": "permuted", "permutation_seed": 7}, "permuted", 7),
        ({"task": "permuted", "permutation_seed": "bit-reversal"}, "permuted", "bit-reversal"),
    ],
)
def test_what_a_file_says_comes_back(options: dict[str, Any], task: str, order: int | str | None) -> None:
    config = Config.of(**options)
    found = said(described(config))
    assert found == Inputs(task, order, config.data.dataset, 0.0, 1.0)
    # The user need not repeat it, and may; nothing is taken for granted.
    for asked in (Inputs(), found):
        assert agreed(found, asked, inputs=28) == (found, [])


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (Inputs(task="rows"), "--task: got rows, expected permuted, which the file says"),
        (Inputs(permutation_seed=3), "--permutation-seed: got 3, expected 7, which the file says"),
        (Inputs(pixel_mean=0.1307), "--pixel-mean: got 0.1307, expected 0.5, which the file says"),
        (Inputs(pixel_std=1.0), "--pixel-std: got 1.0, expected 0.25, which the file says"),
    ],
)
def test_what_contradicts_the_file_is_refused(asked: Inputs, words: str) -> None:
    in_file = Inputs("permuted", 7, "mnist", 0.5, 0.25)
    with pytest.raises(ExchangeError, match=re.escape(words)):
        agreed(in_file, asked, inputs=1)
    # Another data set may be asked for: to train further on.
    assert agreed(in_file, Inputs(dataset="kmnist"), inputs=1) == (in_file._replace(dataset="kmnist"), [])


def test_what_the_file_does_not_say_is_asked_for_or_told() -> None:
    inputs, granted = agreed(Inputs(), Inputs(), inputs=28)
    assert inputs == Inputs("rows", None, "mnist", 0.0, 1.0)
    assert ["rows" in granted[0], "pixels from 0 to 1" in granted[1], len(granted)] == [True, True, 2]
    assert agreed(Inputs(), Inputs(task="columns", pixel_std=0.5), inputs=28)[1] == []
    with pytest.raises(ExchangeError, match=r"but not the order of the pixels; expected --task pixels"):
        agreed(Inputs(), Inputs(), inputs=1)
    with pytest.raises(ExchangeError, match=r"got --task permuted, but not .* --permutation-seed"):
        agreed(Inputs(), Inputs(task="permuted"), inputs=1)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"task": "diagonals"}, "got task='diagonals' in the file's metadata, expected one of rows, columns"),
        ({"permutation_seed": "-1"}, "got permutation_seed='-1'"),
        ({"pixel_mean": "nan"}, "got pixel_mean='nan'"),
        ({"pixel_std": "1" + "0" * 99}, "got pixel_std='1000"),
        ({"pixel_std": "0"}, "got pixel_std='0'"),
    ],
)
def test_metadata_that_say_nothing_possible_are_refused(metadata: dict[str, str], words: str) -> None:
    with pytest.raises(ExchangeError, match=re.escape(words)):
        said({"producer": "lstm_jax 0.1.0", **metadata})
    # Others may mean something else by these names.
    assert said(metadata) == said({"producer": "pytorch", **metadata}) == Inputs()


def test_a_digest_is_of_names_types_shapes_values_and_metadata() -> None:
    rng = np.random.default_rng(0)
    told = {"task": "rows", "pixel_std": "1"}
    arrays = {"b": rng.random((2, 3), np.float32), "a": rng.random(5)}
    found = digest(arrays, told)
    assert found == digest({name: arrays[name].copy() for name in ("a", "b")}, dict(reversed(told.items())))
    assert found == digest({"b": np.asfortranarray(arrays["b"]), "a": arrays["a"].astype(">f8")}, told)
    others = [
        {"b": arrays["b"].reshape(3, 2), "a": arrays["a"]},
        {"b": arrays["b"].view(np.int32), "a": arrays["a"]},
        {"c": arrays["b"], "a": arrays["a"]},
        {"b": np.nextafter(arrays["b"], 2), "a": arrays["a"]},
        {"b": arrays["b"]},
    ]
    assert len({found, *(digest(other, told) for other in others)}) == len(others) + 1
    check_digest(arrays, {**told, DIGEST: found})
    check_digest(arrays, {})
    others_told = [{"task": "rows"}, {**told, "task": "columns"}, {"task": "rows", "pixel_mean": "1"}, {}]
    for array, metadata in [(others[3], told), *((arrays, each) for each in others_told)]:
        with pytest.raises(ExchangeError, match=f"expected {found} as the file says"):
            check_digest(array, {**metadata, DIGEST: found})
