"""The evaluation of one trained cell: evaluation.json, slices.jsonl and its pictures. Runs on every rank."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from msgspec import UNSET
from torch import nn

from hpcseg import metrics
from hpcseg.config import EvaluateConfig, NoiseLevel
from hpcseg.data.batches import TileSource
from hpcseg.data.classes import IGNORED
from hpcseg.data.evenly import evenly
from hpcseg.data.grey import GreyScale
from hpcseg.data.noisy_tiles import test_tiles
from hpcseg.data.room import Room
from hpcseg.errors import HpcsegError
from hpcseg.files import write_bytes
from hpcseg.learn.precision import to_device
from hpcseg.learn.ranks import Ranks
from hpcseg.runs.counting import Counting, read_counts
from hpcseg.runs.grid import Cell
from hpcseg.runs.heartbeat import Heartbeat, say_what_is_lost
from hpcseg.runs.inputs import Handed, load_model, planned_provenance, planned_source, seconds_between_checkpoints
from hpcseg.runs.machine import describe_process, peak_memory_mib
from hpcseg.runs.record import SCHEMA, STOPS, SURE, append_event, read_as, write_record, write_text
from hpcseg.runs.schema import Evaluated, EvaluatedPoint, EvaluatedSlice, Matrix, Trained
from hpcseg.segment.edges import near_edge
from hpcseg.segment.network import Network, TrainedUNet, Wishes
from hpcseg.segment.slices import WholeSlices
from hpcseg.segment.sweep import Sweep
from hpcseg.sigma import Share

_EXAMPLES = 3
"""Tiles that are kept as pictures, evenly spaced over the test set."""
_PICTURE_EDGE = 512
"""The longest edge in pixels of the pictures of the best and the worst slice."""
_NO_EDGE = 2**31
"""Stands for a slice that is taken whole, where the smallest edge of all ranks is wanted."""


def evaluate(cell: Cell, ranks: Ranks, should_stop: Callable[[], bool], handed: Handed) -> bool:
    """Evaluate a trained cell and write evaluation.json; False where `should_stop` ended it, with a checkpoint.

    Raises:
        HpcsegError: the split or the model is not the one of the training.
        IncompleteError: there is no model.
    """
    training = read_as(Trained, cell.folder.training_file)
    source = planned_source(cell)
    if source.split.sha256() != training.split_sha256:
        raise HpcsegError(
            f"{cell.id}: the split of the tiles is no longer the one that the model was trained on, so a test would "
            "mix training tiles in. An older hpcseg divided tiles that overlap, and another numpy may draw other lots. "
            f"Use the versions in its training.json, or move {cell.folder.path} away and run `hpcseg grid` again to "
            "train anew."
        )
    model, model_sha256 = load_model(cell, source.classes, handed)
    if model_sha256 != training.model_sha256:
        raise HpcsegError(
            f"{cell.folder.model_file} is not the model of training.json. Delete both, then run `hpcseg grid` again."
        )
    settings, precision = cell.config.evaluate, training.precision
    belongs = {
        "model": model_sha256,
        "data": source.info.data_sha256,
        "split": training.split_sha256,
        # As a record has them: a share of the span is a text of a class of its own, for which a checkpoint has no room.
        "settings": json.loads(json.dumps(dataclasses.asdict(settings))),
        "precision": precision,
        # A checkpoint from before these were counted has no such counts.
        "edge distances": list(metrics.EDGE_DISTANCES),
        "sure bins": metrics.SURE_BINS,
    }
    kept, note = None, ""
    if ranks.is_main:
        kept, complaint = read_counts(cell.folder.evaluation_checkpoint_file, belongs)
        note = say_what_is_lost(cell, [complaint] if complaint else [], begins="the first tile")
    levels = settings.levels()
    # First, since the memory that is left then is what slices may take.
    tiles = test_tiles(
        source, source.split.test, levels=levels, seed=settings.seed, device=ranks.device, room=Room(ranks.device)
    )
    # Before the model moves: see `Network`.
    network = Network([_trained(cell, model, source, precision)], Wishes(tile=settings.tile or None), ranks.device)
    edge = _agreed_edge(network.tile_edge(*source.info.shape[1:]), kept, ranks)
    whole = source.test_slices() if settings.whole_slices else np.empty(0, dtype=np.int64)
    slices = WholeSlices(network, source, whole, edge=edge, device=ranks.device)
    to_device(model, ranks.device)
    shown = settings.headline_levels()
    sweep = Sweep(model, tiles, levels, classes=source.classes, precision=precision, sure=shown)
    heartbeat = Heartbeat(cell, "evaluate", ranks, note)
    counting = Counting(
        (sweep, slices),
        {
            "by band": sweep.by_band,
            "right": sweep.right,
            "interfaces": sweep.interfaces,
            "label interfaces": sweep.label_interfaces,
            "sure": sweep.sure,
            "slices": slices.confusion,
        },
        ranks,
        file=cell.folder.evaluation_checkpoint_file,
        belongs=belongs,
        kept={"edge": edge},
        seconds_between_checkpoints=seconds_between_checkpoints(),
        should_stop=should_stop,
        on_piece=lambda done, of: heartbeat.beat(epoch=1, step=done, steps_per_epoch=of),
    )
    counting.restore(kept)
    if ranks.is_main:
        where = describe_process(ranks)
        append_event(cell.folder.events_file, "evaluate", done=counting.done, pieces=counting.pieces, **where)
    if not counting.run():
        if ranks.is_main:
            append_event(cell.folder.events_file, STOPS["evaluate"], done=counting.done, pieces=counting.pieces)
        return False
    memory = peak_memory_mib(ranks)
    if ranks.is_main:
        counted = (sweep.by_band, sweep.interfaces, sweep.sure, sweep.right)
        by_band, interfaces, sure, right = (counts.cpu().numpy() for counts in counted)
        labelled = tiles.labelled
        lines = _by_slice(
            source, settings, right, labelled, dict(zip(whole.tolist(), slices.confusion.tolist(), strict=True))
        )
        by_slice = "".join(json.dumps(line.as_dict()) + "\n" for line in lines)
        write_text(cell.folder.slices_file, by_slice)
        pictures = {}
        if cell.config.data.normalise == "full-scale":
            pictures[cell.folder.extremes_file] = _extremes(source, lines, slices)
        if settings.examples:
            pictures[cell.folder.examples_file] = _examples(source, settings, sweep, slices)
        else:
            cell.folder.examples_file.unlink(missing_ok=True)
        for file, content in pictures.items():
            write_bytes(file, content)
        seconds = round(counting.seconds, 3)
        record = Evaluated(
            schema=SCHEMA,
            id=cell.id,
            settings=dataclasses.asdict(settings),
            model_sha256=model_sha256,
            test_tiles=len(tiles),
            class_values=list(source.info.class_values),
            class_names=list(source.info.class_names),
            grey=source.info.grey.as_dict(),
            points=[
                _point(level, matrices, pairs, how_sure if level in shown else None, source.info.grey)
                for level, matrices, pairs, how_sure in zip(levels, by_band, interfaces, sure, strict=True)
            ],
            label_interfaces=sweep.label_interfaces.tolist(),
            slices_sha256=hashlib.sha256(by_slice.encode()).hexdigest(),
            pictures_sha256={file.name: hashlib.sha256(one).hexdigest() for file, one in pictures.items()},
            tile_edge=edge if settings.whole_slices else None,
            precision=precision,
            world_size=ranks.world_size,
            seconds=seconds,
            peak_memory_mib=memory,
            provenance=planned_provenance(cell, ranks),
        )
        write_record(cell.folder.evaluation_file, record.as_dict())
        append_event(cell.folder.events_file, "evaluated", seconds=seconds)
        # Those of the training, too: a kill behind training.json has left them.
        for file in cell.folder.checkpoint_files():
            file.unlink(missing_ok=True)
    return True


def _trained(cell: Cell, model: nn.Module, source: TileSource, precision: str) -> TrainedUNet:
    return TrainedUNet(
        network=model,
        classes=source.classes,
        width=cell.config.train.width,
        depth=cell.config.train.depth,
        tile_size=source.size,
        precision=precision,
    )


def _agreed_edge(own: int | None, kept: dict[str, Any] | None, ranks: Ranks) -> int | None:
    """Edge of tiles for all slices on all ranks, in this start and the next; None: they are taken whole.

    Args:
        own: what this rank's memory, or the setting, asks for.
        kept: on rank 0, the checkpoint with which the evaluation goes on.
        ranks: whose smallest edge counts, where there is no checkpoint.
    """
    if ranks.largest(kept is not None):
        return ranks.largest(kept["edge"] or 0 if kept else 0) or None
    smallest = -ranks.largest(-(own or _NO_EDGE))
    return None if smallest == _NO_EDGE else smallest


def _by_slice(
    source: TileSource,
    settings: EvaluateConfig,
    right: np.ndarray,
    labelled: np.ndarray,
    whole: Mapping[int, Matrix],
) -> list[EvaluatedSlice]:
    """slices.jsonl: for each slice that test tiles come from, their right pixels at the levels that tables show."""
    levels = settings.levels()
    shown = [levels.index(level) for level in settings.headline_levels()]
    tiles = source.tiles[source.split.test]
    lines = []
    for index in source.test_slices().tolist():
        rows = tiles[:, 0] == index
        line = EvaluatedSlice(
            slice=int(source.info.numbers[index]),
            pixels=int(labelled[rows].sum()),
            right={levels[level].key: int(right[level, rows].sum()) for level in shown},
            whole=whole.get(index, UNSET),
        )
        lines.append(line)
    return lines


def _extremes(source: TileSource, lines: list[EvaluatedSlice], slices: WholeSlices) -> bytes:
    """extremes.npz: the test slices with the largest and the smallest share of right pixels, without noise, in small.

    Where whole slices are not counted, their test tiles say which these are.
    """
    clean = NoiseLevel(0.0).key
    counts = [
        (np.trace(line.whole), np.sum(line.whole)) if line.whole is not UNSET else (line.right[clean], line.pixels)
        for line in lines
    ]
    # Of a slice without a labelled pixel it is not known.
    shares = [float(right) / float(pixels) if pixels else np.nan for right, pixels in counts]
    if np.isnan(shares).all():
        return _packed({})
    places = [int(np.nanargmax(shares)), int(np.nanargmin(shares))]
    step = -(-max(source.info.shape[1:]) // _PICTURE_EDGE)
    pictures: dict[str, list[np.ndarray]] = {"images": [], "labels": [], "predictions": [], "errors": []}
    for index in source.test_slices()[places].tolist():
        image, label = source.read_slice(index)
        predicted = slices.predict(index)
        pictures["images"].append(_reduced(image, step).astype(image.dtype))
        pictures["labels"].append(label[::step, ::step])
        pictures["predictions"].append(predicted[::step, ::step])
        pictures["errors"].append(_reduced((label != predicted) & (label != IGNORED), step).astype(np.float16))
    numbers = [lines[place].slice for place in places]
    return _packed({**pictures, "numbers": numbers, "shares": [shares[place] for place in places]})


def _reduced(values: np.ndarray, step: int) -> np.ndarray:
    """(H, W) as means of blocks of step x step, those at the lower and right edge of what is there."""
    rows, columns = (range(0, length, step) for length in values.shape)

    def sums(of: np.ndarray) -> np.ndarray:
        summed: np.ndarray = np.add.reduceat(np.add.reduceat(of, rows, 0), columns, 1)
        return summed

    means: np.ndarray = sums(values.astype(np.float64)) / sums(np.ones(values.shape))
    return means


def _examples(source: TileSource, settings: EvaluateConfig, sweep: Sweep, slices: WholeSlices) -> bytes:
    """examples.npz: some test tiles with their predictions at sigma 0 and at the table's, and a whole slice.

    Tiles are as they were packed; their noise follows from `keys` and the evaluation's seed.
    """
    tests = source.split.test
    rows = evenly(len(tests), _EXAMPLES)
    counts, labels, keys = source.read(tests[rows])
    if source.config.context:
        counts, keys = (of_channels[:, source.config.context] for of_channels in (counts, keys))
    predictions = [
        [sweep.predict(slice(row, row + 1), level)[0][0].cpu().numpy() for row in rows.tolist()]
        for level in (NoiseLevel(0.0), NoiseLevel(settings.table_sigma))
    ]
    arrays: dict[str, Any] = {
        "tiles": counts,
        "tile_labels": labels,
        "tile_keys": keys,
        "tile_predictions": np.array(predictions, dtype=np.uint8),
    }
    if settings.whole_slices:
        index = int(source.test_slices()[len(source.test_slices()) // 2])
        image, label = source.read_slice(index)
        arrays |= {
            "slice_number": np.array(source.info.numbers[index]),
            "slice": image,
            "slice_label": label,
            "slice_prediction": slices.predict(index),
        }
    return _packed(arrays)


def _packed(arrays: Mapping[str, Any]) -> bytes:
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    return packed.getvalue()


def _point(
    level: NoiseLevel, by_band: np.ndarray, interfaces: np.ndarray, sure: np.ndarray | None, grey: GreyScale
) -> EvaluatedPoint:
    """One noise level of evaluation.json: the counts, and for readers of the file what follows from them."""
    confusion = by_band.sum(0)
    return EvaluatedPoint(
        **level.as_record(),
        sigma_counts=grey.counts(level.sigma) if isinstance(level.sigma, Share) else UNSET,
        confusion=confusion.tolist(),
        near_edge=near_edge(by_band),
        interfaces=interfaces.tolist(),
        **({} if sure is None else dict(zip(SURE, sure.tolist(), strict=True))),
        accuracy=metrics.accuracy(confusion),
        mean_iou=_finite(metrics.mean_iou(confusion)),
        iou=[_finite(value) for value in metrics.iou_per_class(confusion)],
        dice=[_finite(value) for value in metrics.dice_per_class(confusion)],
    )


def _finite(value: float) -> float | None:
    """JSON has no NaN: the ratio of a class that is absent is null."""
    return float(value) if value == value else None
