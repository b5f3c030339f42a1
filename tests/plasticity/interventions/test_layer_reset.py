"""Layer reset: exactly the last layers, with their moments; targets kept or copied."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from rlkit.core.errors import ConfigError
from rlkit.plasticity.interventions.layer_reset import LayerReset, LayerResetConfig
from rlkit.plasticity.networks import layers_from_output
from rlkit.plasticity.protocols import Consumer, UnitGraph, UnitLayer
from tests.agents.helpers import learn as only_learn
from tests.agents.helpers import make_dqn, make_sac, weights
from tests.plasticity.interventions.whole import AGENTS, IMAGES, NORMALISED, check_resume, learn, progress

every_agent = pytest.mark.parametrize(("make", "shape"), AGENTS.values(), ids=AGENTS)


def build(layers=1, every=4, target="keep"):
    return LayerReset(LayerResetConfig(layers, every, target))


def changed_by(agent, cure, shape):
    rng = np.random.default_rng(0)
    cure.attach(agent, rng)
    only_learn(agent, 3, shape=shape)
    before = weights(agent)
    events = cure.apply(agent, None, rng)
    after = weights(agent)
    return {name for name in before if not torch.equal(before[name], after[name])}, events


def test_levels_of_a_dueling_network():  # a shared layer, two streams of their own length, two heads
    layers = (
        UnitLayer("online.shared", "a", 4, (Consumer("online.value.0"), Consumer("online.advantage"))),
        UnitLayer("online.value.0", "b", 4, (Consumer("online.value.2"),)),
    )
    parts = {"shared": nn.Linear(2, 4), "value": nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))}
    online = nn.ModuleDict({**parts, "advantage": nn.Linear(4, 2)})
    agent = SimpleNamespace(networks=nn.ModuleDict({"online": online}), unit_graph=lambda: UnitGraph(layers))
    assert layers_from_output(agent, "online") == [
        ["online.advantage", "online.value.2"],
        ["online.value.0"],
        ["online.shared"],
    ]


def test_levels_of_each_network():
    agent = make_sac()
    assert layers_from_output(agent, "actor") == [["actor.head"], ["actor.trunk.2"], ["actor.trunk.0"]]
    assert layers_from_output(agent, "critic") == [["critic.head"], ["critic.trunk.2"], ["critic.trunk.0"]]


@pytest.mark.parametrize(
    ("layers", "parts"),
    [(1, {"head"}), (2, {"head", "trunk.2", "trunk.norm2"}), (4, {"head", "trunk.2", "trunk.norm2", "trunk.0",
     "trunk.norm0", "torso.conv1", "torso.norm1"})],
)  # fmt: skip
def test_the_last_layers_of_a_network_of_images(layers, parts):
    changed, [event] = changed_by(make_dqn(IMAGES, NORMALISED), build(layers), IMAGES)
    assert {name.rpartition(".")[0] for name in changed} == {f"online.{part}" for part in parts}
    assert set(event.details["layers"]) == {f"online.{part}" for part in parts}
    assert event.details["weight_change"] > 0


def test_targets_are_kept_or_copied():
    kept, _ = changed_by(make_sac(), build(), (3,))
    assert kept == {f"{network}.head.{name}" for network in ("actor", "critic") for name in ("weight", "bias")}
    agent = make_sac()
    copied, _ = changed_by(agent, build(target="copy"), (3,))
    assert copied - kept == {"target_critic.head.weight", "target_critic.head.bias"}
    assert torch.equal(agent.networks["critic"].head.weight, agent.networks["target_critic"].head.weight)


def test_norms_go_back_to_one_and_zero():
    agent = make_dqn(network=NORMALISED)
    changed_by(agent, build(2), (3,))
    norm = agent.networks["online"].get_submodule("trunk.norm2")
    assert torch.equal(norm.weight, torch.ones(6))
    assert not norm.bias.any()


@every_agent
def test_moments_of_the_reset_layers_and_of_no_others_are_cleared(make, shape):
    agent = make()
    changed_by(agent, build(2), shape)
    for name, network in agent.networks.items():
        for address, parameter in network.named_parameters():
            state = next((o.state[parameter] for o in agent.optimizers.values() if parameter in o.state), None)
            if state is not None:
                gone = address.startswith(("head.", "trunk.2."))
                assert all(value.any() != gone for value in state.values()), (name, address)


@every_agent
def test_resume(make, shape):
    assert check_resume(make, shape, lambda: build(2, 3))


def test_nothing_happens_in_the_last_tenth():
    cure = build(every=10)
    assert [updates for updates in range(101) if cure.due(progress(updates, 100))] == list(range(10, 91, 10))


def test_the_head_learns_again():
    agent, cure, rng = make_dqn(), build(every=2), np.random.default_rng(0)
    cure.attach(agent, rng)
    assert len(learn(agent, cure, rng, 4)) == 2
    before = agent.networks["online"].head.weight.clone()
    only_learn(agent, 1)
    assert not torch.equal(before, agent.networks["online"].head.weight)


def test_more_layers_than_there_are():
    with pytest.raises(ConfigError, match=r"intervention\.layer_reset\.layers is 4") as caught:
        build(4).attach(make_dqn(), np.random.default_rng(0))
    assert "'online' has 3 layers" in str(caught.value)


@pytest.mark.parametrize("settings", [{"layers": 0}, {"every": 0}, {"target": "mirror"}])
def test_settings(settings):
    with pytest.raises(ConfigError, match=rf"intervention\.layer_reset\.{next(iter(settings))}"):
        LayerResetConfig(**settings)
