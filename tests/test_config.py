import json
from pathlib import Path

import pytest

from lstm_jax.config import RECIPES, Config, recipe_config
from lstm_jax.errors import ConfigError


def test_the_tutorial_is_the_default() -> None:
    config = recipe_config("tutorial")
    assert config == Config()
    assert (config.hidden_size, config.batch_size, config.epochs, config.learning_rate) == (64, 128, 10, 0.01)
    assert (config.num_layers, config.bidirectional, config.dropout_rate, config.forget_bias) == (
        1,
        False,
        0.0,
        1.0,
    )


def test_every_recipe_is_a_possible_configuration() -> None:
    for name in RECIPES:
        assert recipe_config(name).recipe == name
    with pytest.raises(ConfigError, match="--recipe: got 'tutorail', expected one of tutorial"):
        recipe_config("tutorail")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "cifar"}, "--dataset: got 'cifar', expected one of mnist, fashion_mnist, kmnist"),
        (
            {"implementation": "cudnn"},
            "--implementation: got 'cudnn', expected one of auto, scan, unrolled, fused, native",
        ),
        ({"dtype": "float16"}, "--dtype: got 'float16', expected one of float32, bfloat16"),
        ({"hidden_size": 0}, "--hidden-size: got 0, expected a whole number from 1 to 65536"),
        ({"batch_size": 1.5}, "--batch-size: got 1.5, expected a whole number from 1"),
        ({"num_layers": True}, "--num-layers: got True, expected a whole number from 1"),
        ({"steps": -1}, "--steps: got -1, expected a whole number from 1"),
        ({"checkpoint_every": 0}, "--checkpoint-every: got 0, expected a whole number from 1"),
        ({"seed": -1}, "--seed: got -1, expected a whole number from 0 to 4294967295"),
        ({"learning_rate": float("nan")}, "--learning-rate: got nan, expected a number above 0"),
        ({"learning_rate": 0.0}, "--learning-rate: got 0.0, expected a number above 0"),
        # float32 would make an infinity of it
        ({"learning_rate": 1e39}, "--learning-rate: got 1e+39, expected a number above 0"),
        ({"forget_bias": float("inf")}, "--forget-bias: got inf, expected a number from -3.4e38 to 3.4e38"),
        ({"hidden_size": 10**8}, "--hidden-size: got 100000000, expected a whole number from 1 to 65536"),
        ({"steps": 2**31}, "--steps: got 2147483648, expected a whole number from 1 to 2147483647"),
        ({"bidirectional": "no"}, "--bidirectional: got 'no', expected True or False"),
        ({"data_dir": 5}, "--data-dir: got 5, expected a path"),
        (
            {"run_dir": "~nobody-of-that-name/run"},
            "--run-dir: got '~nobody-of-that-name/run', expected a folder",
        ),
        ({"dropout_rate": 1.0, "num_layers": 2}, "--dropout-rate: got 1.0, expected a number from 0"),
        ({"dropout_rate": 0.5}, "--dropout-rate: got 0.5 with --num-layers 1, expected 0"),
        ({"devices": 3}, "--devices: got 3 with --batch-size 128, expected a number that divides"),
    ],
)
def test_impossible_values_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        Config(**options)
    assert str(refusal.value).startswith(message)
    assert "\n" not in str(refusal.value)


def test_json_round_trip() -> None:
    config = Config(run_dir=Path("a/b"), data_dir=Path("c"), steps=7, bidirectional=True, learning_rate=0.1)
    read = Config.from_dict(json.loads(json.dumps(config.to_dict())))
    assert read.identity() == config.identity()
    # Paths become absolute: the run may be read from another folder.
    assert read.run_dir == Path("a/b").absolute()
    assert read.data_dir == Path("c").absolute()
    assert read.archive_dir is None


def test_paths_may_be_strings_and_begin_at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = Config(run_dir="~/run", data_dir=str(tmp_path))
    assert (config.run_dir, config.data_dir) == (tmp_path / "run", tmp_path)


def test_an_option_of_the_future_is_named() -> None:
    with pytest.raises(ConfigError, match="unknown options warmup"):
        Config.from_dict({"warmup": 3})


def test_the_same_options_name_the_same_folder_and_others_another() -> None:
    assert Config().run_directory() == Config().run_directory()
    # Where the data lies does not make another run; every other option does.
    assert Config(data_dir=Path("elsewhere")).run_directory() == Config().run_directory()
    changed = {"hidden_size": 65, "seed": 1, "steps": 5, "bidirectional": True, "learning_rate": 0.02}
    folders = {Config(**{key: value}).run_directory() for key, value in changed.items()}
    assert len(folders | {Config().run_directory()}) == len(changed) + 1
    assert Config(run_dir=Path("mine")).run_directory() == Path("mine")
