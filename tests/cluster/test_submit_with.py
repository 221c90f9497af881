"""`hpcseg grid --submit-with TEMPLATE`: other schedulers than Slurm, with a stand-in for their commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from finished_cells import beat
from small_job import small_job
from typer.testing import CliRunner, Result

from hpcseg.cli.app import app
from hpcseg.cluster import ledger
from hpcseg.cluster.template import read_template
from hpcseg.errors import ConfigError
from hpcseg.jobfile import find_shipped, load_job
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.grid import plan
from hpcseg.runs.record import append_event, read_lines, write_json
from hpcseg.runs.wish import is_left_out

JOB = small_job('data.tiles = ["1x1", "1x2"]\ntrain.seed = [0, 1]', epochs=1, needs="minutes = 90\nmemory_gib = 2.5")
RUN = Path("runs/tiny")


class Scheduler:
    """Commands on PATH that keep scripts, number them from 41, refuse from the one they are told, and note cancels."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, takes, says in (("qsub", 'cp "$1"', "$id.server01"), ("bsub", "cat >", "Job <$id> is submitted")):
            self.command(
                name,
                'id=$(($(ls *.script 2>/dev/null | wc -l) + 41))\n[ "$id" = "$(cat full 2>/dev/null)" ] && '
                f'{{ echo "would exceed your limit" >&2; exit 38; }}\n{takes} $id.script; echo "{says}"',
            )
        for name in ("qdel", "bkill"):
            self.command(name, f'echo "{name} $@" >> cancelled')

    def command(self, name: str, body: str) -> None:
        (self.folder / name).write_text(f"#!/bin/sh\ncd {self.folder}\n{body}\n")
        (self.folder / name).chmod(0o755)

    def scripts(self) -> list[Path]:
        return sorted(self.folder.glob("*.script"))

    def run(self, script: Path) -> subprocess.CompletedProcess[str]:
        """As a node would: from a folder of its own, in an environment that knows nothing of ours."""
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "CUDA_VISIBLE_DEVICES": ""}
        return subprocess.run(
            ["bash", script], cwd="/", env=environment, capture_output=True, text=True, timeout=120, check=False
        )


@pytest.fixture
def scheduler(tmp_path, monkeypatch) -> Scheduler:
    (tmp_path / "bin").mkdir()
    (tmp_path / "my work's").mkdir()
    monkeypatch.chdir(tmp_path / "my work's")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("COLUMNS", "200")
    Path("tiny.toml").write_text(JOB)
    return Scheduler(tmp_path / "bin")


def hpcseg(verb: str, *arguments: object) -> Result:
    return CliRunner().invoke(app, [verb, *map(str, arguments)])


def grid(dataset: Path, *options: object, template: str = "pbs", code: int = 0) -> str:
    said = hpcseg("grid", "--job", "tiny.toml", "--data", dataset, "--submit-with", template, *options)
    assert said.exit_code == code, said.output
    return said.output


def cells(status: Result | None = None) -> list[dict[str, object]]:
    return json.loads((status or hpcseg("status", "--json")).stdout)["cells"]


def states() -> list[object]:
    return [cell["state"] for cell in cells()]


def test_cells_run_to_their_end_in_one_job_of_pbs_and_the_report_follows_by_hand(scheduler, tiny_dataset):
    said = grid(tiny_dataset, "--set", "train.seed=0", "--cells-per-job", 2)
    assert "1x1: job 41" in said and "1x2: job 41" in said and "Submitted 1 job." in said
    assert "None of these jobs makes the report" in said and "hpcseg report" in said
    assert states() == ["queued", "queued"] and {cell["job_id"] for cell in cells()} == {"41"}
    (script,) = scheduler.scripts()
    done = scheduler.run(script)
    assert done.returncode == 0 and done.stdout + done.stderr == "", "all goes to the log"
    assert states() == ["finished", "finished"]
    assert "Starting with JobEnvironment(" in hpcseg("logs", "1x1", "--rank", 0, "-n", 1000).output
    assert hpcseg("report").exit_code == 0
    assert "Nothing to submit" in grid(tiny_dataset, "--set", "train.seed=0")


def test_a_cell_runs_to_its_end_in_a_job_of_lsf_which_reads_its_script(scheduler, tiny_dataset):
    said = grid(tiny_dataset, "--set", "train.seed=0", "--set", "data.tiles='1x1'", template="lsf")
    assert "Submitted 1 job." in said and cells()[0]["job_id"] == "41"
    assert "#BSUB -W 90\n" in scheduler.scripts()[0].read_text()
    assert scheduler.run(scheduler.scripts()[0]).returncode == 0
    assert states() == ["finished"]


def test_a_script_asks_for_what_the_job_needs_or_the_command_line_wishes(scheduler, tiny_dataset):
    said = grid(tiny_dataset, "--dry-run", "--mem", "9.2G", "--cpus-per-task", 3)
    assert "#PBS -l select=1:ncpus=3:ngpus=0:mem=10gb\n" in said and "#PBS -l walltime=90:00\n" in said
    assert "{gpus}" in said, "in a comment nothing is replaced"
    assert "Nothing was submitted (--dry-run)." in said
    assert not RUN.exists() and not scheduler.scripts()
    for line in said.splitlines():
        if line.startswith("#PBS -N "):
            assert len(line.removeprefix("#PBS -N ")) == 15


def test_nothing_is_submitted_twice_and_a_refusal_halfway_is_told_and_mended(scheduler, tiny_dataset):
    (scheduler.folder / "full").write_text("43\n")
    said = grid(tiny_dataset, code=4)
    assert "would exceed your limit" in said and "Submitted before it: 2 of 4 jobs." in said
    assert "Not submitted: 1x2-s0, 1x2-s1." in said
    assert states() == ["queued", "queued", "missing", "missing"]
    (scheduler.folder / "full").unlink()
    said = grid(tiny_dataset)
    assert "1x1-s0: submitted as job 41" in said and "1x2-s1: job 44" in said and "Submitted 2 jobs." in said
    assert "Nothing to submit." in grid(tiny_dataset)
    assert len(scheduler.scripts()) == 4 and states() == ["queued"] * 4
    booked = [line["job"] for line in read_lines(RUN / "submissions.jsonl") if line["event"] == "submitted"]
    assert booked == ["41", "42", "43", "44"]


def test_a_job_that_got_no_number_may_have_been_taken_and_is_not_submitted_again_unasked(scheduler, tiny_dataset):
    scheduler.command("qsub", "echo thank you")
    said = grid(tiny_dataset, code=4)
    name = ledger.short_name(read_lines(RUN / "submissions.jsonl")[-1]["token"])
    assert f"called {name}" in said and "Not submitted: 1x1-s1, 1x2-s0, 1x2-s1." in said
    Scheduler(scheduler.folder)
    assert f"1x1-s0: submitted as job named {name}" in grid(tiny_dataset)
    assert "not known" in cells()[0]["note"] and len(scheduler.scripts()) == 3
    said = grid(tiny_dataset, "--resubmit")
    assert "Submitted 4 jobs." in said and len(scheduler.scripts()) == 7


def test_a_number_that_several_jobs_have_is_none_of_theirs(scheduler, tiny_dataset):
    scheduler.command("qsub", "echo server 7 took it")
    said = grid(tiny_dataset, code=4)
    assert "named no number of a job of its own" in said and "Submitted before it: 1 of 4 jobs." in said
    assert [cell["job_id"] for cell in cells()][:2].count("7") == 1


def test_what_is_cancelled_leaves_the_queue_or_its_job_leaves_it_out(scheduler, tiny_dataset):
    grid(tiny_dataset, "--cells-per-job", 2)
    one, other = (read_lines(RUN / "submissions.jsonl")[index]["cells"][0] for index in (1, 3))
    said = hpcseg("cancel", one[0])
    assert said.exit_code == 0 and "job 41, which goes on with its other cells" in said.output
    assert not (scheduler.folder / "cancelled").exists()
    said = hpcseg("cancel", *other)
    assert (scheduler.folder / "cancelled").read_text() == "qdel 42\n" and "Cancelled 2 cells." in said.output
    assert sorted(states()) == ["cancelled", "cancelled", "cancelled", "queued"]
    assert scheduler.run(scheduler.scripts()[1]).returncode == 0, "should it come all the same"
    assert sorted(states()) == ["cancelled", "cancelled", "cancelled", "queued"]
    scheduler.command("qdel", "echo Unknown Job Id >&2; exit 153")
    said = hpcseg("cancel")
    assert "job 41, which is still your scheduler's to end (`qdel 41`: Unknown Job Id)" in said.output
    assert "Submitted 2 jobs." in hpcseg("retry", "--time", 7).output
    assert "walltime=7:00" in scheduler.scripts()[-1].read_text()


def test_without_a_command_to_cancel_the_numbers_are_left_to_the_user(scheduler, tiny_dataset):
    own = Path("own.sh")
    own.write_text("#HPCSEG submit = bsub < {script}\nexec {command}\n")
    grid(tiny_dataset, "--cells-per-job", 4, template="own.sh")
    assert "job 41, which is still your scheduler's to end (your template has no" in hpcseg("cancel").output
    assert set(states()) == {"cancelled"}


def test_retry_submits_what_has_failed_with_the_template_of_the_run(scheduler, tiny_dataset):
    grid(tiny_dataset)
    (RUN / "template.sh").write_text((RUN / "template.sh").read_text().replace("exec >>", "echo mine\nexec >>"))
    failed, stopped, silent, waits = sorted((RUN / "cells").iterdir())
    append_event(failed / "events.jsonl", "start")
    write_json(failed / "failure.json", {"error": "ValueError: no", "rank": 0, "host": "n1", "time": time.time()})
    append_event(stopped / "events.jsonl", "stop")
    append_event(silent / "events.jsonl", "start")
    found = {cell["cell"]: cell for cell in cells()}
    assert [found[path.name]["state"] for path in (failed, stopped, silent, waits)] == [
        "failed", "stopped", "started", "queued",
    ]  # fmt: skip
    assert found[stopped.name]["note"] == "told to stop" and "no sign of life" in found[silent.name]["note"]
    refused = hpcseg("retry", "--exclude", "n1")
    assert refused.exit_code == 2 and "--exclude is asked of Slurm" in refused.output
    assert "Submitted 2 jobs." in hpcseg("retry").output
    assert "echo mine" in scheduler.scripts()[-1].read_text()
    assert "No cell has failed" in hpcseg("retry").output
    hpcseg("cancel", silent.name)
    assert "Submitted 1 job." in hpcseg("retry").output, "as the note says"
    assert len(scheduler.scripts()) == 7


def test_a_running_cell_is_left_alone_and_one_whose_job_is_given_up_is_left_out_by_it(scheduler, tiny_dataset):
    grid(tiny_dataset)
    beats, gone, *_ = [cell["cell"] for cell in cells()]
    beat(RunFolder(RUN).cell(beats), pid=4)
    assert states()[0] == "running" and cells()[0]["node"] == "n1"
    before = ledger.read(RunFolder(RUN)).jobs[gone].job_id
    said = grid(tiny_dataset, "--resubmit")
    assert "1x1-s0: job 41, running" in said and "Submitted 3 jobs." in said
    assert is_left_out(RunFolder(RUN).cell(gone), before)
    assert not is_left_out(RunFolder(RUN).cell(gone), ledger.read(RunFolder(RUN)).jobs[gone].job_id)


def test_a_job_whose_script_has_ended_before_the_cell_began_is_no_longer_called_queued(scheduler, tiny_dataset):
    shipped = Path(find_shipped("template", "pbs")).read_text()
    Path("own.sh").write_text(shipped.replace("# module load cuda", "no-such-module || exit 1"))
    grid(tiny_dataset, template="own.sh")
    scheduler.run(scheduler.scripts()[0])
    assert states() == ["started", "queued", "queued", "queued"]
    assert "`hpcseg logs` may say why" in cells()[0]["note"]
    assert "no-such-module" in hpcseg("logs", "1x1-s0", "--rank", 0).output


def test_the_signal_of_a_scheduler_stops_a_cell_with_a_checkpoint_and_retry_goes_on(scheduler, tiny_dataset):
    grid(tiny_dataset, "--set", "train.seed=0", "--set", "data.tiles='1x1'", "--set", "train.epochs=500")
    (script,) = scheduler.scripts()
    (folder,) = (RUN / "cells").iterdir()
    environment = {"PATH": os.environ["PATH"], "CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen(["bash", script], env=environment) as job:
        deadline = time.monotonic() + 60
        while not (folder / "metrics.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        job.send_signal(signal.SIGINT)  # LSF's first
        job.send_signal(signal.SIGTERM)
        assert job.wait(30) == 1
    assert states() == ["stopped"] and (folder / "checkpoint.pt").exists()
    assert "Submitted 1 job." in hpcseg("retry").output


@pytest.mark.parametrize(
    "answer",
    [
        "[INFO] PJM 0000 pjsub Job 4711 submitted.",
        "Queue gpu2 of cluster 7\nYour job 4711 (hpcseg-1) has been submitted",
        "Job <4711> is submitted to queue <gpu2>.",
        "[ADMISSION RULE] 2 cores\nOAR_JOB_ID=4711",
        "4711.server01",
    ],
)
def test_the_number_of_a_job_is_found_among_others(scheduler, tiny_dataset, answer):
    scheduler.command("qsub", f"echo '{answer}'")
    grid(tiny_dataset, "--set", "train.seed=0", "--set", "data.tiles='1x1'")
    assert cells()[0]["job_id"] == "4711"


@pytest.mark.parametrize("run", ["a $(touch pwned) b", "it's `touch pwned`; touch pwned #"])
def test_a_hostile_path_is_a_path_in_the_script_and_the_command(scheduler, tiny_dataset, run):
    grid(tiny_dataset, "--set", "train.seed=0", "--set", "data.tiles='1x1'", "--run", run)
    folder = next(Path(run, "cells").iterdir())
    (folder / "config.json").unlink()  # so that the job, which finds its way, ends soon
    scheduler.run(scheduler.scripts()[0])
    assert not list(scheduler.folder.parent.rglob("pwned"))
    (log,) = Path(run, "logs").glob("*_0_log.out")
    assert "config.json cannot be read" in log.read_text()


def test_a_path_that_would_end_a_line_is_refused(scheduler, tiny_dataset):
    said = grid(tiny_dataset, "--run", "a\n#HPCSEG cancel = rm {id}", code=2)
    assert "must have no line end" in said and not scheduler.scripts()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("exec {command}", "does not say how a script is submitted"),
        ("#HPCSEG submit = qsub {script}\necho", "has no line with {command}"),
        ("#HPCSEG submit = qsub {script}\n# {command}", "has no line with {command}"),
        ("#HPCSEG submit = qsub {script}\n#PBS -l gpus={gpu}\n{command}", r"line 2: {gpu} is no word that is known"),
        ("#HPCSEG submit = qsub {file}\n{command}", "{file} is no word that is known there; known is {script}"),
        ("#HPCSEG submit = qsub\n{command}", "a command with {script} has to stand there"),
        ("#HPCSEG submit = bsub < other\n{command}", "behind < stands {script} alone"),
        ("#HPCSEG submit = qsub {script} | tee x\n{command}", "it runs without a shell"),
        ("#HPCSEG submit = qsub '{script}\n{command}", "is no command"),
        ("#HPCSEG sumbit = qsub {script}\n{command}", "#HPCSEG is for"),
        ("#HPCSEG submit = qsub {script}\nbash -c '{command}'", "is quoted already"),
        ("#HPCSEG submit = qsub {script}\r\n{command}\r\n", "line ends of Windows"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_in_a_sentence(scheduler, tiny_dataset, text, why):
    Path("own.sh").write_bytes(text.encode())
    said = grid(tiny_dataset, template="own.sh", code=2)
    assert why in said and not scheduler.scripts() and not RUN.exists()


def test_words_of_the_shell_stay_as_they_are(tmp_path):
    text = "#HPCSEG submit = qsub {script}\necho ${name} {a,b} {1..3} { date; }\n{command}\n"
    (tmp_path / "own.sh").write_text(text)
    template = read_template(tmp_path / "own.sh")
    assert template.script({"command": "run", "name": "x"}) == text.replace("{command}", "run")


def test_a_template_as_windows_or_a_home_folder_has_it_is_one(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own.sh").write_text("#!/bin/sh\n#HPCSEG submit = qsub {script}\n{command}\n", encoding="utf-8-sig")
    assert read_template(find_shipped("template", "~/own.sh")).text.startswith("#!/bin/sh")


def test_a_template_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(ConfigError, match=r'There is no template "qsub\.sh"\. Shipped templates are lsf, pbs'):
        find_shipped("template", "qsub.sh")


def test_options_that_only_slurm_knows_are_refused_beside_a_template(scheduler, tiny_dataset):
    said = grid(tiny_dataset, "--partition", "gpu", "--ranks-per-node", 2, "--slurm", code=2)
    assert "--slurm, --partition, --ranks-per-node and --submit-with cannot go together" in said
    assert "one process on one node" in grid(tiny_dataset, "--gpus-per-node", 2, code=2)


def test_a_template_that_others_may_change_is_run_for_nobody(scheduler, tiny_dataset):
    grid(tiny_dataset)
    (RUN / "template.sh").chmod(0o666)
    said = hpcseg("retry")
    assert said.exit_code == 2 and "template.sh can be written to by everybody" in said.output


def test_a_ledger_whose_lines_of_a_template_are_damaged_is_still_read(tmp_path):
    described = load_job(find_shipped("job", "smoke"))
    run = plan(described, RunFolder(tmp_path / "run"), tmp_path / "data.h5", "0" * 64).run
    token = ledger.announce(run, "cells", [["a"]], template="h")
    ledger.announce(run, "cells", [["a"]], token, template="h")
    ledger.book(run, "strange", "cells", [["b"]], "7", template="h")
    append_event(run.submissions_file, "withdrawn", token="strange", template="h")
    ledger.book(run, token, "cells", [["a"]], "8", template="h")
    found = ledger.read(run)
    assert found.jobs.keys() == {"a"} and found.jobs["a"].number == "8" and found.tries["a"] == 1
    assert found.unusable == (3, 4) and found.unanswered == {} and found.last_way == "template"
    ledger.withdraw(run, token)
    assert not ledger.read(run).jobs
