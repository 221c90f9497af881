"""Fixtures for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcseg.data.pack import pack
from hpcseg.data.sample import write_sample


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    """16 synthetic slices of 128 x 128 pixels with labels."""
    folder = tmp_path_factory.mktemp("tiny")
    write_sample(folder, slices=16, size=128, seed=0)
    return folder


@pytest.fixture(scope="session")
def tiny_dataset(tiny_folder) -> Path:
    """The packed file of `tiny_folder`."""
    pack(tiny_folder / "data", tiny_folder / "labels", tiny_folder / "tiny.h5", command="test")
    return tiny_folder / "tiny.h5"
