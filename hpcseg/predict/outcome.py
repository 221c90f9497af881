"""The folder of a prediction: what was asked, which slices are done, what came out. No torch.

OUT/prediction.json     what was asked of which models on which input, and at the end speed and phase fractions
OUT/slices.jsonl        one line per slice that is written: pixels of each class, SHA-256 of the grey values; of a part,
                        slices-PART.jsonl
OUT/norm.safetensors    with --adapt-norm the statistics of the volume, which all parts and starts take
OUT/fractions.csv       share of each class in each slice and in the volume, at the end
OUT/sheet.png           some slices with their labels over them, at the end
OUT/labels...           and other layers, as in `hpcseg.predict.layers`
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import json
import re
import resource
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from hpcseg.errors import ConfigError, HpcsegError
from hpcseg.files import is_left, make_folder, open_regular
from hpcseg.runs.record import append_lines, read_json, read_lines, write_json, write_text
from hpcseg.text import cell_text

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SCHEMA = 1
_MOST_LISTED = 5
_Kind = TypeVar("_Kind", bound="DataclassInstance")


def from_record(kind: type[_Kind], content: Mapping[str, Any]) -> _Kind:
    """A dataclass of those keys of a record that are its fields; null and no key are its default, lists are tuples."""
    given = {item.name: content[item.name] for item in fields(kind) if content.get(item.name) is not None}
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})


@dataclass(frozen=True)
class SliceResult:
    """What is known about one slice that is written."""

    index: int
    counts: tuple[int, ...]
    """Pixels of each class."""
    outside: float
    """Share of pixels far outside of the grey values of the training."""
    sha256: str = ""
    """Of the grey values that were segmented; empty in journals of before it was kept."""
    around: tuple[str, ...] = ()
    """The same of all slices that the network took with it, the middle one among them; none where it took one alone."""

    @property
    def strange(self) -> bool:
        """Whether these are so many that whoever looks at the labels has to know it."""
        return self.outside > 0.01


@dataclass(frozen=True)
class OutFolder:
    """Owns the names of the files of a prediction, except those of its layers."""

    path: Path

    @property
    def record_file(self) -> Path:
        return self.path / "prediction.json"

    @property
    def fractions_file(self) -> Path:
        return self.path / "fractions.csv"

    @property
    def sheet_file(self) -> Path:
        return self.path / "sheet.png"

    @property
    def norm_file(self) -> Path:
        return self.path / "norm.safetensors"

    def journal_file(self, part: int | None) -> Path:
        """The slices that one process has written."""
        return self.path / ("slices.jsonl" if part is None else f"slices-{part:04d}.jsonl")

    def record(self) -> dict[str, Any] | None:
        """The content of prediction.json; None where there is none.

        Raises:
            ConfigError: the folder is in use for something else.
        """
        if not self.record_file.exists():
            # A process that was killed may have left its first file, unfinished.
            if self.path.exists() and not (self.path.is_dir() and all(map(is_left, self.path.iterdir()))):
                raise ConfigError(
                    f"{self.path} exists and is no prediction of hpcseg. Give a new folder to --output, and no file in "
                    "it is ever overwritten."
                )
            return None
        record = read_json(self.record_file)
        if record.get("schema") != SCHEMA or not isinstance(record.get("asked"), dict):
            raise ConfigError(f"{self.record_file} is none that this hpcseg reads. Give a new folder to --output.")
        return record

    def check_same(self, record: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
        """Refuse to mix two predictions that were asked otherwise; raises ConfigError naming what differs."""
        # As a record has it: tuples are lists.
        asked, before = json.loads(json.dumps(asked)), record["asked"]
        different = [name for name in asked if before.get(name) != asked[name]]
        if different:
            shown = ", ".join(
                f"{name} ({_shown(before.get(name))}, now {_shown(asked[name])})" for name in different[:_MOST_LISTED]
            )
            if "models" in different:
                shown += f" (SHA-256 of weights; before they were {', '.join(one['name'] for one in record['models'])})"
            raise ConfigError(
                f"{self.path} holds a prediction that was asked otherwise: {shown}. Ask as before to go on with it, or "
                "give another folder to --output."
            )

    def done(self) -> dict[int, SliceResult]:
        """The slices that are written, by index, whichever process has written them."""
        return {line["index"]: from_record(SliceResult, line) for line in self._lines() if "index" in line}

    def note_read(self, hashes: Mapping[int, str]) -> None:
        """Write down what slices were when something was taken from them for all: percentiles, statistics."""
        lines = [{"read": index, "sha256": sha256} for index, sha256 in hashes.items()]
        append_lines(self.journal_file(None), lines, durable=False)

    def hashes(self) -> dict[int, str]:
        """SHA-256 by index of the slices that were read, as in `SliceResult`."""
        return {
            line[kind]: line.get("sha256", "") for line in self._lines() for kind in ("read", "index") if kind in line
        }

    def forget(self) -> None:
        """Drop what was said about slices: their files are gone."""
        for file in self._journals():
            file.unlink()

    def finish(self, record: Mapping[str, Any], names: Sequence[str], classes: Sequence[str]) -> dict[str, Any]:
        """Write the fractions and the finished record: `record` beside what it has, the names of slices and classes."""
        done, lines = self.done(), list(self._lines())
        counts = np.array([done[index].counts for index in range(len(names))], dtype=np.int64)
        write_text(self.fractions_file, _table(counts, names, classes))
        pixels = dict(zip(classes, counts.sum(0).tolist(), strict=True))
        starts = [line["start"] for line in lines if "start" in line]
        seconds = sum((line.get("seconds", 0.0) for line in lines), 0.0)
        content = {
            **read_json(self.record_file),
            **record,
            "state": "finished",
            "starts": starts,
            "devices": list(dict.fromkeys(start["device"] for start in starts)),
            "seconds": round(seconds, 3),
            "slices_per_second": round(len(names) / seconds, 3) if seconds else None,
            "peak_memory_mib": max((int(line.get("peak_memory_mib", 0)) for line in lines), default=0),
            # Of a volume without any grey value it is 0 of every class.
            "fractions": {name: count / max(1, int(counts.sum())) for name, count in pixels.items()},
            "pixels": pixels,
            "slices_of_strange_grey_values": [name for index, name in enumerate(names) if done[index].strange],
        }
        write_json(self.record_file, content)
        return content

    @contextlib.contextmanager
    def alone(self, part: int | None) -> Iterator[None]:
        """Keep other processes from the same part, or from the whole; raises HpcsegError where one is at it.

        A part holds a share of the whole's lock, so that parts work side by side and the whole works alone.
        """
        make_folder(self.path)
        with contextlib.ExitStack() as held:
            # Of the whole it is one file, and what is said last.
            locks = {self.journal_file(None): fcntl.LOCK_SH, self.journal_file(part): fcntl.LOCK_EX}
            for path, kind in locks.items():
                file = held.enter_context(open_regular(path, "a+b"))
                try:
                    fcntl.flock(file, kind | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise HpcsegError(f"Another process is writing to {self.path}. Wait for it, or end it.") from None
                except OSError:
                    pass  # a file system without locks
            yield

    def _journals(self) -> list[Path]:
        return sorted(self.path.glob("slices*.jsonl"))

    def _lines(self) -> Iterator[dict[str, Any]]:
        for file in self._journals():
            yield from read_lines(file)


class Journal:
    """Appends the results of slices. A line says that a slice is on the disk, so it is brought there before."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._waiting: list[SliceResult] = []

    def begin(self, start: Mapping[str, Any]) -> None:
        """Write down where the work is done."""
        append_lines(self._file, [{"start": start}], durable=False)

    def add(self, result: SliceResult) -> None:
        """A slice is written, and not yet known to be on the disk."""
        self._waiting.append(result)

    def commit(self, seconds: float) -> None:
        """All added slices are on the disk; `seconds` of work went by since the last call."""
        lines = [{**asdict(result), "outside": round(result.outside, 6)} for result in self._waiting]
        for line in lines:
            if not line["around"]:
                del line["around"]
        peak = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        append_lines(self._file, [*lines, {"seconds": round(seconds, 4), "peak_memory_mib": peak}], durable=False)
        self._waiting.clear()


def _table(counts: np.ndarray, names: Sequence[str], classes: Sequence[str]) -> str:
    """fractions.csv: a row per slice, and the volume's at the end; no shares where no pixel has a grey value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["slice", "pixels", *(f"fraction_{name}" for name in classes)])
    for name, row in [*zip(names, counts, strict=True), ("volume", counts.sum(0))]:
        shares = (f"{count / row.sum():.9f}" if row.sum() else "" for count in row)
        writer.writerow([cell_text(name), row.sum(), *shares])
    return text.getvalue()


def _shown(value: object) -> str:
    """What was asked for, short; a SHA-256 by its first digits."""
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return value[:8] if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) else json.dumps(value)[:80]
