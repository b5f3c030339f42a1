"""Activations without coefficients. Their formulas, papers and test vectors stand in the table of activations.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlkit.nn.learnable import smelu


class Elementwise(nn.Module):
    """A function of each element as a module of its own, so that a forward hook sees one layer's units."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.function = name, FUNCTIONS[name]

    def forward(self, x: Tensor) -> Tensor:
        """The same shape as x."""
        return self.function(x)

    def extra_repr(self) -> str:
        """Shown by print(module)."""
        return self.name


class CReLU(nn.Module):
    """[max(x, 0), max(-x, 0)] along `axis`: every unit keeps a gradient on both sides.

    Shang et al. 2016 (arXiv:1603.05201); against the loss of plasticity Abbas et al. 2023 (arXiv:2303.07507).
    x: [..., units, ...] -> [..., 2 units, ...]; first the positive parts of all units.
    """

    halves = 2

    def __init__(self, axis: int = -1) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        """Twice as wide as x."""
        return torch.cat((x.relu(), (-x).relu()), self.axis)


class Fourier(nn.Module):
    """[sin x, cos x] along `axis`: one of the two is always nearly linear in x.

    Lewandowski et al. 2024, deep Fourier features (arXiv:2410.20634). Deviates: weights start as elsewhere in rlkit.
    x: [..., units, ...] -> [..., 2 units, ...]; first the sines of all units.
    """

    halves = 2

    def __init__(self, axis: int = -1) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        """Twice as wide as x."""
        return torch.cat((x.sin(), x.cos()), self.axis)


DOUBLING: dict[str, type[CReLU] | type[Fourier]] = {"crelu": CReLU, "fourier": Fourier}


class _HeLU(torch.autograd.Function):
    """ReLU whose backward pass lets gradients through for x > -alpha."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: float) -> Tensor:
        ctx.save_for_backward(x > -alpha)
        return x.relu()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (passes,) = ctx.saved_tensors
        return g * passes, None


def helu(x: Tensor, alpha: float = 0.05) -> Tensor:
    """max(x, 0); the gradient is that of x where x > -alpha (arXiv:2411.10573). alpha: 0.001 to 0.05 in the paper."""
    value: Tensor = _HeLU.apply(x, alpha)  # type: ignore[no-untyped-call]
    return value


def dsilu(x: Tensor) -> Tensor:
    """The derivative of SiLU: Elfwing et al. 2018 (arXiv:1702.03118)."""
    s = torch.sigmoid(x)
    return s * (1 + x * (1 - s))


def _elish(x: Tensor) -> Tensor:
    return torch.where(x >= 0, x, torch.expm1(x.clamp_max(0))) * torch.sigmoid(x)


def _hard_elish(x: Tensor) -> Tensor:
    return torch.where(x >= 0, x, torch.expm1(x.clamp_max(0))) * ((x + 1) / 2).clamp(0, 1)


def _isrlu(x: Tensor) -> Tensor:
    return torch.where(x >= 0, x, x * torch.rsqrt(1 + x.square()))


def _square_nonlinearity(x: Tensor) -> Tensor:
    inner = x.clamp(-2, 2)
    return inner - inner * inner.abs() / 4


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x.clone(),
    "leaky_relu_0.1": lambda x: F.leaky_relu(x, 0.1),
    "squared_relu": lambda x: x.relu().square(),
    "abs": torch.abs,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "dsilu": dsilu,
    "smelu": lambda x: smelu(x, 2.0),
    "helu": helu,
    "serf": lambda x: x * torch.erf(F.softplus(x)),
    "tanhexp": lambda x: x * torch.tanh(torch.exp(x)),
    "phish": lambda x: x * torch.tanh(F.gelu(x)),
    "logish": lambda x: x * torch.log1p(torch.sigmoid(x)),
    "smish": lambda x: x * torch.tanh(torch.log1p(torch.sigmoid(x))),
    "lisht": lambda x: x * torch.tanh(x),
    "elish": _elish,
    "hard_elish": _hard_elish,
    "isru": lambda x: x * torch.rsqrt(1 + x.square()),
    "isrlu": _isrlu,
    "lecun_tanh": lambda x: 1.7159 * torch.tanh(x * (2 / 3)),
    "penalised_tanh": lambda x: torch.where(x >= 0, torch.tanh(x), 0.25 * torch.tanh(x)),
    "arctan": torch.atan,
    "arcsinh": torch.asinh,
    "symlog": lambda x: torch.sign(x) * torch.log1p(x.abs()),
    "sqnl": _square_nonlinearity,
    "cloglog": lambda x: -torch.expm1(-torch.exp(x)),
    "bent_identity": lambda x: x + (torch.sqrt(x.square() + 1) - 1) / 2,
    "gaussian": lambda x: torch.exp(-x.square()),
    "sin": torch.sin,
    "snake": lambda x: x + torch.sin(x).square(),
    "gcu": lambda x: x * torch.cos(x),
}
