"""Where a training goes on after a stop, and the trained weights. Written aside, flushed, renamed.

No random state is kept: initial weights, epoch order and noise are functions of the seed, and nothing draws while
training, so weights, the states of optimizer and loss scale, and the position are all there is. What the numbers depend
on beside them stands in the same file.
"""

from __future__ import annotations

import copy
import hashlib
import os
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hpcseg.errors import HpcsegError
from hpcseg.files import open_regular, replacing

_PLAIN = (str, int, float, bool, bytes, type(None))


def save(path: Path, content: dict[str, Any], previous: Path | None = None) -> None:
    """Write tensors and plain values so that a crash leaves the old file or the new, never a part.

    Args:
        path: the file.
        content: tensors and plain values, which `load` reads; what it would refuse is not written.
        previous: where the old file goes once the new one is on the disk; None: it goes.

    Raises:
        HpcsegError: the file system refuses.
    """
    assert (strange := _not_plain(content)) is None, f"a checkpoint cannot hold {strange}"
    with replacing(path) as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
        if previous is not None and path.exists():
            path.replace(previous)


def copied(content: dict[str, Any]) -> tuple[dict[str, Any], Callable[[], None]]:
    """A copy of what a checkpoint holds, on the CPU, and a call that waits until it is there: nothing else has to."""
    tensors = [tensor for _, tensor in _tensors(content)]
    # A GPU writes it into pinned memory, in turn with what it is asked for before and after.
    copies: dict[int, Any] = {
        id(tensor): tensor.to("cpu", non_blocking=True) if tensor.is_cuda else tensor.clone() for tensor in tensors
    }
    whole = copy.deepcopy(content, copies)
    if not any(tensor.is_cuda for tensor in tensors):
        return whole, lambda: None
    there = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    there.record()
    return whole, there.synchronize


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote, onto the CPU. Only tensors and plain values are accepted, never code.

    Raises:
        HpcsegError: the file is damaged or no checkpoint.
    """
    try:
        open_regular(path, "rb").close()  # a pipe would be waited for
        # torch takes the bytes as they are; the checksums that it wrote beside them are a zip file's own.
        with zipfile.ZipFile(path) as whole:
            if any(member.compress_type != zipfile.ZIP_STORED for member in whole.infolist()):
                raise ValueError("it is compressed, which torch never does, and may unpack to any size")
            damaged = whole.testzip()
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} is wrong")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch names no common base for what a damaged file raises
        raise HpcsegError(f"{path} cannot be read as a checkpoint ({_cause(error)}).") from None
    if not isinstance(content, dict):
        raise HpcsegError(f"{path} is no checkpoint of hpcseg.")
    return content


def load_newest(files: Sequence[Path], names: Collection[str] = ()) -> tuple[dict[str, Any] | None, list[str]]:
    """The first file that can be read, and what was wrong with those before it.

    Args:
        files: newest first; missing ones are passed over.
        names: of what a file must hold.
    """
    complaints: list[str] = []
    for path in files:
        if path.exists():
            try:
                content = load(path)
                if missing := [name for name in names if name not in content]:
                    raise HpcsegError(f"{path} is a checkpoint of something else: it has no {', '.join(missing)}.")
                return content, complaints
            except HpcsegError as error:
                complaints.append(str(error))
    return None, complaints


def _cause(error: Exception) -> str:
    """What an error says in one line: torch sends what it found behind advice about other ways of loading."""
    found = re.search(r"Unsupported .*?(?= was not|\n|$)", str(error))
    lines = (found[0] if found else str(error)).splitlines()
    return lines[0] if lines else type(error).__name__


def not_finite(content: Mapping[str, Any]) -> str | None:
    """The name of a tensor in `content` that holds a value which is not finite; None where all are.

    A GPU is waited for once.
    """
    finite = {name: torch.isfinite(tensor).all() for name, tensor in _tensors(content)}
    for on_gpu in (False, True):
        flags = {name: flag for name, flag in finite.items() if flag.is_cuda == on_gpu}
        for name, is_finite in zip(flags, torch.stack([*flags.values()]).tolist() if flags else (), strict=True):
            if not is_finite:
                return name
    return None


def _tensors(content: Mapping[str, Any], name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors of a checkpoint by their names."""
    for key, value in content.items():
        called = f"{name}.{key}".lstrip(".")
        if isinstance(value, torch.Tensor):
            yield called, value
        elif isinstance(value, Mapping):
            yield from _tensors(value, called)


def _not_plain(content: Any, name: str = "content") -> str | None:
    """The name and type of what `torch.load` would take for code; None where all is tensors and plain values."""
    kind = type(content)  # a subclass of a plain type is code as well
    if isinstance(content, torch.Tensor) or kind in _PLAIN:
        return None
    if kind in (dict, OrderedDict):
        items = [(part, f"{name}.{key}") for key, value in content.items() for part in (key, value)]
    elif kind in (list, tuple):
        items = [(value, f"{name}[{index}]") for index, value in enumerate(content)]
    else:
        return f"{name}, {kind.__name__}"
    return next(filter(None, (_not_plain(value, called) for value, called in items)), None)


def weights_sha256(state: dict[str, torch.Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of a model's weights, independent of the file's format."""
    whole = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        whole.update(tensor.numpy().tobytes())
    return whole.hexdigest()
