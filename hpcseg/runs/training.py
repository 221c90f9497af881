"""The training of one cell, from wherever its files say that it stands to training.json. Runs on every rank."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np

from hpcseg.config import AUTO, TrainConfig
from hpcseg.data.batches import TileSource
from hpcseg.data.likeness import too_near
from hpcseg.data.room import Room
from hpcseg.data.tiles import overlap
from hpcseg.data.training_tiles import TrainingTiles, validation_set
from hpcseg.learn import checkpoint
from hpcseg.learn.loop import KEPT, Position, Trainer
from hpcseg.learn.objective import class_weights
from hpcseg.learn.precision import agree_on_precision
from hpcseg.learn.ranks import Ranks
from hpcseg.learn.unet import build_unet
from hpcseg.learn.writer import Writer
from hpcseg.runs.folder import CellFolder
from hpcseg.runs.grid import Cell, planned
from hpcseg.runs.heartbeat import Heartbeat, say_what_is_lost
from hpcseg.runs.inputs import Handed, planned_provenance, planned_source, seconds_between_checkpoints
from hpcseg.runs.machine import describe_process, peak_memory_mib
from hpcseg.runs.record import SCHEMA, STOPS, append_event, read_lines, write_record, write_text
from hpcseg.runs.schema import Trained


def train(
    cell: Cell,
    ranks: Ranks,
    should_stop: Callable[[], bool],
    on_epoch_written: Callable[[], None] | None,
    handed: Handed,
) -> bool:
    """Train a cell and write its model and training.json; False where `should_stop` ended it, with a checkpoint.

    On rank 0 `handed` has the weights then.
    """
    source = planned_source(cell)
    config = cell.config.train
    files = (cell.folder.checkpoint_file, cell.folder.previous_checkpoint_file)
    content, complaints = checkpoint.load_newest(files, KEPT)
    # "auto" is decided once: a training goes on as it began, also on a node of another kind. All ranks ask, also where
    # they read different checkpoints, which is told when they are restored.
    precision = agree_on_precision(content["precision"] if content else config.precision, ranks)
    reached = content["position"]["epoch"] if content else 0
    note = say_what_is_lost(cell, complaints, begins=f"epoch {reached + 1}") if ranks.is_main else ""
    heartbeat = Heartbeat(cell, "train", ranks, note)
    writer = Writer()

    def on_step(position: Position, steps: int) -> None:
        heartbeat.beat(epoch=position.epoch + 1, step=position.step, steps_per_epoch=steps)

    def on_epoch(history: list[dict[str, Any]], seconds: float, tiles: int) -> None:
        if ranks.is_main:
            writer.begin(_write_epoch, cell.folder, list(history), seconds, tiles)
            if on_epoch_written is not None:
                writer.wait()
                on_epoch_written()

    room = Room(ranks.device)
    validation = validation_set(source, source.split.validation, config, ranks.device, room)
    training = TrainingTiles(source, source.split.train, config, ranks.device, room)
    trainer = Trainer(
        config=config,
        model=build_unet(
            classes=source.classes,
            channels=cell.config.data.channels,
            width=config.width,
            depth=config.depth,
            batch_norm=config.batch_norm,
            seed=config.seed,
        ),
        training=training,
        validation=validation,
        classes=source.classes,
        precision=precision,
        origin=_origin(cell, source),
        ranks=ranks,
        checkpoint_file=cell.folder.checkpoint_file,
        previous_checkpoint_file=cell.folder.previous_checkpoint_file,
        seconds_between_checkpoints=seconds_between_checkpoints(),
        should_stop=should_stop,
        on_step=on_step,
        on_epoch=on_epoch,
        weights=_class_weights(config, source),
        writer=writer,
    )
    trainer.restore(content)
    del content  # as large as the model and the state of its optimizer
    position = trainer.position
    if ranks.is_main:
        resumes = position.epoch or position.step
        told = {"precision": precision, "graphs": trainer.graphs, "tiles": training.place, **describe_process(ranks)}
        append_event(cell.folder.events_file, "resume" if resumes else "start", **told)
    finished = trainer.fit()
    if not finished:
        if ranks.is_main:
            append_event(cell.folder.events_file, STOPS["train"], epoch=position.epoch, step=position.step)
        return False
    kept = position.history[trainer.kept_epoch - 1]
    memory, called = peak_memory_mib(ranks), trainer.called  # on all ranks, which may have to meet for it
    if ranks.is_main:
        weights = trainer.model.state_dict()
        for name, tensor in weights.items():
            weights[name] = tensor.cpu()
        checkpoint.save(cell.folder.model_file, weights)
        handed.weights, handed.sha256 = weights, checkpoint.weights_sha256(weights)
        # Once more: a kill between a checkpoint and its epoch's line leaves that out.
        metrics = _write_metrics(cell.folder, position.history)
        record = Trained(
            schema=SCHEMA,
            id=cell.id,
            epochs=position.epoch,
            kept_epoch=kept["epoch"],
            steps=position.epoch * trainer.steps,
            train_tiles=len(trainer.training),
            train_slices=len(np.unique(source.tiles[source.split.train, 0])),
            train_labelled_pixels=trainer.training.pixels,
            validation_tiles=len(trainer.validation),
            grey=source.info.grey.as_dict(),
            parameters=sum(parameter.numel() for parameter in trainer.model.parameters()),
            precision=precision,
            world_size=ranks.world_size,
            called=called,
            seconds=round(position.seconds, 3),
            peak_memory_mib=memory,
            starts=_starts(cell.folder),
            validation_loss=kept["validation_loss"],
            validation_confusion=kept["validation_confusion"],
            split_sha256=source.split.sha256(),
            gap_slices=source.split.gap_slices,
            gap_capped=_gap_is_capped(cell, source),
            metrics_sha256=hashlib.sha256(metrics.encode()).hexdigest(),
            model_sha256=handed.sha256,
            provenance=planned_provenance(cell, ranks),
        )
        write_record(cell.folder.training_file, record.as_dict())
        append_event(cell.folder.events_file, "trained", seconds=round(position.seconds, 3))
        cell.folder.checkpoint_file.unlink(missing_ok=True)
        cell.folder.previous_checkpoint_file.unlink(missing_ok=True)
    return True


def _class_weights(config: TrainConfig, source: TileSource) -> list[float] | None:
    if config.class_weights == "none":
        return None
    return class_weights(config.class_weights, source.class_pixels(source.split.train, to_learn=True).tolist())


def _gap_is_capped(cell: Cell, source: TileSource) -> bool:
    """Whether a gap of "auto" left two sets no farther apart than slices are alike."""
    split, alike, data = source.split, source.info.alike_slices, cell.config.data
    if split.gap_slices is None or alike is None or data.gap_slices != AUTO:
        return False
    sets = (np.unique(source.tiles[rows, 0]) for rows in (split.train, split.validation, split.test))
    return too_near(sets, alike, source.info.numbers, data.context)


def _origin(cell: Cell, source: TileSource) -> dict[str, Any]:
    """What the trained weights depend on beside the precision, under one name each."""
    stored = planned(cell.folder)
    settings = {
        # A share of the span is a text of a class of its own, which a checkpoint has no room for.
        f"{section}.{name}": str(value) if isinstance(value, str) else value
        for section, values in cell.config.decisive().items()
        for name, value in values.items()
    }
    if source.split.gap_slices is None and overlap(source.tiles[source.tiles[:, 0] == 0, 1:], source.size):
        # Such tiles were once divided one by one, and what has seen some of a slice must not meet the others as a test.
        settings["data.split"] = "shuffled by slices"
    return {**settings, "data_sha256": stored.data_sha256, "numerics": stored.numerics}


def _starts(folder: CellFolder) -> list[dict[str, Any]]:
    """Where and when the training began and went on: every job, every requeue."""
    return [line for line in read_lines(folder.events_file) if line.get("event") in ("start", "resume")]


def _write_epoch(folder: CellFolder, history: list[dict[str, Any]], seconds: float, tiles: int) -> None:
    _write_metrics(folder, history)
    speed = round(tiles / seconds, 2)
    append_event(folder.events_file, "epoch", epoch=len(history), seconds=round(seconds, 3), tiles_per_second=speed)


def _write_metrics(folder: CellFolder, history: list[dict[str, Any]]) -> str:
    """Write metrics.jsonl; returns its text."""
    text = "".join(json.dumps(line) + "\n" for line in history)
    write_text(folder.metrics_file, text)
    return text
