"""``explain``, ``report``, and the pictures at the end of ``train``, of a real short run."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lstm_jax.__main__ import main
from lstm_jax.commands import explain
from lstm_jax.data.dataset import load_dataset
from lstm_jax.errors import ConfigError, ExchangeError, ImageError, RunDirectoryError
from lstm_jax.explain import files
from lstm_jax.report import run_page
from lstm_jax.runs.history import records_of
from tests.helpers.project import PROJECT

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.slow

AT_THE_END = {f"{name}.{suffix}" for name in ("learning", "confusion") for suffix in ("png", "svg")}


def options(data_dir: Path, run_dir: Path, *more: str) -> list[str]:
    small = "--hidden-size 8 --batch-size 220 --epochs 2"
    return ["train", "--data-dir", str(data_dir), "--run-dir", str(run_dir), *small.split(), *more]


@pytest.fixture(scope="module")
def run_dir(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of a run, trained by the command."""
    path = tmp_path_factory.mktemp("runs") / "<run>"
    assert main(options(data_dir, path, "--seeds", "2", "--augment-shift", "1")) == 0
    return path


def test_train_draws_what_it_has_learned(run_dir: Path, data_dir: Path) -> None:
    assert {path.name for path in run_dir.iterdir()} >= AT_THE_END
    before = {name: (run_dir / name).stat().st_mtime_ns for name in AT_THE_END}
    for name in ("learning", "confusion"):
        assert np.asarray(Image.open(run_dir / f"{name}.png").convert("L")).std() > 10
    # The run is finished: the same command changes nothing.
    assert main(options(data_dir, run_dir, "--seeds", "2", "--augment-shift", "1")) == 0
    assert {name: (run_dir / name).stat().st_mtime_ns for name in AT_THE_END} == before


def test_a_run_without_its_pictures_gets_its_curves(run_dir: Path, data_dir: Path, tmp_path: Path) -> None:
    """It was killed before they were drawn, or matplotlib was installed later."""
    path = shutil.copytree(run_dir, tmp_path / "run", ignore=shutil.ignore_patterns("*.png", "*.svg"))
    assert main(options(data_dir, path, "--seeds", "2", "--augment-shift", "1")) == 0
    assert {each.name for each in path.iterdir()} & AT_THE_END == {"learning.png", "learning.svg"}


def test_train_needs_no_matplotlib(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(options(data_dir, tmp_path / "run")) == 0
    assert not {path.name for path in (tmp_path / "run").iterdir()} & AT_THE_END
    assert (tmp_path / "run" / "summary.json").is_file()


def test_a_picture_that_cannot_be_written_does_not_spoil_a_run(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lstm_jax.report.files.write", full)
    assert main(options(data_dir, tmp_path / "run")) == 0
    assert "no pictures of the run (No space left on device)" in capsys.readouterr().err
    assert (tmp_path / "run" / "summary.json").is_file()


def test_explain(
    run_dir: Path,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(files, "MEMORY_IMAGES", 2)
    monkeypatch.setattr(files, "MEMORY_TASKS", ("rows",))  # 784 steps take long to compile
    assert main(["explain", str(run_dir), "--digit", "3", "--data-dir", str(data_dir)]) == 0
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    names = (
        "reading", "learning", "confusion", "calibration", "mistakes", "saliency", "weights", "memory"
    )  # fmt: skip
    expected = [f"{name}.{suffix}" for name in names for suffix in ("png", "svg")]
    assert written == [run_dir / "explanation" / name for name in [*expected, "augmentation.png"]]
    for path in written:
        assert path.stat().st_size > 5_000
        if path.suffix == ".png":
            assert np.asarray(Image.open(path).convert("L")).std() > 5


def test_the_digit_to_be_read(run_dir: Path, data_dir: Path, tmp_path: Path) -> None:
    dataset = load_dataset("mnist", data_dir=data_dir)
    images, labels = next(dataset.test.batches(4))

    def digit_of(text: str) -> files.Digit:
        return explain.Explain((run_dir,), digit=text)._digit(dataset)

    np.testing.assert_array_equal(digit_of("3").image, images[3])
    assert digit_of("3").title == f"Test image 3 of mnist, of class {labels[3]}"
    Image.fromarray(255 - images[1]).save(tmp_path / "two.png")
    drawn = digit_of(str(tmp_path / "two.png"))
    assert drawn.title == "two.png"
    assert np.abs(drawn.image.astype(int) - images[1]).max() <= 1
    with pytest.raises(ConfigError, match="--digit: got 1000, expected the number of a test image, 0 to 999"):
        digit_of("1000")
    with pytest.raises(ImageError, match=r"nothing\.png: no such file"):
        digit_of("nothing.png")


def test_the_code_of_the_document(
    run_dir: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    monkeypatch.chdir(tmp_path)
    document = (PROJECT / "docs" / "explain.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", document, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.replace("runs/accurate", str(run_dir)), names)
    assert names["found"].probability.shape == (20, 28, 10)
    assert names["found"].layers[0]["forward"].f.shape == (20, 28, 8)
    assert (tmp_path / "reading.png").stat().st_size > 5_000
    for picture in re.findall(r"\((explain/\w+\.svg)\)", document):
        assert (PROJECT / "docs" / picture).stat().st_size < 300_000


def test_the_page_of_a_run(run_dir: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run_dir), "--data-dir", str(data_dir), "--seed", "1"]) == 0
    page = run_dir / "report.html"
    assert capsys.readouterr().out.splitlines() == [str(page)]
    text = page.read_text("ascii")
    assert "<title>Run &lt;run&gt;</title>" in text
    assert "<run>" not in text
    last = records_of(run_dir)[1][-1]
    assert f"accuracy <strong>{last['test_accuracy']:.2%}</strong>" in text
    assert "Seed 1, step 20, on 1,000 test images of mnist" in text
    assert text.count('src="data:image/svg+xml;base64,') == 4
    for heading in ("Learning curves", "Confusions", "Calibration", "Misclassified digits", "Options"):
        assert f"<h2>{heading}</h2>" in text
    assert re.search(r"--hidden-size</code></td>\n<td><strong><code>8<", text)
    assert re.search(r"--bidirectional</code></td>\n<td><code>no<", text)
    # Nothing from outside.
    assert re.findall(r'(?:src|href)="(?!data:)', text) == []
    assert "default-src 'none'" in text


def test_what_a_run_from_elsewhere_says_is_text() -> None:
    assert run_page._code("`[here](https://example.org)\n") == r"`[here](https://example.org)\n`"
    assert run_page._result(None) == "The run is not finished."
    for summary in ({}, {"wall_seconds": "long", "train_seconds": 1}):
        assert run_page._result(summary).startswith("Its summary.json has no result")


def test_a_report_is_no_folder(run_dir: Path, data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ExchangeError, match=r"of a folder that exists.* name a file with --output"):
        main(["report", str(run_dir), "--data-dir", str(data_dir), "--output", str(tmp_path)])


def test_without_matplotlib_they_say_how_to_install_it(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for command in ("explain", "report"):
        with pytest.raises(ConfigError, match=r"needs the package matplotlib.*requirements-plots.txt"):
            main([command, str(run_dir)])


def test_damaged_metrics_are_told(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((run_dir / "config.json").read_text())
    assert records_of(tmp_path) == [[], []]
    good = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[0])
    for text in ("{", "[]", json.dumps({**good, "epoch": 1})[:-9], '{"epoch": 1}'):
        (tmp_path / "metrics.jsonl").write_text(text + "\n")
        with pytest.raises(RunDirectoryError, match=r"metrics\.jsonl: is damaged"):
            records_of(tmp_path)
