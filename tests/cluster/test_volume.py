"""A volume on a cluster: which parts are handed to sbatch, and that parts and join give what one process gives."""

from __future__ import annotations

import json
import os
import re
import sys

import numpy as np
import pytest
import submitit
import tifffile
from slice_folder import hpcseg

from hpcseg.cluster.tasks.predict import JoinTask, PredictTask
from hpcseg.errors import HpcsegError, IncompleteError
from hpcseg.predict.outcome import OutFolder
from hpcseg.predict.request import begin, part_of, read_request
from hpcseg.predict.work import work


@pytest.fixture
def command(untrained_model, scan, tmp_path):
    return ("predict", untrained_model, scan, "-o", tmp_path / "out", "--precision", "fp32")


def test_parts_are_runs_of_slices_that_cover_the_volume():
    for slices, parts in ((10, 3), (10, 10), (1, 1), (7, 4)):
        found = [part_of(range(slices), slices, part, parts) for part in range(parts)]
        assert [index for part in found for index in part] == list(range(slices))
        assert max(map(len, found)) - min(map(len, found)) <= 1
    assert part_of([0, 4, 9], 10, 1, 3) == [4]


def test_an_array_of_parts_and_a_job_that_joins_them(slurm, command, tmp_path):
    answer = hpcseg(*command, "--partition", "gpu", "--parts", 3, "--throttle", 2, "--time", 30, "--mem", 4)
    assert answer.exit_code == 0 and "Submitted 4 jobs." in answer.output, answer.output
    assert slurm.options("array") == ["0-2%2", None]
    assert slurm.options("job-name") == ["hpcseg-predict", "hpcseg-predict-join"]
    assert slurm.options("dependency") == [None, "afterany:100"]
    assert slurm.options("partition") == ["gpu", "gpu"]
    assert (slurm.options("gpus-per-node")[0], slurm.options("ntasks-per-node")[0]) == ("1", "1")
    # What is in the queue is not submitted again, and no other division goes between.
    slurm.queue(
        "100_0|RUNNING|None|n1", "100_1|PENDING|Resources|", "100_2|PENDING|Resources|", "101|PENDING|Dependency|"
    )
    again = hpcseg(*command, "--partition", "gpu", "--parts", 3)
    assert "part-1-of-3: is job 100_0, running" in again.output and "Nothing to submit." in again.output
    other = hpcseg(*command, "--partition", "gpu", "--parts", 5)
    assert other.exit_code == 2 and "Give the same --parts as before" in other.output
    assert len(slurm.scripts()) == 2
    # One task has died with its slices unwritten.
    slurm.queue("100_0|RUNNING|None|n1", "100_2|PENDING|Resources|")
    again = hpcseg(*command, "--partition", "gpu", "--parts", 3)
    assert "part-2-of-3: job 102" in again.output and len(slurm.scripts()) == 4


def test_arrays_of_parts_share_the_throttle(slurm, command):
    slurm.command("scontrol", 'echo "MaxArraySize = 2"')
    assert hpcseg(*command, "--partition", "gpu", "--parts", 4, "--throttle", 2).exit_code == 0
    assert slurm.options("array") == ["0-1%1", "0-1%1", None]


def test_where_sbatch_refuses_the_join_the_parts_are_taken_back(slurm, command, tmp_path):
    slurm.command(
        "sbatch",
        'if grep -q "predict-join" "$1"; then echo "sbatch: error: ask for a GPU" >&2; exit 1; fi\n'
        'id=$(($(ls *.script 2>/dev/null | wc -l) + 100)); cp "$1" $id.script; echo "Submitted batch job $id"',
    )
    submit = (*command, "--partition", "gpu", "--parts", 3)
    answer = hpcseg(*submit)
    assert answer.exit_code == 4, answer.output
    said = " ".join(answer.output.split())
    assert "ask for a GPU" in said and "the others were taken back" in said and "[report]" in said
    assert "100" in (slurm.folder / "cancelled").read_text()
    slurm.accept()
    assert hpcseg(*submit).exit_code == 0 and "hpcseg-predict-join" in slurm.scripts()[-1]


@pytest.mark.parametrize(("room", "sent"), [(2, 2), (3, 3)], ids=["for two parts", "for no job that joins them"])
def test_what_there_is_no_room_for_is_left_to_the_same_command(slurm, command, room, sent):
    slurm.command(
        "sbatch",
        f'if [ $(ls *.script 2>/dev/null | wc -l) -ge {room} ] || grep -q -e --array= "$1"; then '
        'echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2; exit 1; fi\n'
        + slurm.folder.joinpath("sbatch").read_text(),
    )
    answer = hpcseg(*command, "--partition", "gpu", "--parts", 3)
    assert answer.exit_code == 0 and f"Submitted {sent} jobs." in answer.output, answer.output
    assert "QOSMaxSubmitJobPerUserLimit" in answer.output
    assert "Run the same command again when there is some." in answer.output and "hpcseg grid" not in answer.output
    # Now there is; the parts wait, and nothing joins them.
    slurm.accept()
    slurm.queue(*(f"{100 + part}|PENDING|Resources|" for part in range(sent)))
    assert f"Submitted {4 - sent} job" in hpcseg(*command, "--partition", "gpu", "--parts", 3).output
    assert slurm.options("dependency")[-1] in ("afterany:100:101:102", "afterany:100:101:103")


def test_a_dry_run_writes_nothing(slurm, command, tmp_path):
    before = sorted(tmp_path.iterdir())
    answer = hpcseg(*command, "--partition", "gpu", "--dry-run")
    assert (
        answer.exit_code == 0
        and "#SBATCH --partition=gpu" in answer.output
        and "Nothing was submitted" in answer.output
    )
    assert sorted(tmp_path.iterdir()) == before and not slurm.scripts()
    answer = hpcseg(*command, "--dry-run")
    assert answer.exit_code == 2 and "--slurm" in answer.output


def test_without_slurm_it_is_said(command, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    answer = hpcseg(*command, "--slurm")
    assert answer.exit_code == 4 and "There is no Slurm here" in answer.output


def test_a_part_whose_job_asked_for_a_gpu_does_not_quietly_take_the_cpu(slurm, command, tmp_path, monkeypatch):
    assert hpcseg(*command, "--partition", "gpu", "--parts", 2).exit_code == 0
    exported = [re.findall(r"^export HPCSEG_GPUS_PER_NODE=(\d)$", script, re.MULTILINE) for script in slurm.scripts()]
    assert exported == [["1"], ["0"]], "of the parts, and of the job that joins them"
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("HPCSEG_GPUS_PER_NODE", "1")
    prediction = begin(read_request(tmp_path / "out"))
    with pytest.raises(HpcsegError, match=r"This job asked for GPUs, but torch .* finds none on this node"):
        work(prediction, prediction.missing(), part=0)


def test_parts_and_join_give_what_one_process_gives(slurm, command, untrained_model, scan, tmp_path, monkeypatch):
    """With submitit's own local executor in the place of srun."""
    assert hpcseg(*command, "--partition", "cpu", "--parts", 2).exit_code == 0
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    out = str((tmp_path / "out").resolve())
    executor = submitit.LocalExecutor(tmp_path / "logs")
    executor.update_parameters(timeout_min=5)
    first = executor.submit(PredictTask(out, 0, 2))
    assert first.result() == "finished"
    join = executor.submit(JoinTask(out))
    with pytest.raises(submitit.core.utils.FailedJobError, match=r"5 slices of .* are missing"):
        join.result()
    assert executor.submit(PredictTask(out, 1, 2)).result() == "finished"
    executor.submit(JoinTask(out)).result()
    folder = OutFolder(tmp_path / "out")
    assert [len(path.read_text().splitlines()) >= 6 for path in sorted(folder.path.glob("slices-*.jsonl"))] == [
        True
    ] * 2
    assert hpcseg("predict", untrained_model, scan, "-o", tmp_path / "here", "--precision", "fp32").exit_code == 0
    np.testing.assert_array_equal(
        tifffile.imread(tmp_path / "out" / "labels.tif"), tifffile.imread(tmp_path / "here" / "labels.tif")
    )
    assert folder.fractions_file.read_text() == (tmp_path / "here" / "fractions.csv").read_text()
    record = json.loads(folder.record_file.read_text())
    assert record["state"] == "finished" and len(record["starts"]) == 2
    # The same command, from the login node: it shows what came out.
    answer = hpcseg(*command, "--partition", "cpu", "--parts", 2)
    assert answer.exit_code == 0 and "Phase fractions" in answer.output


def test_a_task_that_is_stopped_keeps_what_it_has_written(command, tmp_path, monkeypatch, slurm):
    assert hpcseg(*command, "--partition", "cpu", "--parts", 1).exit_code == 0

    class Stops:
        asked = 0

        def __call__(self):
            self.asked += 1
            return self.asked == 4

        def hand_over(self):
            raise SystemExit("handed over")

        def no_more(self):
            raise AssertionError("it was stopped")

    monkeypatch.setattr("hpcseg.cluster.tasks.predict.StopFlag", Stops)
    task = PredictTask(str(tmp_path / "out"), 0, 1)
    with pytest.raises(SystemExit, match="handed over"):
        task()
    assert sorted(OutFolder(tmp_path / "out").done()) == [0, 1, 2, 3]
    assert isinstance(task.checkpoint(), submitit.helpers.DelayedSubmission)
    with pytest.raises(IncompleteError, match="6 slices"):
        JoinTask(str(tmp_path / "out"))()
