"""The steps of an epoch over resident tiles, none of which needs anything from the host.

Which tiles a step takes, what their loss weighs and where its sums go is counted on the device. So the host can run
ahead of a GPU, where a step can be captured as a graph; on a CPU and over several ranks it is computed as it stands.
"""

from __future__ import annotations

import numpy as np
import torch

from hpcseg.data.batches import TileSet, rank_share
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
    """

    def __init__(
        self, step: TrainStep, sums: torch.Tensor, *, batch_size: int, ranks: Ranks, captured: bool = False
    ) -> None:
        self.step = step
        self._sums = sums
        self._batch_size = batch_size
        self._ranks = ranks
        self._graphs = StepGraphs(step.optimizer) if captured else None
        # Images, labels, order and shares of the epoch.
        self._epoch: tuple[torch.Tensor, ...] = ()
        self._at = torch.zeros(1, dtype=torch.int64, device=ranks.device)

    def begin(self, tiles: TileSet, order: np.ndarray, labelled: np.ndarray, *, step: int) -> None:
        """Go to a step of an epoch.

        Args:
            tiles: as the epoch sees them, T; those of the first epoch are kept, and written over by those of another.
            order: (T,) int64, in which it visits them.
            labelled: (T,) int64, pixels of each tile that have a class; each batch must have some.
            step: the next one, from 0.
        """
        pixels = np.add.reduceat(labelled[order], np.arange(0, len(order), self._batch_size))
        # The gradients of all ranks are averaged.
        shares = (self._ranks.world_size / pixels).astype(np.float32)
        places = [torch.from_numpy(values).to(self._ranks.device) for values in (order, shares)]
        epoch = (tiles.images, tiles.labels, *places)
        # A graph knows tensors by where they are.
        self._epoch = self._epoch or epoch
        for kept, new in zip(self._epoch, epoch, strict=True):
            if kept is not new:
                kept.copy_(new)
        self._at.fill_(step)

    def take(self, step: int) -> None:
        """Take the next step of the epoch, whose number the caller has counted: on it depends the size of its batch."""
        size = min(self._batch_size, len(self._epoch[0]) - step * self._batch_size)
        if self._graphs is None:
            self._body(size)
        else:
            self._graphs.take(self._body, size)

    def _body(self, size: int) -> None:
        images, labels, order, shares = self._epoch
        own = rank_share(torch.arange(size, device=self._ranks.device), self._ranks.rank, self._ranks.world_size)
        rows = order.index_select(0, self._at * self._batch_size + own)
        loss, right = self.step(
            images.index_select(0, rows),
            labels.index_select(0, rows).long(),
            share=shares.index_select(0, self._at)[0],
        )
        self._sums.index_copy_(0, self._at, torch.stack([loss.double(), right.double()])[None])
        self._at += 1
