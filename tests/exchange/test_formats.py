"""``python -m lstm_jax export`` and ``import``: other frameworks on exported weights, and the way back."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.commands.exchange import Export, Import
from lstm_jax.config import Config
from lstm_jax.errors import CheckpointError, ConfigError, ExchangeError
from lstm_jax.exchange import formats, imported_run, layouts
from lstm_jax.exchange.layouts import Architecture
from lstm_jax.exchange.metadata import DIGEST, Inputs, described, digest, said
from lstm_jax.runs.checkpoint import Checkpoints
from lstm_jax.runs.loop import train
from lstm_jax.runs.trained import Trained, load_trained
from lstm_jax.system.files import whole
from lstm_jax.system.packages import required
from tests.helpers.mnist import oracle
from tests.helpers.project import PROJECT, Run
from tests.helpers.weights import assert_same_bits, random_params

pytestmark = pytest.mark.slow

# Logits of a trained model reach 10, and frameworks round float32 sums in other orders, 28 times one after
# the other: some units in the seventh digit. A forgotten bias or an exchanged gate changes the first.
EQUAL = {"rtol": 1e-5, "atol": 5e-5}

OPTIONS = {"hidden_size": 12, "num_layers": 2, "bidirectional": True, "devices": 1}
ARCHITECTURE = Architecture(28, 12, 2, True, 10)


@pytest.fixture(scope="module")
def run_dir(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that reads many digits rightly."""
    path = tmp_path_factory.mktemp("runs") / "run"
    train(Config.of(data_dir=data_dir, run_dir=path, steps=150, **OPTIONS))
    return path


@pytest.fixture(scope="module")
def trained(run_dir: Path) -> Trained:
    return load_trained(run_dir)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """The whole test set, as other frameworks take it."""
    return oracle()["test_images"].astype(np.float32) / 255


@pytest.fixture(scope="module")
def logits(trained: Trained, images: np.ndarray) -> np.ndarray:
    """What this package makes of the test set."""
    result = np.asarray(trained.model.apply({"params": trained.params}, jnp.asarray(images)))
    assert (result.argmax(axis=1) == oracle()["test_labels"]).mean() > 0.8
    return result


def params_of(trained: Trained) -> Any:
    return jax.tree.map(np.asarray, trained.params)


PACKAGES = {
    "pytorch": ("safetensors", "torch"),
    "keras": ("h5py", "keras"),
    "safetensors": ("safetensors",),
    "onnx": ("onnx", "onnxruntime"),
}
# Before and after the code that `export` prints.
BEGIN = "import sys; import numpy as np; images = np.load(sys.argv[1])\n"
END = "\nnp.save(sys.argv[2], logits)\n"


def run_printed(code: str, images: np.ndarray, folder: Path, environment: dict[str, str]) -> np.ndarray:
    """The logits that a program computes which `export` has printed."""
    if "import keras" in code:  # in a process of its own, since a process has one backend of Keras
        np.save(folder / "images.npy", images)
        subprocess.run(
            [sys.executable, "-c", BEGIN + code + END, folder / "images.npy", folder / "logits.npy"],
            env={**environment, "KERAS_BACKEND": "jax"},
            check=True,
            timeout=300,
        )
        return np.load(folder / "logits.npy")
    if "import torch" in code:
        import torch

        names: dict[str, Any] = {"images": torch.from_numpy(images)}
        with torch.no_grad():
            exec(code, names)
    else:
        names = {"images": images if "onnx" in code else jnp.asarray(images)}
        exec(code, names)
    return np.asarray(names["logits"])


@pytest.mark.parametrize("name", formats.FORMATS)
def test_exported_weights_give_equal_logits_on_the_whole_test_set(
    name: str,
    run_dir: Path,
    trained: Trained,
    images: np.ndarray,
    logits: np.ndarray,
    tmp_path: Path,
    environment: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    missing = [package for package in PACKAGES[name] if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f"could not import {missing}")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "that of the tests")  # the command leaves it alone then
    output = tmp_path / f"weights{formats.FORMATS[name].suffix}"
    assert Export(run_dir, name, output).run() == 0
    printed, told = capsys.readouterr()
    assert told == f"Wrote {output}, of {run_dir} at step 150. To compute logits with it:\n"
    sequence = "rows of pixels, from 0 (black) to 1 (white)"
    assert printed.startswith(f"# images: float32 (batch, time, 28): {sequence}\n")

    found = run_printed(printed, images, tmp_path, environment)
    np.testing.assert_allclose(found, logits, **EQUAL)
    np.testing.assert_array_equal(found.argmax(axis=1), logits.argmax(axis=1))
    read = formats.read_file(output)
    assert_same_bits(read.params, params_of(trained))
    assert said(read.metadata) == Inputs("rows", None, "mnist", 0.0, 1.0)
    assert read.granted == ()


def test_metadata_says_what_the_file_is(trained: Trained) -> None:
    safetensors = pytest.importorskip("safetensors")
    for name, kind in (("pytorch", "pt"), ("safetensors", "lstm_jax")):
        content = formats.FORMATS[name].encode(params_of(trained), {"step": "150"})
        size = int.from_bytes(content[:8], "little")
        found = json.loads(content[8 : 8 + size])["__metadata__"]
        arrays = pytest.importorskip("safetensors.numpy").load(content)
        told = {"format": kind, "step": "150"}
        assert found == {**told, DIGEST: digest(arrays, told)}
        assert len(safetensors.deserialize(content)) > 10


def test_import_makes_a_run_to_evaluate_and_to_export(
    run: Run, run_dir: Path, trained: Trained, tmp_path: Path
) -> None:
    pytest.importorskip("safetensors")
    file, imported = tmp_path / "params.safetensors", tmp_path / "new" / "imported"
    file.write_bytes(formats.FORMATS["safetensors"].encode(params_of(trained), {}))
    done = run("-m", "lstm_jax", "import", file, "--run-dir", imported, "--learning-rate", "0.001")
    assert done.returncode == 0, done.stderr
    assert f"Made {imported}: 2 x LSTM-12 in both directions, from {file}." in done.stdout
    assert (
        f"python -m lstm_jax train --run-dir {imported} --hidden-size 12 --num-layers 2 --bidirectional "
        "--learning-rate 0.001\n"
    ) in done.stdout
    assert sorted(path.name for path in imported.parent.iterdir()) == ["imported"]
    evaluation = run("-m", "lstm_jax", "evaluate", imported).stdout.splitlines()
    assert evaluation[0] == f"{imported}, step 0, on 1,000 test images of mnist"
    before = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[-1])
    assert evaluation[1] == f"loss {before['test_loss']:.4f}"
    assert evaluation[2].startswith(f"accuracy {before['test_accuracy']:.2%}")
    # What exists is overwritten only by an export that is told to.
    with pytest.raises(
        ExchangeError,
        match=f"{imported}: got the path of a folder that exists, .*; name another --run-dir$",
    ):
        Import(file, imported).run()
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(ExchangeError, match=r"dangling: got the path of a file that exists"):
        Import(file, tmp_path / "dangling").run()
    target = imported / "params.safetensors"
    target.write_text("mine")
    with pytest.raises(
        ExchangeError, match=f"{target}: got the path of a file that exists.*give --overwrite"
    ):
        Export(imported, "safetensors").run()
    assert target.read_text() == "mine"
    done = run("-m", "lstm_jax", "export", imported, "--format", "safetensors", "--overwrite")
    assert done.returncode == 0, done.stderr
    assert_same_bits(formats.read_weights(target), params_of(trained))


TASKS = [
    {"task": "columns", "dataset": "kmnist"},
    {"task": "permuted", "permutation_seed": 7},
]


@pytest.mark.parametrize("name", formats.FORMATS)
@pytest.mark.parametrize("options", TASKS, ids=lambda options: options["task"])
def test_what_a_run_reads_survives_export_and_import(
    name: str, options: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in PACKAGES[name][:1]:
        pytest.importorskip(package)
    config = Config.of(run_dir=tmp_path / "run", hidden_size=4, **options)
    params = random_params(Architecture(28 if options["task"] == "columns" else 1, 4, 1, False, 10))
    file = tmp_path / formats.FORMATS[name].file_name
    file.write_bytes(formats.FORMATS[name].encode(params, described(config)))
    assert Import(file, tmp_path / "back").run() == 0
    assert "Taken for granted" not in capsys.readouterr().out
    read = json.loads((tmp_path / "back" / "config.json").read_text())
    assert {key: read[key] for key in options} == options
    assert_same_bits(params_of(load_trained(tmp_path / "back")), params)
    with pytest.raises(ExchangeError, match=rf"{file}: --task: got rows, expected {options['task']}, which"):
        Import(file, tmp_path / "other", task="rows").run()
    with pytest.raises(ExchangeError, match=r"--pixel-mean: got 0.1307, expected 0.0, which the file says"):
        Import(file, tmp_path / "other", pixel_mean=0.1307).run()
    assert not (tmp_path / "other").exists()


def test_import_tells_what_it_takes_for_granted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    safetensors_numpy, h5py = pytest.importorskip("safetensors.numpy"), pytest.importorskip("h5py")
    params = random_params(Architecture(28, 4, 1, False, 10))
    safetensors_numpy.save_file(layouts.to_pytorch(params), tmp_path / "pt.safetensors")
    safetensors_numpy.save_file(layouts.to_flat(params), tmp_path / "flax.safetensors")
    with h5py.File(tmp_path / "x.weights.h5", "w") as file:
        places = ("lstm/cell/vars/0", "lstm/cell/vars/1", "lstm/cell/vars/2", "dense/vars/0", "dense/vars/1")
        file.update(zip(places, layouts.to_keras(params), strict=True))
    for name, words in (
        ("pt.safetensors", ["h_n", "batch_first", "no flip", "rows of pixels", "pixels from 0 to 1"]),
        ("x.weights.h5", ["sigmoid", "tanh", "no masking", "rows of pixels", "pixels from 0 to 1"]),
        ("x.weights.h5", ["order of the numbers in their names", "no go_backwards"]),
        ("flax.safetensors", ["rows of pixels", "pixels from 0 to 1"]),
    ):
        assert Import(tmp_path / name, tmp_path / f"from {name} {words[0]}").run() == 0
        (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Taken for gran")]
        assert all(word in line for word in words)
    # What the user says is not taken for granted.
    asked = {"task": "columns", "pixel_mean": 0.1307, "pixel_std": 0.3081}
    assert Import(tmp_path / "flax.safetensors", tmp_path / "asked", **asked).run() == 0
    told = capsys.readouterr().out
    assert (
        "It reads columns of pixels.\nIt sees each pixel p, 0 (black) to 1 (white), as (p - 0.1307)" in told
    )
    assert "Taken for granted" not in told
    assert f"python -m lstm_jax train --run-dir {tmp_path}/asked --task columns" in told


def test_training_goes_on_from_imported_weights(trained: Trained, data_dir: Path, tmp_path: Path) -> None:
    rate = 1e-4
    options = Config.of(run_dir=tmp_path / "imported", learning_rate=rate, steps=1, devices=1)
    config = imported_run.config_for(ARCHITECTURE, options)
    imported_run.begin_run(params_of(trained), config, report=print)
    result = train(Config.of(**{**config.to_dict(), "data_dir": data_dir}))
    moved = jax.tree.map(
        lambda new, old: float(np.abs(np.asarray(new) - np.asarray(old)).max()),
        result.params,
        trained.params,
    )
    # The first step of Adam moves a weight by the rate, or by less where the gradient is as small as epsilon.
    assert 0.9 * rate < min(jax.tree.leaves(moved)) <= max(jax.tree.leaves(moved)) < 1.1 * rate
    assert result.history[0]["train_loss"] < 1.0  # that of a fresh model is 2.3
    assert result.history[0]["step"] == 1


def test_the_command_to_train_further_finds_the_imported_run(tmp_path: Path) -> None:
    options = Config.of(run_dir=tmp_path / "a run", dataset="kmnist", seed=3, epochs=2)
    config = imported_run.config_for(Architecture(28, 7, 1, False, 10), options)
    assert imported_run.training_command(config) == (
        f"python -m lstm_jax train --run-dir '{tmp_path}/a run' --dataset kmnist --hidden-size 7 --epochs 2 "
        "--seed 3"
    )


@pytest.mark.parametrize(
    ("architecture", "words"),
    [
        (Architecture(1, 7, 1, False, 10), "got a model of 1 inputs at each time step for --task rows"),
        (
            Architecture(32, 7, 1, False, 10),
            "got a model of 32 inputs at each time step for --task rows, exp",
        ),
        (Architecture(28, 7, 1, False, 26), "got a model of 26 classes, expected 10"),
    ],
)
def test_models_of_other_images_make_no_run(architecture: Architecture, words: str) -> None:
    with pytest.raises(ExchangeError, match=words):
        imported_run.config_for(architecture, Config())


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"pixel_std": 0.0}, "--pixel-std: got 0.0, expected a number from 1e-06 to 1e+06"),
        ({"pixel_mean": float("nan")}, "--pixel-mean: got nan"),
        ({"learning_rate": -1.0}, "--learning-rate: got -1.0"),
    ],
)
def test_impossible_options_are_refused(option: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        Import(Path("x.keras"), Path("run"), **option)


def test_a_failed_import_leaves_nothing(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise CheckpointError("no space left")

    monkeypatch.setattr(Checkpoints, "save", full)
    config = imported_run.config_for(ARCHITECTURE, Config.of(run_dir=tmp_path / "imported"))
    with pytest.raises(CheckpointError):
        imported_run.begin_run(params_of(trained), config, report=print)
    assert list(tmp_path.iterdir()) == []


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")

    def write_half() -> None:
        with whole(target) as temporary:
            temporary.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]
    with whole(target) as temporary:
        temporary.write_text("new")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["new"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["export", "nowhere", "--format", "onnx"], "nowhere: not a run directory (no such folder)"),
        (["import", "model.pt", "--run-dir", "no"], "model.pt: got a .pt file, a pickle"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_one_line(run: Run, args: list[str], words: str) -> None:
    done = run("-m", "lstm_jax", *args)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert words in done.stderr


def test_impossible_outputs_are_refused(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--output: got x.h5, expected a name that ends in .keras"):
        Export(run_dir, "keras", Path("x.h5")).run()
    with pytest.raises(ExchangeError, match=r"got a path in no existing folder, expected .*/no to exist"):
        Export(run_dir, "onnx", tmp_path / "no" / "x.onnx").run()
    (tmp_path / "x.onnx").mkdir()
    with pytest.raises(ExchangeError, match="got the path of a folder that exists, expected a new path"):
        Export(run_dir, "onnx", tmp_path / "x.onnx", overwrite=True).run()


def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, trained: Trained, tmp_path: Path
) -> None:
    (tmp_path / "x.safetensors").touch()
    for module in ("safetensors", "safetensors.numpy", "onnx", "h5py"):
        monkeypatch.setitem(sys.modules, module, None)
    for package, use in (
        ("safetensors", lambda: formats.read_weights(tmp_path / "x.safetensors")),
        ("onnx", lambda: formats.FORMATS["onnx"].encode(params_of(trained), {})),
        ("h5py", lambda: formats.FORMATS["keras"].encode(params_of(trained), {})),
    ):
        with pytest.raises(ExchangeError, match=f"needs the package {package}, .*requirements-export.txt"):
            use()
    assert required("json") is json


def test_nothing_of_other_frameworks_is_imported_to_read_or_write() -> None:
    # KERAS_BACKEND, threads and a GPU's memory stay what they are, and it starts at once.
    code = (
        "import sys, lstm_jax.__main__, lstm_jax.exchange.formats, lstm_jax.exchange.layouts;"
        "assert not {'jax', 'flax', 'torch', 'keras', 'tensorflow', 'h5py', 'onnx'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)
