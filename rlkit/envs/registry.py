"""From an id to an environment: `ALE/Pong-v5`, `dmc/walker-walk`, `gym/CartPole-v1`, `tiny/pixels`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, Literal

from rlkit.core.errors import ConfigError, nearest
from rlkit.core.seeding import SeedTree
from rlkit.envs.protocols import AtariProtocol, find_protocol
from rlkit.envs.spec import EnvSpec, VectorEnv

FAMILIES: dict[str, Literal["atari", "dmc", "gym", "tiny"]] = {
    "ALE": "atari",
    "dmc": "dmc",
    "gym": "gym",
    "tiny": "tiny",
}

# Known by name, because making one of each to look at its actions takes seconds.
_CONTINUOUS_GYM = ("Pendulum", "MountainCarContinuous", "LunarLanderContinuous", "BipedalWalker", "CarRacing")


def family_of(env_id: str) -> Literal["atari", "dmc", "gym", "tiny"]:
    """The family of an id. Raises ConfigError with the nearest id."""
    namespace, _, rest = env_id.partition("/")
    if namespace in FAMILIES and rest:
        return FAMILIES[namespace]
    known = [row[0] for row in list_envs()]
    raise ConfigError(
        f"unknown environment {env_id!r}" if env_id else "no environment is given",
        why=f"ids begin with ALE/, dmc/, gym/ or tiny/.{nearest(env_id, known) or _by_name(env_id, known)}",
        fix="--env ID; `rlkit envs WORD` lists the ids that hold a word",
        see="docs/environments.md",
    )


def _by_name(env_id: str, known: list[str]) -> str:
    """People type `Pong` or `walker-walk`."""
    matches = [k for k in known if env_id and env_id.lower() in k.lower()]
    return f" Did you mean {matches[0]!r}?" if matches else ""


def list_envs(word: str = "") -> list[tuple[str, str, str]]:
    """(id, kind of actions, default protocol) of all environments whose id holds `word`."""
    import gymnasium as gym

    from rlkit.envs import atari, dmc, tiny

    rows = [(game, "discrete", "machado") for game in atari.games()]
    rows += [(task, "continuous", "action repeat 2") for task in dmc.task_ids()]
    for gym_id, entry in gym.registry.items():
        point = str(entry.entry_point)
        if point.startswith("gymnasium.envs.mujoco") or gym_id.startswith(_CONTINUOUS_GYM):
            rows.append((f"gym/{gym_id}", "continuous", "its own"))
        elif point.startswith(("gymnasium.envs.classic_control", "gymnasium.envs.box2d")):
            rows.append((f"gym/{gym_id}", "discrete", "its own"))
    rows += [(f"tiny/{name}", _kind(tiny.spaces(name)[1]), "a probe with known values") for name in tiny.NAMES]
    return [row for row in rows if word.lower() in row[0].lower()]


def _kind(space: Any) -> str:
    import gymnasium as gym

    return "discrete" if isinstance(space, gym.spaces.Discrete) else "continuous"


def make(
    env_id: str,
    *,
    seeds: SeedTree,
    name: str = "env",
    num_envs: int = 1,
    protocol: str | None = None,
    backend: Literal["exact", "fast"] = "exact",
    observation: Literal["state", "pixels"] = "state",
    action_repeat: int | None = None,
    workers: int = 0,
    stack: int | None = None,
    sticky: float | None = None,
    full_action_space: bool = False,
    episode_cap: int | None = None,
    render: bool = False,
) -> VectorEnv:
    """E environments; environment i is seeded by child (`name`, i) of the run. None = the protocol's or family's value.

    Raises ConfigError for an unknown id and for an option that the family does not have.
    """
    family = family_of(env_id)
    least = {"num_envs": 1, "workers": 0, "action_repeat": 1, "stack": 1, "episode_cap": 1}
    values = {
        "num_envs": num_envs,
        "workers": workers,
        "action_repeat": action_repeat,
        "stack": stack,
        "episode_cap": episode_cap,
    }
    for key, value in values.items():
        _allow(key, value, value is None or value >= least[key], f"an integer, {least[key]} or more", least[key])
    _allow("sticky", sticky, sticky is None or 0.0 <= sticky <= 1.0, "a probability, 0 to 1", 0.25)
    _allow("backend", backend, backend in ("exact", "fast"), "exact, fast", "exact")
    _allow("observation", observation, observation in ("state", "pixels"), "state, pixels", "state")
    atari_only = {"protocol": protocol, "sticky": sticky, "episode_cap": episode_cap}
    given = [key for key, value in atari_only.items() if value is not None]
    given += ["full_action_space"] if full_action_space else []
    given += ["backend"] if backend != "exact" else []
    if family != "atari":
        _refuse(env_id, given, "an option of Atari games")
    if observation == "pixels" and family == "dmc":
        raise ConfigError(
            "DeepMind Control from pixels is not in this version",
            why="agents for it come later",
            fix="--env.observation state",
        )
    _refuse(env_id, ["observation"] if observation == "pixels" else [], "an option of DeepMind Control")
    if family == "atari":
        changes: dict[str, Any] = {
            "frame_skip": action_repeat,
            "stack": stack,
            "sticky": sticky,
            "episode_cap": episode_cap,
            "full_action_space": full_action_space or None,
        }
        base = find_protocol(protocol or "machado")
        settings = replace(base, **{key: value for key, value in changes.items() if value is not None})
        return _make_atari(env_id, settings, backend, num_envs, seeds, name, workers)
    if family == "dmc":
        from rlkit.envs.dmc import make_dmc

        _refuse(env_id, ["stack"] if stack not in (None, 1) else [], "for pixel observations")
        return make_dmc(
            env_id,
            num_envs=num_envs,
            seeds=seeds,
            name=name,
            action_repeat=2 if action_repeat is None else action_repeat,
            workers=workers,
            render=render,
        )
    if family == "gym":
        from rlkit.envs.gym import make_gym

        return make_gym(
            env_id,
            num_envs=num_envs,
            seeds=seeds,
            name=name,
            action_repeat=1 if action_repeat is None else action_repeat,
            stack=1 if stack is None else stack,
            workers=workers,
            render=render,
        )
    _refuse(env_id, ["action_repeat"] if action_repeat not in (None, 1) else [], "not an option of probe environments")
    return _make_tiny(env_id, seeds, name, num_envs, workers, 1 if stack is None else stack)


def _allow(key: str, value: object, holds: bool, allowed: str, example: object) -> None:
    if not holds:
        raise ConfigError(f"env.{key} is {value}", why=f"allowed: {allowed}", fix=f"--env.{key} {example}")


def _refuse(env_id: str, keys: list[str], what: str) -> None:
    if keys:
        raise ConfigError(
            f"env.{keys[0]} does not fit {env_id}",
            why=f"it is {what}",
            fix=f"leave out --env.{keys[0]}",
            see="docs/environments.md",
        )


def _make_atari(
    env_id: str, protocol: AtariProtocol, backend: str, num_envs: int, seeds: SeedTree, name: str, workers: int
) -> VectorEnv:
    from rlkit.envs.atari import AtariFast, make_exact

    if backend == "fast":
        return AtariFast(env_id, protocol, num_envs, seeds, name, workers)
    return make_exact(env_id, protocol, num_envs, seeds, name, workers)


def _make_tiny(env_id: str, seeds: SeedTree, name: str, num_envs: int, workers: int, stack: int) -> VectorEnv:
    from rlkit.envs import tiny
    from rlkit.envs.lockstep import LockstepVector

    probe = env_id.removeprefix("tiny/")
    if probe not in tiny.NAMES:
        raise ConfigError(
            f"unknown probe environment {env_id!r}",
            why=f"there are {', '.join(tiny.NAMES)}.{nearest(probe, tiny.NAMES)}",
            fix="rlkit envs tiny lists them",
        )
    space, action_space = tiny.spaces(probe)
    cap = tiny.EPISODE_CAPS.get(probe)
    spec = EnvSpec(env_id, "tiny", space, action_space, num_envs, 1, stack, "zero", cap, True, {"name": "tiny"})
    makers = [partial(tiny.make_tiny, probe, seeds.sequence(name, i)) for i in range(num_envs)]
    return LockstepVector(spec, makers, workers)
