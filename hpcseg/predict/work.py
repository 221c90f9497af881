"""A prediction that was looked at in, a folder of labels out: readers, the network and a writer work at the same time.

`request.begin` looks at everything and writes down what is asked, `work` predicts the slices that are missing (all of
them, or a part), `finish` gives the files their names and adds up. A local run calls the three; on a cluster many jobs
`work`.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch

from hpcseg.ahead import LEAST_AHEAD, OnSlice, ahead, slices_ahead
from hpcseg.data.grey import border_mask
from hpcseg.launch.environment import host, read_environment
from hpcseg.learn.precision import autocast
from hpcseg.learn.ranks import choose_device
from hpcseg.memory import keep_freed_memory
from hpcseg.predict.contact_sheet import write_sheet
from hpcseg.predict.mapping import share_outside
from hpcseg.predict.request import Prediction, probability_layer
from hpcseg.predict.schema import Finished, SliceResult, Start
from hpcseg.predict.volume import sha256_of
from hpcseg.runs.machine import device_facts, refuse_missing_gpu
from hpcseg.segment.network import Answer, Network

# At most so much work is done again after a kill.
_SECONDS_BETWEEN_COMMITS = 5.0


def work(
    prediction: Prediction,
    slices: Sequence[int],
    *,
    part: int | None = None,
    on_slice: OnSlice = lambda *_: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Predict slices and write them; True when all are written.

    Args:
        prediction: from `begin`.
        slices: indices, such as `prediction.missing()`.
        part: of the volume, where several processes share it; None: there is only this one.
        on_slice: told how many of `slices` are written.
        should_stop: asked after each slice; True ends the work, and what was written stays.

    Raises:
        DatasetError: a slice cannot be read.
        HpcsegError: a file cannot be written, another process is at it, or the job's GPU is not there.
    """
    network, where = _open_network(prediction)
    folder, target = prediction.folder, prediction.target()
    at_most = slices_ahead(max(math.prod(shape) for shape in prediction.volume.shapes))
    writing: deque[Future[SliceResult]] = deque()
    committed, new, written = time.monotonic(), list[SliceResult](), 0

    def write(read: _Read, answer: Answer) -> SliceResult:
        pixels, result = _layers_of(prediction, read, answer)
        target.write(read.index, pixels)
        return result

    def commit() -> None:
        """A line of the journal says that a slice is on the disk, so it is brought there before."""
        nonlocal committed
        now = time.monotonic()
        target.sync()
        folder.note_written(part, new, now - committed)
        new.clear()
        committed = now

    def collect(left: int) -> None:
        nonlocal written
        while len(writing) > left:
            new.append(writing.popleft().result())
            written += 1
            on_slice(written, len(slices))
        if time.monotonic() - committed >= _SECONDS_BETWEEN_COMMITS:
            commit()

    # Threads read and map slices, this one runs the network, and one writes.
    with folder.alone(part), contextlib.closing(target), ThreadPoolExecutor(1) as writer:
        folder.note_start(part, where)
        try:
            for read, answer in _answers(prediction, network, slices, at_most):
                writing.append(writer.submit(write, read, answer))
                collect(at_most)
                if should_stop():
                    break
            collect(0)
        finally:
            # After an error, or Ctrl-C, what is on its way still counts.
            new += [result.result() for result in writing if result.exception() is None]
            commit()
    return written == len(slices)


def check_precision(precision: str) -> None:
    """Raise HpcsegError where this process's device does not compute in a precision."""
    autocast(precision, choose_device(read_environment().local_rank))


def finish(prediction: Prediction) -> Finished:
    """Give the files their names, write fractions.csv and a sheet, and complete prediction.json, which is returned.

    All slices must be there.
    """
    target, folder = prediction.target(), prediction.folder
    target.finish()
    write_sheet(prediction, target)
    return folder.finish(
        [one for _, one in sorted(prediction.done().items())],
        [*target.files(), folder.fractions_file.name, folder.sheet_file.name],
        prediction.volume.names,
        prediction.models[0].card.class_names,
    )


@dataclass(frozen=True)
class _Read:
    """A slice on its way."""

    index: int
    """Its place in the source, and of one that is segmented the index among these."""
    image: np.ndarray
    """(H, W) float32, as the network takes it."""
    outside: np.ndarray | None
    """(H, W) bool, as `Prediction.outside`."""
    sha256: str
    """Of the grey values."""
    strange: float
    """As `SliceResult.outside`."""
    around: tuple[str, ...] = ()
    """As `SliceResult.around`."""


def segment(prediction: Prediction) -> Iterator[tuple[dict[str, np.ndarray], SliceResult]]:
    """Predict all slices, one after the other: (H, W) by the layer's name, as `work` writes it, and what it notes.

    Args:
        prediction: from `in_memory`.

    Raises:
        DatasetError, HpcsegError: as `work`.
    """
    threads = torch.get_num_threads()  # of a notebook, which goes on with its own
    try:
        network, _ = _open_network(prediction)
        for read, answer in _answers(prediction, network, range(len(prediction.volume)), LEAST_AHEAD):
            yield _layers_of(prediction, read, answer)
    finally:
        torch.set_num_threads(threads)


def _open_network(prediction: Prediction) -> tuple[Network, Start]:
    """The models on this process's device, and what the record says of that."""
    environment = read_environment()
    torch.set_num_threads(environment.threads)
    keep_freed_memory()
    device = choose_device(environment.local_rank)
    refuse_missing_gpu(device)
    models = [model.trained(prediction.request.precision) for model in prediction.models]
    network = Network(models, prediction.request.wishes, device)
    precisions = ", ".join(dict.fromkeys(model.precision for model in models))
    where = device_facts(device)
    return network, Start(**where, precision=precisions, host=host(), largest_whole_slice=network.largest_whole)


def _answers(
    prediction: Prediction, network: Network, slices: Sequence[int], at_most: int
) -> Iterator[tuple[_Read, Answer]]:
    """What the network says of some slices, ascending; each is read once, whoever has it as a neighbour."""
    volume = prediction.volume
    around = [volume.around(index, prediction.models[0].card.data.context) for index in slices]
    coming = ahead(functools.partial(_read, prediction), dict.fromkeys(itertools.chain(*around)), at_most=at_most)
    held: dict[int, _Read] = {}
    for index, places in zip(slices, around, strict=True):
        # What the next one shares with those before, it shares with this one.
        held = {place: held[place] if place in held else next(coming) for place in dict.fromkeys(places)}
        hashes = tuple(held[place].sha256 for place in places) if len(places) > 1 else ()
        read = replace(held[volume.place(index)], index=index, around=hashes)
        image = np.stack([held[place].image for place in places])
        yield read, network.answer(image, network.tile_edge(*read.image.shape))


def _read(prediction: Prediction, place: int) -> _Read:
    pixels, card = prediction.volume.read_at(place), prediction.models[0].card
    image, outside = prediction.mapping.apply(pixels, card.grey), prediction.outside(pixels)
    # A border that was trained on is not strange, though the card's grey values are those without it.
    learnt = border_mask(pixels) if card.border == "labelled" else None
    left_out = [mask for mask in (outside, learnt) if mask is not None]
    strange = share_outside(image[~np.logical_or.reduce(left_out)] if left_out else image, card)
    return _Read(place, image, outside, sha256_of(pixels), strange)


def _layers_of(prediction: Prediction, read: _Read, answer: Answer) -> tuple[dict[str, np.ndarray], SliceResult]:
    """Of a slice the pixels of each layer by its name, and what is noted of it."""
    card = prediction.models[0].card
    values = np.array(card.class_values).astype(card.label_dtype)
    pixels, classes = {"labels": values[answer.classes]}, answer.classes.ravel()
    if answer.probabilities is not None:
        pixels |= dict(zip(map(probability_layer, card.class_values), answer.probabilities, strict=True))
    if answer.uncertainty is not None:
        pixels["uncertainty"] = answer.uncertainty
    if answer.spread is not None:
        pixels["spread"] = answer.spread
    if read.outside is not None:
        classes = answer.classes[~read.outside]
        for name, of_layer in pixels.items():
            of_layer[read.outside] = prediction.outside_values[name]
    counts = tuple(int(count) for count in np.bincount(classes, minlength=len(values)))
    return pixels, SliceResult(
        index=read.index,
        counts=counts,
        outside=read.strange,
        sha256=read.sha256,
        around=read.around,
    )
