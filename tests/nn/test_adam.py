"""The short step equals torch's own, bit for bit."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam

from rlkit.nn.adam import adam_step, clear_gradients


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 5)).to(memory_format=torch.channels_last)


def learn(model: nn.Module, optimizer, step, number: int) -> None:
    clear_gradients(optimizer)
    x = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(number))
    model(x).square().mean().backward()
    step(optimizer)


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    "settings",
    [
        {"fused": True},
        {"fused": True, "eps": 1.5e-4, "betas": (0.5, 0.9), "weight_decay": 0.1},
        {"fused": True, "amsgrad": True},
        {"fused": True, "maximize": True},
        {"fused": False},
    ],
)
def test_equals_torch_bit_for_bit(settings):
    plain, short = network(), network()
    one, two = (Adam(model.parameters(), 1e-2, **settings) for model in (plain, short))
    for number in range(6):
        if number == 3:  # somebody replaces the moments of a layer, as a reset or a resumed run does
            for optimizer, model in ((one, plain), (two, short)):
                optimizer.state[model[2].weight]["exp_avg"] = torch.zeros(5, 16)
        learn(plain, one, Adam.step, number)
        learn(short, two, adam_step, number)
        assert same(plain, short), number
    assert not same(short, network())


def test_groups_keep_their_own_rates():
    plain, short = network(), network()
    one, two = (
        Adam([{"params": m[0].parameters(), "lr": 1e-1}, {"params": m[2].parameters()}], 1e-3, fused=True)
        for m in (plain, short)
    )
    for number in range(4):
        learn(plain, one, Adam.step, number)
        learn(short, two, adam_step, number)
    assert same(plain, short)


def test_a_parameter_without_gradient_rests():
    model = network()
    optimizer = Adam(model.parameters(), 1e-2, fused=True)
    learn(model, optimizer, adam_step, 0)
    clear_gradients(optimizer)
    assert all(parameter.grad is None for parameter in model.parameters())
    before = copy.deepcopy(model)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    adam_step(optimizer)
    assert not torch.equal(before[0].weight, model[0].weight)
    assert torch.equal(before[2].weight, model[2].weight)


def test_other_optimisers_take_their_own_step():
    plain, short = network(), network()
    one, two = (SGD(model.parameters(), 1e-2, momentum=0.9) for model in (plain, short))
    for number in range(3):
        learn(plain, one, SGD.step, number)
        learn(short, two, adam_step, number)
    assert same(plain, short)
