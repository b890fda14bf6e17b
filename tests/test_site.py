"""The documentation builds as a site: all links and anchors lead somewhere, nothing comes from outside."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.project import PROJECT

pytest.importorskip("mkdocs", reason="requirements-docs.txt installs it")
pytest.importorskip("mkdocstrings", reason="requirements-docs.txt installs it")

# What a browser fetches by itself: not links, which it follows when they are clicked.
FETCHED = re.compile(
    r"""<(?:script|img|link|iframe|source)\b[^>]*?(?:src|href)=["']?https?://|url\(["']?https?:"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=PROJECT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    return folder


@pytest.mark.slow
def test_all_documents_are_pages(site: Path) -> None:
    for document in (PROJECT / "docs").glob("*.md"):
        assert (site / document.with_suffix(".html").name).is_file()
    home = (site / "index.html").read_text()
    assert 'href="project/examples/mnist_lstm.py.html"' in home
    example = (site / "project" / "examples" / "mnist_lstm.py.html").read_text()
    assert "bit by bit" in example


@pytest.mark.slow
def test_the_reference_has_the_docstrings(site: Path) -> None:
    for name, words in {
        "linen": "A drop-in for",
        "nnx": "nnx.RNN",
        "equinox": "LSTMCell",
        "function": "a pure function of its parameters",
        "classifier": "A classifier of sequences",
        "training": "Train the model of a configuration",
    }.items():
        assert words in (site / "reference" / f"{name}.html").read_text(), name
    function = (site / "reference" / "function.html").read_text()
    assert "(*batch, hidden)" in function  # a shape, not emphasis


@pytest.mark.slow
def test_the_site_loads_nothing_from_outside(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert not FETCHED.search(page.read_text()), page
