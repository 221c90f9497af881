"""The smoke grid through a real Slurm: an array, a report behind it, and nothing submitted twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tifffile

from hpcseg.data.store import read_slices

pytestmark = pytest.mark.slurm


def test_a_grid_trains_evaluates_and_reports_and_is_submitted_once(cluster):
    said = cluster.grid("smoke", "runs/smoke")
    assert "Submitted 3 jobs" in said  # two cells, one report
    jobs = cluster.jobs("runs/smoke")
    assert [job.split("_")[1] for job in jobs] == ["0", "1"], "an array from index 0"
    assert "Nothing to submit" in cluster.grid("smoke", "runs/smoke"), "while the first runs"

    cluster.wait_finished("runs/smoke")
    cluster.wait_left("runs/smoke")
    report = cluster.folder / "runs/smoke/report/tables.md"
    assert report.exists(), cluster.logs("runs/smoke")
    assert cluster.accounted(jobs[0].split("_")[0]) == ["COMPLETED", "COMPLETED"]

    assert "Nothing to submit" in cluster.grid("smoke", "runs/smoke"), "after it has finished"
    cell = next((cluster.folder / "runs/smoke/cells").glob("*p050*"))
    (cell / "evaluation.json").unlink()
    before = (cell / "training.json").read_bytes()
    said = cluster.grid("smoke", "runs/smoke")
    assert "Submitted 2 jobs" in said and "p050: job" in said  # its evaluation, and the report anew
    cluster.wait_finished("runs/smoke")
    assert (cell / "training.json").read_bytes() == before
    cluster.wait_left("runs/smoke")


def test_two_nodes_train_one_cell_together(cluster):
    cluster.grid("smoke", "runs/two", "--nodes", "2")
    cluster.wait_finished("runs/two")
    for cell in (cluster.folder / "runs/two/cells").iterdir():
        training = json.loads((cell / "training.json").read_text())
        assert (training["world_size"], training["called"]) == (2, "DistributedDataParallel")
        assert json.loads((cell / "evaluation.json").read_text())["world_size"] == 2
    assert cluster.accounted(cluster.jobs("runs/two")[0], field="NNodes") == ["2"]
    cluster.wait_left("runs/two")


def test_a_dry_run_shows_the_scripts_and_leaves_nothing_behind(cluster):
    said = cluster.grid("smoke", "runs/dry", "--dry-run", "--setup", "module load cuda", "--throttle", "1")
    assert "#SBATCH --array=0-1%1" in said and "afterany:" in said and "\nmodule load cuda\n" in said
    assert "--kill-on-bad-exit=1" in said and "--cpus-per-task=1 " in said and "wckey" not in said
    assert not (cluster.folder / "runs").exists()


def waiting(folder: Path) -> str:
    """A profile whose jobs begin in an hour."""
    (folder / "waiting.toml").write_text('cpus_per_task = 1\nmem = "2G"\n[sbatch]\nbegin = "now+1hour"\n')
    return "waiting.toml"


def test_a_trained_cell_segments_a_volume_in_parts_and_a_job_joins_them(cluster):
    pixels, _ = read_slices(cluster.dataset, 0, 6)
    tifffile.imwrite(cluster.folder / "scan.tif", pixels, photometric="minisblack")
    cluster.hpcseg("train", "*p050*", "--job", "smoke", "--data", str(cluster.dataset), "--run", "one")
    (cell,) = (path for path in (cluster.folder / "one/cells").glob("*p050*"))
    command = ("predict", str(cell), "scan.tif", "--precision", "fp32")
    # The cluster's GPUs are none, and a part that asks for one does not compute on the CPU instead.
    resources = ("--gpus-per-node", "0", "--parts", "3", "--time", "5")
    into = (*command, "-o", "parts", "--profile")
    on_slurm = (*into, "testcluster", *resources)

    def parts() -> dict[str, dict]:
        return {
            part["part"]: part for part in json.loads(cluster.hpcseg("status", "--run", "parts", "--json"))["parts"]
        }

    # They wait for an hour; then a shell fails before hpcseg begins.
    assert "Submitted 4 jobs" in cluster.hpcseg(*into, waiting(cluster.folder), *resources)
    assert {part["state"] for part in parts().values()} == {"queued"}
    assert "part-2-of-3: job" in cluster.hpcseg("cancel", "--run", "parts")
    cluster.wait("the end of all", lambda: {part["state"] for part in parts().values()} == {"cancelled"})
    assert "Submitted 4 jobs" in cluster.hpcseg(*on_slurm, "--setup", "echo no such module; exit 7")
    # The accounting learns exit codes a moment after the queue knows of an end.
    ended = {("failed", "error: exit code 7: no such module"), ("missing", "it comes when all slices are written")}
    cluster.wait("their failure", lambda: {(part["state"], part["note"]) for part in parts().values()} == ended)
    assert "no such module" in cluster.hpcseg("logs", "--failed", "--run", "parts")
    assert "Submitted 4 jobs" in cluster.hpcseg(*on_slurm)
    cluster.wait("the joined labels", lambda: {part["state"] for part in parts().values()} == {"finished"})
    assert [part["written"] for part in parts().values()] == [2, 2, 2, 0]
    cluster.hpcseg(*command, "-o", "whole")
    for name in ("labels.tif", "fractions.csv"):
        joined, whole = (cluster.folder / out / name for out in ("parts", "whole"))
        assert joined.read_bytes() == whole.read_bytes()
    assert "parts" in cluster.hpcseg(*on_slurm), "the same command shows the result"
