"""The epochs of a run's cells as event files, one folder a cell, for TensorBoard to show.

The bytes of a file depend on the records alone, and what comes later stands behind what came before. So a file is
left as it is, or gets more at its end, where a TensorBoard that is looking reads on.
"""

from __future__ import annotations

import importlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpcseg.errors import IncompleteError
from hpcseg.files import open_regular, read_regular, write_bytes
from hpcseg.records.accept import epochs_so_far
from hpcseg.runs.epochs import validation_accuracy
from hpcseg.runs.folder import CellFolder, RunFolder
from hpcseg.runs.grid import Cell, planned_cells, read_plan
from hpcseg.runs.record import MOST_BYTES_OF_LINES, read_lines
from hpcseg.runs.schema import Plan
from hpcseg.runs.told import time_of
from hpcseg.slices.extras import load_extra

_FILE = "events.out.tfevents.hpcseg"
_VERSION = "brain.Event:2"
# Of TensorBoard's table of settings: the tags and the plugin that it looks for.
_HPARAMS, _START, _END = "hparams", "_hparams_/session_start_info", "_hparams_/session_end_info"


@dataclass
class Exported:
    """The ids of the cells whose files were written, were right already, and that have no epoch to write."""

    written: list[str] = field(default_factory=list)
    right: list[str] = field(default_factory=list)
    without: list[str] = field(default_factory=list)


def export(run: RunFolder, out: Path) -> Exported:
    """Write an event file for each cell of a run's grid: loss and accuracy of every epoch, and the cell's settings.

    Args:
        run: a run folder, or a folder that was published.
        out: OUT/CELL gets the file of a cell; a file of an earlier export is brought up to date.

    Raises:
        ConfigError: the extra is not installed.
        HpcsegError: the file system refuses.
        IncompleteError: the run has no grid.json that can be read.
    """
    plan = read_plan(run)
    library = _Library(out)
    exported = Exported()
    for cell in planned_cells(run, plan):
        file = out / cell.id / _FILE
        if events := library.events(cell, plan):
            (exported.written if _update(file, events) else exported.right).append(cell.id)
        else:
            file.unlink(missing_ok=True)
            exported.without.append(cell.id)
    return exported


def _update(file: Path, content: bytes) -> bool:
    """Give a file its content, by more at its end where that is enough; False where it has it."""
    try:
        there = read_regular(file, MOST_BYTES_OF_LINES)
    except OSError:
        there = b""
    if there == content:
        return False
    if there and content.startswith(there):
        with open_regular(file, "a+b") as opened:
            opened.write(content[len(there) :])
    else:
        write_bytes(file, content, durable=False)
    return True


class _Library:
    """What tensorboardX knows of the format: the messages, and the checksum around them."""

    def __init__(self, out: Path) -> None:
        """Raises ConfigError, with `out` for what needs it, where it is not installed."""
        load_extra("tensorboardX", "tensorboard", out)
        self._event, self._status, self._hparams, record_writer = (
            importlib.import_module(f"tensorboardX.{module}")
            for module in ("proto.event_pb2", "proto.api_pb2", "proto.plugin_hparams_pb2", "record_writer")
        )
        self._checksum = record_writer.masked_crc32c

    def events(self, cell: Cell, plan: Plan) -> bytes:
        """The content of a cell's file; none without an epoch."""
        epochs = epochs_so_far(cell, plan)
        if not epochs:
            return b""
        times = _times(cell.folder)
        at = times.get(1, 0.0)
        records = [self._event.Event(wall_time=at, file_version=_VERSION), self._start(cell, at)]
        for number, epoch in enumerate(epochs, start=1):
            at = times.get(number, at)
            event = self._event.Event(wall_time=at, step=number)
            for tag, value in (
                ("loss/train", epoch.train_loss),
                ("loss/validation", epoch.validation_loss),
                ("accuracy/train", epoch.train_accuracy),
                ("accuracy/validation", validation_accuracy(epoch)),
            ):
                event.summary.value.add(tag=tag, simple_value=value)
            records.append(event)
        if cell.folder.training_file.exists():
            records.append(self._end(at))
        return b"".join(part for record in records for part in self._framed(record))

    def _start(self, cell: Cell, at: float) -> Any:
        """The settings of the cell."""
        data = self._hparams.HParamsPluginData()
        for section, settings in cell.config.decisive().items():
            for name, value in settings.items():
                of = data.session_start_info.hparams[f"{section}.{name}"]
                if isinstance(value, bool):
                    of.bool_value = value
                elif isinstance(value, int | float):
                    of.number_value = value
                else:
                    of.string_value = str(value)
        data.session_start_info.start_time_secs = at
        return self._of_plugin(_START, data, at)

    def _end(self, at: float) -> Any:
        """That the training is finished."""
        data = self._hparams.HParamsPluginData()
        data.session_end_info.status = self._status.STATUS_SUCCESS
        data.session_end_info.end_time_secs = at
        return self._of_plugin(_END, data, at)

    def _of_plugin(self, tag: str, data: Any, at: float) -> Any:
        event = self._event.Event(wall_time=at)
        plugin = event.summary.value.add(tag=tag).metadata.plugin_data
        plugin.plugin_name, plugin.content = _HPARAMS, data.SerializeToString(deterministic=True)
        return event

    def _framed(self, message: Any) -> Iterator[bytes]:
        """A message as it stands in a file, with its length and checksums."""
        data = message.SerializeToString(deterministic=True)
        for part in (struct.pack("<Q", len(data)), data):
            yield part
            yield struct.pack("<I", self._checksum(part))


def _times(folder: CellFolder) -> dict[int, float]:
    """When each epoch was done for the first time since the training began, in UTC seconds, as far as it is known."""
    times: dict[int, float] = {}
    try:
        lines = read_lines(folder.events_file)
    except IncompleteError:
        return times
    for line in lines:
        if line.get("event") == "start":
            times.clear()
        epoch, at = line.get("epoch"), time_of(line)
        if line.get("event") == "epoch" and isinstance(epoch, int) and at is not None:
            times.setdefault(epoch, at)
    return times
