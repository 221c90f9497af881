"""One stage of one cell: reads its config.json, composes data and learn, writes its record. Runs on every rank."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
from torch import nn

from hpcseg.data.batches import TileSource, open_source, test_set, training_set
from hpcseg.errors import ConfigError, HpcsegError, IncompleteError
from hpcseg.learn import checkpoint, metrics
from hpcseg.learn.evaluate import sweep
from hpcseg.learn.loop import Position, Trainer
from hpcseg.learn.precision import resolve_precision, to_device
from hpcseg.learn.ranks import Ranks, join, read_environment
from hpcseg.learn.unet import build_unet
from hpcseg.runs import provenance
from hpcseg.runs.grid import Cell, Stage, read_cell
from hpcseg.runs.heartbeat import Heartbeat
from hpcseg.runs.machine import describe_process, device_facts, peak_memory_mib
from hpcseg.runs.record import SCHEMA, CellFolder, append_event, read_json, read_lines, write_json, write_text

Outcome = Literal["finished", "stopped", "busy"]


def run_cell(folder: CellFolder, stage: Stage, *, should_stop: Callable[[], bool]) -> Outcome:
    """Train or evaluate a cell from wherever its files say that it stands. Every rank calls it.

    Args:
        folder: of the cell, with its config.json; seen by all ranks.
        stage: "train", or "evaluate" for a trained cell.
        should_stop: asked between steps; True on any rank makes all ranks stop at the same step.

    Returns:
        "finished" when the stage's record is written (or was there already); "stopped" when `should_stop` ended
        it, with a checkpoint written; "busy" when another process is running this cell.

    Raises:
        HpcsegError: anything that the user can mend; failure.json has the text, as for every other exception.
    """
    environment, started = read_environment(), time.time()
    cell = read_cell(folder)
    if cell.evaluated() or (stage == "train" and cell.trained()):
        return "finished"
    try:
        with join(environment, folder.path) as ranks, _lock(folder, ranks) as free:
            # Rank 0 alone knows, and all must leave together.
            if ranks.largest(not free):
                return "busy"
            if ranks.is_main:
                folder.failure_file.unlink(missing_ok=True)
            try:
                return (_train if stage == "train" else _evaluate)(cell, ranks, should_stop)
            finally:
                if ranks.is_main:
                    folder.progress_file.unlink(missing_ok=True)
    except Exception as error:
        _record_failure(folder, stage, environment.rank, error, started)
        raise


def _train(cell: Cell, ranks: Ranks, should_stop: Callable[[], bool]) -> Outcome:
    config = cell.config.train
    source = _source(cell)
    precision = resolve_precision(config.precision, ranks.device)
    heartbeat = Heartbeat(cell, "train", ranks)

    def on_step(position: Position, steps: int) -> None:
        heartbeat.beat(position.history, epoch=position.epoch + 1, step=position.step, steps_per_epoch=steps)

    def on_epoch(history: list[dict[str, Any]], seconds: float, tiles: int) -> None:
        if ranks.is_main:
            _write_metrics(cell.folder, history)
            speed = round(tiles / seconds, 2)
            append_event(
                cell.folder.events_file,
                "epoch",
                epoch=len(history),
                seconds=round(seconds, 3),
                tiles_per_second=speed,
            )

    trainer = Trainer(
        config=config,
        model=build_unet(
            classes=source.classes,
            width=config.width,
            depth=config.depth,
            batch_norm=config.batch_norm,
            seed=config.seed,
        ),
        training=training_set(source, source.split.train, config, ranks.device),
        validation=training_set(source, source.split.validation, config, ranks.device),
        classes=source.classes,
        precision=precision,
        ranks=ranks,
        checkpoint_file=cell.folder.checkpoint_file,
        previous_checkpoint_file=cell.folder.previous_checkpoint_file,
        seconds_between_checkpoints=_seconds_between_checkpoints(),
        should_stop=should_stop,
        on_step=on_step,
        on_epoch=on_epoch,
    )
    complaints = trainer.restore()
    position = trainer.position
    if ranks.is_main:
        for complaint in complaints:
            append_event(cell.folder.events_file, "damaged", what=complaint)
        resumes = position.epoch or position.step
        append_event(cell.folder.events_file, "resume" if resumes else "start", **describe_process(ranks))
    finished = trainer.fit()
    if not finished:
        if ranks.is_main:
            append_event(cell.folder.events_file, "stop", epoch=position.epoch, step=position.step)
        return "stopped"
    memory = peak_memory_mib(ranks)
    if ranks.is_main:
        weights = trainer.model.state_dict()
        checkpoint.save(cell.folder.model_file, weights)
        # Once more from the checkpoint's history: a start that only had the last line left to write has one too.
        _write_metrics(cell.folder, position.history)
        write_json(
            cell.folder.training_file,
            {
                "schema": SCHEMA,
                "id": cell.id,
                "epochs": position.epoch,
                "steps": position.epoch * trainer.steps,
                "train_tiles": len(trainer.training),
                "validation_tiles": len(trainer.validation),
                "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
                "precision": precision,
                "world_size": ranks.world_size,
                "seconds": round(position.seconds, 3),
                "peak_memory_mib": memory,
                "starts": _starts(cell.folder),
                "validation_loss": position.history[-1]["validation_loss"],
                "validation_confusion": position.history[-1]["validation_confusion"],
                "split_sha256": source.split.sha256(),
                "model_sha256": checkpoint.weights_sha256(weights),
                "provenance": _provenance(cell, ranks),
            },
        )
        append_event(cell.folder.events_file, "trained", seconds=round(position.seconds, 3))
        cell.folder.checkpoint_file.unlink(missing_ok=True)
        cell.folder.previous_checkpoint_file.unlink(missing_ok=True)
    return "finished"


def _evaluate(cell: Cell, ranks: Ranks, should_stop: Callable[[], bool]) -> Outcome:
    training = read_json(cell.folder.training_file)
    source = _source(cell)
    if source.split.sha256() != training["split_sha256"]:
        raise HpcsegError(
            f"{cell.id}: the split of the tiles is no longer the one that the model was trained on, so a test would "
            "mix training tiles in. Use the numpy version of the training (training.json has it)."
        )
    model, model_sha256 = load_model(cell, source.classes)
    if model_sha256 != training["model_sha256"]:
        raise HpcsegError(
            f"{cell.folder.model_file} is not the model of training.json. Delete both, then run `hpcseg grid` again."
        )
    to_device(model, ranks.device)
    settings = cell.config.evaluate
    sigmas = settings.sigmas()
    precision = training["precision"]
    heartbeat = Heartbeat(cell, "evaluate", ranks)

    def on_chunk(done: int, of: int) -> bool:
        heartbeat.beat([], epoch=1, step=done, steps_per_epoch=of)
        return bool(ranks.largest(should_stop()))

    started = time.monotonic()
    tiles = test_set(source, seed=settings.seed, device=ranks.device)
    confusion = sweep(model, tiles, sigmas, classes=source.classes, precision=precision, ranks=ranks, on_chunk=on_chunk)
    if confusion is None:
        return "stopped"
    memory = peak_memory_mib(ranks)
    if ranks.is_main:
        seconds = round(time.monotonic() - started, 3)
        write_json(
            cell.folder.evaluation_file,
            {
                "schema": SCHEMA,
                "id": cell.id,
                "settings": dataclasses.asdict(settings),
                "model_sha256": model_sha256,
                "test_tiles": len(tiles),
                "class_values": list(source.info.class_values),
                "points": [_point(sigma, matrix) for sigma, matrix in zip(sigmas, confusion, strict=True)],
                "precision": precision,
                "world_size": ranks.world_size,
                "seconds": seconds,
                "peak_memory_mib": memory,
                "provenance": _provenance(cell, ranks),
            },
        )
        append_event(cell.folder.events_file, "evaluated", seconds=seconds)
    return "finished"


def load_model(cell: Cell, classes: int) -> tuple[nn.Module, str]:
    """A cell's trained U-Net on the CPU, and the SHA-256 of its weights.

    Raises:
        IncompleteError: the cell is not trained.
        HpcsegError: the file is damaged, or holds another model.
    """
    if not cell.folder.model_file.exists():
        raise IncompleteError(f"{cell.id} has no trained model yet. Run `hpcseg grid` first.")
    config = cell.config.train
    model = build_unet(
        classes=classes, width=config.width, depth=config.depth, batch_norm=config.batch_norm, seed=config.seed
    )
    weights = checkpoint.load(cell.folder.model_file)
    try:
        model.load_state_dict(weights)
    except RuntimeError:
        raise HpcsegError(
            f"{cell.folder.model_file} does not hold the U-Net that config.json describes. Delete it, then run "
            "`hpcseg grid` again."
        ) from None
    return model, checkpoint.weights_sha256(weights)


def _point(sigma: float, confusion: np.ndarray) -> dict[str, Any]:
    """One noise level of evaluation.json: the counts, and for readers of the file what follows from them."""
    return {
        "sigma": sigma,
        "confusion": confusion.tolist(),
        "accuracy": metrics.accuracy(confusion),
        "mean_iou": _finite(metrics.mean_iou(confusion)),
        "iou": [_finite(value) for value in metrics.iou_per_class(confusion)],
        "dice": [_finite(value) for value in metrics.dice_per_class(confusion)],
    }


def _provenance(cell: Cell, ranks: Ranks) -> dict[str, Any]:
    planned = read_json(cell.folder.config_file)
    return provenance.collect(
        device=device_facts(ranks.device), command=planned["command"], data_sha256=planned["data_sha256"]
    )


def _starts(folder: CellFolder) -> list[dict[str, Any]]:
    """Where and when the training began and went on: every job, every requeue."""
    return [line for line in read_lines(folder.events_file) if line.get("event") in ("start", "resume")]


def _finite(value: float) -> float | None:
    """JSON has no NaN: the ratio of a class that is absent is null."""
    return float(value) if value == value else None


def _source(cell: Cell) -> TileSource:
    stored = read_json(cell.folder.config_file)
    path = cell.folder.path / stored["data_file"]
    source = open_source(path.resolve(), cell.config.data)
    if source.info.data_sha256 != stored["data_sha256"]:
        raise HpcsegError(
            f"{path.name} holds other data than when the cell {cell.id} was planned. Run `hpcseg grid` again: it "
            "plans new cells for the new data and leaves the old ones alone."
        )
    if stored["code_sha256"] != provenance.code_sha256():
        raise HpcsegError(
            f"hpcseg was changed after the cell {cell.id} was planned, so its numbers would not be those of the "
            "planned code. Run `hpcseg grid` again: it plans new cells for the new code."
        )
    return source


def _seconds_between_checkpoints() -> float:
    """HPCSEG_CHECKPOINT_SECONDS, 30 where it is not set; it decides no number, so it is no setting of a cell."""
    wish = os.environ.get("HPCSEG_CHECKPOINT_SECONDS", "30")
    try:
        return max(0.0, float(wish))
    except ValueError:
        raise ConfigError(f'HPCSEG_CHECKPOINT_SECONDS is "{wish}", but it must be a number of seconds.') from None


def _write_metrics(folder: CellFolder, history: list[dict[str, Any]]) -> None:
    write_text(folder.metrics_file, "".join(json.dumps(line) + "\n" for line in history))


def _record_failure(folder: CellFolder, stage: Stage, rank: int, error: Exception, started: float) -> None:
    with contextlib.suppress(IncompleteError):
        # What failed first is the cause; ranks that lose their peer for it only follow.
        if read_json(folder.failure_file).get("time", 0.0) >= started:
            return
    # A full disk may be the failure itself, so writing about it may fail as well; the log has it then.
    with contextlib.suppress(HpcsegError):
        write_json(
            folder.failure_file,
            {
                "stage": stage,
                "error": f"{type(error).__name__}: {error}",
                "rank": rank,
                "host": provenance.node_name(),
                "job_id": provenance.slurm_job()["slurm_job_id"],
                "time": round(time.time(), 3),
            },
        )


@contextlib.contextmanager
def _lock(folder: CellFolder, ranks: Ranks) -> Iterator[bool]:
    """Whether this launch has the cell to itself; the kernel lets the lock go when its holder dies."""
    if not ranks.is_main:
        yield True
        return
    with folder.lock_file.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:
            # Some shared file systems have no locks; the ledger of submissions keeps cells apart there.
            pass
        yield True
