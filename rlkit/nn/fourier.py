"""Learned Fourier features of a state (Li and Pathak 2021, arXiv:2112.03257)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class FourierFeatures(nn.Module):
    """[sin(2 pi W x), cos(2 pi W x)] with trained frequencies W ~ N(0, scale^2), in cycles per unit of x.

    weight: [frequencies, inputs], of batched copies [copies, frequencies, inputs].
    """

    def __init__(
        self, inputs: int, frequencies: int, scale: float, rng: torch.Generator | None, copies: int | None = None
    ) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.empty(*(() if copies is None else (copies,)), frequencies, inputs))
        self.reset_parameters(rng)

    @torch.no_grad()
    def reset_parameters(self, rng: torch.Generator | None = None) -> None:
        """New frequencies, from torch's global generator if none is given, as in torch's own layers."""
        self.weight.normal_(0, self.scale, generator=rng)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, inputs] -> [B, 2 frequencies], sines first; of batched copies [K, B, inputs]."""
        angle = 2 * math.pi * x @ self.weight.mT
        return torch.cat((angle.sin(), angle.cos()), dim=-1)
