"""A builder for TensorFlow Datasets that needs no TensorFlow.

The builders of TFDS for these data sets need TensorFlow to unpack archives and to write PNG images.
This one stores raw pixels in ArrayRecord files and keeps the published order, so that example i on disk
is image i of the archive.

This module imports TFDS (0.4 s) and registers the builder. So import it only where it is needed.
"""

import contextlib
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from lstm_jax.config import IMAGE_SHAPE, NUM_CLASSES
from lstm_jax.data import archives
from lstm_jax.errors import DataError, Report, one_line, silent


class IdxImages(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]  # TFDS has no types
    """A builder of 28 x 28 grey images in 10 classes: MNIST and the data sets made to replace it.

    Attributes:
        archive_dir: folder of the four archives; None to download them.
        report: receives one line before each long step.
        examples: the examples that this builder has just prepared, by split; None if they were prepared
            before.
    """

    examples: Mapping[str, archives.Examples] | None = None
    VERSION = tfds.core.Version(archives.VERSION)
    BUILDER_CONFIGS = [  # noqa: RUF012 (TFDS expects a list)
        tfds.core.BuilderConfig(name="mnist", description="Handwritten digits"),
        tfds.core.BuilderConfig(name="fashion_mnist", description="Pictures of clothes"),
        tfds.core.BuilderConfig(name="kmnist", description="Handwritten hiragana"),
    ]

    def __init__(
        self,
        *,
        archive_dir: Path | None = None,
        report: Report = silent,
        **kwargs: Any,
    ):
        super().__init__(file_format="array_record", **kwargs)
        self.archive_dir = archive_dir
        self.report = report

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Tensor(shape=IMAGE_SHAPE, dtype=np.uint8),
            "label": tfds.features.ClassLabel(num_classes=NUM_CLASSES),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="28 x 28 grey images in 10 classes, in the order in which they were published.",
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            disable_shuffling=True,  # else TFDS would sort the examples by a hash
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        expected = archives.expected_archives(self.builder_config.name)
        if self.archive_dir is not None:
            paths = archives.paths_in(self.archive_dir)
        else:
            paths = {name: [path] for name, path in self._download(dl_manager, expected).items()}
        splits = archives.read_splits(self.builder_config.name, paths, expected)
        counts = " + ".join(f"{len(examples.labels):,}" for examples in splits.values())
        self.report(
            f"Preparing {self.builder_config.name} ({counts} images) in {self.data_dir_root}, "
            "once; this takes some seconds"
        )
        self.examples = splits
        return {split: self._generate_examples(examples) for split, examples in splits.items()}

    def _generate_examples(self, examples: archives.Examples) -> Iterator[tuple[int, dict[str, Any]]]:
        for i, (image, label) in enumerate(zip(*examples, strict=True)):
            yield i, {"image": image, "label": int(label)}

    def _download(
        self, dl_manager: tfds.download.DownloadManager, expected: dict[str, archives.Archive]
    ) -> dict[str, Path]:
        urls = {filename: archive.url for filename, archive in expected.items()}
        megabytes = sum(archive.size for archive in expected.values()) / 1e6
        self.report(f"Downloading {self.builder_config.name} ({megabytes:.0f} MB)")
        try:
            _require_answer(next(iter(urls.values())))
            return {name: Path(path) for name, path in dl_manager.download(urls).items()}
        except Exception as error:
            # TFDS, requests and urllib3 have different exceptions for a failed download.
            raise DataError(
                f"cannot download {self.builder_config.name} ({one_line(error)}); get these four files, "
                f"put them into one folder and name it with --archive-dir: {' '.join(urls.values())}"
            ) from error

    # TFDS would print what `report` has said already.

    def _log_download_bytes(self) -> None:
        pass

    def _log_download_done(self) -> None:
        pass


def _require_answer(url: str) -> None:
    """Raise OSError unless a server answers for a URL.

    Without a network, TFDS itself would repeat the request ten times, for more than three minutes.
    """
    request = urllib.request.Request(url, method="HEAD")
    with contextlib.suppress(urllib.error.HTTPError):  # is an answer; TFDS handles it
        urllib.request.urlopen(request, timeout=10).close()
