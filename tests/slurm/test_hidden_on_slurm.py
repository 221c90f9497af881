"""A real Slurm that hides things: no job is doubled, none that lives is called dead, and doctor names the cure."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Cluster, job_text

from hpcseg.runs.record import read_lines

pytestmark = pytest.mark.slurm

# A cell that takes longer than anybody waits for it.
JOB = job_text(epochs=100_000)
SITE = 'partition = "gpu"\ngpu_syntax = "gres"\ncpus_per_task = 1\nmem = "2G"\n'
# Jobs that stay in the queue, so that nothing has to run.
WAITING = SITE + '[sbatch]\nbegin = "now+1hour"\n'


PATH = os.environ["PATH"]


def slurm(*command: str) -> str:
    """What a command says, also where it is switched off for hpcseg."""
    environment = {**os.environ, "PATH": PATH}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout


def switched_off(folder: Path, *names: str) -> str:
    """A PATH on which these commands are there, and only fail."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in names:
        (folder / name).write_text(f"#!/bin/sh\necho '{name}: not for users' >&2; exit 1\n")
        (folder / name).chmod(0o755)
    return f"{folder}:{PATH}"


@pytest.fixture
def off(tmp_path, monkeypatch):
    """Takes commands from the user for the rest of a test."""
    return lambda *names: monkeypatch.setenv("PATH", switched_off(tmp_path / "off", *names))


@pytest.fixture
def run(cluster):
    """Submits the smoke job with a profile, and takes its jobs out of the queue in the end."""

    def submit(profile: str, *options: str) -> str:
        (cluster.folder / "site.toml").write_text(profile)
        command = ["grid", "--slurm", "--job", "smoke", "--data", str(cluster.dataset), "--run", "run"]
        return cluster.hpcseg(*command, "--profile", "site.toml", "--time", "10", *options)

    yield submit
    for job in slurm("squeue", "--noheader", "--format=%F|%o").splitlines():
        job_id, _, script = job.partition("|")
        if script.startswith(f"{cluster.folder}/"):
            slurm("scancel", job_id)


def doctor(cluster: Cluster, *options: str) -> dict[str, dict[str, str]]:
    """Its checks by name, of a small job; the exit code is not looked at."""
    command = [sys.executable, "-m", "hpcseg", "doctor", "--job", "smoke", "--run", "runs", "--json", *options]
    answer = subprocess.run(command, cwd=cluster.folder, capture_output=True, text=True, timeout=200)
    assert answer.stdout.startswith("{"), answer.stderr
    return {check["name"]: check for check in json.loads(answer.stdout)["checks"]}


def in_queue(cluster: Cluster) -> list[str]:
    lines = slurm("squeue", "--noheader", "--format=%F|%o").splitlines()
    return [line.split("|")[0] for line in lines if f"|{cluster.folder}/run/" in line]


def goes_on_in_a_second_job(cluster: Cluster) -> None:
    """Waits until the report job has submitted the one cell again, and takes all out of the queue."""
    try:
        cluster.wait("a second job", lambda: len(cluster.jobs("run")) == 2, seconds=120)
    finally:
        slurm("scancel", *in_queue(cluster))
    (cell,) = (cluster.folder / "run/cells").iterdir()
    assert [event["event"] for event in read_lines(cell / "events.jsonl") if event["event"] != "epoch"][1:2] == ["stop"]


def test_whatever_is_switched_off_nothing_is_submitted_twice_and_nothing_is_dead(cluster, run, off):
    off("squeue", "sacct", "scontrol")
    assert "Submitted 3 jobs" in run(WAITING)
    jobs = in_queue(cluster)
    assert len(jobs) == 2
    # A job that may not begin yet is not in the accounting: that sacct has no word of it says nothing.
    for names in (("squeue", "scontrol"), ("squeue", "sacct", "scontrol")):
        off(*names)
        said = run(WAITING)
        assert "Nothing to submit" in said and in_queue(cluster) == jobs, f"{names}: {said}"
        assert not {"failed", "stopped"} & set(cluster.states("run").values()), names
    checks = doctor(cluster, "--profile", "site.toml", "--no-job")
    assert checks["Controller"]["verdict"] == "warning" and "tries = 20" in checks["Controller"]["remedy"]
    assert "let users run squeue" in checks["Queue"]["remedy"] and checks["Accounting"]["verdict"] == "warning"
    assert "max_array_size in a profile" in checks["Site's settings"]["remedy"]
    assert checks["A cell's job"]["verdict"] == "ok"


def test_a_cell_whose_node_may_not_requeue_it_is_submitted_again_and_goes_on(cluster):
    without = ("--setup", f"export PATH={switched_off(cluster.folder / 'off', 'scontrol')}")
    (cluster.folder / "one.toml").write_text(JOB)
    cluster.grid("one.toml", "run", *without)
    (cell,) = (cluster.folder / "run/cells").iterdir()
    cluster.wait("the first epoch", lambda: (cell / "metrics.jsonl").exists())
    slurm("scancel", "--signal=USR2", cluster.jobs("run")[0])  # as before a time limit
    goes_on_in_a_second_job(cluster)
    check = doctor(cluster, "--profile", "testcluster", *without)["Requeue from a node"]
    assert check["verdict"] == "warning" and "tries = 20" in check["remedy"], check


@pytest.fixture
def cluster_with() -> Iterator[Callable[..., None]]:
    """Changes lines of slurm.conf, and puts them back in the end."""
    conf = Path(os.environ["SLURM_CONF"])
    before = conf.read_text()

    def change(text: str) -> None:
        # A slurmd that reads half a file ends.
        (aside := conf.with_suffix(".aside")).write_text(text)
        aside.replace(conf)
        slurm("scontrol", "reconfigure")

    yield lambda old, new: change(re.sub(old, new, before, flags=re.MULTILINE))
    change(before)


def test_where_preemption_ends_a_job_its_cell_is_submitted_again_and_goes_on(cluster, cluster_with):
    # Nor is the job told before.
    cluster_with(
        "^(SlurmctldParameters=.*|PartitionName=low .*)$",
        lambda line: "PartitionName=low PriorityTier=1 PreemptMode=CANCEL" if "low" in line[1] else "",
    )
    (cluster.folder / "one.toml").write_text(JOB)
    (cluster.folder / "low.toml").write_text(SITE.replace('"gpu"', '"low"', 1) + '[report]\npartition = "high"\n')
    cluster.grid("one.toml", "run", "--profile", "low.toml", "--exclude", "n1")
    (cell,) = (cluster.folder / "run/cells").iterdir()
    cluster.wait("the first epoch", lambda: (cell / "metrics.jsonl").exists())
    everything = ("--partition=high", "--nodelist=n2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    slurm("sbatch", *everything)
    goes_on_in_a_second_job(cluster)
    check = doctor(cluster, "--profile", "low.toml", "--no-job")["Preemption"]
    assert check["verdict"] == "warning" and "PreemptMode=CANCEL" in check["text"]
    assert "tries = 20" in check["remedy"] and "[report]" in check["remedy"]


@pytest.fixture
def colleague(monkeypatch):
    """Runs hpcseg in a folder that another user may read, as that user."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)

    def hpcseg(*arguments: str) -> str:
        as_nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
        environment = {**os.environ, "HOME": "/nonexistent", "LOGNAME": "nobody", "USER": "nobody"}
        command = [*as_nobody, sys.executable, "-P", "-m", "hpcseg", *arguments]
        answer = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
        if "Permission denied" in answer.stderr or "No module named" in answer.stderr:
            pytest.skip(f"another user cannot run this hpcseg: {answer.stderr}")
        return answer.stdout

    yield folder, hpcseg
    shutil.rmtree(folder)


def test_a_colleagues_job_that_is_not_shown_is_not_dead(cluster, run, cluster_with, colleague, monkeypatch):
    cluster_with(r"\Z", "PrivateData=jobs\n")
    folder, as_colleague = colleague
    cluster.folder = folder
    run(WAITING)
    cells = json.loads(as_colleague("status", "--run", "run", "--json"))["cells"]
    assert {cell["state"] for cell in cells} <= {"queued", "unknown"}, "the accounting may tell of others' jobs"
    monkeypatch.setenv("PATH", switched_off(folder / "off", "sacct"))
    cells = json.loads(as_colleague("status", "--run", "run", "--json"))["cells"]
    monkeypatch.setenv("PATH", PATH)
    assert [cell["state"] for cell in cells] == ["unknown", "unknown"]
    assert all("another user's" in cell["note"] and "PrivateData" in cell["note"] for cell in cells)
    check = doctor(cluster, "--profile", "site.toml", "--no-job")["Jobs of others"]
    assert check["verdict"] == "warning" and "the run's owner sees more" in check["remedy"]


@pytest.fixture
def submit_filter(tmp_path, monkeypatch):
    """A filter in front of sbatch, as a site has it: lines of Lua that look at `options`."""
    real, folder = Path(os.environ["SLURM_CONF"]), tmp_path / "filtered"
    folder.mkdir()
    (folder / "slurm.conf").write_text(f"{real.read_text()}\nCliFilterPlugins=lua\n")

    def put(lines: str) -> None:
        (folder / "cli_filter.lua").write_text(
            "function slurm_cli_setup_defaults(options, early) return slurm.SUCCESS end\n"
            "function slurm_cli_post_submit(offset, job, step) return slurm.SUCCESS end\n"
            "function slurm_cli_pre_submit(options, offset)\n"
            f'if options["type"] == "sbatch" then\n{lines}\nend\nreturn slurm.SUCCESS end\n'
        )
        monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))

    return put


def test_what_a_submit_filter_refuses_is_said_in_its_own_words(cluster, submit_filter):
    submit_filter('slurm.log_error("say what it is for, with --wckey"); return slurm.ERROR')
    command = ["grid", "--slurm", "--job", "smoke", "--data", str(cluster.dataset), "--run", "run"]
    answer = subprocess.run(
        [sys.executable, "-m", "hpcseg", *command, "--profile", "testcluster"],
        cwd=cluster.folder, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert answer.returncode == 4 and "say what it is for, with --wckey" in answer.stderr, answer.stderr
    assert in_queue(cluster) == []
    submit_filter('slurm.log_error("say what it is for"); return slurm.ERROR')
    check = doctor(cluster, "--profile", "testcluster", "--no-job")["A cell's job"]
    assert check["verdict"] == "failed" and "say what it is for" in check["text"]
    assert "submit filter" in check["remedy"] and "[sbatch]" in check["remedy"]


def test_what_a_submit_filter_changes_is_named_and_doubles_nothing(cluster, run, submit_filter, off, tmp_path):
    submit_filter('options["comment"] = "charged to physics"; options["time"] = "2"; options["requeue"] = "0"')
    check = doctor(cluster, "--profile", "testcluster")["Submit filter"]
    assert check["verdict"] == "warning" and "00:02:00" in check["text"] and "the comment is another" in check["text"]
    assert "in a profile" in check["remedy"]
    # The job is taken, and the answer gets lost.
    off("sbatch")
    (tmp_path / "off" / "sbatch").write_text(
        f'#!/bin/sh\nPATH="{PATH}" sbatch "$@"; echo "sbatch: error: Socket timed out on send/recv" >&2; exit 1\n'
    )
    with pytest.raises(AssertionError, match="does not answer"):
        run(WAITING)
    off()
    jobs = in_queue(cluster)
    with pytest.raises(AssertionError, match=f"scancel {jobs[0]}"):
        run(WAITING)
    assert in_queue(cluster) == jobs and len(jobs) == 1
    slurm("scancel", *jobs)
    assert "Submitted 3 jobs" in run(WAITING)


@pytest.fixture
def elsewhere(cluster, tmp_path):
    """A folder that this user sees as `here` and the nodes as `there`: neither has it under the other's name."""
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    mount = f'mount --bind "{there}" "{here}" && mount -t tmpfs none "{there}" && cd "{here}" && exec "$@"'
    mounted = ["unshare", "--mount", "sh", "-c", mount, "sh"]
    if subprocess.run([*mounted, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount")
    shutil.copy(cluster.dataset, there / "data.h5")

    def hpcseg(*arguments: str) -> str:
        command = [*mounted, sys.executable, "-m", "hpcseg", *arguments]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=200)
        return answer.stdout + answer.stderr

    return there, hpcseg, f'[paths]\n"{here}" = "{there}"\n'


def test_a_folder_that_nodes_see_under_another_name_works_once_the_profile_says_so(cluster, elsewhere):
    there, hpcseg, paths = elsewhere
    (there / "site.toml").write_text(SITE + paths)
    asked = ("--job", "smoke", "--profile", "site.toml", "--data", "data.h5")
    said = hpcseg("grid", "--slurm", *asked, "--run", "run", "--time", "10")
    assert "Submitted 3 jobs" in said, said
    report = there / "run/report/tables.md"
    cluster.folder = there
    cluster.wait("the report", report.exists, seconds=180)
    assert set(cluster.states("run").values()) == {"finished"}, cluster.logs("run")
