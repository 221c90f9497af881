"""A GPU that is none: tensors that say they are on cuda:0, with a CPU's arithmetic, and that refuse what CUDA refuses.

    with pretend_gpu() as gpu:
        ...                       # code that asks torch.cuda, moves to ranks.device, trains, evaluates
    gpu.waits                     # Counter of what made the host wait, by file and line
    gpu.timeline                  # its streams and graphs (pretend_graphs.py)

Mixed devices raise as on a GPU and .numpy() raises; .item(), .tolist(), .cpu(), float() and their like are counted.
It does not see kernels, NCCL and CUDA's own autocast lists: for those there is tests/gpu.
"""

from __future__ import annotations

import collections
import contextlib
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from pretend_graphs import Timeline
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

import hpcseg
from hpcseg.learn import captured

CUDA = torch.device("cuda", 0)
_CPU = torch.device("cpu")
_PACKAGE = str(Path(hpcseg.__file__).parent) + "/"
_T = torch.Tensor
_AFAR: dict[Any, Callable[[bool], Any]] = {
    _T.device.__get__: lambda afar: CUDA if afar else _CPU,
    _T.is_cuda.__get__: lambda afar: afar,
    _T.is_cpu.__get__: lambda afar: not afar,
    _T.get_device: lambda afar: 0 if afar else -1,
}
_WAIT = {
    _T.item, _T.tolist, _T.__float__, _T.__int__, _T.__bool__, _T.__index__, _T.__format__, _T.nonzero, torch.nonzero,
    _T.unique, torch.unique, torch.bincount, _T.bincount, torch.equal, _T.equal, torch.allclose, _T.allclose,
    _T.masked_select, torch.masked_select,
}  # fmt: skip
_ANY_DEVICE = {_T.copy_, torch._has_compatible_shallow_copy_type}


class OnGpu(torch.Tensor):
    """A CPU tensor that says it is elsewhere."""


class Pinned(torch.Tensor):
    """A CPU tensor from where a GPU fetches by itself what is copied without a wait."""


class PretendGpu(TorchFunctionMode):
    """While it is on, tensors made on, or moved to, a CUDA device are `OnGpu`."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: collections.Counter[str] = collections.Counter()
        self.timeline = Timeline(self._noted)
        self.calls = 0
        self.peak = 2**20
        """Bytes that torch has held, as a test says."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        with torch._C.DisableTorchFunctionSubclass():
            first = args[0] if args else None
            if func in _AFAR:
                return _AFAR[func](isinstance(first, OnGpu))
            name = getattr(func, "__name__", str(func))
            if name in ("__get__", "__set__", "__delete__"):
                found = func(*args, **kwargs)
                return _put(found) if isinstance(first, OnGpu) else found
            self.calls += 1
            if func in (_T.to, _T.cpu, _T.cuda):
                return self._moved(func, args, kwargs)
            if kwargs.get("device") is not None and func is not torch.load:
                target = torch.device(kwargs["device"])
                if target.type == "cuda":
                    self.timeline.work()
                made = func(*args, **{**kwargs, "device": _CPU})
                return tree_map(_put, made) if target.type == "cuda" else made
            tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, torch.Tensor)]
            if not any(isinstance(tensor, OnGpu) for tensor in tensors):
                return func(*args, **kwargs)
            self.timeline.work()
            if func in (_T.numpy, _T.__array__):
                raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")
            if func is _T.__deepcopy__:
                return _copied(first, args[1])
            if func is _T.__reduce_ex__:  # torch.save
                self._waited(name)
                return first.as_subclass(torch.Tensor).__reduce_ex__(*args[1:])
            if func in _WAIT or (name == "__getitem__" and any(tensor.dtype == torch.bool for tensor in tensors[1:])):
                self._waited(name)
            here = [tensor for tensor in tensors if not isinstance(tensor, OnGpu) and tensor.dim()]
            if here and func not in _ANY_DEVICE:
                raise RuntimeError(f"Expected all tensors to be on the same device, found cuda:0 and cpu in {name}")
            fetched = kwargs.get("non_blocking") and all(isinstance(tensor, Pinned) for tensor in here)
            if func is _T.copy_ and here and not fetched:
                self._waited(name)
            if func is _T.copy_ and not isinstance(first, OnGpu):
                return func(*args, **kwargs)
            return tree_map(_put, func(*args, **kwargs))

    def _moved(self, func: Any, args: Any, kwargs: Any) -> Any:
        source, target = args[0], None
        if func is not _T.to:
            target, func, args = torch.device("cpu" if func is _T.cpu else "cuda"), _T.to, (source, _CPU)
        rest = []
        for value in args[1:]:
            if isinstance(value, torch.device) or (
                isinstance(value, str) and value.partition(":")[0] in ("cpu", "cuda")
            ):
                target = target or torch.device(value)
                value = _CPU
            elif isinstance(value, torch.Tensor):
                target = CUDA if isinstance(value, OnGpu) else _CPU
            rest.append(value)
        if kwargs.get("device") is not None:
            target = torch.device(kwargs.pop("device"))
        afar = isinstance(source, OnGpu)
        if target == _CPU and afar and kwargs.get("non_blocking"):
            self.timeline.work()
            return self.timeline.sends(func(source, *rest, **kwargs).as_subclass(torch.Tensor))
        if target is not None and (target.type == "cuda") != afar:
            self._waited("to")
        result = func(source, *rest, **kwargs)
        if target is None or (target.type == "cuda") == afar:
            return source if result is source else (_put(result) if afar else result)
        # A copy, as it is between devices.
        result = result.clone() if result.data_ptr() == source.data_ptr() and result.numel() else result
        return result.as_subclass(OnGpu if target.type == "cuda" else torch.Tensor)

    def _waited(self, what: str) -> None:
        self.timeline.waits()
        self._noted(what)

    def _noted(self, what: str) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # no step waits for it
        frame: types.FrameType | None = sys._getframe()
        while frame is not None:
            file = frame.f_code.co_filename
            if file.startswith(_PACKAGE):
                self.waits[f"{file.removeprefix(_PACKAGE)}:{frame.f_lineno} {what}"] += 1
                return
            frame = frame.f_back
        self.waits[f"elsewhere {what}"] += 1


def _put(value: Any) -> Any:
    return value.as_subclass(OnGpu) if isinstance(value, torch.Tensor) and not isinstance(value, OnGpu) else value


def _copied(value: torch.Tensor, memo: dict[int, Any]) -> torch.Tensor:
    if id(value) not in memo:
        copy = _put(value.detach().as_subclass(torch.Tensor).clone()).requires_grad_(value.requires_grad)
        if isinstance(value, torch.nn.Parameter):
            copy._is_param = True
        memo[id(value)] = copy
    return memo[id(value)]


@contextlib.contextmanager
def pretend_gpu() -> Iterator[PretendGpu]:
    """torch finds one GPU in the block."""
    autocast, group, gpu = torch.autocast, torch._C._group_tensors_by_device_and_dtype, PretendGpu()

    def cast(device_type: str, *arguments: Any, **named: Any) -> torch.autocast:
        return autocast("cpu" if device_type == "cuda" else device_type, *arguments, **named)

    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)

    def grouped(lists: list[list[torch.Tensor | None]], with_indices: bool = False) -> dict[Any, Any]:
        # Fused optimizers ask C++ where their tensors are, which knows no subclass.
        groups = group(lists, with_indices)
        return {
            (CUDA if isinstance(found[0][0], OnGpu) else device, dtype): (found, indices)
            for (device, dtype), (found, indices) in groups.items()
        }

    found = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "set_device": lambda device: None,
        "is_bf16_supported": lambda including_emulation=True: True,
        "synchronize": lambda device=None: gpu._waited("synchronize"),
        "get_device_name": lambda device=None: "a pretended GPU",
        "get_device_capability": lambda device=None: (9, 0),
        "empty_cache": lambda: None,
        "reset_peak_memory_stats": lambda device=None: setattr(gpu, "peak", 2**20),
        "max_memory_reserved": lambda device=None: gpu.peak,
        "memory_reserved": lambda device=None: 0,
        "memory_allocated": lambda device=None: 0,
        "mem_get_info": lambda device=None: (2**34, 2**34),
        **gpu.timeline.stand_ins(),
    }
    with contextlib.ExitStack() as stack:
        for name, value in found.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        stack.enter_context(mock.patch.object(torch, "autocast", cast))
        stack.enter_context(mock.patch.object(_T, "pin_memory", lambda tensor: tensor.clone().as_subclass(Pinned)))
        # What optimizers ask before a step, by old names and new.
        stack.enter_context(mock.patch.object(torch.backends.cuda, "is_built", lambda: True))
        stack.enter_context(
            mock.patch.object(torch.accelerator, "current_accelerator", lambda check_available=False: CUDA)
        )
        stack.enter_context(mock.patch.object(torch.accelerator, "current_stream", lambda: gpu.timeline.current))
        captured._side_stream.cache_clear()
        stack.callback(captured._side_stream.cache_clear)
        stack.enter_context(mock.patch.object(torch._C, "_group_tensors_by_device_and_dtype", grouped))
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrite)
        stack.enter_context(gpu)
        yield gpu
