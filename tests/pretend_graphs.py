"""Streams, events and graphs of the pretended GPU: who waits for whom, and work that is written down and done again.

A capture does nothing: what its block has changed is put back. A replay asks for the same operations on the same
memory, with the numbers that the host gave then; what lies in a graph's own memory is gone after it, as where another
graph has used that. Work on a stream that does not come after the work on the others is refused, and within a capture
so is a wait, or a number of the device.
"""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

NOT_PERMITTED = "CUDA error: operation not permitted when stream is capturing"


class Timeline:
    """What the host has asked of a device, and what it knows to be done."""

    def __init__(self, waited: Callable[[str], None]) -> None:
        self._waited = waited
        self.current = Stream(self)
        self._streams = [self.current]
        self.capturing: Stream | None = None
        self.graphs: list[Graph] = []
        self.replays = self._reached = self.most_ahead = 0
        self.sent: list[tuple[torch.Tensor, torch.Tensor]] = []

    def work(self) -> None:
        """Something is asked of the current stream."""
        if self.capturing:
            assert self.current is self.capturing, "a graph of two streams"
            return
        for other in self._streams:
            late = other is not self.current and self.current.known[other] < other.pieces
            assert not late, "work on a stream that does not wait for what was asked of another"
        self.current.pieces += 1

    def waits(self) -> None:
        """The host waits for everything."""
        if self.capturing:
            raise RuntimeError(NOT_PERMITTED)
        self._reached = self.replays
        self.arrived()
        for stream in self._streams:
            stream.known = collections.Counter({other: other.pieces for other in self._streams})

    def replayed(self) -> None:
        """A graph was launched."""
        self.work()
        self.replays += 1
        self.most_ahead = max(self.most_ahead, self.replays - self._reached)

    def sends(self, content: torch.Tensor) -> torch.Tensor:
        """A copy on the host of which nothing has come before the host waits."""
        self.sent.append((torch.zeros_like(content).fill_(77), content.clone()))
        return self.sent[-1][0]

    def arrived(self, number: int | None = None) -> None:
        """What was sent first, or all, is there."""
        for copy, content in self.sent[:number]:
            copy.copy_(content)

    def event(self, blocking: bool = False) -> Event:
        """In the place of `torch.cuda.Event`."""
        return Event(self)

    def waits_for(self, replays: int) -> None:
        """The host waits until so many replays are done."""
        self._waited("synchronize of an event")
        self._reached = max(self._reached, replays)

    def stream(self) -> Stream:
        """In the place of `torch.cuda.Stream`."""
        self._streams.append(Stream(self))
        return self._streams[-1]

    @contextlib.contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        """In the place of `torch.cuda.stream`."""
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextlib.contextmanager
    def graph(
        self, graph: Graph, *, pool: object, stream: Stream, capture_error_mode: str = "global"
    ) -> Iterator[None]:
        """In the place of `torch.cuda.graph`."""
        assert all(other.stream is stream for other in self.graphs if other.pool is pool), "a pool of two streams"
        self.waits()
        self._waited("synchronize")
        graph.pool, graph.stream, self.capturing = pool, stream, stream
        try:
            with self.on(stream), graph:
                yield
        finally:
            self.capturing = None
            graph.undo()
        self.graphs.append(graph)

    def stand_ins(self) -> dict[str, Any]:
        """By their names in `torch.cuda`."""
        return {
            "Stream": self.stream,
            "stream": self.on,
            "current_stream": lambda device=None: self.current,
            "Event": self.event,
            "CUDAGraph": lambda: Graph(self),
            "graph": self.graph,
            "graph_pool_handle": object,
            "is_current_stream_capturing": lambda: self.capturing is not None,
        }


class Stream:
    """Work in the order in which it was asked for."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self.pieces = 0
        # How much of the others' work comes before what is asked next.
        self.known: collections.Counter[Stream] = collections.Counter()

    def wait_stream(self, other: Stream) -> None:
        self.known[other] = other.pieces

    def is_capturing(self) -> bool:
        return self._timeline.capturing is self


class Event:
    """A place in the order of work."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._replays: int | None = None

    def record(self) -> None:
        self._replays, self._sent = self._timeline.replays, len(self._timeline.sent)

    def synchronize(self) -> None:
        if self._replays is not None:
            self._timeline.waits_for(self._replays)
            self._timeline.arrived(self._sent)


class Graph(TorchDispatchMode):
    """The operations of a block, on the memory that they had there."""

    def __init__(self, timeline: Timeline) -> None:
        super().__init__()
        self.pool: object = None
        self.stream: Stream | None = None
        self._timeline = timeline
        self._calls: list[tuple[Any, Any, Any, Any]] = []
        self._before: dict[int, tuple[Any, Any]] = {}
        self._own: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError(NOT_PERMITTED)
        for memory in _memory((args, kwargs)):
            if memory.data_ptr() not in self._own and memory.data_ptr() not in self._before:
                self._before[memory.data_ptr()] = memory, memory.clone()
        with torch._C.DisableTorchFunction():
            out = func(*args, **kwargs)
        self._own |= {memory.data_ptr(): memory for memory in _memory(out) if memory.data_ptr() not in self._before}
        self._calls.append((func, args, kwargs, out))
        return out

    def undo(self) -> None:
        for memory, content in self._before.values():
            memory.copy_(content)
        self._forget()

    def replay(self) -> None:
        self._timeline.replayed()
        with torch._C.DisableTorchFunction(), torch._C._AutoDispatchBelowAutograd():
            for func, args, kwargs, out in self._calls:
                found = func(*args, **kwargs)
                for old, new in zip(_tensors(out), _tensors(found), strict=True):
                    if old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr():
                        old.copy_(new)
            self._forget()

    def _forget(self) -> None:
        for memory in self._own.values():
            memory.fill_(255)


def _tensors(values: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_flatten(values)[0] if isinstance(leaf, torch.Tensor)]


def _memory(values: Any) -> list[Any]:
    return [tensor.untyped_storage() for tensor in _tensors(values) if tensor.untyped_storage().nbytes()]
