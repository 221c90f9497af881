"""How much memory a process may take: the host's, and that of its control group of either version."""

from __future__ import annotations

import pytest

from hpcseg import memory

NO_LIMIT = 2**63 - 4096  # how version 1 says it
GROUPS = {
    "version 2": (
        "0::/system.slice/slurmstepd.scope/job_7/step_0",
        "system.slice/slurmstepd.scope/job_7",
        "memory.max",
    ),
    "version 1": (
        "5:cpu,cpuacct:/slurm/job_7\n4:memory:/slurm/uid_1/job_7/step_0\n0::/",
        "memory/slurm/uid_1/job_7",
        "memory.limit_in_bytes",
    ),
}


@pytest.fixture(params=GROUPS)
def group(request, tmp_path, monkeypatch):
    """The folder of a job's control group, in which the process's own step is, and the name of its limit."""
    said, job, name = GROUPS[request.param]
    (tmp_path / "self").write_text(f"{said}\n")
    folder = tmp_path / "cgroup" / job
    (folder / "step_0").mkdir(parents=True)
    (folder / "step_0" / name).write_text("max\n" if name == "memory.max" else f"{NO_LIMIT}\n")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "self")
    monkeypatch.setattr(memory, "_ROOT", tmp_path / "cgroup")
    memory._limit_files.cache_clear()
    yield folder, name
    memory._limit_files.cache_clear()


def test_the_limit_of_the_job_counts_also_where_its_step_has_none(group):
    folder, name = group
    (folder / name).write_text(f"{64 * 2**20}\n")
    assert memory.free_host_bytes() == 64 * 2**20


def test_without_a_limit_it_is_the_host_s(group):
    folder, name = group
    (folder / name).write_text((folder / "step_0" / name).read_text())
    assert 2**20 < memory.free_host_bytes() < 2**50
