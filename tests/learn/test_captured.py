"""When steps are captured as graphs, how far the host runs ahead of them, and what a failed capture says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pretend_gpu import CUDA, PretendGpu, pretend_gpu

from hpcseg.config import TrainConfig
from hpcseg.errors import ConfigError, HpcsegError
from hpcseg.learn import captured
from hpcseg.learn.captured import StepGraphs
from hpcseg.learn.loop import Trainer
from hpcseg.learn.ranks import Ranks
from hpcseg.learn.unet import build_unet


@pytest.fixture
def gpu() -> Iterator[PretendGpu]:
    with pretend_gpu() as gpu:
        yield gpu


def _adam() -> torch.optim.Optimizer:
    return torch.optim.Adam([torch.nn.Parameter(torch.ones(3, device=CUDA))], fused=True)


def _trainer(precision: str, ranks: Ranks) -> Trainer:
    model = build_unet(classes=3, width=4, depth=1, batch_norm=True, seed=0)
    told = dict.fromkeys(("should_stop", "on_step", "on_epoch"), lambda *_: None)
    files = dict.fromkeys(("checkpoint_file", "previous_checkpoint_file"), Path("none"))
    sets = {"training": [None] * 5, "validation": [None]}
    rest = {"classes": 3, "origin": {}, "seconds_between_checkpoints": 1e9}
    return Trainer(config=TrainConfig(), model=model, precision=precision, ranks=ranks, **sets, **rest, **told, **files)


@pytest.mark.parametrize(
    ("device", "world_size", "precision", "wish", "graphs"),
    [
        (CUDA, 1, "bf16", None, True),
        (CUDA, 1, "fp32", "1", True),
        (CUDA, 1, "bf16", "0", False),
        (CUDA, 1, "fp16", "1", False),
        (CUDA, 2, "bf16", "1", False),
        (torch.device("cpu"), 1, "bf16", "1", False),
    ],
)
def test_steps_are_graphs_on_one_gpu_without_a_scaled_loss(
    gpu, monkeypatch, device, world_size, precision, wish, graphs
):
    monkeypatch.delenv("HPCSEG_GRAPHS", raising=False)
    if wish is not None:
        monkeypatch.setenv("HPCSEG_GRAPHS", wish)
    assert _trainer(precision, Ranks(0, world_size, device)).graphs == graphs


@pytest.mark.parametrize("wish", ["", "yes", "2"])
def test_a_wish_that_is_none_is_refused(monkeypatch, wish):
    monkeypatch.setenv("HPCSEG_GRAPHS", wish)
    with pytest.raises(ConfigError, match=f'HPCSEG_GRAPHS is "{wish}", but it must be 1, .* or 0'):
        _trainer("fp32", Ranks())


@pytest.mark.parametrize(("seconds_per_step", "most"), [(0.0, 16), (0.005, 16), (0.05, 5), (1.0, 2)])
def test_the_host_is_a_quarter_of_a_second_ahead_of_the_gpu_at_most(gpu, monkeypatch, seconds_per_step, most):
    done = torch.zeros(1, device=CUDA)
    clock, timeline = [0.0], gpu.timeline
    wait = timeline.waits_for

    def waits_for(replays: int) -> None:
        clock[0] = max(clock[0], replays * seconds_per_step)
        wait(replays)

    monkeypatch.setattr(timeline, "waits_for", waits_for)
    monkeypatch.setattr(captured, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    steps = StepGraphs(_adam())
    for step in range(200):
        if step == 20:  # before, nobody knows how long one takes
            timeline.most_ahead = 0
        steps.take(lambda size: done.add_(size), 2)
    assert float(done) == 400
    assert 1 <= timeline.most_ahead <= most
    assert timeline.most_ahead * seconds_per_step <= max(0.25, 2 * seconds_per_step)


def _fail_in_a_capture(said: str) -> tuple[Exception, float, torch.optim.Optimizer]:
    """What a step of 7 tiles raises that is captured and cannot be, and how many were taken."""
    taken, optimizer = torch.zeros(1, device=CUDA), _adam()

    def body(size: int) -> None:
        taken.add_(1)
        if torch.cuda.is_current_stream_capturing():
            raise RuntimeError(said) if said else AssertionError(taken.item())

    steps = StepGraphs(optimizer)
    for _ in range(3):
        steps.take(body, 7)
    with pytest.raises((HpcsegError, RuntimeError)) as raised:
        steps.take(body, 7)
    return raised.value, float(taken), optimizer


def test_a_step_that_cannot_be_captured_says_what_to_do_and_has_not_been_taken(gpu):
    error, taken, optimizer = _fail_in_a_capture("")
    assert isinstance(error, HpcsegError)
    assert "step of 7 tiles cannot be captured as a CUDA graph (operation not permitted" in str(error)
    assert "HPCSEG_GRAPHS=0" in str(error)
    assert "CUDA error" not in str(error), "or the cell would be tried on another node"
    assert taken == 3
    assert not optimizer.param_groups[0]["capturable"]


@pytest.mark.parametrize("said", ["CUDA out of memory. Tried to allocate 2 GiB", "CUDA error: uncorrectable ECC error"])
def test_what_else_a_gpu_says_during_a_capture_stays_as_it_is(gpu, said):
    error, taken, optimizer = _fail_in_a_capture(said)
    assert str(error) == said and taken == 3
    assert not optimizer.param_groups[0]["capturable"]
