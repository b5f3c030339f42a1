"""How alive a unit is: scores from what it says and from what it learns.

Activations come as [copies, halves, units, B, P]: batched copies of a layer (twin critics: 2), the functions that are
concatenated (CReLU, Fourier: 2), units, samples, positions (of a convolution). Gradients of incoming weights come as
[copies, units, fan_in]. Scores are [copies, units]; a unit with a value that is not finite has the score NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlkit.plasticity.measurement import Definition
from rlkit.plasticity.protocols import UnitLayer

EPSILON = 1e-9  # of the official ReDo code: an all-zero layer scores 0, not NaN


def by_unit(h: Tensor, layer: UnitLayer) -> Tensor:
    """h [B, units, ...], of batched copies [copies, B, units] -> [copies, halves, units, B, P], at least float32."""
    if h.dtype in (torch.bfloat16, torch.float16):
        h = h.float()  # a mean of 256 bfloat16 values loses everything below 2^-8 of it
    if layer.ensemble == 1:
        h = h.flatten(2) if h.dim() > 2 else h.unsqueeze(-1)  # [B, units, P]
        batch, _, positions = h.shape
        return h.movedim(0, 1).reshape(1, layer.halves, layer.units, batch, positions)
    return h.mT.reshape(layer.ensemble, layer.halves, layer.units, -1, 1)


def rows(gradient: Tensor, layer: UnitLayer) -> Tensor:
    """Gradient of a weight [units, ...] or [copies, units, fan_in] -> [copies, units, fan_in]."""
    gradient = gradient.detach()
    return gradient.flatten(1).unsqueeze(0) if layer.ensemble == 1 else gradient


def mean_activation(h: Tensor) -> Tensor:
    """a_i: mean of |h_i| over samples and positions, both halves added."""
    return h.abs().mean((-2, -1)).sum(1)


def over_layer_mean(a: Tensor, epsilon: float = EPSILON) -> Tensor:
    """a_i / (mean of the layer's finite a + epsilon), with 0 for a_i = 0; NaN where a_i is not finite."""
    finite = a.isfinite()
    mean = torch.where(finite, a, 0).sum(-1, keepdim=True) / finite.sum(-1, keepdim=True).clamp(min=1)
    score = torch.where(a == 0, 0, a / (mean + epsilon))
    return torch.where(finite, score, torch.nan)


def redo(h: Tensor) -> Tensor:
    """s_i = a_i / (mean(a) + 1e-9), Sokar et al. 2023 (arXiv:2302.12902), equation 1.

    The paper's text says that the scores sum to 1; formula and official code divide by the mean, so that a threshold
    is a share of the layer's average and does not depend on its width.
    """
    return over_layer_mean(mean_activation(h))


def redo_centred(h: Tensor) -> Tensor:
    """As `redo`, of h_i minus its mean over samples and positions: a constant unit is dormant, whatever its value."""
    return over_layer_mean((h - h.mean((-2, -1), keepdim=True)).abs().mean((-2, -1)).sum(1))


def active_share(h: Tensor) -> Tensor:
    """Share of samples and positions at which h_i > 0, not divided by anything.

    Its mean over units is the fraction of active units of Adaptive RR's code (Ma et al. 2024, arXiv:2310.07418).
    """
    share = (h > 0).to(h.dtype).mean((-2, -1)).mean(1)
    return torch.where(h.isfinite().all(-1).all(-1).all(1), share, torch.nan)


def ace(gradient: Tensor) -> Tensor:
    """||g_i||_2 / mean of the layer, Ji et al. 2024 (arXiv:2402.14528), equation 9; biases do not count.

    `<=` as in the paper; their code's `<` would call a layer without any gradient alive.
    """
    return over_layer_mean(torch.linalg.vector_norm(gradient, dim=-1), 0.0)


def grama(gradient: Tensor) -> Tensor:
    """mean_j |g_ij| / (mean of the layer + 1e-9), GraMa (arXiv:2505.24061)."""
    return over_layer_mean(gradient.abs().mean(-1))


_SAMPLES, _LAYER = "mean over samples and positions", "layer mean + 1e-9"
DEFINITIONS = {
    "redo": Definition("redo", "|h| after the activation", _SAMPLES, _LAYER),
    "redo_centred": Definition("redo_centred", "|h - mean h| after the activation", _SAMPLES, _LAYER),
    "active_share": Definition("active_share", "1[h > 0] after the activation", _SAMPLES, "none"),
    "ace": Definition("ace", "2-norm of the loss gradient of incoming weights", "sum over samples", "layer mean",
                      layers="hidden and output"),
    "grama": Definition("grama", "mean |loss gradient| of incoming weights", "sum over samples", _LAYER,
                        layers="hidden and output"),
}  # fmt: skip
ACTIVATION_SCORES = {"redo": redo, "redo_centred": redo_centred, "active_share": active_share}
GRADIENT_SCORES = {"ace": ace, "grama": grama}
