"""The counting of an evaluation, piece by piece, and the checkpoint where a killed one goes on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hpcseg.errors import HpcsegError
from hpcseg.learn import checkpoint
from hpcseg.learn.ranks import GO_ON, STOP, Agreement, Ranks
from hpcseg.segment.slices import WholeSlices
from hpcseg.segment.sweep import Sweep


def read_counts(file: Path, belongs: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str | None]:
    """What `Counting` has kept in a file, and in words why it cannot be gone on with; None where there is none.

    Args:
        file: which may be missing.
        belongs: model, data and settings that the counts have to be of.
    """
    if not file.exists():
        return None, None
    try:
        content = checkpoint.load(file)
    except HpcsegError as error:
        return None, str(error)
    kept = content.get("belongs")
    if kept == belongs:
        return content, None
    names = [name for name in belongs if not isinstance(kept, dict) or kept.get(name) != belongs[name]]
    return None, f"{file.name} is of another {', '.join(names)}, so its counts are left out."


class Counting:
    """All that an evaluation counts, on one rank. The pieces of all parts are one list, which the ranks share.

    Piece n is done by rank n modulo the number of ranks, from wherever the list stands, so the number of ranks may
    change between two starts. Counts are whole numbers, so their sums do not depend on who has counted what.

    Args:
        parts: of the work, whose pieces can be done in any order and on any rank, since counts add up.
        counts: by name, the tensors that the parts count in, on the ranks' device.
        file: the checkpoint.
        belongs: as in `read_counts`, and `kept` beside it: plain values that go into the checkpoint.
        seconds_between_checkpoints: a kill loses at most this and the pieces under way.
        should_stop: asked after each piece.
        on_piece: told before each piece how many rounds of pieces are done, and of all.
    """

    def __init__(
        self,
        parts: Sequence[Sweep | WholeSlices],
        counts: Mapping[str, torch.Tensor],
        ranks: Ranks,
        *,
        file: Path,
        belongs: Mapping[str, Any],
        kept: Mapping[str, Any],
        seconds_between_checkpoints: float,
        should_stop: Callable[[], bool],
        on_piece: Callable[[int, int], None],
    ) -> None:
        self._parts, self._counts, self._ranks, self._file = parts, counts, ranks, file
        self._belongs, self._kept = belongs, kept
        self._should_stop, self._on_piece = should_stop, on_piece
        self._agree = Agreement(ranks, seconds_between_checkpoints)
        self._started = time.monotonic()
        self._seconds_before = 0.0
        self.pieces = sum(len(part) for part in parts)
        self.done = 0
        """Pieces, on all ranks together."""

    @property
    def seconds(self) -> float:
        """Spent so far, over all starts."""
        return self._seconds_before + time.monotonic() - self._started

    def restore(self, content: Mapping[str, Any] | None) -> None:
        """Go on behind what `read_counts` has found on rank 0; all ranks call it, the others with None."""
        if content is not None:
            for name, tensor in self._counts.items():
                tensor.copy_(content["counts"][name])
            self._seconds_before = content["seconds"]
        self.done = self._ranks.largest(content["done"] if content is not None else 0)

    def run(self) -> bool:
        """Count what is missing. Called by all ranks; then rank 0 has the counts of all, and the others none.

        Returns:
            False where `should_stop` ended it, with the checkpoint written.
        """
        size = self._ranks.world_size
        with contextlib.closing(self._counted()) as counted:
            while self.done < self.pieces:
                self._on_piece(self.done // size, -(-self.pieces // size))
                next(counted, None)  # in the last round some ranks have no piece
                self.done = min(self.done + size, self.pieces)
                # Asked after a round and not before: every start gets further, so that a job whose time limit is too
                # short for more comes back once for each round, and not for ever.
                action = self._agree(stop=self._should_stop()) if self.done < self.pieces else GO_ON
                if action != GO_ON:
                    self._save()
                if action == STOP:
                    return False
        self._gather()
        return True

    def _counted(self) -> Generator[None]:
        """Counts this rank's pieces, one each time that the next is asked for."""
        size = self._ranks.world_size
        place = self.done + self._ranks.rank
        for part in self._parts:
            own = range(place, len(part), size)
            yield from part.count_each(own)
            place += len(own) * size - len(part)

    def _gather(self) -> None:
        """Bring all counts to rank 0, which goes on with them, so the others' must not be counted again."""
        for tensor in self._counts.values():
            self._ranks.sum_(tensor)
            if not self._ranks.is_main:
                tensor.zero_()

    def _save(self) -> None:
        self._gather()
        if self._ranks.is_main:
            content = {
                **self._kept,
                "belongs": dict(self._belongs),
                "counts": dict(self._counts),
                "done": self.done,
                "seconds": self.seconds,
            }
            checkpoint.save(self._file, content)
        self._agree.saved()
