"""Continual backprop: vector V12 and invariant 7.8."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from rlkit.core.errors import ConfigError
from rlkit.nn.config import NetworkConfig
from rlkit.plasticity.interventions.continual_backprop import ContinualBackprop, ContinualBackpropConfig
from rlkit.plasticity.protocols import Consumer, UnitGraph, UnitLayer
from tests.agents.helpers import learn, make_dqn
from tests.plasticity.hand_made import HandMade, linear
from tests.plasticity.interventions.unit_cures import data, equal, make, progress, resumes, run

H = torch.tensor([[1, 0, 2], [3, 0.2, 2]], dtype=torch.float64)


def v12(**settings):
    network = nn.Sequential(
        linear([[1, 1], [0.5, 0.5], [2, 0]], [7, 7, 7], draw=[[9, 9], [8, 8], [6, 6]], draw_bias=5.0),
        nn.ReLU(),
        linear([[1, 2, 0.5], [-1, 0, 0.5]], [0, 0]),
    )
    agent = HandMade({"online": network}, UnitGraph((UnitLayer("online.0", "online.1", 3, (Consumer("online.2"),)),)))
    config = {"replacement_rate": 0.2, "decay": 0.9, "maturity": 2} | settings
    cure = ContinualBackprop(ContinualBackpropConfig(**config))
    cure.attach(agent, np.random.default_rng(0))
    return agent, cure


def step(agent, cure, h=H):
    """A gradient step that moves nothing; whether the features are the new ones of the unit does not matter here."""
    cure.activation("online.0", h)
    for hook in agent.after_step:
        hook("online")
    return cure.state_dict()["units"]["online.0"]


def test_v12_contribution():
    agent, cure = v12()
    network = agent.networks["online"]
    for t, account in enumerate([0, 0, Fraction(3, 5)], start=1):
        state = step(agent, cure)
        correction = 1 - 0.9**t
        np.testing.assert_allclose(state["utility"] / correction, [[2, 0.1, 1]])
        np.testing.assert_allclose(state["mean"] / correction, [[2, 0.1, 2]])
        assert [Fraction(owed) for owed in state["account"]] == [account]
    state = step(agent, cure)  # t = 4
    assert state["account"] == ["1/5"]
    assert state["age"].tolist() == [[4, 0, 4]]
    assert (state["mean"][0, 1], state["utility"][0, 1]) == (0, 0)
    assert network[0].weight.tolist() == [[1, 1], [8, 8], [2, 0]]
    assert network[0].bias.tolist() == [7, 0, 7]
    assert network[2].weight.tolist() == [[1, 0, 0.5], [-1, 0, 0.5]]
    assert network[2].bias.tolist() == pytest.approx([0.2, 0])
    state = step(agent, cure)  # t = 5
    assert state["account"] == ["3/5"]
    correction = 1 - 0.9 ** np.array([[5, 1, 5]])
    np.testing.assert_allclose(state["utility"].numpy() / correction, [[2, 0, 1]])
    (event,) = cure.apply(agent, None, np.random.default_rng(0))
    assert event.details["replaced"] == {"online.0": 1}
    (event,) = cure.apply(agent, None, np.random.default_rng(0))
    assert event.details["replaced"] == {"online.0": 0}


@pytest.mark.parametrize(
    ("utility", "y"), [("zero_contribution", [1, 0.1, 0]), ("adaptable_contribution", [1, 0.2, 0])]
)
def test_v12_other_utilities(utility, y):
    agent, cure = v12(utility=utility)
    np.testing.assert_allclose(step(agent, cure)["utility"] / 0.1, [y], atol=1e-12)
    for _ in range(3):
        state = step(agent, cure)
    assert state["age"].tolist() == [[4, 4, 0]]
    assert agent.networks["online"][2].bias.tolist() == pytest.approx([1, 1])


def test_without_compensation_consumer_biases_stay():
    agent, cure = v12(compensate=False)
    for _ in range(4):
        step(agent, cure)
    assert agent.networks["online"][2].bias.tolist() == [0, 0]


def test_only_the_network_that_was_stepped():
    agent, cure = v12()
    for hook in agent.after_step:
        hook("actor")
    assert cure.state_dict()["units"] == {}


def test_a_step_that_nobody_observed_is_an_error():
    agent = make_dqn()
    ContinualBackprop(ContinualBackpropConfig()).attach(agent, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="saw no activations of 'online"):
        learn(agent, 1)


@pytest.mark.parametrize("name", ["dqn", "sac"])
def test_expected_number_of_replacements_and_no_young_unit(name):
    """Invariant 7.8: as many as the exact sum of rate times eligible units, less than one unit apart."""
    agent, rng = make(name), np.random.default_rng(0)
    config = ContinualBackpropConfig(replacement_rate=0.03, maturity=5, decay=0.9)
    cure = ContinualBackprop(config)
    cure.attach(agent, rng)
    owed, replaced = {}, {}
    for number in range(40):
        before = {n: s["age"] for n, s in cure.state_dict()["units"].items()}
        agent.update(data(name, number), cure.observer)
        for layer in agent.unit_graph().layers:
            state = cure.state_dict()["units"][layer.name]
            age = before.get(layer.name, np.zeros((layer.ensemble, layer.units), int)) + 1
            new = state["age"] == 0
            assert np.all(age[new] > config.maturity)
            assert np.array_equal(state["age"][~new], age[~new])
            for k in range(layer.ensemble):
                key = (layer.name, k)
                owed[key] = owed.get(key, Fraction(0)) + Fraction(3, 100) * int((age[k] > config.maturity).sum())
                replaced[key] = replaced.get(key, 0) + int(new[k].sum())
                assert 0 <= owed[key] - replaced[key] < 1
                assert Fraction(state["account"][k]) == owed[key] - replaced[key]
    assert min(replaced.values()) > 0


def test_compensation_keeps_the_mean_output_on_the_tracked_average():
    agent, cure = v12(decay=0.0)
    network = agent.networks["online"]
    before = (H @ network[2].weight.T + network[2].bias).mean(0)
    for _ in range(4):
        step(agent, cure)
    h = H.clone()
    h[:, 1] = 0  # the replaced unit says something else now, and nobody listens
    torch.testing.assert_close((h @ network[2].weight.T + network[2].bias).mean(0), before)


@pytest.mark.parametrize("activation", ["crelu", "fourier"])
def test_both_halves_of_a_unit(activation):
    network = NetworkConfig(hidden=(4, 3), activation=activation, layer_norm=True)
    agent = make_dqn(shape=(1, 10, 10), network=network)
    cure = ContinualBackprop(ContinualBackpropConfig(replacement_rate=0.2, maturity=2))
    cure.attach(agent, np.random.default_rng(0))
    events = run("dqn", agent, cure, np.random.default_rng(0), 0, 6)
    assert events == []
    (event,) = cure.apply(agent, None, np.random.default_rng(0))
    assert min(event.details["replaced"].values()) > 0


def test_due_for_its_report_only():
    cure = ContinualBackprop(ContinualBackpropConfig(report_every=4))
    assert [n for n in range(10) if cure.due(progress(n))] == [4, 8]
    assert cure.score is None


OTHER_VALUES = {
    "replacement_rate": 0.2,
    "maturity": 3,
    "decay": 0.1,
    "utility": "adaptable_contribution",
    "compensate": False,
    "optimizer_step": "zero_tensor",
    "second_moment": "zero",
}


@pytest.mark.parametrize(
    "field", [f.name for f in dataclasses.fields(ContinualBackpropConfig) if f.name != "report_every"]
)
def test_each_setting_changes_the_run(field):
    def result(**settings):
        agent, rng = make("dqn"), np.random.default_rng(0)
        base = {"replacement_rate": 0.1, "maturity": 1, "decay": 0.99}
        cure = ContinualBackprop(ContinualBackpropConfig(**base | settings))
        cure.attach(agent, rng)
        run("dqn", agent, cure, rng, 0, 10)
        return agent.state_dict()

    plain = result()
    assert equal(plain, result())
    assert not equal(plain, result(**{field: OTHER_VALUES[field]}))


@pytest.mark.parametrize(
    "settings",
    [{"replacement_rate": 1.1}, {"maturity": -1}, {"decay": 1.0}, {"utility": "weight"}, {"optimizer_step": "zero"},
     {"second_moment": "mean"}, {"report_every": 0}],
)  # fmt: skip
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ConfigError, match=rf"continual_backprop.{next(iter(settings))} is"):
        ContinualBackpropConfig(**settings)


@pytest.mark.parametrize("name", ["dqn", "sac"])
def test_resume(name):
    config = ContinualBackpropConfig(replacement_rate=0.05, maturity=2, report_every=4)
    resumes(name, lambda: ContinualBackprop(config), half=6)
