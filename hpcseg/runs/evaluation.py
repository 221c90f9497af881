"""The evaluation of one trained cell: evaluation.json, slices.jsonl and examples.npz. Runs on every rank."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import nn

from hpcseg.config import EvaluateConfig, NoiseLevel
from hpcseg.data.batches import NoisyTestSet, TileSource, test_set
from hpcseg.errors import HpcsegError
from hpcseg.files import write_bytes
from hpcseg.learn import metrics
from hpcseg.learn.evaluate import Counts, count_whole_slices, folded, segment, sweep
from hpcseg.learn.precision import to_device
from hpcseg.learn.ranks import Ranks
from hpcseg.runs.grid import Cell
from hpcseg.runs.heartbeat import Heartbeat
from hpcseg.runs.inputs import load_model, planned_provenance, planned_source
from hpcseg.runs.machine import peak_memory_mib
from hpcseg.runs.provenance import slurm_job
from hpcseg.runs.record import SCHEMA, append_event, read_json, write_json, write_text

_MOST_RESTARTS = 10
_EXAMPLES = 3
"""Tiles that are kept as pictures, evenly spaced over the test set."""


def evaluate(cell: Cell, ranks: Ranks, should_stop: Callable[[], bool]) -> bool:
    """Evaluate a trained cell and write evaluation.json; False where `should_stop` ended it, with nothing written.

    Raises:
        HpcsegError: the split or the model is not the one of the training.
        IncompleteError: there is no model.
    """
    restarts = int(slurm_job()["slurm_restart_count"] or 0)
    if restarts >= _MOST_RESTARTS:
        # An evaluation begins afresh each time, so its job would come back for ever.
        raise HpcsegError(
            f"The evaluation of {cell.id} was begun {restarts} times in one job and never came to its end: the time "
            "limit is too short for it. Run `hpcseg retry --time MINUTES`."
        )
    training = read_json(cell.folder.training_file)
    source = planned_source(cell)
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
    levels = settings.levels()
    whole = source.test_slices() if settings.whole_slices else np.empty(0, dtype=np.int64)
    precision = training["precision"]
    heartbeat = Heartbeat(cell, "evaluate", ranks)

    def on_part(done: int, of: int) -> bool:
        heartbeat.beat([], epoch=1, step=done, steps_per_epoch=of)
        return bool(ranks.largest(should_stop()))

    started = time.monotonic()
    tiles = test_set(source, levels=levels, seed=settings.seed, device=ranks.device)
    counts = sweep(model, tiles, levels, classes=source.classes, precision=precision, ranks=ranks, on_chunk=on_part)
    if counts is None:
        return False
    of_slices = count_whole_slices(model, source, whole, precision=precision, ranks=ranks, on_slice=on_part)
    if of_slices is None:
        return False
    memory = peak_memory_mib(ranks)
    if ranks.is_main:
        by_slice = _by_slice(source, settings, tiles, counts, dict(zip(whole.tolist(), of_slices, strict=True)))
        write_text(cell.folder.slices_file, by_slice)
        if settings.examples:
            write_bytes(cell.folder.examples_file, _examples(model, source, tiles, settings, precision, ranks))
        else:
            cell.folder.examples_file.unlink(missing_ok=True)
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
                "points": [_point(level, matrix) for level, matrix in zip(levels, counts.confusion, strict=True)],
                "slices_sha256": hashlib.sha256(by_slice.encode()).hexdigest(),
                "precision": precision,
                "world_size": ranks.world_size,
                "seconds": seconds,
                "peak_memory_mib": memory,
                "provenance": planned_provenance(cell, ranks),
            },
        )
        append_event(cell.folder.events_file, "evaluated", seconds=seconds)
    return True


def _by_slice(
    source: TileSource,
    settings: EvaluateConfig,
    tiles: NoisyTestSet,
    counts: Counts,
    whole: dict[int, np.ndarray],
) -> str:
    """slices.jsonl: for each slice that test tiles come from, their right pixels at the levels that tables show."""
    levels = settings.levels()
    shown = [levels.index(level) for level in settings.headline_levels()]
    table = source.table[source.split.test]
    lines = []
    for index in source.test_slices().tolist():
        rows = table[:, 0] == index
        line: dict[str, Any] = {
            "slice": int(source.info.numbers[index]),
            "pixels": int(rows.sum()) * source.size**2,
            "right": {levels[level].key: int(counts.right[level, rows].sum()) for level in shown},
        }
        if index in whole:
            line["whole"] = whole[index].tolist()
        lines.append(json.dumps(line) + "\n")
    return "".join(lines)


def _examples(
    model: nn.Module,
    source: TileSource,
    tiles: NoisyTestSet,
    settings: EvaluateConfig,
    precision: str,
    ranks: Ranks,
) -> bytes:
    """examples.npz: some test tiles with their predictions at sigma 0 and at the table's, and a whole slice.

    Tiles are as they were packed; their noise follows from `keys` and the evaluation's seed.
    """
    lean, scale = folded(model), source.info.full_scale
    rows = np.unique(np.linspace(0, len(tiles) - 1, _EXAMPLES).round().astype(np.int64))
    counts, labels, keys = source.read(source.split.test[rows])
    at_levels = [
        [
            segment(lean, tiles.take(slice(row, row + 1), level)[0][0, 0].cpu().numpy(), 1.0, precision, ranks.device)
            for row in rows.tolist()
        ]
        for level in (NoiseLevel(0.0), NoiseLevel(settings.table_sigma))
    ]
    arrays: dict[str, Any] = {
        "full_scale": np.array(scale),
        "tiles": counts,
        "tile_labels": labels,
        "tile_keys": keys,
        "tile_predictions": np.array([[found.cpu().numpy() for found in level] for level in at_levels], dtype=np.uint8),
    }
    if settings.whole_slices:
        index = int(source.test_slices()[len(source.test_slices()) // 2])
        image, label = source.read_slice(index)
        predicted = segment(lean, image, scale, precision, ranks.device).cpu().numpy().astype(np.uint8)
        arrays |= {
            "slice_number": np.array(source.info.numbers[index]),
            "slice": image,
            "slice_label": label,
            "slice_prediction": predicted,
        }
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    return packed.getvalue()


def _point(level: NoiseLevel, confusion: np.ndarray) -> dict[str, Any]:
    """One noise level of evaluation.json: the counts, and for readers of the file what follows from them."""
    return {
        "noise": level.model,
        "sigma": level.sigma,
        "fraction": level.fraction,
        "confusion": confusion.tolist(),
        "accuracy": metrics.accuracy(confusion),
        "mean_iou": _finite(metrics.mean_iou(confusion)),
        "iou": [_finite(value) for value in metrics.iou_per_class(confusion)],
        "dice": [_finite(value) for value in metrics.dice_per_class(confusion)],
    }


def _finite(value: float) -> float | None:
    """JSON has no NaN: the ratio of a class that is absent is null."""
    return float(value) if value == value else None
