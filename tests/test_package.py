"""The package: public names, the wheel, and facts that stand in two places."""

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

import lstm_jax
from lstm_jax import functional
from lstm_jax.kernels import IMPLEMENTATIONS
from tests.helpers.project import PROJECT, Run, copy_source


def test_public_names_are_there_and_documented() -> None:
    assert set(lstm_jax.__all__) == {
        "LSTM",
        "Config",
        "LSTMClassifier",
        "Predictor",
        "__version__",
        "load_dataset",
        "lstm",
        "train",
    }
    for name in lstm_jax.__all__:
        value = getattr(lstm_jax, name)
        assert name == "__version__" or value.__doc__
        assert name in dir(lstm_jax)
    with pytest.raises(AttributeError, match="no attribute 'GRU'"):
        lstm_jax.GRU  # noqa: B018  the access is what is tested


def test_names_of_implementations_agree() -> None:
    # Options may not import JAX, so the names are there a second time.
    assert ("auto", *functional.IMPLEMENTATIONS) == IMPLEMENTATIONS


def test_the_changelog_knows_this_version() -> None:
    assert f"## {lstm_jax.__version__}" in (PROJECT / "CHANGELOG.md").read_text()


def test_every_dependency_has_its_reason() -> None:
    reasons = (PROJECT / "CONTRIBUTING.md").read_text()
    for file in PROJECT.glob("requirements*.txt"):
        for name in re.findall(r"^([A-Za-z][\w-]*)", file.read_text(), re.MULTILINE):
            assert f"| {name} |" in reasons, name


def test_imports_point_downward() -> None:
    """In the table of CONTRIBUTING.md; small programs in any folder may use what commands share."""
    shared = re.compile(r"^from lstm_jax\.commands import command_line$", re.MULTILINE)
    table = (PROJECT / "CONTRIBUTING.md").read_text().partition("## Where things live")[2]
    _, *rows = re.findall(r"^\| (`.*?`) \| ", table.partition("## How to add")[0], re.MULTILINE)
    named = [re.findall(r"`(\w+)(?:/|\.py)`", row) for row in rows]
    place = {name: number for number, names in enumerate(named) for name in names}
    package = PROJECT / "lstm_jax"
    homes = {path.relative_to(package).parts[0].removesuffix(".py") for path in package.rglob("*.py")}
    assert homes - place.keys() == {"__init__"}
    for path in package.rglob("*.py"):
        own = place.get(path.relative_to(package).parts[0].removesuffix(".py"), 0)
        code = shared.sub("", path.read_text())
        imported = re.findall(r"^ *(?:from|import) lstm_jax\.(\w+)", code, re.MULTILINE)
        for names in re.findall(r"^ *from lstm_jax import (.+)", code, re.MULTILINE):
            imported += re.findall(r"\w+", names)
        upward = [name for name in imported if place.get(name, own) < own]
        assert upward == [], path


def test_the_oldest_versions_are_the_lower_bounds() -> None:
    everything = "\n".join(file.read_text() for file in PROJECT.glob("requirements*.txt"))
    bounds = dict(re.findall(r"^([\w-]+)>=([\w.]+)", everything, re.MULTILINE))
    constraints = (PROJECT / "requirements-oldest.txt").read_text()
    oldest = dict(re.findall(r"^([\w-]+)==([\w.]+)$", constraints, re.MULTILINE))
    assert len(bounds) > 30
    assert bounds.keys() == oldest.keys()
    for name, bound in bounds.items():  # 3.13 stands for its first release, 3.13.0
        assert f"{oldest[name]}.".startswith(f"{bound}."), name


def test_hooks_and_workflow_run_what_ci_runs() -> None:
    ci = (PROJECT / ".ci" / "run").read_text()
    hooks = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    entries = {hook["id"]: hook["entry"].removesuffix(" --force-exclude") for hook in hooks}
    for tool in ("ruff", "ruff-format", "mypy"):
        assert f"\n{entries[tool]} " in ci or f"\n{entries[tool]}\n" in ci, tool
    assert entries["fast-tests"].startswith("python -m pytest ")
    job = yaml.safe_load((PROJECT / ".github/workflows/ci.yml").read_text())["jobs"]["checks"]
    assert job["steps"][-1]["run"] == ".ci/run"
    matrix = job["strategy"]["matrix"]
    assert [job["constraints"] for job in matrix["include"]] == ["requirements-oldest.txt"]
    oldest = re.search(r'requires-python = ">=(.+)"', (PROJECT / "pyproject.toml").read_text())
    assert oldest is not None
    assert matrix["python"][0] == oldest[1]


@pytest.mark.slow
def test_nothing_imports_tensorflow(run_afresh: Run, tmp_path: Path) -> None:
    # Training from memory and from disk, evaluation and prediction, in one process.
    code = f"""
import sys
from pathlib import Path
import numpy as np
from lstm_jax import Config, train
from lstm_jax.__main__ import main
from PIL import Image
for kind in ("memory", "stream"):
    run_dir = Path({str(tmp_path)!r}) / kind
    train(Config.of(run_dir=run_dir, input=kind, steps=2, hidden_size=3))
ink = np.zeros((40, 40), np.uint8); ink[8:32, 18:22] = 255
Image.fromarray(ink).save(run_dir / "digit.png")
assert main(["evaluate", str(run_dir)]) == 0
assert main(["predict", str(run_dir), str(run_dir / "digit.png")]) == 0
names = {{"tensorflow", "torch", "keras"}} & set(sys.modules)
assert not names, names
print("none of them")
"""
    done = run_afresh("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("none of them\n")


@pytest.mark.slow
def test_the_wheel_brings_the_archives_and_the_command(tmp_path: Path, environment: dict[str, str]) -> None:
    # Installed elsewhere and run from elsewhere, so that nothing of this checkout is seen.
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wheels, site, home = tmp_path / "wheels", tmp_path / "site", tmp_path / "home"
    source = copy_source(tmp_path / "source")
    # Without kernels, which tests/kernels/test_prebuilt.py has built: they need zig.
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", wheels, source],
        check=True,
        capture_output=True,
        env=os.environ | {"LSTM_JAX_PREBUILT": "0"},
    )
    assert [path.name for path in wheels.iterdir()] == [f"lstm_jax-{lstm_jax.__version__}-py3-none-any.whl"]
    subprocess.run(
        [*pip, "install", "--no-deps", "--target", site, *wheels.iterdir()],
        check=True,
        capture_output=True,
    )
    code = """
import lstm_jax
from lstm_jax import load_dataset
dataset = load_dataset("mnist", data_dir="data")
print(lstm_jax.__file__, len(dataset.train), dataset.train.labels[:10])
"""
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=home,
        env={**environment, "HOME": str(home), "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0] == f"{site / 'lstm_jax' / '__init__.py'} 55000 [5 0 4 1 9 2 1 3 1 4]"
    metadata = next(site.glob("lstm_jax-*.dist-info/METADATA")).read_text()
    assert re.findall("^Provides-Extra: (.+)$", metadata, re.MULTILINE) == [
        "compare",
        "equinox",
        "export",
        "plots",
        "train",
    ]
    always = re.findall(r"^Requires-Dist: ([\w-]+)[^;\n]*$", metadata, re.MULTILINE)
    assert sorted(always) == ["flax", "jax", "jaxtyping", "numpy"]
    assert sorted(re.findall("^License-File: (.+)$", metadata, re.MULTILINE)) == [
        "LICENSE",
        "lstm_jax/data/mnist/README.md",
    ]
    assert 'Requires-Dist: safetensors>=0.8; extra == "export"' in metadata
    told = subprocess.run(
        [site / "bin" / "lstm-jax", "train", "--hidden-size", "many"],
        env={**environment, "HOME": str(home), "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    ).stderr
    assert told.startswith("lstm-jax train: error: --hidden-size: got 'many', expected a whole number")
    # All that is read at run time: templates, styles, scripts, the source of the kernel.
    for path in (source / "lstm_jax").rglob("*.*"):
        if "__pycache__" not in path.parts and path.is_file():
            assert (site / path.relative_to(source)).read_bytes() == path.read_bytes()


def test_the_source_distribution_has_what_building_needs(tmp_path: Path) -> None:
    source = copy_source(tmp_path / "source")
    code = "import build_wheel; print(build_wheel.build_sdist('dist'))"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    (archive,) = (source / "dist").iterdir()
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    package = {path.relative_to(source).as_posix() for path in (source / "lstm_jax").rglob("*.*")}
    assert {name for name in package if "__pycache__" not in name} <= names
    assert {"LICENSE", "build_wheel.py", "requirements-layer.txt", "requirements-train.txt"} <= names
    assert not any(name.startswith("tests") for name in names)


# Refuses to import what `pip install lstm_jax` does not bring. Of the packages in requirements-train.txt, JAX
# itself needs scipy, and Flax rich.
ONLY_THE_LAYER = """
import sys
FORBIDDEN = {"array_record", "filelock", "grain", "importlib_resources", "optax", "orbax", "PIL",
             "tensorboardX", "tensorflow_datasets", "tyro", "h5py", "onnx", "matplotlib",
             "equinox"}
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in FORBIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refuse())
"""


def test_the_layer_needs_little(run_afresh: Run) -> None:
    code = """
import jax, jax.numpy as jnp
import lstm_jax
from lstm_jax import LSTM, LSTMClassifier, lstm
inputs = jnp.ones((2, 4, 5))
for model in (LSTM(3), LSTM(3, "native"), LSTMClassifier(hidden_size=3)):
    print(model.init_with_output(jax.random.key(0), inputs)[0].shape)
params = LSTM(3).init(jax.random.key(0), inputs)["params"]["cell"]
print(lstm(params, inputs)[1].shape)
FORBIDDEN.remove("optax")  # Flax brings it, and its NNX imports it
import flax.nnx, lstm_jax.nnx
print(lstm_jax.nnx.LSTM(flax.nnx.LSTMCell(5, 3, rngs=flax.nnx.Rngs(0)))(inputs).shape)
for name in ("Config", "load_dataset", "train"):
    try:
        getattr(lstm_jax, name)
    except ImportError as error:
        print(error)
try:
    import lstm_jax.equinox
except ImportError as error:
    print(error)
"""
    done = run_afresh("-c", ONLY_THE_LAYER + code)
    assert done.returncode == 0, done.stderr
    *shapes, config, load_dataset, train, equinox = done.stdout.splitlines()
    assert shapes == ["(2, 4, 3)", "(2, 4, 3)", "(2, 10)", "(2, 4, 3)", "(2, 4, 3)"]
    how = "which is not installed; to install it: pip install -r requirements-train.txt"
    assert config == f"lstm_jax.Config: this needs the package tyro, {how}"
    assert all(how in line for line in (load_dataset, train))
    how = how.replace("train", "equinox")
    assert equinox == f"lstm_jax.equinox: this needs the package equinox, {how}"


@pytest.mark.parametrize("command", [["train"], ["--help"]])
def test_without_its_packages_a_command_says_what_to_install(run_afresh: Run, command: list[str]) -> None:
    code = f"""
sys.argv = ["lstm-jax", *{command}]
from lstm_jax.system import packages
packages._ROOT = packages.Path("nowhere")  # as where the package is installed
packages.how_to_install.__kwdefaults__["root"] = packages._ROOT
from lstm_jax.__main__ import run
run()
"""
    done = run_afresh("-c", ONLY_THE_LAYER + code)
    assert (done.returncode, done.stderr) == (
        1,
        "lstm-jax: error: this needs the package tyro, which is not installed; to install it: "
        'pip install "lstm_jax[train]"\n',
    )
    # Of some of them only: the rest is missed when it is used.
    done = run_afresh("-c", ONLY_THE_LAYER.replace('"tyro", ', "") + code)
    if command == ["train"]:
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert done.stderr.endswith('pip install "lstm_jax[train]"\n')
