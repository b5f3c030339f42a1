"""What a user may say about the networks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from rlkit.core.errors import ConfigError, require

Init = Literal["fan_in", "xavier"]


@dataclass(frozen=True)
class NetworkConfig:
    """Shape of the networks; which torso is used follows from the observation."""

    hidden: tuple[int, ...] = (256, 256)  # units of the fully connected layers, after the convolutions if there are any
    activation: str = "relu"  # crelu and fourier double what the next layer reads; halve `hidden` to keep the size
    first_activation: str | None = None  # of the first fully connected layer alone; null = as in the others
    init: Init = "fan_in"  # weights and biases uniform in 1 / sqrt(inputs); xavier: Glorot's bound, biases 0
    layer_norm: bool = False  # before each activation: over the units, in convolutions over channels and positions
    fourier_features: int = 0  # learned frequencies of a state input, two features each; 0 = the state itself
    fourier_scale: float = 0.01  # standard deviation of the initial frequencies, cycles per unit of the state: tune it

    def __post_init__(self) -> None:
        if not self.hidden or not all(units > 0 for units in self.hidden):
            raise ConfigError(
                f"network.hidden is {list(self.hidden)}",
                why="there is at least one hidden layer, and every one needs at least one unit",
                fix="give positive sizes, for example '[256, 256]'",
            )
        require(self.fourier_features >= 0, "network.fourier_features", self.fourier_features, "0 or more")
        require(0 < self.fourier_scale < math.inf, "network.fourier_scale", self.fourier_scale, "above 0")
