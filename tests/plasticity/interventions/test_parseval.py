"""Parseval regularisation: the formula, the layers, the scaling with the width."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlkit.core.errors import ConfigError
from rlkit.plasticity.interventions.parseval import Parseval, ParsevalConfig, parseval
from tests.agents.helpers import learn as only_learn
from tests.agents.helpers import make_dqn, make_sac
from tests.plasticity.interventions.whole import AGENTS, IMAGES, NORMALISED, check_resume, progress

every_agent = pytest.mark.parametrize(("make", "shape"), AGENTS.values(), ids=AGENTS)


def attached(agent, *settings):
    cure = Parseval(ParsevalConfig(*settings))
    cure.attach(agent, np.random.default_rng(0))
    return cure


def test_v13_parseval():
    weight = torch.tensor([[1.0, 2.0], [0.0, 1.0]], requires_grad=True)
    value = parseval(weight, 2.0)
    value.backward()
    assert value.item() == 18
    torch.testing.assert_close(weight.grad, torch.tensor([[12.0, 32.0], [8.0, 12.0]]))


@given(st.integers(1, 6), st.integers(0, 100))
def test_orthogonal_rows_of_the_right_length_cost_nothing(size, seed):
    rng = torch.Generator().manual_seed(seed)
    weight = torch.nn.init.orthogonal_(torch.empty(size, 6), gain=2**0.5, generator=rng)
    assert parseval(weight, 2.0).item() == pytest.approx(0, abs=1e-9)
    assert parseval(1.1 * weight, 2.0) > 0


def test_copies_are_summed():
    weight = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(parseval(weight, 2.0), parseval(weight[0], 2.0) + parseval(weight[1], 2.0))


def test_hidden_layers_only_by_their_width():
    agent = make_dqn(IMAGES, NORMALISED)
    attached(agent, 0.1, 1.5)
    [penalty] = agent.penalties
    online = agent.networks["online"]
    value = penalty.value(agent.networks)
    value.backward()
    layers = {16: online.torso.conv1, 8: online.trunk[0], 6: online.trunk[3]}
    wanted = sum(0.1 * (64 / n) ** 2 * parseval(layer.weight.flatten(1), 1.5) for n, layer in layers.items())
    torch.testing.assert_close(value, wanted)
    with_gradient = {name for name, parameter in online.named_parameters() if parameter.grad is not None}
    assert with_gradient == {"torso.conv1.weight", "trunk.0.weight", "trunk.2.weight"}


def test_each_network_has_its_own():
    agent = make_sac()
    attached(agent)
    assert [penalty.loss for penalty in agent.penalties] == ["critic", "actor"]
    agent.penalties[0].value(agent.networks).backward()
    assert all(p.grad is None for p in agent.networks["actor"].parameters())


@every_agent
def test_rows_become_more_orthogonal(make, shape):
    plain, agent = make(), make()
    attached(agent, 1.0)
    only_learn(plain, 20, shape=shape), only_learn(agent, 20, shape=shape)
    for penalty in agent.penalties:
        assert penalty.value(agent.networks) < penalty.value(plain.networks)


@every_agent
def test_resume(make, shape):
    assert check_resume(make, shape, lambda: Parseval(ParsevalConfig(0.1))) == []


def test_it_is_never_due():
    cure = Parseval(ParsevalConfig())
    assert not any(cure.due(progress(n)) for n in range(10))
    assert cure.apply(make_dqn(), None, np.random.default_rng(0)) == []


@pytest.mark.parametrize("settings", [{"coefficient": 0.0}, {"scale": 0.0}, {"scale": float("inf")}])
def test_settings(settings):
    with pytest.raises(ConfigError, match=rf"intervention\.parseval\.{next(iter(settings))}"):
        ParsevalConfig(**settings)
