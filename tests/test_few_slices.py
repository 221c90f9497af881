"""From three labelled slices on there is a way, and what it cannot tell is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tifffile
from run_here import run_here
from slice_folder import hpcseg

from hpcseg.data.sample import write_sample

JOB = """
[data]
tiles = "cover"
split = "blocked"
tile_size = 32

[train]
width = 1
depth = 1
epochs = 1
precision = "fp32"

[evaluate]
table_sigma = "21 %"
whole_slices = true

[needs]
gpus = 0

[[grid]]
data.split_seed = [0, 1]
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Six labelled slices of 64 x 64 pixels in a folder of their own, and a job file."""
    monkeypatch.chdir(tmp_path)
    write_sample(tmp_path / "sample", slices=6, size=64, seed=3)
    Path("few.toml").write_text(JOB)
    return tmp_path


def pack_slices(numbers):
    """The first slices of the sample under other numbers, packed."""
    for kind in ("data", "labels"):
        Path("mine", kind).mkdir(parents=True)
        for number, path in zip(numbers, sorted(Path("sample", kind).iterdir()), strict=False):
            tifffile.imwrite(Path("mine", kind, f"s{number:04d}.tif"), tifffile.imread(path))
    result = hpcseg("pack", "mine")
    assert result.exit_code == 0, result.output
    return result


def test_three_neighbours_train_test_and_predict_and_all_say_what_they_cannot_tell(here):
    pack_slices([1, 2, 3])
    planned = hpcseg("grid", "--job", "few.toml", "--local", "--dry-run")
    assert planned.exit_code == 0, planned.output
    for seed in ("", ", split_seed 1"):
        assert (
            f"Sets (tiles cover, blocked, tile_size 32{seed}): training 1 slice (4 tiles), validation 1 slice (4 "
            "tiles), test 1 slice (4 tiles); 0 of 3 slices left out, gap 0 between two sets"
        ) in planned.stdout
    assert "Note: accuracy on 1 test slice at each position says little" in planned.stdout
    assert "a new scan is segmented less well" in planned.stdout
    run_here("few.toml")
    reported = hpcseg("report", "--json")
    assert reported.exit_code == 0, reported.output
    notes = " ".join(json.loads(reported.stdout)["notes"])
    assert (
        "Accuracy on 1 test slice at each position says little" in notes
        and "a new scan is segmented less well" in notes
    )
    above, _, below = Path("runs/few/report/report.html").read_text().partition("</header>")
    assert "Accuracy on 1 test slice at each position says little" in above, (
        "beside the answers, and not where nobody unfolds it"
    )
    assert "says little" not in below
    predicted = hpcseg("predict", "*-split-seed-1-*", "sample/data", "-o", "out")
    assert predicted.exit_code == 0, predicted.output
    assert len(list(Path("out/labels").iterdir())) == 6


def test_more_positions_than_slices_are_said_to_be_fewer_before_anything_is_trained_and_after(here):
    pack_slices([1, 120, 250, 400])
    Path("few.toml").write_text(JOB.replace("data.split_seed = [0, 1]", "repetitions = [0, 1, 2, 3]"))
    assert "have the same test slices" not in hpcseg("grid", "--job", "few.toml", "--local", "--dry-run").stdout
    Path("few.toml").write_text(JOB.replace("data.split_seed = [0, 1]", "repetitions = [0, 1, 2, 3, 4]"))
    planned = hpcseg("grid", "--job", "few.toml", "--local")
    assert planned.exit_code == 0, planned.output
    told = " of data.split_seed have the same test slices, so they count as one position."
    assert planned.stdout.count(told) == 1
    reported = hpcseg("report", "--json")
    assert reported.exit_code == 0, reported.output
    assert sum(told in note for note in json.loads(reported.stdout)["notes"]) == 1


def test_three_slices_far_apart_need_no_gap_and_are_not_said_to_be_alike(here):
    pack_slices([1, 200, 400])
    planned = hpcseg("grid", "--job", "few.toml", "--local", "--dry-run").stdout
    assert "0 of 3 slices left out, gap " in planned and "gap 0" not in planned
    assert "says little" in planned and "less well" not in planned


def test_two_slices_are_refused_with_the_number_it_takes_and_the_way_that_there_is(here):
    pack_slices([1, 2])
    refused = hpcseg("grid", "--job", "few.toml", "--local")
    assert refused.exit_code == 3 and "it takes 3. Label more slices." in refused.stderr
    assert 'data.split to "shuffled" and data.tiles to a grid whose tiles do not overlap' in refused.stderr
    way = ("--set", "data.split=shuffled", "--set", "data.tiles=2x2", "--set", "data.split_seed=0")
    planned = hpcseg("grid", "--job", "few.toml", "--local", "--dry-run", *way)
    assert planned.exit_code == 0, planned.output
    assert "test tiles are of slices that are trained on" in planned.stdout


def test_of_enough_slices_a_dry_run_has_all_three_sets_and_no_note_but_that_of_a_short_gap(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_sample(tmp_path / "sample", slices=40, size=32, seed=3)
    assert hpcseg("pack", "sample").exit_code == 0
    Path("few.toml").write_text(JOB.replace('"blocked"', '"blocked"\ngap_slices = 2') + "train.epoch_steps = 150\n")
    planned = hpcseg("grid", "--job", "few.toml", "--local", "--dry-run").stdout
    # 40 less three gaps of 2 are 34: 70 % are 24, 15 % are 5, and 5 are left.
    assert "training 24 slices (24 tiles), validation 5 slices (5 tiles), test 5 slices (5 tiles); 6 of 40" in planned
    assert planned.count("Note: ") == 1 and "Note: slices are alike farther apart than two sets are" in planned
