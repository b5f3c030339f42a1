import copy
import dataclasses

import gymnasium as gym
import numpy as np
import pytest
import torch

from rlkit.agents.ace import ACEConfig, RecentSteps, build
from rlkit.agents.agent import WatchesSteps
from rlkit.agents.sac import SACConfig
from rlkit.core.errors import ConfigError
from rlkit.core.seeding import SeedTree
from rlkit.nn.config import NetworkConfig
from rlkit.nn.distributions import squashed_gaussian_log_prob
from tests.agents import helpers
from tests.agents.helpers import ACTIONS, FEATURES, batch, inputs, learn, make_ace, same, weights

SHORT = {"causal_period": 200, "causal_rows": 200}


def steps(count=200, actions=ACTIONS, seed=0):
    """Observations [n, 3], actions [n, A] and rewards r = s0 + 1.5 a0 - .5 a1 + noise of env steps."""
    rng = np.random.default_rng(seed)
    observation, action = rng.uniform(-1, 1, (count, FEATURES)), rng.uniform(-2, 4, (count, actions))
    effect = np.array([1.5, -0.5, *[0.0] * actions])[:actions]
    reward = observation[:, 0] + action @ effect + 0.1 * rng.laplace(size=count)
    return [x.astype(np.float32) for x in (observation, action, reward)]


def show(agent, rows, envs=1):
    """`rows` as the loop hands them over, `envs` at a time; the arrays are overwritten afterwards."""
    for first in range(0, len(rows[0]), envs):
        part = [x[first : first + envs].copy() for x in rows]
        agent.watch(*part)
        for x in part:
            x.fill(np.nan)


@pytest.mark.parametrize("settings", [{}, {"actor_period": 1, "log_std_bound": "squash", "target_entropy_scale": 0.5}])
@pytest.mark.parametrize("search", ["none", "direct_lingam"])
def test_with_weights_one_it_is_sac_bit_for_bit(search, settings):
    agent = make_ace(causal_search=search, causal_rows=1_000, **settings)
    show(agent, steps(300))  # not enough for a search
    shared = {field.name: getattr(agent.config, field.name) for field in dataclasses.fields(SACConfig)}
    sac = helpers.make_sac(**shared)
    for number in range(6):
        observation = batch(number, discrete=False)["observation"]
        assert torch.equal(agent.act(observation, explore=True), sac.act(observation, explore=True))
        found, wanted = (learner.update(batch(number, discrete=False, weighted=True)) for learner in (agent, sac))
        assert found.metrics == wanted.metrics
        assert torch.equal(found.priority, wanted.priority)
    assert same(weights(agent), weights(sac))


def test_weights_enter_target_and_actor_loss():
    """Each loss against its formula, with the noise drawn again."""
    agent, rows, weight = make_ace(initial_temperature=0.7), batch(0, discrete=False), torch.tensor([1.6, 0.4])
    agent.weight.copy_(weight)

    def sampled(observation, rng):
        mean, log_std = agent.networks["actor"](observation)
        noise = torch.randn(mean.shape, generator=rng)
        u = mean + log_std.exp() * noise
        log_prob = squashed_gaussian_log_prob(noise, log_std, u, agent.sac.scale)
        return 3 * u.tanh() + 1, weight[0] * log_prob[:, 0] + weight[1] * log_prob[:, 1]

    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():
        action, log_prob = sampled(rows["next", "observation"], rng)
        value = agent.networks["target_critic"](rows["next", "observation"], action).amin(0) - 0.7 * log_prob
        target = rows["next", "reward"] + rows["discount"] * value
        critic_loss = (target - agent.networks["critic"](rows["observation"], rows["action"])).square().sum(0).mean()
        action, log_prob = sampled(rows["observation"], rng)
        actor_loss = (0.7 * log_prob - agent.networks["critic"](rows["observation"], action).amin(0)).mean()
    found = agent.losses(rows, torch.Generator().manual_seed(3))
    torch.testing.assert_close(found["critic"], critic_loss)
    torch.testing.assert_close(found["actor"], actor_loss)


def test_ten_updates_equal_a_plain_script():
    """The update of the authors' code in plain torch: weighted densities, actor and targets every second time."""
    agent = make_ace(NetworkConfig(hidden=(8, 8, 8), first_activation="elu", init="xavier"))
    weight = torch.tensor([1.6, 0.4])
    agent.weight.copy_(weight)
    actor, critic, target = (copy.deepcopy(agent.networks[name]) for name in ("actor", "critic", "target_critic"))
    log_temperature = torch.zeros((), requires_grad=True)
    steppers = [torch.optim.Adam(part, 3e-4) for part in (actor.parameters(), critic.parameters(), [log_temperature])]
    rng = torch.Generator()
    rng.set_state(agent.sac.noise.get_state())

    def step(loss, which):
        steppers[which].zero_grad()
        loss.backward(retain_graph=True)
        steppers[which].step()

    def sampled(observation):
        mean, log_std = actor(observation)
        normal = torch.distributions.Normal(mean, log_std.exp())
        u = mean + log_std.exp() * torch.randn(mean.shape, generator=rng)
        log_prob = normal.log_prob(u) - torch.log(3 * (1 - u.tanh() ** 2) + 1e-6)
        return 3 * u.tanh() + 1, log_prob @ weight

    for number in range(10):
        rows = batch(number, discrete=False)
        with torch.no_grad():
            action, log_prob = sampled(rows["next", "observation"])
            value = target(rows["next", "observation"], action).min(0).values - log_temperature.exp() * log_prob
            y = rows["next", "reward"] + rows["discount"] * value
        q = critic(rows["observation"], rows["action"])
        step(((y - q[0]) ** 2).mean() + ((y - q[1]) ** 2).mean(), 1)
        if number % 2 == 1:
            action, log_prob = sampled(rows["observation"])
            value = critic(rows["observation"], action).min(0).values
            step((log_temperature.exp().detach() * log_prob - value).mean(), 0)
            step(-(log_temperature * (log_prob.detach() - ACTIONS)).mean(), 2)
            with torch.no_grad():
                for old, new in zip(target.parameters(), critic.parameters(), strict=True):
                    old.copy_(0.995 * old + 0.005 * new)
        agent.update(rows)
    for name, plain in (("actor", actor), ("critic", critic), ("target_critic", target)):
        for found, wanted in zip(agent.networks[name].parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(found, wanted, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(agent.sac.log_temperature, log_temperature)


def test_the_temperature_follows_the_weighted_entropy():
    """Weight 0 on all dimensions but one that counts double: only that one's entropy is held at the target."""
    rises = []
    for weight in ([2.0, 0.0], [0.0, 2.0]):
        agent = make_ace(actor_period=1)
        agent.weight.copy_(torch.tensor(weight))
        with torch.no_grad():  # standard deviations e^-6 and 1
            agent.networks["actor"].head.weight.zero_()
            agent.networks["actor"].head.bias.copy_(torch.tensor([0.0, 0.0, -6.0, 0.0]))
        learn(agent, 1)
        rises.append(agent.sac.log_temperature.item() > 0)
    assert rises == [True, False]


@pytest.mark.parametrize("search", ["direct_lingam", "sink"])
def test_the_dimension_that_acts_on_the_reward_counts_more(search):
    agent = make_ace(causal_search=search, **SHORT)
    show(agent, steps())
    effect = np.array([1.5, -0.5])
    wanted = 2 * np.exp(effect) / np.exp(effect).sum()
    np.testing.assert_allclose(agent.weight.numpy(), wanted, atol=0.03)
    assert agent.weight.sum().item() == pytest.approx(2)


def test_golden_weights_of_the_specification():
    """Seven columns and a reward, 10,000 rows: w = (2.928, .395, .146, .531)."""
    rng = np.random.default_rng(0)
    s, a = rng.uniform(-1, 1, (10_000, 3)), rng.uniform(-1, 1, (10_000, 4))
    a[:, 0] += 0.5 * s[:, 0]
    r = s[:, 0] - 0.5 * s[:, 1] + 2 * a[:, 0] - a[:, 2] + 0.3 * a[:, 3] + 0.2 * rng.laplace(size=10_000)
    agent = make_ace(actions=4)
    agent.watch(*(x.astype(np.float32) for x in (s, a, r)))
    np.testing.assert_allclose(agent.weight.numpy(), [2.928, 0.395, 0.146, 0.531], atol=1e-3)


def test_settings_of_the_weights():
    rows, found = steps(), {}
    for name, settings in {
        "plain": {},
        "standardised": {"causal_standardise": True},
        "absolute": {"causal_absolute": True},
        "hot": {"causal_temperature": 1e6},
    }.items():
        agent = make_ace(**SHORT, **settings)
        show(agent, rows)
        found[name] = agent.weight.tolist()
    deviation = rows[1].std(0) / rows[2].std()
    effect = np.array([1.5, -0.5])
    for name, value in {"standardised": effect * deviation, "absolute": np.abs(effect)}.items():
        np.testing.assert_allclose(found[name], 2 * np.exp(value) / np.exp(value).sum(), atol=0.03)
    np.testing.assert_allclose(found["hot"], [1, 1], atol=1e-5)
    assert len({tuple(value) for value in found.values()}) == 4


def test_every_setting_of_its_own_is_tested_here():
    own = {field.name for field in dataclasses.fields(ACEConfig)} - {f.name for f in dataclasses.fields(SACConfig)}
    tested = {"causal_search", "causal_period", "causal_rows"}
    assert own == tested | {"causal_standardise", "causal_absolute", "causal_temperature"}


@pytest.mark.parametrize("envs", [1, 7])
def test_searches_come_at_multiples_of_the_period_once_the_rows_are_there(envs):
    agent, found = make_ace(causal_period=60, causal_rows=100), []
    agent._search = lambda: found.append(agent.recent.count)
    show(agent, steps(301), envs)
    assert found == [-(-count // envs) * envs for count in (120, 180, 240, 300)]


def test_the_search_reads_the_latest_rows():
    agent = make_ace(causal_period=100, causal_rows=100)
    before, rows = steps(130, seed=1), steps(100)
    before[2][:] = 5.0  # no effects at all
    show(agent, before)
    assert agent.weight.tolist() == [1, 1]  # at 100
    show(agent, [x[:70] for x in rows])  # searches at 200, of which 30 rows are old
    fresh = make_ace(causal_period=100, causal_rows=100)
    show(fresh, [np.concatenate([x[100:], y[:70]]) for x, y in zip(before, rows, strict=True)])
    np.testing.assert_allclose(agent.weight.numpy(), fresh.weight.numpy(), rtol=1e-5)
    assert agent.weight.tolist() != [1, 1]


def test_recent_steps_equal_a_list():
    recent, kept, rng = RecentSteps(10, 2, 1), [], np.random.default_rng(0)
    for envs in (1, 3, 4, 4, 10, 13, 2):
        part = rng.standard_normal((envs, 4)).astype(np.float32)
        recent.add(part[:, :2], part[:, 2:3], part[:, 3])
        kept = [*kept, *part.tolist()][-10:]
        assert recent.is_full == (len(kept) == 10)
        assert sorted(recent.rows[: len(kept)].tolist()) == sorted(kept)


@pytest.mark.parametrize("spoil", ["reward", "nan", "infinite action"])
@pytest.mark.parametrize("search", ["direct_lingam", "sink"])
def test_without_a_usable_reward_every_dimension_counts_one(search, spoil):
    agent, (observation, action, reward) = make_ace(causal_search=search, **SHORT), steps()
    show(agent, (observation, action, reward))
    assert agent.weight.tolist() != [1, 1]
    if spoil == "reward":
        reward[:] = 0.1
    elif spoil == "nan":
        observation[3, 1] = np.nan
    else:
        action[3, 1] = np.inf
    show(agent, (observation, action, reward))
    assert agent.weight.tolist() == [1, 1]
    assert learn(agent, 1).metrics["causal/left_out"] == 1


def test_a_constant_state_is_left_out_and_said():
    agent, rows = make_ace(causal_standardise=True, **SHORT), steps()
    show(agent, rows)
    wanted = agent.weight.clone()
    rows[0][:, 2] = 0.1  # it acts on nothing
    show(agent, rows)
    torch.testing.assert_close(agent.weight, wanted, atol=0.01, rtol=0)
    assert learn(agent, 1).metrics["causal/left_out"] == 1
    rows[1][:, 0] = 2.0
    show(agent, rows)  # a constant action has no effect
    assert agent.weight[0] > agent.weight[1]
    assert learn(agent, 1).metrics["causal/effect_0"] == 0


def test_noise_as_reward_gives_weights_near_one():
    agent, rows = make_ace(**SHORT), steps()
    rows[2][:] = np.random.default_rng(1).uniform(-1, 1, 200)
    show(agent, rows)
    np.testing.assert_allclose(agent.weight.numpy(), [1, 1], atol=0.05)


def test_one_action_dimension_always_counts_one():
    agent = make_ace(actions=1, **SHORT)
    show(agent, steps(actions=1))
    assert agent.weight.tolist() == [1]
    assert agent._found["causal/effect_0"].item() == pytest.approx(1.5, abs=0.05)


def test_a_search_is_told_once():
    agent = make_ace(**SHORT)
    assert not any(key.startswith("causal/") for key in learn(agent, 1).metrics)
    show(agent, steps())
    metrics = learn(agent, 1).metrics
    assert {key for key in metrics if key.startswith("causal/")} == {
        "causal/weight_0", "causal/weight_1", "causal/effect_0", "causal/effect_1", "causal/reward_place",
        "causal/left_out", "causal/wall_s",
    }  # fmt: skip
    torch.testing.assert_close(metrics["causal/weight_0"], agent.weight[0])
    assert metrics["causal/effect_0"].item() == pytest.approx(1.5, abs=0.05)
    assert metrics["causal/reward_place"] >= 2
    assert metrics["causal/left_out"] == 0
    assert not any(key.startswith("causal/") for key in learn(agent, 1).metrics)


def test_the_causal_part_resumes():
    whole, rows = make_ace(**SHORT), steps(500)
    show(whole, [x[:230] for x in rows])
    state = whole.state_dict()
    show(whole, [x[230:] for x in rows])
    resumed = make_ace(seed=3, **SHORT)
    resumed.load_state_dict(state)
    assert resumed._found.keys() == {*whole._found}  # of step 200, not yet told
    show(resumed, [x[230:] for x in rows])
    assert torch.equal(resumed.weight, whole.weight)
    learn(whole, 2), learn(resumed, 2)
    assert same(weights(whole), weights(resumed))


def test_without_a_search_no_step_is_kept():
    agent = make_ace(causal_search="none")
    show(agent, steps())
    assert agent.recent.rows.size == agent.recent.count == 0
    assert agent.weight.tolist() == [1, 1]


def test_only_it_watches():
    assert isinstance(make_ace(), WatchesSteps)
    assert not isinstance(helpers.make_sac(), WatchesSteps)


@pytest.mark.parametrize(
    "setting", [{"causal_period": 0}, {"causal_rows": 0}, {"causal_temperature": 0.0}, {"tau": 0.0}]
)
def test_impossible_settings_are_refused(setting):
    with pytest.raises(ConfigError, match=f"agent.{next(iter(setting))} is"):
        ACEConfig(**setting)


def test_too_few_rows_for_the_spaces_are_refused():
    with pytest.raises(ConfigError, match=r"agent\.causal_rows is 6") as caught:
        make_ace(causal_rows=6)
    assert "3 observations and 2 actions need at least 7 env steps" in str(caught.value)
    show(make_ace(causal_rows=7, causal_period=7), steps(7))
    make_ace(causal_rows=6, causal_search="none")


def test_images_are_refused():
    with pytest.raises(ConfigError, match=r"ace cannot read uint8 observations of shape \[4, 10, 10\]"):
        build(inputs(gym.spaces.Box(-1, 1, (2,)), (4, 10, 10), seeds=SeedTree(0)), ACEConfig(), NetworkConfig())
