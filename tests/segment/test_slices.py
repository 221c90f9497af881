"""Whole slices that are counted: the next ones are read meanwhile, and what is counted is what was asked for."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import torch

from hpcseg.segment.slices import WholeSlices

NUMBER = 100


def test_slices_are_read_while_the_network_computes_and_few_are_in_memory():
    """Of slice n, n pixels are 1 as the network finds it, and one less as it is labelled."""
    begun = [threading.Event() for _ in range(NUMBER + 1)]
    answered = []

    def read_channels(index: int) -> tuple[np.ndarray, np.ndarray]:
        begun[index].set()
        places = np.arange(256).reshape(16, 16)
        return (places < index).astype(np.uint16), (places < index - 1).astype(np.uint8)

    def answer(image: np.ndarray, edge: int | None) -> SimpleNamespace:
        answered.append(int(image.sum()))
        following = order[order.index(answered[-1]) + 1 :]
        assert not following or begun[following[0]].wait(20), "nothing is read while the network computes"
        assert sum(one.is_set() for one in begun) - len(answered) < 8
        return SimpleNamespace(classes=image.astype(np.uint8))

    info = SimpleNamespace(shape=(NUMBER, 16, 16), grey=SimpleNamespace(normalised=lambda counts: counts))
    source = SimpleNamespace(info=info, classes=2, read_channels=read_channels)
    numbers = np.arange(1, NUMBER + 1)
    order = numbers[1::3].tolist()
    slices = WholeSlices(SimpleNamespace(answer=answer), source, numbers, edge=None, device=torch.device("cpu"))
    counted = slices.count_each(range(1, NUMBER, 3))
    for _ in range(10):
        next(counted)
    counted.close()
    assert answered == order[:10] and not begun[order[-1]].is_set(), "what is left is not read"
    for place, found in enumerate(slices.confusion.tolist()):
        number = place + 1
        counts = [[256 - number, 1], [0, number - 1]]
        assert found == (counts if number in order[:10] else [[0, 0], [0, 0]])
