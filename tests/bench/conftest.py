"""A data set that is large enough for the paper's grid of tiles, as the bench wants it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcseg.data.pack import pack
from hpcseg.data.sample import write_sample


@pytest.fixture(scope="session")
def bench_dataset(tmp_path_factory) -> Path:
    """The packed file of 16 synthetic slices of 400 x 400 pixels, which hold 3 x 3 tiles."""
    folder = tmp_path_factory.mktemp("bench")
    write_sample(folder, slices=16, size=400, seed=0)
    pack(folder / "data", folder / "labels", folder / "dataset.h5", command="test")
    return folder / "dataset.h5"
