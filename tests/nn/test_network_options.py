"""Layer normalisation, doubling activations and Fourier features: formulas, and unit graphs that hold."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from rlkit.agents.dqn import DQN
from rlkit.core.errors import ConfigError
from rlkit.nn.activations import make_activation, outputs_per_unit
from rlkit.nn.config import NetworkConfig
from rlkit.nn.ensemble import EnsembleLayerNorm, EnsembleLinear
from rlkit.nn.fourier import FourierFeatures
from rlkit.nn.init import convolution, linear
from rlkit.nn.torsos import ConvTorso, QNetwork, make_trunk
from rlkit.plasticity.unit_graph import check_graph
from tests.agents.helpers import FEATURES, batch, learn, make_dqn, make_sac, same, weights

SMALL, NATURE = (4, 10, 10), (2, 40, 40)
AGENTS = {
    "dqn": (make_dqn, (FEATURES,)),
    "dqn-small-images": (lambda **k: make_dqn(SMALL, **k), SMALL),
    "dqn-nature": (lambda **k: make_dqn(NATURE, **k), NATURE),
    "sac": (make_sac, (FEATURES,)),
}
OPTIONS = {
    "layer_norm": {"layer_norm": True},
    "crelu": {"activation": "crelu"},
    "fourier": {"activation": "fourier"},
    "crelu, layer_norm": {"activation": "crelu", "layer_norm": True},
    "first_activation": {"first_activation": "elu"},
    "xavier": {"init": "xavier"},
    "fourier_features": {"fourier_features": 5, "fourier_scale": 0.3, "layer_norm": True},
}
CASES = [
    pytest.param(make, shape, option, id=f"{agent}-{name}")
    for agent, (make, shape) in AGENTS.items()
    for name, option in OPTIONS.items()
    if "fourier_features" not in option or len(shape) == 1
]


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def test_crelu_golden():  # x = -1.3 with gradient (2, 3): (0, 1.3), and -3 comes back
    x = torch.tensor([[-1.3, 0.5]], requires_grad=True)
    y = make_activation("crelu")(x)
    torch.testing.assert_close(y, torch.tensor([[0.0, 0.5, 1.3, 0.0]]))
    y.backward(torch.tensor([[2.0, 7.0, 3.0, 11.0]]))
    torch.testing.assert_close(x.grad, torch.tensor([[-3.0, 7.0]]))


def test_fourier_golden():
    y = make_activation("fourier")(torch.tensor([[0.0, math.pi / 2]]))
    torch.testing.assert_close(y, torch.tensor([[0.0, 1.0, 1.0, 0.0]]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["crelu", "fourier"])
def test_images_are_doubled_along_their_channels(name):
    x = torch.randn(2, 3, 4, 5, generator=rng())
    y = make_activation(name, axis=-3)(x)
    assert y.shape == (2, 6, 4, 5)
    torch.testing.assert_close(y[:, :, 1, 2], make_activation(name)(x[:, :, 1, 2]))
    assert outputs_per_unit(make_activation(name)) == 2
    assert outputs_per_unit(make_activation("relu")) == 1


def test_ensemble_layer_norm_equals_separate_ones():
    norm, x = EnsembleLayerNorm(3, 5), 4 + 3 * torch.randn(3, 7, 5, generator=rng())
    assert norm.weight.shape == norm.bias.shape == (3, 1, 5)
    assert torch.equal(norm.weight, torch.ones(3, 1, 5))
    with torch.no_grad():
        norm.weight.normal_(generator=rng(1)), norm.bias.normal_(generator=rng(2))
    for copy in range(3):
        separate = nn.LayerNorm(5)
        with torch.no_grad():
            separate.weight.copy_(norm.weight[copy, 0]), separate.bias.copy_(norm.bias[copy, 0])
        torch.testing.assert_close(norm(x)[copy], separate(x[copy]))
    norm.reset_parameters()
    assert torch.equal(norm.weight, torch.ones(3, 1, 5))
    assert not norm.bias.any()


def test_fourier_features_golden():  # W = (0.25, 0): a quarter of a cycle at x = 1
    layer = FourierFeatures(2, 1, 1.0, rng())
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.25, 0.0]]))
    x = torch.tensor([[1.0, 9.0], [2.0, 9.0]])
    torch.testing.assert_close(layer(x), torch.tensor([[1.0, 0.0], [0.0, -1.0]]), atol=1e-6, rtol=0)
    both = FourierFeatures(2, 4, 0.5, rng(), copies=2)
    assert both(x.expand(2, -1, -1)).shape == (2, 2, 8)
    wide = FourierFeatures(100, 100, 0.5, rng())
    assert wide.weight.std().item() == pytest.approx(0.5, rel=0.03)
    before = wide.weight.clone()
    wide.reset_parameters(rng(3))
    assert not torch.equal(wide.weight, before)


@pytest.mark.parametrize("at_start", [True, False])
def test_xavier_uniform_weights_fill_their_bound(at_start):  # sqrt(6 / (fan_in + fan_out))
    layers = {
        0.1: linear(250, 350, rng(), "xavier"),
        0.2: EnsembleLinear(2, 100, 50, rng(), "xavier"),
        0.05: convolution(200, 400, 2, 1, rng(), "xavier"),
    }
    for bound, layer in layers.items():
        if not at_start:
            before = layer.weight.clone()
            layer.bias.data.fill_(1.0)
            layer.reset_parameters()
            assert not torch.equal(layer.weight, before)
        assert bound * 0.999 < layer.weight.abs().max() <= bound
        assert not layer.bias.any()


def test_only_the_first_layer_has_the_first_activation():
    trunk, _ = make_trunk(3, NetworkConfig(hidden=(4, 5, 6), first_activation="elu"), rng())
    assert [type(layer) for layer in trunk][1::2] == [nn.ELU, nn.ReLU, nn.ReLU]


def test_ensemble_linear_draws_new_weights():
    layer, twin = EnsembleLinear(2, 3, 4, rng()), EnsembleLinear(2, 3, 4, rng(1))
    twin.reset_parameters(rng())
    assert torch.equal(layer.weight, twin.weight)
    assert torch.equal(layer.bias, twin.bias)


@pytest.mark.parametrize(("make", "shape", "option"), CASES)
def test_the_unit_graph_of_every_option_holds(make, shape, option):
    agent = make(network=NetworkConfig(hidden=(8, 6), **option))
    rows = batch(0, discrete=isinstance(agent, DQN), shape=shape)
    check_graph(agent.networks, agent.unit_graph(), forward=lambda: agent.outputs(rows))
    for layer in agent.unit_graph().layers:
        assert (layer.norm is not None) == option.get("layer_norm", False)
        assert layer.halves == len(layer.consumers) == (2 if "activation" in option else 1)
        if layer.norm is not None:
            gamma = agent.networks.get_submodule(layer.norm).weight
            assert gamma.numel() == layer.ensemble * layer.units


def test_a_wrong_offset_of_the_second_half_is_found():
    agent = make_dqn(network=NetworkConfig(hidden=(8, 6), activation="crelu"))
    graph = agent.unit_graph()
    first = graph.layers[0]
    consumers = (first.consumers[0], dataclasses.replace(first.consumers[1], first=7))
    wrong = dataclasses.replace(graph, layers=(dataclasses.replace(first, consumers=consumers), *graph.layers[1:]))
    rows = batch(0, discrete=True)
    with pytest.raises(ConfigError):
        check_graph(agent.networks, wrong, forward=lambda: agent.outputs(rows))


@pytest.mark.parametrize(("make", "shape", "option"), CASES)
def test_every_option_learns_and_resumes(make, shape, option):
    network = NetworkConfig(hidden=(8, 6), **option)
    whole, plain = make(network=network), make()
    learn(whole, 1, shape=shape), learn(plain, 1, shape=shape)
    assert not same(weights(whole), weights(plain))
    state = whole.state_dict()
    before = weights(whole)
    learn(whole, 2, first=1, shape=shape)
    trained = [name for name in before if not name.startswith("target.")]
    assert all(not torch.equal(before[name], weights(whole)[name]) for name in trained)  # norms and frequencies too
    resumed = make(network=network, seed=5)
    resumed.load_state_dict(state)
    learn(resumed, 2, first=1, shape=shape)
    assert same(weights(whole), weights(resumed))


def test_layers_have_the_same_addresses_with_a_norm():
    plain, normalised = make_dqn(SMALL), make_dqn(SMALL, NetworkConfig(hidden=(8, 6), layer_norm=True))
    names = [[layer.name for layer in agent.unit_graph().layers] for agent in (plain, normalised)]
    assert names[0] == names[1] == ["online.torso.conv1", "online.trunk.0", "online.trunk.2"]
    extra = weights(normalised).keys() - weights(plain).keys()
    assert {name.rpartition(".")[0] for name in extra if name.startswith("online.")} == {
        "online.torso.norm1",
        "online.trunk.norm0",
        "online.trunk.norm2",
    }
    assert not weights(plain).keys() - weights(normalised).keys()


def test_convolutions_are_normalised_over_channels_and_positions():
    torso = QNetwork(SMALL, 2, NetworkConfig((8,), layer_norm=True), rng()).torso
    assert isinstance(torso, ConvTorso)
    image = torch.randint(0, 256, (3, *SMALL), generator=rng(1), dtype=torch.uint8)
    h = torso.norm1(torso.conv1(image / 255))
    torch.testing.assert_close(h.flatten(1).mean(1), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(h.flatten(1).std(1, correction=0), torch.ones(3), atol=1e-2, rtol=0)


def test_defaults_add_no_module():
    names = [name for name, _ in QNetwork(SMALL, 2, NetworkConfig((8, 6)), rng()).named_modules()]
    assert names == [
        "",
        "torso", "torso.conv1", "torso.act1",
        "trunk", "trunk.0", "trunk.1", "trunk.2", "trunk.3",
        "head",
    ]  # fmt: skip


def test_fourier_features_of_images_are_refused():
    with pytest.raises(ConfigError, match=r"network\.fourier_features is 4 for images") as caught:
        make_dqn(SMALL, NetworkConfig((8,), fourier_features=4))
    assert "--network.fourier_features 0" in str(caught.value)


@pytest.mark.parametrize(
    "settings", [{"fourier_features": -1}, {"fourier_scale": 0.0}, {"fourier_scale": float("nan")}]
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match=rf"network\.{next(iter(settings))}"):
        NetworkConfig(**settings)
