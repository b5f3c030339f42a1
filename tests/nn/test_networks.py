import math

import pytest
import torch
from torch import nn

from rlkit.core.errors import ConfigError
from rlkit.nn.activations import activation_names, make_activation
from rlkit.nn.actor_critic import GaussianActor, TwinCritic
from rlkit.nn.config import NetworkConfig
from rlkit.nn.distributions import bounded_log_std, squashed_gaussian_log_prob
from rlkit.nn.ensemble import EnsembleLinear
from rlkit.nn.torsos import ConvTorso, QNetwork, VectorTorso, as_float, make_torso

NATURE, EIGHT = NetworkConfig((512,)), NetworkConfig((8,))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", activation_names())
def test_every_call_makes_an_activation_of_its_own(name):
    assert make_activation(name) is not make_activation(name)


def test_unknown_activation_names_the_nearest_and_all():
    with pytest.raises(ConfigError, match="Did you mean 'relu'") as caught:
        make_activation("rel")
    assert all(name in str(caught.value) for name in activation_names())


def test_hidden_sizes_must_be_positive():
    with pytest.raises(ConfigError, match=r"network\.hidden"):
        NetworkConfig(hidden=(256, 0))


# mean, log_std, u, log-density with 1e-6, log-density in the stable form: worked by hand at scale 1
LOG_PROBS = [
    (0.0, 0.0, 0.0, -0.918940, -0.918939),
    (0.5, -0.5, 0.3, -0.384624, -0.384623),
    (-0.2, -1.0, 0.4, -1.093063, -1.093062),
    (0.0, 0.0, 3.0, -0.800383, -0.800282),
    (0.0, 0.0, 10.0, -37.111639, -32.305233),
]


@pytest.mark.parametrize(("mean", "log_std", "u", "bounded", "stable"), LOG_PROBS)
@pytest.mark.parametrize("form", ["bounded", "stable"])
def test_log_prob_golden(mean, log_std, u, bounded, stable, form):
    noise, log_std, u = (torch.tensor([[x]], dtype=torch.float64) for x in ((u - mean) / math.exp(log_std), log_std, u))
    scale = torch.ones(1, dtype=torch.float64)
    value = squashed_gaussian_log_prob(noise, log_std, u, scale, stable=form == "stable")
    assert value.item() == pytest.approx({"bounded": bounded, "stable": stable}[form], abs=2e-6)


@pytest.mark.parametrize("stable", [False, True])
def test_log_prob_sums_over_dimensions_and_loses_ln_scale(stable):
    noise, log_std, u = (
        torch.tensor([[-0.3297443, 1.6309691]]),
        torch.tensor([[-0.5, -1.0]]),
        torch.tensor([[0.3, 0.4]]),
    )
    unit = squashed_gaussian_log_prob(noise, log_std, u, torch.ones(2), stable=stable)
    assert unit.sum().item() == pytest.approx(-1.477687, abs=5e-6)
    wide = squashed_gaussian_log_prob(noise, log_std, u, torch.tensor([2.0, 2.0]), stable=stable)
    torch.testing.assert_close(wide, unit - math.log(2), atol=1e-5, rtol=0)


def test_density_integrates_to_one_over_the_action_range():
    a = torch.linspace(-0.99999, 0.99999, 40_001, dtype=torch.float64)
    u = torch.atanh(a).unsqueeze(-1)
    mean, log_std = 0.3, torch.full_like(u, -0.7)
    density = squashed_gaussian_log_prob(
        (u - mean) / math.exp(-0.7), log_std, u, torch.ones(1, dtype=torch.float64), stable=True
    ).exp()
    assert torch.trapezoid(density.squeeze(-1), a).item() == pytest.approx(1.0, abs=1e-4)


def test_log_std_is_squashed_into_its_range():
    torch.testing.assert_close(
        bounded_log_std(torch.tensor([-50.0, 0.0, 50.0]), -10.0, 2.0), torch.tensor([-10.0, -4.0, 2.0])
    )


def test_ensemble_equals_separate_linear_layers():
    layer, x = EnsembleLinear(3, 5, 4, rng()), torch.randn(3, 7, 5, generator=rng(1))
    want = torch.stack([nn.functional.linear(x[k], layer.weight[k], layer.bias[k]) for k in range(3)])
    torch.testing.assert_close(layer(x), want)
    layer(x).square().sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.stride() == layer.weight.stride()


def test_twin_critics_are_independent_and_read_the_action():
    critic = TwinCritic(3, 2, EIGHT, rng())
    observation, action = torch.randn(6, 3, generator=rng(1)), torch.randn(6, 2, generator=rng(2))
    q = critic(observation, action)
    assert q.shape == (2, 6)
    assert not torch.allclose(q[0], q[1])
    assert not torch.allclose(q, critic(observation, action + 1))
    q[0].sum().backward()
    assert critic.trunk[0].weight.grad[1].abs().sum() == 0  # the second critic has no part in the first


def test_actor_returns_mean_and_bounded_log_std():
    actor = GaussianActor(3, 2, NetworkConfig((8, 8)), (-10.0, 2.0), rng())
    mean, log_std = actor(torch.randn(6, 3, generator=rng(1)))
    assert mean.shape == log_std.shape == (6, 2)
    assert ((log_std > -10) & (log_std < 2)).all()


def test_a_clipped_log_std_has_no_gradient_outside_of_its_range():
    actor = GaussianActor(3, 2, NetworkConfig(hidden=(4,)), (-20.0, 2.0), rng(), log_std_bound="clip")
    with torch.no_grad():
        actor.head.weight.zero_()
        actor.head.bias.copy_(torch.tensor([0.0, 0.0, 7.0, -3.0]))
    _, log_std = actor(torch.ones(1, 3))
    assert log_std.tolist() == [[2.0, -3.0]]
    log_std.sum().backward()
    assert actor.head.bias.grad.tolist() == [0.0, 0.0, 0.0, 1.0]


def test_nature_network_has_the_published_number_of_parameters():
    network = QNetwork((4, 84, 84), 6, NATURE, rng())
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_687_206


@pytest.mark.parametrize("shape", [(4, 84, 84), (4, 64, 64), (1, 36, 40), (4, 10, 10), (1, 3, 5), (6, 35, 35)])
def test_torso_features_are_what_it_says(shape):
    torso, features = make_torso(shape, NATURE, rng())
    image = torch.randint(0, 256, (2, *shape), generator=rng(1), dtype=torch.uint8)
    assert torso(image).shape == (2, features)
    assert isinstance(torso, ConvTorso)


@pytest.mark.parametrize("shape", [(), (5,), (2, 3)])
def test_other_shapes_are_flattened(shape):
    torso, features = make_torso(shape, NATURE, rng())
    assert isinstance(torso, VectorTorso)
    assert torso(torch.zeros(2, *shape)).shape == (2, features)


def test_an_image_with_channels_last_or_too_small_is_refused():
    with pytest.raises(ConfigError, match=r"\[84, 84, 1\] is too small"):
        make_torso((84, 84, 1), NATURE, rng())


def test_bytes_become_channels_last_floats_once():
    image = torch.randint(0, 256, (2, 4, 9, 9), generator=rng(), dtype=torch.uint8)
    floats = as_float(image)
    assert floats.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(floats, image.float() / 255)
    assert as_float(floats) is floats


def test_weights_come_from_the_generator_alone():
    torch.manual_seed(1)
    first = QNetwork((4, 10, 10), 3, EIGHT, rng(5))
    before = torch.get_rng_state()
    torch.manual_seed(2)
    second = QNetwork((4, 10, 10), 3, EIGHT, rng(5))
    TwinCritic(3, 2, EIGHT, rng(5))
    torch.manual_seed(1)
    assert torch.equal(before, torch.get_rng_state())  # nothing was drawn from the global generator
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_initial_weights_are_fan_in_uniform():
    network = QNetwork((4, 84, 84), 6, NATURE, rng())
    for module, fan_in in ((network.torso.conv2, 32 * 16), (network.trunk[0], 3136)):
        for parameter in (module.weight, module.bias):
            assert parameter.abs().max() <= 1 / math.sqrt(fan_in)
        assert module.weight.std().item() == pytest.approx(1 / math.sqrt(3 * fan_in), rel=0.02)
