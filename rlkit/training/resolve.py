"""From a name and some flags to every setting of a run.

Later wins: the algorithm's dataclass, the environment family's defaults, AGENT.yaml (its `when` section for the family
last), `--preset`, `--config FILE`, flags.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlkit.agents.registry import find, names
from rlkit.configs.parse import Layer, Setting, build, difference, flag_layer, read_file
from rlkit.configs.schema import PlasticityConfig, ReplayConfig, RunConfig
from rlkit.configs.shipped import read_named
from rlkit.core.errors import ConfigError, ResumeError
from rlkit.envs.registry import family_of
from rlkit.plasticity import interventions, replay_ratio
from rlkit.replay import samplers

_SHORT = {"env": "env.id"}
_CURES = "plasticity.interventions"


def resolve(
    agent: str,
    env_id: str,
    *,
    preset: str | None = None,
    config_file: Path | None = None,
    flags: Mapping[str, Any] = {},
) -> RunConfig:
    """All settings of `agent` on `env_id`. Raises ConfigError for anything unknown."""
    return resolve_with_origins(agent, env_id, preset=preset, config_file=config_file, flags=flags)[0]


def resolve_with_origins(
    agent: str,
    env_id: str,
    *,
    preset: str | None = None,
    config_file: Path | None = None,
    flags: Mapping[str, Any] = {},
) -> tuple[RunConfig, dict[str, str]]:
    """The settings, and for each key where its value comes from (absent: the dataclass)."""
    family = family_of(env_id)
    layers: list[Layer] = [read_named("families", family), _agent_layer(agent, family)]
    if preset is not None:
        layers.append(_for_family(read_named("presets", preset), family))
    if config_file is not None:
        layers.append(read_file(config_file))
    chosen = {"name": Setting(agent, "AGENT"), "env.id": Setting(env_id, "--env")}
    layers += [flag_layer({_SHORT.get(key, key): value for key, value in flags.items()}), chosen]
    config = _build(layers)
    return config, {key: setting.origin for layer in layers for key, setting in layer.items()}


def load_config(path: Path) -> RunConfig:
    """The settings in the config.yaml of a run folder."""
    return _build([read_file(path)])


def with_flags(path: Path, flags: Mapping[str, Any]) -> RunConfig:
    """The settings of a run folder's config.yaml with `flags` over them."""
    return _build([read_file(path), flag_layer(flags)])


def _build(layers: list[Layer]) -> RunConfig:
    """The settings of `layers`; what they name (algorithm, sampler, ...) says which dataclasses those parts have."""
    algorithm = find(_last(layers, "algorithm"))
    sampler = samplers.find(str(_last(layers, "replay.sampler", ReplayConfig.sampler)))
    ratio = replay_ratio.find(str(_last(layers, "plasticity.replay_ratio", PlasticityConfig.replay_ratio)))
    chosen = _last(layers, _CURES, PlasticityConfig.interventions)
    cures = tuple(str(name) for name in chosen) if isinstance(chosen, list | tuple) else ()
    layers = _without_dropped(layers, cures)
    parts = {
        "agent": algorithm.config,
        "network": algorithm.network,
        "sampler": sampler.config,
        "intervention": _settings_of(cures),
        "ratio": ratio.config,
    }
    return build(RunConfig, layers, parts)


def _without_dropped(layers: list[Layer], cures: tuple[str, ...]) -> list[Layer]:
    """`layers` without the settings of cures that a later layer has left out: they go with them."""
    choosing = max((i for i, layer in enumerate(layers) if _CURES in layer), default=0)

    def is_dropped(key: str) -> bool:
        group, _, rest = key.partition(".")
        return group == "intervention" and rest.partition(".")[0] not in cures

    earlier = [{key: s for key, s in layer.items() if not is_dropped(key)} for layer in layers[:choosing]]
    return [*earlier, *layers[choosing:]]


@functools.cache  # two configs are equal only if their parts are of the same class
def _settings_of(cures: tuple[str, ...]) -> type[Any]:
    """A dataclass with a field for each intervention, of that one's settings."""
    fields = [(name, interventions.find(name).config) for name in dict.fromkeys(cures)]
    return dataclasses.make_dataclass("Interventions", fields, frozen=True)


def _last(layers: list[Layer], key: str, default: Any = None) -> Any:
    return next((layer[key].value for layer in reversed(layers) if key in layer), default)


# What a resumed run may change without becoming another run.
_SAFE = (
    "env_steps",
    "threads",
    "logging.",
    "evaluation.",
    "checkpoint.",
    "plasticity.monitor",
    "plasticity.period",
    "plasticity.full_every",
    "replay.storage",
    "replay.directory",
)


def check_resume(old: RunConfig, new: RunConfig, *, allow_all: bool) -> list[tuple[str, Any, Any]]:
    """The settings that change, (key, old, new). Raises ResumeError if one of them would make another run."""
    changes = difference(old, new)
    refused = [change for change in changes if not change[0].startswith(_SAFE)]
    safe = [change for change in changes if change not in refused]
    if refused and not allow_all:
        raise ResumeError(
            "these settings cannot change in a run: " + ", ".join(f"{key} {a} -> {b}" for key, a, b in refused),
            why="what follows would not be the run that was stopped"
            + (f"; safe to change: {', '.join(f'{key} {a} -> {b}' for key, a, b in safe)}" if safe else ""),
            fix="leave them out, or add --fork to go on in a copy",
            see="docs/run_folder.md",
        )
    return changes


def _agent_layer(agent: str, family: str) -> dict[str, Setting]:
    layer = _for_family(read_named("", agent), family)
    based_on = layer.pop("based_on", None)
    if based_on is not None:
        layer = _agent_layer(based_on.value, family) | layer
    if "algorithm" not in layer:
        raise ConfigError(
            f"configs/{agent}.yaml names no algorithm",
            why=f"there are: {', '.join(names())}",
            fix="add `algorithm: NAME`",
        )
    return layer


def _for_family(layer: dict[str, Setting], family: str) -> dict[str, Setting]:
    """The settings for every family, overridden by those below `when.<family>`."""
    common = {key: setting for key, setting in layer.items() if not key.startswith("when.")}
    prefix = f"when.{family}."
    return common | {key.removeprefix(prefix): s for key, s in layer.items() if key.startswith(prefix)}
