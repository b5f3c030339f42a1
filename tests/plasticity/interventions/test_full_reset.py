"""Full reset: new networks, new optimisers, targets like the new networks, the first temperature."""

import numpy as np
import pytest
import torch

from rlkit.core.errors import ConfigError
from rlkit.plasticity.interventions.full_reset import FullReset, FullResetConfig
from rlkit.plasticity.interventions.plasticity_injection import PlasticityInjection, PlasticityInjectionConfig
from rlkit.plasticity.networks import trained_networks, trained_parameters
from rlkit.plasticity.surgery import target_address
from tests.agents.helpers import learn as only_learn
from tests.agents.helpers import make_dqn, make_sac, weights
from tests.plasticity.interventions.whole import AGENTS, check_resume, learn, progress

every_agent = pytest.mark.parametrize(("make", "shape"), AGENTS.values(), ids=AGENTS)


def build(every=4):
    return FullReset(FullResetConfig(every=every))


@every_agent
def test_everything_starts_anew_and_the_optimiser_steps_the_new_weights(make, shape):
    agent, cure, rng = make(), build(), np.random.default_rng(0)
    cure.attach(agent, rng)
    objects = dict(agent.networks.named_parameters())
    only_learn(agent, 3, shape=shape)
    before = weights(agent)
    [event] = learn(agent, cure, rng, 1, first=3, shape=shape)
    for network in trained_networks(agent):
        for address, parameter in trained_parameters(agent, network).items():
            assert parameter is objects[address]
            assert not torch.equal(parameter, before[address])
            target = target_address(agent.networks, address)
            if target is not None:
                assert torch.equal(parameter, agent.networks.get_parameter(target))
        assert event.details["weight_change"][network] > 0
    for optimizer in agent.optimizers.values():
        for state in optimizer.state.values():
            assert all(not value.any() for value in state.values())
    if "temperature" in agent.optimizers:
        assert agent.log_temperature.item() == 0.0
        assert event.details["scalars"] == 1
    after = weights(agent)
    only_learn(agent, 1, first=4, shape=shape)
    for network in trained_networks(agent):
        trained = trained_parameters(agent, network)
        assert any(not torch.equal(after[address], parameter) for address, parameter in trained.items())


def test_layers_are_drawn_by_their_own_initialiser():
    agent, rng = make_dqn(), np.random.default_rng(0)
    cure = build()
    cure.attach(agent, rng)
    only_learn(agent, 3)
    cure.apply(agent, None, rng)
    weight = agent.networks["online"].trunk[0].weight  # fan-in 3
    assert weight.abs().max() <= 3**-0.5
    assert weight.std().item() == pytest.approx(1 / 3, rel=0.35)


def test_the_same_generator_draws_the_same_networks():
    def run(disturbance):
        torch.manual_seed(disturbance)
        agent, rng, cure = make_sac(), np.random.default_rng(5), build()
        cure.attach(agent, rng)
        before = torch.get_rng_state()
        cure.apply(agent, None, rng)
        assert torch.equal(before, torch.get_rng_state())
        return weights(agent)

    first, second = run(1), run(2)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("updates", "total", "due"),
    [(0, 1000, False), (4, 1000, True), (5, 1000, False), (900, 1000, True), (904, 1000, False), (1000, 1000, False)],
)
def test_when(updates, total, due):
    assert build().due(progress(updates, total)) == due


@every_agent
def test_resume(make, shape):
    assert check_resume(make, shape, lambda: build(3))


def test_frozen_parts_are_refused():
    agent, rng, cure = make_dqn(), np.random.default_rng(0), build()
    injection = PlasticityInjection(PlasticityInjectionConfig((1,)))
    injection.attach(agent, rng), cure.attach(agent, rng)
    injection.apply(agent, None, rng)
    with pytest.raises(ConfigError, match="full_reset cannot start 'online' anew"):
        cure.apply(agent, None, rng)


def test_settings():
    with pytest.raises(ConfigError, match=r"intervention\.full_reset\.every is 0"):
        FullResetConfig(every=0)


def test_a_network_that_cannot_draw_new_weights_is_refused():
    agent = make_dqn()
    agent.networks["online"].extra = torch.nn.ParameterList([torch.nn.Parameter(torch.zeros(2))])
    with pytest.raises(ConfigError, match="ParameterList cannot draw new weights"):
        build().attach(agent, np.random.default_rng(0))
