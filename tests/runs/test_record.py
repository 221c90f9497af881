from __future__ import annotations

import os
from pathlib import Path

import pytest

from hpcseg.errors import HpcsegError, IncompleteError
from hpcseg.runs import record
from hpcseg.runs.finding import find_run
from hpcseg.runs.folder import newest_run
from hpcseg.runs.record import append_event, read_json, read_lines, write_json


def test_a_json_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(HpcsegError, match=r"a\.json cannot be written: No space left on device"):
        write_json(path, {"a": 2})
    assert read_json(path) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '"text"'])
def test_a_damaged_record_is_named_with_the_way_out(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(IncompleteError, match=r"a\.json .*Delete it"):
        read_json(tmp_path / "a.json")


def test_an_unfinished_last_line_is_left_out(tmp_path):
    path = tmp_path / "events.jsonl"
    append_event(path, "start", epoch=1)
    with path.open("a") as file:
        file.write('{"event": "epo')
    assert [line["event"] for line in read_lines(path)] == ["start"]
    assert read_lines(tmp_path / "none.jsonl") == []


def test_what_a_full_disk_left_of_a_line_takes_no_other_line_with_it(tmp_path):
    path = tmp_path / "events.jsonl"
    append_event(path, "start")
    with path.open("a") as file:
        file.write('{"event": "epo')
    append_event(path, "resume")
    append_event(path, "epoch")
    assert [line["event"] for line in read_lines(path)] == ["start", "resume", "epoch"]


def test_the_newest_run_is_the_one_planned_last(tmp_path):
    for age, name in ((100, "a"), (50, "b"), (200, "c")):
        write_json(tmp_path / name / "grid.json", {})
        os.utime(tmp_path / name / "grid.json", (1e9 - age, 1e9 - age))
    assert newest_run(tmp_path).path.name == "b"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
@pytest.mark.parametrize("closed", ["runs", "runs/a", "runs/a/grid.json"])
def test_what_a_colleague_has_closed_is_said_and_not_taken_for_missing(tmp_path, monkeypatch, closed):
    for path in (tmp_path, tmp_path / "runs/a"):
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o755)
    write_json(tmp_path / "runs/a/grid.json", {})
    (tmp_path / closed).chmod(0o700)
    monkeypatch.chdir(tmp_path)
    os.seteuid(65534)
    try:
        for run in (None, Path("runs/b")) if closed != "runs/a/grid.json" else (Path("runs/a"),):
            with pytest.raises(IncompleteError, match=rf"{closed} (is closed to you|.* denied\. Its owner can)"):
                read_json(find_run(run).grid_file)
    finally:
        os.seteuid(0)


def link(path: Path) -> None:
    path.with_name("secret").write_text('{"event": "secret"}\n')
    path.symlink_to(path.with_name("secret"))


NO_FILES = {
    "a link": (link, "it is a link"),
    "a pipe": (os.mkfifo, "it is no regular file"),
    "a link to a device": (lambda path: path.symlink_to("/dev/zero"), "it is a link"),
    "a folder": (Path.mkdir, "it is no regular file"),
    "a huge file": (lambda path: (path.touch(), os.truncate(path, 2**40)), "and at most .* are read"),
}


@pytest.mark.parametrize("read", [read_json, read_lines])
@pytest.mark.parametrize(("make", "told"), NO_FILES.values(), ids=NO_FILES)
def test_what_is_no_file_of_a_bounded_size_is_not_read(tmp_path, read, make, told):
    make(tmp_path / "a.json")
    with pytest.raises(IncompleteError, match=rf"a\.json cannot be read: .*{told}"):
        read(tmp_path / "a.json")


def test_a_device_without_an_end_is_not_read():
    for read in (read_json, read_lines):
        with pytest.raises(IncompleteError, match="/dev/zero cannot be read: it is no regular file"):
            read(Path("/dev/zero"))


def test_nothing_is_appended_through_a_link_and_no_pipe_is_waited_for(tmp_path):
    precious = tmp_path / "bashrc"
    precious.write_text("precious")
    (tmp_path / "submissions.jsonl").symlink_to(precious)
    os.mkfifo(tmp_path / "events.jsonl")
    for name, told in (("submissions", "it is a link"), ("events", "it is no regular file")):
        with pytest.raises(OSError, match=told):
            append_event(tmp_path / f"{name}.jsonl", "cancelled")
    assert precious.read_text() == "precious"


def test_a_plan_of_ten_thousand_cells_can_be_read(tmp_path):
    write_json(tmp_path / "grid.json", {"cells": [{"id": "x" * 255, "settings": "y" * 1500}] * 10_000})
    assert (tmp_path / "grid.json").stat().st_size < record.MOST_BYTES / 2


def test_an_evaluation_of_255_classes_at_31_levels_can_be_read(tmp_path):
    matrix = [[10_000] * 255] * 255
    point = {"confusion": matrix, "near_edge": {"1": matrix, "2": matrix}, "interfaces": matrix}
    write_json(tmp_path / "evaluation.json", {"points": [point]})
    assert 31 * (tmp_path / "evaluation.json").stat().st_size < record.MOST_BYTES / 2
