"""A prediction on Slurm by its folder alone: where its parts stand, what they have written, and how they are ended."""

from __future__ import annotations

import json
import shutil

import pytest
from slice_folder import hpcseg

from hpcseg.predict.outcome import OutFolder
from hpcseg.predict.request import begin, part_of, read_request
from hpcseg.predict.schema import Started
from hpcseg.predict.work import finish, work


@pytest.fixture
def out(slurm, untrained_model, scan, tmp_path):
    """A prediction of ten slices that was submitted as three parts."""
    answer = hpcseg(
        "predict",
        untrained_model,
        scan,
        "-o",
        tmp_path / "out",
        "--precision",
        "fp32",
        "--partition",
        "cpu",
        "--parts",
        3,
    )
    assert answer.exit_code == 0 and f"hpcseg status --run {tmp_path / 'out'}" in answer.output, answer.output
    return tmp_path / "out"


def parts_of(out):
    answer = hpcseg("status", "--run", out, "--json")
    assert answer.exit_code == 0, answer.output
    return json.loads(answer.output)


def states(out):
    return {part["part"]: part["state"] for part in parts_of(out)["parts"]}


def segment(out, part, parts=3):
    prediction = begin(read_request(out))
    work(prediction, part_of(prediction.missing(), 10, part, parts), part=part)


def test_each_part_has_its_slices_its_job_and_what_slurm_says_of_it(slurm, out):
    segment(out, 0)
    slurm.queue("100_1|RUNNING|None|n1", "100_2|PENDING|Resources|", "101|PENDING|Dependency|")
    answer = hpcseg("status", "--run", out)
    rows = [line.split() for line in answer.output.splitlines()]
    assert ["part-1-of-3", "finished", "3/3", "100_0"] in rows, answer.output
    assert ["part-2-of-3", "running", "0/3", "100_1", "n1"] in rows
    assert ["part-3-of-3", "queued", "0/4", "100_2", "Resources"] in rows
    assert ["join", "queued", "101", "Dependency"] in rows
    assert "3 of 10 slices written" in answer.output and "hpcseg predict" not in answer.output
    found = parts_of(out)
    assert (found["slices"], found["written"], found["finished"]) == (10, 3, False)
    assert found["counts"] == {"finished": 1, "queued": 2, "running": 1}


def test_a_part_that_has_failed_is_named_with_its_last_words(slurm, out):
    slurm.queue("100_0|RUNNING|None|n1", "101|PENDING|Dependency|")
    slurm.command("sacct", 'echo "100_1|FAILED|n2|1:0"; echo "100_2|OUT_OF_MEMORY|n2|0:125"')
    log = out / "logs" / "100_1_0_log.out"
    log.write_text(
        "submitit INFO (x) - Starting with JobEnvironment(...)\nhpcseg.errors.DatasetError: a.tif is cut off.\n"
    )
    answer = hpcseg("status", "--run", out)
    assert "error: exit code 1: hpcseg.errors.DatasetError: a.tif is cut off." in answer.output
    assert "out of host memory" in answer.output and f"hpcseg logs --failed --run {out}" in answer.output
    assert states(out) == {"part-1-of-3": "running", "part-2-of-3": "failed", "part-3-of-3": "failed", "join": "queued"}
    answer = hpcseg("logs", "--failed", "--run", out)
    assert "== part-2-of-3, job 100_1" in answer.output and "a.tif is cut off." in answer.output
    assert "part-1-of-3" not in answer.output and "Nothing is written yet." in answer.output
    told = json.loads(hpcseg("logs", "part-2*", "--run", out, "--json").stdout)
    assert told["parts"][0]["log"] == str(log) and told["parts"][0]["lines"][-1].endswith("cut off.")


def test_a_name_that_fits_no_part_is_refused_and_lists_them(slurm, out):
    for verb in ("status", "logs", "cancel"):
        answer = hpcseg(verb, "part-9*", "--run", out)
        assert answer.exit_code == 2 and "part-3-of-3" in answer.output and "join" in answer.output, verb
    answer = hpcseg("logs", "--run", out)
    assert answer.exit_code == 2 and "Name the parts" in answer.output
    answer = hpcseg("logs", "part-*", "--follow", "--run", out)
    assert answer.exit_code == 2 and "these are 3" in answer.output


def test_where_slurm_is_silent_nothing_is_said_to_have_ended(slurm, out):
    slurm.silent()
    segment(out, 0)
    assert states(out) == {
        "part-1-of-3": "finished",
        "part-2-of-3": "unknown",
        "part-3-of-3": "unknown",
        "join": "unknown",
    }
    assert "Slurm does not answer" in hpcseg("status", "--run", out).output


def test_cancelled_parts_are_told_and_the_same_command_submits_them_again(slurm, out, untrained_model, scan):
    slurm.queue(
        "100_0|RUNNING|None|n1", "100_1|PENDING|Resources|", "100_2|PENDING|Resources|", "101|PENDING|Dependency|"
    )
    dry = hpcseg("cancel", "--run", out, "--dry-run")
    assert "part-1-of-3: job 100_0" in dry.output and not (slurm.folder / "cancelled").exists()
    answer = hpcseg("cancel", "part-2*", "--run", out)
    assert answer.exit_code == 0 and (slurm.folder / "cancelled").read_text().split() == ["--quiet", "100_1"]
    slurm.queue("100_0|RUNNING|None|n1", "100_2|PENDING|Resources|", "101|PENDING|Dependency|")
    assert states(out)["part-2-of-3"] == "cancelled"
    assert hpcseg("cancel", "--run", out).exit_code == 0
    assert {"100_0", "100_2", "101"} <= set((slurm.folder / "cancelled").read_text().split())
    slurm.queue()
    assert hpcseg("cancel", "--run", out).output.startswith("None of these parts")
    answer = hpcseg("status", "--run", out)
    assert set(states(out).values()) <= {"cancelled"} and "What is missing is done by this" in answer.output
    again = hpcseg(
        "predict", untrained_model, scan, "-o", out, "--precision", "fp32", "--partition", "cpu", "--parts", 3
    )
    assert again.exit_code == 0 and len(slurm.scripts()) == 4
    slurm.queue("102_0|PENDING|None|", "102_1|PENDING|None|", "102_2|PENDING|None|", "103|PENDING|Dependency|")
    assert set(states(out).values()) == {"queued"}


def test_a_finished_prediction_is_said_to_be_so_and_a_watch_ends_well(slurm, out, monkeypatch):
    monkeypatch.setattr("hpcseg.cli.watching._SECONDS_BETWEEN_LOOKS", 0.0)
    slurm.queue()
    assert hpcseg("status", "--run", out, "--watch").exit_code == 1
    for part in range(3):
        segment(out, part)
    assert states(out)["join"] != "finished"
    finish(begin(read_request(out)))
    assert set(states(out).values()) == {"finished"}
    answer = hpcseg("status", "--run", out, "--watch")
    assert answer.exit_code == 0 and f"hpcseg view {out}" in answer.output


def test_a_prediction_of_this_machine_is_one_part(untrained_model, scan, tmp_path):
    out = tmp_path / "here"
    prediction_of = ("predict", untrained_model, scan, "-o", out, "--precision", "fp32")
    assert hpcseg(*prediction_of).exit_code == 0
    assert states(out) == {"whole": "finished"}
    record = json.loads((out / "prediction.json").read_text())
    shutil.copytree(out, tmp_path / "stopped")
    stopped = OutFolder(tmp_path / "stopped")
    lines = stopped.journal_file(None).read_text().splitlines()
    stopped.journal_file(None).write_text(
        "".join(f"{line}\n" for line in lines if json.loads(line).get("index", 0) < 4)
    )
    started = {name: value for name, value in record.items() if name in Started.__struct_fields__}
    stopped.record_file.write_text(json.dumps({**started, "state": "started"}))
    found = parts_of(stopped.path)
    assert found["parts"][0]["state"] == "stopped" and found["written"] == 4
    with stopped.alone(None):
        assert states(stopped.path) == {"whole": "running"}
        answer = hpcseg("cancel", "--run", stopped.path)
        assert "has to be ended where it was begun" in answer.output
    answer = hpcseg("logs", "whole", "--run", stopped.path)
    assert answer.exit_code == 0 and "Nothing is written yet." in answer.output


def test_a_moved_prediction_does_not_end_the_jobs_of_where_it_was(slurm, out, tmp_path):
    slurm.queue(
        "100_0|RUNNING|None|n1", "100_1|PENDING|Resources|", "100_2|PENDING|Resources|", "101|PENDING|Dependency|"
    )
    out.rename(tmp_path / "moved")
    answer = hpcseg("cancel", "--run", tmp_path / "moved")
    assert answer.exit_code == 4 and "was moved or copied" in answer.output, answer.output
    assert not (slurm.folder / "cancelled").exists()
    shutil.copytree(tmp_path / "moved", out, symlinks=True)
    assert hpcseg("cancel", "--run", tmp_path / "moved").output.startswith("None of these parts")


def test_a_ledger_of_countless_parts_is_looked_at_in_no_time(slurm, out):
    text = (out / "submissions.jsonl").read_text().replace("-of-3", "-of-999999999")
    (out / "submissions.jsonl").write_text(text)
    assert len(parts_of(out)["parts"]) == 11


def test_jobs_that_outlive_their_work_are_shown_and_ended(slurm, out, untrained_model, scan):
    slurm.queue(
        "100_0|RUNNING|None|n1", "100_1|PENDING|Resources|", "100_2|PENDING|Resources|", "101|PENDING|Dependency|"
    )
    assert hpcseg("predict", untrained_model, scan, "-o", out, "--precision", "fp32").exit_code == 0
    found = parts_of(out)
    assert found["finished"] and [part["note"] for part in found["parts"]] == ["all is written"] * 4
    assert found["counts"] == {"queued": 3, "running": 1}
    assert f"hpcseg cancel --run {out}" in hpcseg("status", "--run", out).output
    assert hpcseg("cancel", "--run", out).exit_code == 0
    assert set((slurm.folder / "cancelled").read_text().split()) == {"--quiet", "100_0", "100_1", "100_2", "101"}


def test_a_part_that_is_submitted_again_is_joined_with_those_that_run(slurm, out, untrained_model, scan):
    slurm.queue("100_0|RUNNING|None|n1", "100_2|RUNNING|None|n2", "101|PENDING|Dependency|")
    again = hpcseg(
        "predict", untrained_model, scan, "-o", out, "--precision", "fp32", "--partition", "cpu", "--parts", 3
    )
    assert "join: job 103" in again.output and slurm.options("dependency")[-1] == "afterany:100:102"
    slurm.queue("100_0|RUNNING|None|n1", "102|PENDING|None|", "101|PENDING|Dependency|", "103|PENDING|Dependency|")
    assert parts_of(out)["parts"][-1]["job_id"] == "103"
    assert hpcseg("cancel", "--run", out).exit_code == 0
    assert {"101", "103"} <= set((slurm.folder / "cancelled").read_text().split()), "both joins"


def test_a_join_that_missed_slices_is_no_failure_of_its_own_and_one_that_failed_alone_is(slurm, out):
    slurm.queue()
    slurm.command(
        "sacct", 'for part in 0 1 2; do echo "100_$part|OUT_OF_MEMORY|n2|0:125"; done; echo "101|FAILED|n1|1:0"'
    )
    answer = hpcseg("status", "--run", out)
    assert states(out) == {f"part-{part}-of-3": "failed" for part in (1, 2, 3)} | {"join": "missing"}
    assert "Give the same command a larger --mem." in answer.output
    for part in range(3):
        segment(out, part)
    answer = hpcseg("status", "--run", out)
    assert states(out)["join"] == "failed" and "All slices are written and not joined yet." in answer.output


def test_the_command_that_goes_on_is_the_last_and_none_in_a_copy(slurm, out, untrained_model, scan, tmp_path):
    slurm.queue()
    hpcseg("predict", untrained_model, scan, "-o", out, "--precision", "fp32", "--partition", "cpu", "--parts", 4)
    lines = [json.loads(line) for line in (out / "submissions.jsonl").read_text().splitlines()]
    for line in lines:
        if line["event"] == "submitted":
            line["command"] = f"hpcseg predict\n rm {'last' if line['job'] in ('102', '103') else 'first'}"
    (out / "submissions.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert "done by this, where it was given: hpcseg predict rm last\n" in hpcseg("status", "--run", out).output
    shutil.copytree(out, tmp_path / "copy", symlinks=True)
    assert "hpcseg predict" not in hpcseg("status", "--run", tmp_path / "copy").output
    out.chmod(0o777)
    assert "hpcseg predict" not in hpcseg("status", "--run", out).output, "anybody may have written it"


def test_a_part_that_vanishes_ends_what_follows_it(slurm, out, monkeypatch):
    monkeypatch.setattr("hpcseg.cli.watching._SECONDS_BETWEEN_LOOKS", 0.0)
    monkeypatch.setattr("hpcseg.cli.watching._SECONDS_BETWEEN_QUESTIONS", -1.0)
    slurm.queue()
    whole = OutFolder(out)
    in_use = iter([True, True])
    monkeypatch.setattr(OutFolder, "in_use", lambda _: next(in_use, False))
    assert hpcseg("status", "whole", "--watch", "--run", out).exit_code == 1
    answer = hpcseg("logs", "join", "--follow", "--run", out)
    assert answer.exit_code != 0 and "has written no log yet" in answer.output
    assert whole.record_file.exists()


@pytest.mark.parametrize(
    ("name", "damage", "says"),
    [
        ("submissions.jsonl", lambda text: text.replace("-of-3", "-of-\u00b2"), "10 slices"),
        ("submissions.jsonl", lambda text: text.replace("-of-3", f"-of-{'9' * 5000}"), "10 slices"),
        ("prediction.json", lambda text: text.replace('"slices": 10', '"slices": -5'), "none that this hpcseg reads"),
        ("prediction.json", lambda text: text[:-9], "give a new folder to --output"),
        ("prediction.json", lambda text: "[]", "give a new folder to --output"),
        ("slices.jsonl", lambda text: text + '{"index": 99, "counts": [1, 1], "outside": 0.0}\n', "0 of 10 slices"),
    ],
)
def test_damaged_files_end_in_a_sentence(slurm, out, name, damage, says):
    path = out / name
    path.write_text(damage(path.read_text()))
    answer = hpcseg("status", "--run", out)
    assert answer.exception is None or isinstance(answer.exception, SystemExit), answer.output
    assert says in answer.output and "hpcseg grid" not in answer.output


def test_other_verbs_and_options_say_that_it_is_a_prediction(out):
    for verb in ("retry", "clean", "report"):
        answer = hpcseg(verb, "--run", out)
        assert answer.exit_code != 0 and f"hpcseg status --run {out}" in answer.output, verb
    for command in (("status", out), ("logs", out), ("cancel", out)):
        answer = hpcseg(*command)
        assert answer.exit_code == 2 and "is a prediction. Name it with --run." in answer.output, command
    for command in (("logs", "join", "--rank", 3), ("cancel", "--others")):
        answer = hpcseg(*command, "--run", out)
        assert answer.exit_code == 2 and "Leave it out" in answer.output, command
