"""Vectors V8 to V11 and invariants 7.2, 7.3 of the specification; layouts, copies, targets."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations

from rlkit.core.errors import ConfigError
from rlkit.nn.config import NetworkConfig
from rlkit.nn.ensemble import EnsembleLinear
from rlkit.plasticity.protocols import Consumer, UnitGraph, UnitLayer
from rlkit.plasticity.surgery import (
    dormant_units,
    fresh_parameters,
    generator_hash,
    recycle,
    require_surgery_fits,
    target_address,
)
from tests.agents.helpers import batch, learn, make_dqn, make_sac
from tests.plasticity.hand_made import HandMade, ScriptedConv, fill_moments, linear, measurement


def rng(seed=0):
    return np.random.default_rng(seed)


def mask(*units, copies=1, of):
    found = np.zeros((copies, of), bool)
    found[:, list(units)] = True
    return found


# Fresh draws.


@pytest.mark.parametrize("make", [lambda: nn.Linear(7, 5), lambda: nn.Conv2d(3, 4, 2), lambda: nn.LayerNorm(4)])
def test_fresh_parameters_are_what_the_modules_own_initialiser_draws(make):
    module = make()
    before = copy.deepcopy(module.state_dict())
    fresh = fresh_parameters(module, rng(3))
    with torch.random.fork_rng():
        torch.manual_seed(int(rng(3).integers(2**63)))
        module_like = make.__call__() if not hasattr(module, "reset_parameters") else copy.deepcopy(module)
        torch.manual_seed(int(rng(3).integers(2**63)))
        module_like.reset_parameters()
    for name, parameter in module_like.named_parameters():
        assert torch.equal(fresh[name], parameter), name
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_fresh_parameters_leave_the_global_generator_alone_and_ignore_it():
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), EnsembleLinear(2, 4, 2, torch.Generator()))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = fresh_parameters(module, rng())
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second = fresh_parameters(module, rng())
    assert first.keys() == dict(module.named_parameters()).keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["2.weight"][0], first["2.weight"][1])  # every critic draws its own
    bound = 1 / np.sqrt(4)
    assert 0.8 * bound < first["2.weight"].abs().max() <= bound


def test_fresh_parameters_keep_the_layout():
    conv = nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
    assert fresh_parameters(conv, rng())["weight"].stride() == conv.weight.stride()


def test_a_module_that_cannot_draw_is_named():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

    with pytest.raises(ConfigError, match="Scale cannot draw new weights"):
        fresh_parameters(nn.Sequential(nn.Linear(3, 3), Scale()), rng())
    for normed in (parametrizations.weight_norm(nn.Linear(3, 3)), parametrizations.spectral_norm(nn.Linear(3, 3))):
        with pytest.raises(ConfigError, match="Linear cannot draw new weights"):
            fresh_parameters(normed, rng())


# V8.

X = torch.tensor([[1.0, 1.0], [2.0, 0.0], [0.0, 2.0], [1.0, 3.0]], dtype=torch.float64)
R8 = [[0.3, -0.2], [0.1, 0.4], [0.6, 0.7], [-0.5, 0.25]]


def v8():
    network = nn.Sequential(
        linear([[1, 0], [0, 1], [-1, -1], [0.01, 0.01]], [0, 0, -1, 0], draw=R8),
        nn.ReLU(),
        linear([[1, 2, 3, 4], [5, 6, 7, 8]], [0.5, -0.5]),
    )
    graph = UnitGraph((UnitLayer("online.0", "online.1", 4, (Consumer("online.2"),)),))
    return HandMade({"online": network}, graph)


def test_v8_a_silent_unit_starts_anew_and_no_output_moves():
    agent = v8()
    network = agent.networks["online"]
    before = network(X)
    assert before[0].tolist() == pytest.approx([3.58, 10.66])
    (event,) = recycle(agent, {"online.0": mask(2, of=4)}, rng())
    assert network[0].weight.tolist() == [[1, 0], [0, 1], [0.6, 0.7], [0.01, 0.01]]
    assert network[0].bias.tolist() == [0, 0, 0, 0]
    assert network[2].weight.tolist() == [[1, 2, 0, 4], [5, 6, 0, 8]]
    assert network[2].bias.tolist() == [0.5, -0.5]
    assert torch.equal(network(X), before)
    change = np.sqrt(1.6**2 + 1.7**2 + 1 + 3**2 + 7**2)
    assert event.kind == "recycle"
    assert event.details["layer"] == "online.0"
    assert event.details["units"] == [[2]]
    assert event.details["weight_change"] == pytest.approx(change)
    assert event.details["whole_layer"] is False


def test_v8_two_units():
    agent = v8()
    network = agent.networks["online"]
    before = network(X)
    recycle(agent, {"online.0": mask(2, 3, of=4)}, rng())
    assert network[0].weight[3].tolist() == [-0.5, 0.25]
    assert network[2].weight[:, 3].tolist() == [0, 0]
    after = network(X)
    assert (after - before).abs().max().item() == pytest.approx(0.32)
    assert after[0].tolist() == pytest.approx([3.5, 10.5])


def test_v8_compensation_moves_the_mean_to_the_bias():
    agent = v8()
    network = agent.networks["online"]
    before = network(X).mean(0)
    mean = {"online.0": np.array([[1.0, 1.5, 0.0, 0.025]])}
    recycle(agent, {"online.0": mask(2, 3, of=4)}, rng(), mean_activation=mean)
    assert network[2].bias.tolist() == pytest.approx([0.5 + 0.1, -0.5 + 0.2])
    torch.testing.assert_close(network(X).mean(0), before)


def test_zero_bias_outgoing_keep_and_small():
    agent = v8()
    network = agent.networks["online"]
    network[0].draw["bias"] = torch.full((4,), 9.0, dtype=torch.float64)
    recycle(agent, {"online.0": mask(2, of=4)}, rng(), outgoing="keep")
    assert network[0].bias.tolist() == [0, 0, 9, 0]
    assert network[2].weight.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    recycle(agent, {"online.0": mask(2, of=4)}, rng(), bias="zero", outgoing="small")
    assert network[0].bias.tolist() == [0, 0, 0, 0]
    torch.testing.assert_close(network[2].weight[:, 2], torch.tensor([0.03, 0.07], dtype=torch.float64))


# V9.


def v9():
    conv = ScriptedConv(1, 3, 2, dtype=torch.float64)
    kernels = [[[1, 0], [0, 0]], [[-1, -1], [-1, -1]], [[0, 0], [0, 0.01]]]
    with torch.no_grad():
        conv.weight.copy_(torch.tensor(kernels).unsqueeze(1))
        conv.bias.copy_(torch.tensor([0, -1, 0]))
    draws = [[[9, 9], [9, 9]], [[0.5, -0.5], [0.5, -0.5]], [[-0.2, 0.2], [0.2, 0.2]]]
    conv.draw = {"weight": torch.tensor(draws, dtype=torch.float64).unsqueeze(1), "bias": torch.tensor([9, 0.0, 0])}
    head = linear([list(range(1, 13)), list(range(13, 25))], [0.5, -0.5])
    network = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), head)
    graph = UnitGraph((UnitLayer("online.0", "online.1", 3, (Consumer("online.3", 4),)),))
    return HandMade({"online": network}, graph)


IMAGES = torch.stack(
    [torch.arange(1.0, 10).view(1, 3, 3), torch.tensor([[[0.0, 1, 0], [1, 0, 1], [0, 1, 0]]])]
).double()


def test_v9_convolution_to_linear():
    agent = v9()
    network = agent.networks["online"]
    before = network(IMAGES)
    assert before.flatten().tolist() == pytest.approx([40.51, 186.87, 5.71, 28.95])
    fill_moments(agent, 0.5, 0.25)
    recycle(agent, {"online.0": mask(1, of=3)}, rng())
    assert torch.equal(network(IMAGES), before)
    assert network[3].weight[0].tolist() == [1, 2, 3, 4, 0, 0, 0, 0, 9, 10, 11, 12]
    assert network[0].weight[1].flatten().tolist() == [0.5, -0.5, 0.5, -0.5]
    state = agent.optimizers["online"].state
    m = state[network[0].weight]["exp_avg"]
    assert m.flatten(1).tolist() == [[0.5] * 4, [0] * 4, [0.5] * 4]
    assert state[network[0].bias]["exp_avg"].tolist() == [0.5, 0, 0.5]
    m, v = (state[network[3].weight][name] for name in ("exp_avg", "exp_avg_sq"))
    assert (float(m.sum()), float(v.sum())) == (8.0, 4.0)
    assert m[:, 4:8].abs().sum() == 0
    assert all(entry["step"].item() == 10 for entry in state.values())


def test_v9_two_channels():
    agent = v9()
    recycle(agent, {"online.0": mask(1, 2, of=3)}, rng())
    y = agent.networks["online"](IMAGES)
    assert y.flatten().tolist() == pytest.approx([37.5, 180.5, 5.5, 28.5])


# V10, V11.


def test_v10_a_weight_between_two_recycled_units_ends_as_an_outgoing_one():
    first, second = linear([[1], [1]], [0, 0]), linear([[1, 2], [3, 4]], [0, 0], draw=[[9, 8], [7, 6]])
    network = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), linear([[1, 1]], [0]))
    layers = (
        UnitLayer("online.0", "online.1", 2, (Consumer("online.2"),)),
        UnitLayer("online.2", "online.3", 2, (Consumer("online.4"),)),
    )
    agent = HandMade({"online": network}, UnitGraph(layers))
    recycle(agent, {"online.0": mask(1, of=2), "online.2": mask(0, of=2)}, rng())
    assert second.weight.tolist() == [[9, 0], [3, 0]]


@pytest.mark.parametrize(
    ("options", "recycled", "living"),
    [
        ({}, [3.15164, 4.23531, 4.93362], [1.0, 1.0, 1.0]),
        ({"optimizer_step": "zero_tensor"}, [1.0, 1.0, 1.0], [0.31729, 0.23611, 0.20269]),
    ],
)
@pytest.mark.parametrize("fused", [True, False])
def test_v11_adam_after_surgery(options, recycled, living, fused):
    """Weights (2 units, 1 input), gradient 1 everywhere; unit 0 is recycled after 5,000 steps."""
    agent = HandMade(
        {"online": nn.Sequential(linear([[0], [0]], [0, 0]), nn.ReLU(), linear([[0, 0]], [0]))},
        UnitGraph((UnitLayer("online.0", "online.1", 2, (Consumer("online.2"),)),)),
    )
    weight = agent.networks["online"][0].weight
    adam = torch.optim.Adam(agent.networks.parameters(), lr=1e-3, fused=fused)
    agent.optimizers["online"] = adam
    weight.grad = torch.ones_like(weight)
    adam.step()
    state = adam.state[weight]
    state["exp_avg"].fill_(1 - 0.9**5000)
    state["exp_avg_sq"].fill_(1 - 0.999**5000)
    state["step"].fill_(5000)
    recycle(agent, {"online.0": mask(0, of=2)}, rng(), **options)
    for wanted in zip(recycled, living, strict=True):
        before = weight.detach().clone()
        adam.step()
        moved = ((before - weight.detach()) / 1e-3).flatten().tolist()
        assert moved == pytest.approx(wanted, abs=2e-5)


def test_living_mean_is_of_what_was_not_written_and_of_each_critic_alone():
    sac = make_sac()
    learn(sac, 2)
    trunk = sac.networks["critic"].trunk
    state = sac.optimizers["critic"].state[trunk[0].weight]
    before = {name: value.clone() for name, value in state.items()}
    chosen = mask(1, copies=2, of=8)
    chosen[1] = False
    recycle(sac, {"critic.trunk.0": chosen}, rng(), second_moment="living_mean")
    v = state["exp_avg_sq"]
    rest = [i for i in range(8) if i != 1]
    torch.testing.assert_close(v[0, 1], before["exp_avg_sq"][0, rest].mean().expand(5))
    assert torch.equal(v[1], before["exp_avg_sq"][1])
    assert torch.equal(state["exp_avg"][0, 1], torch.zeros(5))
    assert torch.equal(state["exp_avg"][0, rest], before["exp_avg"][0, rest])


def test_every_moment_of_other_optimisers_is_cleared():
    for make in (
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
        lambda p: torch.optim.Adam(p, 0.1, amsgrad=True),
        lambda p: torch.optim.RMSprop(p, 0.1, centered=True),
    ):
        agent = v8()
        optimizer = make(list(agent.networks.parameters()))
        agent.optimizers = {"online": optimizer}
        agent.networks["online"](X).sum().backward()
        for parameter in agent.networks.parameters():
            parameter.grad += 1
        optimizer.step()
        weight = agent.networks["online"][0].weight
        recycle(agent, {"online.0": mask(1, of=4)}, rng())
        moments = [v for v in optimizer.state[weight].values() if torch.is_tensor(v) and v.shape == weight.shape]
        assert moments
        for moment in moments:
            assert torch.equal(moment[1], torch.zeros(2).double())
            assert moment[0].abs().min() > 0


# Real agents.


def agents():
    image = make_dqn(shape=(3, 9, 9))
    learn(image, 2, shape=(3, 9, 9))
    twin = make_sac()
    learn(twin, 2)
    return {"dqn": image, "sac": twin}


def snapshot(agent):
    found = {f"weight {name}": value.clone() for name, value in agent.networks.state_dict().items()}
    names = {parameter: name for name, parameter in agent.networks.named_parameters()}
    for optimizer in agent.optimizers.values():
        for parameter, state in optimizer.state.items():
            for key, value in state.items():
                found[f"{key} {names.get(parameter, 'temperature')}"] = value.clone()
    return found


def random_masks(agent, seed, share=0.4):
    draw = rng(seed)
    return {layer.name: draw.random((layer.ensemble, layer.units)) < share for layer in agent.unit_graph().layers}


@pytest.mark.parametrize("name", ["dqn", "sac"])
def test_only_rows_and_columns_of_masked_units_change_and_all_objects_stay(name):
    agent = agents()[name]
    before, masks = snapshot(agent), random_masks(agent, 1)
    objects = {n: (p, p.data_ptr(), p.stride()) for n, p in agent.networks.named_parameters()}
    memory = {key: value.data_ptr() for o in agent.optimizers.values() for s in o.state.values()
              for key, value in ((id(v), v) for v in s.values())}  # fmt: skip
    recycle(agent, masks, rng())
    after = snapshot(agent)
    assert after.keys() == before.keys()
    for n, parameter in agent.networks.named_parameters():
        assert objects[n] == (parameter, parameter.data_ptr(), parameter.stride())
    assert memory == {id(v): v.data_ptr() for o in agent.optimizers.values() for s in o.state.values()
                      for v in s.values()}  # fmt: skip
    # The oracle: entry by entry.
    rows = {layer.name: masks[layer.name] for layer in agent.unit_graph().layers}
    columns = {}
    for layer in agent.unit_graph().layers:
        for consumer in layer.consumers:
            for k in range(layer.ensemble):
                for unit in np.flatnonzero(masks[layer.name][k]):
                    start = consumer.first + unit * consumer.per_unit
                    columns.setdefault((consumer.layer, k), set()).update(range(start, start + consumer.per_unit))
    for key, old in before.items():
        what, _, address = key.partition(" ")
        new = after[key]
        layer, _, parameter = address.rpartition(".")
        if what == "step" or layer.startswith("target") or not layer:
            assert torch.equal(new, old), key
            continue
        batched = name == "sac" and layer.startswith("critic")
        for k in range(2 if batched else 1):
            a, b = (new[k], old[k]) if batched else (new, old)
            for row in range(len(a)):
                fresh = layer in rows and rows[layer][k, row]
                if parameter == "bias":
                    assert (a[row] != b[row]) == (fresh and bool(b[row] != 0)), key
                    continue
                for column in range(a.shape[1]):
                    if column in columns.get((layer, k), ()):
                        assert torch.all(a[row, column] == 0), key
                    elif fresh:
                        assert torch.all(a[row, column] == 0 if what != "weight" else a[row, column] != b[row, column])
                    else:
                        assert torch.equal(a[row, column], b[row, column]), key


@pytest.mark.parametrize("name", ["dqn", "sac"])
def test_same_mask_and_generator_same_network_and_another_generator_another(name):
    def run(seed):
        agent = agents()[name]
        draw = rng(seed)
        events = recycle(agent, random_masks(agent, 1), draw)
        return agent.networks.state_dict(), events

    (first, events), (second, again), (other, others) = run(0), run(0), run(1)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)
    assert events == again
    assert events[0].details["rng"] == generator_hash(rng(0)) != others[0].details["rng"]


@pytest.mark.parametrize("name", ["dqn", "sac"])
def test_mirror_writes_the_same_into_the_target_and_nothing_else(name):
    agent = agents()[name]
    before, masks = snapshot(agent), random_masks(agent, 2)
    recycle(agent, masks, rng(), target="mirror")
    after = snapshot(agent)
    for layer in agent.unit_graph().layers:
        target = target_address(agent.networks, layer.name)
        if target is None:
            assert layer.name.startswith("actor.")
            continue
        for part in ("weight", "bias"):
            online, mirrored = after[f"weight {layer.name}.{part}"], after[f"weight {target}.{part}"]
            changed = online != before[f"weight {layer.name}.{part}"]
            assert changed.any()
            assert torch.equal(mirrored[changed], online[changed])
            assert torch.equal(mirrored[~changed], before[f"weight {target}.{part}"][~changed])


def test_copies_draw_and_are_masked_apart():
    sac = make_sac()
    chosen = mask(2, copies=2, of=8)
    chosen[0] = False
    before = sac.networks["critic"].trunk[0].weight.detach().clone()
    (event,) = recycle(sac, {"critic.trunk.0": chosen}, rng(), scores={"critic.trunk.0": np.arange(16.0).reshape(2, 8)})
    assert event.details["units"] == [[], [2]]
    assert event.details["scores"] == [[], [10.0]]
    assert torch.equal(sac.networks["critic"].trunk[0].weight[0], before[0])
    assert torch.all(sac.networks["critic"].trunk[2].weight[1, :, 2] == 0)
    assert torch.all(sac.networks["critic"].trunk[2].weight[0, :, 2] != 0)


def test_a_whole_layer_is_said():
    dqn = make_dqn()
    (event,) = recycle(dqn, {"online.trunk.2": mask(*range(6), of=6)}, rng())
    assert event.details["whole_layer"] is True


def test_nothing_masked_nothing_done():
    dqn = make_dqn()
    draw, state = rng(), generator_hash(rng())
    assert recycle(dqn, {"online.trunk.0": mask(of=8)}, draw) == []
    assert generator_hash(draw) == state


def test_a_layer_that_is_not_in_the_graph():
    with pytest.raises(
        ConfigError, match=r"'online.head' cannot be recycled[\s\S]*only online.trunk.0, online.trunk.2"
    ):
        recycle(make_dqn(), {"online.head": mask(0, of=2)}, rng())


def test_what_was_compiled_stays_valid():
    calls = []

    def backend(graph, _inputs):
        calls.append(graph)
        return graph.forward

    agent = v8()
    network = agent.networks["online"]
    agent.networks["online"] = torch.compile(network, backend=backend)
    with torch.no_grad():
        agent.networks["online"](X)
        recycle(agent, {"online.0": mask(2, 3, of=4)}, rng())
        assert torch.equal(agent.networks["online"](X), network(X))
    assert network[2].weight[:, 2:].abs().sum() == 0
    assert len(calls) == 1  # compiled once


# Norms, halves, branches.


@pytest.mark.parametrize("activation", ["relu", "crelu", "fourier"])
@pytest.mark.parametrize("shape", [(3,), (3, 9, 9)])
def test_norms_and_halves_of_rlkits_own_networks(activation, shape):
    network = NetworkConfig(hidden=(8, 6), activation=activation, layer_norm=True)
    agent = make_dqn(shape=shape, network=network)
    learn(agent, 2, shape=shape)
    require_surgery_fits(agent)
    layers = agent.unit_graph().layers
    with torch.no_grad():
        for layer in layers:
            norm = agent.networks.get_submodule(layer.norm)
            norm.weight.fill_(3)
            norm.bias.fill_(2)
    recycle(agent, {layer.name: mask(1, of=layer.units) for layer in layers}, rng())
    for layer in layers:
        norm = agent.networks.get_submodule(layer.norm)
        wanted = [3.0, 1.0] + [3.0] * (layer.units - 2)
        assert norm.weight.flatten().tolist() == wanted
        assert norm.bias.flatten().tolist() == [2.0, 0.0] + [2.0] * (layer.units - 2)
        reader = agent.networks.get_submodule(layer.consumers[0].layer).weight
        zero = (reader == 0).flatten(2).all(2).all(0) if reader.dim() > 2 else (reader == 0).all(0)
        per_unit = layer.consumers[0].per_unit
        halves = 1 if activation == "relu" else 2
        wanted = [(half * layer.units + 1) * per_unit + p for half in range(halves) for p in range(per_unit)]
        assert zero.nonzero().flatten().tolist() == wanted


def test_twin_norms_have_their_own_masks():
    sac = make_sac(network=NetworkConfig(hidden=(4,), layer_norm=True))
    layer = next(layer for layer in sac.unit_graph().layers if layer.name == "critic.trunk.0")
    norm = sac.networks.get_submodule(layer.norm)
    with torch.no_grad():
        norm.weight.fill_(5)
    chosen = mask(copies=2, of=4)
    chosen[1, 3] = True
    recycle(sac, {layer.name: chosen}, rng())
    assert norm.weight.view(2, 4).tolist() == [[5, 5, 5, 5], [5, 5, 5, 1]]


def test_batch_statistics_start_anew():
    network = nn.Sequential(nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    layer = UnitLayer("online.0", "online.2", 3, (Consumer("online.4", 4),), norm="online.1")
    agent = HandMade({"online": network}, UnitGraph((layer,)))
    network[1].running_mean.fill_(7)
    network[1].running_var.fill_(9)
    recycle(agent, {"online.0": mask(0, 2, of=3)}, rng())
    assert network[1].running_mean.tolist() == [0, 7, 0]
    assert network[1].running_var.tolist() == [1, 9, 1]
    assert network[1].num_batches_tracked == 0


class Branches(nn.Module):
    """A shared layer, two streams and an action that is joined behind it."""

    def __init__(self):
        super().__init__()
        self.shared, self.value, self.advantage = nn.Linear(3, 4), nn.Linear(4, 1), nn.Linear(2 + 4, 2)
        self.act = nn.ReLU()

    def forward(self, x):
        h = self.act(self.shared(x))
        return self.value(h) + self.advantage(torch.cat((x[:, :2], h), 1))


def test_all_consumers_with_an_offset():
    layer = UnitLayer("online.shared", "online.act", 4, (Consumer("online.value"), Consumer("online.advantage", 1, 2)))
    agent = HandMade({"online": Branches()}, UnitGraph((layer,)))
    recycle(agent, {"online.shared": mask(1, of=4)}, rng())
    assert (agent.networks["online"].value.weight == 0).nonzero()[:, 1].tolist() == [1]
    assert (agent.networks["online"].advantage.weight == 0).all(0).nonzero().flatten().tolist() == [3]


class Noisy(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.out_features = outputs
        for name, shape in {"weight": (outputs, inputs), "bias": (outputs,)}.items():
            self.register_parameter(f"{name}_mu", nn.Parameter(torch.empty(shape)))
            self.register_parameter(f"{name}_sigma", nn.Parameter(torch.empty(shape)))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self):
        self.weight_mu.uniform_(-1, 1)
        self.bias_mu.uniform_(-1, 1)
        self.weight_sigma.fill_(0.5)
        self.bias_sigma.fill_(0.5)


def test_noisy_layers_lose_noise_too():
    network = nn.ModuleList([Noisy(3, 4), nn.ReLU(), Noisy(4, 2)])
    agent = HandMade({"online": network}, UnitGraph((UnitLayer("online.0", "online.1", 4, (Consumer("online.2"),)),)))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(7)
    recycle(agent, {"online.0": mask(0, of=4)}, rng())
    assert network[0].weight_sigma.tolist() == [[0.5] * 3] + [[7.0] * 3] * 3
    assert network[0].bias_sigma.tolist() == [0.5, 7, 7, 7]
    for weight in (network[2].weight_mu, network[2].weight_sigma):
        assert weight.tolist() == [[0.0, 7.0, 7.0, 7.0]] * 2


# Refusals.


@pytest.mark.parametrize(
    ("network", "consumer", "words"),
    [
        (
            lambda: [parametrizations.weight_norm(nn.Linear(3, 4)), nn.Linear(4, 2)],
            Consumer("online.1"),
            "parametrisation",
        ),
        (lambda: [nn.Linear(3, 4), parametrizations.spectral_norm(nn.Linear(4, 2))], Consumer("online.1"), "parametri"),
        (lambda: [nn.Linear(3, 5), nn.Linear(5, 2)], Consumer("online.1"), "not a row for each unit"),
        (lambda: [nn.Linear(3, 4), nn.Linear(4, 2)], Consumer("online.1", 2), "8 input columns"),
        (lambda: [nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1, groups=2)], Consumer("online.1"), "no columns of its own"),
        (lambda: [nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 4, 1)], Consumer("online.1"), "no columns of its own"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(network, consumer, words):
    layers = nn.ModuleList(network())
    agent = HandMade({"online": layers}, UnitGraph((UnitLayer("online.0", "", 4, (consumer,), function=torch.relu),)))
    with pytest.raises(ConfigError, match=words):
        require_surgery_fits(agent)


def test_the_older_weight_norm_is_refused():
    with pytest.warns(FutureWarning, match="weight_norm"):
        normed = nn.utils.weight_norm(nn.Linear(3, 4))
    with pytest.raises(ConfigError, match="cannot draw new weights"):
        fresh_parameters(normed, rng())


def test_a_measurement_without_the_score():
    agent = v8()
    with pytest.raises(ConfigError, match=r"no score 'redo' of online\.0"):
        dormant_units(agent, None, 0.1, "redo")
    found = dormant_units(agent, measurement({"online.0": {"redo": [[1, 0, 0.1, 2]]}}), 0.1, "redo")
    assert found["online.0"].tolist() == [[False, True, True, False]]


def test_an_optimiser_with_other_state_for_each_weight_is_refused():
    agent = v8()
    optimizer = torch.optim.Rprop(agent.networks.parameters())
    agent.optimizers = {"online": optimizer}
    agent.networks["online"](X).sum().backward()
    optimizer.step()
    with pytest.raises(ConfigError, match=r"Rprop keeps '\w+' for each weight"):
        recycle(agent, {"online.0": mask(1, of=4)}, rng())


def test_compensation_needs_a_bias():
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2, bias=False))
    agent = HandMade({"online": network}, UnitGraph((UnitLayer("online.0", "online.1", 4, (Consumer("online.2"),)),)))
    require_surgery_fits(agent)
    with pytest.raises(ConfigError, match=r"mean activations of 'online\.0' cannot be compensated"):
        require_surgery_fits(agent, compensate=True)


# Invariant 7.2.


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(1, 9), min_size=1, max_size=3))
def test_recycling_silent_units_changes_no_answer_by_a_bit(seed, widths):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sizes = [3, *widths, 2]
        modules = [m for i, o in itertools.pairwise(sizes) for m in (nn.Linear(i, o), nn.ReLU())][:-1]
        network, x = nn.Sequential(*modules), torch.randn(16, 3)
        with torch.no_grad():
            for module in modules[::2][:-1]:
                module.bias.sub_(0.5)
    layers = tuple(
        UnitLayer(f"online.{i}", f"online.{i + 1}", modules[i].out_features, (Consumer(f"online.{i + 2}"),))
        for i in range(0, len(modules) - 1, 2)
    )
    agent = HandMade({"online": network}, UnitGraph(layers))
    before, masks = network(x), {}
    h = x
    for i in range(0, len(modules) - 1, 2):
        h = modules[i + 1](modules[i](h))
        masks[f"online.{i}"] = (h == 0).all(0).numpy()[None]
    recycle(agent, masks, rng(seed))
    assert torch.equal(network(x), before)
    assert sum(m.sum() for m in masks.values()) == sum(
        (modules[i + 2].weight == 0).all(0).sum().item() for i in range(0, len(modules) - 1, 2)
    )


def test_the_batch_helper_gives_images():  # the shapes that the tests above rely on
    assert batch(0, discrete=True, shape=(3, 9, 9))["observation"].shape == (16, 3, 9, 9)
