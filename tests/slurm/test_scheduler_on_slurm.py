"""What Slurm's own commands say of jobs that are over: in which words, and of which it has none."""

from __future__ import annotations

import pytest
from conftest import slurm

from hpcseg.cluster import scheduler

pytestmark = pytest.mark.slurm


@pytest.fixture
def submit(cluster):
    """Submits a command with options of sbatch, and takes its job out of the queue in the end."""
    jobs = []

    def of(command: str, *options: str) -> str:
        log = f"--output={cluster.folder}/%A_%a.log"
        wishes = ("--parsable", "--partition=high", "--mem=100M", "--time=5", log, *options)
        jobs.append(slurm("sbatch", *wishes, f"--wrap={command}").strip())
        return jobs[-1]

    yield of
    for job in jobs:
        slurm("scancel", "--quiet", job)


@pytest.mark.parametrize(
    "command",
    [
        scheduler.queue_command(),
        scheduler.own_jobs_command(),
        scheduler.accounting_command(["1", "7_3"]),
        scheduler.controller_command(),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_no_command_refuses_what_is_asked_of_it(submit, command):
    # One that scontrol can show.
    submit("true", "--hold")
    said, answered = scheduler.said_by(command)
    assert answered, said


def test_the_accounting_tells_state_and_node_of_each_job_and_task_that_has_ended(cluster, submit):
    fails = submit("exit 7")
    # Some of its tasks end, and some are taken out of the queue before they begin.
    array = submit("test $SLURM_ARRAY_TASK_ID = 0 || sleep 300", "--array=0-4%2")
    cancelled = submit("sleep 300")
    began = [cancelled, f"{array}_1", f"{array}_2"]
    cluster.wait("their start", lambda: all((cluster.folder / name).exists() for name in logs(began)), seconds=120)
    slurm("scancel", array, cancelled)
    wanted = [fails, cancelled, *(f"{array}_{task}" for task in range(5))]

    def told() -> bool:
        found = scheduler.history(wanted)
        return len(found) == len(wanted) and all(found[job].node for job in began)

    cluster.wait("their ends in the accounting", told, seconds=60)
    found = scheduler.history(wanted)
    words = {fails: "FAILED", f"{array}_0": "COMPLETED"}
    assert {job: state.word for job, state in found.items()} == {job: words.get(job, "CANCELLED") for job in wanted}
    waited = {f"{array}_3", f"{array}_4"}
    assert {job for job, state in found.items() if state.node not in ("n1", "n2")} == waited
    assert {found[job].node for job in waited} == {""}


def logs(jobs: list[str]) -> list[str]:
    # Without an array %a is a number that nobody gives a task.
    return [f"{job}.log" if "_" in job else f"{job}_4294967294.log" for job in jobs]


def test_a_list_of_waiting_tasks_is_never_cut(submit):
    # More characters than Slurm prints unasked.
    tasks = range(0, 100, 3)
    array = submit("true", "--hold", f"--array={','.join(map(str, tasks))}")
    slurm("scancel", array)
    ids = {f"{array}_{task}" for task in tasks}
    assert scheduler.history(ids).keys() <= ids
    assert (scheduler._scontrol() or {}).keys() >= ids
