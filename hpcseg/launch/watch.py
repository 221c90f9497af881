"""Which ranks are alive. Each says so in the store that all share, and whoever is silent or gone is named.

A dead rank ends the others at once where they exchange something over gloo, but in words that name no rank; and one
that waits for NCCL cannot be reached by Python at all, for as long as NCCL is patient.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
import time
from types import TracebackType

from torch.distributed import Store  # type: ignore[attr-defined]  # missing in torch's annotations

_SECONDS_PER_SIGN = 2.0
# Counted in this rank's own signs, not in seconds: Slurm may suspend all ranks of a job for hours.
_SIGNS_TO_MISS = 10
_SECONDS_TO_LEAVE = 15.0
_ABOUT_OTHERS = re.compile(r"gloo|nccl|connection|broken pipe|timed out|socket|store", re.IGNORECASE)


class Watch:
    """A block in which this rank gives signs of life and looks for those of the others.

    Where one is lost, an error of the communication that leaves the block becomes a ConnectionError that names it; and
    a rank that has not left the block by then is ended.

    Args:
        store: that all ranks share, for nothing else: a store's connection is taken while somebody waits at it.
        rank: this one.
        world_size: number of ranks.
    """

    def __init__(self, store: Store, rank: int, world_size: int) -> None:
        self._store = store
        self._rank = rank
        self._others = [other for other in range(world_size) if other != rank]
        self._lost = ""
        self._found, self._left = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch of the ranks", daemon=True)

    def __enter__(self) -> None:
        self._store.add(f"alive/{self._rank}", 1)
        self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        # One sign may still be new to this rank when the error comes; the rest is for a machine that is busy.
        silence = (_SIGNS_TO_MISS + 6) * _SECONDS_PER_SIGN
        lost = isinstance(error, RuntimeError) and _ABOUT_OTHERS.search(str(error)) and self._found.wait(silence)
        if lost and self._rank == 0:
            time.sleep(2 * _SECONDS_PER_SIGN)  # the store ends with this process, and the others still look
        self._left.set()
        self._thread.join(_SECONDS_PER_SIGN)
        if lost:
            raise ConnectionError(self._lost) from error
        if error is not None:
            with contextlib.suppress(RuntimeError):  # the store is gone, which they see as well
                self._store.add(f"ended/{self._rank}", 1)

    def _look(self) -> None:
        signs = {other: (0, 0) for other in self._others}
        while not self._left.wait(_SECONDS_PER_SIGN):
            try:
                lost = self._lost_rank(signs)
                who = f"Rank {lost}"
            except RuntimeError:
                lost, who = 0, "Rank 0, or torchrun,"
            if lost is not None:
                self._lost = f"{who} has ended before rank {self._rank} was done. Its log says why."
                self._found.set()
                break
        if not self._left.wait(_SECONDS_TO_LEAVE if self._found.is_set() else 0):
            # The main thread waits in code that Python cannot interrupt.
            print(f"error: {self._lost}", file=sys.stderr, flush=True)
            os._exit(1)

    def _lost_rank(self, signs: dict[int, tuple[int, int]]) -> int | None:
        """A rank that has said that it ended, or has been silent for too long.

        Args:
            signs: of each other rank, how many it gave, and how often in a row that was no more; kept up to date.
        """
        # Adding 0 reads a number that may not be there yet, without waiting for it.
        self._store.add(f"alive/{self._rank}", 1)
        for other, (before, missed) in signs.items():
            given = self._store.add(f"alive/{other}", 0)
            signs[other] = given, missed + 1 if given == before else 0
            # One that is still on its way here has not begun, so it is not silent.
            if self._store.add(f"ended/{other}", 0) or (given and signs[other][1] > _SIGNS_TO_MISS):
                return other
        return None
