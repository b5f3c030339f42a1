"""Initial weights from a generator of one's own: the constructors of torch.nn draw from the global one."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init


@torch.no_grad()
def fan_in_uniform_(parameter: Tensor, fan_in: int, rng: torch.Generator | None) -> None:
    """Fill with U(-1/sqrt(fan_in), 1/sqrt(fan_in)), in place: LeCun et al. 1998's scale as DQN Zoo and torch use it."""
    bound = 1 / math.sqrt(fan_in)
    parameter.uniform_(-bound, bound, generator=rng)


def linear(inputs: int, outputs: int, rng: torch.Generator) -> nn.Linear:
    """A linear layer; weight [outputs, inputs] and bias are fan-in uniform."""
    layer = skip_init(nn.Linear, inputs, outputs)  # type: ignore[no-untyped-call]
    assert isinstance(layer, nn.Linear)
    fan_in_uniform_(layer.weight, inputs, rng)
    fan_in_uniform_(layer.bias, inputs, rng)
    return layer


def convolution(channels: int, outputs: int, kernel: int, stride: int, rng: torch.Generator) -> nn.Conv2d:
    """A convolution without padding; weight [outputs, channels, kernel, kernel] and bias are fan-in uniform."""
    layer = skip_init(nn.Conv2d, channels, outputs, kernel, stride)  # type: ignore[no-untyped-call]
    assert isinstance(layer, nn.Conv2d)
    assert layer.bias is not None
    fan_in = channels * kernel * kernel
    fan_in_uniform_(layer.weight, fan_in, rng)
    fan_in_uniform_(layer.bias, fan_in, rng)
    return layer
