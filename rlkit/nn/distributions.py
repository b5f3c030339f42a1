"""The squashed Gaussian policy: a = scale tanh(u) + bias, u = mean + exp(log_std) noise."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from rlkit.core.shapes import check_shapes

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


def bounded_log_std(raw: Tensor, low: float, high: float) -> Tensor:
    """low + (high - low) (tanh(raw) + 1) / 2, elementwise, as CleanRL and SimBa do."""
    half = 0.5 * (high - low)
    return raw.tanh() * half + (low + half)


def squashed_gaussian_log_prob(
    noise: Tensor, log_std: Tensor, pre_tanh: Tensor, scale: Tensor, *, stable: bool = False
) -> Tensor:
    """l_i = -noise_i^2 / 2 - log_std_i - ln(2 pi) / 2 - ln(scale_i (1 - tanh^2 u_i) + 1e-6).

    Haarnoja et al. 2018 (arXiv:1801.01290), appendix C; the 1e-6 bounds density and gradient where tanh saturates, as
    in SAC's published ports. `stable` is the exact last term, 2 (ln 2 - u - softplus(-2 u)) + ln scale; they part from
    |u| = 5 on.
    noise (u - mean) / std, log_std, pre_tanh u: [B, A]. scale: [A], half the width of the action's range.
    Returns [B, A], nats per action dimension: sum them for the log-density of the action.
    """
    check_shapes(noise, "B A", log_std, "B A", pre_tanh, "B A", scale, "A")
    gaussian = -0.5 * noise.square() - log_std - _HALF_LOG_TWO_PI
    if stable:
        return gaussian - 2 * (math.log(2) - pre_tanh - F.softplus(-2 * pre_tanh)) - torch.log(scale)
    return gaussian - torch.log(scale * (1 - pre_tanh.tanh().square()) + 1e-6)
