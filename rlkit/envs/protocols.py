"""Atari evaluation protocols with every setting explicit (Machado et al. 2018, arXiv:1709.06009; Mnih et al. 2015)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rlkit.core.errors import ConfigError, nearest


@dataclass(frozen=True)
class AtariProtocol:
    """How a game is played and how its episodes end. Settings that are the same in every protocol cannot be changed."""

    name: str
    sticky: float  # probability, per frame, that the previous executed action is repeated
    noop_min: int  # no-ops at the start of an episode, uniform in noop_min..noop_max
    noop_max: int
    life_loss: Literal["ignore", "terminate"]  # "terminate" sets terminated without a reset
    fire_reset: bool = field(default=False, init=False)
    frame_skip: int = 4
    max_last_two_frames: bool = field(default=True, init=False)
    colour: str = field(default="ALE palette luminance, before the maximum", init=False)
    resize: str = field(default="area, 84x84", init=False)
    stack: int = 4
    stack_padding: Literal["zero", "repeat"] = "zero"
    full_action_space: bool = False
    episode_cap: int = 108_000  # frames
    deviates: str = ""  # from the setting that the name stands for

    def record(self) -> dict[str, Any]:
        """All settings, for the run folder."""
        return asdict(self)


PROTOCOLS = {
    "machado": AtariProtocol(
        "machado",
        sticky=0.25,
        noop_min=0,
        noop_max=0,
        life_loss="ignore",
        deviates="minimal action set instead of all 18 actions (--env.full_action_space true)",
    ),
    "atari100k": AtariProtocol("atari100k", sticky=0.0, noop_min=1, noop_max=30, life_loss="terminate"),
    "nature": AtariProtocol(
        "nature",
        sticky=0.0,
        noop_min=1,
        noop_max=30,
        life_loss="terminate",
        deviates="luminance before the maximum and area resize, where DQN Zoo takes the maximum over RGB and resizes "
        "bilinearly; zero frames before the first instead of after it",
    ),
}


def find_protocol(name: str) -> AtariProtocol:
    """The protocol called `name`. Raises ConfigError with the nearest and all names."""
    if name not in PROTOCOLS:
        raise ConfigError(
            f"unknown Atari protocol {name!r}",
            why=f"there are {', '.join(PROTOCOLS)}.{nearest(name, PROTOCOLS)}",
            fix=f"--env.protocol {next(iter(PROTOCOLS))}",
            see="docs/environments.md",
        )
    return PROTOCOLS[name]
