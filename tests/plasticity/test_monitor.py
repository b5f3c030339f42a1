"""The monitor on any model: right numbers, and nothing left behind."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from rlkit.core.errors import ConfigError, NumericError
from rlkit.nn.config import NetworkConfig
from rlkit.plasticity import scores
from rlkit.plasticity.monitor import PlasticityMonitor
from rlkit.plasticity.protocols import Consumer, UnitGraph, UnitLayer
from tests.agents.helpers import batch, learn, make_dqn, make_sac, same, weights

IMAGES = (4, 10, 10)


def mlp(*sizes, activation=nn.ReLU, seed=0):
    torch.manual_seed(seed)
    parts = []
    for inputs, outputs in pairwise(sizes):
        parts += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*parts[:-1])


def agent_monitor(agent, **settings):
    rng = torch.Generator().manual_seed(0)
    return PlasticityMonitor(
        agent.networks,
        agent.unit_graph(),
        forward=agent.outputs,
        losses=lambda rows: agent.losses(rows, rng),
        optimizers=list(agent.optimizers.values()),
        **settings,
    )


def test_a_model_measured_by_hand():
    model, x = mlp(6, 16, 8, 3), torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
    monitor = PlasticityMonitor(model, losses=lambda rows: model(rows).square().mean())
    measurement = monitor.measure(x, step=7, updates=3)
    with torch.no_grad():
        h1 = model[0](x).relu()
        h2 = model[2](h1).relu()
    assert list(measurement.layers) == ["0", "2", "4"]
    assert (measurement.step, measurement.updates, measurement.kind) == (7, 3, "probe")
    for name, h in (("0", h1), ("2", h2)):
        layer = measurement.layers[name]
        a = h.abs().mean(0)
        np.testing.assert_allclose(layer.scores["redo"][0], (a / (a.mean() + 1e-9)).detach().numpy(), rtol=1e-5)
        assert layer.metrics["fau_element"][0] == pytest.approx(float((h > 0).float().mean()))
        assert layer.metrics["dead_rate"][0] == pytest.approx(float((h == 0).float().mean()))
        assert layer.metrics["fau_unit"][0] == pytest.approx(float((h > 0).any(0).float().mean()))
        assert layer.metrics["mean_activation"][0] == pytest.approx(float(a.mean()))
        assert layer.metrics["rank_cap"][0] == h.shape[1]
        assert 1 <= layer.metrics["srank"][0] <= np.linalg.matrix_rank(h.detach().numpy())
    model(x).square().mean().backward()
    for name in ("0", "2", "4"):
        g = model[int(name)].weight.grad
        norm = g.norm(dim=1)
        np.testing.assert_allclose(measurement.layers[name].scores["ace"][0], (norm / norm.mean()).numpy(), rtol=1e-5)
        assert measurement.layers[name].metrics["grad_norm"][0] == pytest.approx(float(g.norm()), rel=1e-5)
        assert measurement.layers[name].metrics["weight_norm"][0] == pytest.approx(
            float(model[int(name)].weight.detach().norm()), rel=1e-5
        )
        assert measurement.layers[name].metrics["init_distance"][0] == 0
    assert "redo" not in measurement.layers["4"].scores  # an output layer has no units to recycle


def test_a_unit_that_cannot_fire_is_dormant_by_every_definition():  # plasticity.md 7.13
    model, x = mlp(2, 6, 1), torch.rand(128, 2, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        model[0].bias[3] = -10
        model[0].bias[4] = 3.0
        model[2].weight[0, 4] = 0  # active, but nobody listens
    measurement = PlasticityMonitor(model, losses=lambda rows: model(rows).square().mean()).measure(x)
    dormant = {name: measurement.dormant(0.0, name)["0"][0] for name in ("redo", "ace", "grama")}
    assert [mask[3] for mask in dormant.values()] == [True] * 3
    assert [mask[4] for mask in dormant.values()] == [False, True, True]


@pytest.mark.parametrize(("make", "shape"), [(make_dqn, (3,)), (lambda: make_dqn(IMAGES), IMAGES), (make_sac, (3,))])
def test_training_with_and_without_probes_is_the_same(make, shape):  # plasticity.md 7.7
    plain, watched = make(), make()
    discrete = "online" in plain.networks
    monitor = agent_monitor(watched)
    torch.manual_seed(3)
    for number in range(4):
        rows = batch(number, discrete=discrete, shape=shape)
        plain.update(rows)
        before = monitor.before_update(rows)
        watched.update(rows)
        monitor.measure(rows, fixed=rows, before=before)
        monitor.ablate(rows, 0.5)
    assert torch.equal(torch.rand(3), (torch.manual_seed(3), torch.rand(3))[1])
    assert same(weights(plain), weights(watched))
    assert all(not module._forward_hooks for module in watched.networks.modules())
    gradients = [[p.grad for p in agent.networks.parameters()] for agent in (plain, watched)]
    assert all((a is None and b is None) or torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_agents_have_copies_churn_and_optimiser_steps():
    agent, fixed = make_sac(), batch(50, discrete=False)
    monitor = agent_monitor(agent)
    learn(agent, 2)
    monitor.measure(batch(7, discrete=False), fixed=fixed)
    before = monitor.before_update(fixed)
    old = {name: value.clone() for name, value in agent.networks.state_dict().items()}
    outputs = agent.outputs(fixed)
    agent.update(batch(8, discrete=False))
    measurement = monitor.measure(batch(7, discrete=False), fixed=fixed, before=before)
    layer = measurement.layers["critic.trunk.0"]
    assert layer.scores["redo"].shape == (2, 8)
    assert layer.metrics["srank"].shape == (2,)
    now, then = agent.networks.state_dict()["critic.trunk.0.weight"], old["critic.trunk.0.weight"]
    for copy_ in range(2):
        ratio = (now - then)[copy_].double().norm() / now[copy_].double().norm()
        assert layer.metrics["update_ratio"][copy_] == pytest.approx(float(ratio), rel=1e-6)
        rms = (now - then)[copy_].double().square().mean().sqrt()
        assert layer.metrics["adam_step_rms"][copy_] == pytest.approx(float(rms), rel=1e-3)
    new = agent.outputs(fixed)
    assert measurement.metrics["value_churn"] == pytest.approx(
        float((new["values"] - outputs["values"]).detach().abs().mean()), rel=1e-5
    )
    assert measurement.metrics["policy_churn"] > 0
    assert measurement.metrics["interval_value_churn"] == pytest.approx(measurement.metrics["value_churn"])
    assert {"overlap", "survival", "jaccard"} <= layer.metrics.keys()
    assert set(measurement.layers) == {
        f"{n}.{part}" for n in ("actor", "critic") for part in ("trunk.0", "trunk.2", "head")
    }


def test_overlap_is_taken_on_the_fixed_states():
    model = mlp(3, 12, 2)
    with torch.no_grad():
        model[0].bias[:4] = -50
    monitor = PlasticityMonitor(model)
    x, fixed = torch.randn(32, 3), torch.randn(32, 3)
    assert "overlap" not in monitor.measure(x, fixed=fixed).layers["0"].metrics
    with torch.no_grad():
        model[0].bias[0], model[0].bias[5] = 50, -50
    found = monitor.measure(x, fixed=fixed).layers["0"].metrics
    # Which of the others are dormant at .1 is the same both times: their activations did not change, the mean did.
    now = model[0](fixed).relu().abs().mean(0)
    assert found["survival"][0] < 1
    assert found["overlap"][0] >= found["survival"][0]
    assert int((now == 0).sum()) >= 4


def test_pooled_fraction():
    model = mlp(3, 10, 1, 4, 2)  # a layer of one unit does not count
    with torch.no_grad():
        model[0].bias[:3], model[2].bias[:] = -50, -50
        model[4].bias[:] = 1.0
    measurement = PlasticityMonitor(model).measure(torch.randn(16, 3))
    assert measurement.dormant_fraction(0.0) == pytest.approx(3 / 14)
    assert measurement.dormant_fraction(0.0, min_units=1) == pytest.approx(4 / 15)
    assert measurement.dormant_fraction(0.0, network="0") == pytest.approx(0.3)
    assert math.isnan(measurement.dormant_fraction(0.0, network="nothing"))


def test_ablation_of_dead_units_changes_nothing_and_of_living_ones_something():
    model, x = mlp(3, 10, 4, 2), torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model[0].bias[:3] = -50
    monitor = PlasticityMonitor(model)
    dead = monitor.ablate(x, 0.0)
    assert (dead.max_change, dead.rms_change, dead.changed_actions) == (0, 0, 0)
    assert dead.units >= 3
    half = monitor.ablate(x, 1.0)
    assert half.max_change > half.rms_change > 0
    assert half.units > dead.units
    mean = monitor.ablate(x, 1.0, replace="mean")
    assert 0 < mean.rms_change < half.rms_change
    masks = monitor.measure(x).dormant(1.0)
    model.requires_grad_(False)
    h = model[0](x).relu() * ~torch.from_numpy(masks["0"][0])
    y = model[4](model[2](h).relu() * ~torch.from_numpy(masks["2"][0]))
    intact = model(x)
    expected = float((y - intact).abs().max() / intact.double().square().mean().sqrt())
    assert half.max_change == pytest.approx(expected, rel=1e-4)
    assert half.changed_actions == pytest.approx(float((y.argmax(-1) != intact.argmax(-1)).float().mean()))


def test_ablation_of_copies():
    agent, rows = make_sac(), batch(0, discrete=False)
    assert agent_monitor(agent).ablate(rows, 0.7).rms_change > 0


class Tied(nn.Module):
    """One activation module at two sites, and one layer that is called twice."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.out, self.act = nn.Linear(3, 5), nn.Linear(5, 4), nn.Linear(4, 2), nn.ReLU()

    def forward(self, x):
        return self.out(self.act(self.second(self.act(self.first(x)))))


def test_calls_of_one_activation_are_told_apart():
    torch.manual_seed(0)
    model, x = Tied(), torch.randn(32, 3)
    graph = UnitGraph(
        (
            UnitLayer("first", "act", 5, (Consumer("second"),), call=0),
            UnitLayer("second", "act", 4, (Consumer("out"),), call=1),
        )
    )
    measurement = PlasticityMonitor(model, graph).measure(x)
    h1 = model.first(x).relu()
    h2 = model.second(h1).relu()
    for name, h in (("first", h1), ("second", h2)):
        expected = scores.redo(scores.by_unit(h, UnitLayer(name, "", h.shape[1], ())))
        np.testing.assert_allclose(measurement.layers[name].scores["redo"], expected.detach().numpy(), rtol=1e-5)


class Twice(nn.Module):
    """A recurrent cell without memory: the same site, called for two halves of the input."""

    def __init__(self):
        super().__init__()
        self.cell, self.act, self.out = nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)

    def forward(self, x):
        return self.out(self.act(self.cell(x[:, :3])) + self.act(self.cell(x[:, 3:])))


def test_several_calls_count_as_more_samples():
    torch.manual_seed(0)
    model, x = Twice(), torch.randn(32, 6)
    graph = UnitGraph((UnitLayer("cell", "act", 5, (Consumer("out"),)),))
    found = PlasticityMonitor(model, graph).measure(x).layers["cell"].scores["redo"]
    a = model.cell(x.reshape(-1, 3)).relu().mean(0)
    np.testing.assert_allclose(found[0], (a / a.mean()).detach().numpy(), rtol=1e-5)


def test_functions_and_in_place_activations():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.out = nn.Linear(3, 5), nn.Linear(5, 2)

        def forward(self, x):
            return self.out(torch.relu_(self.layer(x)))

    torch.manual_seed(0)
    model, x = Functional(), torch.randn(32, 3)
    graph = UnitGraph((UnitLayer("layer", "", 5, (Consumer("out"),), function=torch.relu),))
    measurement = PlasticityMonitor(model, graph).measure(x)
    a = model.layer(x).relu().mean(0)
    np.testing.assert_allclose(
        measurement.layers["layer"].scores["redo"][0], (a / a.mean()).detach().numpy(), rtol=1e-5
    )
    with pytest.raises(ConfigError, match="functions"):
        PlasticityMonitor(model, graph).ablate(x, 0.1)


def test_a_compiled_model_is_looked_at_and_not_compiled_again():
    model, x = mlp(3, 8, 2), torch.randn(16, 3)
    compiled = torch.compile(model, backend="eager")
    compiled(x)
    frames = torch._dynamo.utils.counters["frames"]["total"]
    found = PlasticityMonitor(compiled).measure(x)
    assert torch._dynamo.utils.counters["frames"]["total"] == frames
    expected = PlasticityMonitor(model).measure(x)
    np.testing.assert_array_equal(found.layers["0"].scores["redo"], expected.layers["0"].scores["redo"])
    compiled(x)
    assert torch._dynamo.utils.counters["frames"]["total"] == frames


def test_a_compiled_part_of_a_model():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = torch.compile(mlp(3, 8, 4), backend="eager")
            self.act, self.head = nn.ReLU(), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.act(self.body(x)))

    model, x = Outer(), torch.randn(16, 3)
    model(x)
    graph = UnitGraph((UnitLayer("body._orig_mod.0", "body._orig_mod.1", 8, (Consumer("body._orig_mod.2"),)),))
    found = PlasticityMonitor(model, graph).measure(x).layers["body._orig_mod.0"].scores["redo"][0]
    a = model.body._orig_mod[0](x).relu().mean(0)
    np.testing.assert_allclose(found, (a / a.mean()).detach().numpy(), rtol=1e-5)


def test_dropout_and_batch_statistics_stand_still():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2))
    graph = UnitGraph((UnitLayer("0", "2", 8, (Consumer("4"),), norm="1"),))
    before = copy.deepcopy(model.state_dict())
    monitor, x = PlasticityMonitor(model, graph), torch.randn(32, 3)
    first, second = monitor.measure(x), monitor.measure(x)
    np.testing.assert_array_equal(first.layers["0"].scores["redo"], second.layers["0"].scores["redo"])
    assert second.metrics["interval_value_churn"] == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())


def test_hooks_go_when_the_model_raises():
    model = mlp(3, 8, 2)
    with pytest.raises(ConfigError, match="cannot read the probe batch"):
        PlasticityMonitor(model, graph_of_two()).measure(torch.randn(4, 5))
    assert all(not module._forward_hooks for module in model.modules())


def graph_of_two():
    return UnitGraph((UnitLayer("0", "1", 8, (Consumer("2"),)),))


def test_values_that_are_not_finite():
    model, x = mlp(3, 8, 2), torch.randn(16, 3)
    with torch.no_grad():
        model[0].weight[2, 0] = math.nan
    layer = PlasticityMonitor(model, graph_of_two()).measure(x).layers["0"]
    assert layer.metrics["nonfinite"][0] == 1
    assert np.isnan(layer.scores["redo"][0, 2])
    assert np.isfinite(np.delete(layer.scores["redo"][0], 2)).all()
    assert math.isnan(layer.metrics["srank"][0])
    with torch.no_grad():
        model[0].weight[:] = math.nan
    with pytest.raises(NumericError, match="no unit of 0 has a finite activation"):
        PlasticityMonitor(model, graph_of_two()).measure(x)


def test_a_layer_that_is_not_called():
    model = nn.ModuleDict({"used": mlp(3, 4, 2), "unused": mlp(3, 4, 2)})
    graph = UnitGraph(tuple(UnitLayer(f"{n}.0", f"{n}.1", 4, (Consumer(f"{n}.2"),)) for n in model))
    with pytest.raises(ConfigError, match=r"did not come by unused\.0"):
        PlasticityMonitor(model, graph, forward=lambda x: model["used"](x)).measure(torch.randn(4, 3))


def test_saturation_is_counted_where_an_activation_can_saturate():
    model = mlp(3, 8, 2, activation=nn.Tanh)
    with torch.no_grad():
        model[0].bias[:2] = 50
    found = PlasticityMonitor(model, graph_of_two()).measure(torch.randn(16, 3)).layers["0"].metrics
    assert found["saturated"][0] == pytest.approx(0.25, abs=0.05)
    assert (
        "saturated"
        not in PlasticityMonitor(mlp(3, 8, 2), graph_of_two()).measure(torch.randn(16, 3)).layers["0"].metrics
    )


def test_a_continued_monitor_measures_the_same():
    agent, rows = make_dqn(network=NetworkConfig(hidden=(16, 8))), batch(1, discrete=True)
    whole, parts = agent_monitor(agent), agent_monitor(agent)
    for monitor in (whole, parts):
        monitor.measure(rows, fixed=rows)
    learn(agent, 3)
    again = agent_monitor(agent)  # its own start weights would be those of now
    again.load_state_dict(parts.state_dict())
    first, second = (monitor.measure(rows, fixed=rows) for monitor in (whole, again))
    assert first.metrics == second.metrics
    for name, layer in first.layers.items():
        assert layer.metrics.keys() == second.layers[name].metrics.keys()
        for key, values in layer.metrics.items():
            np.testing.assert_array_equal(values, second.layers[name].metrics[key], err_msg=f"{name} {key}")


def test_light_probes_are_scores_of_activations_alone():
    agent, rows = make_dqn(), batch(1, discrete=True)
    layer = agent_monitor(agent).measure(rows, full=False).layers["online.trunk.0"]
    assert "ace" not in layer.scores
    assert "srank" not in layer.metrics
    assert "redo" in layer.scores
    assert "ace" in agent_monitor(agent).measure(rows, full=False, gradients=True).layers["online.trunk.0"].scores
