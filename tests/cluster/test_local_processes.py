"""Which processes are a cell's own, where /proc changes while it is read, or holds what nobody has written."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from hpcseg.cluster.processes import controls_cell, queue_of, runs_cell
from hpcseg.runs.folder import CellFolder, RunFolder

# Beyond the largest number that Linux gives.
NONE = 2**22 + 1


@pytest.fixture
def cell(tmp_path) -> CellFolder:
    folder = RunFolder(tmp_path / "run").cell("a")
    folder.path.mkdir(parents=True)
    return folder


def test_a_number_that_no_process_has_is_nobodys(cell):
    assert not runs_cell(NONE, cell)
    assert not controls_cell(str(NONE), cell)
    assert queue_of(str(NONE)) is None


def test_a_file_that_is_closed_while_it_is_looked_at_hides_no_other(cell, monkeypatch):
    assert not runs_cell(os.getpid(), cell), "there is no lock"
    with cell.lock_file.open("w"):
        listed = os.listdir(f"/proc/{os.getpid()}/fd")
        monkeypatch.setattr(os, "listdir", lambda path: ["999999", *listed])
        assert runs_cell(os.getpid(), cell)


@pytest.mark.parametrize("said", ["it's no command", "true"])
def test_a_controller_of_something_else_is_not_the_cells(cell, said):
    command = [sys.executable, "-c", "import sys; sys.stdin.read()", "submitit.local._local"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, env={**os.environ, "SUBMITIT_LOCAL_COMMAND": said}
    ) as process:
        assert not controls_cell(str(process.pid), cell)
        process.communicate()
