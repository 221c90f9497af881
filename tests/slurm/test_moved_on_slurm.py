"""A run in a real Slurm whose folder is copied or moved, or whose settings are changed, while its jobs run."""

from __future__ import annotations

import shutil

import pytest
from conftest import job_text, slurm

pytestmark = pytest.mark.slurm

# Until it is cancelled.
JOB = job_text(epochs=100_000, width=2, grid="")


def _begun(cluster, run: str) -> None:
    def runs() -> bool:
        return any((cluster.folder / run).glob("cells/*/metrics.jsonl"))

    cluster.wait(f"an epoch of {run}", runs)


def _in_queue(*jobs: str) -> set[str]:
    return set(jobs) & set(slurm("squeue", "--noheader", "--format=%i").split())


def test_a_copy_leaves_the_job_alone_and_a_moved_run_has_its_job_stop_and_make_nothing_anew(cluster):
    (cluster.folder / "one.toml").write_text(JOB)
    cluster.grid("one.toml", "run")
    (job,) = cluster.jobs("run")
    _begun(cluster, "run")
    shutil.copytree(cluster.folder / "run", cluster.folder / "copy")
    assert set(cluster.states("copy").values()) == {"stopped"}
    assert "None of these cells waits or runs" in cluster.hpcseg("cancel", "--run", "copy")
    assert set(cluster.states("run").values()) == {"running"} and _in_queue(job) == {job}
    (cluster.folder / "run").rename(cluster.folder / "moved")
    cluster.wait("the end of the job", lambda: not _in_queue(job))
    assert not (cluster.folder / "run").exists()
    assert "run was moved or removed while this cell ran" in cluster.logs("moved")
    assert "Submitted 2 jobs" in cluster.grid("one.toml", "moved"), "where the run is now, it goes on"
    _begun(cluster, "moved")
    cluster.hpcseg("cancel", "--run", "moved")
    cluster.wait_left("moved")


def test_jobs_of_earlier_settings_are_seen_kept_by_clean_and_cancelled_with_the_rest(cluster):
    (cluster.folder / "one.toml").write_text(JOB)
    cluster.grid("one.toml", "run")
    cluster.grid("one.toml", "run", "--set", "train.epochs=100001")
    jobs = cluster.jobs("run")
    assert len(jobs) == 2 and len(cluster.states("run")) == 2
    reports = [line["job"] for line in cluster._submitted("run") if not line["cells"]]
    assert _in_queue(*jobs, *reports) == {*jobs, *reports}
    assert "Cancelled 2 cells" in cluster.hpcseg("cancel", "--run", "run")
    cluster.wait("the end of all", lambda: not _in_queue(*jobs, *reports), seconds=60)
