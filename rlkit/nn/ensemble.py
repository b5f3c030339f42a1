"""K copies of a layer computed in one call: SAC's twin critics cost one batched product instead of two."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlkit.nn.config import Init
from rlkit.nn.init import fan_in_uniform_, xavier_uniform_


class EnsembleLinear(nn.Module):
    """K independent linear layers. weight: [K, out, in], bias: [K, out], each copy laid out as in `nn.Linear`."""

    def __init__(self, copies: int, inputs: int, outputs: int, rng: torch.Generator, init: Init = "fan_in") -> None:
        super().__init__()
        self.copies, self.in_features, self.out_features, self.init = copies, inputs, outputs, init
        self.weight = nn.Parameter(torch.empty(copies, outputs, inputs))
        self.bias = nn.Parameter(torch.empty(copies, outputs))
        self.reset_parameters(rng)

    def reset_parameters(self, rng: torch.Generator | None = None) -> None:
        """New values, from torch's global generator if none is given, as in torch's own layers."""
        if self.init == "xavier":
            xavier_uniform_(self.weight, self.in_features, self.out_features, rng)
            nn.init.zeros_(self.bias)
        else:
            fan_in_uniform_(self.weight, self.in_features, rng)
            fan_in_uniform_(self.bias, self.in_features, rng)

    def forward(self, x: Tensor) -> Tensor:
        """x: [K, B, in] -> [K, B, out].

        The product runs as [K, out, in] [K, in, B], so that autograd writes the weight gradient in the weight's own
        layout; x W^T would cost a transposing copy of it at each step. The result is a transposed view.
        """
        product = torch.bmm(self.weight, x.mT)  # [K, out, B]
        return product.add_(self.bias.unsqueeze(-1)).mT  # in place: nothing else needs the product

    def extra_repr(self) -> str:
        """Shown by print(module)."""
        return f"copies={self.copies}, in_features={self.in_features}, out_features={self.out_features}"


class EnsembleLayerNorm(nn.Module):
    """K independent layer normalisations (Ba et al. 2016, arXiv:1607.06450). weight, bias: [K, 1, units]."""

    eps = 1e-5  # added to the variance

    def __init__(self, copies: int, units: int) -> None:
        super().__init__()
        self.copies, self.units = copies, units
        self.weight = nn.Parameter(torch.empty(copies, 1, units))
        self.bias = nn.Parameter(torch.empty(copies, 1, units))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """weight 1, bias 0."""
        self.weight.fill_(1)
        self.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """x: [K, B, units] -> the same shape."""
        return torch.addcmul(self.bias, F.layer_norm(x, (self.units,), eps=self.eps), self.weight)

    def extra_repr(self) -> str:
        """Shown by print(module)."""
        return f"copies={self.copies}, units={self.units}"
