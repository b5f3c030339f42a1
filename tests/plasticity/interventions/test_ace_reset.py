"""ACE's soft reset: the factor, orthogonal draws, one of its own for the target."""

import numpy as np
import pytest
import torch

from rlkit.core.errors import ConfigError, NumericError
from rlkit.plasticity.interventions.ace_reset import ACEReset, ACEResetConfig, keep_factor
from rlkit.plasticity.interventions.shrink_and_perturb import blend_
from rlkit.plasticity.measurement import LayerMeasurement, Measurement
from tests.agents.helpers import learn as only_learn
from tests.agents.helpers import make_dqn, make_sac, weights
from tests.plasticity.interventions.whole import AGENTS, NORMALISED, check_resume, measure, progress

every_agent = pytest.mark.parametrize(("make", "shape"), AGENTS.values(), ids=AGENTS)


def build(every=3, **settings):
    return ACEReset(ACEResetConfig(every=every, **settings))


def scored(scores, **others):
    """A measurement with these ace scores by layer."""
    layers = {}
    for name, values in (scores | others).items():
        array = np.array([values], dtype=np.float64)
        layers[name] = LayerMeasurement(array.shape[1], 1, {"ace": array}, {})
    return Measurement(0, 0, "pre", layers)


@pytest.mark.parametrize(("dormant", "keep"), [(0, 0.9), (0.05, 0.9), (0.3, 0.7), (0.95, 0.2)])
def test_factor_golden(dormant, keep):
    assert keep_factor(dormant, 0.2, 0.9) == pytest.approx(keep)


def test_blend_golden():
    theta = torch.tensor([0.5])
    blend_(theta, 0.7, 0.3, torch.tensor([-0.2]))
    assert theta.item() == pytest.approx(0.29)


def test_only_the_policys_units_count_the_heads_too():
    agent = make_sac()
    # 3 + 4 units of the actor, 2 of them at most 0.05; the critic is all dormant
    seen = scored({"actor.trunk.0": [0.0, 1.0, 2.0], "actor.head": [0.05, 1.0, 1.0, 2.0], "critic.trunk.0": [0.0, 0.0]})
    [event] = build().apply(agent, seen, np.random.default_rng(0))
    assert event.details["dormant"] == pytest.approx(2 / 7)
    assert event.details["keep"] == pytest.approx(5 / 7)
    assert event.details["dormant_by_layer"] == pytest.approx({"actor.trunk.0": 1 / 3, "actor.head": 1 / 4})


def test_orthogonal_draws_biases_shrink_norms_stay():
    agent = make_sac(network=NORMALISED)
    only_learn(agent, 2)
    before = weights(agent)
    keep = 0.25
    [event] = build().apply(agent, scored({"actor.trunk.0": [0.0, 0.0, 0.0, 1.0]}), np.random.default_rng(0))
    assert event.details["keep"] == keep
    drawn = {}
    for name, value in weights(agent).items():
        if "norm" in name or name == "log_temperature":
            assert torch.equal(value, before[name]), name
        elif name.endswith("bias"):
            torch.testing.assert_close(value, keep * before[name], msg=name)
        else:
            drawn[name] = (value - keep * before[name]) / (1 - keep)
            matrices = drawn[name] if value.dim() == 3 else drawn[name].unsqueeze(0)
            for matrix in matrices:  # rows or columns of length 1 at right angles
                gram = matrix @ matrix.mT if matrix.shape[0] <= matrix.shape[1] else matrix.mT @ matrix
                torch.testing.assert_close(gram, torch.eye(len(gram)), atol=1e-5, rtol=0)
    for layer in ("trunk.0", "trunk.2", "head"):
        online, target = drawn[f"critic.{layer}.weight"], drawn[f"target_critic.{layer}.weight"]
        assert not torch.allclose(online, target)
        assert not torch.allclose(online[0], online[1])  # the two critics


@every_agent
def test_moments_are_cleared_the_temperatures_are_kept(make, shape):
    agent, cure = make(), build()
    only_learn(agent, 3, shape=shape)
    cure.attach(agent, np.random.default_rng(0))
    [event] = cure.apply(agent, measure(agent, 3, shape), np.random.default_rng(0))
    for name, optimizer in agent.optimizers.items():
        for state in optimizer.state.values():
            assert all(value.any() == (name == "temperature") for value in state.values())
    assert 0.2 <= event.details["keep"] <= 0.9
    assert all(change > 0 for change in event.details["weight_change"].values())


def test_the_policy_of_an_agent_without_actor_is_its_network():
    [event] = build().apply(make_dqn(), scored({"online.trunk.0": [0.0, 1.0]}), np.random.default_rng(0))
    assert event.details["policy"] == "online"
    assert event.details["keep"] == 0.5


def test_without_finite_scores():
    with pytest.raises(NumericError, match="gradient dormancy of 'actor' is not a number"):
        build().apply(make_sac(), scored({"actor.trunk.0": [np.nan, np.nan]}), np.random.default_rng(0))


def test_when():
    assert [n for n in range(250_000) if ACEReset(ACEResetConfig()).due(progress(n))] == [100_000, 200_000]


@every_agent
def test_resume(make, shape):
    assert check_resume(make, shape, build)


@pytest.mark.parametrize(
    "settings", [{"every": 0}, {"dormancy_threshold": -1.0}, {"keep_min": -0.1}, {"keep_max": 0.1}, {"keep_max": 1.1}]
)
def test_settings(settings):
    with pytest.raises(ConfigError, match=rf"intervention\.ace_reset\.{next(iter(settings))}"):
        ACEResetConfig(**settings)
