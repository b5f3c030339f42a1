"""What every agent must do, DQN on vectors and images, SAC and ACE on vectors."""

import pytest
import torch

from rlkit.core.errors import ResumeError
from rlkit.nn.config import NetworkConfig
from rlkit.plasticity.protocols import Penalty
from tests.agents.helpers import FEATURES, batch, learn, make_ace, make_dqn, make_sac, same, weights

SMALL, NATURE = (4, 10, 10), (2, 36, 36)
CASES = {
    "dqn": (make_dqn, (FEATURES,)),
    "dqn-double": (lambda **k: make_dqn(double=True, target_update_period=2, **k), (FEATURES,)),
    "dqn-small-images": (lambda **k: make_dqn(SMALL, **k), SMALL),
    "dqn-nature": (lambda **k: make_dqn(NATURE, **k), NATURE),
    "sac": (make_sac, (FEATURES,)),
    "sac-delayed": (lambda **k: make_sac(actor_period=2, actor_steps=2, **k), (FEATURES,)),
    "ace": (make_ace, (FEATURES,)),
}
every_agent = pytest.mark.parametrize(("make", "shape"), CASES.values(), ids=CASES)


def names_of(agent):
    return ["online"] if is_discrete(agent) else ["critic", "actor", "temperature"]


def is_discrete(agent):
    return "online" in agent.networks


def through_a_file(state):
    """Files keep values, not memory layouts."""
    if isinstance(state, dict):
        return {key: through_a_file(value) for key, value in state.items()}
    if isinstance(state, list):
        return [through_a_file(value) for value in state]
    return state.contiguous().clone() if isinstance(state, torch.Tensor) else state


@every_agent
def test_resume_is_bit_exact_with_a_disturbed_global_generator(make, shape):
    whole = make()
    observation = batch(99, discrete=True, shape=shape)["observation"]
    learn(whole, 3, shape=shape)
    whole.act(observation, explore=True)
    state = through_a_file(whole.state_dict())
    torch.manual_seed(1)
    learn(whole, 3, first=3, shape=shape)

    torch.manual_seed(2)
    resumed = make(seed=7)  # other weights, other noise: all of it must come from the state
    resumed.load_state_dict(state)
    learn(resumed, 3, first=3, shape=shape)
    assert same(weights(whole), weights(resumed))
    assert torch.equal(whole.act(observation, explore=True), resumed.act(observation, explore=True))
    assert whole.updates == resumed.updates == 6


@every_agent
def test_a_state_is_a_copy(make, shape):
    agent = make()
    learn(agent, 1, shape=shape)
    state, before = agent.state_dict(), through_a_file(agent.state_dict())
    learn(agent, 2, first=1, shape=shape)
    assert same(state["networks"], before["networks"])
    name = names_of(agent)[0]
    assert torch.equal(
        state["optimizers"][name]["parameters"][0]["exp_avg"], before["optimizers"][name]["parameters"][0]["exp_avg"]
    )


@pytest.mark.parametrize("make", [make_dqn, make_sac, make_ace])
def test_a_state_of_another_network_is_refused(make):
    state = make(network=NetworkConfig(hidden=(9, 6))).state_dict()
    with pytest.raises(ResumeError, match="do not fit"):
        make().load_state_dict(state)


@every_agent
def test_the_seed_alone_decides(make, shape):
    def run(seed, disturbance):
        torch.manual_seed(disturbance)
        agent = make(seed=seed)
        learn(agent, 3, shape=shape)
        return weights(agent)

    assert same(run(0, 1), run(0, 2))
    assert not same(run(0, 1), run(1, 1))


@every_agent
def test_unit_graph_fits_the_networks(make, shape):
    agent = make()
    layers = agent.unit_graph().layers
    assert len({layer.name for layer in layers}) == len(layers) >= 2
    for layer in layers:
        producer = agent.networks.get_submodule(layer.name)
        copies = (layer.ensemble,) if layer.ensemble > 1 else ()
        assert producer.weight.shape[: len(copies) + 1] == (*copies, layer.units)
        assert producer.bias.shape == (*copies, layer.units)
        agent.networks.get_submodule(layer.activation)
        for consumer in layer.consumers:
            weight = agent.networks.get_submodule(consumer.layer).weight
            columns = weight.shape[len(copies) + 1]
            assert consumer.first + layer.units * consumer.per_unit == columns


class Recorder:
    def __init__(self):
        self.activations, self.norms = [], {}

    def activation(self, layer, value):
        self.activations.append((layer, value))

    def gradients(self, networks, loss):
        self.norms[loss] = {
            name: parameter.grad.norm().item()
            for name, parameter in networks.named_parameters()
            if parameter.grad is not None
        }


@every_agent
def test_the_observer_sees_each_hidden_layer_once_and_changes_nothing(make, shape):
    watched, plain, seen = make(), make(), Recorder()
    for number in range(2):
        rows = batch(number, discrete=is_discrete(plain), shape=shape)
        plain.update(rows)
        seen.activations.clear()
        watched.update(rows, seen)
    assert same(weights(watched), weights(plain))

    steps = getattr(watched.config, "actor_steps", 1)
    graph = {layer.name: layer for layer in watched.unit_graph().layers}
    counts = {name: sum(layer == name for layer, _ in seen.activations) for name in graph}
    assert counts == {name: steps if name.startswith("actor.") else 1 for name in graph}
    for name, value in seen.activations:
        layer = graph[name]
        assert value.shape[int(layer.ensemble > 1) + 1] == layer.units
        assert not value.requires_grad
        assert (value >= 0).all()  # after the ReLU
    assert list(seen.norms) == names_of(watched)
    first = names_of(watched)[0]
    assert all(norm > 0 for name, norm in seen.norms[first].items() if name.startswith(f"{first}."))
    assert not any(module._forward_hooks for module in watched.networks.modules())


@every_agent
def test_each_penalty_enters_its_own_loss(make, shape):
    plain = make()
    learn(plain, 2, shape=shape)
    for name in names_of(plain)[:2]:
        calls = []

        def ridge(networks, name=name, calls=calls):
            calls.append(name)
            return 100 * sum(parameter.square().sum() for parameter in networks[name].parameters())

        agent = make()
        agent.penalties.append(Penalty(name, ridge))
        learn(agent, 2, shape=shape)
        changed = {
            key.split(".")[0] for key, value in weights(agent).items() if not torch.equal(value, weights(plain)[key])
        }
        assert calls
        assert name in changed


@every_agent
def test_a_penalty_of_an_absent_loss_changes_nothing(make, shape):
    plain, agent = make(), make()
    agent.penalties.append(
        Penalty("another", lambda networks: sum(parameter.sum() for parameter in networks.parameters()))
    )
    learn(plain, 2, shape=shape), learn(agent, 2, shape=shape)
    assert same(weights(plain), weights(agent))


@every_agent
def test_after_step_hears_the_loss_of_each_optimiser_step(make, shape):
    agent, heard = make(), []
    agent.after_step.append(heard.append)
    learn(agent, 2, shape=shape)
    if is_discrete(agent):
        assert heard == ["online"] * 2
    elif agent.config.actor_period == 1:
        assert heard == ["critic", "actor", "temperature"] * 2
    else:
        assert heard == ["critic", "critic", *["actor", "temperature"] * agent.config.actor_steps]


@every_agent
def test_metrics_are_scalars_without_gradient_and_priorities_fit(make, shape):
    agent = make()
    result = learn(agent, 2, shape=shape)
    assert "loss" in result.metrics
    for value in result.metrics.values():
        assert value.shape == ()
        assert not value.requires_grad
        assert torch.isfinite(value)
    assert result.priority.shape == (16,)
    assert (result.priority >= 0).all()
    assert not result.priority.requires_grad


@every_agent
def test_a_nan_reward_shows_in_the_loss(make, shape):
    agent = make()
    rows = batch(0, discrete=is_discrete(agent), shape=shape)
    rows["next", "reward"][3] = float("nan")
    assert torch.isnan(agent.update(rows).metrics["loss"])


@pytest.mark.parametrize("make", [make_dqn, make_sac, make_ace])
def test_importance_weights_scale_the_step_but_not_the_priority(make):
    agent, weighted = make(), make()
    discrete = make is make_dqn
    plain, heavy = batch(0, discrete=discrete), batch(0, discrete=discrete, weighted=True)
    assert torch.equal(agent.update(plain).priority, weighted.update(heavy).priority)
    assert not same(weights(agent), weights(weighted))


@pytest.mark.parametrize("make", [make_dqn, make_sac, make_ace])
@pytest.mark.parametrize("network", [NetworkConfig(hidden=(8,)), NetworkConfig(hidden=(8, 6), activation="silu")])
def test_each_network_setting_changes_the_networks(make, network):
    plain, agent = make(), make(network=network)
    learn(plain, 2), learn(agent, 2)
    assert not same(weights(plain), weights(agent))
