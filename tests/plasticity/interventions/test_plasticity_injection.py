"""Plasticity injection: the same answers, the same encoder gradient, a fresh head that is trained."""

import copy

import numpy as np
import pytest
import torch

from rlkit.core.errors import ConfigError
from rlkit.nn.config import NetworkConfig
from rlkit.plasticity.interventions.plasticity_injection import PlasticityInjection, PlasticityInjectionConfig
from rlkit.plasticity.networks import trained_networks, trained_parameters
from rlkit.plasticity.surgery import recycle
from rlkit.plasticity.unit_graph import check_graph
from tests.agents.helpers import learn as only_learn
from tests.agents.helpers import make_dqn, make_sac, weights
from tests.plasticity.interventions.whole import AGENTS, IMAGES, check_resume, measure, progress, rows

every_agent = pytest.mark.parametrize(("make", "shape"), AGENTS.values(), ids=AGENTS)


def build(*at):
    return PlasticityInjection(PlasticityInjectionConfig(at or (3,)))


def inject(agent, cure=None, seed=0):
    cure, rng = cure or build(), np.random.default_rng(seed)
    cure.attach(agent, rng)
    return cure.apply(agent, None, rng)


def answers(agent, shape):
    batch = rows(9, agent, shape)
    found = {}
    for name, network in agent.networks.items():
        if "critic" in name:
            found[name] = network(batch["observation"], batch["action"])
        elif name == "actor":
            found[name] = torch.cat(network(batch["observation"]), dim=-1)
        else:
            found[name] = network(batch["observation"])
    return found


@every_agent
@pytest.mark.parametrize("times", [1, 3])
def test_no_answer_changes_for_online_and_target(make, shape, times):
    agent, cure = make(), build(1, 2, 3)
    only_learn(agent, 4, shape=shape)
    before = answers(agent, shape)
    for number in range(times):
        events = inject(agent, cure, number)
        assert [event.details["number"] for event in events] == [number + 1] * len(events)
        only = {event.details["network"] for event in events}
        assert only == set(trained_networks(agent))
    for name, value in answers(agent, shape).items():
        torch.testing.assert_close(value, before[name], atol=1e-6, rtol=1e-5, msg=name)
    assert not torch.equal(before["target" if "target" in before else "target_critic"], before[next(iter(only))])


@every_agent
def test_only_the_fresh_head_and_the_encoder_are_trained(make, shape):
    agent, count = make(), sum(p.numel() for p in make().networks.parameters() if p.requires_grad)
    only_learn(agent, 2, shape=shape)
    objects = {name: trained_parameters(agent, name) for name in trained_networks(agent)}
    old = weights(agent)
    inject(agent)
    for network in trained_networks(agent):
        assert {k: id(p) for k, p in trained_parameters(agent, network).items()} == {
            k: id(p) for k, p in objects[network].items()
        }
        groups = [p for group in agent.optimizers[network].param_groups for p in group["params"]]
        assert {id(p) for p in groups} == {id(p) for p in objects[network].values()}
        for address, parameter in objects[network].items():
            state = agent.optimizers[network].state[parameter]
            own = address.removeprefix(f"{network}.")
            if "torso" in own:
                assert torch.equal(parameter, old[address])
                assert all(value.any() for value in state.values())
                continue
            term = f"{network}.injected.terms.0"
            assert torch.equal(weights(agent)[f"{term}.old.{own}"], old[address])
            assert torch.equal(weights(agent)[f"{term}.copy.{own}"], parameter)
            assert not torch.equal(parameter, old[address])
            assert not any(value.any() for value in state.values())
    assert sum(p.numel() for p in agent.networks.parameters() if p.requires_grad) == count
    before = weights(agent)
    only_learn(agent, 1, first=2, shape=shape)
    after = weights(agent)
    for name in before:
        network = name.partition(".")[0]
        if ".injected." in name and not network.startswith("target"):
            assert torch.equal(before[name], after[name]), name
            assert agent.networks.get_parameter(name).grad is None
        elif network in objects:
            assert not torch.equal(before[name], after[name]) or "bias" in name, name


def test_the_encoder_gets_the_gradient_of_the_old_head():
    agent = make_dqn(IMAGES)
    only_learn(agent, 3, shape=IMAGES)
    twin, observation = copy.deepcopy(agent.networks["online"]), rows(7, agent, IMAGES)["observation"]
    inject(agent)
    gradients = []
    for network in (twin, agent.networks["online"]):
        network.zero_grad()
        network(observation).square().sum().backward()
        gradients.append(network.torso.conv1.weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-4)


def test_the_target_keeps_its_own_head_and_gets_the_same_draw():
    agent = make_sac()
    only_learn(agent, 3)
    old = weights(agent)
    inject(agent)
    new = weights(agent)
    for own in ("trunk.0.weight", "head.bias"):
        assert torch.equal(new[f"critic.{own}"], new[f"target_critic.{own}"])
        assert torch.equal(new[f"target_critic.injected.terms.0.old.{own}"], old[f"target_critic.{own}"])
        copies = [new[f"{network}.injected.terms.0.copy.{own}"] for network in ("critic", "target_critic")]
        assert torch.equal(*copies)


def test_a_hard_copy_makes_the_target_the_network():
    agent = make_dqn(target_update_period=4)
    only_learn(agent, 2)
    inject(agent)
    only_learn(agent, 2, first=2)
    found = answers(agent, (3,))
    assert torch.equal(found["online"], found["target"])


def test_the_unit_graph_and_the_monitor_see_the_trained_head():
    agent = make_dqn(IMAGES, NetworkConfig((8, 6), activation="crelu"))
    names = [layer.name for layer in agent.unit_graph().layers]
    cure = build(1, 2)
    inject(agent, cure), inject(agent, cure, seed=1)
    assert [layer.name for layer in agent.unit_graph().layers] == names
    readers = {consumer.layer for consumer in agent.unit_graph().layers[0].consumers}
    frozen = {f"online.injected.terms.{n}.{term}.trunk.0" for n in (0, 1) for term in ("old", "copy")}
    assert readers == {"online.trunk.0", *frozen}
    batch = rows(3, agent, IMAGES)
    check_graph(agent.networks, agent.unit_graph(), forward=lambda: agent.outputs(batch))
    trunk = agent.networks["online"].trunk
    scores = measure(agent, 3, IMAGES).layers["online.trunk.0"].scores["redo"]
    with torch.no_grad():
        trunk[0].weight[2], trunk[0].bias[2] = 0, 0
    after = measure(agent, 3, IMAGES).layers["online.trunk.0"].scores["redo"]
    assert scores[0, 2] > 0
    assert after[0, 2] == 0


def test_recycling_a_silent_channel_afterwards_changes_no_answer():
    agent = make_dqn(IMAGES)
    only_learn(agent, 3, shape=IMAGES)
    inject(agent)
    conv = agent.networks["online"].torso.conv1
    with torch.no_grad():
        conv.weight[5], conv.bias[5] = 0, -1
    before = answers(agent, IMAGES)["online"]
    mask = np.arange(16)[None] == 5
    recycle(agent, {"online.torso.conv1": mask}, np.random.default_rng(0))
    assert conv.weight[5].any()
    assert torch.equal(answers(agent, IMAGES)["online"], before)


def test_a_copy_of_the_network_stands_for_itself():
    agent = make_dqn()
    only_learn(agent, 2)
    inject(agent)
    network = agent.networks["online"]
    twin, observation = copy.deepcopy(network), rows(7, agent)["observation"]
    before = network(observation)
    assert torch.equal(twin(observation), before)
    with torch.no_grad():
        for parameter in twin.injected.parameters():
            parameter.zero_()
    assert torch.equal(network(observation), before)
    assert not torch.equal(twin(observation), before)


def test_old_answers_stay_in_the_sum():  # the trained head zeroed: what is left is old - copy
    agent = make_dqn()
    only_learn(agent, 3)
    twin, observation = copy.deepcopy(agent.networks["online"]), rows(7, agent)["observation"]
    inject(agent)
    network = agent.networks["online"]
    fresh = network.head(network.trunk(network.torso(observation)))
    torch.testing.assert_close(fresh, twin(observation), atol=1e-6, rtol=1e-5)
    term = network.injected.terms[0]
    torch.testing.assert_close(term["old"](observation), twin(observation))


def test_when():
    assert [n for n in range(10) if build(2, 5).due(progress(n))] == [2, 5]


@every_agent
@pytest.mark.parametrize("at", [(2,), (7,), (1, 4, 8)], ids=["before", "after", "both"])
def test_resume(make, shape, at):
    check_resume(make, shape, lambda: build(*at))


@pytest.mark.parametrize("at", [(), (0,), (5, 5), (6, 5), (1, 2, 3, 4)])
def test_settings(at):
    with pytest.raises(ConfigError, match=r"intervention\.plasticity_injection\.at"):
        PlasticityInjectionConfig(at)


def test_a_network_without_trunk_is_refused():
    agent = make_dqn()
    agent.networks["online"] = torch.nn.Sequential(torch.nn.Linear(3, 2))
    with pytest.raises(ConfigError, match="does not find the head of 'online'"):
        build().attach(agent, np.random.default_rng(0))
