"""Looking at the networks of a run and treating them: probes, cures, the replay ratio, each on its schedule."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor, nn

from rlkit.agents.agent import Agent
from rlkit.configs.schema import RunConfig
from rlkit.core.errors import ConfigError, require
from rlkit.core.seeding import SeedTree, generator_state, load_generator_state
from rlkit.core.typing import State
from rlkit.plasticity import interventions, replay_ratio, scores
from rlkit.plasticity.measurement import THRESHOLDS, BoolArray, Measurement
from rlkit.plasticity.monitor import BeforeUpdate, PlasticityMonitor
from rlkit.plasticity.protocols import Intervention, LedgerEvent, Observer, Progress, ReplayRatio, WatchesRecycling
from rlkit.replay.batch import Batch, Window
from rlkit.replay.replay import Replay
from rlkit.training.build import planned_updates

_PROBES, _SHORTEST, _LONGEST = 200, 500, 10_000  # probes of a run; gradient steps between two


class Plasticity:
    """The monitor, the interventions and the replay ratio of one run.

    The random numbers of a probe depend on the run's seed and the number of updates alone, so probes can be left out or
    taken twice and nothing else changes. Interventions have generators of their own.
    """

    def __init__(self, config: RunConfig, agent: Agent, replay: Replay, seeds: SeedTree) -> None:
        settings = config.plasticity
        self._config, self._agent, self._replay, self._seeds = config, agent, replay, seeds
        self._window = Window(config.replay.n_step, config.replay.gamma)
        self.ratio: ReplayRatio = replay_ratio.find(settings.replay_ratio).build(
            config.replay_ratio, config.ratio, agent
        )
        signal = config.ratio.signal if settings.replay_ratio == "adaptive" else "fau"
        require(
            settings.monitor or signal == "fau",
            "plasticity.monitor",
            False,
            f"true with ratio.signal {signal}, which the monitor's probes tell",
            "docs/plasticity.md",
        )
        self._cures: dict[str, Intervention] = {
            name: interventions.find(name).build(getattr(config.intervention, name)) for name in settings.interventions
        }
        self._rngs = {name: seeds.generator(f"intervention/{name}") for name in self._cures}
        if {"full_reset", "plasticity_injection"} <= self._cures.keys():
            raise ConfigError(
                "full_reset and plasticity_injection cannot treat the same run",
                why="an injection freezes what the networks know, and a full reset would have to forget it",
                fix="leave one of the two out of plasticity.interventions",
                see="docs/plasticity.md",
            )
        for name, cure in self._cures.items():
            cure.attach(agent, self._rngs[name])
        self._monitor: PlasticityMonitor | None = None
        if settings.monitor or any(cure.score is not None for cure in self._cures.values()):
            self._monitor = PlasticityMonitor(
                agent.networks,
                agent.unit_graph(),
                forward=agent.outputs,
                losses=self._losses,
                optimizers=list(agent.optimizers.values()),
            )
        self._period = (settings.period or probe_period(planned_updates(config))) if settings.monitor else 0
        self._fixed: Batch | None = None  # states of the first probe: overlap and churn are taken on them
        self._probing = 0  # number of updates at which a probe is being taken
        self._treated_at = -1  # number of updates at which the last cure acted
        self._measurements: list[Measurement] = []
        self._events: list[LedgerEvent] = []
        self._latest: dict[str, float] = {}  # of the last probe, for the next line of metrics
        self.dormant_share: float | None = None  # of the units at 0.1, in the last probe
        self.observer = _all_of([self.ratio.observer, *(cure.observer for cure in self._cures.values())])

    def before_update(self, updates: int) -> BeforeUpdate | None:
        """Called before gradient step number `updates` (from 1 on)."""
        if self._monitor is None or self._period == 0:
            return None
        if self._fixed is None:
            batch = self._draw(0)
            self._fixed = batch.select("observation", "action")
            self._measure("start", batch, 0, 0, full=True)
        return self._monitor.before_update(self._fixed) if self._is_full(updates) else None

    def after_update(self, progress: Progress, before: BeforeUpdate | None) -> None:
        """Called after a gradient step: probe and treat, if it is time."""
        updates = progress.updates
        due = [name for name, cure in self._cures.items() if cure.due(progress)]
        probing = self._period > 0 and updates % self._period == 0
        if not due and not probing:
            return
        batch = self._draw(updates)
        measurement = None
        if self._monitor is not None:
            measurement = self._measure(
                "pre" if due else "probe",
                batch,
                progress.env_steps,
                updates,
                full=probing and self._is_full(updates),
                gradients=any(self._cures[name].score in scores.GRADIENT_SCORES for name in due),
                before=before,
            )
        for name in due:
            measurement = self._treat(name, measurement, batch, progress)
        if due and self._monitor is not None:
            # Without gradient scores: a unit whose outgoing weights are zero has no gradient before the next update.
            self._measure("post", batch, progress.env_steps, updates, full=False)
            self._treated_at = updates

    def finish(self, progress: Progress) -> None:
        """The last look at the networks of a finished run; a continued one does not notice it.

        A network that has just been treated was looked at before that, and is not anew: it has to learn first.
        """
        if self._monitor is None or self._period == 0 or self._fixed is None or self._treated_at == progress.updates:
            return
        state = self._monitor.state_dict()
        self._measure("end", self._draw(progress.updates), progress.env_steps, progress.updates, full=True)
        self._monitor.load_state_dict(state)

    def _treat(
        self, name: str, measurement: Measurement | None, batch: Batch, progress: Progress
    ) -> Measurement | None:
        """Apply a cure. What the next one of the same moment goes by: all take what was measured before the first.

        What one has recycled has no gradient yet, and would be dormant for the next. Only networks of other layers are
        measured anew.
        """
        values = self._values(batch)
        events = self._cures[name].apply(self._agent, measurement, self._rngs[name])
        change = float((self._values(batch) - values).abs().max()) if events else 0.0
        about = {"updates": progress.updates, "intervention": name, "largest_change_of_values": change}
        self._events += [dataclasses.replace(event, details=about | event.details) for event in events]
        self._tell_recycled(events)
        if self._monitor is None or measurement is None:
            return measurement
        graph = self._agent.unit_graph()
        self._monitor.use_graph(graph)
        if {layer.name for layer in graph.layers} <= set(measurement.layers):
            return measurement
        return self._measure("pre", batch, progress.env_steps, progress.updates, full=False, gradients=True)

    @torch.no_grad()
    def _values(self, batch: Batch) -> Tensor:
        return self._agent.outputs(batch)["values"]

    def _tell_recycled(self, events: Sequence[LedgerEvent]) -> None:
        """Tell the cures that keep something about each unit which ones have started anew."""
        watching = [cure for cure in self._cures.values() if isinstance(cure, WatchesRecycling)]
        if not watching:
            return
        masks: dict[str, BoolArray] = {}
        for event in events:
            if "units" in event.details:
                mask = np.zeros((len(event.details["units"]), event.details["of"]), bool)
                for copy, units in enumerate(event.details["units"]):
                    mask[copy, units] = True
                masks[event.details["layer"]] = mask
            whole = [parameter.rpartition(".")[0] for parameter in event.details.get("parameters", ())]
            masks |= self._all_units([*whole, *event.details.get("layers", ())])
        for cure in watching if masks else ():
            cure.recycled(self._agent, masks)

    def _all_units(self, layers: Sequence[str]) -> dict[str, BoolArray]:
        """Masks of whole layers; normalisations and what is no layer are left out."""
        masks: dict[str, BoolArray] = {}
        for name in layers:
            module = self._agent.networks.get_submodule(name)
            weight, copies = getattr(module, "weight", None), getattr(module, "copies", 1)
            if isinstance(weight, Tensor) and weight.dim() > 1:
                masks[name] = np.ones((copies, weight.shape[0 if copies == 1 else 1]), bool)
        return masks

    def _measure(
        self,
        kind: str,
        batch: Batch,
        env_steps: int,
        updates: int,
        *,
        full: bool,
        gradients: bool = False,
        before: BeforeUpdate | None = None,
    ) -> Measurement:
        assert self._monitor is not None
        self._probing = updates
        measurement = self._monitor.measure(
            batch,
            step=env_steps,
            updates=updates,
            kind=kind,
            fixed=self._fixed,
            full=full,
            gradients=full or gradients,
            before=before,
        )
        if self._period:
            self._measurements.append(measurement)
        if kind == "post":  # a cure's handiwork: no sign of how the networks fare
            return measurement
        if self._period:
            self._latest = _summary(measurement)
            self.dormant_share = measurement.dormant_fraction(THRESHOLDS[-1])
        self.ratio.measured(measurement)
        return measurement

    def _draw(self, updates: int) -> Batch:
        rng = self._seeds.generator("probe", updates)
        batch = self._replay.probe(self._config.plasticity.batch_size, self._window, rng)
        return batch.to(self._config.device) if self._config.device != "cpu" else batch

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        rng = self._seeds.torch_generator("probe-noise", self._probing, device=self._config.device)
        return self._agent.losses(batch, rng)

    def _is_full(self, updates: int) -> bool:
        return self._period > 0 and updates % (self._period * self._config.plasticity.full_every) == 0

    # --- what others write down

    def take_measurements(self) -> list[Measurement]:
        """Measurements since the last call."""
        measurements, self._measurements = self._measurements, []
        return measurements

    def take_events(self) -> list[LedgerEvent]:
        """What was done and decided since the last call."""
        events, self._events = [*self._events, *self.ratio.events()], []
        return events

    def take_metrics(self) -> dict[str, float]:
        """Numbers of the last probe, if there was one since the last call."""
        latest, self._latest = self._latest, {}
        return latest

    def state_dict(self) -> State:
        """All that moves."""
        return {
            "ratio": self.ratio.state_dict(),
            "cures": {name: cure.state_dict() for name, cure in self._cures.items()},
            "rngs": {name: generator_state(rng) for name, rng in self._rngs.items()},
            "monitor": None if self._monitor is None else self._monitor.state_dict(),
            "fixed": None if self._fixed is None else {key: value.clone() for key, value in self._fixed.items()},
            "latest": dict(self._latest),
            "treated_at": self._treated_at,
        }

    def load_state_dict(self, state: State) -> None:
        """Continue; before the agent's own state is loaded, as a cure may have changed its networks."""
        self.ratio.load_state_dict(state["ratio"])
        for name, cure in self._cures.items():
            cure.load_state_dict(self._agent, state["cures"][name])
            load_generator_state(self._rngs[name], state["rngs"][name])
        if self._monitor is not None and state["monitor"] is not None:
            self._monitor.use_graph(self._agent.unit_graph())
            self._monitor.load_state_dict(state["monitor"])
        fixed = state["fixed"]
        self._fixed = None if fixed is None else TensorDict(fixed, batch_size=[len(fixed["observation"])])
        self._latest = dict(state["latest"])
        self._treated_at = state["treated_at"]


def _summary(measurement: Measurement) -> dict[str, float]:
    """The few numbers of a probe that go to metrics.jsonl; everything else is in the record."""
    found = {f"plasticity/dormant_{tau}": measurement.dormant_fraction(tau) for tau in THRESHOLDS}
    networks = dict.fromkeys(name.partition(".")[0] for name in measurement.layers)
    for network in networks:
        found[f"plasticity/{network}/dormant_{THRESHOLDS[-1]}"] = measurement.dormant_fraction(
            THRESHOLDS[-1], network=network
        )
    for metric in ("fau_element", "srank"):
        for network in networks:
            mean = measurement.mean_metric(metric, network)
            if mean is not None:
                found[f"plasticity/{network}/{metric}"] = mean
    found |= {f"plasticity/{name}": value for name, value in measurement.metrics.items()}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def probe_period(planned: int) -> int:
    """Gradient steps between probes in a run of `planned` gradient steps, where no setting says otherwise."""
    return min(max(planned // _PROBES, _SHORTEST), _LONGEST)


@dataclasses.dataclass(frozen=True)
class _Observers:
    """Several observers as one."""

    parts: Sequence[Observer]

    def activation(self, layer: str, value: Tensor) -> None:
        """Hand on."""
        for part in self.parts:
            part.activation(layer, value)

    def gradients(self, networks: nn.ModuleDict, loss: str) -> None:
        """Hand on."""
        for part in self.parts:
            part.gradients(networks, loss)


def _all_of(observers: Sequence[Observer | None]) -> Observer | None:
    wanted = [observer for observer in observers if observer is not None]
    return wanted[0] if len(wanted) == 1 else _Observers(wanted) if wanted else None
