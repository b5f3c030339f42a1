"""ReGraMa: the gradient's mask, hidden units only, outgoing weights kept."""

import dataclasses

import numpy as np
import pytest
import torch

from rlkit.core.errors import ConfigError
from rlkit.plasticity.interventions.regrama import ReGraMa, ReGraMaConfig, lowest
from tests.plasticity.hand_made import measurement
from tests.plasticity.interventions.unit_cures import data, equal, make, measure, progress, resumes, silence


def test_lowest_golden():
    scores = np.array([[0.0, 0.009, 0.0, 3.0, 0.001], [2.0, 0.0, 1.0, 1.0, 1.0]])
    mask = scores <= 0.01
    assert lowest(scores, mask, 1.0).tolist() == mask.tolist()
    assert lowest(scores, mask, 0.6).astype(int).tolist() == [[1, 0, 1, 0, 1], [0, 1, 0, 0, 0]]
    assert lowest(scores, mask, 0.2).astype(int).tolist() == [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0]]
    assert not lowest(scores, mask, 0.1).any()


@pytest.mark.parametrize("name", ["dqn", "sac"])
def test_units_without_gradient_start_anew_and_keep_their_outgoing_weights(name):
    agent = make(name)
    for number in range(5):
        agent.update(data(name, number))
    silence(agent)
    cure, rng = ReGraMa(ReGraMaConfig(threshold=0.0)), np.random.default_rng(3)
    cure.attach(agent, rng)
    measured = measure(name, agent)
    before = {key: value.clone() for key, value in agent.networks.state_dict().items()}
    events = cure.apply(agent, measured, rng)
    after = agent.networks.state_dict()
    layers = {layer.name: layer for layer in agent.unit_graph().layers}
    assert {event.details["layer"] for event in events} == set(layers)
    heads = {consumer.layer for layer in layers.values() for consumer in layer.consumers} - set(layers)
    assert heads <= set(measured.layers)  # they have gradient scores too, and no units
    for head in heads:
        assert torch.equal(after[f"{head}.weight"], before[f"{head}.weight"])
    for layer in layers.values():
        chosen = torch.from_numpy(measured.layers[layer.name].scores["grama"] == 0)
        assert chosen.any()
        weight, old = (state[f"{layer.name}.weight"].reshape(*chosen.shape, -1) for state in (after, before))
        assert torch.equal((weight != old).any(-1), chosen)


def test_due_every_so_many_gradient_steps_and_not_at_0():
    cure = ReGraMa(ReGraMaConfig(every=3))
    assert [n for n in range(10) if cure.due(progress(n))] == [3, 6, 9]


OTHER_VALUES = {
    "every": 2,
    "threshold": 0.1,
    "max_share": 0.3,
    "outgoing": "zero",
    "bias": "zero",
    "optimizer_step": "zero_tensor",
    "second_moment": "living_mean",
    "target": "mirror",
}


def short_run(**settings):
    agent, cure = make("dqn"), ReGraMa(ReGraMaConfig(**{"every": 3, "threshold": 0.7} | settings))
    rng = np.random.default_rng(0)
    cure.attach(agent, rng)
    for number in range(3):
        agent.update(data("dqn", number))
        if cure.due(progress(number + 1)):
            cure.apply(agent, measure("dqn", agent), rng)
    return agent.state_dict()


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(ReGraMaConfig)])
def test_each_setting_changes_the_run(field):
    assert not equal(short_run(), short_run(**{field: OTHER_VALUES[field]}))


def test_the_three_kinds_of_outgoing_weights_differ():
    assert not equal(short_run(outgoing="small"), short_run(outgoing="zero"))
    assert not equal(short_run(outgoing="small"), short_run(outgoing="keep"))


@pytest.mark.parametrize(
    "settings",
    [{"every": 0}, {"threshold": -0.1}, {"max_share": 0.0}, {"outgoing": "none"}, {"bias": "one"},
     {"optimizer_step": "zero"}, {"second_moment": "mean"}, {"target": "copy"}],
)  # fmt: skip
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ConfigError, match=f"regrama.{next(iter(settings))} is"):
        ReGraMaConfig(**settings)


def test_a_measurement_with_gradients_is_needed():
    agent = make("dqn")
    scores = {layer.name: {"redo": np.ones((1, layer.units))} for layer in agent.unit_graph().layers}
    with pytest.raises(ConfigError, match="no score 'grama'"):
        ReGraMa(ReGraMaConfig()).apply(agent, measurement(scores), np.random.default_rng(0))


@pytest.mark.parametrize("name", ["dqn", "sac"])
def test_resume(name):
    resumes(name, lambda: ReGraMa(ReGraMaConfig(every=3, threshold=0.3)), half=5)
