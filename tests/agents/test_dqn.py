import dataclasses

import pytest
import torch
from tensordict import TensorDict

from rlkit.agents.dqn import DQNConfig, EpsilonGreedy, build
from rlkit.core.errors import ConfigError
from rlkit.nn.config import NetworkConfig
from tests.agents.helpers import ACTIONS, DISCRETE, batch, inputs, learn, make_dqn, same, weights

# Another value of each setting; a new field without a line here fails the test below.
OTHER_VALUES = {
    "learning_rate": 1e-2,
    "adam_eps": 1e-1,
    "double": True,
    "huber_threshold": 0.1,
    "target_update_period": 2,
    "max_grad_norm": 1e-3,
    "epsilon_start": 0.5,
    "epsilon_end": 0.9,
    "epsilon_decay_share": 1.0,
    "epsilon_decay_steps": 7,
}


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(DQNConfig)])
def test_each_setting_changes_what_is_learned_or_done(field):
    def run(**config):
        agent = make_dqn(**config)
        agent.networks["target"].load_state_dict(make_dqn(seed=5).networks["target"].state_dict())
        learn(agent, 3)
        probabilities = []
        for _ in range(10):
            probabilities.append(agent.exploration.epsilon)
            agent.act(torch.zeros(20, 3), explore=True)
        return weights(agent), probabilities

    plain, changed = run(), run(**{field: OTHER_VALUES[field]})
    if field.startswith("epsilon"):
        assert plain[1] != changed[1]
    else:
        assert not same(plain[0], changed[0])


@pytest.mark.parametrize("setting", [{"target_update_period": 0}, {"epsilon_end": 1.5}, {"epsilon_decay_share": -1}])
def test_impossible_settings_are_refused(setting):
    with pytest.raises(ConfigError, match=f"agent.{next(iter(setting))} is"):
        DQNConfig(**setting)


def test_only_the_online_network_learns():
    agent = make_dqn()
    before = weights(agent)
    learn(agent, 3)
    for name, value in weights(agent).items():
        assert torch.equal(value, before[name]) == name.startswith("target."), name
    assert all(parameter.grad is None for parameter in agent.networks["target"].parameters())


def test_the_target_is_copied_every_period_and_not_between():
    agent = make_dqn(target_update_period=3)
    same_as_online = []
    for number in range(7):
        learn(agent, 1, first=number)
        online, target = agent.networks["online"].state_dict(), agent.networks["target"].state_dict()
        same_as_online.append(same(online, target))
    assert same_as_online == [False, False, True, False, False, True, False]


def test_acting_is_greedy_without_exploration_and_does_not_count():
    agent = make_dqn()
    observation = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    action = agent.act(observation, explore=False)
    assert action.dtype == torch.int64
    assert torch.equal(action, agent.networks["online"](observation).argmax(-1))
    assert agent.exploration.env_steps == 0
    agent.act(observation, explore=True)
    assert agent.exploration.env_steps == 5


@pytest.mark.parametrize(
    ("env_steps", "epsilon"), [(0, 1), (20_000, 1), (145_000, 0.505), (270_000, 0.01), (10**7, 0.01)]
)
def test_epsilon_golden(env_steps, epsilon):  # Dopamine's schedule
    exploration = EpsilonGreedy(4, 1.0, 0.01, warmup=20_000, decay=250_000, rng=torch.Generator())
    exploration.env_steps = env_steps
    assert exploration.epsilon == pytest.approx(epsilon)


def test_epsilon_is_the_share_of_random_actions_and_they_are_uniform():
    exploration = EpsilonGreedy(4, 0.4, 0.4, warmup=0, decay=1, rng=torch.Generator().manual_seed(0))
    actions = exploration(torch.zeros(40_000, dtype=torch.int64))
    share = torch.bincount(actions, minlength=4) / 40_000
    torch.testing.assert_close(share, torch.tensor([0.7, 0.1, 0.1, 0.1]), atol=0.01, rtol=0)


def test_decay_starts_after_the_warm_up_and_takes_its_share_of_the_run():
    agent = build(inputs(DISCRETE, env_steps=10_000, learning_starts=500), DQNConfig(), NetworkConfig(hidden=(4,)))
    assert (agent.exploration.warmup, agent.exploration.decay) == (500, 2_000)


def constant_batch(discount):
    """One state, both actions: reward 1."""
    return TensorDict(
        {
            "observation": torch.ones(ACTIONS, 3),
            "action": torch.arange(ACTIONS),
            "next": {"observation": torch.ones(ACTIONS, 3), "reward": torch.ones(ACTIONS)},
            "discount": torch.full((ACTIONS,), discount),
        },
        batch_size=[ACTIONS],
    )


@pytest.mark.parametrize(("discount", "value"), [(0.0, 1.0), (0.5, 2.0)])  # V = 1 / (1 - discount)
@pytest.mark.parametrize("double", [False, True])
def test_the_value_of_a_constant_reward(discount, value, double):
    agent = make_dqn(double=double, target_update_period=20, learning_rate=1e-2)
    for _ in range(600):
        agent.update(constant_batch(discount))
    torch.testing.assert_close(
        agent.networks["online"](torch.ones(1, 3)), torch.full((1, ACTIONS), value), atol=0.02, rtol=0
    )


@pytest.mark.parametrize("shape", [(2,), (1, 5, 5)])
def test_the_value_of_two_steps(shape):  # s0 -> s1 -> end, reward 1 each: V(s1) = 1, V(s0) = 1 + .9
    agent = make_dqn(shape, NetworkConfig(hidden=(32,)), target_update_period=20, learning_rate=3e-3)
    states = torch.zeros(2, *shape)
    states[0, 0] = 1.0
    rows = TensorDict(
        {
            "observation": states.repeat_interleave(ACTIONS, 0),
            "action": torch.arange(ACTIONS).repeat(2),
            "next": {"observation": states[1].expand(4, *shape), "reward": torch.ones(4)},
            "discount": torch.tensor([0.9, 0.9, 0.0, 0.0]),
        },
        batch_size=[4],
    )
    for _ in range(600):
        agent.update(rows)
    wanted = torch.tensor([[1.9], [1.0]]).expand(2, ACTIONS)
    torch.testing.assert_close(agent.networks["online"](states), wanted, atol=0.03, rtol=0)


def test_double_selects_with_the_online_network():
    plain, double = make_dqn(), make_dqn(double=True)
    for agent in (plain, double):
        agent.networks["target"].load_state_dict(make_dqn(seed=5).networks["target"].state_dict())
    rows = batch(0, discrete=True)
    first, second = plain.update(rows), double.update(rows)
    target, online = (
        agent(rows["next", "observation"]).detach()
        for agent in (plain.networks["target"], make_dqn().networks["online"])
    )
    agree = (target.argmax(-1) == online.argmax(-1)) | (rows["discount"] == 0)
    assert not agree.all()
    assert torch.equal(first.priority == second.priority, agree)
