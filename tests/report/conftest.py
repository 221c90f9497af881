"""A small finished run, for a test to copy and to spoil."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from hpcseg.runs.folder import RunFolder


@pytest.fixture(scope="session")
def mutations() -> ModuleType:
    """results/faults/mutations.py, of which a few hundred changes are made here."""
    file = Path(__file__).parents[2] / "results" / "faults" / "mutations.py"
    spec = importlib.util.spec_from_file_location("mutations", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def finished(mutations, tmp_path_factory) -> RunFolder:
    """A run of two small cells in SOMEWHERE/runs/small, with SOMEWHERE/dataset.h5."""
    return mutations.small_run(tmp_path_factory.mktemp("small"))
