"""What one device does with hpcseg's step: ceilings, step (eager and captured), kernels, same bits, evaluation, layers.

    python3 results/bench/gpu/probe.py OUT [--width 64] [--batch 25 64] [--seconds 180]

Parts run in the order of their worth until the seconds are spent, and each writes OUT/probe.json anew. What it prints
are the parts without their long tables, and at the end the kernels that take longest.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from hpcseg.bench.hardware import count_operations
from hpcseg.learn.adam import Adam
from hpcseg.learn.evaluate import count_confusion
from hpcseg.learn.folding import Folding
from hpcseg.learn.precision import autocast, loss_scaler, to_device
from hpcseg.learn.step import TrainStep
from hpcseg.learn.unet import build_unet

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
CLASSES, DEPTH = 3, 4
_STEPS_FOR_BITS = 12
_CUDNN: dict[str, dict[str, bool]] = {
    "default": {},
    "deterministic": {"deterministic": True},
    "benchmark": {"benchmark": True},
}


def wait() -> None:
    """Until the device has done all that it was given."""
    if CUDA:
        torch.cuda.synchronize()


def milliseconds(work: Callable[[], Any], *, repeats: int = 20, warm: int = 3) -> float:
    """Median over repeats, by events on a GPU; on a CPU, where it shows no more than that it works, of one."""
    if not CUDA:
        repeats, warm = 1, 0
    for _ in range(warm):
        work()
    wait()
    found = []
    for _ in range(repeats):
        if CUDA:
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            work()
            end.record()
            end.synchronize()
            found.append(start.elapsed_time(end))
        else:
            began = time.perf_counter()
            work()
            found.append(1e3 * (time.perf_counter() - began))
    return statistics.median(found)


@contextlib.contextmanager
def cudnn(*, benchmark: bool = False, deterministic: bool = False) -> Iterator[None]:
    """How cuDNN chooses its kernels inside the block, whatever hpcseg has set."""
    flags = torch.backends.cudnn
    before = flags.benchmark, flags.deterministic
    flags.benchmark, flags.deterministic = benchmark, deterministic
    try:
        yield
    finally:
        flags.benchmark, flags.deterministic = before


class ResidentSteps:
    """Model, optimizer and tiles on the device, and a step that needs nothing from the host.

    Args:
        width: channels of the first block.
        batch: tiles per step.
        tile: their edge in pixels.
    """

    def __init__(self, width: int, batch: int, tile: int) -> None:
        self.model = build_unet(classes=CLASSES, width=width, depth=DEPTH, batch_norm=True, seed=0)
        to_device(self.model, DEVICE)
        self.optimizer = Adam(self.model.parameters(), lr=1e-3, fused=True)
        self.step = TrainStep(self.model, self.optimizer, loss_scaler("bf16", DEVICE), precision="bf16")
        generator = torch.Generator().manual_seed(0)
        tiles = 2 * batch
        self.images = torch.rand(tiles, 1, tile, tile, generator=generator).to(DEVICE)
        self.labels = torch.randint(0, CLASSES, (tiles, tile, tile), generator=generator).to(torch.uint8).to(DEVICE)
        self.order = torch.arange(tiles, device=DEVICE)
        self.at = torch.zeros(1, dtype=torch.int64, device=DEVICE)
        self.lanes = torch.arange(batch, device=DEVICE)
        self.sums = torch.zeros(4096, 2, dtype=torch.float64, device=DEVICE)
        self.batch = batch

    def body(self) -> None:
        """One step; which tiles it takes and where its sums go is counted on the device."""
        rows = self.order.index_select(0, (self.at * self.batch + self.lanes) % len(self.order))
        labels = self.labels.index_select(0, rows).long()
        loss, right = self.step(self.images.index_select(0, rows), labels, share=1 / labels.numel())
        self.sums.index_copy_(0, self.at % len(self.sums), torch.stack([loss.double(), right.double()])[None])
        self.at.add_(1)

    def state(self) -> list[torch.Tensor]:
        """All that a step changes; the sums of loss and right pixels last."""
        moments = [value for state in self.optimizer.state.values() for value in state.values()]
        return [*self.model.state_dict().values(), *moments, self.at, self.sums]

    def captured(self) -> torch.cuda.CUDAGraph:
        """`body` as a graph; weights, moments and counters are what they were before the warm-up."""
        for group in self.optimizer.param_groups:
            group["capturable"] = True
        before, known = [tensor.clone() for tensor in self.state()], bool(self.optimizer.state)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.body()
        torch.cuda.current_stream().wait_stream(side)
        if known:
            torch._foreach_copy_(self.state(), before)
        else:  # Adam's state came with the warm-up, and starts as zeros
            torch._foreach_copy_([*self.model.state_dict().values(), self.at, self.sums], before)
            torch._foreach_zero_([value for state in self.optimizer.state.values() for value in state.values()])
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.body()
        return graph


def ceilings(_: argparse.Namespace) -> dict[str, Any]:
    """What the device does in a large matrix product and in a copy, bytes read and written."""
    edge = 8192 if CUDA else 512
    a, b = (torch.randn(edge, edge, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    product = 2 * edge**3 / milliseconds(lambda: a @ b) / 1e9
    source = torch.randn(2**30 if CUDA else 2**20, device=DEVICE)
    target = torch.empty_like(source)
    copied = 2 * source.numel() * 4 / milliseconds(lambda: target.copy_(source)) / 1e9
    return {"bf16 product TFLOP/s": product, "copy TB/s": copied}


def steps(asked: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds per step, eager and captured, and of the host alone, under three settings of cuDNN."""
    found: dict[str, Any] = {}
    for batch in asked.batch:
        for name, flags in _CUDNN.items():
            with cudnn(**flags):
                found[f"batch {batch}, {name}"] = _step_times(asked, batch)
            if CUDA:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
    return found


def _step_times(asked: argparse.Namespace, batch: int) -> dict[str, float]:
    began = time.perf_counter()
    steps = ResidentSteps(asked.width, batch, asked.tile)
    steps.body()
    wait()
    row = {"first step s": time.perf_counter() - began, "eager ms": milliseconds(steps.body)}
    wait()
    began = time.perf_counter()
    for _ in range(3):  # few enough for the queue of launches
        steps.body()
    row["host ms"] = 1e3 * (time.perf_counter() - began) / 3
    wait()
    best = row["eager ms"]
    if CUDA:
        graph = steps.captured()
        best = row["captured ms"] = milliseconds(graph.replay)
        row["memory GiB"] = torch.cuda.max_memory_reserved() / 2**30
    _, operations = count_operations(steps.model, asked.tile)
    row["tiles/s"] = 1e3 * batch / best
    row["TFLOP/s"] = row["tiles/s"] * operations / 1e12
    return row


def profile(asked: argparse.Namespace) -> dict[str, Any]:
    """The kernels of three eager steps, by time."""
    found = {}
    activity = torch.profiler.ProfilerActivity.CUDA if CUDA else torch.profiler.ProfilerActivity.CPU
    for batch in asked.batch:
        steps = ResidentSteps(asked.width, batch, asked.tile)
        for _ in range(3):
            steps.body()
        wait()
        with torch.profiler.profile(activities=[activity]) as taken:
            for _ in range(3):
                steps.body()
            wait()
        rows = [
            {
                "kernel": event.key[:140],
                "ms per step": (event.self_device_time_total if CUDA else event.self_cpu_time_total) / 3e3,
                "calls per step": event.count / 3,
            }
            for event in taken.key_averages()
        ]
        rows.sort(key=lambda row: -row["ms per step"])
        found[f"batch {batch}"] = {"kernels per step": sum(row["calls per step"] for row in rows), "rows": rows[:45]}
    return found


def bits(asked: argparse.Namespace) -> dict[str, Any]:
    """Whether the same steps give the same bits: eager twice, captured twice, and one against the other.

    That a whole training does so is what tests/gpu asks; this tells whether cuDNN's setting or the graph is the cause.
    """

    def trained(captured: bool) -> list[torch.Tensor]:
        steps = ResidentSteps(asked.width, asked.batch[0], asked.tile)
        run = steps.captured().replay if captured else steps.body
        for _ in range(_STEPS_FOR_BITS):
            run()
        wait()
        return [tensor.clone() for tensor in steps.state()]

    def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
        return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))

    found: dict[str, Any] = {}
    for name in ("default", "deterministic"):
        with cudnn(**_CUDNN[name]):
            ended = {"eager": trained(False), "eager again": trained(False)}
            if CUDA:
                ended |= {"captured": trained(True), "captured again": trained(True)}
        for a, b in (("eager", "eager again"), ("captured", "captured again"), ("eager", "captured")):
            if b in ended:
                found[f"{name}: {a} = {b}"] = {
                    "weights and moments": same(ended[a][:-1], ended[b][:-1]),
                    "and losses": same(ended[a], ended[b]),
                }
    return found


def evaluation(asked: argparse.Namespace) -> dict[str, Any]:
    """A chunk of tiles: the folded network, the same with cuDNN's convolution + bias + ReLU, counting both ways."""
    chunk = 32 if CUDA else 4
    steps = ResidentSteps(asked.width, chunk, asked.tile)
    folding = Folding(steps.model)
    lean = folding.lean
    images = steps.images[:chunk].contiguous(memory_format=torch.channels_last)
    labels = steps.labels[:chunk].long()
    with torch.inference_mode():
        with autocast("bf16", DEVICE):
            found: dict[str, Any] = {"folded ms": milliseconds(lambda: lean(images))}
            if CUDA:
                quick = _fused(lean)
                found["fused ms"] = milliseconds(lambda: quick(images))
                found["fused differs"] = float((quick(images).float() - lean(images).float()).abs().max())
            predicted = lean(images).float().argmax(1)
        found["count_confusion ms"] = milliseconds(lambda: count_confusion(labels, predicted, CLASSES))
        cells = torch.arange(CLASSES**2, device=DEVICE, dtype=torch.uint8)[:, None]

        def compared() -> torch.Tensor:
            joined = (labels * CLASSES + predicted).flatten().to(torch.uint8)
            return (joined == cells).sum(1).view(CLASSES, CLASSES)

        found["comparison ms"] = milliseconds(compared)
        found["counts agree"] = bool(torch.equal(compared(), count_confusion(labels, predicted, CLASSES)))
    began = time.perf_counter()
    folding.refresh()
    found["refresh, host ms"] = 1e3 * (time.perf_counter() - began)
    return found


class _ConvBiasRelu(nn.Module):
    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        assert conv.bias is not None
        self.weight = conv.weight.detach().to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
        self.bias = conv.bias.detach().to(torch.bfloat16)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.cudnn_convolution_relu(
            features.to(torch.bfloat16), self.weight, self.bias, [1, 1], [1, 1], [1, 1], 1
        )


def _fused(lean: nn.Module) -> nn.Module:
    quick = copy.deepcopy(lean)
    for block in [module for module in quick.modules() if isinstance(module, nn.Sequential)]:
        for index, module in enumerate(block):
            if isinstance(module, nn.Conv2d):
                block[index] = _ConvBiasRelu(module)
            elif isinstance(module, nn.ReLU):
                block[index] = nn.Identity()
    return quick


def layers(asked: argparse.Namespace) -> dict[str, Any]:
    """TFLOP/s of each convolution: forward, towards its input and towards its weights."""
    found = {}
    for batch in asked.batch:
        for inputs, outputs, edge in _convolutions(asked.width, asked.tile):
            for setting in (False, True):
                with cudnn(benchmark=setting):
                    name = f"batch {batch}, {inputs} to {outputs} at {edge}, {'benchmark' if setting else 'heuristics'}"
                    found[name] = _layer_rates(batch, inputs, outputs, edge)
    return found


def _convolutions(width: int, tile: int) -> list[tuple[int, int, int]]:
    """Input channels, output channels and edge of the different 3 x 3 convolutions of the network."""
    shapes = [(1, width, tile)]
    for level in range(DEPTH + 1):
        channels, edge = width * 2**level, tile // 2**level
        if level:
            shapes.append((channels // 2, channels, edge))
        shapes.append((channels, channels, edge))
        if level < DEPTH:
            shapes.append((2 * channels, channels, edge))
    return shapes


def _layer_rates(batch: int, inputs: int, outputs: int, edge: int) -> dict[str, float]:
    def made(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=DEVICE).to(torch.bfloat16).contiguous(memory_format=torch.channels_last)

    x, w, g = made(batch, inputs, edge, edge), made(outputs, inputs, 3, 3), made(batch, outputs, edge, edge)

    def backward(*, towards_input: bool) -> Any:
        wanted = [towards_input, not towards_input, False]
        return torch.ops.aten.convolution_backward(g, x, w, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, wanted)

    work: dict[str, Callable[[], Any]] = {
        "forward": lambda: functional.conv2d(x, w, padding=1),
        "weights": lambda: backward(towards_input=False),
    }
    if inputs > 1:  # nothing asks for the gradient of the images
        work["input"] = lambda: backward(towards_input=True)
    operations = 2 * batch * edge**2 * 9 * inputs * outputs
    return {name: operations / milliseconds(call, repeats=10) / 1e9 for name, call in work.items()}


PARTS: tuple[Callable[[argparse.Namespace], dict[str, Any]], ...] = (ceilings, steps, profile, bits, evaluation, layers)
_LONG = (profile, layers)


def main() -> None:
    """Run the parts and write what they found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, nargs="+", default=[25, 64])
    parser.add_argument("--tile", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=180)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    began, failed = time.monotonic(), False
    record: dict[str, Any] = {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "device": torch.cuda.get_device_name() if CUDA else "CPU",
        "asked": {name: value for name, value in vars(asked).items() if name != "out"},
        "seconds": {},
    }
    for part in PARTS:
        name = part.__name__
        if time.monotonic() - began > asked.seconds:
            record[name] = "no time left"
            continue
        started = time.monotonic()
        try:
            record[name] = part(asked)
        except Exception:  # the other parts may still tell something
            failed, record[name] = True, {"failed": traceback.format_exc()[-1500:]}
        record["seconds"][name] = round(time.monotonic() - started, 1)
        (asked.out / "probe.json").write_text(json.dumps(record, indent=1))
        if CUDA:
            torch.cuda.empty_cache()
        print(f"--- {name} {record['seconds'][name]} s", flush=True)
        if part not in _LONG or "failed" in record[name]:
            print(json.dumps(record[name])[:2500], flush=True)
    _print_kernels(record["profile"])
    raise SystemExit(failed)


def _print_kernels(profiles: Any) -> None:
    for name, taken in profiles.items() if isinstance(profiles, dict) else ():
        if "rows" in taken:
            print(f"{name}: {taken['kernels per step']:.0f} kernels per step")
            for row in taken["rows"][:22]:
                print(f"  {row['ms per step']:8.3f} ms {row['calls per step']:6.1f}  {row['kernel'][:100]}")


if __name__ == "__main__":
    main()
