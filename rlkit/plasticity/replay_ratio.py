"""Replay ratios: gradient steps per env step (agent decision, before action repeat). One file, one line each below."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rlkit.core.errors import look_up, require
from rlkit.core.typing import State
from rlkit.plasticity.measurement import Measurement
from rlkit.plasticity.protocols import LedgerEvent, MonitoredAgent, Observer, Progress, ReplayRatio, UnitGraph


@dataclass(frozen=True)
class ConstantConfig:
    """No settings: `replay_ratio` holds from start to end."""


class ConstantReplayRatio:
    """The same ratio from start to end."""

    observer: Observer | None = None

    def __init__(self, value: Fraction) -> None:
        self.value = value

    def ratio(self, progress: Progress) -> Fraction:
        """`value`, whatever happens."""
        return self.value

    def measured(self, measurement: Measurement) -> None:
        """Not looked at."""

    def events(self) -> list[LedgerEvent]:
        """Nothing is ever decided."""
        return []

    def state_dict(self) -> State:
        """Nothing moves."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Nothing to do."""


@dataclass(frozen=True)
class ScheduledConfig:
    """Piecewise constant from `replay_ratio` on, or geometric from it to `end`."""

    steps: tuple[int, ...] = ()  # env steps at which another ratio begins, ascending
    ratios: tuple[Fraction, ...] = ()  # that begin there
    end: Fraction | None = None  # geometric: the ratio at the last of `steps`, which then are begin and end

    def __post_init__(self) -> None:
        require(list(self.steps) == sorted(set(self.steps)), "ratio.steps", list(self.steps), "ascending env steps")
        if self.end is None:
            fits = len(self.steps) == len(self.ratios) > 0
            require(fits, "ratio.ratios", [str(r) for r in self.ratios], "one for each of ratio.steps, at least one")
        else:
            require(self.end > 0, "ratio.end", self.end, "above 0, or null")
            require(not self.ratios, "ratio.ratios", [str(r) for r in self.ratios], "none beside ratio.end")
            require(len(self.steps) == 2, "ratio.steps", list(self.steps), "[begin, end] of the geometric change")


class ScheduledReplayRatio:
    """A ratio that follows the number of env steps."""

    observer: Observer | None = None

    def __init__(self, start: Fraction, config: ScheduledConfig) -> None:
        if config.end is not None:
            require(start > 0, "replay_ratio", start, "above 0 for a geometric schedule")
        self._start, self._config = start, config
        self._last: Fraction | None = None
        self._events: list[LedgerEvent] = []

    def ratio(self, progress: Progress) -> Fraction:
        """What holds at this env step; geometric values are rounded to denominators of at most 64."""
        now = self._at(progress.env_steps)
        if self._last is not None and now != self._last:
            self._events.append(LedgerEvent("replay_ratio", {"old": str(self._last), "new": str(now)}))
        self._last = now
        return now

    def measured(self, measurement: Measurement) -> None:
        """Not looked at."""

    def _at(self, step: int) -> Fraction:
        config = self._config
        if config.end is None:
            begun = [ratio for at, ratio in zip(config.steps, config.ratios, strict=True) if step >= at]
            return begun[-1] if begun else self._start
        begin, end = config.steps
        way = min(max((step - begin) / (end - begin), 0.0), 1.0)
        if way in (0.0, 1.0):
            return config.end if way else self._start
        return Fraction(float(self._start) * float(config.end / self._start) ** way).limit_denominator(64)

    def events(self) -> list[LedgerEvent]:
        """Changes since the last call."""
        events, self._events = self._events, []
        return events

    def state_dict(self) -> State:
        """The ratio that held last."""
        return {"last": None if self._last is None else str(self._last)}

    def load_state_dict(self, state: State) -> None:
        """Continue."""
        self._last = None if state["last"] is None else Fraction(state["last"])


@dataclass(frozen=True)
class AdaptiveConfig:
    """Adaptive RR (Ma et al. 2024, arXiv:2310.07418), counted in env steps: its 50 episodes of 500 steps by default."""

    high: Fraction = Fraction(2)  # after the switch; before it `replay_ratio`
    signal: Literal["fau", "dormant", "srank"] = "fau"  # dormant: share at 0.1; these two come from the last probe
    network: str = ""  # whose activations are watched; "" = the critic, or the value network
    check_period: int = 25_000  # env steps
    window: int = 500  # env steps before a check over which FAU is averaged
    gap: float = 1e-3  # largest change between two checks that counts as a plateau
    warmup_checks: int = 1  # checks that only remember; with 0 the first compares with the untrained network
    patience: int = 1  # plateaus in a row that it takes
    mode: Literal["one_way", "hysteresis"] = "one_way"  # hysteresis: back to low if the signal moves by 5 gaps
    max_wait: int | None = None  # env steps after which to switch anyway

    def __post_init__(self) -> None:
        for key in ("check_period", "window", "patience"):
            require(getattr(self, key) >= 1, f"ratio.{key}", getattr(self, key), "1 or more")
        require(self.window <= self.check_period, "ratio.window", self.window, "at most ratio.check_period")
        require(0 <= self.gap < math.inf, "ratio.gap", self.gap, "0 or more")
        require(self.warmup_checks >= 0, "ratio.warmup_checks", self.warmup_checks, "0 or more")
        require(self.max_wait is None or self.max_wait >= 0, "ratio.max_wait", self.max_wait, "0 or more, or null")


class AdaptiveReplayRatio:
    """Low until the fraction of active units (FAU) of the critic stands still, then high.

    FAU is element-wise: the share of positive activations on the training batches, summed on the device and read at
    checks only; two probes of a few hundred states differ by more than the gap. The test is on the change between two
    checks, not on the level, as in the official code.

    Deviates from that code: env steps are counted, not episodes (several environments end together, and Atari's
    episodes differ in length); by default the first check only remembers.
    """

    def __init__(self, low: Fraction, config: AdaptiveConfig, agent: MonitoredAgent) -> None:
        require(config.high > low, "ratio.high", config.high, f"above replay_ratio, which is {low}")
        graph = agent.unit_graph()
        networks = list(dict.fromkeys(layer.name.partition(".")[0] for layer in graph.layers))
        network = config.network or next((name for name in ("critic", "online") if name in networks), networks[0])
        require(network in networks, "ratio.network", network, f"one of {', '.join(networks)}")
        if config.signal == "fau":
            _check_exact_zeros(agent, graph, network)
        self._config, self._network, self._low, self._ratio = config, network, low, low
        self._watch = _FractionOfActiveUnits(network)
        self.observer: Observer | None = self._watch if config.signal == "fau" else None
        self._last: float | None = None  # the signal at the last check
        self._probed: float | None = None  # the signal of the last probe
        self._checks = self._plateaus = 0
        self._env_steps = 0  # at the last question
        self._events: list[LedgerEvent] = []

    def ratio(self, progress: Progress) -> Fraction:
        """The ratio that holds after `progress`; asked once after every lockstep of the environments."""
        before, self._env_steps = self._env_steps, progress.env_steps
        period, window = self._config.check_period, self._config.window
        if _passed(before, self._env_steps, period, 0):
            self._check(progress)
        elif _passed(before, self._env_steps, period, period - window):
            self._watch.clear()  # the window begins
        return self._ratio

    def measured(self, measurement: Measurement) -> None:
        """A probe was taken."""
        if self._config.signal == "dormant":
            self._probed = measurement.dormant_fraction(0.1, network=self._network)
        elif self._config.signal == "srank":
            rank = measurement.mean_metric("srank", self._network)  # light probes have none
            self._probed = self._probed if rank is None else rank

    def _check(self, progress: Progress) -> None:
        config = self._config
        signal = self._watch.read() if config.signal == "fau" else self._probed
        if signal is None:
            return  # no gradient step in the window, or no probe yet
        self._checks += 1
        last, self._last = self._watch.first if self._last is None else self._last, signal
        old = self._ratio
        if last is not None and self._checks > config.warmup_checks:
            still = abs(signal - last) <= config.gap
            self._plateaus = self._plateaus + 1 if still else 0
            waited = config.max_wait is not None and progress.env_steps >= config.max_wait
            if self._ratio == self._low and (self._plateaus >= config.patience or waited):
                self._ratio = config.high
            elif self._ratio != self._low and config.mode == "hysteresis" and _worse(signal, last, config):
                self._ratio, self._plateaus = self._low, 0
        kind = "replay_ratio_check" if old == self._ratio else "replay_ratio"
        where = {"check": self._checks, "signal": config.signal, "network": self._network}
        decision = {"value": signal, "last": last, "gap": config.gap, "old": str(old), "new": str(self._ratio)}
        self._events.append(LedgerEvent(kind, where | decision))

    def events(self) -> list[LedgerEvent]:
        """Checks and decisions since the last call. What counts gradient steps comes more often after a switch."""
        events, self._events = self._events, []
        return events

    def state_dict(self) -> State:
        """Everything that moves."""
        return {
            "ratio": str(self._ratio),
            "last": self._last,
            "probed": self._probed,
            "checks": self._checks,
            "plateaus": self._plateaus,
            "env_steps": self._env_steps,
            "watch": self._watch.state_dict(),
        }

    def load_state_dict(self, state: State) -> None:
        """Continue a stored one."""
        self._ratio, self._last, self._probed = Fraction(state["ratio"]), state["last"], state["probed"]
        self._checks, self._plateaus, self._env_steps = state["checks"], state["plateaus"], state["env_steps"]
        self._watch.load_state_dict(state["watch"])


def _worse(signal: float, last: float, config: AdaptiveConfig) -> bool:
    """Whether plasticity has visibly gone down: fewer active units, a lower rank, or more dormant units."""
    fall = signal - last if config.signal == "dormant" else last - signal
    return fall > 5 * config.gap


def _passed(before: int, now: int, period: int, offset: int) -> bool:
    """Whether a number k period + offset, above 0, lies in (before, now]."""
    return (now - offset) // period > (before - offset) // period and now >= max(offset, 1)


def _check_exact_zeros(agent: MonitoredAgent, graph: UnitGraph, network: str) -> None:
    for layer in graph.layers:
        if not layer.name.startswith(f"{network}."):
            continue
        function = layer.function or agent.networks.get_submodule(layer.activation)
        with torch.no_grad():
            zero = bool((function(torch.tensor([[-1.0, -2.0]])) == 0).any())
        require(zero, "ratio.signal", "fau", f"dormant or srank: the activation of {layer.name} is never exactly 0")
        one = layer.halves == 1  # of the two halves of CReLU one is always active: the fraction is 1/2 for ever
        require(one, "ratio.signal", "fau", f"dormant or srank: half of what {layer.name} returns is always active")


class _FractionOfActiveUnits:
    """Positive activations over all activations of one network, over the updates since `clear`."""

    def __init__(self, network: str) -> None:
        self._network = network
        self._active: Tensor | None = None  # int64, stays on the device
        self._elements = 0
        self._first: tuple[Tensor, int] | None = None  # of the very first update

    @property
    def first(self) -> float | None:
        """The fraction in the very first update."""
        return None if self._first is None else int(self._first[0]) / self._first[1]

    def activation(self, layer: str, value: Tensor) -> None:
        """Counts the layers of its network."""
        if not layer.startswith(f"{self._network}."):
            return
        active = torch.count_nonzero(value > 0)
        self._active = active if self._active is None else self._active + active
        self._elements += value.numel()

    def gradients(self, networks: nn.ModuleDict, loss: str) -> None:
        """The end of an update's forward passes."""
        if self._first is None and self._active is not None:
            self._first = self._active, self._elements

    def clear(self) -> None:
        """Forget what has been counted."""
        self._active, self._elements = None, 0

    def read(self) -> float | None:
        """The fraction, or None if nothing was seen; starts anew."""
        active, elements = self._active, self._elements
        self.clear()
        return None if active is None else int(active) / elements

    def state_dict(self) -> State:
        """The counts."""
        first = None if self._first is None else [int(self._first[0]), self._first[1]]
        return {
            "active": None if self._active is None else int(self._active),
            "elements": self._elements,
            "first": first,
        }

    def load_state_dict(self, state: State) -> None:
        """Continue stored counts."""
        self._active = None if state["active"] is None else torch.tensor(state["active"])
        self._elements = state["elements"]
        self._first = None if state["first"] is None else (torch.tensor(state["first"][0]), state["first"][1])


@dataclass(frozen=True)
class ReplayRatioKind:
    """A line of the registry."""

    summary: str
    build: Callable[[Fraction, Any, MonitoredAgent], ReplayRatio]  # (replay_ratio, its settings, agent)
    config: type[Any]


REPLAY_RATIOS = {
    "constant": ReplayRatioKind(
        "replay_ratio from start to end", lambda value, _config, _agent: ConstantReplayRatio(value), ConstantConfig
    ),
    "scheduled": ReplayRatioKind(
        "follows the env steps", lambda value, config, _agent: ScheduledReplayRatio(value, config), ScheduledConfig
    ),
    "adaptive": ReplayRatioKind(
        "low until the fraction of active units stands still, then high", AdaptiveReplayRatio, AdaptiveConfig
    ),
}


def find(name: str) -> ReplayRatioKind:
    """The line of `name`. Raises ConfigError with the nearest and all names."""
    return look_up(
        REPLAY_RATIOS, name, "replay ratio", fix="--plasticity.replay_ratio constant", see="docs/plasticity.md"
    )


class UpdateSchedule:
    """Turns a ratio into whole gradient steps without ever losing a fraction.

    Steps before `learning_starts` do not fill the account: no burst of updates after the warm-up.
    """

    def __init__(self, learning_starts: int) -> None:
        self._learning_starts = learning_starts
        self._owed = Fraction(0)

    def due(self, env_steps: int, added: int, ratio: Fraction) -> int:
        """Gradient steps to take after `added` env steps have brought the run to `env_steps`."""
        self._owed += ratio * max(0, min(added, env_steps - self._learning_starts))
        whole = int(self._owed)
        self._owed -= whole
        return whole

    def wait_until(self, env_steps: int) -> None:
        """No gradient step before `env_steps`: for a run that goes on with an empty replay."""
        self._learning_starts, self._owed = env_steps, Fraction(0)

    def state_dict(self) -> State:
        """The fraction still owed, and when learning starts."""
        return {"owed": str(self._owed), "learning_starts": self._learning_starts}

    def load_state_dict(self, state: State) -> None:
        """Continue a stored account."""
        self._owed, self._learning_starts = Fraction(state["owed"]), state["learning_starts"]
