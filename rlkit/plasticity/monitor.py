"""Looks into any torch model: which units are dormant, how much the layers still carry, how far the weights went.

    monitor = PlasticityMonitor(model)
    measurement = monitor.measure(observations, step=10_000)
    measurement.dormant_fraction(0.025)

Between measurements nothing is hooked and nothing is computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rlkit.core.errors import ConfigError, NumericError
from rlkit.core.typing import State
from rlkit.plasticity import metrics, scores
from rlkit.plasticity.measurement import BoolArray, FloatArray, LayerMeasurement, Measurement
from rlkit.plasticity.probes import Capture, undisturbed
from rlkit.plasticity.protocols import UnitGraph, UnitLayer
from rlkit.plasticity.unit_graph import graph_of

Outputs = Mapping[str, Tensor]
_SATURATING = (nn.Tanh, nn.Sigmoid)


@dataclass(frozen=True)
class BeforeUpdate:
    """The model one gradient step ago: its weights, and what it answered to the fixed states."""

    weights: dict[str, Tensor]
    outputs: dict[str, Tensor]


@dataclass(frozen=True)
class Ablation:
    """What silencing the dormant units does to the answers; changes over the root mean square of the values."""

    units: int
    max_change: float
    rms_change: float
    changed_actions: float | None  # share of states whose greedy action changes


class PlasticityMonitor:
    """Measures `module`, which may be of any kind.

    graph: who feeds whom; None = found at the first measurement, by one forward pass (unit_graph.graph_of).
    forward: batch -> what the model answers: a tensor, or a mapping with "values" (action values or any output) and
        "policy" (greedy actions, int64 [B] or float [B, A]). None = `module(batch)`.
    losses: batch -> the training loss, or a mapping of them by network (the first part of a layer's address): whose
        gradients the gradient scores are taken of. They must not step anything.
    threshold: of the dormant sets whose overlap over time is reported.
    """

    def __init__(
        self,
        module: nn.Module,
        graph: UnitGraph | None = None,
        *,
        forward: Callable[[Any], Tensor | Outputs] | None = None,
        losses: Callable[[Any], Tensor | Mapping[str, Tensor]] | None = None,
        optimizers: Sequence[Optimizer] = (),
        threshold: float = 0.1,
    ) -> None:
        self.module: nn.Module = getattr(module, "_orig_mod", module)  # hooks do not fire in what torch.compile made
        self.threshold = threshold
        self._graph: UnitGraph | None = graph
        self._forward = forward if forward is not None else self.module
        self._losses, self._optimizers = losses, tuple(optimizers)
        self.start = {name: p.detach().clone() for name, p in self.module.named_parameters() if p.dim() > 1}
        self._dormant_before: dict[str, BoolArray] = {}
        self._outputs_before: dict[str, Tensor] = {}

    def graph(self, batch: Any) -> UnitGraph:
        """Who feeds whom."""
        if self._graph is None:
            self._graph = graph_of(self.module, forward=lambda: self._forward(batch))
        return self._graph

    def use_graph(self, graph: UnitGraph) -> None:
        """Another graph from now on: the networks have changed."""
        self._graph = graph

    def before_update(self, batch: Any) -> BeforeUpdate:
        """Before a gradient step, for `measure` after it: how far one update moves weights and answers."""
        layers = self._layers(self.graph(batch))
        weights = {layer.name: self._weight(layer.name).detach().clone() for layer in layers}
        with undisturbed(self.module), torch.no_grad():
            return BeforeUpdate(weights, _named(self._forward(batch)))

    def measure(
        self,
        batch: Any,
        *,
        step: int = 0,
        updates: int = 0,
        kind: str = "probe",
        fixed: Any = None,
        full: bool = True,
        gradients: bool | None = None,
        before: BeforeUpdate | None = None,
    ) -> Measurement:
        """One probe on `batch`.

        fixed: states that stay the same over the run; overlap with the last measurement's dormant set and churn are
            taken on them (None: on `batch`). full: with ranks, weights, overlap and churn, not scores of activations
            alone. gradients: with gradient scores, if losses are known; None = where `full`.
        Raises ConfigError for a batch that the model cannot read, NumericError if no unit of a layer has a finite
        activation.
        """
        graph = self.graph(batch)
        all_layers = self._layers(graph)
        with undisturbed(self.module):
            activations, outputs = self._look(graph, batch)
            measured: dict[str, tuple[int, int, dict[str, FloatArray], dict[str, FloatArray]]] = {
                layer.name: (layer.units, layer.ensemble, {}, {}) for layer in all_layers
            }
            measured |= {
                layer.name: self._activation_part(layer, activations[layer.name], full) for layer in graph.layers
            }
            whole: dict[str, float] = {}
            if full:
                if fixed is not None:
                    activations, outputs = self._look(graph, fixed)
                self._add_overlap(graph, activations, measured)
                whole = self._churn(outputs, before)
                self._add_weight_part(all_layers, measured, before)
            if full if gradients is None else gradients:
                self._add_gradient_part(all_layers, batch, measured)
        layers = {
            name: LayerMeasurement(units, copies, unit_scores, layer_metrics)
            for name, (units, copies, unit_scores, layer_metrics) in measured.items()
        }
        return Measurement(step, updates, kind, layers, whole)

    def ablate(self, batch: Any, threshold: float, *, score: str = "redo", replace: str = "zero") -> Ablation:
        """Are the units that `score` calls dormant really unused? Silence them in one forward pass and compare.

        replace: "zero", or "mean" for their mean over the batch. Exactly no change for a ReLU unit of score 0.
        """
        measurement = self.measure(batch, full=score in scores.GRADIENT_SCORES)
        dormant = measurement.dormant(threshold, score)

        def silence(layer: UnitLayer, output: Tensor) -> Tensor:
            mask = torch.from_numpy(dormant[layer.name]).to(output.device).repeat(1, layer.halves)  # [copies, units]
            shape = [1] * output.dim()
            if layer.ensemble == 1:
                shape[1], batch_axis = mask.shape[1], 0
            else:
                shape[0], shape[2], batch_axis = mask.shape[0], mask.shape[1], 1
            rest = output.mean(batch_axis, keepdim=True) if replace == "mean" else torch.zeros_like(output)
            return torch.where(mask.reshape(shape), rest, output)

        if replace not in ("zero", "mean"):
            raise ConfigError(f"replace is {replace!r}", why="allowed: zero, mean", fix="replace='zero'")
        functional = [layer.name for layer in self.graph(batch).layers if not layer.activation]
        if functional:
            raise ConfigError(
                f"the activations of {', '.join(functional)} are functions",
                why="units are silenced where a module hands on their activations",
                fix="use activation modules (nn.ReLU) instead of functions in the model",
                see="docs/plasticity.md",
            )
        with undisturbed(self.module), torch.no_grad():
            intact = _named(self._forward(batch))
            with Capture(self.module, self.graph(batch), silence):
                ablated = _named(self._forward(batch))
        change, size = ablated["values"] - intact["values"], intact["values"].double().square().mean().sqrt()
        return Ablation(
            units=sum(int(mask.sum()) for mask in dormant.values()),
            max_change=float(change.abs().max() / size),
            rms_change=float(change.double().square().mean().sqrt() / size),
            changed_actions=metrics.policy_churn(ablated["policy"], intact["policy"])
            if "policy" in intact and not intact["policy"].is_floating_point()
            else None,
        )

    def _look(self, graph: UnitGraph, batch: Any) -> tuple[Mapping[str, Tensor], dict[str, Tensor]]:
        with torch.no_grad(), Capture(self.module, graph) as capture:
            try:
                outputs = _named(self._forward(batch))
            except RuntimeError as error:
                raise ConfigError(
                    "the model cannot read the probe batch",
                    why=str(error).replace("\n", " "),
                    fix="give states as the model receives them in training: its shape, type and device",
                    see="docs/plasticity.md",
                ) from error
        return capture.activations(), outputs

    def _activation_part(
        self, layer: UnitLayer, h: Tensor, full: bool
    ) -> tuple[int, int, dict[str, FloatArray], dict[str, FloatArray]]:
        h = scores.by_unit(h, layer)  # [copies, halves, units, B, P]
        mean = scores.mean_activation(h)
        finite = mean.isfinite()
        if not bool(finite.any()):
            raise NumericError(
                f"no unit of {layer.name} has a finite activation",
                why="NaN or infinity reached every unit of the layer on the probe batch",
                fix="look at the first layer with NaN: its input or its weights; lower the learning rate",
                see="docs/plasticity.md",
            )
        unit_scores = {name: _numbers(score(h)) for name, score in scores.ACTIVATION_SCORES.items()}
        unit_scores["mean_activation"] = _numbers(h.mean((-2, -1)).sum(1))
        flat = h.flatten(1)  # [copies, everything]
        found = {
            "mean_activation": torch.where(finite, mean, 0).sum(-1) / finite.sum(-1),
            "nonfinite": (~finite).sum(-1),
            "fau_element": (flat > 0).double().mean(-1),
            "fau_unit": (h > 0).any(-1).any(-1).any(1).double().mean(-1),
            "dead_rate": (flat == 0).double().mean(-1),
        }
        if layer.activation and isinstance(self.module.get_submodule(layer.activation), _SATURATING):
            found["saturated"] = (flat.abs() > 0.99).double().mean(-1)
        layer_metrics = {name: _numbers(value) for name, value in found.items()}
        if full:
            features = h.mean(-1).flatten(1, 2).mT  # [copies, B, halves * units]; a channel is its mean over positions
            for name, values in _of_features(features).items():
                layer_metrics[name] = values
        return layer.units, layer.ensemble, unit_scores, layer_metrics

    def _add_overlap(self, graph: UnitGraph, activations: Mapping[str, Tensor], measured: dict[str, Any]) -> None:
        comparisons = {"overlap": metrics.overlap, "survival": metrics.survival, "jaccard": metrics.jaccard}
        for layer in graph.layers:
            now = _numbers(scores.redo(scores.by_unit(activations[layer.name], layer))) <= self.threshold
            earlier = self._dormant_before.get(layer.name)
            if earlier is not None and earlier.shape == now.shape:
                for name, compare in comparisons.items():
                    values = [compare(*copies) for copies in zip(now, earlier, strict=True)]
                    measured[layer.name][3][name] = np.array(values)
            self._dormant_before[layer.name] = now

    def _churn(self, outputs: dict[str, Tensor], before: BeforeUpdate | None) -> dict[str, float]:
        """Over one update (where `before` is given) and since the last full measurement."""
        found: dict[str, float] = {}
        for prefix, old in (("", before.outputs if before else {}), ("interval_", self._outputs_before)):
            if "policy" in old and "policy" in outputs:
                found[f"{prefix}policy_churn"] = metrics.policy_churn(outputs["policy"], old["policy"])
            if "values" in old and outputs["values"].shape == old["values"].shape:
                moved, relative = metrics.value_churn(outputs["values"], old["values"])
                found |= {f"{prefix}value_churn": moved, f"{prefix}value_churn_relative": relative}
                if "policy" in outputs and not outputs["policy"].is_floating_point():
                    found[f"{prefix}greedy_value_churn"] = metrics.greedy_value_churn(outputs["values"], old["values"])
        self._outputs_before = outputs
        return found

    def _add_gradient_part(self, all_layers: Sequence[UnitLayer], batch: Any, measured: dict[str, Any]) -> None:
        if self._losses is None:
            return
        layers = {layer.name: layer for layer in all_layers}
        for name, gradient in self._gradients(layers, batch).items():
            layer = layers[name]
            gradient_rows = scores.rows(gradient, layer)
            place = measured[name]
            for score, of in scores.GRADIENT_SCORES.items():
                place[2][score] = _numbers(of(gradient_rows))
            place[3]["grad_norm"] = _numbers(gradient_rows.flatten(1).norm(dim=-1))

    def _gradients(self, layers: Mapping[str, UnitLayer], batch: Any) -> dict[str, Tensor]:
        """Gradient of each layer's weight under the loss of its network; nothing is left in `.grad`."""
        assert self._losses is not None
        with torch.enable_grad():
            found = self._losses(batch)
            named = found if isinstance(found, Mapping) else {"": found}
            gradients: dict[str, Tensor] = {}
            for network, loss in named.items():
                names = [name for name in layers if not network or name.startswith(f"{network}.")]
                if not names:
                    continue
                weights = [self._weight(name) for name in names]
                trained = [weight.requires_grad for weight in weights]
                own = [weight for weight, is_trained in zip(weights, trained, strict=True) if is_trained]
                results = iter(torch.autograd.grad(loss, own, retain_graph=len(named) > 1, allow_unused=True))
                for name, is_trained in zip(names, trained, strict=True):
                    gradient = next(results) if is_trained else None
                    if gradient is not None:
                        gradients[name] = gradient
        return gradients

    def _add_weight_part(
        self, all_layers: Sequence[UnitLayer], measured: dict[str, Any], before: BeforeUpdate | None
    ) -> None:
        for layer in all_layers:
            weight = _by_copy(self._weight(layer.name), layer)
            place = measured[layer.name][3]
            norm = weight.norm(dim=-1)
            place["weight_norm"] = _numbers(norm)
            start = self.start.get(f"{layer.name}.weight")
            if start is not None and start.shape == self._weight(layer.name).shape:
                distance = (weight - _by_copy(start, layer)).norm(dim=-1)
                place["init_distance"] = _numbers(distance)
                place["init_distance_relative"] = _numbers(distance / _by_copy(start, layer).norm(dim=-1))
            old = before.weights.get(layer.name) if before is not None else None
            if old is not None and old.shape == self._weight(layer.name).shape:
                place["update_ratio"] = _numbers((weight - _by_copy(old, layer)).norm(dim=-1) / norm)
            step = self._adam_step(self._weight(layer.name))
            if step is not None:
                place["adam_step_rms"] = _numbers(_by_copy(step, layer).square().mean(-1).sqrt())

    def _adam_step(self, weight: Tensor) -> Tensor | None:
        for optimizer in self._optimizers:
            state = optimizer.state.get(weight, {})
            if "exp_avg_sq" in state and float(state["step"]) > 0:
                (group,) = [g for g in optimizer.param_groups if any(p is weight for p in g["params"])]
                moments = state["exp_avg"], state["exp_avg_sq"]
                return metrics.adam_step(*moments, float(state["step"]), group["lr"], group["betas"], group["eps"])
        return None

    def _weight(self, layer: str) -> Tensor:
        weight = self.module.get_submodule(layer).weight
        assert isinstance(weight, Tensor)
        return weight

    def _layers(self, graph: UnitGraph) -> list[UnitLayer]:
        """Hidden layers, then the output layers."""
        return [*graph.layers, *_heads(graph, self.module)]

    def state_dict(self) -> State:
        """Start weights, and what the last full measurement left for the next."""
        return {
            "start": {name: value.clone() for name, value in self.start.items()},
            "dormant": {name: torch.from_numpy(mask.copy()) for name, mask in self._dormant_before.items()},
            "outputs": {name: value.clone() for name, value in self._outputs_before.items()},
        }

    def load_state_dict(self, state: State) -> None:
        """Continue a stored monitor."""
        self.start = {name: value.clone() for name, value in state["start"].items()}
        self._dormant_before = {name: mask.numpy().astype(bool) for name, mask in state["dormant"].items()}
        self._outputs_before = {name: value.clone() for name, value in state["outputs"].items()}


def _named(outputs: Tensor | Outputs) -> dict[str, Tensor]:
    """Answers by name. A plain [B, A] counts as values with one greedy choice a row."""
    if not isinstance(outputs, Tensor):
        return {name: value.detach() for name, value in outputs.items()}
    values = {"values": outputs.detach()}
    if outputs.dim() == 2 and outputs.shape[1] > 1:
        values["policy"] = values["values"].argmax(-1)
    return values


def _heads(graph: UnitGraph, module: nn.Module) -> list[UnitLayer]:
    """The output layers: they are read by nobody, so their rows have gradient scores but are not units to recycle."""
    producers = {layer.name for layer in graph.layers}
    heads = {
        consumer.layer: layer.ensemble
        for layer in graph.layers
        for consumer in layer.consumers
        if consumer.layer not in producers
    }
    found = []
    for name, copies in heads.items():
        weight = module.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        found.append(UnitLayer(name, "", weight.shape[0 if copies == 1 else 1], (), ensemble=copies))
    return found


def _by_copy(weight: Tensor, layer: UnitLayer) -> Tensor:
    """[copies, entries] in float64."""
    return weight.detach().double().reshape(layer.ensemble, -1)


def _of_features(features: Tensor) -> dict[str, FloatArray]:
    """Ranks and norm of features [copies, B, d]."""
    batch = features.shape[1]
    found: dict[str, list[float]] = {}
    for copy in features:
        sigma = metrics.singular_values(copy)
        values = {
            "srank": metrics.srank(sigma),
            "pca_rank": metrics.pca_rank(sigma),
            "stable_rank": metrics.stable_rank(sigma),
            "effective_rank": metrics.effective_rank(sigma),
            "feature_rank": metrics.feature_rank(sigma, batch),
            "feature_norm": metrics.feature_norm(copy),
            "rank_cap": float(min(copy.shape)),
        }
        for name, value in values.items():
            found.setdefault(name, []).append(value if math.isfinite(value) else math.nan)
    return {name: np.array(values) for name, values in found.items()}


def _numbers(tensor: Tensor) -> FloatArray:
    array: FloatArray = tensor.detach().double().cpu().numpy()
    return array
