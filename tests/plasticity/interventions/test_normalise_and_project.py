"""Normalise and project: lengths stay, answers too."""

import numpy as np
import pytest
import torch

from rlkit.core.errors import ConfigError
from rlkit.plasticity.interventions.normalise_and_project import (
    NormaliseAndProject,
    NormaliseAndProjectConfig,
    joint_norm,
    scale_,
)
from rlkit.plasticity.networks import trained_networks
from tests.agents.helpers import learn as only_learn
from tests.agents.helpers import make_dqn, make_sac, weights
from tests.plasticity.interventions.whole import AGENTS, IMAGES, NORMALISED, check_resume, progress, rows

every_agent = pytest.mark.parametrize(("make", "shape"), AGENTS.values(), ids=AGENTS)


def build():
    return NormaliseAndProject(NormaliseAndProjectConfig())


def attached(agent):
    cure = build()
    cure.attach(agent, np.random.default_rng(0))
    return cure


def test_v13_projection():
    weight = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
    scale_([weight], 2 / joint_norm([weight], 1))
    torch.testing.assert_close(weight, torch.tensor([[0.81649658, 1.63299316], [0.0, 0.81649658]]))


def test_copies_have_lengths_of_their_own():
    weight, bias = torch.tensor([[[3.0]], [[0.0]]]), torch.tensor([[4.0], [2.0]])
    assert joint_norm([weight, bias], 2).tolist() == [5, 2]
    scale_([weight, bias], torch.tensor([10.0, 0.5]))
    assert weight.flatten().tolist() == [30, 0]
    assert bias.flatten().tolist() == [40, 1]


@every_agent
def test_lengths_stay_and_heads_are_free(make, shape):
    plain, agent = make(network=NORMALISED), make(network=NORMALISED)
    start = weights(agent)
    attached(agent)
    only_learn(plain, 10, shape=shape), only_learn(agent, 10, shape=shape)
    for network in trained_networks(agent):
        copies = 2 if network == "critic" else 1
        for layer in [layer for layer in agent.unit_graph().layers if layer.name.startswith(f"{network}.")]:
            name = f"{layer.name}.weight"
            lengths = [joint_norm([found[name]], copies) for found in (start, weights(agent), weights(plain))]
            torch.testing.assert_close(lengths[0], lengths[1])
            assert not torch.allclose(lengths[0], lengths[2], rtol=1e-4)
            assert not torch.equal(start[name], weights(agent)[name])
            scales = [weights(agent)[f"{layer.norm}.{part}"] for part in ("weight", "bias")]
            torch.testing.assert_close(joint_norm(scales, copies), torch.full((copies,), layer.units**0.5))
            assert scales[1].any()
        assert not torch.equal(weights(agent)[f"{network}.head.weight"], start[f"{network}.head.weight"])


def test_putting_weights_back_changes_no_answer():
    agent = make_dqn(IMAGES, NORMALISED)
    attached(agent)
    [hook] = agent.after_step
    online, observation = agent.networks["online"], rows(0, agent, IMAGES)["observation"]
    before = online(observation)
    with torch.no_grad():
        for layer in agent.unit_graph().layers:
            producer = agent.networks.get_submodule(layer.name)
            producer.weight.mul_(3), producer.bias.mul_(3)
    hook("another")
    assert online.trunk[0].weight.norm() > 2.5 * joint_norm([online.trunk[0].weight / 3], 1)
    hook("online")
    torch.testing.assert_close(online(observation), before, rtol=1e-4, atol=1e-5)


def test_a_weight_of_length_zero_stays():
    agent = make_dqn(network=NORMALISED)
    attached(agent)
    with torch.no_grad():
        agent.networks["online"].trunk[0].weight.zero_()
    agent.after_step[0]("online")
    assert not agent.networks["online"].trunk[0].weight.any()


@pytest.mark.parametrize("make", [make_dqn, make_sac])
def test_networks_without_norms_are_refused(make):
    with pytest.raises(ConfigError, match="no normalisation follows it") as caught:
        attached(make())
    assert "fix: --network.layer_norm true" in str(caught.value)


@every_agent
def test_resume(make, shape):
    assert check_resume(lambda **k: make(network=NORMALISED, **k), shape, build) == []


def test_it_is_never_due():
    assert not any(build().due(progress(n)) for n in range(10))
    assert build().apply(make_dqn(), None, np.random.default_rng(0)) == []
