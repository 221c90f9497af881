"""The script that sbatch gets, and what becomes of its answers."""

from __future__ import annotations

import errno
import os
import re
import sys

import pytest
import submitit
from fake_slurm import booked, send

from hpcseg.cluster import doctor, ledger
from hpcseg.cluster.executor import cell_executor
from hpcseg.cluster.profile import Profile, resolve
from hpcseg.cluster.sender import NoRoomError
from hpcseg.config import NeedsConfig
from hpcseg.errors import SchedulerError
from hpcseg.runs.grid import write_plan

CELLS = """\
#!/bin/bash

# Parameters
#SBATCH --account=project
#SBATCH --array=0-1%1
#SBATCH --comment=TOKEN
#SBATCH --constraint='a100|h100'
#SBATCH --cpus-per-task=1
#SBATCH --gpus-per-node=2
#SBATCH --job-name=hpcseg-smoke
#SBATCH --mem=1024M
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=2
#SBATCH --open-mode=append
#SBATCH --output=LOGS/%A_%a_0_log.out
#SBATCH --partition=gpu
#SBATCH --qos=normal
#SBATCH --requeue
#SBATCH --signal=USR2@75
#SBATCH --time=5

# setup
module load cuda
source site.sh
export HPCSEG_GPUS_PER_NODE=2
[ -d RUN/code/HASH/hpcseg ] || { echo 'error: RUN/code/HASH, the code that was submitted, is gone. \
Run `hpcseg retry`.'; exit 1; }
export PYTHONPATH=RUN/code/HASH"${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1
cd RUN

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output LOGS/%A_%a_%t_log.out --cpus-per-task=1 --kill-on-bad-exit=1 --export=ALL PYTHON -u -m submitit.core._submit LOGS
"""  # noqa: E501


def test_the_sbatch_script_of_the_cells(slurm, grid):
    send(
        grid, partition="gpu", account="project", qos="normal", constraint="a100|h100", nodes=2, gpus_per_node=2,
        setup=("module load cuda", "source site.sh"), throttle=1,
    )  # fmt: skip
    logs = str(grid.run.logs.resolve())
    script = re.sub(r"hpcseg-[0-9a-f]{8}-[0-9a-f]{12}", "TOKEN", slurm.scripts()[0])
    (code,) = (grid.run.path / "code").iterdir()
    script = script.replace(logs, "LOGS").replace(str(grid.run.path.resolve()), "RUN").replace(code.name, "HASH")
    assert script.replace(sys.executable, "PYTHON") == CELLS


@pytest.mark.parametrize(
    ("syntax", "line"),
    [("gpus-per-node", "--gpus-per-node=2"), ("gres", "--gres=gpu:2"), ("gpus-per-task", "--gpus-per-task=1")],
)
def test_gpus_are_asked_for_as_the_site_wants(slurm, grid, syntax, line):
    send(grid, gpus_per_node=2, gpu_syntax=syntax)
    options = [line for line in slurm.scripts()[0].splitlines() if line.startswith("#SBATCH --g")]
    assert options == [f"#SBATCH {line}"]


def test_a_site_that_implies_its_gpus_is_asked_for_none(slurm, grid):
    send(grid, gpus_per_node=2, gpu_syntax="none")
    assert "--gpu" not in slurm.scripts()[0] and "--gres" not in slurm.scripts()[0]
    assert slurm.options("ntasks-per-node")[0] == "2"


# Slurm has one sentence for every limit of an account or a QoS; most versions name the limit before it.
POLICY = (
    "Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
)
LONGER = "QOSMaxWallDurationPerJobLimit"
MANY = "QOSMaxSubmitJobPerUserLimit AssocMaxSubmitJobLimit AssocGrpSubmitJobsLimit QOSGrpSubmitJobsLimit MaxJobCount"


def refuses(*reasons: str, where: str = "true") -> str:
    said = "\n".join(f'echo "sbatch: error: {reason}" >&2' for reason in (*reasons, POLICY))
    return f"echo call >> calls; if {where}; then {said}\nexit 1; fi\n"


@pytest.mark.parametrize(("reasons", "said"), [((), "or you have as many jobs as you may"), ((LONGER,), LONGER)])
def test_a_limit_that_may_be_of_one_job_is_an_error_and_asked_once(slurm, grid, reasons, said):
    slurm.command("sbatch", refuses(*reasons))
    with pytest.raises(SchedulerError, match=said) as refused:
        send(grid, time=14400, mem=3.0)
    assert "A job asks for more than you may have" in str(refused.value) or not reasons
    assert "Asked for: 2 jobs with --time=14400, --mem=3072M, --nodes=1" in str(refused.value)
    assert refused.value.exit_code == 4 and not isinstance(refused.value, NoRoomError)
    assert (slurm.folder / "calls").read_text() == "call\n" and not ledger.read(grid.run).unanswered


@pytest.mark.parametrize("reason", MANY.split())
def test_a_limit_of_jobs_by_its_name_leaves_the_rest_for_later(slurm, grid, reason):
    slurm.command("sbatch", refuses(reason))
    assert send(grid)[-3] == "Nothing to submit."


def test_a_limit_without_a_name_behind_jobs_that_ask_for_the_same_is_one_of_their_number(slurm, grid):
    sbatch = slurm.folder.joinpath("sbatch").read_text()
    slurm.command("scontrol", 'echo "MaxArraySize = 1"')
    slurm.command("sbatch", refuses(where="[ -e 100.script ] && ! grep -q dependency $1") + sbatch)
    said = send(grid)
    assert said[-3] == "Submitted 2 jobs." and "has to wait for room" in said[-2]


@pytest.mark.parametrize(
    ("refused", "sent", "said"),
    [
        ("[ ! -e cancelled ] && grep -q dependency $1", [("cells", "101"), ("report", "102")], "The report job will"),
        # Others have taken the place meanwhile.
        ("grep -q dependency $1", [("cells", "101")], "Run `hpcseg grid` again"),
        ("[ -e cancelled ] || grep -q dependency $1", [], "Run `hpcseg grid` again"),
    ],
)
def test_an_array_that_has_taken_all_room_gives_a_task_of_it_to_the_report(slurm, grid, refused, sent, said):
    sbatch = slurm.folder.joinpath("sbatch").read_text()
    slurm.command("sbatch", refuses("QOSMaxSubmitJobPerUserLimit", where=refused) + sbatch)
    assert send(grid)[-1].startswith(said)
    assert [(stage, job_id) for stage, _, job_id in booked(grid)][2:] == sent
    assert set(ledger.read(grid.run).jobs) == {cell.id for cell in grid.cells[: len(sent[:1])]}
    assert slurm.options("dependency")[1:] == [None, "afterany:101"][: len(sent)]


@pytest.mark.parametrize("reasons", [(), (LONGER,)])
def test_what_doctor_says_of_a_limit_names_more_than_the_account(slurm, tmp_path, reasons):
    slurm.command("sbatch", refuses(*reasons))
    executor = cell_executor(tmp_path, tmp_path, resolve(NeedsConfig(), Profile(), Profile()), name="a", comment="b")
    check = doctor._taken("A cell's job", executor, tmp_path)
    assert check.remedy is not None and "--time" in check.remedy and "--qos" in check.remedy


def test_a_job_that_a_full_disk_has_no_room_for_is_not_submitted(slurm, grid, monkeypatch):
    def dump(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(submitit.core.utils.DelayedSubmission, "dump", dump)
    with pytest.raises(SchedulerError, match=r"The job cannot be written: .*No space left on device"):
        send(grid)
    assert slurm.scripts() == [] and not ledger.read(grid.run).unanswered


@pytest.mark.parametrize(
    "words",
    [
        "Socket timed out on send/recv operation",
        "Connection reset by peer",
        "Zero Bytes were transmitted or received",
        "Unable to contact slurm controller (receive failure)",
    ],
)
def test_a_socket_that_times_out_is_tried_again_and_what_was_taken_all_the_same_is_taken_back(slurm, grid, words):
    # The first array is taken, and only its answer is lost: squeue shows it with the comment of its script.
    slurm.command(
        "sbatch",
        'test -e once || { touch once; sed -n "s/#SBATCH --comment=/90|/p" "$1" > queue\n'
        f'echo "sbatch: error: Batch job submission failed: {words}" >&2; exit 1; }}\n'
        + slurm.folder.joinpath("sbatch").read_text(),
    )
    assert send(grid)[-1] == "Submitted 3 jobs."
    assert (slurm.folder / "cancelled").read_text() == "--quiet 90\n"
    assert not ledger.read(grid.run).unanswered


def test_what_a_call_did_not_live_to_write_down_is_taken_back_by_the_next(slurm, grid):
    write_plan(grid)
    token = ledger.announce(grid.run, "cells", [[cell.id] for cell in grid.cells])
    slurm.queue(f"90|{token}", "91|of another")
    assert send(grid)[-1] == "Submitted 3 jobs."
    assert (slurm.folder / "cancelled").read_text() == "--quiet 90\n"
    assert not ledger.read(grid.run).unanswered


def test_what_sbatch_refused_and_took_all_the_same_is_taken_back_by_the_next_call(slurm, grid):
    slurm.command("sbatch", 'echo "sbatch: error: something new" >&2; exit 1')
    with pytest.raises(SchedulerError, match="something new"):
        send(grid)
    slurm.queue(f"90|{next(iter(ledger.read(grid.run).tokens))}", "91|of another")
    slurm.accept()
    assert send(grid)[-1] == "Submitted 3 jobs."
    assert (slurm.folder / "cancelled").read_text() == "--quiet 90\n"


def test_where_squeue_is_silent_what_was_announced_is_not_forgotten(slurm, grid):
    write_plan(grid)
    ledger.announce(grid.run, "cells", [[cell.id] for cell in grid.cells])
    slurm.silent()
    send(grid, resubmit=True)
    assert len(ledger.read(grid.run).unanswered) == 1


def test_what_a_user_has_said_to_srun_reaches_no_job(slurm, grid, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("SLURM_TIMELIMIT", "1")
    send(grid)
    assert "SLURM_TIMELIMIT" not in (slurm.folder / "100.env").read_text()


def test_a_job_inside_a_job_inherits_nothing_of_it(slurm, grid, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "100")
    monkeypatch.setenv("SLURM_CONF", "/etc/other.conf")
    # In Slurm they have the last word over the script.
    for name in ("ACCOUNT", "PARTITION", "GRES", "TIMELIMIT", "ARRAY_INX", "NO_REQUEUE", "OUTPUT", "MEM_PER_NODE"):
        monkeypatch.setenv(f"SBATCH_{name}", "mine")
    send(grid, partition="gpu", gpus_per_node=1)
    seen = (slurm.folder / "100.env").read_text()
    assert "SLURM_MEM_PER_CPU" not in seen and "SLURM_JOB_ID" not in seen
    assert "SLURM_CONF=/etc/other.conf" in seen
    assert re.findall("SBATCH_.*", seen) == ["SBATCH_ACCOUNT=mine"], "what the script does not say"


def test_an_answer_without_a_job_id_is_an_error(slurm, grid):
    slurm.command("sbatch", "echo hello")
    with pytest.raises(SchedulerError, match="did not name the job"):
        send(grid)
    assert len(ledger.read(grid.run).unanswered) == 1, "it may be in the queue"


def test_sbatchs_own_words_are_in_the_error(slurm, grid):
    slurm.command("sbatch", 'echo "sbatch: error: invalid partition specified: gpuu" >&2; exit 1')
    with pytest.raises(SchedulerError, match="invalid partition specified: gpuu"):
        send(grid)
    assert booked(grid) == []
    assert not ledger.read(grid.run).unanswered, "nothing of it is in the queue"


def test_a_refusal_halfway_says_what_is_in_the_queue(slurm, grid):
    sbatch = slurm.folder.joinpath("sbatch").read_text()
    down = 'echo "sbatch: error: Batch job submission failed: Unable to contact slurm controller" >&2; exit 1'
    slurm.command("scontrol", 'echo "MaxArraySize = 1"')
    slurm.command("sbatch", f"if [ -e 100.script ]; then {down}; fi; {sbatch}")
    with pytest.raises(SchedulerError, match=r"controller\. What sbatch took before stays in the queue: 1 job\. The"):
        send(grid)
    assert [job_id for _, _, job_id in booked(grid)] == ["100"]
