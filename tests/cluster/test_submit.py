"""What is handed to sbatch, and when: a stand-in takes scripts and gives ids. The real sbatch is in tests/slurm."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcseg.cluster import ledger, sender
from hpcseg.cluster.profile import Profile, Resources, resolve
from hpcseg.cluster.sender import NoRoomError
from hpcseg.cluster.submit import in_arrays, submit_missing
from hpcseg.errors import ConfigError, SchedulerError
from hpcseg.jobfile import find_job, load_job
from hpcseg.runs.grid import Grid, plan, write_plan
from hpcseg.runs.record import RunFolder, read_lines, write_json

TRAINING = """\
#!/bin/bash

# Parameters
#SBATCH --account=project
#SBATCH --array=0-1%1
#SBATCH --comment=TOKEN
#SBATCH --constraint='a100|h100'
#SBATCH --cpus-per-task=1
#SBATCH --gpus-per-node=2
#SBATCH --job-name=hpcseg-smoke-train
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

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output LOGS/%A_%a_%t_log.out --cpus-per-task=1 --kill-on-bad-exit=1 PYTHON -u -m submitit.core._submit LOGS
"""  # noqa: E501


class FakeSlurm:
    """Commands on PATH: sbatch numbers scripts from 100 and keeps them, squeue lists what it is told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.command("srun", "true")
        self.command("scontrol", 'echo "MaxArraySize = 1001"')
        self.command("sacct", "true")
        self.accept()
        self.queue()

    def command(self, name: str, body: str) -> None:
        script = self.folder / name
        script.write_text(f"#!/bin/sh\ncd {self.folder}\n{body}\n")
        script.chmod(0o755)

    def accept(self) -> None:
        self.command(
            "sbatch",
            'id=$(($(ls *.script 2>/dev/null | wc -l) + 100)); cp "$1" $id.script; env > $id.env\n'
            'echo "Submitted batch job $id"',
        )

    def queue(self, *lines: str) -> None:
        """Lines as `squeue --format=%i|%T|%r|%N` prints them."""
        (self.folder / "queue").write_text("".join(f"{line}\n" for line in lines))
        self.command("squeue", "cat queue")

    def silent(self) -> None:
        for name in ("squeue", "sacct", "scontrol"):
            self.command(name, "exit 1")

    def scripts(self) -> list[str]:
        return [path.read_text() for path in sorted(self.folder.glob("*.script"))]

    def options(self, name: str) -> list[str | None]:
        """One option of every script, in the order of submission."""
        found = [
            [line.partition("=")[2] for line in text.splitlines() if f"--{name}=" in line] for text in self.scripts()
        ]
        return [(values or [None])[0] for values in found]


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> FakeSlurm:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(sender, "_SECONDS_BETWEEN_TRIES", 0.0)
    return FakeSlurm(folder)


@pytest.fixture
def grid(tmp_path) -> Grid:
    """The two cells of the shipped smoke job; no data is needed to submit them."""
    return plan(load_job(find_job("smoke")), RunFolder(tmp_path / "run"), tmp_path / "data.h5", "0" * 64)


def resources(grid: Grid, **options: object) -> Resources:
    return resolve(grid.job.needs, Profile(), Profile(**options))  # type: ignore[arg-type]


def send(grid: Grid, *, dry_run: bool = False, resubmit: bool = False, **options: object) -> list[str]:
    return submit_missing(grid, resources(grid, **options), dry_run=dry_run, resubmit=resubmit).lines()


def booked(grid: Grid) -> list[tuple[str, str, str]]:
    """Stage, cell and job of everything that the ledger says was submitted."""
    lines = [line for line in read_lines(grid.run.submissions_file) if line["event"] == "submitted"]
    return [
        (line["stage"], cell_id, job_id)
        for line in lines
        for cell_id, job_id in zip(
            line["cells"] or ["all"], ledger.task_ids(line["job"], len(line["cells"])), strict=True
        )
    ]


def train(grid: Grid, index: int) -> None:
    folder = grid.cells[index].folder
    write_json(folder.training_file, {})
    folder.model_file.touch()


def evaluate(grid: Grid, index: int) -> None:
    from dataclasses import asdict

    cell = grid.cells[index]
    write_json(cell.folder.evaluation_file, {"settings": asdict(cell.config.evaluate)})


def test_the_sbatch_script_of_the_trainings(slurm, grid):
    send(
        grid, partition="gpu", account="project", qos="normal", constraint="a100|h100", nodes=2, gpus_per_node=2,
        setup=("module load cuda", "source site.sh"), throttle=1,
    )  # fmt: skip
    logs = str(grid.run.logs.resolve())
    script = re.sub(r"hpcseg-[0-9a-f]{12}", "TOKEN", slurm.scripts()[0])
    assert script.replace(logs, "LOGS").replace(sys.executable, "PYTHON") == TRAINING


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


def test_evaluations_follow_their_trainings_and_the_report_follows_all(slurm, grid):
    assert send(grid)[-1] == "Submitted 5 jobs."
    assert slurm.options("dependency") == [None, "aftercorr:100", "afterany:101"]
    assert slurm.options("kill-on-invalid-dep") == [None, "yes", None]
    assert slurm.options("job-name") == [f"hpcseg-smoke-{what}" for what in ("train", "evaluate", "report")]
    first, second = grid.cells
    assert booked(grid) == [
        ("train", first.id, "100_0"),
        ("train", second.id, "100_1"),
        ("evaluate", first.id, "101_0"),
        ("evaluate", second.id, "101_1"),
        ("report", "all", "102"),
    ]


def test_arrays_are_cut_at_the_sites_limit_and_share_the_throttle(slurm, tmp_path):
    many = tmp_path / "many.toml"
    many.write_text("[data]\ntile_size = 64\n[[grid]]\ntrain.seed = [0, 1, 2, 3, 4, 5, 6]\n")
    grid = plan(load_job(many), RunFolder(tmp_path / "run"), tmp_path / "data.h5", "0" * 64)
    slurm.command("scontrol", 'echo "MaxArraySize = 3"')
    send(grid, throttle=6)
    # Three arrays of trainings may run two tasks each at once, the evaluations behind them likewise; the report is one.
    assert slurm.options("array") == ["0-2%2", "0-2%2", "0-2%2", "0-2%2", None, None, None]


def test_arrays_of_one_task_are_plain_jobs(slurm, grid):
    slurm.command("scontrol", 'echo "MaxArraySize = 1"')
    send(grid, throttle=2)
    # An array of one task is a plain job, behind which aftercorr would have nothing to count.
    assert slurm.options("array") == [None] * 5
    assert slurm.options("dependency") == [None, "afterok:100", None, "afterok:102", "afterany:101:103"]
    assert [job_id for _, _, job_id in booked(grid)] == ["100", "101", "102", "103", "104"]


def test_a_site_without_arrays_gets_plain_jobs(slurm, grid):
    slurm.command("scontrol", 'echo "MaxArraySize = 0"')
    send(grid)
    assert slurm.options("array") == [None] * 5


def test_a_second_call_submits_nothing_while_the_first_runs(slurm, grid):
    send(grid)
    slurm.queue(
        "100_0|RUNNING|None|n1", "100_1|PENDING|Resources|", "101_0|PENDING|Dependency|", "101_1|PENDING|Dependency|"
    )
    said = send(grid)
    assert said[-1] == "Nothing to submit." and len(slurm.scripts()) == 3
    assert any("evaluate is job 101_0, pending" in line for line in said)


def test_a_state_that_slurm_invents_is_not_taken_for_dead(slurm, grid):
    send(grid)
    slurm.queue(*(f"10{job}_{task}|SPECIAL_EXIT|None|" for job in (0, 1) for task in (0, 1)))
    assert send(grid)[-1] == "Nothing to submit."


def test_where_slurm_is_silent_nothing_is_submitted_twice_unless_told_so(slurm, grid):
    send(grid)
    slurm.silent()
    said = send(grid)
    assert said[-1] == "Nothing to submit." and "--resubmit" in said[0] and len(slurm.scripts()) == 3
    assert send(grid, resubmit=True)[-1] == "Submitted 5 jobs."


def test_what_died_is_submitted_again_and_what_runs_is_not(slurm, grid):
    send(grid)
    slurm.queue("100_1|RUNNING|None|n1", "101_1|PENDING|Dependency|")
    assert send(grid)[-1] == "Submitted 3 jobs."
    assert [job_id for _, _, job_id in booked(grid)][5:] == ["103", "104", "105"]


def test_an_evaluation_that_waits_for_a_dead_training_holds_nothing_up(slurm, grid):
    send(grid)
    slurm.queue("101_0|PENDING|DependencyNeverSatisfied|", "101_1|PENDING|Dependency|")
    assert send(grid)[-1] == "Submitted 5 jobs."


def test_a_trained_cell_gets_its_evaluation_alone(slurm, grid):
    train(grid, 0)
    train(grid, 1)
    evaluate(grid, 1)
    assert send(grid)[-1] == "Submitted 2 jobs."
    assert slurm.options("job-name") == ["hpcseg-smoke-evaluate", "hpcseg-smoke-report"]
    assert slurm.options("dependency") == [None, "afterany:100"]


def test_a_call_that_was_cut_off_between_two_arrays_is_repaired_by_the_next(slurm, grid):
    slurm.command("sbatch", slurm.folder.joinpath("sbatch").read_text().replace("id=", "ls *.script && exit 1; id="))
    with pytest.raises(SchedulerError):
        send(grid)
    assert len(slurm.scripts()) == 1, "the trainings were accepted, the evaluations were not"
    slurm.accept()
    slurm.queue("100_0|RUNNING|None|n1", "100_1|RUNNING|None|n1")
    assert send(grid)[-1] == "Submitted 3 jobs."
    assert slurm.options("dependency")[1:] == ["aftercorr:100", "afterany:101"]
    tasks = {job_id: cell for _, cell, job_id in booked(grid)}
    assert [tasks[f"101_{task}"] for task in (0, 1)] == [tasks[f"100_{task}"] for task in (0, 1)]


def test_an_evaluation_is_put_behind_its_own_training_where_the_others_of_the_array_are_done(slurm, grid):
    send(grid)
    train(grid, 0)
    evaluate(grid, 0)
    lines = grid.run.submissions_file.read_text().splitlines(keepends=True)
    grid.run.submissions_file.write_text("".join(line for line in lines if '"stage": "train"' in line))
    slurm.queue("100_1|RUNNING|None|n1")
    assert send(grid)[-1] == "Submitted 2 jobs."
    assert slurm.options("dependency")[3:] == ["afterok:100_1", "afterany:103"]


def test_a_finished_grid_needs_no_jobs(slurm, grid):
    for index in (0, 1):
        train(grid, index)
        evaluate(grid, index)
    assert send(grid)[-1] == "Nothing to submit."
    assert slurm.scripts() == []


def test_a_dry_run_shows_cells_and_scripts_and_touches_nothing(slurm, grid):
    said = "\n".join(send(grid, dry_run=True, throttle=1))
    assert all(cell.id in said for cell in grid.cells)
    assert said.count("#!/bin/bash") == 3 and "#SBATCH --array=0-1%1" in said
    assert slurm.scripts() == [] and not grid.run.path.exists()


def test_a_dry_run_shows_the_script_that_sbatch_gets(slurm, grid):
    shown = submit_missing(grid, resources(grid), dry_run=True, resubmit=False).scripts[0]
    send(grid)
    assert shown.replace("hpcseg-dry-run", "TOKEN") == re.sub(r"hpcseg-[0-9a-f]{12}", "TOKEN", slurm.scripts()[0])


def test_sbatchs_own_words_are_in_the_error(slurm, grid):
    slurm.command("sbatch", 'echo "sbatch: error: invalid partition specified: gpuu" >&2; exit 1')
    with pytest.raises(SchedulerError, match="invalid partition specified: gpuu"):
        send(grid)
    assert booked(grid) == []


def test_a_socket_that_times_out_is_tried_again_and_what_was_taken_all_the_same_is_taken_back(slurm, grid):
    slurm.command("scancel", 'echo "$@" >> cancelled')
    # The first array is taken, and only its answer is lost: squeue shows it with the comment of its script.
    slurm.command(
        "sbatch",
        'test -e once || { touch once; sed -n "s/#SBATCH --comment=/90|/p" "$1" > queue\n'
        'echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation" >&2; exit 1; }\n'
        + slurm.folder.joinpath("sbatch").read_text(),
    )
    assert send(grid)[-1] == "Submitted 5 jobs."
    assert (slurm.folder / "cancelled").read_text() == "--quiet 90\n"
    assert ledger.read(grid.run).unanswered == ()


def test_what_a_call_did_not_live_to_write_down_is_taken_back_by_the_next(slurm, grid):
    write_plan(grid)
    token = ledger.announce(grid.run, "train", [cell.id for cell in grid.cells])
    slurm.command("scancel", 'echo "$@" >> cancelled')
    slurm.queue(f"90|{token}", "91|of another")
    assert send(grid)[-1] == "Submitted 5 jobs."
    assert (slurm.folder / "cancelled").read_text() == "--quiet 90\n"
    assert ledger.read(grid.run).unanswered == ()


def test_where_squeue_is_silent_what_was_announced_is_not_forgotten(slurm, grid):
    write_plan(grid)
    ledger.announce(grid.run, "train", [cell.id for cell in grid.cells])
    slurm.silent()
    send(grid, resubmit=True)
    assert len(ledger.read(grid.run).unanswered) == 1


def test_a_site_with_room_for_few_jobs_gets_smaller_arrays_and_the_rest_waits(slurm, tmp_path):
    many = tmp_path / "many.toml"
    many.write_text("[data]\ntile_size = 64\n[[grid]]\ntrain.seed = [0, 1, 2, 3, 4, 5, 6]\n")
    grid = plan(load_job(many), RunFolder(tmp_path / "run"), tmp_path / "data.h5", "0" * 64)
    # Room for 5 tasks in all: 7 do not fit, 3 do, their evaluations do not.
    slurm.command(
        "sbatch",
        "size=$(sed -n 's/#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' \"$1\"); size=$((${size:-0} + 1)); "
        "used=$(cat used 2>/dev/null || echo 0)\n"
        'if [ $((used + size)) -gt 5 ]; then echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2; '
        'echo "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit)" >&2; '
        "exit 1; fi; echo $((used + size)) > used\n" + slurm.folder.joinpath("sbatch").read_text(),
    )
    said = send(grid)
    assert said[-3] == "Submitted 4 jobs." and "QOSMaxSubmitJobPerUserLimit" in said[-2] and "report job" in said[-1]
    sent = [(stage, job_id) for stage, _, job_id in booked(grid)]
    assert sent == [*(("train", f"100_{task}") for task in range(3)), ("report", "101")]
    assert slurm.options("dependency")[-1] == "afterany:100", "the job that submits the rest waits for what is there"
    (slurm.folder / "used").write_text("-100")
    slurm.queue(*(f"100_{task}|RUNNING|None|n1" for task in range(3)))
    # Four trainings with their evaluations, the evaluations of the three that run, and the report.
    assert send(grid)[-1] == "Submitted 12 jobs."


def test_where_not_even_the_report_job_has_room_the_user_is_told_to_come_back(slurm, grid):
    slurm.command(
        "sbatch",
        'if [ -e 101.script ]; then echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2; exit 1; fi\n'
        + slurm.folder.joinpath("sbatch").read_text(),
    )
    said = send(grid)
    assert said[-3] == "Submitted 4 jobs." and said[-1] == "Run `hpcseg grid` again when there is some."


def test_only_some_cells_may_be_asked_for(slurm, grid):
    submission = submit_missing(grid, resources(grid), dry_run=False, resubmit=False, only={grid.cells[1].id})
    assert [sent.cells for sent in submission.sent] == [(grid.cells[1].id,), (grid.cells[1].id,), ()]


def test_an_answer_without_a_job_id_is_an_error(slurm, grid):
    slurm.command("sbatch", "echo hello")
    with pytest.raises(SchedulerError, match="did not name the job"):
        send(grid)


def test_a_job_inside_a_job_inherits_nothing_of_it(slurm, grid, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "100")
    monkeypatch.setenv("SLURM_CONF", "/etc/other.conf")
    monkeypatch.setenv("SBATCH_ACCOUNT", "mine")
    send(grid)
    seen = (slurm.folder / "100.env").read_text()
    assert "SLURM_MEM_PER_CPU" not in seen and "SLURM_JOB_ID" not in seen
    assert "SLURM_CONF=/etc/other.conf" in seen and "SBATCH_ACCOUNT=mine" in seen


def test_ranks_that_would_share_a_gpu_are_refused_before_they_queue(slurm, grid):
    with pytest.raises(ConfigError, match="2 ranks per node would share 1 GPU"):
        send(grid, gpus_per_node=1, ranks_per_node=2)


def test_without_slurm_the_error_says_so(grid, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SchedulerError, match="sbatch and srun are not on PATH"):
        send(grid)


def test_two_calls_at_one_moment_submit_once(slurm, grid):
    """The second process waits for the first one's lock, then finds its jobs in the ledger and the queue."""
    write_plan(grid)
    call = (
        "import sys, time; from pathlib import Path; from hpcseg.cluster import ledger\n"
        "from hpcseg.runs.record import RunFolder\n"
        f"run = RunFolder(Path({str(grid.run.path)!r}))\n"
        "with ledger.locked(run):\n"
        "    print('locked', flush=True); time.sleep(2)\n"
        f"    ledger.book(run, '', 'train', {[cell.id for cell in grid.cells]!r}, '90')\n"
        f"    ledger.book(run, '', 'evaluate', {[cell.id for cell in grid.cells]!r}, '91')\n"
    )
    slurm.queue(*(f"9{job}_{task}|PENDING|None|" for job in (0, 1) for task in (0, 1)))
    with subprocess.Popen([sys.executable, "-c", call], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "locked\n"
        started = time.monotonic()
        assert send(grid)[-1] == "Nothing to submit."
        assert time.monotonic() - started > 1, "it waited"
    assert other.returncode == 0 and slurm.scripts() == []


def test_a_lock_that_stays_held_ends_with_an_explanation(slurm, grid, monkeypatch):
    monkeypatch.setattr(ledger, "_SECONDS_FOR_LOCK", 0.3)
    with ledger.locked(grid.run), pytest.raises(SchedulerError, match="Another `hpcseg`"):
        send(grid)


def test_the_ledger_survives_an_unfinished_line(slurm, grid):
    send(grid)
    with grid.run.submissions_file.open("a") as file:
        file.write(json.dumps({"cell": grid.cells[0].id})[:-4])
    assert ledger.read(grid.run).slurm_jobs()[grid.cells[0].id, "train"] == "100_0"


@given(items=st.integers(0, 500), largest=st.integers(1, 60), room=st.integers(1, 60))
def test_arrays_keep_every_item_in_order_and_none_is_too_large(items, largest, room):
    sent = []

    def send(part: list[int]) -> str:
        if len(part) > room:
            raise NoRoomError("no room")
        sent.append(part)
        return str(len(sent))

    parts = list(in_arrays(range(items), largest, send))
    assert [item for part, _ in parts for item in part] == list(range(items))
    assert all(1 <= len(part) <= min(largest, room) for part, _ in parts)
    assert [part for part, _ in parts] == sent


def test_a_controller_that_is_full_is_asked_once_and_the_rest_waits(slurm, grid):
    slurm.command(
        "sbatch",
        'echo call >> calls; echo "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying" >&2; '
        'echo "sbatch: error: Batch job submission failed: Resource temporarily unavailable" >&2; exit 1\n',
    )
    said = send(grid)
    # Each call of sbatch tries for two minutes by itself, so halving the array would take for ever.
    assert (slurm.folder / "calls").read_text() == "call\n"
    assert said[-3] == "Nothing to submit." and "has to wait for room" in said[-2] and "`hpcseg grid`" in said[-1]


def test_a_site_without_any_room_is_an_error_and_not_a_loop():
    def send(part: list[int]) -> str:
        raise NoRoomError("no room")

    with pytest.raises(NoRoomError):
        list(in_arrays(range(10), 5, send))
