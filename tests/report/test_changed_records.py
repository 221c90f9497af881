"""A record that was changed is noticed: by `status` and by `report`, with the same words."""

from __future__ import annotations

import collections
import hashlib
import io
import json
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from slice_folder import hpcseg

from hpcseg.cluster.states import CellStatus, run_status
from hpcseg.errors import IncompleteError
from hpcseg.records import arrays
from hpcseg.records.collect import collect, trained_record
from hpcseg.records.row import Hole
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.grid import read_grid, read_plan, write_plan
from hpcseg.runs.record import read_json, write_json, write_record


@pytest.fixture
def run(finished, tmp_path) -> RunFolder:
    """A copy of a finished run of two cells, for a test to change."""
    shutil.copytree(finished.path, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def first(run: RunFolder) -> tuple[CellStatus, Hole | None]:
    """The first cell as status shows it, and its hole in a report."""
    return run_status(run).status[0], collect(run).rows[0].hole


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def as_of_before(file: Path) -> None:
    """Makes a record one of schema 1."""
    content = read_json(file)
    for key in ("content_sha256", "metrics_sha256", "pictures_sha256"):
        content.pop(key, None)
    write_json(file, {**content, "schema": 1})


def another_digit(file: Path, key: str) -> None:
    """Changes the last digit of the first number behind a key."""
    text = file.read_text()
    found = re.search(rf'"{key}": [\[\s]*\d*(\d)', text)
    place = found.start(1)
    file.write_text(f"{text[:place]}{(int(text[place]) + 1) % 10}{text[place + 1 :]}")


def test_what_a_run_has_written_is_accepted(run):
    status, hole = first(run)
    assert (status.state, status.epoch, status.note, hole) == ("finished", 2, "", None)


@pytest.mark.usefixtures("bounded")
def test_a_change_of_any_byte_of_any_record_is_noticed_or_without_effect(run, mutations, capsys):
    counts = collections.Counter()
    for file, command, outcome, content in mutations.mutate(run, 300, seed=1):
        counts[outcome] += 1
        assert outcome not in ("silent", "traceback"), (file, command, content, capsys.readouterr().err)
    # Of what has a checksum and is shown, nothing is "same".
    assert counts["noticed"] + counts["sentence"] > counts["same"] / 2, counts


@pytest.mark.parametrize(
    ("file", "key"),
    [
        *(("evaluation.json", key) for key in ("confusion", "class_values", "test_tiles", "accuracy", "seconds")),
        *(("training.json", key) for key in ("validation_confusion", "epochs", "steps", "parameters", "train_tiles")),
        ("config.json", "seed"),
    ],
)
def test_a_changed_digit_is_a_hole_and_a_failed_cell_with_one_cause(run, file, key):
    cell = collect(run).rows[0].cell
    another_digit(cell.folder.path / file, key)
    status, hole = first(run)
    assert hole.reason == f"its {file} was changed after it was written, by its checksum."
    assert (status.state, status.note) == ("failed", f"damaged record: {hole.reason} {hole.remedy}")
    assert run_status(run).failures[cell.id].kind.name == "damaged record"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"content_sha256"', '"content_sha255"'),
        ('"schema": 2', '"schema": 1'),
        ('"content_sha256": "', '"content_sha256": "0'),
    ],
)
def test_a_checksum_cannot_be_lost_by_a_change_of_its_name_of_the_schema_or_of_itself(run, old, new):
    replace(collect(run).rows[0].cell.folder.evaluation_file, old, new)
    status, hole = first(run)
    assert "evaluation.json was changed after it was written" in hole.reason
    assert (status.state, hole.reason in status.note) == ("failed", True)


@pytest.mark.parametrize("file", ["evaluation.json", "training.json", "slices.jsonl"])
def test_a_cut_record_has_one_cause_in_status_and_report(run, file):
    path = collect(run).rows[0].cell.folder.path / file
    path.write_bytes(path.read_bytes()[:-40])
    status, hole = first(run)
    told = {"slices.jsonl": "its evaluation.json is damaged (its slices.jsonl is another one)."}
    assert hole.reason == told.get(file, f"its {file} cannot be read.")
    assert (status.state, hole.reason in status.note) == ("failed", True)
    said = hpcseg("status", "--run", run.path)
    assert hole.reason in said.stdout and "without a word" not in said.stdout


def test_a_broken_config_costs_nothing_that_was_trained(run):
    folder = collect(run).rows[0].cell.folder
    folder.config_file.write_text("{")
    for hole in (first(run)[1], trained_record(collect(run).rows[0].cell, read_plan(run))):
        assert hole.reason == "its config.json cannot be read."
        assert hole.remedy.startswith(f"Delete cells/{folder.id}/config.json, then run `hpcseg grid ")
    folder.config_file.unlink()
    write_plan(read_grid(run))
    status, hole = first(run)
    assert (status.state, hole) == ("finished", None)


@pytest.mark.parametrize("which", ["interfaces", "label_interfaces", "whole"])
def test_counts_of_other_classes_are_a_hole(run, which):
    folder, two = collect(run).rows[0].cell.folder, [[3, 1], [0, 2]]
    record = read_json(folder.evaluation_file)
    if which == "whole":
        lines = [{**json.loads(line), which: two} for line in folder.slices_file.read_text().splitlines()]
        folder.slices_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        record["slices_sha256"] = hashlib.sha256(folder.slices_file.read_bytes()).hexdigest()
    else:
        for part in (record,) if which in record else record["points"]:
            part[which] = two
    write_record(folder.evaluation_file, record)
    assert first(run)[1].reason == "its evaluation.json is damaged (its confusion matrices are not of its classes)."


def test_a_finished_cell_whose_metrics_were_cut_is_still_finished_with_its_last_numbers(run):
    before, _ = first(run)
    metrics = collect(run).rows[0].cell.folder.metrics_file
    metrics.write_text(metrics.read_text().splitlines(keepends=True)[0])
    status, hole = first(run)
    assert (status, hole) == (before, None)
    assert collect(run).rows[0].epochs == ()


def test_epochs_of_a_changed_digit_are_not_drawn(run):
    another_digit(collect(run).rows[0].cell.folder.metrics_file, "validation_loss")
    assert collect(run).rows[0].epochs == ()
    assert first(run)[1] is None


@pytest.mark.parametrize("extremes", [False, True])
def test_changed_pictures_are_not_drawn(run, extremes):
    row = collect(run).rows[0]
    file = row.cell.folder.extremes_file if extremes else row.cell.folder.examples_file
    assert row.pictures(extremes=extremes)
    with np.load(io.BytesIO(file.read_bytes())) as content:
        kept = dict(content)
    name = next(name for name in sorted(kept) if kept[name].ndim > 1)
    kept[name].flat[0] += 1
    np.savez_compressed(file, **kept)
    assert row.pictures(extremes=extremes) is None


@pytest.mark.parametrize(
    ("shape", "size"),
    [("(40000, 40000)", 128), ("(2,)", 128), ("(-2, -8)", 128), ("(2048,)", 2**14)],
    ids=["claims more", "claims less", "negative", "too large"],
)
def test_arrays_that_claim_another_size_than_they_have_are_not_read(run, shape, size, monkeypatch):
    monkeypatch.setattr(arrays, "_MOST_BYTES", 2**14)
    row = collect(run).rows[0]
    as_of_before(row.cell.folder.evaluation_file)
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    with (
        zipfile.ZipFile(row.cell.folder.extremes_file, "w", zipfile.ZIP_DEFLATED) as file,
        file.open("images.npy", "w", force_zip64=True) as member,
    ):
        member.write(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
        member.write(bytes(size))
    assert collect(run).rows[0].pictures(extremes=True) is None


@pytest.mark.parametrize(
    ("file", "key", "told"),
    [
        ("evaluation.json", "confusion", "is damaged"),
        ("evaluation.json", "accuracy", "accuracy does not follow from the confusion matrix"),
        ("evaluation.json", "mean_iou", "mean_iou does not follow from the confusion matrix"),
        ("training.json", "epochs", "epochs, and its settings"),
        ("training.json", "steps", "steps do not follow from its tiles and epochs"),
    ],
)
def test_of_records_without_a_checksum_numbers_that_follow_from_others_are_compared(run, file, key, told):
    folder = collect(run).rows[0].cell.folder
    for path in (folder.config_file, folder.training_file, folder.evaluation_file):
        as_of_before(path)
    assert first(run)[1] is None
    another_digit(folder.path / file, key)
    status, hole = first(run)
    assert told in hole.reason
    assert (status.state, hole.reason in status.note) == ("failed", True)


def test_a_validation_without_a_checksum_is_compared_with_that_of_its_epoch(run):
    folder = collect(run).rows[0].cell.folder
    for path in (folder.config_file, folder.training_file, folder.evaluation_file):
        as_of_before(path)
    record = read_json(folder.training_file)
    counts = record["validation_confusion"]
    row = next(row for row in counts if sum(row))
    taken = row.index(max(row))
    # One pixel is taken for another class, so that their sum is as before.
    row[taken] -= 1
    row[taken - 1] += 1
    write_json(folder.training_file, record)
    assert "its validation is not that of its epoch in metrics.jsonl" in first(run)[1].reason


def test_right_pixels_of_slices_are_those_of_the_test_set(run):
    folder = collect(run).rows[0].cell.folder
    lines = [json.loads(line) for line in folder.slices_file.read_text().splitlines()]
    lines[0]["right"]["gaussian-0"] -= 1
    folder.slices_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    as_of_before(folder.evaluation_file)
    content = read_json(folder.evaluation_file)
    del content["slices_sha256"]
    write_json(
        folder.evaluation_file,
        {**content, "slices_sha256": hashlib.sha256(folder.slices_file.read_bytes()).hexdigest()},
    )
    assert "other right pixels at gaussian-0 than its confusion matrices" in first(run)[1].reason


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"class_values": ["<b>", 128, 255]}, "class_values[0] is '<b>'"),
        ({"class_values": [0, True, 255]}, "class_values[1] is True"),
        ({"class_values": [0, 0, 255]}, "class_values are"),
        ({"precision": "=1+1"}, "precision is '=1+1'"),
    ],
)
def test_class_values_are_whole_numbers_and_a_precision_is_a_known_one(run, values, told):
    file = collect(run).rows[0].cell.folder.evaluation_file
    write_record(file, {**read_json(file), **values})
    assert told in first(run)[1].reason


def test_a_record_that_is_written_again_as_it_was_is_the_same_record(tmp_path):
    content = {"schema": 2, "b": (1, 2.5, float("nan")), "a": {1: "\udce9", "x": None}}
    write_record(tmp_path / "a.json", content)
    write_record(tmp_path / "b.json", read_json(tmp_path / "a.json"))
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    spaced = json.dumps(json.loads((tmp_path / "a.json").read_text()), indent=7)
    (tmp_path / "b.json").write_text(spaced)
    assert read_json(tmp_path / "b.json")["a"] == {"1": "\udce9", "x": None}


def test_a_changed_grid_is_a_sentence(run):
    replace(run.grid_file, "Two small cells", "Ten small cells")
    for command in ("status", "report"):
        said = hpcseg(command, "--run", run.path)
        assert said.exit_code == IncompleteError.exit_code
        assert "grid.json was changed after it was written, by its checksum." in said.stderr
        assert len(said.stderr.splitlines()) == 1
