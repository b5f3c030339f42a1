"""Graphs of modules that declare none, and the proof by zeroing (invariant 7.4)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rlkit.core.errors import ConfigError
from rlkit.nn.config import NetworkConfig
from rlkit.nn.ensemble import EnsembleLinear
from rlkit.plasticity.protocols import Consumer, UnitGraph, UnitLayer
from rlkit.plasticity.unit_graph import check_graph, graph_of
from tests.agents.helpers import batch, make_dqn, make_sac

IMAGE, VECTOR = torch.rand(5, 2, 10, 10), torch.rand(5, 3)


def layers(graph):
    return {layer.name: layer for layer in graph.layers}


def test_a_sequence_of_linear_layers():
    graph = graph_of(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 2)), VECTOR)
    assert graph == UnitGraph((
        UnitLayer("0", "1", 8, (Consumer("2"),)),
        UnitLayer("2", "3", 6, (Consumer("4"),)),
    ))  # fmt: skip


def test_a_prefix_for_the_networks_of_an_agent():
    graph = graph_of(
        nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 2)), VECTOR, prefix="online"
    )
    assert graph.layers == (UnitLayer("online.0", "online.2", 8, (Consumer("online.3"),), norm="online.1"),)


@pytest.mark.parametrize(
    ("between", "positions", "channels"),
    [
        ([nn.Flatten()], 8 * 8, 4),
        ([nn.MaxPool2d(2), nn.Flatten()], 4 * 4, 4),
        ([nn.AvgPool2d(2), nn.Dropout(0.5), nn.Flatten()], 4 * 4, 4),
        ([nn.AdaptiveAvgPool2d(1), nn.Flatten()], 1, 4),
        ([nn.AdaptiveMaxPool2d((3, 2)), nn.Flatten(1)], 6, 4),
    ],
)
def test_convolution_to_linear_counts_positions_after_pooling(between, positions, channels):
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(inplace=True), *between, nn.Linear(channels * positions, 2))
    head = str(len(network) - 1)
    assert graph_of(network, IMAGE).layers == (UnitLayer("0", "1", 4, (Consumer(head, positions),)),)


def test_positions_survive_a_second_reshape():
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(2), nn.Flatten(), nn.Unflatten(1, (256, 1)),
                            nn.Flatten(), nn.Linear(256, 2))  # fmt: skip
    assert graph_of(network, IMAGE).layers == (UnitLayer("0", "1", 4, (Consumer("6", 64),)),)


class Functional(nn.Module):
    """Two convolutions, functions as activations, shape questions that cannot be traced symbolically."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 6, 3)
        self.bn = nn.BatchNorm2d(4)
        self.fc, self.value, self.advantage = nn.Linear(6 + 3, 7), nn.Linear(7, 1), nn.Linear(7, 2)

    def forward(self, image, vector):
        if image.dtype != torch.float32 or len(image) > 100:
            raise ValueError
        h = F.relu(self.bn(self.conv1(image)))
        h = F.leaky_relu(self.conv2(F.max_pool2d(h, 2)), negative_slope=0.2).mean(dim=(2, 3))
        h = torch.cat([vector, h * 0.5], dim=-1)
        h = torch.tanh(self.fc(h))
        value, advantage = self.value(h), self.advantage(h)
        return value + advantage - advantage.mean(1, keepdim=True)


def test_functions_pooling_concatenation_and_branches():
    found = layers(graph_of(Functional(), IMAGE, VECTOR))
    assert list(found) == ["conv1", "conv2", "fc"]
    assert found["conv1"].norm == "bn"
    assert found["conv1"].consumers == (Consumer("conv2"),)
    assert found["conv2"].consumers == (Consumer("fc", 1, 3),)
    assert found["fc"].consumers == (Consumer("value"), Consumer("advantage"))
    assert {layer.activation for layer in found.values()} == {""}
    x = torch.linspace(-1, 1, 5)
    assert torch.equal(found["conv1"].function(x), x.relu())
    assert torch.equal(found["conv2"].function(x), F.leaky_relu(x, 0.2))
    assert torch.equal(found["fc"].function(x), x.tanh())


def test_the_function_of_a_layer_leaves_its_argument_alone():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            h = self.first(x)
            h.relu_()
            return self.second(F.dropout(h, training=self.training))

    (layer,) = graph_of(InPlace(), VECTOR).layers
    x = torch.tensor([-1.0, 1.0])
    assert layer.function(x).tolist() == [0, 1]
    assert x.tolist() == [-1, 1]


class Policy(nn.Module):
    """Parameters of its own beside its layers, a norm without any, arguments by name."""

    def __init__(self):
        super().__init__()
        self.log_std = nn.Parameter(torch.zeros(2))
        self.first, self.norm, self.mean = nn.Linear(3, 4), nn.LayerNorm(4, elementwise_affine=False), nn.Linear(4, 2)

    def forward(self, x):
        h = self.norm(input=self.first(input=x))
        return self.mean(input=F.relu(input=h)), self.log_std.exp()


def test_parameters_beside_layers_and_arguments_by_name():
    (layer,) = graph_of(Policy(), VECTOR).layers
    assert (layer.name, layer.norm, layer.consumers) == ("first", "norm", (Consumer("mean"),))
    assert layer.function(torch.tensor([-1.0, 2.0])).tolist() == [0, 2]


def test_a_network_that_draws_actions():
    network = module(lambda s, x: torch.distributions.Categorical(logits=s.second(s.act(s.first(x)))).sample(), **PARTS)
    assert graph_of(network, VECTOR.repeat(40, 1)).layers == (UnitLayer("first", "act", 4, (Consumer("second"),)),)


class Shared(nn.Module):
    """One activation module at three places, one layer for both halves of the input."""

    def __init__(self):
        super().__init__()
        self.act = nn.ReLU()
        self.first, self.second, self.head = nn.Linear(3, 4), nn.Linear(8, 5), nn.Linear(5, 2)
        self.first_act = nn.ReLU()

    def forward(self, x):
        h = torch.cat([self.first_act(self.first(part)) for part in (x, -x)], 1)
        h = self.act(self.second(h))
        return self.head(h) + self.act(x[:, :2])


def test_a_shared_activation_has_a_number_for_each_call_and_a_shared_layer_has_all_its_consumers():
    found = layers(graph_of(Shared(), VECTOR))
    assert (found["second"].activation, found["second"].call) == ("act", 0)
    assert found["first"].call is None
    assert found["first"].consumers == (Consumer("second"), Consumer("second", 1, 4))


def test_columns_that_two_layers_feed_are_nobodys():
    first, loop = nn.Linear(3, 4), nn.Linear(4, 4)
    network = nn.Sequential(first, nn.ReLU(), loop, nn.ReLU(), loop, nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(ConfigError, match="'0' and '2' feed the same columns of '2', which is called twice"):
        graph_of(network, VECTOR)


class Residual(nn.Module):
    """The stream belongs to nobody: only the inner layer of the block has units."""

    def __init__(self):
        super().__init__()
        self.stem, self.inner, self.outer, self.head = (nn.Linear(i, o) for i, o in ((3, 4), (4, 6), (6, 4), (4, 2)))
        self.act1, self.act2, self.act3 = nn.ReLU(), nn.ReLU(), nn.ReLU()

    def forward(self, x):
        stream = self.stem(x)
        stream = stream + self.outer(self.act2(self.inner(self.act1(stream))))
        return self.head(self.act3(stream))


def test_only_inner_units_of_a_residual_block():
    graph = graph_of(Residual(), VECTOR)
    assert graph.layers == (UnitLayer("inner", "act2", 6, (Consumer("outer"),)),)


class CReLU(nn.Module):
    def forward(self, x):
        return torch.cat((x.relu(), (-x).relu()), 1)


class Swish(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)


class Rational(nn.Module):
    """A learnable activation."""

    def __init__(self):
        super().__init__()
        self.numerator = nn.Parameter(torch.tensor([0.0, 1.0, 0.5]))

    def forward(self, x):
        return self.numerator[0] + self.numerator[1] * x + self.numerator[2] * x * x / (1 + x.abs())


def test_activations_of_ones_own_are_modules_without_layers_inside():
    network = nn.Sequential(nn.Conv2d(2, 4, 3), CReLU(), nn.Flatten(), nn.Linear(8 * 64, 6), Swish(), nn.Linear(6, 5),
                            Rational(), nn.Linear(5, 2))  # fmt: skip
    assert graph_of(network, IMAGE).layers == (
        UnitLayer("0", "1", 4, (Consumer("3", 64), Consumer("3", 64, 4 * 64)), halves=2),
        UnitLayer("3", "4", 6, (Consumer("5"),)),
        UnitLayer("5", "6", 5, (Consumer("7"),)),
    )


def test_batched_copies_behind_a_shared_trunk():
    class Twin(nn.Module):
        def __init__(self):
            super().__init__()
            rng = torch.Generator().manual_seed(0)
            self.shared, self.act = nn.Linear(3, 4), nn.ReLU()
            self.hidden, self.act2, self.head = EnsembleLinear(2, 4, 5, rng), nn.ReLU(), EnsembleLinear(2, 5, 1, rng)

        def forward(self, x):
            both = self.act(self.shared(x)).expand(2, -1, -1)
            return self.head(self.act2(self.hidden(both))).squeeze(-1)

    assert graph_of(Twin(), VECTOR).layers == (
        UnitLayer("shared", "act", 4, (Consumer("hidden"),)),
        UnitLayer("hidden", "act2", 5, (Consumer("head"),), ensemble=2),
    )


# rlkit's own networks: what is found must be what they declare.


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("activation", ["relu", "tanh", "crelu", "fourier"])
@pytest.mark.parametrize("shape", [(3,), (3, 9, 9), (4, 40, 40)])
def test_dqn_declares_what_is_found(shape, activation, norm):
    network = NetworkConfig(hidden=(8, 6), activation=activation, layer_norm=norm)
    agent = make_dqn(shape=shape, network=network)
    data = batch(0, discrete=True, shape=shape)
    check_graph(agent.networks, agent.unit_graph(), forward=lambda: agent.outputs(data))
    assert graph_of(agent.networks["online"], data["observation"], prefix="online") == agent.unit_graph()


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("activation", ["relu", "crelu"])
def test_sac_declares_what_is_found(activation, norm):
    agent = make_sac(network=NetworkConfig(hidden=(8, 6), activation=activation, layer_norm=norm))
    data = batch(0, discrete=False)
    check_graph(agent.networks, agent.unit_graph(), forward=lambda: (
        agent.networks["actor"](data["observation"]), agent.networks["critic"](data["observation"], data["action"])
    ))  # fmt: skip
    found = (
        graph_of(agent.networks["actor"], data["observation"], prefix="actor").layers
        + graph_of(agent.networks["critic"], data["observation"], data["action"], prefix="critic").layers
    )
    assert found == agent.unit_graph().layers


# What is left as it was.


def test_nothing_is_left_behind():
    network = Functional().train()
    network.conv2.eval()
    network.requires_grad_(True)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    graph_of(network, IMAGE, VECTOR)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert [part.training for part in network.modules()] == [part is not network.conv2 for part in network.modules()]
    assert all(not part._forward_hooks and not part._forward_pre_hooks for part in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_hooks_go_and_weights_come_back_after_an_error():
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.act, self.second = nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            result = self.second(self.act(self.first(x)))
            if self.calls == 3:  # in the guard, with zeroed columns
                raise ValueError("broken")
            return result

    network = Fails()
    weight = network.second.weight.detach().clone()
    with pytest.raises(ValueError, match="broken"):
        graph_of(network, VECTOR)
    assert torch.equal(network.second.weight, weight)
    assert all(not part._forward_hooks for part in network.modules())


def test_a_compiled_module_is_read_as_the_module_it_was_made_of():
    network = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    compiled = torch.compile(network, backend="eager")
    assert graph_of(compiled, VECTOR) == graph_of(network, VECTOR)
    check_graph(compiled, graph_of(network, VECTOR), VECTOR)


# The guard.


def conv_network():
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 6), nn.ReLU(),
                         nn.Linear(6, 2))  # fmt: skip


@pytest.mark.parametrize("wrong", [Consumer("4", 8), Consumer("4", 1), Consumer("4", 15), Consumer("6", 1)])
def test_a_wrong_map_is_found_with_layer_and_consumer(wrong):
    network = conv_network()
    graph = UnitGraph((UnitLayer("0", "1", 4, (wrong,)),))
    with pytest.raises(ConfigError, match=rf"unit graph of '0' is wrong about its consumer '{wrong.layer}'"):
        check_graph(network, graph, IMAGE)


def test_a_map_with_the_wrong_order_is_found():
    class LastAxisFirst(nn.Module):
        """Flattens positions first, as networks of other libraries do."""

        def __init__(self):
            super().__init__()
            self.conv, self.act, self.head = nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Linear(256, 2)

        def forward(self, x):
            return self.head(self.act(self.conv(x)).permute(0, 2, 3, 1).flatten(1))

    graph = UnitGraph((UnitLayer("conv", "act", 4, (Consumer("head", 64),)),))
    with pytest.raises(ConfigError, match="wrong about its consumer 'head'"):
        check_graph(LastAxisFirst(), graph, IMAGE)
    with pytest.raises(ConfigError, match=r"what 'head' reads cannot be traced[\s\S]*permute\(\)"):
        graph_of(LastAxisFirst(), IMAGE)


def test_a_wrong_offset_or_a_missing_reader_is_found():
    graph = graph_of(Functional(), IMAGE, VECTOR)
    by_name = layers(graph)
    offset = replace(by_name["conv2"], consumers=(Consumer("fc", 1, 2),))
    with pytest.raises(ConfigError, match="'conv2' is wrong about its consumer 'fc'"):
        check_graph(Functional(), UnitGraph((offset,)), IMAGE, VECTOR)
    missing = replace(by_name["fc"], consumers=(Consumer("value"),))
    with pytest.raises(ConfigError, match="'fc' is wrong: somebody else reads its units"):
        check_graph(Functional(), UnitGraph((missing,)), IMAGE, VECTOR)


def test_units_that_are_silent_on_the_example_are_proved_too():
    network = conv_network()
    with torch.no_grad():
        network[0].bias.fill_(-100)
    with pytest.raises(ConfigError, match="'0' is wrong"):
        check_graph(network, UnitGraph((UnitLayer("0", "1", 4, (Consumer("4", 8),)),)), IMAGE)


# What cannot be followed.


def test_a_module_without_activations_lists_its_layers():
    with pytest.raises(
        ConfigError, match=r"no hidden layer with an activation[\s\S]*0 \(Linear\), 1 \(Linear\)"
    ) as error:
        graph_of(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), VECTOR)
    assert "UnitGraph((UnitLayer(" in str(error.value)
    with pytest.raises(ConfigError, match="its layers are: none"):
        graph_of(nn.ReLU(), VECTOR)


def module(forward, **parts):
    class Made(nn.Module):
        def __init__(self):
            super().__init__()
            for name, part in parts.items():
                setattr(self, name, part)

        def forward(self, x):
            return forward(self, x)

    return Made()


PARTS = {"first": nn.Linear(3, 4), "second": nn.Linear(4, 2), "act": nn.ReLU(), "norm": nn.LayerNorm(4)}


@pytest.mark.parametrize(
    ("forward", "words"),
    [
        (
            lambda s, x: s.second(s.act(s.first(x)).softmax(-1)),
            r"'second' reads[\s\S]*between 'first' and it is softmax\(\)",
        ),
        (lambda s, x: s.second(s.act(s.first(x)) @ torch.eye(4)), "matmul"),
        (lambda s, x: s.second(s.act(s.first(x)) * x.mean()), r"mul\w*\(\)"),
        (lambda s, x: s.second(s.norm(s.act(s.first(x)))), "the norm 'norm'"),
        (lambda s, x: s.second(F.linear(x, torch.ones(4, 3))), r"linear\(\) with weights"),
        (lambda s, x: (s.second(h := s.act(s.first(x))), h), "'first' are also a result of the network"),
        (lambda s, x: s.second(s.act(s.first(x.expand(6, 5, 3)))[0]), r"'first' returns \[6, 5, 4\]"),
        (lambda s, x: s.second(s.act(s.first(x)).flip(1)), r"flip\(\)"),
    ],
)
def test_what_stands_between_two_layers_is_named(forward, words):
    with pytest.raises(ConfigError, match=words):
        graph_of(module(forward, **PARTS), VECTOR)


def test_what_follows_the_output_does_not_matter():
    network = module(lambda s, x: s.second(s.act(s.first(x))).softmax(-1).cumsum(1), **PARTS)
    assert graph_of(network, VECTOR).layers == (UnitLayer("first", "act", 4, (Consumer("second"),)),)


def test_a_recurrent_layer_in_between_is_named():
    network = module(lambda s, x: s.second(s.gru(s.act(s.first(x)))[0]), gru=nn.GRU(4, 4), **PARTS)
    with pytest.raises(ConfigError, match="gru"):
        graph_of(network, VECTOR)
