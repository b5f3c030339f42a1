"""L2-init: the pull to the start, and what the start of a recycled unit is."""

import numpy as np
import pytest
import torch
from torch import nn

from rlkit.core.errors import ConfigError
from rlkit.plasticity.interventions.l2_init import L2Init, L2InitConfig
from rlkit.plasticity.networks import trained_networks, trained_parameters
from rlkit.plasticity.surgery import recycle
from tests.agents.helpers import learn as only_learn
from tests.agents.helpers import make_dqn, make_sac, weights
from tests.plasticity.interventions.whole import AGENTS, IMAGES, NORMALISED, check_resume, progress

every_agent = pytest.mark.parametrize(("make", "shape"), AGENTS.values(), ids=AGENTS)


def attached(agent, coefficient):
    cure = L2Init(L2InitConfig(coefficient))
    cure.attach(agent, np.random.default_rng(0))
    return cure


def test_v13_l2_init():
    agent = make_dqn()
    agent.networks["online"] = nn.Linear(3, 1, bias=False)  # w_0 and w of V7
    weight = agent.networks["online"].weight
    with torch.no_grad():
        weight.copy_(torch.tensor([[0.3, -0.5, 0.4]]))
    attached(agent, 0.01)
    with torch.no_grad():
        weight.copy_(torch.tensor([[0.5, -0.5, 0.1]]))
    value = agent.penalties[0].value(agent.networks)
    value.backward()
    assert value.item() == pytest.approx(6.5e-4)
    torch.testing.assert_close(weight.grad, torch.tensor([[0.002, 0.0, -0.003]]))


@pytest.mark.parametrize("make", [make_dqn, make_sac])
def test_weights_and_biases_of_every_layer_but_norms(make):
    agent = make(network=NORMALISED)
    attached(agent, 0.1)
    start = weights(agent)
    only_learn(agent, 3)
    for penalty in agent.penalties:
        agent.networks.zero_grad()
        penalty.value(agent.networks).backward()
        for address, parameter in trained_parameters(agent, penalty.loss).items():
            if "norm" in address:
                assert parameter.grad is None
            else:
                torch.testing.assert_close(parameter.grad, 0.1 * (parameter.detach() - start[address]))


@every_agent
def test_parameters_stay_nearer_to_their_start(make, shape):
    plain, agent = make(), make()
    start = weights(plain)
    attached(agent, 10.0)
    only_learn(plain, 20, shape=shape), only_learn(agent, 20, shape=shape)
    for network in trained_networks(agent):
        name = f"{network}.trunk.0.weight"
        near, far = ((weights(a)[name] - start[name]).norm() for a in (agent, plain))
        assert near < far


@pytest.mark.parametrize(("make", "shape", "layer"), [
    (lambda: make_dqn(IMAGES), IMAGES, "online.torso.conv1"),
    (make_sac, (3,), "critic.trunk.2"),
])  # fmt: skip
def test_a_recycled_row_starts_at_its_new_draw(make, shape, layer):
    agent = make()
    cure = attached(agent, 0.1)
    start = weights(agent)
    only_learn(agent, 3, shape=shape)
    module = agent.networks.get_submodule(layer)
    mask = np.zeros((getattr(module, "copies", 1), len(module.bias.flatten()) // getattr(module, "copies", 1)), bool)
    mask[-1, 2] = True
    recycle(agent, {layer: mask}, np.random.default_rng(1))
    cure.recycled(agent, {layer: mask})
    found = cure.state_dict()[layer.partition(".")[0]]
    for name, parameter in module.named_parameters():
        first, now, then = found[f"{layer}.{name}"], parameter.detach(), start[f"{layer}.{name}"]
        rows = torch.as_tensor(mask if hasattr(module, "copies") else mask[0])
        assert torch.equal(first[rows], now[rows])
        assert torch.equal(first[~rows], then[~rows])
        assert not torch.equal(first[rows], then[rows])
    others = {name for name in found if not name.startswith(f"{layer}.")}
    assert all(torch.equal(found[name], start[name]) for name in others)


@every_agent
def test_resume_keeps_the_start_of_the_stored_run(make, shape):
    assert check_resume(make, shape, lambda: L2Init(L2InitConfig(0.1))) == []


def test_the_state_is_a_copy():
    agent = make_dqn()
    cure = attached(agent, 0.1)
    state = cure.state_dict()
    with torch.no_grad():
        agent.networks["online"].trunk[0].weight.add_(1)
    cure.recycled(agent, {"online.trunk.0": np.ones((1, 8), bool)})
    assert not torch.equal(state["online"]["online.trunk.0.weight"], agent.networks["online"].trunk[0].weight)


def test_it_is_never_due():
    cure = L2Init(L2InitConfig())
    assert not any(cure.due(progress(n)) for n in range(10))
    assert cure.apply(make_dqn(), None, np.random.default_rng(0)) == []


@pytest.mark.parametrize("coefficient", [0.0, -1.0, float("nan"), float("inf")])
def test_settings(coefficient):
    with pytest.raises(ConfigError, match=r"intervention\.l2_init\.coefficient"):
        L2InitConfig(coefficient)
