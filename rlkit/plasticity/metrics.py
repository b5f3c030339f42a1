"""What else is measured of a layer, of two dormant sets, of two answers. Pure functions.

Features are [B, d], not centred; singular values are sorted, largest first. Public code calls several different things
"stable rank"; here a name is a formula.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlkit.plasticity.measurement import BoolArray


def singular_values(features: Tensor) -> Tensor:
    """Singular values of `features` [B, d] in float64 [min(B, d)], by the smaller Gram matrix.

    Values below about 1e-8 of the largest are rounding noise, which none of the ranks here asks for. NaN if a feature
    is not finite.
    """
    x = features.double()
    if not x.isfinite().all():
        return x.new_full((min(x.shape),), torch.nan)
    gram = x.mT @ x if x.shape[1] <= x.shape[0] else x @ x.mT
    eigenvalues: Tensor = torch.linalg.eigvalsh(gram)
    return eigenvalues.clamp(min=0).sqrt().flip(0)


def _smallest_share(values: Tensor, delta: float) -> float:
    total = values.sum()
    if not total.isfinite():
        return torch.nan
    return float((values.cumsum(0) < (1 - delta) * total).sum() + 1) if total > 0 else 0.0


def srank(sigma: Tensor, delta: float = 0.01) -> float:
    """Smallest k whose k largest singular values hold 1 - delta of their sum; 0 for all-zero features.

    Kumar et al. 2021 (arXiv:2010.14498), "effective rank". At most min(B, d): compare at one batch size only.
    """
    return _smallest_share(sigma, delta)


def pca_rank(sigma: Tensor, delta: float = 0.01) -> float:
    """As `srank` with squared singular values (arXiv:1909.12255): much smaller, do not mix."""
    return _smallest_share(sigma.square(), delta)


def stable_rank(sigma: Tensor) -> float:
    """||features||_F^2 / sigma_1^2; 0 for all-zero features. Features of ReLU layers are rarely above 3."""
    return float(sigma.square().sum() / sigma[0].square()) if sigma[0] != 0 else 0.0


def effective_rank(sigma: Tensor) -> float:
    """exp of the entropy of sigma / sum(sigma), Roy and Vetterli 2007; 0 for all-zero features."""
    total = sigma.sum()
    if total == 0:
        return 0.0
    return float(torch.special.entr(sigma / total).sum().exp())


def feature_rank(sigma: Tensor, batch: int, epsilon: float = 0.01) -> float:
    """Singular values above epsilon sqrt(B), Lyle et al. 2022 (arXiv:2204.09560): depends on the features' scale."""
    return torch.nan if sigma.isnan().any() else float((sigma / batch**0.5 > epsilon).sum())


def feature_norm(features: Tensor) -> float:
    """Mean over samples of the 2-norm of `features` [B, d]."""
    return float(features.norm(dim=1).mean())


def adam_step(
    exp_avg: Tensor, exp_avg_sq: Tensor, step: float, lr: float, betas: tuple[float, float], eps: float
) -> Tensor:
    """lr m / (sqrt(v) + eps) with both moments corrected for their start: the step that Adam has just taken.

    Kingma and Ba 2015 (arXiv:1412.6980), algorithm 1. Shapes of the parameter.
    """
    m = exp_avg / (1 - betas[0] ** step)
    v = exp_avg_sq / (1 - betas[1] ** step)
    size: Tensor = lr * m / (v.sqrt() + eps)
    return size


def overlap(now: BoolArray, earlier: BoolArray) -> float:
    """|A and B| / min(|A|, |B|) of two dormant sets, the overlap coefficient of the ReDo paper; NaN if one is empty."""
    smaller = min(int(now.sum()), int(earlier.sum()))
    return int((now & earlier).sum()) / smaller if smaller else float("nan")


def survival(now: BoolArray, earlier: BoolArray) -> float:
    """Share of the units dormant earlier that are dormant now; NaN if there were none. Dopamine logs 100 times this."""
    before = int(earlier.sum())
    return int((now & earlier).sum()) / before if before else float("nan")


def jaccard(now: BoolArray, earlier: BoolArray) -> float:
    """|A and B| / |A or B|; NaN if both are empty."""
    union = int((now | earlier).sum())
    return int((now & earlier).sum()) / union if union else float("nan")


def policy_churn(now: Tensor, before: Tensor) -> float:
    """How far greedy actions moved on the same states (Schaul et al. 2022, arXiv:2206.00730).

    int64 [B]: share of states with another action. float [B, A]: mean of ||a - a'||_2 / sqrt(A).
    """
    if not now.is_floating_point():
        return float((now != before).double().mean())
    return float((now - before).double().norm(dim=-1).mean() / now.shape[-1] ** 0.5)


def value_churn(now: Tensor, before: Tensor) -> tuple[float, float]:
    """mean |Q' - Q| over all states and actions, and the same over mean |Q| (NaN if that is 0): arXiv:2409.04792."""
    moved, size = (now - before).double().abs().mean(), before.double().abs().mean()
    return float(moved), float(moved / size) if size > 0 else float("nan")


def greedy_value_churn(now: Tensor, before: Tensor) -> float:
    """mean |Q' - Q| at the action that was greedy before; values [B, A]."""
    greedy = before.argmax(-1, keepdim=True)
    return float((now - before).gather(-1, greedy).double().abs().mean())
