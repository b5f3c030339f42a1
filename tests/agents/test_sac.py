import dataclasses

import gymnasium as gym
import pytest
import torch
from tensordict import TensorDict

from rlkit.agents.sac import SACConfig, build
from rlkit.core.errors import ConfigError
from rlkit.nn.config import NetworkConfig
from tests.agents.helpers import batch, inputs, learn, make_sac, same, weights

# Another value of each setting; a new field without a line here fails the test below.
OTHER_VALUES = {
    "actor_learning_rate": 1e-2,
    "critic_learning_rate": 1e-2,
    "temperature_learning_rate": 1e-2,
    "tau": 0.5,
    "log_std_min": -5.0,
    "log_std_max": 1.0,
    "initial_temperature": 0.1,
    "target_entropy_scale": 4.0,
    "log_std_bound": "clip",
    "temperature_factor": "log_temperature",
    "actor_period": 2,
    "actor_steps": 2,
    "target_period": 2,
}


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(SACConfig)])
def test_each_setting_changes_what_is_learned(field):
    plain, changed = make_sac(), make_sac(**{field: OTHER_VALUES[field]})
    learn(plain, 3), learn(changed, 3)
    before, after = weights(plain), weights(changed)
    assert not same(before, after)
    touched = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    first_touched = {
        "actor_learning_rate": "actor",
        "critic_learning_rate": "critic",
        "temperature_learning_rate": "log_temperature",
        "tau": "target_critic",
        "target_entropy_scale": "log_temperature",
        "temperature_factor": "log_temperature",
        "actor_steps": "actor",
        "target_period": "target_critic",
    }
    assert first_touched.get(field, "critic") in touched


@pytest.mark.parametrize(
    "setting",
    [{"tau": 0.0}, {"log_std_min": 3.0}, {"initial_temperature": 0.0}, {"actor_period": 0}, {"target_period": 0}],
)
def test_impossible_settings_are_refused(setting):
    with pytest.raises(ConfigError, match=f"agent.{next(iter(setting))} is"):
        SACConfig(**setting)


def test_actions_fill_the_box_and_stay_inside():
    agent = make_sac()
    observation = 100 * torch.randn(4_000, 3, generator=torch.Generator().manual_seed(0))
    action = agent.act(observation, explore=True)
    assert action.dtype == torch.float32
    assert ((action >= -2) & (action <= 4)).all()
    assert action.min() < -1.5
    assert action.max() > 3.5


def test_without_exploration_the_action_is_the_squashed_mean():
    agent = make_sac()
    observation = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    mean, _ = agent.networks["actor"](observation)
    noise = agent.noise.get_state()
    torch.testing.assert_close(agent.act(observation, explore=False), 3 * mean.tanh() + 1)
    assert torch.equal(noise, agent.noise.get_state())


def test_the_actor_loss_leaves_the_critic_without_gradients():
    agent = make_sac()

    def clear(loss):
        if loss == "critic":
            agent.optimizers["critic"].zero_grad()

    agent.after_step.append(clear)
    learn(agent, 1)
    assert all(parameter.grad is None for parameter in agent.networks["critic"].parameters())
    assert all(parameter.requires_grad for parameter in agent.networks["critic"].parameters())
    assert all(parameter.grad is None for parameter in agent.networks["target_critic"].parameters())
    assert all(parameter.grad.norm() > 0 for parameter in agent.networks["actor"].parameters())


def test_the_target_moves_by_tau_towards_the_critic_after_its_step():
    agent = make_sac(tau=0.25)
    before = weights(agent)
    learn(agent, 1)
    after = weights(agent)
    for name, value in after.items():
        if name.startswith("target_critic."):
            online = after[name.removeprefix("target_")]
            torch.testing.assert_close(value, 0.75 * before[name] + 0.25 * online)


def test_a_delayed_actor_rests_then_steps_twice():
    agent = make_sac(actor_period=2, actor_steps=2)
    steps = []
    agent.after_step.append(steps.append)
    first = learn(agent, 1)
    assert "actor_loss" not in first.metrics
    second = learn(agent, 1, first=1)
    assert "actor_loss" in second.metrics
    assert steps.count("actor") == steps.count("temperature") == steps.count("critic") == 2


def test_delayed_targets_rest_then_step_once():
    agent = make_sac(tau=0.25, target_period=2)
    before = weights(agent)
    learn(agent, 1)
    still = weights(agent)
    learn(agent, 1, first=1)
    after = weights(agent)
    for name in (name for name in before if name.startswith("target_critic.")):
        assert torch.equal(still[name], before[name])
        online = after[name.removeprefix("target_")]
        torch.testing.assert_close(after[name], 0.75 * before[name] + 0.25 * online)


def test_the_temperature_goes_where_the_entropy_target_says():
    for scale, rises in ((-10.0, True), (10.0, False)):  # target entropy +20 or -20
        agent = make_sac(target_entropy_scale=scale)
        learn(agent, 3)
        assert (agent.log_temperature.item() > 0) == rises


def test_a_known_best_action_is_found():  # reward -(a - 2)^2, no future: Q(a) = -(a - 2)^2, the mean goes to 2
    agent = make_sac(
        NetworkConfig(hidden=(32, 32)),
        actor_learning_rate=5e-3,
        critic_learning_rate=5e-3,
        initial_temperature=0.01,
    )
    rng = torch.Generator().manual_seed(0)
    for _ in range(800):
        action = torch.rand(64, 2, generator=rng) * 6 - 2
        rows = {
            "observation": torch.ones(64, 3),
            "action": action,
            "next": {"observation": torch.ones(64, 3), "reward": -(action - 2).square().sum(-1)},
            "discount": torch.zeros(64),
        }
        agent.update(TensorDict(rows, batch_size=[64]))
    action = agent.act(torch.ones(1, 3), explore=False)
    torch.testing.assert_close(action, torch.full((1, 2), 2.0), atol=0.3, rtol=0)
    q = agent.networks["critic"](torch.ones(1, 3), torch.tensor([[1.0, 3.0]]))
    torch.testing.assert_close(q, torch.full((2, 1), -2.0), atol=0.5, rtol=0)


def test_discount_zero_cuts_the_target():
    agent, rows = make_sac(), batch(0, discrete=False)
    q = agent.networks["critic"](rows["observation"], rows["action"]).detach()
    ended = rows["discount"] == 0
    wanted = (rows["next", "reward"] - q).abs().mean(0)
    priority = agent.update(rows).priority
    torch.testing.assert_close(priority[ended], wanted[ended])
    assert not torch.allclose(priority[~ended], wanted[~ended])


def test_images_are_refused():
    with pytest.raises(ConfigError, match=r"sac cannot read uint8 observations of shape \[4, 10, 10\]"):
        build(inputs(gym.spaces.Box(-1, 1, (2,)), (4, 10, 10)), SACConfig(), NetworkConfig())
