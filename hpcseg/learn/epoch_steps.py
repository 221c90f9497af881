"""The steps of an epoch, none of which waits for anything of the host but tiles that the device has no room for.

Which tiles a step takes, what their loss weighs and where its sums go is counted on the device. So the host can run
ahead of a GPU, where a step can be captured as a graph; on a CPU and over several ranks it is computed as it stands.
"""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import torch

from hpcseg.ahead import ahead
from hpcseg.data.batches import rank_share
from hpcseg.data.tile_sets import AwayTiles, TileSet
from hpcseg.learn.captured import StepGraphs
from hpcseg.learn.ranks import Ranks
from hpcseg.learn.step import TrainStep


class EpochSteps:
    """Takes the steps of one epoch after the other.

    Args:
        step: what is done with a batch.
        sums: (steps, 2) float64 on the device; each step writes its row: the loss over this rank's pixels, and how many
            of them were right.
        batch_size: tiles per step, over all ranks.
        ranks: that share each batch.
        captured: as CUDA graphs, which must be of a GPU and of one rank.
        rate: the optimizer's learning rate, a scalar on the device, where it changes from step to step.
    """

    def __init__(
        self,
        step: TrainStep,
        sums: torch.Tensor,
        *,
        batch_size: int,
        ranks: Ranks,
        captured: bool = False,
        rate: torch.Tensor | None = None,
    ) -> None:
        self.step = step
        self._sums = sums
        self._batch_size = batch_size
        self._ranks = ranks
        self._graphs = StepGraphs(step.optimizer) if captured else None
        self._tiles = 0
        self._rate = rate
        # Images, labels, order, shares and learning rates of the epoch.
        self._epoch: tuple[torch.Tensor, ...] = ()
        # Of tiles that are elsewhere, this rank's parts of the batches to come.
        self._coming: Generator[TileSet] | None = None
        self._at = torch.zeros(1, dtype=torch.int64, device=ranks.device)

    def begin(
        self,
        tiles: TileSet | AwayTiles,
        order: np.ndarray,
        labelled: np.ndarray,
        *,
        step: int,
        rates: np.ndarray | None = None,
    ) -> None:
        """Go to a step of an epoch.

        Args:
            tiles: as the epoch sees them, T; those of the first epoch are kept, and written over by those of another.
                Of those that are elsewhere one batch is kept, and the next two are loaded.
            order: (K,) int64, in which it visits them, perhaps several times.
            labelled: (T,) int64, pixels of each tile that have a class; each batch must have some.
            step: the next one, from 0.
            rates: (steps,) float32, learning rates, where there is a tensor for them.
        """
        pixels = np.add.reduceat(labelled[order], np.arange(0, len(order), self._batch_size))
        # The gradients of all ranks are averaged.
        shares = (self._ranks.world_size / pixels).astype(np.float32)
        self._tiles = len(order)
        if isinstance(tiles, AwayTiles):
            tiles, order = self._batch_of(tiles, order, step=step), np.arange(len(order)) % self._batch_size
        places = [
            torch.from_numpy(values).to(self._ranks.device) for values in (order, shares, rates) if values is not None
        ]
        epoch = (tiles.images, tiles.labels, *places)
        # A graph knows tensors by where they are.
        self._epoch = self._epoch or epoch
        for kept, new in zip(self._epoch, epoch, strict=True):
            if kept is not new:
                kept.copy_(new)
        self._at.fill_(step)

    def take(self, step: int) -> None:
        """Take the next step of the epoch, whose number the caller has counted: on it depends the size of its batch."""
        size = min(self._batch_size, self._tiles - step * self._batch_size)
        if self._coming is not None:
            batch, own = next(self._coming), self._own(size)
            for place, part in zip(self._epoch, (batch.images, batch.labels), strict=False):
                place[own].copy_(part, non_blocking=True)
        if self._graphs is None:
            self._body(size)
        else:
            self._graphs.take(self._body, size)

    def _batch_of(self, tiles: AwayTiles, order: np.ndarray, *, step: int) -> TileSet:
        """Room for one batch, into which its steps copy this rank's part of it."""
        if self._coming is not None:
            self._coming.close()
        starts = range(step * self._batch_size, len(order), self._batch_size)
        batches = [order[start:][: self._batch_size] for start in starts]
        self._coming = ahead(tiles.load_to_send, [batch[self._own(len(batch))] for batch in batches], at_most=3)
        if self._epoch:
            return TileSet(*self._epoch[:2])
        shape, device = tiles.shape, self._ranks.device
        return TileSet(
            torch.zeros(self._batch_size, *shape, device=device),
            torch.zeros(self._batch_size, *shape[1:], dtype=torch.uint8, device=device),
        )

    def _own(self, size: int) -> slice:
        """This rank's places in a batch, of which there may be none."""
        places = rank_share(torch.arange(size), self._ranks.rank, self._ranks.world_size).tolist()
        return slice(places[0], places[-1] + 1) if places else slice(0, 0)

    def _body(self, size: int) -> None:
        images, labels, order, shares, *rates = self._epoch
        if self._rate is not None:
            self._rate.copy_(rates[0].index_select(0, self._at)[0])
        own = rank_share(torch.arange(size, device=self._ranks.device), self._ranks.rank, self._ranks.world_size)
        rows = order.index_select(0, self._at * self._batch_size + own)
        loss, right = self.step(
            images.index_select(0, rows),
            labels.index_select(0, rows).long(),
            share=shares.index_select(0, self._at)[0],
        )
        self._sums.index_copy_(0, self._at, torch.stack([loss.double(), right.double()])[None])
        self._at += 1
