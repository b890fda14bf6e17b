"""The package: public names, the wheel, and facts that stand in two places."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import lstm_jax
from lstm_jax import functional
from lstm_jax.config import IMPLEMENTATIONS
from tests.helpers.project import PROJECT, Run


def test_public_names_are_there_and_documented() -> None:
    assert set(lstm_jax.__all__) == {
        "LSTM",
        "Config",
        "LSTMClassifier",
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
    # config.py may not import JAX, so it names them a second time.
    assert ("auto", *functional.IMPLEMENTATIONS) == IMPLEMENTATIONS


def test_the_changelog_knows_this_version() -> None:
    assert f"## {lstm_jax.__version__}" in (PROJECT / "CHANGELOG.md").read_text()


def test_every_dependency_has_its_reason() -> None:
    reasons = (PROJECT / "CONTRIBUTING.md").read_text()
    for file in PROJECT.glob("requirements*.txt"):
        for name in re.findall(r"^([A-Za-z][\w-]*)", file.read_text(), re.MULTILINE):
            assert f"| {name} |" in reasons, name


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
    source = tmp_path / "source"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PROJECT / "lstm_jax", source / "lstm_jax", ignore=ignore)
    for file in (PROJECT / name for name in ("LICENSE", "README.md", "pyproject.toml")):
        shutil.copy(file, source)
    for file in PROJECT.glob("requirements*.txt"):
        shutil.copy(file, source)
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", wheels, source],
        check=True,
        capture_output=True,
    )
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
    assert (site / "lstm_jax" / "data" / "mnist" / "README.md").exists()
    metadata = next(site.glob("lstm_jax-*.dist-info/METADATA")).read_text()
    assert re.findall("^Provides-Extra: (.+)$", metadata, re.MULTILINE) == ["compare", "export", "plots"]
    assert 'Requires-Dist: safetensors>=0.8; extra == "export"' in metadata
    told = subprocess.run(
        [site / "bin" / "lstm-jax", "train", "--hidden-size", "many"],
        env={**environment, "HOME": str(home), "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    ).stderr
    assert told.startswith("lstm-jax train: error: --hidden-size: got 'many', expected a whole number")
    assert (site / "lstm_jax" / "compare" / "report" / "document.md").exists()
    assert (site / "lstm_jax" / "compare" / "report" / "page.css").exists()
    for path in (PROJECT / "lstm_jax" / "kernels" / "cpp").iterdir():  # built where it is installed
        assert (site / path.relative_to(PROJECT)).read_bytes() == path.read_bytes()
