"""What a user may say about the networks."""

from __future__ import annotations

from dataclasses import dataclass

from rlkit.core.errors import ConfigError


@dataclass(frozen=True)
class NetworkConfig:
    """Shape of the networks; which torso is used follows from the observation."""

    hidden: tuple[int, ...] = (256, 256)  # units of the fully connected layers, after the convolutions if there are any
    activation: str = "relu"

    def __post_init__(self) -> None:
        if not self.hidden or not all(units > 0 for units in self.hidden):
            raise ConfigError(
                f"network.hidden is {list(self.hidden)}",
                why="there is at least one hidden layer, and every one needs at least one unit",
                fix="give positive sizes, for example '[256, 256]'",
            )
