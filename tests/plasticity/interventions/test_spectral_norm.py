"""Spectral normalisation: sigma from power iteration, the gradient, which passes move v."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from rlkit.core.errors import ConfigError
from rlkit.nn.config import NetworkConfig
from rlkit.plasticity.interventions.spectral_norm import SpectralNorm, SpectralNormConfig, power_iteration
from rlkit.plasticity.interventions.spectral_norm import spectral_norm as sigma_of
from rlkit.plasticity.surgery import recycle
from tests.agents.helpers import learn as only_learn
from tests.agents.helpers import make_dqn, make_sac, same, weights
from tests.plasticity.interventions.whole import AGENTS, IMAGES, check_resume, measure, progress, rows

every_agent = pytest.mark.parametrize(("make", "shape"), AGENTS.values(), ids=AGENTS)


def attached(agent, layers=1):
    cure = SpectralNorm(SpectralNormConfig(layers))
    cure.attach(agent, np.random.default_rng(0))
    return cure


def test_v13_sigma():
    weight, v = torch.tensor([[1.0, 2.0], [0.0, 1.0]], dtype=torch.float64), torch.tensor([1.0, 0.0]).double()
    for _ in range(30):
        v = power_iteration(weight, v)
    assert sigma_of(weight, v).item() == pytest.approx(2.41421356)
    assert v.norm().item() == pytest.approx(1)


def test_the_gradient_is_u_v():
    weight = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    v = torch.ones(3, dtype=torch.float64)
    for _ in range(200):
        v = power_iteration(weight, v)
    u, singular, right = torch.linalg.svd(weight.detach())
    sigma = sigma_of(weight, v)
    sigma.backward()
    assert sigma.item() == pytest.approx(singular[0].item())
    torch.testing.assert_close(weight.grad, torch.outer(u[:, 0], right[0]))


@pytest.mark.parametrize("hidden", [(8, 6), (6, 9)])
def test_the_last_hidden_layer_is_divided(hidden):
    agent = make_sac(network=NetworkConfig(hidden))
    plain = copy.deepcopy(agent.networks)
    attached(agent)
    for name, network in agent.networks.items():
        layer, before = network.get_submodule("trunk.2"), plain[name].get_submodule("trunk.2")
        x = torch.randn(*((2, 5) if hasattr(layer, "copies") else (5,)), hidden[0])
        for _ in range(50):
            layer.spectral_v.copy_(power_iteration(layer.weight, layer.spectral_v))
        top = torch.linalg.matrix_norm(before.weight, 2)
        bias = before.bias.unsqueeze(-2)
        wanted = (before(x) - bias) / top.view(-1, 1, 1) + bias if before.weight.dim() == 3 else (
            nn.functional.linear(x, before.weight / top, before.bias)
        )  # fmt: skip
        torch.testing.assert_close(layer(x), wanted, rtol=1e-4, atol=1e-5)
        first = torch.randn(*x.shape[:-1], network.get_submodule("trunk.0").in_features)
        assert torch.equal(network.get_submodule("trunk.0")(first), plain[name].get_submodule("trunk.0")(first))


def test_convolutions_are_divided_too():
    agent = make_dqn(IMAGES)
    plain = copy.deepcopy(agent.networks["online"])
    attached(agent, layers=3)
    conv, image = agent.networks["online"].torso.conv1, torch.rand(2, *IMAGES)
    for _ in range(100):
        conv.spectral_v.copy_(power_iteration(conv.weight.flatten(1), conv.spectral_v))
    top = torch.linalg.matrix_norm(conv.weight.flatten(1), 2)
    wanted = nn.functional.conv2d(image, plain.torso.conv1.weight / top, plain.torso.conv1.bias)
    torch.testing.assert_close(conv(image), wanted, rtol=1e-4, atol=1e-5)


@every_agent
def test_the_first_answers_are_already_divided_by_sigma(make, shape):
    agent = make()
    attached(agent)
    for network in agent.networks.values():
        layer = network.get_submodule("trunk.2")
        top = torch.linalg.matrix_norm(layer.weight, 2)
        torch.testing.assert_close(sigma_of(layer.weight, layer.spectral_v), top, rtol=1e-4, atol=0)


@every_agent
def test_only_gradient_steps_move_v(make, shape):
    agent = make()
    attached(agent)
    only_learn(agent, 2, shape=shape)
    before = weights(agent)
    assert [name for name in before if name.endswith("spectral_v")]
    agent.act(rows(0, agent, shape)["observation"], explore=False)
    measure(agent, 0, shape)
    assert same(before, weights(agent))
    only_learn(agent, 1, first=2, shape=shape)
    moved = [name for name in before if "spectral_v" in name and not torch.equal(before[name], weights(agent)[name])]
    assert moved


def test_v_follows_the_weight_and_the_optimiser_keeps_it():
    agent = make_dqn(learning_rate=1e-2)
    layer = agent.networks["online"].trunk[2]
    attached(agent)
    assert any(layer.weight is p for group in agent.optimizers["online"].param_groups for p in group["params"])
    before = layer.weight.clone()
    only_learn(agent, 30)
    assert not torch.equal(before, layer.weight)
    top = torch.linalg.matrix_norm(layer.weight, 2)
    torch.testing.assert_close(sigma_of(layer.weight, layer.spectral_v), top, rtol=0.1, atol=0)


def test_a_hard_copy_copies_v():
    agent = make_dqn(target_update_period=3)
    attached(agent)
    only_learn(agent, 3)
    online, target = (agent.networks[name].trunk[2].spectral_v for name in ("online", "target"))
    assert torch.equal(online, target)
    assert online is not target


def test_units_of_a_divided_layer_can_be_recycled():
    agent = make_dqn()
    attached(agent)
    layer = agent.networks["online"].trunk[2]
    before = layer.weight.clone()
    recycle(agent, {"online.trunk.2": np.arange(6)[None] == 1}, np.random.default_rng(0))
    assert torch.equal(before[0], layer.weight[0])
    assert not torch.equal(before[1], layer.weight[1])


@every_agent
def test_resume(make, shape):
    assert check_resume(make, shape, lambda: SpectralNorm(SpectralNormConfig())) == []


def test_it_is_never_due():
    cure = SpectralNorm(SpectralNormConfig())
    assert not any(cure.due(progress(n)) for n in range(10))
    assert cure.apply(make_dqn(), None, np.random.default_rng(0)) == []


def test_settings():
    with pytest.raises(ConfigError, match=r"intervention\.spectral_norm\.layers is 0"):
        SpectralNormConfig(0)
    with pytest.raises(ConfigError, match="'online' has 2 hidden layers"):
        attached(make_dqn(), layers=3)
