"""Steps as CUDA graphs: what a step does on a GPU is captured once for each size of batch, and then replayed.

The host launches one graph in the place of a thousand kernels. A capture only writes down what is asked of the GPU, so
the steps before it are taken as any other, and there is nothing to undo.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator

import torch

from hpcseg.errors import ConfigError, HpcsegError

# As torch's documentation has it: kernels are loaded, cuDNN has its plans, the optimizer its state.
_STEPS_BEFORE_CAPTURE = 3
# How far the host runs ahead: a stop is answered when the GPU is there. Half of it lies between two looks.
_SECONDS_AHEAD = 0.25
_MOST_STEPS_AHEAD = 16


def graphs_wanted() -> bool:
    """HPCSEG_GRAPHS, 1 where it is not set; it decides no number, so it is no setting of a cell.

    Raises:
        ConfigError: it is neither 0 nor 1.
    """
    wish = os.environ.get("HPCSEG_GRAPHS", "1")
    if wish not in ("0", "1"):
        raise ConfigError(
            f'HPCSEG_GRAPHS is "{wish}", but it must be 1, for training steps that are captured as CUDA graphs where '
            "there is a GPU, or 0."
        )
    return wish == "1"


class StepGraphs:
    """Takes steps: the first ones of each size of batch as they are, and then as a graph.

    Args:
        optimizer: that the steps call, whose state must stay in the tensors where it is.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._taken: collections.Counter[int] = collections.Counter()
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        # Graphs that run one after the other, and leave nothing there, need no memory each of its own.
        self._pool = torch.cuda.graph_pool_handle()
        self._reached = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        self._since = time.monotonic()
        # Until the event that is waited for next, from there to the host's next wait, and of these not yet taken.
        self._behind = self._steps = self._left = 1

    def take(self, body: Callable[[int], None], size: int) -> None:
        """Take one step.

        Args:
            body: the step. It takes nothing from the host but `size`, and changes tensors in place, the same ones in
                every call.
            size: of its batch.

        Raises:
            HpcsegError: it cannot be captured.
        """
        if self._taken[size] < _STEPS_BEFORE_CAPTURE:
            with _aside():
                body(size)
        else:
            if size not in self._graphs:
                self._graphs[size] = self._captured(body, size)
            self._graphs[size].replay()
        self._taken[size] += 1
        self._wait_for_the_gpu()

    def _captured(self, body: Callable[[int], None], size: int) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        try:
            self._set_capturable(True)
            # Of this thread alone: the one that writes checkpoints may wait for the GPU meanwhile.
            mode, stream = "thread_local", _side_stream()
            with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode=mode):
                body(size)
        except RuntimeError as error:
            # Others are of the GPU itself, or of its memory, and say so.
            if "captur" not in str(error):
                raise
            # After a capture that failed, torch's allocator and current stream may still be those of the capture. And
            # words of CUDA's would be taken for a fault of the node.
            cause = str(error.__context__ or error).splitlines()[0].removeprefix("CUDA error: ")
            raise HpcsegError(
                f"A training step of {size} tiles cannot be captured as a CUDA graph ({cause}). Set HPCSEG_GRAPHS=0 "
                "for steps without graphs, which are slower and take less memory, and start the cell again."
            ) from None
        finally:
            self._set_capturable(False)
        return graph

    def _set_capturable(self, capturable: bool) -> None:
        """Adam asks for the word during a capture alone; a checkpoint never has it. Fused, it computes as ever."""
        for group in self._optimizer.param_groups:
            group["capturable"] = capturable

    def _wait_for_the_gpu(self) -> None:
        """Every few steps, wait until the GPU is where the host was the last time, as long as there is work left."""
        self._left -= 1
        if self._left:
            return
        self._reached.synchronize()
        self._reached.record()
        now = time.monotonic()
        seconds = (now - self._since) / self._behind
        self._since, self._behind = now, self._steps
        self._steps = self._left = max(1, min(_MOST_STEPS_AHEAD // 2, int(_SECONDS_AHEAD / 2 / max(1e-6, seconds))))


@functools.cache
def _side_stream() -> torch.cuda.Stream:
    """One for all trainings of a process, since cuBLAS keeps memory for each."""
    return torch.cuda.Stream()  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def _aside() -> Iterator[None]:
    """What is asked of the GPU in this block is asked on the stream of the captures, in turn with what comes before it
    and after it on this one.

    The default stream cannot be captured, nor what autograd remembers of it.
    """
    here, side = torch.cuda.current_stream(), _side_stream()
    side.wait_stream(here)
    with torch.cuda.stream(side):
        yield
    here.wait_stream(side)
