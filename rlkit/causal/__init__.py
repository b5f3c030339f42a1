"""Which variables act on which: DirectLiNGAM and the adaptive lasso, on numpy arrays and torch tensors."""

from rlkit.causal.lasso import adaptive_lasso
from rlkit.causal.lingam import CausalModel, direct_lingam, regress_on_all

__all__ = ["CausalModel", "adaptive_lasso", "direct_lingam", "regress_on_all"]
