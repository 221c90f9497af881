"""`hpcseg grid` on this machine, through the command line: what a user without a cluster does."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from small_job import small_job
from typer.testing import CliRunner

from hpcseg.cli.app import app
from hpcseg.cluster import local, worker
from hpcseg.runs.state import State

JOB = small_job('data.tiles = ["1x1", "1x2"]')


@pytest.fixture
def job(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "tiny.toml").write_text(JOB)
    return tmp_path


def hpcseg(*arguments: str, code: int = 0) -> str:
    answer = CliRunner().invoke(app, list(arguments))
    assert answer.exit_code == code, answer.output
    return answer.output


def grid(dataset, *options: str, code: int = 0) -> str:
    return hpcseg("grid", "--local", "--job", "tiny.toml", "--data", str(dataset), *options, code=code)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_dataset) -> tuple[Path, str]:
    """The folder of runs with the job's in it, finished, and what was said of that."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.toml").write_text(JOB)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("COLUMNS", "200")
        return folder / "runs", grid(tiny_dataset)


def states(run: str = "runs/tiny") -> list[str]:
    return [cell["state"] for cell in json.loads(hpcseg("status", "--run", run, "--json"))["cells"]]


def test_a_grid_runs_once_and_again_only_what_is_missing(job, tiny_dataset, monkeypatch, finished):
    assert "2 cells finished, 0 failed" in finished[1]
    shutil.copytree(finished[0], job / "runs")
    assert states() == ["finished", "finished"]
    cells = sorted((job / "runs/tiny/cells").iterdir())
    kept = {path: path.stat().st_mtime_ns for cell in cells for path in cell.glob("*.json*")}

    assert "nothing to do" in grid(tiny_dataset)
    assert {path: path.stat().st_mtime_ns for path in kept if path.name != "config.json"} == {
        path: time for path, time in kept.items() if path.name != "config.json"
    }
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "")  # also where there is no Slurm
        said = hpcseg("grid", "--slurm", "--job", "tiny.toml", "--data", str(tiny_dataset))
        assert said.endswith("Every cell is finished, nothing to do.\nNext: hpcseg report\n")
    (cells[0] / "evaluation.json").unlink()
    assert "1 cell finished" in grid(tiny_dataset)
    assert (cells[0] / "training.json").stat().st_mtime_ns == kept[cells[0] / "training.json"], "trained once only"


def test_a_full_disk_is_called_that_also_when_there_is_room_again(job, tiny_dataset, disk, monkeypatch):
    room = disk("size=16m")
    options = ("--run", str(room / "run"), "--set", "data.tiles='1x1'")
    with monkeypatch.context() as patched:
        patched.setattr(local, "_start", lambda *given: 1 / 0)  # all is written but what the cell writes
        CliRunner().invoke(app, ["grid", "--local", "--job", "tiny.toml", "--data", str(tiny_dataset), *options])
    left = os.statvfs(room)
    (room / "filler").write_bytes(bytes(left.f_bavail * left.f_frsize - 4096))
    assert "the disk is full: make room" in grid(tiny_dataset, *options, code=1)
    assert "disk full" in hpcseg("status", "--run", str(room / "run"))
    (room / "filler").unlink()
    assert "disk full" in hpcseg("status", "--run", str(room / "run"))
    assert "1 cell finished" in grid(tiny_dataset, *options)


def test_a_script_reads_the_cells_from_one_object(job, tiny_dataset):
    options = ["grid", "--local", "--job", "tiny.toml", "--data", str(tiny_dataset), "--json"]
    for more, state in ((["--dry-run"], "missing"), ([], "finished")):
        said = CliRunner().invoke(app, [*options, *more])
        assert [cell["state"] for cell in json.loads(said.stdout)["cells"]] == [state, state]
        assert "2 cells in runs/tiny" in said.stderr


# In the worker's place: it ends well only where another one came while it waited.
MEETS = """
import sys, time
from pathlib import Path

place, me = Path(sys.argv[1]), sys.argv[2]
(place / f"{me}.came").touch()
deadline = time.monotonic() + 60
while len(list(place.glob("*.came"))) < 2:
    if time.monotonic() > deadline:
        sys.exit(1)
    time.sleep(0.05)
(place / f"{me}.met").touch()
"""


def test_two_workers_run_two_cells_at_a_time(job, tiny_dataset, monkeypatch):
    place = job / "meeting"
    place.mkdir()
    monkeypatch.setattr(worker, "command", lambda run, cells: [sys.executable, "-c", MEETS, str(place), cells[0]])
    grid(tiny_dataset, "--workers", "2", code=1)
    assert len(list(place.glob("*.met"))) == 2, "the first waited for the second"


def test_two_ranks_of_submitits_local_executor_train_one_cell(job, tiny_dataset):
    grid(tiny_dataset, "--ranks-per-node", "2", "--run", "two")
    for cell in (job / "two/cells").iterdir():
        assert json.loads((cell / "training.json").read_text())["world_size"] == 2


def test_a_failed_cell_stops_no_other_and_says_why(job, tiny_dataset):
    grid(tiny_dataset, "--dry-run")
    (job / "tiny.toml").write_text(JOB.replace("[train]", "[train]\nlearning_rate = 1e38"))
    said = grid(tiny_dataset, code=1)
    assert said.count("training loss became") == 2, "both cells fail, the second after the first"
    assert "0 cells finished, 2 failed" in said and ".out" in said
    assert states() == ["failed", "failed"]


def test_retry_here_runs_as_the_grid_did(job, tiny_dataset, monkeypatch):
    (job / "tiny.toml").write_text(JOB.replace("[train]", "[train]\nlearning_rate = 1e38"))
    options = ["--workers", "3", "--ranks-per-node", "2"]
    monkeypatch.setattr(sys, "argv", ["/env/bin/hpcseg", "grid", "--local", *options])
    grid(tiny_dataset, *options, code=1)
    asked = []
    monkeypatch.setattr(local, "run_locally", lambda *_, slots, ranks, **more: asked.append((slots, ranks)) or 1 / 0)
    CliRunner().invoke(app, ["retry"])
    assert asked == [([(), (), ()], 2)]


def test_wishes_for_slurm_are_told_from_those_for_this_machine(job, tiny_dataset):
    said = grid(
        tiny_dataset, "--dry-run", "--mem", "9G", "--time", "60", "--gpus-per-node", "0", "--cells-per-job", "2"
    )
    assert "Note: --mem, --time: asked of Slurm alone" in said


def test_resources_that_are_no_record_are_refused_with_what_is_missing(job, tiny_dataset):
    (job / "tiny.toml").write_text(JOB.replace("[train]", "[train]\nlearning_rate = 1e38"))
    grid(tiny_dataset, code=1)
    (job / "runs/tiny/resources.json").write_text("{}")
    assert "gpus_per_node" in hpcseg("retry", "--dry-run", code=2)


def test_a_cell_that_another_process_runs_is_passed_over(job, tiny_dataset, finished):
    shutil.copytree(finished[0], job / "runs")
    cell = sorted((job / "runs/tiny/cells").iterdir())[0]
    (cell / "evaluation.json").unlink()
    with (cell / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "1x1: run by another process" in grid(tiny_dataset)
    assert not (cell / "evaluation.json").exists()


def test_no_module_of_the_current_folder_is_run_in_place_of_one_of_ours(job, tiny_dataset):
    for number in range(8):  # enough for several processes
        for name, dtype in (("data", "uint16"), ("labels", "uint8")):
            (job / "large" / name).mkdir(parents=True, exist_ok=True)
            pixels = np.arange(2048 * 2048).reshape(2048, 2048) // (1_200_000 + number)
            tifffile.imwrite(job / "large" / name / f"{number}.tif", pixels.astype(dtype))
    for module in ("submitit", "hpcseg", "multiprocessing"):
        (job / f"{module}.py").write_text(f"open({str(job / 'canary')!r}, 'w')\nraise SystemExit('planted')\n")
    console_script = str(Path(sys.executable).with_name("hpcseg"))
    for arguments in (
        ["pack", "large", "-o", "packed.h5"],
        ["grid", "--local", "--job", "tiny.toml", "--data", str(tiny_dataset), "--set", "data.tiles=1x1"],
    ):
        answer = subprocess.run([console_script, *arguments], cwd=job, capture_output=True, text=True, timeout=240)
        assert answer.returncode == 0, answer.stderr
    assert not (job / "canary").exists()


def test_a_cell_of_changed_data_is_another_cell(job, tiny_dataset, tiny_folder):
    hpcseg("pack", str(tiny_folder), "-o", "same.h5")
    (job / "other").mkdir()
    from hpcseg.data.sample import write_sample

    write_sample(job / "other", slices=16, size=128, seed=1)
    hpcseg("pack", str(job / "other"), "-o", "other.h5")

    def planned(dataset) -> list[dict[str, str]]:
        options = ("grid", "--local", "--job", "tiny.toml", "--data", str(dataset), "--dry-run", "--json")
        return json.loads(CliRunner().invoke(app, options).stdout)["cells"]

    assert planned("same.h5") == planned(tiny_dataset), "the same pixels, packed again"
    assert planned("other.h5") != planned(tiny_dataset)


def test_torchrun_trains_a_cell_on_two_ranks(job, tiny_dataset):
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "--", "hpcseg",
        "train", "1x2-*", "--job", "tiny.toml", "--data", str(tiny_dataset), "--run", "here",
    ]  # fmt: skip
    answer = subprocess.run(command, cwd=job, env=os.environ, capture_output=True, text=True, timeout=240)
    assert answer.returncode == 0, answer.stderr
    (record,) = (job / "here/cells").glob("1x2-*/training.json")
    training = json.loads(record.read_text())
    assert (training["world_size"], training["called"]) == (2, "DistributedDataParallel")


def test_of_the_ranks_of_a_training_rank_0_alone_writes_the_plan(job, tiny_dataset, monkeypatch):
    """As torchrun starts rank 1, which comes first here: it waits for what rank 0, still to come, has written."""
    monkeypatch.setattr("hpcseg.runs.alone._SECONDS_FOR_THE_PLAN", 0.5)
    for name, value in (("RUN_ID", "x"), ("RESTART_COUNT", "0")):
        monkeypatch.setenv(f"TORCHELASTIC_{name}", value)
    for name, value in (("RANK", 1), ("LOCAL_RANK", 1), ("WORLD_SIZE", 2), ("LOCAL_WORLD_SIZE", 2)):
        monkeypatch.setenv(name, str(value))
    train = ("train", "1x2-*", "--job", "tiny.toml", "--data", str(tiny_dataset))
    said = hpcseg(*train, code=1)
    assert "Rank 1 waited" in said and not (job / "runs").exists()

    began = []

    def run_cell(folder, stage, **_):
        began.append(stage)
        return State.FINISHED

    monkeypatch.setattr("hpcseg.runs.alone.run_cell", run_cell)
    monkeypatch.setenv("RANK", "0")
    hpcseg(*train)
    before = {path: path.stat().st_mtime_ns for path in job.glob("runs/**/*.json")}
    monkeypatch.setenv("RANK", "1")
    hpcseg(*train)
    assert began == ["train", "evaluate"] * 2
    assert {path: path.stat().st_mtime_ns for path in job.glob("runs/**/*.json")} == before
    said = hpcseg(*train, "--set", "evaluate.table_sigma=1", code=1)
    assert "Rank 1 waited" in said, "the settings of an earlier plan are not this one's"
