"""Learned activations in networks: who shares what, how they are optimised, what is recorded of them."""

import copy
import json

import pytest
import torch
from torch import nn
from torch.optim import Adam

from rlkit.agents.sac import SAC
from rlkit.core.errors import ConfigError
from rlkit.nn.adam import adam_step, make_adam
from rlkit.nn.config import NetworkConfig
from rlkit.nn.learnable import CURVE_POINTS, curves, learnable_activations
from rlkit.nn.rational import rationals
from rlkit.nn.torsos import QNetwork
from rlkit.plasticity.unit_graph import check_graph, graph_of
from tests.agents.helpers import FEATURES, batch, learn, make_dqn, make_sac, same, weights

NATURE = (2, 40, 40)
RATIONAL = NetworkConfig(hidden=(8, 6), activation="rational")
JOINT = NetworkConfig(hidden=(8, 6), activation="recurrent_rational")
AGENTS = {
    "dqn": (make_dqn, (FEATURES,)),
    "dqn-nature": (lambda **k: make_dqn(NATURE, **k), NATURE),
    "dqn-clipped": (lambda **k: make_dqn(max_grad_norm=0.1, **k), (FEATURES,)),
    "sac": (make_sac, (FEATURES,)),
}
NETWORKS = {
    "rational": RATIONAL,
    "joint": JOINT,
    "noisy": NetworkConfig(hidden=(8, 6), activation="rational", activation_version="D"),
    "frozen": NetworkConfig(hidden=(8, 6), activation="rational", activation_rate_factor=0),
    "poles": NetworkConfig(
        hidden=(8, 6), activation="rational", activation_version="N", activation_start="tanh", layer_norm=True
    ),
    "swish": NetworkConfig(hidden=(8, 6), activation="swish"),
}
every_case = pytest.mark.parametrize(
    ("make", "shape", "network"),
    [pytest.param(*agent, network, id=f"{a}-{n}") for a, agent in AGENTS.items() for n, network in NETWORKS.items()],
)  # fmt: skip


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def q_network(**changes):
    return QNetwork(NATURE, 3, NetworkConfig(hidden=(8,), **changes), rng())


def through_a_file(state):
    if isinstance(state, dict):
        return {key: through_a_file(value) for key, value in state.items()}
    if isinstance(state, list):
        return [through_a_file(value) for value in state]
    return state.contiguous().clone() if isinstance(state, torch.Tensor) else state


@every_case
def test_training_saving_loading_and_going_on_is_the_same_bit_for_bit(make, shape, network):
    whole = make(network=network)
    learn(whole, 3, shape=shape)
    state = through_a_file(whole.state_dict())
    torch.manual_seed(1)
    learn(whole, 3, first=3, shape=shape)
    torch.manual_seed(2)
    resumed = make(network=network, seed=7)
    resumed.load_state_dict(state)
    learn(resumed, 3, first=3, shape=shape)
    assert same(weights(whole), weights(resumed))


@every_case
def test_coefficients_move_unless_they_are_frozen(make, shape, network):
    agent = make(network=network)
    before = weights(agent)
    learn(agent, 3, shape=shape)
    moved = {name for name, value in weights(agent).items() if not torch.equal(value, before[name])}
    names = [name for name in before if name.endswith(".coefficients") and not name.startswith("target.")]
    assert names
    frozen = network.activation_rate_factor == 0
    assert all((name in moved) != frozen for name in names)


@every_case
def test_the_unit_graph_holds(make, shape, network):
    agent = make(network=network)
    rows = batch(0, discrete=not isinstance(agent, SAC), shape=shape)
    check_graph(agent.networks, agent.unit_graph(), forward=lambda: agent.outputs(rows))


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_the_monitor_sees_them_as_activations(network):
    net = QNetwork((FEATURES,), 2, network, rng())
    graph = graph_of(net, torch.randn(5, FEATURES, generator=rng()))
    assert [(layer.name, layer.activation) for layer in graph.layers] == [
        ("trunk.0", "trunk.1"),
        ("trunk.2", "trunk.3"),
    ]


def test_target_copies_include_coefficients():
    agent = make_dqn(network=RATIONAL, target_update_period=2)
    learn(agent, 2)
    online, target = (rationals(agent.networks[name]) for name in ("online", "target"))
    assert all(torch.equal(a.coefficients, b.coefficients) for a, b in zip(online, target, strict=True))
    learn(agent, 1, first=2)
    assert not torch.equal(online[0].coefficients, target[0].coefficients)
    sac = make_sac(network=RATIONAL, tau=0.5)
    before = rationals(sac.networks["target_critic"])[0].coefficients.clone()
    learn(sac, 1)
    now = rationals(sac.networks["critic"])[0].coefficients
    torch.testing.assert_close(rationals(sac.networks["target_critic"])[0].coefficients, (before + now) / 2)


# --- sharing


@pytest.mark.parametrize(
    ("changes", "sizes"),
    [
        ({"activation": "rational"}, [1, 1, 1, 1]),
        ({"activation": "recurrent_rational"}, [4]),
        ({"activation": "rational", "activation_groups": (2, 2)}, [2, 2]),
        ({"activation": "rational", "activation_groups": (3, 1)}, [3, 1]),
        ({"activation": "swish", "activation_groups": (1, 3)}, [1, 3]),
    ],
)
def test_sharing(changes, sizes):
    network = q_network(**changes)
    adam = make_adam(network, 1e-3)
    functions = adam.param_groups[1]["params"]
    assert len(functions) == len(sizes)
    parts = list(learnable_activations(network).values())
    for twin in (parts, list(learnable_activations(copy.deepcopy(network)).values())):  # as target networks are made
        owners = [part.coefficients.data_ptr() for part in twin]
        assert [owners.count(owner) for owner in dict.fromkeys(owners)] == sizes
    assert [part.address for part in parts] == ["torso.act1", "torso.act2", "torso.act3", "trunk.1"]


def test_the_gradient_of_a_joint_function_is_the_sum_over_its_places():
    joint, apart = q_network(activation="recurrent_rational"), q_network(activation="rational")
    for network in (joint, apart):
        network(torch.randint(0, 256, (4, *NATURE), generator=rng(), dtype=torch.uint8)).square().sum().backward()
    want = sum(part.coefficients.grad for part in rationals(apart))
    torch.testing.assert_close(rationals(joint)[0].coefficients.grad, want)


def test_groups_must_add_up():
    with pytest.raises(ConfigError, match=r"activation_groups is \[2, 1\]") as caught:
        q_network(activation="rational", activation_groups=(2, 1))
    assert "add up to 3; QNetwork has 4 activations that learn: torso.act1, torso.act2" in str(caught.value)
    with pytest.raises(ConfigError, match=r"for recurrent_rational"):
        q_network(activation="recurrent_rational", activation_degrees=(4, 4))


# --- the optimiser


def test_groups_of_the_optimiser():
    plain = make_adam(q_network(), 1e-3, eps=1e-4)
    assert len(plain.param_groups) == 1
    adam = make_adam(q_network(activation="rational", activation_rate_factor=0.1), 1e-3, eps=1e-4)
    weights, functions = adam.param_groups
    assert (weights["lr"], functions["lr"]) == (1e-3, pytest.approx(1e-4))
    assert functions["weight_decay"] == 0
    assert functions["eps"] == 1e-4
    assert [p.shape for p in functions["params"]] == [(10,)] * 4
    assert len(weights["params"]) == 10
    assert len(make_adam(q_network(activation="rational", activation_rate_factor=0.0), 1e-3).param_groups) == 1


@pytest.mark.parametrize("limit", [None, 0.5, 1e6])
def test_each_function_is_clipped_by_itself(limit):
    network = make_sac(network=NetworkConfig((4,), activation="rational", activation_max_grad_norm=limit)).networks[
        "critic"
    ]
    adam, part = make_adam(network, 1e-2), rationals(network)[0]
    twin = copy.deepcopy(network)
    plain = Adam(twin.parameters(), 1e-2, fused=True)
    gradient = torch.cat((torch.full((10,), 0.01), torch.full((10,), 100.0)))
    for _ in range(2):
        for module, optimizer, step in ((network, adam, adam_step), (twin, plain, Adam.step)):
            for parameter in module.parameters():
                parameter.grad = torch.ones_like(parameter)
            rationals(module)[0].coefficients.grad = gradient.clone()
            step(optimizer)
    small, large = part.coefficients.grad.view(2, 10).norm(dim=1).tolist()
    assert small == pytest.approx(0.01 * 10**0.5)
    assert large == pytest.approx(0.5 if limit == 0.5 else 100 * 10**0.5, rel=1e-4)
    for name, value in network.state_dict().items():
        assert torch.equal(value, twin.state_dict()[name]) == (limit != 0.5 or "coefficients" not in name)


def test_the_clip_of_the_weights_leaves_functions_alone():
    one, other = (make_dqn(network=RATIONAL, max_grad_norm=limit, learning_rate=1e-2) for limit in (1e-6, 1e6))
    first = [learn(agent, 1).metrics["grad_norm"] for agent in (one, other)]
    assert torch.equal(*first)
    pairs = zip(rationals(one.networks["online"]), rationals(other.networks["online"]), strict=True)
    assert all(torch.equal(a.coefficients, b.coefficients) for a, b in pairs)
    grads = [p.grad for p in other.optimizers["online"].param_groups[0]["params"]]
    assert first[0].item() == pytest.approx(nn.utils.get_total_norm(grads).item())


def test_shares_outside_the_range_are_metrics():
    metrics = learn(make_dqn(network=RATIONAL), 1).metrics
    assert 0 <= metrics["activation_outside_range"] <= 1
    assert {"activation_outside_range", "actor_activation_outside_range"} <= learn(
        make_sac(network=JOINT), 1
    ).metrics.keys()
    assert not any("outside" in name for name in learn(make_dqn(), 1).metrics)


# --- the record


def test_curves_hold_coefficients_and_values():
    network = make_sac(network=RATIONAL).networks["critic"]
    with torch.no_grad():
        rationals(network)[0].coefficients[10] = 1
    found = curves(network)
    assert list(found) == ["trunk.1", "trunk.3"]
    first, second = found["trunk.1"]
    assert len(first["coefficients"]) == 10
    assert len(first["values"]) == CURVE_POINTS
    assert first["values"][50] == pytest.approx(first["coefficients"][0], rel=1e-4)  # at x = 0
    assert second["values"][50] == 1
    json.dumps(found, allow_nan=False)
    assert curves(make_dqn().networks) == {}


def test_a_pole_in_a_curve_is_no_number():
    network = q_network(
        activation="rational", activation_version="N", activation_degrees=(1, 1), activation_start="identity"
    )
    with torch.no_grad():
        for part in rationals(network):
            part.coefficients[2] = 0.2
    values = curves(network)["trunk.1"][0]["values"]
    assert values[0] is None  # x = -5
    assert sum(value is None for value in values) == 1
