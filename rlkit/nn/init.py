"""Initial weights from a generator of one's own: the constructors of torch.nn draw from the global one."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from rlkit.nn.config import Init


@torch.no_grad()
def fan_in_uniform_(parameter: Tensor, fan_in: int, rng: torch.Generator | None) -> None:
    """Fill with U(-1/sqrt(fan_in), 1/sqrt(fan_in)), in place: LeCun et al. 1998's scale as DQN Zoo and torch use it."""
    bound = 1 / math.sqrt(fan_in)
    parameter.uniform_(-bound, bound, generator=rng)


@torch.no_grad()
def xavier_uniform_(parameter: Tensor, fan_in: int, fan_out: int, rng: torch.Generator | None) -> None:
    """Fill with U(-b, b), b = sqrt(6 / (fan_in + fan_out)), in place: Glorot & Bengio 2010, equation 16."""
    bound = math.sqrt(6 / (fan_in + fan_out))
    parameter.uniform_(-bound, bound, generator=rng)


class XavierLinear(nn.Linear):
    """A linear layer whose weights are Xavier uniform and whose biases are 0: at the start, and when drawn anew."""

    @torch.no_grad()
    def reset_parameters(self, rng: torch.Generator | None = None) -> None:
        """New values, from torch's global generator if none is given, as in torch's own layers."""
        xavier_uniform_(self.weight, self.in_features, self.out_features, rng)
        self.bias.zero_()


class XavierConv2d(nn.Conv2d):
    """A convolution whose weights are Xavier uniform and whose biases are 0: at the start, and when drawn anew."""

    @torch.no_grad()
    def reset_parameters(self, rng: torch.Generator | None = None) -> None:
        """New values, from torch's global generator if none is given, as in torch's own layers."""
        positions = math.prod(self.kernel_size)
        xavier_uniform_(self.weight, self.in_channels * positions, self.out_channels * positions, rng)
        assert self.bias is not None
        self.bias.zero_()


def linear(inputs: int, outputs: int, rng: torch.Generator, init: Init = "fan_in") -> nn.Linear:
    """A linear layer: weight [outputs, inputs] and bias fan-in uniform, or weight Xavier uniform and bias 0."""
    layer = skip_init(XavierLinear if init == "xavier" else nn.Linear, inputs, outputs)  # type: ignore[no-untyped-call]
    assert isinstance(layer, nn.Linear)
    if isinstance(layer, XavierLinear):
        layer.reset_parameters(rng)
    else:
        fan_in_uniform_(layer.weight, inputs, rng)
        fan_in_uniform_(layer.bias, inputs, rng)
    return layer


def convolution(
    channels: int, outputs: int, kernel: int, stride: int, rng: torch.Generator, init: Init = "fan_in"
) -> nn.Conv2d:
    """A convolution without padding, weight [outputs, channels, kernel, kernel], drawn as in `linear`."""
    kind = XavierConv2d if init == "xavier" else nn.Conv2d
    layer = skip_init(kind, channels, outputs, kernel, stride)  # type: ignore[no-untyped-call]
    assert isinstance(layer, nn.Conv2d)
    assert layer.bias is not None
    if isinstance(layer, XavierConv2d):
        layer.reset_parameters(rng)
    else:
        fan_in = channels * kernel * kernel
        fan_in_uniform_(layer.weight, fan_in, rng)
        fan_in_uniform_(layer.bias, fan_in, rng)
    return layer
