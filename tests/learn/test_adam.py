"""Adam without torch's compiler is torch's Adam, bit for bit."""

from __future__ import annotations

import pytest
import torch

from hpcseg.learn.adam import Adam

SCALES = (1.0, 2.0**16, float("inf"))  # as a loss scale has them; the last step is left out


def trained(kind: type[torch.optim.Adam], rate: float | torch.Tensor) -> tuple[list[torch.Tensor], str]:
    """The weights and the state after some steps, with a restart between them, and one step that is not finite."""
    model = torch.nn.Conv2d(1, 3, 3)
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.arange(parameter.numel()).view_as(parameter).sin() + number)
    optimizer = kind(model.parameters(), lr=rate, weight_decay=0.01, fused=True)
    for scale in SCALES:
        state = optimizer.state_dict()
        optimizer = kind(model.parameters(), lr=0.5, fused=True)
        optimizer.load_state_dict(state)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        for number in range(2):
            images = torch.linspace(number, 1, 49).view(1, 1, 7, 7)
            torch.autograd.backward(scaler.scale(model(images).square().mean()))
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    return [parameter.detach() for parameter in model.parameters()], str(optimizer.state_dict())


@pytest.mark.parametrize("rate", [1e-2, torch.tensor(1e-2)], ids=["a number", "on the device"])
def test_weights_and_state_are_those_of_torchs_own(rate):
    ours, torchs = trained(Adam, rate), trained(torch.optim.Adam, rate)
    assert all(torch.equal(one, other) for one, other in zip(ours[0], torchs[0], strict=True))
    assert ours[1] == torchs[1] and "exp_avg_sq" in ours[1]


def test_no_step_is_part_of_a_gradient():
    (weight,) = weights = [torch.nn.Parameter(torch.ones(2))]
    optimizer = Adam(weights, fused=True)
    torch.autograd.backward(weight.sum())
    optimizer.step()
    assert weight.is_leaf and weight.grad_fn is None
    optimizer.zero_grad()
    assert weight.grad is None
