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
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from hpcseg.errors import ConfigError, HpcsegError, IncompleteError
from hpcseg.files import is_left, make_folder, open_regular
from hpcseg.predict.schema import LINES, Asked, Begun, Finished, SliceRead, SliceResult, Start, Started, Worked
from hpcseg.runs.folder import PREDICTION
from hpcseg.runs.provenance import now
from hpcseg.runs.record import append_lines, read_all_lines, read_json, write_json, write_text
from hpcseg.runs.schema import Record, as_record
from hpcseg.slices.source import Source
from hpcseg.text import cell_text

_MOST_LISTED = 5


@dataclass(frozen=True)
class OutFolder:
    """Owns the names of the files of a prediction, except those of its layers."""

    path: Path

    @property
    def record_file(self) -> Path:
        return self.path / PREDICTION

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

    def read(self) -> Started:
        """The content of prediction.json, which is `Finished` when all is done.

        Raises:
            ConfigError: it is of another schema, or damaged.
            IncompleteError: it is not there, or cannot be read.
        """
        try:
            content = read_json(self.record_file)
        except IncompleteError:
            if not self.record_file.exists():
                raise
            raise ConfigError(
                f"{self.record_file} is damaged. Put back what it was, or give a new folder to --output."
            ) from None
        try:
            return as_record(Finished if content.get("state") == "finished" else Started, content)
        except ValueError as error:
            raise ConfigError(
                f"{self.record_file} is none that this hpcseg reads: {error}. Give a new folder to --output."
            ) from None

    def record(self) -> Started | None:
        """As `read`; None where there is none.

        Raises:
            ConfigError: as `read`, or the folder is in use for something else.
            IncompleteError: it cannot be read.
        """
        if not self.record_file.exists():
            # A process that was killed may have left its first file, unfinished.
            if self.path.exists() and not (self.path.is_dir() and all(map(is_left, self.path.iterdir()))):
                raise ConfigError(
                    f"{self.path} exists and is no prediction of hpcseg. Give a new folder to --output, and no file in "
                    "it is ever overwritten."
                )
            return None
        return self.read()

    def check_same(self, record: Started, asked: Asked) -> None:
        """Refuse to mix two predictions that were asked otherwise; raises ConfigError naming what differs."""
        wanted, before = asked.as_dict(), record.asked.as_dict()
        different = [name for name in wanted if before.get(name) != wanted[name]]
        if different:
            shown = ", ".join(
                f"{name} ({_shown(before.get(name))}, now {_shown(wanted[name])})" for name in different[:_MOST_LISTED]
            )
            if "models" in different:
                shown += f" (SHA-256 of weights; before they were {', '.join(one.name for one in record.models)})"
            raise ConfigError(
                f"{self.path} holds a prediction that was asked otherwise: {shown}. Ask as before to go on with it, or "
                "give another folder to --output."
            )

    def done(self) -> dict[int, SliceResult]:
        """The slices that are written, by index, whichever process has written them.

        Raises:
            IncompleteError: a line of a journal is damaged; so do `hashes` and `finish`.
        """
        return {line.index: line for line in self._lines() if isinstance(line, SliceResult)}

    def note_read(self, hashes: Mapping[int, str]) -> None:
        """Write down what slices were when something was taken from them for all: percentiles, statistics."""
        self._append(None, *(SliceRead(place=place, sha256=sha256) for place, sha256 in hashes.items()))

    def note_start(self, part: int | None, start: Start) -> None:
        """Write down where the work on a part is done."""
        self._append(part, Begun(start=start))

    def note_written(self, part: int | None, results: Sequence[SliceResult], seconds: float) -> None:
        """These slices are on the disk; `seconds` of work went by since the last call."""
        slices = [replace(result, outside=round(result.outside, 6)) for result in results]
        peak = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        self._append(part, *slices, Worked(seconds=round(seconds, 4), peak_memory_mib=peak))

    def _append(self, part: int | None, *lines: Record) -> None:
        append_lines(self.journal_file(part), [line.as_dict() for line in lines], durable=False)

    def hashes(self, volume: Source) -> dict[int, str]:
        """SHA-256, as in `SliceResult`, of the slices of a volume that were read, by their place in its source."""
        found = {line.place: line.sha256 for line in self._lines() if isinstance(line, SliceRead)}
        places = volume.of or range(len(volume))
        found |= {places[index]: one.sha256 for index, one in self.done().items() if index < len(places)}
        return {place: sha256 for place, sha256 in found.items() if place < len(volume.whole or volume)}

    def forget(self) -> None:
        """Drop what was said about slices: their files are gone."""
        for file in self._journals():
            file.unlink()

    def finish(
        self, done: Sequence[SliceResult], files: Sequence[str], names: Sequence[str], classes: Sequence[str]
    ) -> Finished:
        """Write the fractions and the finished record.

        Args:
            done: all slices.
            files: the names of all that was written.
            names: of the slices.
            classes: what each is called.
        """
        lines, record = list(self._lines()), self.read()
        counts = np.array([one.counts for one in done], dtype=np.int64)
        write_text(self.fractions_file, _table(counts, names, classes))
        pixels = dict(zip(classes, counts.sum(0).tolist(), strict=True))
        starts = [line.start for line in lines if isinstance(line, Begun)]
        worked = [line for line in lines if isinstance(line, Worked)]
        seconds = sum((line.seconds for line in worked), 0.0)
        before = {name: getattr(record, name) for name in Started.__struct_fields__}
        content = Finished(
            **{**before, "state": "finished"},
            files=list(files),
            finished=now(),
            starts=starts,
            devices=list(dict.fromkeys(start.device for start in starts)),
            seconds=round(seconds, 3),
            slices_per_second=round(len(names) / seconds, 3) if seconds else None,
            peak_memory_mib=max((line.peak_memory_mib for line in worked), default=0),
            # Of a volume without any grey value it is 0 of every class.
            fractions={name: count / max(1, int(counts.sum())) for name, count in pixels.items()},
            pixels=pixels,
            slices_of_strange_grey_values=[name for name, one in zip(names, done, strict=True) if one.strange],
        )
        write_json(self.record_file, content.as_dict())
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

    def in_use(self) -> bool | None:
        """Whether a process works on the whole now; None where nobody can tell: a file system without locks, or a
        journal that may not be read."""
        try:
            with open_regular(self.journal_file(None), "rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False
        except OSError:
            return None
        return False

    def _journals(self) -> list[Path]:
        return sorted(self.path.glob("slices*.jsonl"))

    def _lines(self) -> Iterator[SliceResult | SliceRead | Begun | Worked]:
        for file in self._journals():
            for number, line in enumerate(read_all_lines(file), start=1):
                kind = next((kind for key, kind in LINES.items() if key in (line or {})), None)
                if kind is None:  # unfinished, or of another hpcseg
                    continue
                try:
                    found = as_record(kind, line)
                except ValueError as error:
                    raise IncompleteError(
                        f"{file} is damaged in line {number}: {error}. Delete that line, and the same command goes on."
                    ) from None
                yield found


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
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value))
    return value[:8] if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) else json.dumps(value)[:80]
