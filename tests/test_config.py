import hashlib
import json
from pathlib import Path
from typing import get_args

import pytest

from lstm_jax.config import (
    RECIPES,
    Augmentation,
    Config,
    DataOptions,
    ModelOptions,
    OptimizerOptions,
    RecipeName,
    recipe_config,
)
from lstm_jax.errors import ConfigError
from lstm_jax.options import options_of


def test_the_tutorial_is_the_default() -> None:
    config = recipe_config("tutorial")
    assert config == Config()
    model = config.model
    assert (model.hidden_size, model.num_layers, model.bidirectional, model.forget_bias) == (
        64,
        1,
        False,
        1.0,
    )
    assert (config.batch_size, config.epochs, config.optimizer.learning_rate) == (128, 10, 0.01)
    assert (model.dropout_rate, config.augmentation.is_active) == (0.0, False)


def test_every_recipe_is_a_possible_configuration() -> None:
    assert tuple(RECIPES) == get_args(RecipeName)
    usual = Config().to_dict()
    for name, recipe in RECIPES.items():
        assert recipe_config(name).recipe == name
        assert Config.of(**recipe_config(name).to_dict()) == recipe_config(name)
        # What a recipe says is what makes it: nothing in it is a default anyway.
        assert all(value != usual[field] for field, value in recipe.options.items()), name
    with pytest.raises(ConfigError, match="--recipe: got 'tutorail', expected one of tutorial, fast"):
        recipe_config("tutorail")


def test_a_recipe_s_options_can_be_overridden() -> None:
    config = recipe_config("accurate", epochs=3, ema_decay=0.99)
    assert (config.epochs, config.optimizer.ema_decay, config.data.train_on_all) == (3, 0.99, True)
    with pytest.raises(ConfigError, match="--epochs: got 0"):
        recipe_config("accurate", epochs=0)
    # Epochs instead of the recipe's steps, which would go first.
    assert (recipe_config("fast", epochs=3).epochs, recipe_config("fast", epochs=3).steps) == (3, None)


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
        ({"seeds": 0}, "--seeds: got 0, expected a whole number from 1 to 1024"),
        (
            {"seeds": 5, "seed": 2**32 - 4},
            "--seeds: got 5 with --seed 4294967292, expected a last seed of at most 4294967295",
        ),
        ({"seeds": 2, "input": "stream"}, "--seeds: got 2 with --input stream, expected --input memory"),
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
        (
            {"forget_bias": "slow"},
            "--forget-bias: got 'slow', expected a number from -3.4e38 to 3.4e38, or 'chrono'",
        ),
        ({"train_on_all": 1}, "--train-on-all: got 1, expected True or False"),
        ({"task": "spiral"}, "--task: got 'spiral', expected one of rows, columns, pixels, permuted"),
        (
            {"task": "permuted", "permutation_seed": "random"},
            "--permutation-seed: got 'random', expected a whole number from 0 to 4294967295, or 'bit",
        ),
        ({"permutation_seed": 3}, "--permutation-seed: got 3 with --task rows, expected --task permuted"),
        ({"output_dropout_rate": 1.0}, "--output-dropout-rate: got 1.0, expected a number from 0 up to"),
        ({"recurrent_dropout_rate": 1.0}, "--recurrent-dropout-rate: got 1.0, expected a number from 0 up"),
        (
            {"recurrent_weight_dropout_rate": -0.1},
            "--recurrent-weight-dropout-rate: got -0.1, expected a number from 0",
        ),
        ({"remat": 0}, "--remat: got 0, expected a whole number from 1 to 784"),
        ({"remat": 5}, "--remat: got 5 with --task rows, expected a divisor of its 28 steps"),
        ({"optimizer": "sgd"}, "--optimizer: got 'sgd', expected one of adam, adamw, muon"),
        ({"optimizer": "adamw"}, "--weight-decay: got 0.0 with --optimizer adamw, expected a number above 0"),
        (
            {"weight_decay": 0.1},
            "--weight-decay: got 0.1 with --optimizer adam, expected 0, or --optimizer adamw or muon",
        ),
        ({"schedule": "step"}, "--schedule: got 'step', expected one of constant, linear, cosine"),
        ({"warmup": 1.0}, "--warmup: got 1.0, expected a number from 0 up to, not including, 1"),
        (
            {"final_learning_rate_share": 2.0},
            "--final-learning-rate-share: got 2.0, expected a number from 0 to 1",
        ),
        ({"final_learning_rate_share": 0.1}, "--final-learning-rate-share: got 0.1 with --schedule constant"),
        ({"clip_norm": 0.0}, "--clip-norm: got 0.0, expected a number above 0"),
        ({"label_smoothing": 1.0}, "--label-smoothing: got 1.0, expected a number from 0"),
        ({"ema_decay": 1.0}, "--ema-decay: got 1.0, expected a number between 0 and 1"),
        ({"augment_rotation": 90.0}, "--augment-rotation: got 90.0, expected degrees from 0 up to"),
        ({"augment_elastic": -1.0}, "--augment-elastic: got -1.0, expected pixels from 0 to 28"),
        ({"augment_smoothness": 2.0}, "--augment-smoothness: got 2.0 with --augment-elastic 0.0, expected"),
        ({"devices": 3}, "--devices: got 3 with --batch-size 128, expected a number that divides"),
    ],
)
def test_impossible_values_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        Config.of(**options)
    assert str(refusal.value).startswith(message)
    assert "\n" not in str(refusal.value)


def test_json_round_trip() -> None:
    config = Config.of(
        run_dir=Path("a/b"), data_dir=Path("c"), steps=7, bidirectional=True, learning_rate=0.1
    )
    read = Config.of(**json.loads(json.dumps(config.to_dict())))
    assert read.identity() == config.identity()
    # Paths become absolute: the run may be read from another folder.
    assert read.run_dir == Path("a/b").absolute()
    assert read.data.data_dir == Path("c").absolute()
    assert read.data.archive_dir is None


# A config.json; options may be added, but none of these may get another name or place.
FLAT = """{
  "recipe": "tutorial", "dataset": "kmnist", "data_dir": null, "archive_dir": null, "input": "memory",
  "train_on_all": false, "task": "permuted", "permutation_seed": "bit-reversal", "hidden_size": 32,
  "num_layers": 2, "bidirectional": true, "dropout_rate": 0.1, "output_dropout_rate": 0.2,
  "recurrent_dropout_rate": 0.3, "recurrent_weight_dropout_rate": 0.4, "forget_bias": "chrono",
  "implementation": "scan", "dtype": "bfloat16", "remat": 28, "batch_size": 64, "epochs": 3, "steps": 50,
  "patience": 2, "optimizer": "adamw", "learning_rate": 0.02, "schedule": "cosine", "warmup": 0.1,
  "final_learning_rate_share": 0.05, "weight_decay": 0.3, "clip_norm": 1.5, "label_smoothing": 0.15,
  "ema_decay": 0.99, "augment_rotation": 12.0, "augment_shift": 2.0, "augment_scale": 0.12,
  "augment_shear": 0.25, "augment_elastic": 0.8, "augment_smoothness": 3.0, "seed": 4, "seeds": 3,
  "run_dir": null, "devices": 2, "checkpoint_every": 7
}"""


def test_a_flat_file_is_read_into_groups_and_written_as_it_was() -> None:
    values = json.loads(FLAT)
    config = Config.of(**values)
    assert config == Config(
        data=DataOptions(dataset="kmnist"),
        model=ModelOptions(
            task="permuted",
            permutation_seed="bit-reversal",
            hidden_size=32,
            num_layers=2,
            bidirectional=True,
            dropout_rate=0.1,
            output_dropout_rate=0.2,
            recurrent_dropout_rate=0.3,
            recurrent_weight_dropout_rate=0.4,
            forget_bias="chrono",
            implementation="scan",
            dtype="bfloat16",
            remat=28,
        ),
        batch_size=64,
        epochs=3,
        steps=50,
        patience=2,
        optimizer=OptimizerOptions(
            name="adamw",
            learning_rate=0.02,
            schedule="cosine",
            warmup=0.1,
            final_learning_rate_share=0.05,
            weight_decay=0.3,
            clip_norm=1.5,
            label_smoothing=0.15,
            ema_decay=0.99,
        ),
        augmentation=Augmentation(
            rotation=12.0, shift=2.0, scale=0.12, shear=0.25, elastic=0.8, smoothness=3.0
        ),
        seed=4,
        seeds=3,
        devices=2,
        checkpoint_every=7,
    )
    # The same names in the same order.
    assert list(config.to_dict().items()) == list(values.items())
    # Nothing in it is a default, so that no option can take the place of another.
    usual = Config().to_dict()
    same = {name for name in values if values[name] == usual[name]}
    assert same == {"recipe", "data_dir", "archive_dir", "input", "train_on_all", "run_dir"}


def test_some_options_are_changed_and_the_others_stay() -> None:
    config = Config.of(hidden_size=32, seed=3)
    changed = config.with_options(implementation="scan", augment_shift=1.0, epochs=2)
    assert changed == Config.of(hidden_size=32, seed=3, implementation="scan", augment_shift=1.0, epochs=2)
    assert config == Config.of(hidden_size=32, seed=3)
    # Two options of a group that are possible together only.
    assert Config.of(dropout_rate=0.1, num_layers=2).model == ModelOptions(dropout_rate=0.1, num_layers=2)
    with pytest.raises(ConfigError, match="--remat: got 5 with --task rows"):
        config.with_options(remat=5)
    with pytest.raises(ConfigError, match="unknown options hidden_sise"):
        config.with_options(hidden_sise=5)


def test_every_option_has_a_rule_that_its_default_fits() -> None:
    options = options_of(Config)
    assert len({option.name for option in options}) == len(options) == len(json.loads(FLAT))
    for option in options:
        assert option.rule is not None, f"{option.name}: no rule beside it, and none of its type"
        assert option.rule.fits(option.default), option.name
        assert not option.rule.fits(object()), option.name
        assert option.rule.fits(None) == (option.default is None), option.name


def test_what_a_step_depends_on_can_be_the_key_of_a_program() -> None:
    key, same, other = (
        (config.model, config.optimizer, config.augmentation)
        for config in (recipe_config("accurate"), recipe_config("accurate", seed=3), Config())
    )
    assert {key: "program"}[same] == "program"
    assert other not in {key: "program"}


def test_paths_may_be_strings_and_begin_at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = Config.of(run_dir="~/run", data_dir=str(tmp_path))
    assert (config.run_dir, config.data.data_dir) == (tmp_path / "run", tmp_path)


def test_an_option_of_the_future_is_named() -> None:
    with pytest.raises(ConfigError, match="unknown options momentum"):
        Config.of(**{"momentum": 3})


def test_the_same_options_name_the_same_folder_and_others_another() -> None:
    assert Config().run_directory() == Config().run_directory()
    # Where the data lies does not make another run; every other option does.
    assert Config.of(data_dir=Path("elsewhere")).run_directory() == Config().run_directory()
    changed = {"hidden_size": 65, "seed": 1, "steps": 5, "bidirectional": True, "learning_rate": 0.02}
    folders = {Config.of(**{key: value}).run_directory() for key, value in changed.items()}
    assert len(folders | {Config().run_directory()}) == len(changed) + 1
    assert Config.of(run_dir=Path("mine")).run_directory() == Path("mine")


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (Config(), "mnist-tutorial-seed0-44136fa3"),
        (recipe_config("accurate", seeds=3, seed=4), "mnist-accurate-seeds4-6-c55825da"),
        (recipe_config("fast"), "mnist-fast-seed0-d133828c"),
        (
            Config.of(
                augment_rotation=12.0,
                augment_elastic=0.5,
                augment_smoothness=3.0,
                num_layers=2,
                dropout_rate=0.1,
                recurrent_dropout_rate=0.2,
            ),
            "mnist-tutorial-seed0-35b56045",
        ),
        (
            Config.of(
                dataset="kmnist",
                optimizer="adamw",
                weight_decay=0.01,
                clip_norm=1.0,
                ema_decay=0.99,
                schedule="cosine",
                warmup=0.1,
                steps=100,
                seed=3,
            ),
            "kmnist-tutorial-seed3-d2f515f5",
        ),
    ],
)
def test_the_names_of_folders_stay(config: Config, name: str) -> None:
    """Else a run of before would not be found, and begin again."""
    assert config.run_directory() == Path("runs") / name


def test_many_seeds_show_in_the_name_of_the_folder() -> None:
    assert list(Config.of(seed=3).all_seeds) == [3]
    many = Config.of(seed=3, seeds=5)
    assert list(many.all_seeds) == [3, 4, 5, 6, 7]
    assert Config.of(seed=2**32 - 2, seeds=2).all_seeds[-1] == 2**32 - 1  # the last that there is
    assert many.run_directory().name.startswith("mnist-tutorial-seeds3-7-")
    folders = {config.run_directory() for config in (Config.of(seed=3), many, Config.of(seed=3, seeds=4))}
    assert len(folders) == 3


def test_a_run_of_before_an_option_was_there_has_its_default_and_its_folder() -> None:
    old = {"recipe": "tutorial", "hidden_size": 32, "forget_bias": 1.0, "seed": 4, "learning_rate": 0.02}
    read = Config.of(**old)
    assert read.identity() == Config.of(hidden_size=32, seed=4, learning_rate=0.02).identity()
    # The name that this folder has had since before these options were there.
    unusual = json.dumps({"hidden_size": 32, "learning_rate": 0.02, "seed": 4})
    digest = hashlib.sha256(unusual.encode()).hexdigest()[:8]
    assert read.run_directory() == Path("runs") / f"mnist-tutorial-seed4-{digest}"


def test_a_run_keeps_all_options_but_those_that_change_no_result() -> None:
    """Each option in turn: what is missing in the identity of a run could change in its midst."""
    every = {option.name for option in options_of(Config)}
    free = {"data_dir", "archive_dir", "run_dir", "implementation", "devices", "patience"}
    assert set(Config().identity()) == every - free - {"epochs", "steps"}
    scheduled = Config.of(schedule="linear")  # whose steps depend on the length
    assert set(scheduled.identity()) == every - free
