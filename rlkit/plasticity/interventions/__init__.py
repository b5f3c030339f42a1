"""Cures: whatever is done to the networks of a run to keep them learning. One file each, one line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rlkit.core.errors import look_up
from rlkit.plasticity.interventions.ace_reset import ACEReset, ACEResetConfig
from rlkit.plasticity.interventions.continual_backprop import ContinualBackprop, ContinualBackpropConfig
from rlkit.plasticity.interventions.full_reset import FullReset, FullResetConfig
from rlkit.plasticity.interventions.l2 import L2, L2Config
from rlkit.plasticity.interventions.l2_init import L2Init, L2InitConfig
from rlkit.plasticity.interventions.layer_reset import LayerReset, LayerResetConfig
from rlkit.plasticity.interventions.normalise_and_project import NormaliseAndProject, NormaliseAndProjectConfig
from rlkit.plasticity.interventions.parseval import Parseval, ParsevalConfig
from rlkit.plasticity.interventions.plasticity_injection import PlasticityInjection, PlasticityInjectionConfig
from rlkit.plasticity.interventions.prune_and_regrow import PruneAndRegrow, PruneAndRegrowConfig
from rlkit.plasticity.interventions.redo import ReDo, ReDoConfig
from rlkit.plasticity.interventions.regrama import ReGraMa, ReGraMaConfig
from rlkit.plasticity.interventions.shrink_and_perturb import ShrinkAndPerturb, ShrinkAndPerturbConfig
from rlkit.plasticity.interventions.spectral_norm import SpectralNorm, SpectralNormConfig
from rlkit.plasticity.protocols import Intervention


@dataclass(frozen=True)
class InterventionKind:
    """A line of the registry."""

    summary: str
    build: Callable[[Any], Intervention]  # (config)
    config: type[Any]  # frozen dataclass of its settings


INTERVENTIONS: dict[str, InterventionKind] = {
    # Units.
    "redo": InterventionKind("recycle units that are hardly ever active", ReDo, ReDoConfig),
    "regrama": InterventionKind("recycle units whose weights get no gradient", ReGraMa, ReGraMaConfig),
    "continual_backprop": InterventionKind(
        "replace the least useful old units, a few at a time", ContinualBackprop, ContinualBackpropConfig
    ),
    "prune_and_regrow": InterventionKind(
        "small weights start anew, or make room for others", PruneAndRegrow, PruneAndRegrowConfig
    ),
    # Whole networks.
    "layer_reset": InterventionKind("draw the last layers anew", LayerReset, LayerResetConfig),
    "full_reset": InterventionKind("draw everything anew but the replay", FullReset, FullResetConfig),
    "shrink_and_perturb": InterventionKind(
        "shrink the weights and add fresh ones, now and then or in every step", ShrinkAndPerturb, ShrinkAndPerturbConfig
    ),
    "ace_reset": InterventionKind(
        "draw the more anew, the more of the policy has no gradient", ACEReset, ACEResetConfig
    ),
    "plasticity_injection": InterventionKind(
        "freeze what the heads know and train fresh ones on top", PlasticityInjection, PlasticityInjectionConfig
    ),
    # In the loss or after each gradient step.
    "l2": InterventionKind("pull the weights to zero", L2, L2Config),
    "l2_init": InterventionKind("pull the parameters to where they started", L2Init, L2InitConfig),
    "parseval": InterventionKind("keep the rows of hidden layers near orthogonal", Parseval, ParsevalConfig),
    "spectral_norm": InterventionKind(
        "divide the last hidden layer by its largest singular value", SpectralNorm, SpectralNormConfig
    ),
    "normalise_and_project": InterventionKind(
        "keep the length of weights behind normalisations", NormaliseAndProject, NormaliseAndProjectConfig
    ),
}


def find(name: str) -> InterventionKind:
    """The line of intervention `name`. Raises ConfigError with the nearest and all names."""
    return look_up(INTERVENTIONS, name, "intervention", fix="take one of them", see="docs/plasticity.md")
