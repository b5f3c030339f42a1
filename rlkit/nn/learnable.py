"""Activations with coefficients that are learned: one function for all units of a layer, a few numbers each.

Their policy: a group of their own in the optimiser, without weight decay, with a factor on the learning rate and a clip
of the gradient of each function; float32 whatever the activations are; full resets bring back where they started.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rlkit.core.errors import ConfigError
from rlkit.nn.config import NetworkConfig


@dataclass(frozen=True)
class Learning:
    """How coefficients are learned."""

    rate_factor: float = 1.0  # times the learning rate of the weights; 0 = the coefficients are fixed
    max_grad_norm: float | None = 1.0  # of the coefficients of one function; None = no clip


LEARNING = Learning()


class LearnableActivation(nn.Module):
    """Holds `coefficients`, [K] or with batched copies of a layer [copies x K]: each copy has a function of its own."""

    def __init__(self, start: Sequence[float], learning: Learning = LEARNING, copies: int | None = None) -> None:
        super().__init__()
        self.learning, self.copies, self.address = learning, copies, ""  # address: in its network, for messages
        self._start = torch.tensor(start, dtype=torch.float32).repeat(copies or 1)
        if learning.rate_factor > 0:
            self.coefficients = nn.Parameter(self._start.clone())
        else:
            self.register_buffer("coefficients", self._start.clone())  # no optimiser and no cure sees it

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The coefficients as they were at the start."""
        self.coefficients.copy_(self._start)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LearnableActivation:
        """Devices and float64 are followed; half precision would lose what Adam adds to ten numbers."""
        before = self.coefficients.detach().clone()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.coefficients.dtype in (torch.bfloat16, torch.float16):
            self.coefficients.data = before.to(self.coefficients.device)
        return self

    def by_copy(self) -> Tensor:
        """Coefficients [copies, K]; one copy if the layer has none."""
        return self.coefficients.view(self.copies or 1, -1)

    def evaluate(self, x: Tensor, coefficients: Tensor) -> Tensor:
        """The function with these coefficients [copies, K], without noise and checks."""
        raise NotImplementedError


class Formula(LearnableActivation):
    """function(x, *coefficients) with autograd's gradients."""

    def __init__(
        self,
        function: Callable[..., Tensor],
        start: Sequence[float],
        learning: Learning = LEARNING,
        copies: int | None = None,
    ) -> None:
        super().__init__(start, learning, copies)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """x: [...], with copies [copies, B, units] -> the same shape and type."""
        return self.evaluate(x, self.by_copy())

    def evaluate(self, x: Tensor, coefficients: Tensor) -> Tensor:
        """The formula."""
        columns = coefficients.unbind(1)
        if self.copies is not None:
            columns = tuple(column.view(-1, *[1] * (x.dim() - 1)) for column in columns)
        value: Tensor = self.function(x, *columns)
        return value.to(x.dtype)

    def extra_repr(self) -> str:
        """Shown by print(module)."""
        return f"{self.function.__name__}, {len(self._start) // (self.copies or 1)} coefficients"


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """He et al. 2015 (arXiv:1502.01852), one slope a layer."""
    return torch.where(x >= 0, x, slope * x)


def swish(x: Tensor, beta: Tensor) -> Tensor:
    """x sigmoid(beta x): Ramachandran et al. 2017 (arXiv:1710.05941)."""
    return x * torch.sigmoid(beta * x)


def smelu(x: Tensor, beta: Tensor | float) -> Tensor:
    """0, a parabola for |x| < beta, x: Shamir et al. 2020 (arXiv:2010.09931)."""
    return torch.where(x <= -beta, 0.0, torch.where(x >= beta, x, (x + beta).square() / (4 * beta)))


def generalised_smelu(x: Tensor, left: Tensor, right: Tensor, alpha: Tensor, beta: Tensor, offset: Tensor) -> Tensor:
    """Slope `left` up to -alpha, `right` from beta on, a parabola between: Shamir et al. 2022 (arXiv:2202.06499).

    alpha, beta > 0; `offset` is added everywhere. Value and slope are continuous at both knots.
    """
    bend = right - left
    inside = left * x + bend * (x + alpha).square() / (2 * (alpha + beta))
    beyond = right * x + bend * (alpha - beta) / 2
    return offset + torch.where(x <= -alpha, left * x, torch.where(x >= beta, beyond, inside))


def _generalised_smelu_of_logs(
    x: Tensor, left: Tensor, right: Tensor, log_alpha: Tensor, log_beta: Tensor, offset: Tensor
) -> Tensor:
    return generalised_smelu(x, left, right, log_alpha.exp(), log_beta.exp(), offset)


def elephant(x: Tensor, width: Tensor, steepness: Tensor | float, height: Tensor) -> Tensor:
    """height / (1 + |x / width|^steepness), a bump: Lan and Mahmood 2023 (arXiv:2310.01365). width, height > 0."""
    power = ((x / width).abs().clamp_min(torch.finfo(x.dtype).tiny).log() * steepness).exp()
    return height / (1 + power)


def _elephant_of_logs(x: Tensor, log_width: Tensor, log_height: Tensor) -> Tensor:
    return elephant(x, log_width.exp(), 4.0, log_height.exp())


def pelu(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """(a/b) x for x >= 0, a (exp(x/b) - 1) below: Trottier et al. 2017 (arXiv:1605.09332). a, b > 0."""
    return torch.where(x >= 0, a / b * x, a * torch.expm1(x.clamp_max(0) / b))


def _pelu_of_logs(x: Tensor, log_a: Tensor, log_b: Tensor) -> Tensor:
    return pelu(x, log_a.exp(), log_b.exp())


def _expanded(x: Tensor, gate: Tensor, alpha: Tensor) -> Tensor:
    return x * ((1 + 2 * alpha) * gate - alpha)


def xatlu(x: Tensor, alpha: Tensor) -> Tensor:
    """x times an arctan gate in [-alpha, 1 + alpha]: Huang 2024 (arXiv:2405.20768)."""
    return _expanded(x, 0.5 + torch.atan(x) / torch.pi, alpha)


def xgelu(x: Tensor, alpha: Tensor) -> Tensor:
    """x times the normal distribution function, expanded to [-alpha, 1 + alpha]: Huang 2024 (arXiv:2405.20768)."""
    return _expanded(x, torch.special.ndtr(x), alpha)


def xsilu(x: Tensor, alpha: Tensor) -> Tensor:
    """x times the logistic function, expanded to [-alpha, 1 + alpha]: Huang 2024 (arXiv:2405.20768)."""
    return _expanded(x, torch.sigmoid(x), alpha)


# Name: formula and first coefficients. What must stay positive is learned as its logarithm.
FORMULAS: dict[str, tuple[Callable[..., Tensor], tuple[float, ...]]] = {
    "prelu": (prelu, (0.25,)),
    "swish": (swish, (1.0,)),
    "generalised_smelu": (_generalised_smelu_of_logs, (0.01, 1.0, 0.0, 0.0, 0.0)),
    "elephant": (_elephant_of_logs, (0.0, 0.0)),
    "pelu": (_pelu_of_logs, (0.0, 0.0)),
    "xatlu": (xatlu, (0.0,)),
    "xgelu": (xgelu, (0.0,)),
    "xsilu": (xsilu, (0.0,)),
}


def learnable_activations(module: nn.Module) -> dict[str, LearnableActivation]:
    """The learnable activations of `module` by address, in the order in which it was built."""
    return {name: part for name, part in module.named_modules() if isinstance(part, LearnableActivation)}


def settle_activations(network: nn.Module, config: NetworkConfig) -> None:
    """Let the learned activations of a finished network know their addresses, and share coefficients as `config` says.

    recurrent_rational: one function for the whole network. activation_groups: numbers of neighbouring activations that
    share one. Raises ConfigError if the groups do not add up to the activations that learn.
    """
    found = learnable_activations(network)
    for address, activation in found.items():
        activation.address = address
    parts, groups = list(found.values()), list(config.activation_groups)
    sizes = [len(parts)] if config.activation == "recurrent_rational" else groups or [1] * len(parts)
    if sum(sizes) != len(parts):
        raise ConfigError(
            f"network.activation_groups is {groups}",
            why=f"the groups add up to {sum(groups)}; {type(network).__name__} has {len(parts)} activations that learn"
            + (f": {', '.join(found)}" if found else ""),
            fix="give sizes that add up, or leave them out: each activation then has its own function",
            see="docs/activations.md",
        )
    first = 0
    for size in sizes:
        for other in parts[first + 1 : first + size]:
            other.coefficients = parts[first].coefficients
        first += size


CURVE_RANGE, CURVE_POINTS = 5.0, 101  # where curves are recorded: equally spaced on [-range, range]


@torch.no_grad()
def curves(module: nn.Module) -> dict[str, list[dict[str, list[float | None]]]]:
    """By address the functions of each learned activation, one for each copy: `coefficients` and `values`.

    Values are of the curve at CURVE_POINTS of [-CURVE_RANGE, CURVE_RANGE], five digits; what is not finite is None.
    """
    found: dict[str, list[dict[str, list[float | None]]]] = {}
    for address, part in learnable_activations(module).items():
        coefficients = part.by_copy()
        x = torch.linspace(-CURVE_RANGE, CURVE_RANGE, CURVE_POINTS, device=coefficients.device)
        values = part.evaluate(x.expand(len(coefficients), 1, -1), coefficients).flatten(1)
        found[address] = [
            {"coefficients": [float(f"{c:.9g}") for c in row], "values": [_short(y) for y in curve]}
            for row, curve in zip(coefficients.tolist(), values.tolist(), strict=True)
        ]
    return found


def _short(value: float) -> float | None:
    return float(f"{value:.5g}") if math.isfinite(value) else None
