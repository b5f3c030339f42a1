"""From an observation to features, and the fully connected layers behind it."""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from dataclasses import replace

import torch
from torch import Tensor, nn

from rlkit.core.errors import ConfigError
from rlkit.nn.activations import network_activation, outputs_per_unit
from rlkit.nn.config import NetworkConfig
from rlkit.nn.ensemble import EnsembleLayerNorm, EnsembleLinear
from rlkit.nn.fourier import FourierFeatures
from rlkit.nn.init import convolution, linear
from rlkit.nn.learnable import settle_activations

# (output channels, kernel, stride) of each convolution, none padded.
_NATURE = ((32, 8, 4), (64, 4, 2), (64, 3, 1))  # Mnih et al. 2015 (doi:10.1038/nature14236), "Model architecture"
_SMALL = ((16, 3, 1),)  # Young and Tian 2019 (arXiv:1903.03176), for the 10x10 images of MinAtar
_NATURE_MIN_SIDE = 36  # the smallest side that leaves one position after the third convolution


def as_float(observation: Tensor) -> Tensor:
    """Bytes -> float32 x / 255, images [B, C, H, W] in channels-last memory; float32 comes back as it is.

    Convert once when two networks read the same batch: of a DQN update it is about a tenth.
    """
    if observation.dtype == torch.float32:
        return observation
    layout = torch.channels_last if observation.dim() == 4 else torch.contiguous_format
    return observation.to(torch.float32, memory_format=layout).mul_(1 / 255)


class VectorTorso(nn.Module):
    """Any observation [B, *obs] as floats [B, features]."""

    def forward(self, observation: Tensor) -> Tensor:
        """No parameters: flattens."""
        return as_float(observation).reshape(len(observation), -1)


class ConvTorso(nn.Sequential):
    """Children conv1, [norm1,] act1, conv2, ...: images [B, C, H, W] -> [B, channels x positions], channel by channel.

    A norm is over channels and positions of one image, with a weight and a bias for each channel.
    """

    def __init__(
        self, channels: int, layers: tuple[tuple[int, int, int], ...], network: NetworkConfig, rng: torch.Generator
    ) -> None:
        modules: OrderedDict[str, nn.Module] = OrderedDict()
        for number, (outputs, kernel, stride) in enumerate(layers, start=1):
            modules[f"conv{number}"] = convolution(channels, outputs, kernel, stride, rng, network.init)
            if network.layer_norm:
                modules[f"norm{number}"] = nn.GroupNorm(1, outputs)
            modules[f"act{number}"] = activation = network_activation(network, rng, axis=-3)
            channels = outputs * outputs_per_unit(activation)
        super().__init__(modules)
        self.channels = channels  # that it returns
        # oneDNN's weight gradient of the first layer is 2.5 times as fast in this layout.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, observation: Tensor) -> Tensor:
        """uint8 in 0..255, or float32 already in 0..1."""
        features = as_float(observation)
        for layer in self:
            features = layer(features)
        return features.flatten(1)


def _positions(shape: tuple[int, ...], layers: tuple[tuple[int, int, int], ...]) -> int:
    _, height, width = shape
    for _, kernel, stride in layers:
        height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
    return height * width


def make_torso(shape: tuple[int, ...], network: NetworkConfig, rng: torch.Generator) -> tuple[nn.Module, int]:
    """The torso for observations of `shape` without batch, and its number of features.

    [C, H, W]: the Nature convolutions from 36x36 on, one 3x3 convolution for smaller images. Else: flattened.
    """
    if len(shape) != 3:
        return VectorTorso(), math.prod(shape)
    side = min(shape[1:])
    if side < 3:
        raise ConfigError(
            f"an image observation of shape {list(shape)} is too small",
            why=f"images are [channels, height, width]: at least 3x3 for one convolution, {_NATURE_MIN_SIDE}x"
            f"{_NATURE_MIN_SIDE} for the Nature network",
            fix="put the channels first, or flatten the observation to a vector",
        )
    if network.fourier_features:
        raise ConfigError(
            f"network.fourier_features is {network.fourier_features} for images of shape {list(shape)}",
            why="learned Fourier features replace the input of fully connected layers: they are for states",
            fix="--network.fourier_features 0",
        )
    layers = _NATURE if side >= _NATURE_MIN_SIDE else _SMALL
    torso = ConvTorso(shape[0], layers, network, rng)
    return torso, torso.channels * _positions(shape, layers)


def make_trunk(
    inputs: int, network: NetworkConfig, rng: torch.Generator, copies: int | None = None
) -> tuple[nn.Sequential, int]:
    """Children [fourier,] 0 (layer), [norm0,] 1 (activation), 2 (layer), ...; with the number of features it returns.

    Layers are called the same with and without a norm. `copies`: batched copies of each, [copies, B, features].
    """
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    if network.fourier_features:
        modules["fourier"] = FourierFeatures(inputs, network.fourier_features, network.fourier_scale, rng, copies)
        inputs = 2 * network.fourier_features
    for number, units in zip(itertools.count(0, 2), network.hidden):
        modules[f"{number}"] = (
            linear(inputs, units, rng, network.init)
            if copies is None
            else EnsembleLinear(copies, inputs, units, rng, network.init)
        )
        if network.layer_norm:
            modules[f"norm{number}"] = nn.LayerNorm(units) if copies is None else EnsembleLayerNorm(copies, units)
        asked = network
        if number == 0 and network.first_activation is not None:
            asked = replace(network, activation=network.first_activation)
        modules[f"{number + 1}"] = activation = network_activation(asked, rng, copies=copies)
        inputs = units * outputs_per_unit(activation)
    return nn.Sequential(modules), inputs


class QNetwork(nn.Module):
    """Observations [B, *obs] -> action values [B, A]: torso, trunk, linear head."""

    def __init__(self, shape: tuple[int, ...], actions: int, network: NetworkConfig, rng: torch.Generator) -> None:
        super().__init__()
        self.torso, features = make_torso(shape, network, rng)
        self.trunk, features = make_trunk(features, network, rng)
        self.head = linear(features, actions, rng, network.init)
        settle_activations(self, network)

    def forward(self, observation: Tensor) -> Tensor:
        """Values in the units of the n-step return."""
        values: Tensor = self.head(self.trunk(self.torso(observation)))
        return values
