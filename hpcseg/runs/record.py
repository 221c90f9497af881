"""Records as files: how they are written, and how they are read. No torch, no cluster.

grid.json, config.json, training.json, evaluation.json and the baselines carry a checksum of their own content.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from hpcseg.errors import ConfigError, IncompleteError
from hpcseg.files import make_folder, open_regular, read_regular, write_bytes
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.schema import Baseline, Record, as_record

_Kind = TypeVar("_Kind", bound=Record)
SCHEMA = 2
"""Of records with a checksum. Those of schema 1 have none, and are read as ever."""
CHECKSUM = "content_sha256"
"""The key of it."""
MOST_BYTES = 2**29
"""Of a file of JSON that is read: an evaluation of 255 classes at 31 noise levels takes a fifth of it."""
MOST_BYTES_OF_LINES = 2**30
"""Of a .jsonl file that is read: a submission of ten thousand cells is a line of half a megabyte."""
STOPS = {"train": "stop", "evaluate": "evaluation stopped"}
"""What events.jsonl calls it that a stage was told to stop, and did."""

SURE = ("probability", "uncertainty")
"""What a point of evaluation.json calls the counts of how sure the model is, as `count_sure` has them."""


def write_json(path: Path, content: Mapping[str, Any], *, durable: bool = True, private: bool = False) -> None:
    """Write a JSON file so that a reader, or a crash, sees the old content or the new and never a part."""
    write_text(path, json.dumps(content, indent=1) + "\n", durable=durable, private=private)


def write_record(path: Path, content: Mapping[str, Any], *, durable: bool = True) -> None:
    """Write a record with the checksum of its content, by which `read_json` sees whether it was changed since."""
    write_json(path, with_checksum(content), durable=durable)


def with_checksum(content: Mapping[str, Any]) -> dict[str, Any]:
    """A record with the checksum of its content, as JSON has it."""
    # As a reader will find it: a tuple becomes a list, and a number that is a key a text.
    stored = json.loads(json.dumps(content))
    stored.pop(CHECKSUM, None)
    return {**stored, CHECKSUM: _content_sha256(stored)}


def was_changed(content: Mapping[str, Any]) -> bool:
    """Whether a record has a checksum, and that is of another content."""
    return CHECKSUM in content and content[CHECKSUM] != _content_sha256(content)


def _content_sha256(stored: Mapping[str, Any]) -> str:
    """Of the rest of a record, whatever the order of its keys and the blanks between them."""
    rest = {key: value for key, value in stored.items() if key != CHECKSUM}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def write_text(path: Path, text: str, *, durable: bool = True, private: bool = False) -> None:
    """Write a text file so that it is seen whole or not at all; `durable` and `private` as in `files.replacing`.

    Raises:
        HpcsegError: the file system refuses.
    """
    # A command line in it may name a file that is no text.
    write_bytes(path, text.encode(errors="backslashreplace"), durable=durable, private=private)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of a run.

    Raises:
        ChangedError: it has a checksum, and that is of another content.
        IncompleteError: it is not there, or holds no JSON object.
    """
    try:
        content = json.loads(read_regular(path, MOST_BYTES).decode())
    except OSError as error:
        raise _unread(path, error) from None
    except (ValueError, RecursionError) as error:
        raise IncompleteError(f"{path} is damaged: {error}. Delete it, then run `hpcseg grid` again.") from None
    if not isinstance(content, dict):
        raise IncompleteError(f"{path} holds no record. Delete it, then run `hpcseg grid` again.")
    if was_changed(content):
        raise ChangedError(f"{path} {CHANGED}. {_PUT_BACK}")
    return content


class ChangedError(IncompleteError):
    """A record is not what was written."""


CHANGED = "was changed after it was written, by its checksum"
"""What is said of such a record."""
_PUT_BACK = "Put back what it was, or delete it and run `hpcseg grid` again."


def _unread(path: Path, error: OSError) -> IncompleteError:
    way = "Put back what was there, or run the command again that made it (of a run `hpcseg grid`)."
    if isinstance(error, PermissionError):
        way = "Its owner can give you the right to read it."
    return IncompleteError(f"{path} cannot be read: {error.strerror}. {way}")


def wrong_schema(content: Mapping[str, Any]) -> str:
    """What is wrong with the schema of a record that `read_json` has read, as the rest of a sentence; else empty."""
    schema = content.get("schema")
    if type(schema) is not int or not 1 <= schema <= SCHEMA:
        return f"is of schema {schema}, and this hpcseg reads schemas 1 to {SCHEMA}"
    return CHANGED if schema == SCHEMA and CHECKSUM not in content else ""


def read_as(kind: type[_Kind], path: Path) -> _Kind:
    """Read a record: a JSON file of a known schema and of this type, which is what was written.

    Raises:
        ChangedError: its checksum is of another content.
        IncompleteError: it is not there, is none of this type, is of another schema or has lost its checksum.
    """
    content = read_json(path)
    if wrong := wrong_schema(content):
        raise IncompleteError(f"{path} {wrong}. {_PUT_BACK}")
    try:
        return as_record(kind, content)
    except ValueError as error:
        raise IncompleteError(f"{path} is damaged: {error}. {_PUT_BACK}") from None


def read_baselines(run: RunFolder) -> list[Baseline]:
    """What `runs.baseline.make_baselines` has written, in the order of the files' names; damaged ones are left out."""
    return [found for path in sorted(run.baselines.glob("*.json")) if (found := read_baseline(path)) is not None]


def read_baseline(path: Path) -> Baseline | None:
    """One file of `RunFolder.baselines`; None where it is not there, is damaged, changed or of another schema."""
    try:
        content = read_as(Baseline, path)
        for point in content.points:
            _ = point.level
    except (IncompleteError, ConfigError):
        return None
    return content


def append_event(path: Path, event: str, **details: Any) -> None:
    """Append one line `{"time": ..., "event": ..., ...}` to an events file; times are UTC seconds since 1970.

    It is on the disk when this returns. What a crash or a full disk has left of a line before it is lost alone.
    """
    make_folder(path.parent)
    append_lines(path, [{"time": round(time.time(), 3), "event": event, **details}], durable=True)


def append_lines(path: Path, lines: Iterable[Mapping[str, Any]], *, durable: bool) -> None:
    """Append lines to a .jsonl file; what a crash has left of a line before is ended first, so it spoils no other.

    Args:
        path: of the file, in a folder that exists.
        lines: one object each.
        durable: they are on the disk when this returns.

    Raises:
        OSError: the file system refuses; it names the file.
    """
    text = "".join(json.dumps(line) + "\n" for line in lines).encode()
    try:
        with open_regular(path, "a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                text = text if file.read(1) == b"\n" else b"\n" + text
            file.write(text)
            if durable:
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        error.filename = error.filename or str(path)  # which one that was open does not say
        raise


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All complete lines of a .jsonl file; an unfinished last line (a crash) is left out, no file is no lines.

    Raises:
        IncompleteError: it is there, and cannot be read.
    """
    return [line for line in read_all_lines(path) if line is not None]


def read_all_lines(path: Path) -> list[dict[str, Any] | None]:
    """All lines of a .jsonl file, None for one that holds no object; else as `read_lines`."""
    try:
        content = read_regular(path, MOST_BYTES_OF_LINES)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise _unread(path, error) from None
    lines: list[dict[str, Any] | None] = []
    for text in content.decode(errors="replace").splitlines():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            line = None
        lines.append(line if isinstance(line, dict) else None)
    return lines
