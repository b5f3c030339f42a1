"""What a user may say about the networks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rlkit.core.errors import ConfigError, require

if TYPE_CHECKING:  # at run time it would import torch where only settings are read
    from rlkit.nn.learnable import Learning
    from rlkit.nn.rational import Form

Init = Literal["fan_in", "xavier"]


@dataclass(frozen=True)
class NetworkConfig:
    """Shape of the networks; which torso is used follows from the observation."""

    hidden: tuple[int, ...] = (256, 256)  # units of the fully connected layers, after the convolutions if there are any
    activation: str = "relu"  # `rlkit activations`; crelu and fourier double what the next layer reads
    first_activation: str | None = None  # of the first fully connected layer alone; null = as in the others
    init: Init = "fan_in"  # weights and biases uniform in 1 / sqrt(inputs); xavier: Glorot's bound, biases 0
    activation_version: Literal["A", "B", "C", "D", "N"] = "A"  # of rationals: which denominator
    activation_degrees: tuple[int, ...] = (5, 4)  # of rationals: of numerator and denominator
    activation_start: str = "leaky_relu"  # of rationals: the activation that they start close to, or a JSON file
    activation_groups: tuple[int, ...] = ()  # numbers of neighbouring activations that share one learned function
    activation_rate_factor: float = 1.0  # learning rate of coefficients over that of the weights; 0 = frozen
    activation_max_grad_norm: float | None = 1.0  # clip of the gradient of each learned function; null = none
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
        degrees, groups, clip = self.activation_degrees, self.activation_groups, self.activation_max_grad_norm
        require(
            len(degrees) == 2 and min(degrees) >= 1,
            "network.activation_degrees",
            list(degrees),
            "two, of numerator and denominator, each 1 or more: '[5, 4]'",
        )
        require(all(size >= 1 for size in groups), "network.activation_groups", list(groups), "sizes of 1 or more")
        factor = self.activation_rate_factor
        require(0 <= factor < math.inf, "network.activation_rate_factor", factor, "0 (frozen) or more")
        require(clip is None or clip > 0, "network.activation_max_grad_norm", clip, "above 0, or null")

    @property
    def activation_form(self) -> Form:
        """Version and degrees of rational activations."""
        from rlkit.nn.rational import Form

        m, n = self.activation_degrees
        return Form(self.activation_version, (m, n))

    @property
    def activation_learning(self) -> Learning:
        """How the coefficients of activations are learned."""
        from rlkit.nn.learnable import Learning

        return Learning(self.activation_rate_factor, self.activation_max_grad_norm)
