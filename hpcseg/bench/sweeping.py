"""Evaluation at many noise levels: our sweep, the loop that people write, and the network alone on one chunk."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from hpcseg.bench.contender import Contender, started
from hpcseg.bench.measure import Piece, Rates, rate, take_turns
from hpcseg.bench.plain import TilesOnDisk, plain_evaluation
from hpcseg.bench.training import network, plain_network, settings, synchronise
from hpcseg.config import DataConfig
from hpcseg.data.batches import EVALUATION_CHUNK, open_source, test_set
from hpcseg.learn.evaluate import folded, sweep
from hpcseg.learn.precision import autocast, resolve_precision, to_device
from hpcseg.learn.ranks import choose_device, join, read_environment

OURS, PLAIN, RESIDENT = "ours", "plain loop", "resident chunk"
_SIGMAS = (0.0, 5_000.0, 30_000.0)
_HERE = "hpcseg.bench.sweeping"


def measure_sweep(data: Path, *, width: int, chunks: int, rounds: int) -> Rates:
    """Tile evaluations per second of `OURS`, `PLAIN` and `RESIDENT`, which take turns.

    Args:
        data: the packed data set.
        width: channels of the network's first block.
        chunks: of tiles in a piece, each at three noise levels; the plain loop takes as many at one.
        rounds: pieces that count of each.
    """
    work = {"data": str(data), "width": width, "chunks": chunks}
    contenders = {
        name: Contender(f"{_HERE}:{build}", work)
        for name, build in ((OURS, "our_piece"), (PLAIN, "plain_piece"), (RESIDENT, "resident_piece"))
    }
    with started(contenders) as pieces:
        return take_turns(pieces, rounds=rounds)


@contextlib.contextmanager
def our_piece(data: str, width: int, chunks: int) -> Iterator[Piece]:
    """Our sweep over some chunks of the test set, with the counting."""
    source, config = open_source(Path(data), DataConfig(tiles="large")), settings(width, 1)
    some = dataclasses.replace(
        source, split=dataclasses.replace(source.split, test=source.split.test[: chunks * EVALUATION_CHUNK])
    )
    with tempfile.TemporaryDirectory() as folder, join(read_environment(), Path(folder)) as ranks:
        tiles, model = test_set(some, seed=0, device=ranks.device), network(source, config)
        to_device(model, ranks.device)
        precision = resolve_precision(config.precision, ranks.device)

        def work() -> object:
            return sweep(
                model,
                tiles,
                _SIGMAS,
                classes=source.classes,
                precision=precision,
                ranks=ranks,
                on_chunk=lambda *_: False,
            )

        yield lambda: rate(len(tiles) * len(_SIGMAS), work)


@contextlib.contextmanager
def resident_piece(data: str, width: int, chunks: int) -> Iterator[Piece]:
    """The folded network on one chunk that never changes: no noise, no counting. What the sweep cannot exceed."""
    source, config = open_source(Path(data), DataConfig(tiles="large")), settings(width, 1)
    with tempfile.TemporaryDirectory() as folder, join(read_environment(), Path(folder)) as ranks:
        model = network(source, config)
        to_device(model, ranks.device)
        lean, precision = folded(model), resolve_precision(config.precision, ranks.device)
        images = torch.rand(EVALUATION_CHUNK, 1, source.size, source.size).to(
            ranks.device, memory_format=torch.channels_last
        )
        passes = chunks * len(_SIGMAS)

        def work() -> None:
            with torch.inference_mode(), autocast(precision, ranks.device):
                for _ in range(passes):
                    lean(images)
            synchronise(ranks.device)

        yield lambda: rate(passes * EVALUATION_CHUNK, work)


@contextlib.contextmanager
def plain_piece(data: str, width: int, chunks: int) -> Iterator[Piece]:
    """The loop that people write, at one noise level."""
    environment = read_environment()
    torch.set_num_threads(environment.threads)
    device = choose_device(environment.local_rank)
    source, config = open_source(Path(data), DataConfig(tiles="large")), settings(width, 1)
    model = plain_network(source, config).to(device)
    disk = TilesOnDisk(source, source.split.test[: chunks * EVALUATION_CHUNK], sigma=_SIGMAS[1], fixed=True)

    def work() -> object:
        return plain_evaluation(model, disk, batch_size=EVALUATION_CHUNK, device=device)

    yield lambda: rate(len(disk), work)
