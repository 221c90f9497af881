"""All measurements of one bench as one JSON-like record: what was measured, medians, ratios, shares of the peak."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpcseg.bench import hardware, startup, sweeping, training
from hpcseg.bench.contender import compare
from hpcseg.bench.hardware import count_operations
from hpcseg.bench.measure import Rates
from hpcseg.bench.packing import COMPRESSIONS, measure_packing
from hpcseg.config import DataConfig
from hpcseg.data.batches import open_source
from hpcseg.learn.precision import resolve_precision
from hpcseg.learn.ranks import Ranks
from hpcseg.runs.machine import device_facts
from hpcseg.runs.provenance import collect, command_line

SCHEMA = 3
PARTS = ("training", "sweep", "pack", "startup")
# About as large as the paper's, and as many.
_SLICES, _SIZE = 512, 512


def run_bench(
    data: Path,
    *,
    widths: Sequence[int],
    batch_size: int,
    parts: Sequence[str],
    ranks: Ranks,
    seconds: float,
    rounds: int,
    on_part: Callable[[str], None],
) -> dict[str, Any]:
    """Measure this machine.

    Args:
        data: the packed data set, of slices that hold the 3 x 3 grid of 128 x 128 tiles.
        widths: of the networks.
        batch_size: tiles per training step.
        parts: of `PARTS`, which to measure.
        ranks: of this process, which is alone; its device is the one that is measured.
        seconds: that a piece of a contender takes, or one step if that is longer.
        rounds: pieces of each contender.
        on_part: told what begins.
    """
    source = open_source(data, DataConfig(tiles="large"))
    precision = resolve_precision("auto", ranks.device)
    on_part("what the hardware can do")
    peak = hardware.measure_peak(ranks.device, precision, seconds=seconds, rounds=rounds)
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "precision": precision,
        "seconds": seconds,
        "rounds": rounds,
        "batch_size": batch_size,
        "tile_size": source.size,
        "provenance": collect(
            device=device_facts(ranks.device), command=command_line(), data_sha256=source.info.data_sha256
        ),
        "hardware": {"operations_per_second": _medians(peak)},
    }
    best = max(record["hardware"]["operations_per_second"].values())
    for width in widths:
        model = training.network(source, training.settings(width, batch_size))
        evaluation, step = count_operations(model, source.size)
        if "training" in parts:
            on_part(f"training, width {width}")
            work = {"data": str(data), "width": width, "batch_size": batch_size}
            record.setdefault("training", {})[str(width)] = {
                **_against(_of_both(training, work, seconds, rounds), training, step, best),
                "memory_mib": training.measure_memory(data, width=width, batch_size=batch_size, device=ranks.device),
            }
        if "sweep" in parts:
            on_part(f"sweep, width {width}")
            rates = _of_both(sweeping, {"data": str(data), "width": width}, seconds, rounds)
            record.setdefault("sweep", {})[str(width)] = _against(rates, sweeping, evaluation, best)
    if "pack" in parts:
        for compression in COMPRESSIONS:
            on_part(f"pack, compression {compression}")
            with tempfile.TemporaryDirectory(dir=data.resolve().parent) as folder:
                record.setdefault("pack", {})[compression] = measure_packing(
                    Path(folder), compression=compression, slices=_SLICES, size=_SIZE, seconds=seconds, rounds=rounds
                )
    if "startup" in parts:
        on_part("start-up")
        rates = startup.measure_startup(data, tile_size=source.size, seconds=seconds, rounds=rounds)
        record["startup"] = {"seconds": {name: 1 / value for name, value in _medians(rates).items()}}
    return record


def _medians(rates: Rates) -> dict[str, float]:
    return {name: rates.median(name) for name in rates.rounds}


def _of_both(contenders: Any, work: Mapping[str, Any], seconds: float, rounds: int) -> Rates:
    """Tiles per second of OURS and RESIDENT of a module, which take turns: pieces of so many seconds."""
    pieces = {contenders.OURS: "our_piece", contenders.RESIDENT: "resident_piece"}
    builds = {name: f"{contenders.__name__}:{piece}" for name, piece in pieces.items()}
    return compare(builds, work, seconds=seconds, rounds=rounds)


def _against(rates: Rates, contenders: Any, operations: int, peak: float) -> dict[str, Any]:
    """One width's measurement: `contenders` is the module that names OURS and RESIDENT."""
    ours = rates.median(contenders.OURS)
    return {
        "tiles_per_second": _medians(rates),
        "spread": {name: rates.quartile_distance(name) for name in rates.rounds},
        "against no data work": rates.ratio(contenders.OURS, contenders.RESIDENT),
        "operations_per_tile": operations,
        "operations_per_second": ours * operations,
        "share of the peak": ours * operations / peak,
    }
