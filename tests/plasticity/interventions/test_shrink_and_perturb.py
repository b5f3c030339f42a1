"""Shrink and perturb: the formula, the two forms, what is left alone."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlkit.core.errors import ConfigError
from rlkit.plasticity.interventions.shrink_and_perturb import ShrinkAndPerturb, ShrinkAndPerturbConfig, blend_
from rlkit.plasticity.surgery import fresh_parameters
from tests.agents.helpers import learn as only_learn
from tests.agents.helpers import make_dqn, make_sac, same, weights
from tests.plasticity.interventions.whole import AGENTS, NORMALISED, check_resume, learn, progress

every_agent = pytest.mark.parametrize(("make", "shape"), AGENTS.values(), ids=AGENTS)


def build(**settings):
    return ShrinkAndPerturb(ShrinkAndPerturbConfig(**settings))


@pytest.mark.parametrize(
    ("shrink", "perturb", "wanted"), [(0.5, 0.5, [0.15, -0.35, 1.05]), (0.8, 0.2, [0.36, -0.74, 1.62])]
)
def test_v13_blends(shrink, perturb, wanted):
    theta = torch.tensor([0.5, -1.0, 2.0])
    moved = blend_(theta, shrink, perturb, torch.tensor([-0.2, 0.3, 0.1]))
    torch.testing.assert_close(theta, torch.tensor(wanted))
    assert moved == pytest.approx((theta - torch.tensor([0.5, -1.0, 2.0])).norm().item())


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_blend_is_linear(shrink, perturb):
    theta, phi = (torch.randn(7, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    blended = theta.clone()
    blend_(blended, shrink, perturb, phi)
    torch.testing.assert_close(blended, shrink * theta + perturb * phi)


@every_agent
@pytest.mark.parametrize("form", ["event", "step"])
def test_one_and_zero_is_the_identity(make, shape, form):
    plain, agent, rng = make(), make(), np.random.default_rng(0)
    cure = build(form=form, every=10, shrink=1.0, perturb=0.0)
    cure.attach(agent, rng)
    only_learn(plain, 3, shape=shape), only_learn(agent, 3, shape=shape)
    assert same(weights(plain), weights(agent))
    if form == "event":
        cure.apply(agent, None, rng)
        assert same(weights(plain), weights(agent))


def test_event_blends_online_and_target_with_the_same_draw():
    agent, cure = make_dqn(network=NORMALISED), build()
    cure.attach(agent, np.random.default_rng(0))
    only_learn(agent, 3)
    before = weights(agent)
    phi = fresh_parameters(agent.networks["online"], np.random.default_rng(5))
    [event] = cure.apply(agent, None, np.random.default_rng(5))
    for name, value in weights(agent).items():
        network, _, own = name.partition(".")
        if "norm" in name:
            assert torch.equal(value, before[name]), name
            continue
        torch.testing.assert_close(value, 0.8 * before[name] + 0.2 * phi[own], msg=name)
        assert network in ("online", "target")
    assert event.details["shrink"] == 0.8
    assert event.details["perturb"] == 0.2
    assert event.details["weight_change"] > 0
    for parameter, state in agent.optimizers["online"].state.items():
        norm = any(parameter is p for n, p in agent.networks["online"].named_parameters() if "norm" in n)
        assert all(value.any() == norm for value in state.values())


def test_step_adds_noise_to_the_stepped_network_and_keeps_moments():
    plain, agent, rng = make_sac(network=NORMALISED), make_sac(network=NORMALISED), np.random.default_rng(0)
    cure = build(form="step", shrink=1.0, perturb=1e-3)
    cure.attach(agent, rng)
    assert learn(agent, cure, rng, 1) == []
    only_learn(plain, 1)
    differences = {name: weights(agent)[name] - value for name, value in weights(plain).items()}
    # The critic takes its step before the actor reads it: only its own noise is in it.
    assert not any(differences[name].any() for name in differences if name.startswith("critic.trunk.norm"))
    noise = torch.cat([value.flatten() for name, value in differences.items() if name.startswith("critic.trunk.")])
    noise = noise[noise != 0]
    assert noise.std().item() == pytest.approx(1e-3, rel=0.2)
    for name in ("critic", "temperature"):
        assert all(value.any() for state in agent.optimizers[name].state.values() for value in state.values())


def test_step_shrinks():
    plain, agent, rng = make_dqn(), make_dqn(), np.random.default_rng(0)
    cure = build(form="step", shrink=0.5, perturb=0.0)
    cure.attach(agent, rng)
    only_learn(plain, 1), learn(agent, cure, rng, 1)
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(agent)[name], value if name.startswith("target.") else value / 2)


def test_when():
    assert [n for n in range(10) if build(every=3).due(progress(n))] == [3, 6, 9]
    assert not any(build(form="step", every=3).due(progress(n)) for n in range(10))


@every_agent
@pytest.mark.parametrize("form", ["event", "step"])
def test_resume(make, shape, form):
    events = check_resume(make, shape, lambda: build(form=form, every=3))
    assert bool(events) == (form == "event")


@pytest.mark.parametrize("settings", [{"form": "both"}, {"every": 0}, {"shrink": 1.5}, {"perturb": -0.1}])
def test_settings(settings):
    with pytest.raises(ConfigError, match=rf"intervention\.shrink_and_perturb\.{next(iter(settings))}"):
        ShrinkAndPerturbConfig(**settings)
