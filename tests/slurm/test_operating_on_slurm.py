"""What a user does to a grid in a real Slurm: cancel, retry, two grids at once, a silent accounting, a failing cell."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import job_text, slurm

pytestmark = pytest.mark.slurm

# Two cells that take a while, one of which has a learning rate at which the loss overflows.
JOB = job_text(epochs=20, grid="train.learning_rate = [0.001, 1e30]")


def test_one_failed_cell_stops_no_other_and_says_why(cluster):
    (cluster.folder / "two.toml").write_text(JOB)
    cluster.grid("two.toml", "run")
    cluster.wait_left("run", seconds=300)
    cells = {cell["cell"]: cell for cell in json.loads(cluster.hpcseg("status", "--run", "run", "--json"))["cells"]}
    good, bad = sorted(cells, key=lambda name: "learning-rate" in name)
    assert cells[good]["state"] == "finished"
    assert cells[bad]["state"] == "failed" and "loss not finite" in cells[bad]["note"]
    said = cluster.hpcseg("logs", "--run", "run", "--failed")
    assert bad in said and "Lower train.learning_rate" in said and "The training loss became" in said
    assert len(cluster.jobs("run")) == 2, "what the user has to mend is not tried again unasked"
    report = (cluster.folder / "run/report/tables.md").read_text()
    assert bad in report
    assert "Submitted 2 jobs" in cluster.hpcseg("retry", "--run", "run"), "but the user may, and one cell it is"
    cluster.wait_left("run", seconds=300)


def test_a_cancelled_cell_stays_away_until_it_is_asked_for_and_goes_on_then(cluster):
    long = JOB.replace(", 1e30", "").replace("epochs = 20", "epochs = 60")
    (cluster.folder / "one.toml").write_text(long)
    cluster.grid("one.toml", "run")
    cell = next((cluster.folder / "run/cells").iterdir())
    cluster.wait("the first epoch", lambda: (cell / "metrics.jsonl").exists())
    assert "Cancelled 1 cell." in cluster.hpcseg("cancel", "--run", "run", "*")
    cluster.wait_left("run")
    assert cluster.states("run") == {cell.name: "cancelled"}
    assert len(cluster.jobs("run")) == 1
    cluster.hpcseg("retry", "--run", "run")
    cluster.wait_finished("run")
    cluster.wait_left("run")


def test_a_waiting_task_that_a_person_takes_out_of_the_queue_stays_out_until_it_is_asked_for(cluster):
    (cluster.folder / "two.toml").write_text(JOB.replace("1e30", "0.002").replace("epochs = 20", "epochs = 30"))
    cluster.grid("two.toml", "run", "--throttle", "1")
    first, second = cluster.jobs("run")
    cluster.wait("its start", lambda: slurm("squeue", "--noheader", f"--jobs={first}", "--format=%T") == "RUNNING\n")
    slurm("scancel", second)
    cluster.wait_left("run", seconds=300)
    assert sorted(cluster.states("run").values()) == ["cancelled", "finished"]
    assert cluster.jobs("run") == [first, second], "the report job has left it alone"
    assert "before it began" in cluster.hpcseg("status", "--run", "run")
    cluster.grid("two.toml", "run")
    assert len(cluster.jobs("run")) == 3
    cluster.wait_finished("run")
    cluster.wait_left("run")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('python = "/nosuch/python"', "exit code 2: slurmstepd-"),
        # The report job has the same setup.
        (
            """setup = ['case $SLURM_JOB_NAME in *report);; *) source /nosuch/activate || exit 7;; esac']""",
            "exit code 7: ",
        ),
    ],
)
def test_a_job_whose_setup_or_python_is_wrong_says_so_and_is_not_tried_again(cluster, line, says):
    (cluster.folder / "two.toml").write_text(JOB)
    site = 'partition = "gpu"\ngpu_syntax = "gres"\ncpus_per_task = 1\nmem = "1G"\n'
    (cluster.folder / "site.toml").write_text(f"{site}{line}\n")
    cluster.grid("two.toml", "run", "--profile", "site.toml")
    cluster.wait_left("run")
    cells = json.loads(cluster.hpcseg("status", "--run", "run", "--json"))["cells"]
    for cell in cells:
        cluster.accounted(cell["job_id"])
    cells = json.loads(cluster.hpcseg("status", "--run", "run", "--json"))["cells"]
    assert {cell["state"] for cell in cells} == {"failed"}
    notes = [cell["note"] for cell in cells]
    assert all(note.startswith(f"ended before hpcseg began: {says}") for note in notes), notes
    assert all("/nosuch/" in note for note in notes), notes
    assert len(cluster.jobs("run")) == 2, "what the user has to mend is not tried again unasked"


def test_a_cell_that_slurm_kills_for_its_memory_is_named_and_goes_on_with_more(cluster):
    (cluster.folder / "one.toml").write_text(JOB.replace(", 1e30", ""))
    # torch alone takes more than this.
    cluster.grid("one.toml", "run", "--mem", "0.15")
    cluster.wait_left("run", seconds=300)
    (cell,) = json.loads(cluster.hpcseg("status", "--run", "run", "--json"))["cells"]
    assert cell["state"] == "failed" and "out of host memory" in cell["note"], cluster.logs("run")
    said = cluster.hpcseg("logs", "--run", "run", "--failed")
    # In the kernel's words where there are cgroups, else in those of Slurm's accounting.
    assert ("Out Of Memory" in said or "exceeded memory limit" in said) and "hpcseg retry --mem" in said
    assert len(cluster.jobs("run")) == 1, "what would be killed again is not tried again unasked"
    cluster.hpcseg("retry", "--run", "run", "--mem", "2")
    cluster.wait_finished("run")
    cluster.wait_left("run")


def test_a_cell_that_slurm_kills_for_its_memory_gets_more_by_itself_where_the_profile_lets_it(cluster):
    (cluster.folder / "one.toml").write_text(JOB.replace(", 1e30", ""))
    (cluster.folder / "site.toml").write_text(
        'partition = "gpu"\ngpu_syntax = "gres"\ncpus_per_task = 1\nmem = "150M"\nmax_mem = "4G"\ntries = 6\n'
    )
    cluster.grid("one.toml", "run", "--profile", "site.toml")
    cluster.wait_finished("run", seconds=400)
    cluster.wait_left("run")
    (cell,) = (cluster.folder / "run/cells").iterdir()
    events = [json.loads(line) for line in (cell / "events.jsonl").read_text().splitlines()]
    asked = [line["memory_gib"] for line in events if line["event"] == "escalated"]
    first = 150 / 1024
    assert asked and asked == pytest.approx([first * 2 ** (times + 1) for times in range(len(asked))])


def test_two_grids_at_one_moment_submit_every_cell_once(cluster):
    command = [
        sys.executable, "-m", "hpcseg", "grid", "--slurm", "--job", "smoke", "--data", str(cluster.dataset),
        "--profile", "testcluster", "--run", "run", "--time", "10",
    ]  # fmt: skip
    calls = [subprocess.Popen(command, cwd=cluster.folder, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [call.communicate(timeout=120)[0] for call in calls]
    assert [call.returncode for call in calls] == [0, 0, 0]
    assert sorted("Submitted 3 jobs" in text for text in said) == [False, False, True]
    assert len(cluster.jobs("run")) == 2
    cluster.wait_finished("run")
    cluster.wait_left("run")


@pytest.fixture
def accounting_asleep():
    """slurmdbd stopped in its tracks: what asks it hangs."""
    pid = int((Path(os.environ["SLURM_CONF"]).parent / "slurmdbd.pid").read_text())
    assert Path(f"/proc/{pid}/comm").read_text().strip() == "slurmdbd"
    os.kill(pid, signal.SIGSTOP)
    yield
    os.kill(pid, signal.SIGCONT)


def test_everything_works_with_slurmdbd_stopped_so_that_sacct_hangs(cluster, accounting_asleep):
    (cluster.folder / "two.toml").write_text(JOB.replace("epochs = 20", "epochs = 2"))
    started = time.monotonic()
    cluster.grid("two.toml", "run")
    cluster.hpcseg("status", "--run", "run")
    assert time.monotonic() - started < 90
    cluster.wait_left("run", seconds=300)
    states = cluster.states("run")
    assert sorted(states.values()) == ["failed", "finished"], states
    assert "Submitted 2 jobs" in cluster.hpcseg("retry", "--run", "run")
    cluster.wait_left("run", seconds=300)
    cluster.hpcseg("report", "--run", "run")
