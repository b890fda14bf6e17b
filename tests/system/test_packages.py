"""Packages that only some commands need: how to install them from a checkout and beside a wheel."""

import re
import tomllib
from pathlib import Path
from typing import get_args

import pytest

from lstm_jax.system.packages import Extra, how_to_install
from tests.helpers.project import PROJECT


@pytest.mark.parametrize("extra", get_args(Extra))
def test_a_checkout_names_its_file_and_an_installed_package_its_extra(
    extra: Extra, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(PROJECT)
    assert how_to_install(extra) == f"pip install -r requirements-{extra}.txt"
    assert how_to_install(extra, root=tmp_path) == f'pip install "lstm_jax[{extra}]"'
    monkeypatch.chdir(PROJECT / "docs")  # the file is found from another folder too
    assert how_to_install(extra) == f"pip install -r ../requirements-{extra}.txt"


def listed(file: str) -> set[str]:
    """The packages that a file of requirements lists, and those of the files it refers to."""
    text = (PROJECT / file).read_text()
    names = set(re.findall(r"^([A-Za-z][\w-]*)", text, re.MULTILINE))
    return names.union(*map(listed, re.findall(r"^-r (\S+)", text, re.MULTILINE)))


@pytest.mark.parametrize("extra", get_args(Extra))
def test_an_extra_is_what_its_file_lists(extra: Extra) -> None:
    settings = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["setuptools"]["dynamic"]
    assert set(settings["optional-dependencies"]) == set(get_args(Extra))
    files = settings["optional-dependencies"][extra]["file"]
    own = listed(f"requirements-{extra}.txt")
    if extra != "equinox":  # one for the layer alone
        own |= listed("requirements-train.txt")
    own -= listed("requirements-layer.txt")  # which every installation has
    assert set().union(*map(listed, files)) == own
    assert not any("-r " in (PROJECT / file).read_text() for file in files)  # which setuptools refuses
