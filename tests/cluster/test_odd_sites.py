"""Sites where users, their variables, the queue or the disk are odd: nothing is doubled, lost or unseen."""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import shutil
import socket
import subprocess
import sys
import time

import pytest
import submitit
from fake_slurm import resources, send
from slice_folder import hpcseg

from hpcseg.cluster import doctor, ledger, local, scheduler
from hpcseg.cluster.doctor_node import check_node
from hpcseg.cluster.local import run_locally
from hpcseg.cluster.profile import Profile, load_profile, resolve
from hpcseg.cluster.states import run_status
from hpcseg.cluster.submit import submit_missing
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.grid import read_grid, write_plan
from hpcseg.runs.record import append_event, write_json
from hpcseg.runs.wish import Wish, leave_out


def fail(grid, index):
    folder = grid.cells[index].folder
    append_event(folder.events_file, "start")
    write_json(folder.failure_file, {"error": "ValueError: no", "rank": 0, "host": "n1", "time": time.time()})


@pytest.fixture
def process(grid):
    """Makes a process of this machine that has the first cell of a run, as its lock and its heartbeat say."""
    made = []

    def make(run):
        folder = read_grid(run).cells[0].folder
        append_event(folder.events_file, "start")
        folder.lock_file.touch()
        holding = f"file = open({str(folder.lock_file)!r}); import time; print('.', flush=True); time.sleep(60)"
        found = subprocess.Popen([sys.executable, "-c", holding], stdout=subprocess.PIPE)
        made.append(found)
        found.stdout.read(1)
        beat = {"stage": "train", "epoch": 1, "epochs": 2, "step": 1, "steps_per_epoch": 2, "seconds_per_step": 1.0}
        told = {"host": socket.gethostname(), "pid": found.pid, "job_id": None, "time": time.time()}
        write_json(folder.progress_file, {**beat, **told})
        return found

    yield make
    for one in made:
        one.kill()
        one.wait()
        one.stdout.close()


@pytest.mark.parametrize("name", ["SQUEUE_PARTITION", "SQUEUE_ACCOUNT", "SQUEUE_STATES"])
def test_filters_of_a_user_s_own_squeue_hide_no_job(slurm, grid, monkeypatch, name):
    send(grid)
    slurm.queue("100_0|RUNNING|None|n1", "100_1|RUNNING|None|n1", "101|PENDING|Dependency|")
    # As the real one: what the command line does not filter by is filtered by the environment.
    slurm.command("squeue", f'[ -n "${name}" ] || cat queue')
    monkeypatch.setenv(name, "debug")
    assert [cell.state for cell in run_status(grid.run).status] == ["running", "running"]
    assert send(grid)[-1] == "Nothing to submit."


def test_jobs_are_looked_for_in_the_cluster_that_sbatch_sends_them_to(slurm, grid, monkeypatch):
    monkeypatch.setenv("SBATCH_CLUSTERS", "b")
    send(grid)
    slurm.queue("100_0|RUNNING|None|n1", "100_1|RUNNING|None|n1", "101|PENDING|Dependency|")
    slurm.command("squeue", '[ "$SLURM_CLUSTERS" != b ] || cat queue')
    assert send(grid)[-1] == "Nothing to submit."


def test_filters_of_a_user_s_own_scancel_keep_no_job(slurm, monkeypatch):
    slurm.command("scancel", '[ -n "$SCANCEL_STATE" ] || echo "$@" >> cancelled')
    monkeypatch.setenv("SCANCEL_STATE", "PENDING")
    scheduler.cancel(["100"])
    assert (slurm.folder / "cancelled").exists()


def test_a_user_without_a_name_is_one_by_number(slurm, grid, monkeypatch):
    def nobody(number):
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert scheduler.user() == str(os.geteuid())
    assert send(grid)[-1] == "Submitted 3 jobs."
    slurm.queue("100_0|RUNNING|None|n1", "100_1|RUNNING|None|n1")
    assert [cell.state for cell in run_status(grid.run).status] == ["running", "running"]


def test_squeue_is_asked_for_who_runs_it_whatever_the_variables_of_an_image_say(monkeypatch):
    monkeypatch.setenv("LOGNAME", "jovyan")
    monkeypatch.setenv("USER", "jovyan")
    assert scheduler.user() == pwd.getpwuid(os.geteuid()).pw_name != "jovyan"


@pytest.mark.parametrize("outer", [None, "7"])
def test_a_local_process_inside_a_job_goes_by_its_own_number(grid, monkeypatch, outer):
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    monkeypatch.setenv("SUBMITIT_LOCAL_JOB_ID", "4711")
    if outer:
        monkeypatch.setenv("SLURM_JOB_ID", outer)
    cell = grid.cells[0].folder
    cell.path.mkdir(parents=True)
    leave_out(cell, "4711")
    assert Wish(cell)()


def test_a_job_that_is_taken_back_leaves_the_one_before_it(slurm, grid):
    send(grid)
    fail(grid, 0)
    (grid.run.logs / "100_0_0_log.out").write_text("Starting with JobEnvironment(\nValueError: of the job before\n")
    slurm.queue("100_1|RUNNING|None|n1")
    refuses = 'grep -q "job-name=.*-report" "$1" && { echo "sbatch: error: invalid partition" >&2; exit 1; }'
    slurm.command("sbatch", f'{refuses}; echo "Submitted batch job 200"')
    with pytest.raises(Exception, match="invalid partition"):
        send(grid)
    assert ledger.read(grid.run).jobs[grid.cells[0].id].job_id == "100_0"
    assert "ValueError: of the job before" in hpcseg("logs", "--failed", "--run", grid.run.path).output


def test_cancel_ends_a_process_of_this_machine_where_slurm_is_gone(slurm, grid, process, monkeypatch):
    send(grid)
    slurm.queue()
    running = process(grid.run)
    monkeypatch.setenv("PATH", str(slurm.folder))
    for name in ("squeue", "sacct", "scontrol", "scancel", "sbatch", "srun"):
        (slurm.folder / name).unlink(missing_ok=True)
    hpcseg("cancel", "--run", grid.run.path)
    assert running.wait(20) != 0


def test_cancel_of_a_moved_run_asks_nothing_of_a_report_that_has_ended(slurm, grid, process):
    send(grid)
    slurm.queue()
    run = RunFolder(grid.run.path.rename(grid.run.path.with_name("moved")))
    running = process(run)
    said = hpcseg("cancel", "--run", run.path)
    assert said.exit_code == 0, said.output
    assert running.wait(20) != 0


def test_doctor_tells_of_an_sbatch_that_names_no_job(slurm, grid, tmp_path):
    slurm.command("sbatch", 'echo "job was handed to the broker"')
    (check,) = check_node(resources(grid), tmp_path, None, 1.0)
    assert check.name == "Compute node" and "broker" in str(check)


@pytest.mark.parametrize(
    ("nodes", "reservation", "says"),
    [
        ("n1:gpu:idle n1:low:idle n2:low:mixed- n3:cpu:idle", "", "gpu,low is up, with 2 nodes"),
        ("n1:gpu:idle* n2:gpu:idle$ n3:gpu:draining n4:gpu:maint n5:gpu:down~", "", "no node that can run jobs"),
        ("n1:gpu:reserved n2:gpu:idle~", "", "with 1 node in use"),
        ("n1:gpu:reserved n2:gpu:idle~", "beamtime", "with 2 nodes"),
    ],
)
def test_doctor_counts_each_node_that_can_run_jobs_once(slurm, grid, nodes, reservation, says):
    lines = ("{1}|up|{0}|{2}".format(*node.split(":")) for node in nodes.split())
    slurm.command("sinfo", "\n".join(f"echo '{line}'" for line in lines))
    site = Profile(partition="gpu,low", sbatch=(f"reservation={reservation}",) if reservation else None)
    assert says in doctor._partition(resolve(grid.job.needs, site, Profile())).text


def test_doctor_asks_a_node_where_this_machine_has_no_locks(slurm, grid, tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    found = list(check_node(resources(grid), tmp_path, None, 0.1))
    assert slurm.scripts() and "cannot be written to" not in str(found)


def test_a_report_with_memory_per_core_asks_for_no_other(slurm, grid, tmp_path):
    (tmp_path / "site.toml").write_text('[report.sbatch]\nmem-per-cpu = "4G"\n')
    site = load_profile(str(tmp_path / "site.toml"))
    submit_missing(grid, resolve(grid.job.needs, site, Profile()), dry_run=False, resubmit=False)
    assert slurm.options("mem-per-cpu")[-1] == "4G"
    assert slurm.options("mem")[-1] is None


def test_parts_of_which_nobody_tells_are_not_submitted_twice(slurm, untrained_model, scan, tmp_path):
    command = ["predict", untrained_model, scan, "-o", tmp_path / "out", "--slurm", "--parts", "2"]
    timed_out = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
    slurm.command("sbatch", f'echo "{timed_out}" >&2; exit 1')
    slurm.silent()
    assert hpcseg(*command).exit_code == 4
    slurm.accept()
    said = hpcseg(*command)
    assert "part-1-of-2: may have been submitted" in said.output and not slurm.scripts()
    # squeue answers, and has none of it.
    slurm.queue()
    assert "Submitted 3 jobs." in hpcseg(*command).output


def test_a_process_that_no_command_can_know_is_ended(grid, monkeypatch):
    write_plan(grid)
    begun, start = [], submitit.local.local.start_controller

    def watched(*given, **more):
        begun.append(start(*given, **more))
        return begun[-1]

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(local.submitit.local.local, "start_controller", watched)
    monkeypatch.setattr(ledger, "book_local", full)
    with pytest.raises(OSError, match="No space left"):
        run_locally(grid.cells[:1], grid.run, slots=[()], ranks=1, on_event=lambda *_: None)
    assert begun[0].poll() is not None
    shutil.rmtree(grid.run.path)
