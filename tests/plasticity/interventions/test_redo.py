"""ReDo on real agents; V8 from measurement to weights."""

import dataclasses

import numpy as np
import pytest
import torch

from rlkit.core.errors import ConfigError
from rlkit.nn.config import NetworkConfig
from rlkit.plasticity.interventions.redo import ReDo, ReDoConfig
from rlkit.plasticity.monitor import PlasticityMonitor
from tests.agents.helpers import make_dqn
from tests.plasticity.hand_made import measurement
from tests.plasticity.interventions.unit_cures import data, equal, make, measure, progress, resumes, silence
from tests.plasticity.test_surgery import R8, X, v8

AGENTS = ["dqn", "sac"]


@pytest.mark.parametrize(("threshold", "units"), [(0.0, [2]), (0.025, [2]), (0.1, [2, 3])])
def test_v8_from_the_measured_states(threshold, units):
    agent = v8()
    network = agent.networks["online"]
    before = network(X)
    measured = PlasticityMonitor(agent.networks, agent.unit_graph(), forward=network).measure(X, full=False)
    scores = measured.layers["online.0"].scores["redo"]
    np.testing.assert_allclose(scores, [[1.58415841, 2.37623762, 0, 0.03960396]], atol=1e-8)
    (event,) = ReDo(ReDoConfig(threshold=threshold)).apply(agent, measured, np.random.default_rng(0))
    assert (event.kind, event.details["units"]) == ("redo", [units])
    assert event.details["scores"] == [scores[0, units].tolist()]
    assert network[0].weight[units].tolist() == [R8[unit] for unit in units]
    assert network[2].weight[:, units].abs().sum() == 0
    if units == [2]:
        assert torch.equal(network(X), before)
    else:
        assert (network(X) - before).abs().max().item() == pytest.approx(0.32)


def test_compensation_takes_the_measured_mean():
    agent = v8()
    network = agent.networks["online"]
    measured = PlasticityMonitor(agent.networks, agent.unit_graph(), forward=network).measure(X, full=False)
    before = network(X).mean(0)
    ReDo(ReDoConfig(threshold=0.1, compensate=True)).apply(agent, measured, np.random.default_rng(0))
    assert network[2].bias.tolist() == pytest.approx([0.6, -0.3])
    torch.testing.assert_close(network(X).mean(0), before)


def test_compensation_of_two_halves_is_refused_before_training():
    agent = make_dqn(network=NetworkConfig(hidden=(8,), activation="crelu"))
    ReDo(ReDoConfig()).attach(agent, np.random.default_rng(0))
    with pytest.raises(ConfigError, match=r"online\.trunk\.0 cannot be compensated"):
        ReDo(ReDoConfig(compensate=True)).attach(agent, np.random.default_rng(0))


def answers(name, agent, rows):
    with torch.no_grad():
        if name == "dqn":
            return [agent.networks["online"](rows["observation"])]
        critics = agent.networks["critic"](rows["observation"], rows["action"])
        return [*agent.networks["actor"](rows["observation"]), critics]


@pytest.mark.parametrize("name", AGENTS)
def test_golden_step_units_of_score_0_and_no_answer_moves_by_a_bit(name):
    agent = make(name)
    for number in range(5):
        agent.update(data(name, number))
    silence(agent)
    cure, rng = ReDo(ReDoConfig(threshold=0.0)), np.random.default_rng(3)
    cure.attach(agent, rng)
    measured = measure(name, agent)
    rows = data(name, 1_000)
    before, targets = answers(name, agent, rows), {
        n: v.clone() for n, v in agent.networks.state_dict().items() if n.startswith("target")
    }  # fmt: skip
    events = cure.apply(agent, measured, rng)
    assert {event.details["layer"] for event in events} == {layer.name for layer in agent.unit_graph().layers}
    assert all(torch.equal(a, b) for a, b in zip(answers(name, agent, rows), before, strict=True))
    state = agent.networks.state_dict()
    assert targets
    assert all(torch.equal(state[n], value) for n, value in targets.items())
    for layer in agent.unit_graph().layers:
        dormant = measured.layers[layer.name].scores["redo"] == 0
        assert dormant.any()
        bias = state[f"{layer.name}.bias"].reshape(dormant.shape)
        assert (bias[torch.from_numpy(dormant)].abs() <= 1).all()  # no longer -100
    agent.update(data(name, 6))  # fused Adam goes on with its moments
    assert all(torch.isfinite(value).all() for value in agent.networks.state_dict().values())


def test_a_norm_before_the_activation_makes_no_such_promise():
    """The specification asks to say so: one unit's new row moves all of the layer."""
    agent = make_dqn(network=NetworkConfig(hidden=(8, 6), layer_norm=True))
    with torch.no_grad():
        for layer in agent.unit_graph().layers:
            agent.networks.get_submodule(layer.norm).bias[0] = -100
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    before = agent.networks["online"](x)
    measured = PlasticityMonitor(agent.networks, agent.unit_graph(), forward=agent.networks["online"]).measure(
        x, full=False
    )
    events = ReDo(ReDoConfig(threshold=0.0)).apply(agent, measured, np.random.default_rng(0))
    assert events
    assert not torch.equal(agent.networks["online"](x), before)


@pytest.mark.parametrize("name", AGENTS)
def test_without_dormant_units_nothing_is_touched(name):
    agent = make(name)
    scores = {layer.name: {"redo": np.ones((layer.ensemble, layer.units))} for layer in agent.unit_graph().layers}
    before = agent.state_dict()
    assert ReDo(ReDoConfig()).apply(agent, measurement(scores), np.random.default_rng(0)) == []
    assert equal(agent.state_dict(), before)


def test_due_every_so_many_gradient_steps_and_not_at_0():
    cure = ReDo(ReDoConfig(every=3))
    assert [n for n in range(10) if cure.due(progress(n))] == [3, 6, 9]


OTHER_VALUES = {
    "every": 2,
    "threshold": 1.0,
    "bias": "zero",
    "optimizer_step": "zero_tensor",
    "second_moment": "living_mean",
    "target": "mirror",
    "compensate": True,
}


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(ReDoConfig)])
def test_each_setting_changes_the_run(field):
    def run(**settings):
        agent, cure, rng = make("dqn"), ReDo(ReDoConfig(**{"every": 3, "threshold": 0.5} | settings)), None
        rng = np.random.default_rng(0)
        cure.attach(agent, rng)
        silence(agent)
        for number in range(3):
            agent.update(data("dqn", number))
            if cure.due(progress(number + 1)):
                cure.apply(agent, measure("dqn", agent), rng)
        return agent.state_dict()

    assert equal(run(), run())
    assert not equal(run(), run(**{field: OTHER_VALUES[field]}))


@pytest.mark.parametrize(
    "settings",
    [{"every": 0}, {"threshold": -0.1}, {"threshold": float("nan")}, {"bias": "one"}, {"optimizer_step": "zero"},
     {"second_moment": "mean"}, {"target": "copy"}],
)  # fmt: skip
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ConfigError, match=f"redo.{next(iter(settings))} is"):
        ReDoConfig(**settings)


def test_a_measurement_is_needed():
    with pytest.raises(ConfigError, match="no score 'redo'"):
        ReDo(ReDoConfig()).apply(make("dqn"), None, np.random.default_rng(0))


@pytest.mark.parametrize("name", AGENTS)
def test_resume(name):
    resumes(name, lambda: ReDo(ReDoConfig(every=3, threshold=0.3)), half=5)
