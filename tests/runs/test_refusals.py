"""A cell whose files do not belong together, or whose training comes to nothing: refused in words, and written down."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import json
import os
import resource
import threading
import time
from pathlib import Path

import pytest
import torch
from finished_cells import planned

from hpcseg.cluster.failures import diagnose
from hpcseg.config import CellConfig, DataConfig, TrainConfig
from hpcseg.errors import ConfigError, HpcsegError
from hpcseg.learn import checkpoint, loop, precision
from hpcseg.learn.ranks import Ranks
from hpcseg.runs import execute, heartbeat, wish
from hpcseg.runs.execute import run_cell
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.grid import Cell, read_cell, read_grid, write_plan
from hpcseg.runs.inputs import load_model
from hpcseg.runs.record import read_lines, write_json, write_record
from hpcseg.runs.wish import leave_out

SETTINGS = {"width": 1, "depth": 1, "epochs": 1, "batch_size": 7, "precision": "fp32"}


def make_cell(folder: Path, dataset: Path, **train: object) -> Cell:
    config = CellConfig(data=DataConfig(tile_size=32), train=TrainConfig(**{**SETTINGS, **train}))
    return planned(folder, dataset, config).cells[0]


@pytest.fixture
def cell(tmp_path, tiny_dataset) -> Cell:
    return make_cell(tmp_path / "run", tiny_dataset)


@pytest.fixture
def trained(cell) -> Cell:
    assert run(cell) == "finished"
    return cell


def run(cell: Cell, stage: str = "train", *, steps: int | None = None) -> str:
    answers = iter([False] * steps + [True] * 9) if steps is not None else iter(lambda: False, True)
    return run_cell(cell.folder, stage, should_stop=lambda: next(answers))


def change(file: Path, **values: object) -> None:
    write_record(file, {**json.loads(file.read_text()), **values})


def failure(cell: Cell) -> dict[str, object]:
    return json.loads(cell.folder.failure_file.read_text())


def test_a_checkpoint_of_other_settings_is_refused(cell):
    assert run(cell, steps=1) == "stopped"
    planned = json.loads(cell.folder.config_file.read_text())
    change(cell.folder.config_file, train={**planned["train"], "learning_rate": 0.5})
    differs = r"checkpoint\.pt is not of this cell: train\.learning_rate is 0\.001 there and 0\.5 here\."
    with pytest.raises(HpcsegError, match=differs):
        run(cell)
    assert cell.folder.checkpoint_file.exists(), "nothing is thrown away"


def test_a_loss_that_is_no_number_ends_the_training_and_is_named(tmp_path, tiny_dataset):
    cell = make_cell(tmp_path / "run", tiny_dataset, learning_rate=1e30, epochs=2)
    told = r"The training loss became (nan|inf) in epoch 1\. Lower train\.learning_rate"
    with pytest.raises(HpcsegError, match=told):
        run(cell)
    assert not cell.folder.model_file.exists() and not cell.folder.training_file.exists()
    assert diagnose(cell, None, None, cancelled=False, logs={}).kind.name == "loss not finite"


def test_a_loss_that_is_no_number_is_in_no_checkpoint(tmp_path, tiny_dataset, monkeypatch):
    monkeypatch.setenv("HPCSEG_CHECKPOINT_SECONDS", "0")
    cell = make_cell(tmp_path / "run", tiny_dataset, learning_rate=1e30, epochs=3, batch_size=1)
    with pytest.raises(HpcsegError, match=r"The training loss became not finite \((sums|model\.\S+|optimizer\.\S+)\)"):
        run(cell)
    assert checkpoint.not_finite(checkpoint.load(cell.folder.checkpoint_file)) is None


def test_a_training_goes_on_in_the_precision_that_it_began_in(tmp_path, tiny_dataset, monkeypatch):
    for number, (first, then) in enumerate([("bf16", "fp32"), ("fp32", "bf16"), ("fp16", "bf16")]):
        cell, other = (make_cell(tmp_path / f"{name}{number}", tiny_dataset, precision="auto") for name in ("a", "b"))
        resolved = {"auto": first}
        monkeypatch.setattr(precision, "resolve_precision", lambda wanted, _, auto=resolved: auto.get(wanted, wanted))
        assert run(other) == "finished"
        assert run(cell, steps=1) == "stopped"
        resolved["auto"] = then  # on a node of another kind
        assert run(cell) == "finished"
        records = [json.loads(made.folder.training_file.read_text()) for made in (cell, other)]
        assert [record["precision"] for record in records] == [first, first]
        assert [start["precision"] for start in records[0]["starts"]] == [first, first]
        assert records[0]["model_sha256"] == records[1]["model_sha256"]
        assert run(cell, "evaluate") == "finished"
        assert json.loads(cell.folder.evaluation_file.read_text())["precision"] == first


def test_the_factor_of_a_scaled_loss_goes_on_as_it_was(tmp_path, tiny_dataset):
    whole, cut = (make_cell(tmp_path / name, tiny_dataset, precision="fp16", epochs=4) for name in ("whole", "cut"))
    assert run(whole) == "finished"
    assert run(cut, steps=3) == "stopped"
    assert checkpoint.load(cut.folder.checkpoint_file)["scaler"]["_growth_tracker"] == 3, "three steps were finite"
    assert run(cut) == "finished"
    assert cut.folder.metrics_file.read_bytes() == whole.folder.metrics_file.read_bytes()


def test_a_cell_of_another_numerics_number_is_refused(cell):
    change(cell.folder.config_file, numerics=1)
    with pytest.raises(HpcsegError, match=r"The cell .* was planned with numerics 1, but .* run `hpcseg grid`"):
        run(cell)
    assert "numerics 1" in str(failure(cell)["error"])


def test_a_cell_of_before_numerics_numbers_is_refused(cell):
    planned = json.loads(cell.folder.config_file.read_text())
    del planned["numerics"]
    write_record(cell.folder.config_file, {**planned, "code_sha256": "0" * 64})
    with pytest.raises(HpcsegError, match=r"was planned before there were numerics numbers"):
        run(cell)


def test_a_finished_cell_keeps_what_it_was_planned_with(cell):
    assert run(cell) == "finished" and run(cell, "evaluate") == "finished"
    change(cell.folder.config_file, job="of then")
    before = cell.folder.config_file.read_bytes()
    write_plan(read_grid(RunFolder(cell.folder.path.parents[1])))
    assert cell.folder.config_file.read_bytes() == before


def test_a_model_that_is_not_the_trained_one_is_not_evaluated(trained):
    weights = checkpoint.load(trained.folder.model_file)
    checkpoint.save(trained.folder.model_file, {name: tensor + 1 for name, tensor in weights.items()})
    with pytest.raises(HpcsegError, match=r"model\.pt is not the model of training\.json"):
        run(trained, "evaluate")
    assert not trained.folder.evaluation_file.exists()


def test_a_model_of_another_network_is_not_evaluated(trained):
    checkpoint.save(trained.folder.model_file, {"weight": torch.zeros(3)})
    with pytest.raises(HpcsegError, match=r"model\.pt does not hold the U-Net that config\.json describes"):
        run(trained, "evaluate")


def test_a_config_that_lies_about_the_network_costs_no_memory(trained):
    """A U-Net of width 1024 has 7.9 billion weights: 32 GB."""
    planned = json.loads(trained.folder.config_file.read_text())
    change(trained.folder.config_file, train={**planned["train"], "width": 1024, "depth": 4})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(HpcsegError, match=r"model\.pt does not hold the U-Net that config\.json describes"):
        load_model(read_cell(trained.folder), 3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "in kB"


def test_tiles_that_are_divided_in_another_way_are_not_tested_on(trained):
    change(trained.folder.training_file, split_sha256="0" * 64)
    with pytest.raises(HpcsegError, match="the split of the tiles is no longer the one"):
        run(trained, "evaluate")


def test_metrics_that_a_crash_has_lost_are_written_again(tmp_path, tiny_dataset):
    whole, cell = (make_cell(tmp_path / name, tiny_dataset, epochs=2) for name in ("whole", "cut"))
    assert run(whole) == "finished"
    steps = json.loads(whole.folder.training_file.read_text())["steps"]
    assert run(cell, steps=steps - 1) == "stopped"
    cell.folder.metrics_file.unlink()
    assert run(cell) == "finished"
    assert cell.folder.metrics_file.read_bytes() == whole.folder.metrics_file.read_bytes()


def test_a_crash_loses_no_more_than_what_came_after_the_last_checkpoint(tmp_path, tiny_dataset, monkeypatch):
    whole, cell = (make_cell(tmp_path / name, tiny_dataset, epochs=3) for name in ("whole", "struck"))
    assert run(whole) == "finished"
    monkeypatch.setenv("HPCSEG_CHECKPOINT_SECONDS", "0")
    asked = iter(range(5))
    with pytest.raises(StopIteration):  # as sudden as a kill: nobody is told to stop, and nothing is tidied up
        run_cell(cell.folder, "train", should_stop=lambda: next(asked) < 0)
    assert run(cell) == "finished"
    events = [event["event"] for event in read_lines(cell.folder.events_file)]
    assert events.count("start") == events.count("resume") == 1
    # Five questions were asked before it, in epochs of two steps: two epochs are finished, and none is done again.
    assert events.count("epoch") == 3
    assert cell.folder.metrics_file.read_bytes() == whole.folder.metrics_file.read_bytes()
    assert checkpoint.weights_sha256(checkpoint.load(cell.folder.model_file)) == checkpoint.weights_sha256(
        checkpoint.load(whole.folder.model_file)
    )


@pytest.mark.parametrize("before", [False, True])
def test_a_file_that_is_no_checkpoint_of_a_training_is_left_out_and_said(cell, before):
    assert run(cell, steps=1) == "stopped"
    previous = cell.folder.previous_checkpoint_file if before else None
    checkpoint.save(cell.folder.checkpoint_file, {"model": {"weight": torch.zeros(1)}}, previous)
    assert run(cell) == "finished"
    (told,) = (line["what"] for line in read_lines(cell.folder.events_file) if line["event"] == "damaged")
    assert "checkpoint.pt is a checkpoint of something else: it has no origin, precision, optimizer, scaler" in told
    events = [line["event"] for line in read_lines(cell.folder.events_file)]
    assert events.count("resume") == before


def test_a_training_that_a_kill_met_behind_its_record_leaves_no_checkpoint_with_the_evaluation(cell):
    assert run(cell, steps=1) == "stopped"
    left = {file: file.read_bytes() for file in cell.folder.path.glob("checkpoint*.pt")}
    left[cell.folder.path / "checkpoint-previous.pt"] = b"the one before"
    assert run(cell) == "finished"
    for file, content in left.items():
        file.write_bytes(content)
    assert run(cell, "evaluate") == "finished"
    assert [file.name for file in cell.folder.path.glob("*.pt")] == ["model.pt"]


def test_a_checkpoint_is_half_a_minute_old_at_most_unless_somebody_says_otherwise(cell, monkeypatch):
    """Half a minute is what README.md and slurm/README.md promise."""
    monkeypatch.delenv("HPCSEG_CHECKPOINT_SECONDS", raising=False)
    asked = list[float]()
    make = loop.Agreement
    monkeypatch.setattr(loop, "Agreement", lambda ranks, seconds: asked.append(seconds) or make(ranks, seconds))
    for told in (None, "0.5", "-3"):
        if told is not None:
            monkeypatch.setenv("HPCSEG_CHECKPOINT_SECONDS", told)
        assert run(cell, steps=0) == "stopped"
    assert asked == [30, 0.5, 0]


def test_seconds_between_checkpoints_that_are_none_are_refused(cell, monkeypatch):
    monkeypatch.setenv("HPCSEG_CHECKPOINT_SECONDS", "x")
    with pytest.raises(ConfigError, match=r'HPCSEG_CHECKPOINT_SECONDS is "x", but it must be a number of seconds\.'):
        run(cell)


def test_what_a_killed_start_was_writing_goes_with_the_next(cell):
    left = [cell.folder.path / ".checkpoint.pt.0123abcd.tmp", cell.folder.path.parents[1] / ".grid.json.0123abcd.tmp"]
    for file in left:
        file.write_bytes(b"half a checkpoint")
    assert run(cell) == "finished"
    write_plan(read_grid(RunFolder(cell.folder.path.parents[1])))
    assert not any(file.exists() for file in left)


def test_the_first_of_several_failures_is_kept(cell, monkeypatch):
    def fail_after_another_rank(*_: object) -> bool:
        write_json(cell.folder.failure_file, {"error": "CUDA out of memory", "rank": 3, "time": time.time()})
        raise ConnectionError("Connection closed by peer")

    monkeypatch.setattr(execute, "train", fail_after_another_rank)
    with pytest.raises(ConnectionError):
        run(cell)
    assert (failure(cell)["error"], failure(cell)["rank"]) == ("CUDA out of memory", 3)


def test_a_failure_of_an_earlier_start_is_not_taken_for_this_ones(cell, monkeypatch):
    def fail(*_: object) -> bool:
        raise ConnectionError("Connection closed by peer")

    write_json(cell.folder.failure_file, {"error": "CUDA out of memory", "rank": 3, "time": time.time() - 60})
    monkeypatch.setattr(execute, "train", fail)
    with pytest.raises(ConnectionError):
        run(cell)
    assert failure(cell)["error"] == "ConnectionError: Connection closed by peer"


def no_room(*_: object, **__: object) -> None:
    raise HpcsegError("it cannot be written: No space left on device.")


def test_a_failure_that_cannot_be_written_down_is_told_all_the_same(cell, monkeypatch):
    def fail(*_: object) -> bool:
        raise ConnectionError("Connection closed by peer")

    monkeypatch.setattr(execute, "train", fail)
    monkeypatch.setattr(execute, "write_json", no_room)
    with pytest.raises(ConnectionError):
        run(cell)


def test_a_heartbeat_that_cannot_be_written_ends_no_training_and_none_is_left_behind(cell, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(heartbeat, "write_json", no_room)
        assert run(cell, steps=1) == "stopped"
    assert run(cell) == "finished"
    assert not cell.folder.progress_file.exists()


def test_a_file_system_without_locks_is_good_enough(cell, monkeypatch):
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(execute.fcntl, "flock", flock)
    assert run(cell, steps=1) == "stopped"


def test_ranks_that_read_different_checkpoints_do_not_train_on(cell, monkeypatch):
    class Disagreeing(Ranks):
        """Another rank of the launch, on a node that sees an older file, is one step behind."""

        def largest(self, value: float) -> int:
            return int(value) + (value < 0)

    assert run(cell, steps=1) == "stopped"
    monkeypatch.setattr(execute, "join", lambda *_: _entered(Disagreeing()))
    with pytest.raises(HpcsegError, match="The ranks read different checkpoints"):
        run(cell)


class _entered:
    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks

    def __enter__(self) -> Ranks:
        return self.ranks

    def __exit__(self, *_: object) -> None:
        return None


def test_a_start_under_slurm_waits_for_the_processes_of_the_last_one(cell, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with cell.folder.lock_file.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        ends = threading.Timer(1.0, lambda: fcntl.flock(held, fcntl.LOCK_UN))
        ends.start()
        assert run(cell) == "finished"
        ends.join()
    monkeypatch.setattr(execute, "_SECONDS_FOR_AN_EARLIER_START", 0.1)
    with cell.folder.lock_file.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert run(cell, "evaluate") == "busy"


def test_a_cell_that_another_job_finished_meanwhile_is_not_trained_again(cell, monkeypatch):
    real = execute._lock

    @contextlib.contextmanager
    def slow(*arguments):
        """The lock of a start that has waited until an earlier one was done."""
        monkeypatch.setattr(execute, "_lock", real)
        assert run(cell) == "finished"
        with real(*arguments) as free:
            yield free

    monkeypatch.setattr(execute, "_lock", slow)
    assert run(cell) == "finished"
    events = [event["event"] for event in read_lines(cell.folder.events_file)]
    assert events.count("start") == events.count("trained") == 1


def test_a_cell_that_the_user_cancels_in_its_job_stops_with_a_checkpoint_and_goes_on_in_another(cell, monkeypatch):
    monkeypatch.setattr(wish, "_SECONDS_BETWEEN_LOOKS", 0.0)
    monkeypatch.setenv("SUBMITIT_LOCAL_JOB_ID", "17")
    leave_out(cell.folder, "17")
    assert run(cell) == "cancelled"
    assert not cell.folder.events_file.exists(), "before its turn"

    monkeypatch.setenv("SUBMITIT_LOCAL_JOB_ID", "18")
    asked = itertools.count()

    def should_stop() -> bool:
        if next(asked) == 0:
            leave_out(cell.folder, "18")
        return False

    assert run_cell(cell.folder, "train", should_stop=should_stop) == "cancelled"
    assert next(asked) == 1, "at once"
    assert cell.folder.checkpoint_file.exists() and not cell.folder.failure_file.exists()

    monkeypatch.setenv("SUBMITIT_LOCAL_JOB_ID", "19")
    assert run(cell) == "finished"
    events = [event["event"] for event in read_lines(cell.folder.events_file)]
    assert [event for event in events if event != "epoch"] == ["start", "stop", "start", "trained"]


def test_a_wish_that_cannot_be_read_is_none(cell, monkeypatch):
    monkeypatch.setenv("SUBMITIT_LOCAL_JOB_ID", "17")
    cell.folder.cancel_file.write_text('{"job": "1')
    assert run(cell) == "finished"
