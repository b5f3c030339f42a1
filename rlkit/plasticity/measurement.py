"""What one probe saw: scores of every unit, metrics of every layer. Numbers only, nothing of torch.

Arrays have a leading axis for batched copies of a layer (SAC's twin critics: 2), of length 1 elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

THRESHOLDS = (0.0, 0.025, 0.1)  # of the ReDo paper and its issue tracker; exact counts are kept at these

LAYER_METRICS = (
    "mean_activation",
    "nonfinite",
    "fau_element",
    "fau_unit",
    "dead_rate",
    "saturated",
    "srank",
    "pca_rank",
    "stable_rank",
    "effective_rank",
    "feature_rank",
    "feature_norm",
    "rank_cap",
    "overlap",
    "survival",
    "jaccard",
    "grad_norm",
    "weight_norm",
    "init_distance",
    "init_distance_relative",
    "update_ratio",
    "adam_step_rms",
)
RUN_METRICS = tuple(
    f"{prefix}{name}"
    for prefix in ("", "interval_")
    for name in ("policy_churn", "value_churn", "value_churn_relative", "greedy_value_churn")
)


@dataclass(frozen=True)
class Definition:
    """What a score means. Two records compare only if all of it is equal."""

    name: str  # "redo"
    quantity: str  # "|h| after the activation"
    reduce: str  # "mean over samples and positions"
    normaliser: str  # "layer mean + 1e-9"
    compare: Literal["<=", "<"] = "<="
    layers: str = "hidden"
    version: int = 1


@dataclass(frozen=True)
class Probe:
    """Where the states of a measurement come from."""

    batch: int  # states
    source: str  # "replay, fresh", "replay, fixed", "given"
    seed: int | None = None


@dataclass(frozen=True)
class LayerMeasurement:
    """One hidden layer. `scores`: name -> float64 [copies, units]; `metrics`: name -> float64 [copies], NaN = none."""

    units: int
    copies: int
    scores: Mapping[str, FloatArray]
    metrics: Mapping[str, FloatArray]


@dataclass(frozen=True)
class Measurement:
    """One probe of the plasticity monitor."""

    step: int  # env steps; whatever the user counts in a loop of his own
    updates: int
    kind: str  # "start", "probe", "pre", "post" (of an intervention), "end"
    layers: Mapping[str, LayerMeasurement]  # by the producer's address, in the order of the unit graph
    metrics: Mapping[str, float] = field(default_factory=dict)  # of the whole network: churn, ...

    def dormant(self, threshold: float, score: str = "redo") -> dict[str, BoolArray]:
        """Units whose score is at most `threshold`, [copies, units] by layer. A score that is not a number is not."""
        return {name: layer.scores[score] <= threshold for name, layer in self.layers.items() if score in layer.scores}

    def dormant_fraction(
        self, threshold: float, score: str = "redo", *, network: str | None = None, min_units: int = 2
    ) -> float:
        """Dormant units over all units, pooled over the layers of at least `min_units`, of one network or of all.

        Units without a finite score count in neither; NaN if none is left.
        """
        dormant = total = 0
        for name, layer in self.layers.items():
            if layer.units < min_units or score not in layer.scores or not _belongs(name, network):
                continue
            values = layer.scores[score]
            dormant += int((values <= threshold).sum())
            total += int(np.isfinite(values).sum())
        return dormant / total if total else float("nan")

    def mean_metric(self, metric: str, network: str) -> float | None:
        """Mean of a layer metric over the layers of a network that have it, copies first; None if none has."""
        means = [
            float(layer.metrics[metric].mean())
            for name, layer in self.layers.items()
            if _belongs(name, network) and metric in layer.metrics
        ]
        return sum(means) / len(means) if means else None


def _belongs(layer: str, network: str | None) -> bool:
    return network is None or layer == network or layer.startswith(f"{network}.")
