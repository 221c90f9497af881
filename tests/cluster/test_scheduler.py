"""What is made of Slurm's answers, with stand-ins for its commands: the real ones are used in tests/slurm."""

from __future__ import annotations

import getpass
import stat
import time

import pytest

from hpcseg.cluster import doctor, scheduler
from hpcseg.cluster.scheduler import JobState
from hpcseg.errors import SchedulerError


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Puts executables with given outputs on PATH; None is one that fails."""

    def put(**outputs: str | None) -> None:
        for name, output in outputs.items():
            script = tmp_path / name
            text = "exit 1" if output is None else f"cat <<'X'\n{output}\nX"
            script.write_text(f"#!/bin/sh\n{text}\n")
            script.chmod(script.stat().st_mode | stat.S_IEXEC)

    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return put


def test_squeue_is_believed_first_and_an_absent_job_is_gone(commands):
    commands(squeue="7_0|RUNNING|None|n1\n9|PENDING|Resources|\n", sacct="7_1|RUNNING|n2")
    assert scheduler.ask(["7_0", "7_1"]) == {"7_0": JobState("RUNNING", "", "n1")}


def test_sacct_answers_where_squeue_does_not_and_scontrol_last(commands):
    commands(squeue=None, sacct="7_1|CANCELLED by 0|n2", scontrol="JobId=8 ArrayJobId=7 ArrayTaskId=1 JobState=PENDING")
    assert scheduler.ask(["7_1"])["7_1"].ended
    commands(sacct=None)
    assert scheduler.ask(["7_1"]) == {"7_1": JobState("PENDING")}


def test_scontrol_keeps_the_waiting_tasks_of_an_array_together(commands):
    waiting = "JobId=9 ArrayJobId=7 ArrayTaskId=0,2-4%2 JobName=x JobState=PENDING Reason=Priority NodeList=(null)"
    commands(squeue=None, sacct=None, scontrol=waiting)
    assert scheduler.ask([f"7_{task}" for task in range(6)]) == {
        f"7_{task}": JobState("PENDING", "Priority") for task in (0, 2, 3, 4)
    }


@pytest.mark.parametrize(
    ("kept", "tasks"),
    [("[0-3]", [0, 1, 2, 3]), ("[0-3%2]", [0, 1, 2, 3]), ("[1,5-7]", [1, 5, 6, 7]), ("[0,2-6:2%1]", [0, 2, 4, 6])],
)
def test_what_slurm_keeps_together_is_a_job_each_whoever_says_it(commands, kept, tasks):
    wanted = [f"7_{task}" for task in range(9)]
    commands(squeue=f"7_{kept}|PENDING|Priority|")
    assert scheduler.ask(wanted) == {f"7_{task}": JobState("PENDING", "Priority") for task in tasks}
    commands(
        squeue=None, sacct=f"7_8|FAILED|n2\n7_{kept.replace('[', '[8,')}|CANCELLED by 0|None assigned", scontrol=None
    )
    ended = {f"7_{task}": JobState("CANCELLED by 0") for task in tasks} | {"7_8": JobState("FAILED", "", "n2")}
    assert scheduler.history(wanted) == ended


def test_accounting_tells_with_which_code_a_job_ended_of_itself(commands):
    codes = {"1": "7:0", "2": "0:9", "3": "0:0", "4": "137:0", "5": ""}
    commands(sacct="\n".join(f"{job}|FAILED|n1|{code}" for job, code in codes.items()))
    found = {job: state.exited for job, state in scheduler.history(codes).items()}
    assert found == {"1": 7, "2": None, "3": None, "4": None, "5": None}


def test_accounting_tells_ends_alone_of_what_is_in_the_queue_no_more(commands):
    """It may have heard of the start and not yet, or never, of the end."""
    commands(sacct="7|RUNNING|n1\n8|TIMEOUT|n2\n9|REQUEUED|n2")
    assert scheduler.history(["7", "8", "9"]) == {"8": JobState("TIMEOUT", "", "n2")}


def test_no_answer_is_not_an_empty_answer(commands):
    commands(squeue=None, sacct=None, scontrol=None)
    assert scheduler.ask(["7"]) is None
    assert scheduler.history(["7"]) == {}
    assert scheduler.max_array_size() is None


def test_a_command_that_hangs_is_as_one_that_fails(commands, tmp_path, monkeypatch):
    monkeypatch.setattr(scheduler, "_SECONDS", 0.5)
    commands(squeue="", sacct="7_1|CANCELLED by 0|n2")
    (tmp_path / "squeue").write_text("#!/bin/sh\nexec sleep 20\n")
    before = time.monotonic()
    assert scheduler.ask(["7_1"])["7_1"].ended
    assert time.monotonic() - before < 10


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "SUSPENDED", "RESV_DEL_HOLD", "SOMETHING_NEW", ""])
def test_a_state_that_is_not_known_to_be_an_end_is_none(state):
    assert not JobState(state).ended


def test_max_array_size_is_read_from_the_configuration(commands):
    commands(scontrol="MaxArraySize            = 1001\nMaxDBDMsgs = 20012")
    assert scheduler.max_array_size() == 1001


def test_squeue_is_asked_for_all_who_submitted(commands, tmp_path):
    commands(squeue="")
    (tmp_path / "squeue").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n')
    scheduler.ask(["7"], ["ann", "bob"])
    assert "--user=ann,bob" in (tmp_path / "asked").read_text()


def test_jobs_are_found_by_their_comment(commands):
    commands(squeue="7|hpcseg-abc\n7|hpcseg-abc\n8|hpcseg-abcd\n9|(null)")
    assert scheduler.with_comment("hpcseg-abc") == {"7"}
    user = getpass.getuser()
    commands(squeue=None, scontrol=f"JobId=7 UserId={user}(0) JobState=PENDING Comment=hpcseg-abc Command=/x.sh")
    assert scheduler.with_comment("hpcseg-abc") == {"7"}
    commands(scontrol=None)
    assert scheduler.with_comment("hpcseg-abc") is None, "not the same as none"


def test_jobs_are_cancelled_in_commands_of_a_bearable_length(commands, tmp_path, monkeypatch):
    monkeypatch.setattr(scheduler, "_IDS_PER_CALL", 2)
    commands(scancel="")
    (tmp_path / "scancel").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    scheduler.cancel(["1", "2", "3"])
    assert (tmp_path / "asked").read_text() == "--quiet 1 2\n--quiet 3\n"


def test_a_job_that_has_ended_already_is_no_error_and_a_refusal_is_one(commands, tmp_path):
    commands(scancel="")
    (tmp_path / "scancel").write_text("#!/bin/sh\necho 'scancel: error: Invalid job id 7' >&2; false\n")
    scheduler.cancel(["7"])
    # Of several it may be both.
    with (tmp_path / "scancel").open("a") as script:
        script.write("echo 'scancel: error: Access/permission denied' >&2; exit 1\n")
    with pytest.raises(SchedulerError, match=r"failed: scancel: error: Access/permission denied$"):
        scheduler.cancel(["7", "8"])


@pytest.mark.parametrize(
    ("said", "known"), [("2026-11-23T08:30:00", True), ("NONE", False), ("", False), (None, False)]
)
def test_the_end_of_a_job_is_known_where_it_has_one(commands, said, known):
    commands(squeue=said)
    assert (scheduler.end_of_job("7") is not None) == known


def test_a_command_that_refuses_what_it_is_asked_is_no_silence_to_the_doctor(commands, tmp_path):
    """Asked otherwise it answers, so it is there, and whoever looks into it finds that it works."""
    commands(squeue="7|RUNNING|None|n1", sacct="", scontrol="")
    assert [check.verdict for check in (doctor._queue(), doctor._accounting())] == ["ok", "ok"]
    for name, option in (("sacct", "--allocations"), ("squeue", "--format=%F|%k|%o")):
        refusal = f"{name}: unrecognized option '{option.partition('=')[0]}'"
        script = f"""case "$*" in *"{option}"*) echo "{refusal}" >&2; exit 1;; esac"""
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
    for check, name in ((doctor._queue(), "squeue"), (doctor._accounting(), "sacct")):
        assert check.verdict == "warning" and f"{name} refuses what hpcseg asks of it ({name}: unrec" in check.text
        assert f"{name} --version" in check.remedy
