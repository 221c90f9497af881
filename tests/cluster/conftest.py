from __future__ import annotations

import pytest
from fake_slurm import FakeSlurm

from hpcseg.cluster import sender
from hpcseg.jobfile import find_job, load_job
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.grid import Grid, plan


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> FakeSlurm:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(sender, "_SECONDS_BETWEEN_TRIES", 0.0)
    return FakeSlurm(folder)


@pytest.fixture
def grid(tmp_path) -> Grid:
    """The two cells of the shipped smoke job; no data is needed to submit them."""
    return plan(load_job(find_job("smoke")), RunFolder(tmp_path / "run"), tmp_path / "data.h5", "0" * 64)
