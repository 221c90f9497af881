"""Work on a long list by a few threads, for answers that are large: whole slices, a bounded part of them in memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

OnSlice = Callable[[int, int], None]
"""Told how many slices of how many are done."""
_In = TypeVar("_In")
_Out = TypeVar("_Out")
_MOST_PER_THREAD = 3
_BYTES_IN_FLIGHT = 256 * 2**20
LEAST_AHEAD, _MOST_AHEAD = 2, 8


def slices_ahead(pixels: int) -> int:
    """How many slices of so many pixels may be on their way at once."""
    return max(LEAST_AHEAD, min(_MOST_AHEAD, _BYTES_IN_FLIGHT // (8 * pixels)))


def ahead(work: Callable[[_In], _Out], items: Iterable[_In], *, at_most: int = 4) -> Generator[_Out]:
    """Results of `work` in order, computed by a thread per core; at most so many items are begun and not yet used."""
    threads = min(len(os.sched_getaffinity(0)), at_most)
    waiting: deque[Future[_Out]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= min(at_most, _MOST_PER_THREAD * threads):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
