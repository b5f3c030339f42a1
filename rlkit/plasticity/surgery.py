"""Surgery on units: fresh incoming weights, no outgoing ones, moments that know about it. In place, always.

What all unit-level cures share: ReDo (Sokar et al. 2023, arXiv:2302.12902), ReGraMa (arXiv:2505.24061) and continual
backprop (Dohare et al. 2024, arXiv:2306.13812). No parameter object is replaced and no stride changes, so that
optimisers, compiled steps and captured graphs stay valid. Run it after the optimiser step: `.grad` is not touched.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim import Optimizer

from rlkit.core.errors import ConfigError, require
from rlkit.plasticity.measurement import BoolArray, FloatArray, Measurement
from rlkit.plasticity.protocols import Consumer, LedgerEvent, MonitoredAgent, UnitLayer

Outgoing = Literal["zero", "keep", "small"]
Bias = Literal["init", "zero"]
OptimizerStep = Literal["keep", "zero_tensor"]
SecondMoment = Literal["zero", "living_mean"]
Target = Literal["untouched", "mirror"]

SEE = "docs/plasticity.md"
SMALL = 0.01  # of a fresh draw: outgoing weights of a unit that is to start almost, but not quite, silent
_SECOND_MOMENTS = frozenset({"exp_avg_sq", "max_exp_avg_sq"})  # torch's names of Adam's v and AMSGrad's maximum of it
_MOMENTS = _SECOND_MOMENTS | {"exp_avg", "momentum_buffer", "square_avg", "grad_avg", "acc_delta", "exp_inf", "sum"}


def fresh_parameters(module: nn.Module, rng: np.random.Generator) -> dict[str, Tensor]:
    """New values for every parameter of `module`, drawn by its own initialisers, in the layout of the old ones.

    `reset_parameters()` of every submodule that owns parameters, on a copy in main memory: the same numbers on every
    device, and the global generators are as before. One number is taken from `rng`.
    Raises ConfigError, with the type, if a module owns parameters and cannot draw new ones.
    """
    _require_initialiser(module)
    twin = copy.deepcopy(module).to("cpu")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(int(rng.integers(2**63)))
        for part in twin.modules():
            if _owns_parameters(part):
                part.reset_parameters()  # type: ignore[operator]
    devices = {name: parameter.device for name, parameter in module.named_parameters()}
    return {name: value.detach().to(devices[name]) for name, value in twin.named_parameters()}


def to_columns(values: Tensor, consumer: Consumer, columns: int) -> Tensor:
    """Values of units [copies, units] -> of input columns of their consumer [copies, columns]; 0 or False elsewhere.

    torch flattens channel by channel: P neighbouring columns a channel.
    """
    values = values.repeat_interleave(consumer.per_unit, dim=1)
    result = values.new_zeros(len(values), columns)
    result[:, consumer.first : consumer.first + values.shape[1]] = values
    return result


def half_of(layer: UnitLayer, consumer: Consumer) -> int:
    """Which half of a concatenation of two functions of the units (CReLU) the consumer's columns belong to.

    Such a layer names each consumer once for each half, in their order.
    """
    return [other for other in layer.consumers if other.layer == consumer.layer].index(consumer) % layer.halves


def target_address(networks: nn.ModuleDict, address: str) -> str | None:
    """Where the target network keeps its copy of what is at `address`: online -> target, critic -> target_critic."""
    network, _, rest = address.partition(".")
    target = "target" if network == "online" else f"target_{network}"
    return f"{target}.{rest}" if target in networks else None


def require_one_of(key: str, value: str, choices: object) -> None:
    """ConfigError about the setting `key` unless `value` is one of a Literal."""
    allowed = get_args(choices)
    require(value in allowed, key, value, ", ".join(allowed), SEE)


def require_surgery_fits(agent: MonitoredAgent, *, compensate: bool = False) -> None:
    """ConfigError if a unit of the agent could not be recycled: before training, not at the first dormant unit."""
    for layer in agent.unit_graph().layers:
        producer = agent.networks.get_submodule(layer.name)
        row_views(producer, layer)
        _require_initialiser(producer)
        if layer.norm is not None:
            _norm_views(agent.networks.get_submodule(layer.norm), layer)
        for consumer in layer.consumers:
            reader = agent.networks.get_submodule(consumer.layer)
            column_views(reader, layer, consumer)
            if compensate:
                _weight_and_bias(reader, layer, consumer)


def dormant_units(
    agent: MonitoredAgent, measurement: Measurement | None, threshold: float, score: str
) -> dict[str, BoolArray]:
    """Hidden units whose score is at most `threshold`, [copies, units] by layer; output layers have none.

    Raises ConfigError if the measurement lacks the score of a layer.
    """
    found = {} if measurement is None else measurement.dormant(threshold, score)
    missing = [layer.name for layer in agent.unit_graph().layers if layer.name not in found]
    if missing:
        raise ConfigError(
            f"the measurement has no score {score!r} of {', '.join(missing)}",
            why="units are chosen by it",
            fix="hand `apply` a measurement of this step: of PlasticityMonitor.measure, with gradients for 'grama'",
            see=SEE,
        )
    return {layer.name: found[layer.name] for layer in agent.unit_graph().layers}


def generator_hash(rng: np.random.Generator) -> str:
    """16 hexadecimal digits that tell states of a generator apart."""
    return hashlib.sha256(repr(rng.bit_generator.state).encode()).hexdigest()[:16]


@torch.no_grad()
def recycle(
    agent: MonitoredAgent,
    masks: Mapping[str, BoolArray],
    rng: np.random.Generator,
    *,
    kind: str = "recycle",
    outgoing: Outgoing = "zero",
    bias: Bias = "init",
    optimizer_step: OptimizerStep = "keep",
    second_moment: SecondMoment = "zero",
    target: Target = "untouched",
    mean_activation: Mapping[str, FloatArray] | None = None,
    scores: Mapping[str, FloatArray] | None = None,
) -> list[LedgerEvent]:
    """Start the masked units anew; one ledger event for each layer that has some.

    masks: by layer, bool [copies, units]. First the incoming rows of all layers are drawn anew, then all outgoing
    columns become 0 (`zero`), a hundredth of a fresh draw (`small`) or stay (`keep`): a weight between two masked units
    ends as an outgoing one. Consumer biases stay, a norm of the layer goes back to gamma 1, beta 0, mean 0, variance 1.
    bias: of the masked units, as the layer draws it, or 0.
    optimizer_step, second_moment: moments of written entries become 0. With Adam's step count kept, their next steps
    are up to 6.6 times the learning rate; `zero_tensor` counts the whole tensor from 0, which damps all its other
    entries for some 1,000 steps; `living_mean` gives written entries the mean second moment of those not written.
    target: `mirror` does the same, with the same draws, to the target networks.
    mean_activation: by layer, mean of h over samples and positions, [copies, halves * units]. If given, the mean
    contribution of a masked unit moves to the biases of its consumers (exact for a convolution up to its padding); they
    keep their moments.
    scores: by layer, [copies, units]; those of the masked units are written down.
    Raises ConfigError if a layer is unknown or its weights are not laid out as rows of units.
    """
    networks = agent.networks
    graph = {layer.name: layer for layer in agent.unit_graph().layers}
    for name in masks:
        if name not in graph:
            raise _does_not_fit(name, f"the unit graph has only {', '.join(graph)}")
    start = generator_hash(rng)
    layers = [layer for name, layer in graph.items() if name in masks and np.any(masks[name])]
    units = {layer.name: _units(networks, layer, masks[layer.name]) for layer in layers}
    rows = {layer.name: fresh_parameters(networks.get_submodule(layer.name), rng) for layer in layers}
    columns: dict[str, dict[str, Tensor]] = {}
    for address in {consumer.layer: None for layer in layers for consumer in layer.consumers}:
        columns[address] = fresh_parameters(networks.get_submodule(address), rng) if outgoing == "small" else {}

    written: dict[nn.Parameter, Tensor] = {}  # entries, bool, with the axis of copies first
    change: dict[str, float] = {}  # squared norm
    for in_target in (False, True) if target == "mirror" else (False,):

        def module(address: str | None, in_target: bool = in_target) -> nn.Module | None:
            found = target_address(networks, address) if in_target and address is not None else address
            return None if found is None else networks.get_submodule(found)

        links = [  # a network without a target has none to mirror
            (layer, consumer, reader)
            for layer in layers
            for consumer in layer.consumers
            if (reader := module(consumer.layer)) is not None
        ]
        moved = dict.fromkeys(units, 0.0)
        if mean_activation is not None:
            for layer, consumer, reader in links:
                _compensate(reader, layer, consumer, units[layer.name], mean_activation[layer.name])
        for layer in layers:
            if (producer := module(layer.name)) is not None:
                moved[layer.name] += _renew_rows(producer, layer, units[layer.name], rows[layer.name], bias, written)
            if (norm := module(layer.norm)) is not None:
                moved[layer.name] += _renew_norm(norm, layer, units[layer.name], written)
        if outgoing != "keep":
            for layer, consumer, reader in links:
                values = columns[consumer.layer]
                moved[layer.name] += _write_columns(reader, layer, consumer, units[layer.name], values, written)
        if not in_target:
            change = moved
    reset_moments(agent.optimizers.values(), written, optimizer_step=optimizer_step, second_moment=second_moment)

    settings: dict[str, Any] = {
        "outgoing": outgoing,
        "bias": bias,
        "optimizer_step": optimizer_step,
        "second_moment": second_moment,
    }
    settings |= {"target": target, "compensated": mean_activation is not None}
    events = []
    for layer in layers:
        mask = np.asarray(masks[layer.name], bool)
        details: dict[str, Any] = {
            "layer": layer.name,
            "units": [np.flatnonzero(copy_mask).tolist() for copy_mask in mask],  # by copy
            "of": layer.units,
            "whole_layer": bool(mask.all(1).any()),  # nothing of the layer is left: its output is constant for a while
            "weight_change": change[layer.name] ** 0.5,  # norm of all entries written, in and out
            "rng": start,
        }
        if scores is not None:
            details["scores"] = [scores[layer.name][k][copy_mask].tolist() for k, copy_mask in enumerate(mask)]
        events.append(LedgerEvent(kind, details | settings))
    return events


@torch.no_grad()
def reset_moments(
    optimizers: Iterable[Optimizer],
    written: Mapping[nn.Parameter, Tensor],
    *,
    optimizer_step: OptimizerStep = "keep",
    second_moment: SecondMoment = "zero",
) -> None:
    """Clear what the optimisers remember of the written entries; in place, as fused steps keep references.

    written: bool, in the parameter's shape with or without a leading axis of length 1.
    Raises ConfigError for an optimiser that keeps anything else than moments for each entry.
    """
    for optimizer in optimizers:
        for parameter, mask in written.items():
            state = optimizer.state.get(parameter) if mask.any() else None
            for name, value in (state or {}).items():
                if name == "step":
                    if optimizer_step == "zero_tensor":
                        value.zero_()
                elif name in _MOMENTS:
                    moment = value.view(mask.shape)
                    if second_moment == "living_mean" and name in _SECOND_MOMENTS:
                        moment.copy_(torch.where(mask, _living_mean(moment, mask), moment))
                    else:
                        moment.masked_fill_(mask, 0)
                elif isinstance(value, Tensor) and value.shape == parameter.shape:
                    raise ConfigError(
                        f"{type(optimizer).__name__} keeps {name!r} for each weight",
                        why=f"what is to become of it is known only for moments: {', '.join(sorted(_MOMENTS))}",
                        fix="use Adam, AdamW, SGD or RMSprop with cures that change weights",
                        see=SEE,
                    )


def _living_mean(moment: Tensor, written: Tensor) -> Tensor:
    """Mean over what is not written, of each copy: [copies, 1, ...]; 0 if all is written."""
    living = (~written).flatten(1)
    mean = (moment.flatten(1) * living).sum(1) / living.sum(1).clamp(min=1)
    return mean.view(-1, *[1] * (moment.dim() - 1))


def _owns_parameters(module: nn.Module) -> bool:
    return next(module.parameters(recurse=False), None) is not None


def _require_initialiser(module: nn.Module) -> None:
    for part in module.modules():
        if _computes_its_weights(part) or (_owns_parameters(part) and not hasattr(part, "reset_parameters")):
            raise ConfigError(
                f"{type(part).__name__} cannot draw new weights",
                why="it has parameters but no reset_parameters(), or a parametrisation computes its weights",
                fix="give it a method reset_parameters(), or leave this network without cures that draw weights",
                see=SEE,
            )


def _computes_its_weights(module: nn.Module) -> bool:
    """Weight or spectral normalisation, pruning: of torch.nn.utils, as parametrisation or as the older hook."""
    hooks = module._forward_pre_hooks.values()
    return parametrize.is_parametrized(module) or any(type(h).__module__.startswith("torch.nn.utils") for h in hooks)


def _does_not_fit(address: str, why: str) -> ConfigError:
    return ConfigError(
        f"units of {address!r} cannot be recycled",
        why=why,
        fix="declare its unit graph (rlkit.plasticity.protocols.UnitGraph), or leave the layer out of it",
        see=SEE,
    )


def _units(networks: nn.ModuleDict, layer: UnitLayer, mask: BoolArray) -> Tensor:
    assert np.shape(mask) == (layer.ensemble, layer.units), (layer.name, np.shape(mask))
    return torch.as_tensor(np.asarray(mask, bool), device=next(networks.get_submodule(layer.name).parameters()).device)


def _copies(module: nn.Module, parameter: Tensor) -> Tensor:
    """A view with the axis of copies first: [copies, out, in, ...], biases [copies, out]."""
    return parameter if hasattr(module, "copies") else parameter.view(1, *parameter.shape)


def parameter_views(module: nn.Module, address: str) -> list[tuple[str, nn.Parameter, Tensor]]:
    """Name, parameter and view of each parameter: weights [copies, out, in, ...], biases [copies, out].

    Noisy layers have several of each: all of them belong to the units. Raises ConfigError if the weights are computed
    from others, or not every input has columns of its own.
    """
    if _computes_its_weights(module):
        raise _does_not_fit(address, "a parametrisation (weight or spectral normalisation, pruning) makes its weights")
    if isinstance(module, nn.modules.conv._ConvTransposeNd) or getattr(module, "groups", 1) != 1:
        raise _does_not_fit(address, f"{module} has no columns of its own for each of its inputs")
    return [(name, parameter, _copies(module, parameter)) for name, parameter in module.named_parameters()]


def row_views(producer: nn.Module, layer: UnitLayer) -> list[tuple[str, nn.Parameter, Tensor]]:
    """`parameter_views` of a layer's producer; ConfigError unless each has a row for each unit."""
    views = parameter_views(producer, layer.name)
    for name, parameter, view in views:
        if view.shape[:2] != (layer.ensemble, layer.units):
            raise _does_not_fit(layer.name, f"{name} is {list(parameter.shape)}: not a row for each unit")
    return views


def column_views(reader: nn.Module, layer: UnitLayer, consumer: Consumer) -> list[tuple[str, nn.Parameter, Tensor]]:
    """`parameter_views` of a consumer's weights, without biases; ConfigError unless it has the columns of the layer."""
    views = [found for found in parameter_views(reader, consumer.layer) if found[2].dim() > 2]
    last = consumer.first + consumer.per_unit * layer.units
    for name, parameter, view in views:
        if view.shape[2] < last or layer.ensemble not in (1, len(view)):
            raise _does_not_fit(
                layer.name,
                f"{name} of its consumer {consumer.layer!r} is {list(parameter.shape)}, of {len(view)} copies;"
                f" the unit graph says {last} input columns and {layer.ensemble} copies",
            )
    return views


def _norm_views(norm: nn.Module, layer: UnitLayer) -> list[tuple[float, Tensor, Tensor]]:
    """Initial value, tensor and view [copies, units, ...] of weight, bias and running statistics."""
    state = dict(norm.named_parameters()) | dict(norm.named_buffers())
    found = []
    for name, start in {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}.items():
        value = state.get(name)
        if value is None:
            continue
        flat = value.numel() == layer.ensemble * layer.units  # one value a unit; else one for each position, too
        view = value.view(layer.ensemble, layer.units) if flat else value.unsqueeze(0)
        if view.shape[:2] != (layer.ensemble, layer.units):
            raise _does_not_fit(layer.name, f"{name} of its norm {layer.norm!r} is {list(value.shape)}")
        found.append((start, value, view))
    return found


def _write(view: Tensor, mask: Tensor, values: Tensor | float, parameter: Tensor, written: dict[Any, Tensor]) -> float:
    """view[mask] = values[mask] in place; the squared norm of the change. mask: [copies, units or 1, columns]."""
    mask = mask.view(*mask.shape, *[1] * (view.dim() - mask.dim())).expand_as(view)
    after = torch.where(mask, values, view)
    moved = float(torch.linalg.vector_norm(after - view)) ** 2
    view.copy_(after)
    written[parameter] = written[parameter] | mask if parameter in written else mask
    return moved


def _renew_rows(
    producer: nn.Module,
    layer: UnitLayer,
    units: Tensor,
    values: dict[str, Tensor],
    bias: Bias,
    written: dict[Any, Tensor],
) -> float:
    moved = 0.0
    for name, parameter, view in row_views(producer, layer):
        fresh = 0.0 if bias == "zero" and view.dim() == 2 else _copies(producer, values[name])
        moved += _write(view, units, fresh, parameter, written)
    return moved


def _renew_norm(norm: nn.Module, layer: UnitLayer, units: Tensor, written: dict[Any, Tensor]) -> float:
    return sum(_write(view, units, start, value, written) for start, value, view in _norm_views(norm, layer))


def _write_columns(
    reader: nn.Module,
    layer: UnitLayer,
    consumer: Consumer,
    units: Tensor,
    values: dict[str, Tensor],
    written: dict[Any, Tensor],
) -> float:
    moved = 0.0
    for name, parameter, view in column_views(reader, layer, consumer):
        mask = to_columns(units, consumer, view.shape[2]).unsqueeze(1)
        fresh = SMALL * _copies(reader, values[name]) if values else 0.0
        moved += _write(view, mask, fresh, parameter, written)
    return moved


def _weight_and_bias(reader: nn.Module, layer: UnitLayer, consumer: Consumer) -> tuple[Tensor, Tensor]:
    views = {name: view for name, _, view in parameter_views(reader, consumer.layer)}
    if set(views) != {"weight", "bias"}:
        raise ConfigError(
            f"mean activations of {layer.name!r} cannot be compensated",
            why=f"its consumer {consumer.layer!r} has the parameters {', '.join(views)}: not one weight and one bias",
            fix="--intervention.NAME.compensate false",
            see=SEE,
        )
    return views["weight"], views["bias"]


def _compensate(
    reader: nn.Module, layer: UnitLayer, consumer: Consumer, units: Tensor, mean_activation: FloatArray
) -> None:
    """bias += W[:, masked] mean(h): Dohare et al. 2024, the mean output of the consumer stays."""
    weight, bias = _weight_and_bias(reader, layer, consumer)
    weight = weight.flatten(3).sum(3) if weight.dim() > 3 else weight  # [copies, out, in]
    half = half_of(layer, consumer) * layer.units
    mean = torch.as_tensor(mean_activation, dtype=weight.dtype, device=weight.device)[:, half : half + layer.units]
    column = to_columns(mean * units, consumer, weight.shape[2])
    bias.add_((weight * column.unsqueeze(1)).sum(2))
