"""L2: the pull to zero, and on what."""

import numpy as np
import pytest
import torch

from rlkit.core.errors import ConfigError
from rlkit.plasticity.interventions.l2 import L2, L2Config
from rlkit.plasticity.networks import trained_networks
from tests.agents.helpers import learn as only_learn
from tests.agents.helpers import make_dqn, make_sac, weights
from tests.plasticity.interventions.whole import AGENTS, NORMALISED, check_resume, progress

every_agent = pytest.mark.parametrize(("make", "shape"), AGENTS.values(), ids=AGENTS)


def attached(agent, coefficient):
    cure = L2(L2Config(coefficient))
    cure.attach(agent, np.random.default_rng(0))
    return cure


@pytest.mark.parametrize("make", [make_dqn, make_sac])
def test_half_the_squares_of_all_weights_by_network(make):
    agent = make(network=NORMALISED)
    attached(agent, 0.1)
    assert [penalty.loss for penalty in agent.penalties] == trained_networks(agent)
    for penalty in agent.penalties:
        network = agent.networks[penalty.loss]
        layers = [network.trunk[0], network.trunk[3], network.head]
        wanted = 0.05 * sum(layer.weight.detach().square().sum() for layer in layers)
        value = penalty.value(agent.networks)
        torch.testing.assert_close(value, wanted)
        value.backward()
        for name, parameter in network.named_parameters():
            if name.endswith("bias") or "norm" in name:
                assert parameter.grad is None
            else:
                torch.testing.assert_close(parameter.grad, 0.1 * parameter.detach())


@every_agent
def test_weights_shrink(make, shape):
    plain, agent = make(), make()
    attached(agent, 10.0)
    only_learn(plain, 20, shape=shape), only_learn(agent, 20, shape=shape)
    for network in trained_networks(agent):
        norms = [weights(a)[f"{network}.trunk.0.weight"].norm() for a in (plain, agent)]
        assert norms[1] < norms[0]


@every_agent
def test_resume(make, shape):
    assert check_resume(make, shape, lambda: L2(L2Config(0.1))) == []


def test_it_is_never_due():
    cure = L2(L2Config())
    assert not any(cure.due(progress(n)) for n in range(10))
    assert cure.apply(make_dqn(), None, np.random.default_rng(0)) == []


@pytest.mark.parametrize("coefficient", [0.0, -1.0, float("nan"), float("inf")])
def test_settings(coefficient):
    with pytest.raises(ConfigError, match=r"intervention\.l2\.coefficient"):
        L2Config(coefficient)
