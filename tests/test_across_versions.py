"""The program that shows that one set of versions reads what another has written, here with one set."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests import across_versions


@pytest.mark.slow
def test_all_that_was_written_is_read_and_a_change_is_noticed(data_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "written"
    across_versions.write(folder, optimizers=["muon"], data_dir=data_dir)
    results = {what: holds() for what, holds in across_versions.checks(folder, data_dir=data_dir)}
    assert len(results) == 8
    assert all(results.values()), results

    own = folder / "muon"
    # Of another step, and with other weights.
    shutil.copytree(own / across_versions.WHOLE, own / across_versions.STOPPED, dirs_exist_ok=True)
    with np.load(own / across_versions.WEIGHTS / across_versions.PARAMETERS) as written:
        changed = {**written, "head.bias": written["head.bias"] + 1}
    np.savez(own / across_versions.WEIGHTS / across_versions.PARAMETERS, **changed)
    assert not across_versions.same_state(own)
    assert not across_versions.same_probabilities(own)
    assert not across_versions.same_weights(own, "safetensors")
