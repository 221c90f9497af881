"""`hpcseg report` on a full or read-only disk, and of a run that is none: one line, and no half-written file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_report_build import whole_run
from test_report_records import change, tiny_run
from typer.testing import CliRunner

from hpcseg.cli.app import app
from hpcseg.report.build import build_report


def failed(*arguments: str | Path, code: int = 1) -> str:
    result = CliRunner().invoke(app, ["report", *map(str, arguments)])
    assert result.exit_code == code
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    return result.stderr


def files(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("size", ["8k", "150k"])  # which the tables alone fill, or the figures
def test_a_full_disk_leaves_whole_files_only(tmp_path, disk, size):
    run = whole_run(tmp_path / "run").run
    build_report(run, tmp_path / "wanted")
    out = disk(f"size={size}")
    assert "cannot be written: No space left on device" in failed("--run", run.path, "-o", out)
    written, wanted = files(out), files(tmp_path / "wanted")
    assert 0 < len(written) < len(wanted)
    assert {name: wanted[name] for name in written} == written


def test_a_full_disk_leaves_whole_records_only_where_they_are_published(tmp_path, disk):
    run = tiny_run(tmp_path / "run").run
    folder = disk("size=16k")
    assert "cannot be written: No space left on device" in failed("--run", run.path, "--publish", folder)
    written, records = files(folder), files(run.path)
    assert written
    assert {name: records[name] for name in written} == written


@pytest.mark.parametrize("option", ["-o", "--publish"])
def test_a_read_only_folder_is_named(tmp_path, disk, option):
    run = tiny_run(tmp_path / "run").run
    folder = disk("ro")
    told = failed("--run", run.path, option, folder)
    assert str(folder) in told
    assert "Read-only file system" in told


def test_a_file_where_a_folder_is_wanted_is_named(tmp_path):
    run = tiny_run(tmp_path / "run").run
    (tmp_path / "file").write_text("precious")
    assert f"{tmp_path / 'file'}" in failed("--run", run.path, "-o", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "precious"


def test_a_run_that_is_not_there_is_named(tmp_path):
    told = failed("--run", tmp_path / "gone", code=5)
    assert f"There is no run {tmp_path / 'gone'}." in told


@pytest.mark.parametrize("cell_id", ["../../evil", "/evil", "..", ".", "", "a/b", "../cells"])
def test_an_id_that_leads_out_of_the_run_is_refused_and_nothing_is_written(tmp_path, cell_id):
    run = tiny_run(tmp_path / "run").run
    cells = json.loads(run.grid_file.read_text())["cells"]
    change(run.grid_file, cells=[{**cells[0], "id": cell_id}, *cells[1:]])
    before = files(tmp_path)
    told = failed("--run", run.path, "--publish", tmp_path / "published", code=5)
    assert f"grid.json is damaged: {cell_id!r} is no id of a cell" in told
    assert files(tmp_path) == before
