"""A job and a bench's record in, how long its cells take out."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcseg.config import CellConfig
from hpcseg.data.layout import lay_out
from hpcseg.data.store import DatasetInfo
from hpcseg.errors import IncompleteError
from hpcseg.runs.grid import MOST_CELLS_OF_A_JOB
from hpcseg.runs.record import read_json
from hpcseg.text import two_digits

_SECONDS_OF_A_JOB = 15 * 60
# A bench is no promise.
_SHARE_OF_THE_LIMIT = 0.7


@dataclass(frozen=True)
class Estimate:
    """How long cells take on the device of a bench, one at a time, and how much memory."""

    seconds: tuple[float, ...]
    """Of each cell: its training with validation, and its evaluation. Start-up is not in it."""
    device: str
    time: str
    """When the bench was made."""
    memory_mib: Mapping[str, float]
    """Of the cell that takes the most: of the "host", and of a "gpu"; empty where the bench did not measure it."""

    @property
    def hours(self) -> float:
        """Of the device, for all cells."""
        return sum(self.seconds) / 3600

    def cells_per_job(self, minutes: int) -> int:
        """How many cells one job has time for, at most a quarter of an hour of them.

        A start of 5 to 10 s is no matter beside that, and there is still something to do for many GPUs at a time.

        Args:
            minutes: time limit of a job.
        """
        mean = max(1e-3, sum(self.seconds) / len(self.seconds))
        seconds = min(_SECONDS_OF_A_JOB, _SHARE_OF_THE_LIMIT * 60 * minutes)
        return max(1, min(MOST_CELLS_OF_A_JOB, int(seconds / mean)))

    def text(self, *, at_once: int) -> str:
        """For a person.

        Args:
            at_once: cells that run side by side, each on a device of its own.
        """
        longest = max(self.seconds) / 60
        at_once = min(at_once, len(self.seconds))
        of = "hours" if self.device.startswith("CPU") else "GPU-hours"
        alone = f"About {_duration(self.hours * 60)} for {len(self.seconds)} cells ({two_digits(self.hours)} {of})"
        beside = f"{_duration(max(longest, self.hours * 60 / at_once))} with {at_once} at a time"
        words = {"host": "of host memory", "gpu": "of a GPU's"}
        memory = " and ".join(f"{mib / 1024:.1f} GiB {words[of]}" for of, mib in self.memory_mib.items())
        most = f"at most {_duration(longest)}{f' and about {memory}' if memory else ''} a cell"
        going_by = f"going by the bench of {self.time[:10]} ({self.device})"
        return f"{alone}{f', {beside}' if at_once > 1 else ''}, and {most}, {going_by}."


def bench_file(runs: Path, device: str) -> Path:
    """Where the record of a device's bench is kept."""
    return runs / f"bench-{re.sub('[^a-z0-9]+', '-', device.lower()).strip('-')}.json"


def find_bench(folders: Iterable[Path], *, gpu: bool) -> dict[str, Any] | None:
    """The newest bench record in folders of runs, of a GPU or of a CPU; None where there is none that can be read."""
    found = []
    for path in itertools.chain.from_iterable(runs.glob("bench-*.json") for runs in folders):
        try:
            record = read_json(path)
        except IncompleteError:
            continue
        on_gpu = not str(record.get("provenance", {}).get("device", "CPU")).startswith("CPU")
        if on_gpu == gpu and record.get("training") and record.get("sweep"):
            found.append(record)
    return max(found, key=lambda record: str(record["provenance"]["time"]), default=None)


def estimate(cells: Iterable[CellConfig], info: DatasetInfo, record: dict[str, Any]) -> Estimate:
    """How long the cells take.

    Args:
        cells: of a job.
        info: of the data set.
        record: of a bench with training and sweep.
    """
    seconds = []
    memory: dict[str, float] = {}
    # Each takes a while, and ten thousand cells have few.
    lay_out_once = functools.cache(functools.partial(lay_out, info))
    for cell in cells:
        tiles, split = lay_out_once(cell.data)
        area = (cell.data.tile_size / record["tile_size"]) ** 2
        trained = cell.train.epochs * cell.train.passes(len(split.train)) * len(split.train)
        evaluated: float = cell.train.epochs * len(split.validation) + len(cell.evaluate.levels()) * len(split.test)
        if cell.evaluate.whole_slices:
            slices = len({index for index, *_ in tiles[split.test].tolist()})
            evaluated += slices * info.shape[1] * info.shape[2] / cell.data.tile_size**2
        rates = [_rate(record[part], cell.train.width) for part in ("training", "sweep")]
        seconds.append(area * (trained / rates[0] + evaluated / rates[1]))
        for name, mib in _memory(cell, len(split.train), record).items():
            memory[name] = max(memory.get(name, 0.0), mib)
    of = record["provenance"]
    return Estimate(tuple(seconds), str(of["device"]), str(of["time"]), memory)


def _memory(cell: CellConfig, tiles: int, record: dict[str, Any]) -> dict[str, float]:
    """MiB of a training: the bench's, as much more as it has channels and pixels in a step more, and its tiles."""
    widths, of = record["training"], cell.train
    nearest = min(widths, key=lambda measured: abs(int(measured) - of.width))
    if "memory_mib" not in widths[nearest]:
        return {}
    area = (cell.data.tile_size / record["tile_size"]) ** 2
    scale = of.width / int(nearest) * area * of.batch_size / record["batch_size"]
    # Float32 with a label; what else is there while they are made goes before the first step.
    own = 5 * tiles * cell.data.tile_size**2 / 2**20
    found = {}
    for name, held in widths[nearest]["memory_mib"].items():
        grows = name == "gpu" or "gpu" not in widths[nearest]["memory_mib"]
        found[name] = held["base"] + (held["peak"] - held["base"]) * (scale if grows else 1) + own
    return found


def _rate(widths: dict[str, Any], width: int) -> float:
    """Tiles per second at a width; where it was not measured, from the nearest: the work grows with its square."""
    nearest = min(widths, key=lambda measured: abs(int(measured) - width))
    return float(widths[nearest]["tiles_per_second"]["ours"] * (int(nearest) / width) ** 2)


def _duration(minutes: float) -> str:
    if minutes >= 90:
        return f"{minutes / 60:.1f} hours"
    whole = max(1, round(minutes))
    return f"{whole} minute{'s' if whole > 1 else ''}"
