"""torch's Adam without torch's compiler, which it would load with the first optimizer of a process.

That is more than a second of processor time of every process that trains, and a hundred megabytes, for nothing: no step
of ours is compiled. torch wraps the methods below so that its compiler leaves them alone; without the wrapping they are
the same methods, and compute the same bits.
"""

from __future__ import annotations

import inspect

import torch


class Adam(torch.optim.Adam):
    """torch's; its steps are not differentiable."""

    add_param_group = inspect.unwrap(torch.optim.Adam.add_param_group)
    load_state_dict = inspect.unwrap(torch.optim.Adam.load_state_dict)
    state_dict = inspect.unwrap(torch.optim.Adam.state_dict)
    zero_grad = inspect.unwrap(torch.optim.Adam.zero_grad)
    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))
