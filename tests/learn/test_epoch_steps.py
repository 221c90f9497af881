"""Steps that take nothing from the host end in the bits of a loop that hands over each batch, also as graphs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pretend_gpu import CUDA, pretend_gpu
from torch.utils._pytree import tree_map_only

from hpcseg.data.classes import IGNORED
from hpcseg.data.tile_sets import TileSet, transformed
from hpcseg.learn.epoch_steps import EpochSteps
from hpcseg.learn.precision import loss_scaler, to_device
from hpcseg.learn.ranks import Ranks
from hpcseg.learn.step import TrainStep
from hpcseg.learn.unet import build_unet

CPU = torch.device("cpu")
TILES, BATCH, EDGE = 17, 5, 16
STEPS, LAST = 4, 2
EPOCHS = 4


def _tiles() -> TileSet:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(TILES, 1, EDGE, EDGE, generator=generator)
    labels = torch.randint(0, 3, (TILES, EDGE, EDGE), generator=generator)
    unknown = torch.rand(TILES, EDGE, EDGE, generator=generator) < torch.linspace(0, 0.9, TILES)[:, None, None]
    return TileSet(images, labels.masked_fill(unknown, IGNORED).to(torch.uint8))


def _of_epoch(tiles: TileSet, anew: str, epoch: int) -> TileSet:
    generator = torch.Generator().manual_seed(epoch)
    if "noise" in anew:
        tiles = TileSet(
            tiles.images + torch.randn(tiles.images.shape, generator=generator).to(tiles.images.device), tiles.labels
        )
    if "symmetries" in anew:
        tiles = transformed(tiles, np.random.default_rng(epoch).integers(8, size=TILES))
    return tiles


class _Training:
    """A model, its optimizer and its step."""

    def __init__(self, precision: str, device: torch.device = CPU, state: list | None = None) -> None:
        model = build_unet(classes=3, width=4, depth=2, batch_norm=True, seed=0)
        to_device(model, device)
        optimizer = torch.optim.Adam(model.parameters(), weight_decay=1e-3, fused=True)
        self.parts = [model, optimizer, loss_scaler(precision, device)]
        for part, content in zip(self.parts, state or [], strict=False):
            part.load_state_dict(content)
        self.step = TrainStep(*self.parts, precision=precision)

    def state(self) -> list:
        return [part.state_dict() for part in self.parts]


def _plain(precision: str, anew: str) -> tuple[list, torch.Tensor]:
    """The state, and the sums of each step, of a loop that hands each batch to the step."""
    base, training = _tiles(), _Training(precision)
    sums = torch.zeros(EPOCHS * STEPS, 2, dtype=torch.float64)
    for epoch in range(EPOCHS):
        tiles, order = _of_epoch(base, anew, epoch), np.random.default_rng(epoch).permutation(TILES)
        for step in range(STEPS):
            rows = order[step * BATCH :][:BATCH]
            images, labels = tiles.images[torch.from_numpy(rows)], tiles.labels[torch.from_numpy(rows)].long()
            row = sums[epoch * STEPS + step]
            row[0], row[1] = training.step(images, labels, share=1 / int(base.labelled[rows].sum()))
    return training.state(), sums


def _from_the_device(precision: str, anew: str, *, device: torch.device, stops: set[int]) -> tuple[list, torch.Tensor]:
    """The same by `EpochSteps`, which begin anew from the state before some of the steps; on a GPU by graphs."""
    base, state, found = TileSet(*(tensor.to(device) for tensor in vars(_tiles()).values())), None, []
    sums = torch.zeros(STEPS, 2, dtype=torch.float64, device=device)
    steps: EpochSteps | None = None
    for epoch in range(EPOCHS):
        order = np.random.default_rng(epoch).permutation(TILES)
        for step in range(STEPS):
            anew_from_here = steps is None or epoch * STEPS + step in stops
            if steps is None or anew_from_here:
                training, sums = _Training(precision, device, state), sums.clone()
                steps = EpochSteps(
                    training.step, sums, batch_size=BATCH, ranks=Ranks(device=device), captured=device == CUDA
                )
            if step == 0 or anew_from_here:
                steps.begin(_of_epoch(base, anew, epoch), order, base.labelled, step=step)
            steps.take(step)
            state = training.state()
        found.append(sums.clone())
        sums.zero_()
    assert torch.equal(base.images.cpu(), _tiles().images), "what every epoch begins from is not written over"
    assert torch.equal(base.labels.cpu(), _tiles().labels)
    return tree_map_only(torch.Tensor, lambda tensor: tensor.cpu(), (state, torch.cat(found)))


def _same(one: object, other: object) -> None:
    """Equal in every bit, whatever lists and tables it is made of."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and one.numpy().tobytes() == other.numpy().tobytes()
    elif isinstance(one, dict):
        assert list(one) == list(other)
        _same(list(one.values()), list(other.values()))
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for mine, yours in zip(one, other, strict=True):
            _same(mine, yours)
    else:
        assert one == other


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("anew", ["", "noise", "noise and symmetries"])
def test_steps_that_take_nothing_from_the_host_end_in_the_bits_of_a_plain_loop(precision, anew):
    assert TILES == (STEPS - 1) * BATCH + LAST
    plain = _plain(precision, anew)
    # In the middle of an epoch, and before its ragged last step.
    for stops in (set(), {2, 7}):
        _same(_from_the_device(precision, anew, device=CPU, stops=stops), plain)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("anew", ["", "noise and symmetries"])
def test_graphs_end_in_the_bits_of_a_plain_loop_and_share_their_memory(precision, anew):
    plain = _plain(precision, anew)
    with pretend_gpu() as gpu:
        found = _from_the_device(precision, anew, device=CUDA, stops=set())
    # With them the optimizer's part of a checkpoint, which must not tell that there were graphs.
    _same(found, plain)
    full, last = gpu.timeline.graphs
    assert full.pool is last.pool
    assert gpu.timeline.replays == EPOCHS * STEPS - 2 * 3, "all but the first three of each size"


def test_a_training_that_goes_on_is_captured_anew_and_ends_in_the_same_bits():
    with pretend_gpu() as gpu:
        found = _from_the_device("fp32", "noise and symmetries", device=CUDA, stops={6})
    _same(found, _plain("fp32", "noise and symmetries"))
    assert len(gpu.timeline.graphs) == 2
