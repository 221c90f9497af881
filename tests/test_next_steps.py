"""What each command proposes next fits the slices, the run and the machine; where it is a command, it works."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import pytest
from run_here import run_here
from slice_folder import hpcseg

from hpcseg.cli import next_step
from hpcseg.data.sample import write_sample
from hpcseg.data.store import read_info
from hpcseg.runs import gpus

PAPERS = "837bfab285293708faeec3297187c165e20ca3bd3db6ca48922cfc7fc9e510f0"
QUICK = """
[train]
width = 1
depth = 1
epochs = 1

[data]
tiles = "2x2"
tile_size = 16

[needs]
gpus = {gpus}

[[grid]]
train.seed = [0, 1]
"""


def next_of(result):
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("Next: ")]
    return line.removeprefix("Next: ")


def typed(command, *more):
    program, *arguments = shlex.split(command)
    assert program == "hpcseg"
    return hpcseg(*arguments, *more)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Twelve labelled slices of 40 x 40 pixels, and a machine without Slurm and GPUs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(next_step.shutil, "which", lambda name: None)
    monkeypatch.setattr(gpus, "count", lambda: 0)
    write_sample(tmp_path / "sample", slices=12, size=40, seed=3)
    return tmp_path


def test_own_slices_go_to_job_segment_with_what_makes_it_fit_them_and_the_machine(here, monkeypatch):
    proposed = next_of(hpcseg("pack", "sample"))
    fits = "hpcseg grid --job segment --set data.tile_size=32"
    assert proposed == f"{fits} --local --set train.width=16"
    monkeypatch.setattr(gpus, "count", lambda: 1)
    assert next_of(hpcseg("pack", "sample")) == f"{fits} --local"
    monkeypatch.setattr(next_step, "_slurm_answers", lambda: True)
    assert next_of(hpcseg("pack", "sample")) == fits
    planned = typed(proposed, "--dry-run")
    assert planned.exit_code == 0 and "A model for your own slices: 3 cells" in planned.stdout, planned.output


def test_what_is_no_run_no_argument_and_no_place_to_write_to_is_said_with_what_to_do(tmp_path):
    (tmp_path / "run").mkdir()
    said = hpcseg("status", "--run", tmp_path / "run")
    assert said.exit_code == 5 and f"{tmp_path}/run is no run, for it has no grid.json. Name another" in said.stderr
    said = hpcseg("grid", tmp_path / "DATA")
    told = " ".join(said.stderr.replace("│", " ").split())
    assert said.exit_code == 2 and "The packed data set is named with --data." in told
    (tmp_path / "file").touch()
    said = hpcseg("bench", "--run", tmp_path / "file/out")
    assert said.exit_code == 1 and "file/out: Not a directory. Name another file or folder, or see" in said.stderr


def test_the_folder_above_is_named_where_that_of_the_slices_was_typed(here):
    answer = hpcseg("pack", "sample/data")
    assert answer.exit_code == 3 and "Did you mean sample?" in answer.stderr


def test_a_dry_run_tells_the_width_and_the_epochs_and_settings_what_a_job_has_in_place_of_defaults(here):
    Path("mine.toml").write_text(QUICK.format(gpus=0))
    hpcseg("pack", "sample")
    planned = hpcseg("grid", "--local", "--job", "mine.toml", "--dry-run", "--set", "train.batch_size=3")
    assert "Training: width 1; epochs 1; batches of 3 tiles." in planned.stdout
    assert (
        "train.width = 64  (whole number; in mine.toml 1)" in hpcseg("settings", "width", "--job", "mine.toml").stdout
    )


def test_without_a_job_a_grid_is_one_of_own_slices(here):
    hpcseg("pack", "sample")
    planned = hpcseg("grid", "--local", "--dry-run", "--set", "data.tile_size=32")
    assert "A model for your own slices: 3 cells in runs/segment" in planned.stdout, planned.output


def test_too_few_slices_are_told_what_it_takes_before_a_training_is_proposed(here):
    for kind in ("data", "labels"):
        for path in sorted(Path("sample", kind).iterdir())[2:]:
            path.unlink()
    packed = hpcseg("pack", "sample")
    assert packed.exit_code == 0 and "Next" not in packed.stdout
    assert "Before a training: 8 tiles on 2 slices are too few for three sets" in packed.stdout


@pytest.mark.parametrize(
    ("slurm", "count", "job"), [("/usr/bin/sbatch", 0, "paper"), (None, 1, "paper"), (None, 0, "paper-cpu")]
)
def test_the_papers_slices_go_to_the_papers_job_for_the_machine(here, monkeypatch, slurm, count, job):
    hpcseg("pack", "sample")
    info = read_info(Path("dataset.h5"))
    monkeypatch.setattr(next_step.shutil, "which", lambda name: slurm)
    monkeypatch.setattr(gpus, "count", lambda: count)
    papers = dataclasses.replace(info, data_sha256=PAPERS)
    assert next_step.after_pack(papers, " --data x.h5") == f"Next: hpcseg grid --job {job} --data x.h5"


def test_the_hint_about_cpus_names_the_papers_job_for_the_papers_slices_alone(here):
    hpcseg("pack", "sample")
    Path("mine.toml").write_text(QUICK.format(gpus=1))
    command = ("grid", "--local", "--job", "mine.toml", "--gpus-per-node", "1")
    assert "is meant for GPUs" not in hpcseg(*command).stderr, "a narrow one does here"
    said = hpcseg(*command, "--set", "train.width=17").stderr
    assert "mine is meant for GPUs" in said and "--set train.width=16" in said and "paper" not in said
    assert "`--job paper-cpu` is the paper's experiment" in next_step.too_slow("paper", PAPERS)


def test_from_the_slices_to_the_labels_each_command_names_the_next(here):
    hpcseg("pack", "sample")
    Path("mine.toml").write_text(QUICK.format(gpus=0))
    assert hpcseg("grid", "--local", "--job", "mine.toml", "--dry-run").exit_code == 0
    ran = hpcseg("grid", "--local", "--job", "mine.toml")
    assert ran.exit_code == 0 and next_of(ran) == "hpcseg report"
    assert next_of(hpcseg("status")) == "hpcseg report"
    reported = typed("hpcseg report")
    assert "The report is runs/mine/report/report.html" in hpcseg("status").stdout
    proposed = next_of(reported)
    assert proposed in ("hpcseg predict s0 SLICES -o OUT", "hpcseg predict s1 SLICES -o OUT")
    predicted = typed(proposed.replace("SLICES", "sample/data"))
    assert predicted.exit_code == 0, predicted.output
    assert len(list(Path("OUT/labels").iterdir())) == 12


def test_of_repetitions_on_other_test_slices_all_are_proposed_not_the_luckiest(here):
    hpcseg("pack", "sample")
    Path("mine.toml").write_text(QUICK.format(gpus=0).replace("train.seed = [0, 1]", "data.split_seed = [0, 1]"))
    assert hpcseg("grid", "--local", "--job", "mine.toml").exit_code == 0
    proposed = next_of(typed("hpcseg report"))
    names = shlex.split(proposed)
    assert names[:2] == ["hpcseg", "predict"] and names[-2] == "--ensemble" and names[-1] != names[2], proposed
    assert typed(proposed.replace("SLICES", "sample/data")).exit_code == 0


def test_the_most_right_pixels_are_those_of_one_test_set(here):
    hpcseg("pack", "sample")
    seeds = "train.seed = [0, 1]"
    Path("mine.toml").write_text(QUICK.format(gpus=0).replace(seeds, f'{seeds}\ndata.split = ["shuffled", "blocked"]'))
    assert hpcseg("grid", "--local", "--job", "mine.toml").exit_code == 0
    assert "most right test pixels of those tested on the same tiles; " in hpcseg("report").stdout


def test_a_run_with_missing_cells_goes_on_with_the_command_that_planned_it(here, monkeypatch):
    monkeypatch.setattr("sys.argv", ["hpcseg", "grid", "--local", "--job", "mine.toml"])
    hpcseg("pack", "sample")
    Path("mine.toml").write_text(QUICK.format(gpus=0).replace("[0, 1]", "0"))
    assert hpcseg("grid", "--local", "--job", "mine.toml").exit_code == 0
    Path("mine.toml").write_text(QUICK.format(gpus=0))
    ran = hpcseg("train", "*-s0-*", "--job", "mine.toml")  # plans both
    assert ran.exit_code == 0, ran.output
    assert next_of(hpcseg("status")) == "hpcseg grid --local --job mine.toml"
    assert next_of(hpcseg("report")) == "hpcseg status, or hpcseg grid --local --job mine.toml"


def test_a_run_that_other_verbs_would_not_take_is_named(tmp_path, tiny_dataset, monkeypatch):
    """Without --run they take the run that was planned last."""
    monkeypatch.chdir(tmp_path)
    for name in ("old", "new"):
        run_here("smoke", tiny_dataset, Path("runs", name))
    assert "--run runs/old" in hpcseg("status", "--run", "runs/old").stdout.partition("Next:")[2]
    assert "--run" not in hpcseg("status", "--run", "runs/new").stdout.partition("Next:")[2]
