"""`hpcseg doctor` on a real Slurm: all is well, and then each of some planted faults is found with its remedy."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from conftest import slurm

pytestmark = pytest.mark.slurm

# A node that binds every rank to one core, and one whose PATH has nothing of Slurm but what the script itself needs.
BOUND = (
    "d=$(mktemp -d); echo 'import os; os.sched_setaffinity(0, {0})' > $d/sitecustomize.py; "
    "export PYTHONPATH=$d:$PYTHONPATH"
)
BARE = "d=$(mktemp -d); ln -s $(which srun) $d/srun; export PATH=$d"
WELL = ("--job", "smoke", "--profile", "testcluster")


@pytest.fixture
def doctor(cluster):
    """Runs the doctor and returns its exit code and its checks by name; its text where it is asked for."""

    def look(*options: str, text: bool = False, **environment: str):
        command = [sys.executable, "-m", "hpcseg", "doctor", *WELL, "--run", "runs", *options]
        if not text:
            command.append("--json")
        answer = subprocess.run(
            command, cwd=cluster.folder, env={**os.environ, **environment}, capture_output=True, text=True, timeout=200
        )
        assert "Traceback" not in answer.stderr, answer.stderr
        if text:
            return answer.returncode, answer.stdout
        return answer.returncode, {check["name"]: check for check in json.loads(answer.stdout)["checks"]}

    return look


def unwell(checks: dict) -> list[str]:
    return [f"{name}: {check['text']}" for name, check in checks.items() if check["verdict"] != "ok"]


def failures(checks: dict) -> dict[str, str]:
    failed = {name: check for name, check in checks.items() if check["verdict"] == "failed"}
    return {name: f"{check['text']} -> {check['remedy']}" for name, check in failed.items()}


def test_a_cluster_that_is_well_passes_on_two_nodes_and_nothing_is_left_behind(cluster, doctor):
    code, checks = doctor("--nodes", "2", "--data", str(cluster.dataset))
    assert unwell(checks) == [] and code == 0
    assert checks["Ranks"]["text"] == "2 ranks meet and add up right." and "Data set" in checks
    assert list((cluster.folder / "runs").iterdir()) == []


def test_what_is_printed_names_what_to_run_next(doctor):
    code, said = doctor("--no-job", text=True)
    assert code == 0 and "Nothing stands in the way" in said and "not checked Compute node" in said


@pytest.mark.parametrize(
    ("options", "name", "words", "remedy"),
    [
        (["--partition", "gpuu"], "Partition", 'no partition "gpuu". There are gpu, high, low', "--partition"),
        (["--account", "nobodys", "--partition", "gpuu"], "A cell's job", "sbatch refuses it", "--partition"),
        (["--gpus-per-node", "3"], "A cell's job", "sbatch refuses it", "--gpus-per-node"),
        (["--mem", "900"], "A cell's job", "sbatch refuses it", "--mem"),
    ],
)
def test_what_sbatch_would_refuse_is_found_before_it_does(doctor, options, name, words, remedy):
    code, checks = doctor("--no-job", *options)
    found = failures(checks)
    assert code == 4 and words in found[name] and remedy in found[name].split("->")[1], found


def test_a_report_that_sbatch_would_refuse_is_found_as_well(doctor, tmp_path):
    site = tmp_path / "site.toml"
    site.write_text(
        'partition = "gpu"\ngpu_syntax = "gres"\ncpus_per_task = 1\nmem = "2G"\n'
        '[sbatch]\nnice = 5\nmail-type = "NONE"\n[report]\npartition = "cpus"\n'
    )
    code, checks = doctor("--no-job", "--profile", str(site))
    found = failures(checks)
    assert code == 4 and list(found) == ["The report's job"] and "[report]" in found["The report's job"].split("->")[1]
    site.write_text(site.read_text().replace('"cpus"', '"low"'))
    code, checks = doctor("--no-job", "--profile", str(site))
    assert code == 0, unwell(checks)


@pytest.mark.parametrize(
    ("options", "name", "words", "remedy"),
    [
        (["--gpus-per-node", "1"], "GPUs", "built for CPUs", "--gpus-per-node 0"),
        (["--cpus-per-task", "2", "--setup", BOUND], "Cores", "1 of the 2 cores", "--cpus-per-task"),
        (["--setup", BARE], "Requeue from a node", "no scontrol on its PATH", "--setup"),
        (["--setup", "export PYTHONHOME=/nowhere"], "Compute node", "did not get to their end", "--setup"),
        (["--setup", "exit 1"], "Compute node", "left nothing in", "[paths]"),
    ],
)
def test_what_is_wrong_on_a_node_is_found_by_a_short_job(doctor, options, name, words, remedy):
    code, checks = doctor(*options)
    found = failures(checks)
    assert code == 4 and name in found, unwell(checks)
    assert words in found[name] and remedy in found[name].split("->")[1], found


def test_a_run_folder_that_cannot_be_written_to_is_named(doctor):
    # /proc takes no files, not even root's.
    code, checks = doctor("--run", "/proc/runs")
    assert code == 4 and "cannot be written to" in failures(checks)["Run folder"]


def test_a_sacct_that_hangs_is_a_warning(doctor, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sacct").write_text("#!/bin/sh\nexec sleep 1000\n")
    (tmp_path / "bin" / "sacct").chmod(0o755)
    code, checks = doctor("--no-job", PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert code == 0 and checks["Accounting"]["verdict"] == "warning" and "longer than" in checks["Accounting"]["text"]


def test_a_job_that_waits_is_no_failure_and_is_taken_back(doctor):
    everything = ("--partition=gpu", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 60")
    blocker = slurm("sbatch", "--parsable", *everything)
    try:
        code, checks = doctor("--wait", "6")
    finally:
        slurm("scancel", blocker.strip())
    assert code == 0 and checks["Compute node"]["verdict"] == "not checked"
    assert "waits (" in checks["Compute node"]["text"] and "--wait" in checks["Compute node"]["remedy"]
    assert "hpcseg-doctor PENDING" not in slurm("squeue", "--noheader", "--format=%j %T")
