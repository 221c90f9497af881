"""Where a training goes on after a stop, and the trained weights. Written aside, flushed, renamed.

No random state is kept: initial weights, epoch order and noise are functions of the seed, and nothing draws while
training, so weights, optimizer state and position are all there is.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from hpcseg.errors import HpcsegError
from hpcseg.files import replacing


def save(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values so that a crash leaves the old file or the new, never a part.

    Raises:
        HpcsegError: the file system refuses.
    """
    with replacing(path) as file:
        torch.save(content, file)


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote, onto the CPU. Only tensors and plain values are accepted, never code.

    Raises:
        HpcsegError: the file is damaged or no checkpoint.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch names no common base for what a damaged file raises
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise HpcsegError(
            f"{path} cannot be read as a checkpoint ({first_line}). Delete it, and the cell starts afresh."
        ) from None
    if not isinstance(content, dict):
        raise HpcsegError(f"{path} is no checkpoint of hpcseg. Delete it, and the cell starts afresh.")
    return content


def weights_sha256(state: dict[str, torch.Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of a model's weights, independent of the file's format."""
    whole = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        whole.update(tensor.numpy().tobytes())
    return whole.hexdigest()
