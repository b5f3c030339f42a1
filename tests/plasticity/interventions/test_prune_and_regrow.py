"""Prune and regrow: vector V14, masks that hold, GraNet's schedule."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlkit.core.errors import ConfigError
from rlkit.nn.config import NetworkConfig
from rlkit.plasticity.interventions.prune_and_regrow import (
    PruneAndRegrow,
    PruneAndRegrowConfig,
    density_at,
    exchange,
    share_at,
    smallest,
)
from tests.agents.helpers import make_dqn
from tests.plasticity.interventions.unit_cures import data, equal, make, progress, resumes, run

SPARSE = {"mode": "granet", "every": 4, "duration": 16, "share_start": 0.3, "layers": "all"}


def built(name, agent=None, **settings):
    agent = make(name) if agent is None else agent
    cure = PruneAndRegrow(PruneAndRegrowConfig(**settings))
    rng = np.random.default_rng(0)
    cure.attach(agent, rng)
    return agent, cure, rng


def test_v14_exchange():
    weight = torch.tensor([0.9, -0.1, 0.05, 0, 0.4, 0])
    mask = torch.tensor([1, 1, 1, 0, 1, 0]).bool()
    gradient = torch.tensor([0.1, 0.2, 0.9, 0.8, 0, -0.3])
    new, grown = exchange(weight, mask, gradient, 0.5)
    assert new.int().tolist() == [1, 0, 1, 1, 1, 0]
    assert grown.int().tolist() == [0, 0, 1, 1, 0, 0]
    assert (weight * new * ~grown).tolist() == pytest.approx([0.9, 0, 0, 0, 0.4, 0])


def test_v14_schedule():
    assert [density_at(t, 100, 0.05, 0.5) for t in (0, 25, 50, 100, 200)] == pytest.approx(
        [0.5, 0.23984375, 0.10625, 0.05, 0.05]
    )
    assert [share_at(t, 100, 0.5, 0.005) for t in (0, 50, 100, 200)] == pytest.approx([0.5, 0.2525, 0.005, 0.005])


@given(st.lists(st.sampled_from([0.0, 0.5, 0.5, 1.0]), min_size=1), st.data())
def test_exactly_as_many_are_dropped_and_grown_whatever_the_ties(values, draw):
    weight = torch.tensor(values)
    mask = torch.tensor(draw.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values))))
    gradient = torch.tensor(
        draw.draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=len(values), max_size=len(values)))
    )
    share = draw.draw(st.sampled_from([0.0, 0.3, 0.5, 1.0]))
    new, grown = exchange(weight, mask, gradient, share)
    count = math.ceil(share * int(mask.sum()))
    assert int(new.sum()) == int(mask.sum())
    assert int(grown.sum()) == count
    kept = new & ~grown
    assert torch.all(mask[kept])
    dropped = mask & ~kept
    if kept.any() and dropped.any():
        assert weight[dropped].max() <= weight[kept].min()
    assert int(smallest(weight, count).sum()) == min(count, len(weight))


# Dense.


@pytest.mark.parametrize("name", ["dqn", "sac"])
def test_dense_small_weights_and_their_moments_are_0_and_learn_again(name):
    agent, cure, rng = built(name, every=3, share_start=0.4, share_end=0.4, layers="all")
    run(name, agent, cure, rng, 0, 2)
    agent.update(data(name, 2), cure.observer)
    before = {n: v.clone() for n, v in agent.networks.state_dict().items()}
    events = cure.apply(agent, None, rng)
    after = agent.networks.state_dict()
    assert [event.details["network"] for event in events] == (["online"] if name == "dqn" else ["critic", "actor"])
    states = {p: s for o in agent.optimizers.values() for p, s in o.state.items()}
    for event in events:
        for address, dropped in event.details["dropped"].items():
            views = (after[address], before[address])
            copies = zip(*(v if address.startswith("critic") else v[None] for v in views), strict=True)
            total = 0
            for new, old in copies:
                zero, count = new == 0, math.ceil(0.4 * new.numel())
                assert int(zero.sum()) == count
                assert old[zero].abs().max() <= old[~zero].abs().min()
                assert torch.equal(new[~zero], old[~zero])
                total += count
            assert total == dropped
            state = states[agent.networks.get_parameter(address)]
            assert torch.all(state["exp_avg"][after[address] == 0] == 0)
            assert torch.all(state["exp_avg_sq"][after[address] == 0] == 0)
    for key, value in after.items():
        if key.startswith("target") or key.endswith("bias"):
            assert torch.equal(value, before[key])
    assert cure.observer is None
    agent.update(data(name, 3))
    moved = agent.networks.get_parameter(next(iter(events[0].details["dropped"])))
    assert (moved == 0).float().mean() < 0.3  # they learn again


def test_inner_layers_only_by_default():
    agent, cure, rng = built("dqn", every=1)
    (event,) = run("dqn", agent, cure, rng, 0, 1)
    assert list(event.details["dropped"]) == ["online.trunk.0.weight", "online.trunk.2.weight"]  # conv1 is the first


def test_a_network_without_inner_layers_is_refused():
    agent = make_dqn(network=NetworkConfig(hidden=(8,)))
    with pytest.raises(ConfigError, match="no network has an inner layer"):
        built("dqn", agent)


# Sparse.


@pytest.mark.parametrize("name", ["dqn", "sac"])
def test_sparse_masks_hold_in_weights_moments_and_targets(name):
    agent, cure, rng = built(name, **SPARSE)
    states = {}
    for number in range(24):
        run(name, agent, cure, rng, number, 1)
        masks = cure.state_dict()["masks"]
        states = {p: s for o in agent.optimizers.values() for p, s in o.state.items()}
        for address, mask in masks.items():
            parameter = agent.networks.get_parameter(address)
            assert torch.all(parameter[~mask] == 0)
            assert torch.all(states[parameter]["exp_avg"][~mask] == 0)
            assert torch.all(states[parameter]["exp_avg_sq"][~mask] == 0)
            target = {"online": "target", "critic": "target_critic"}.get(address.split(".")[0])
            if target is not None:
                assert torch.all(agent.networks.get_parameter(f"{target}.{address.partition('.')[2]}")[~mask] == 0)
    for network in ("online",) if name == "dqn" else ("critic", "actor"):
        for k in range(2 if network == "critic" else 1):
            mine = [m[k] if network == "critic" else m for a, m in masks.items() if a.startswith(f"{network}.")]
            density = sum(int(m.sum()) for m in mine) / sum(m.numel() for m in mine)
            assert density == pytest.approx(0.5, abs=1e-2)


def test_sparse_follows_the_schedule_and_grows_by_the_mean_gradient_from_0():
    agent, cure, rng = built("dqn", **SPARSE)
    seen = {}

    class Watch:
        def activation(self, layer, value):
            cure.activation(layer, value)

        def gradients(self, networks, loss):
            cure.gradients(networks, loss)
            for address in cure.state_dict()["masks"]:
                seen.setdefault(address, []).append(networks.get_parameter(address).grad.clone())

    for number in range(4):
        agent.update(data("dqn", number), Watch())
    state = cure.state_dict()
    assert state["batches"] == {"online": 4}  # the period is shorter than 8
    for address, total in state["gradients"].items():
        torch.testing.assert_close(total, torch.stack(seen[address]).sum(0))
    weights = {address: agent.networks.get_parameter(address).detach().clone() for address in seen}
    (event,) = cure.apply(agent, None, rng)
    assert event.details["density"] == pytest.approx(0.5 + 0.5 * 0.75**3)
    masks = cure.state_dict()["masks"]
    for address, mask in masks.items():
        parameter = agent.networks.get_parameter(address)
        grown = mask & (parameter == 0) & (weights[address] != 0)
        assert int(grown.sum()) == event.details["grown"][address] > 0
        absent = ~mask
        gradient = torch.stack(seen[address]).sum(0).abs()
        if absent.any():
            assert gradient[grown].min() >= gradient[absent].max()
    assert all(torch.all(total == 0) for total in cure.state_dict()["gradients"].values())
    assert cure.state_dict()["batches"] == {"online": 0}


def test_gradients_of_the_last_eight_steps_only():
    agent, cure, _ = built("dqn", **SPARSE | {"every": 12})
    counts = []
    for number in range(12):
        agent.update(data("dqn", number), cure.observer)
        counts.append(cure.state_dict()["batches"]["online"])
    assert counts == [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]


def test_without_a_gradient_nothing_grows():
    agent, cure, rng = built("dqn", **SPARSE)
    agent.update(data("dqn", 0))
    (event,) = cure.apply(agent, None, rng)
    assert set(event.details["grown"].values()) == {0}


def test_due_every_so_many_gradient_steps_and_not_at_0():
    cure = PruneAndRegrow(PruneAndRegrowConfig(every=3))
    assert [n for n in range(10) if cure.due(progress(n))] == [3, 6, 9]


OTHER_VALUES = {
    "mode": "regrow",
    "every": 3,
    "share_start": 0.9,
    "share_end": 0.8,
    "duration": 8,
    "final_density": 0.1,
    "layers": "inner",
}


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(PruneAndRegrowConfig)])
def test_each_setting_changes_the_run(field):
    def result(**settings):
        agent, cure, rng = built("dqn", **SPARSE | settings)
        run("dqn", agent, cure, rng, 0, 5)
        return agent.state_dict()

    plain = result()
    assert equal(plain, result())
    assert not equal(plain, result(**{field: OTHER_VALUES[field]}))


@pytest.mark.parametrize(
    "settings",
    [{"mode": "dense"}, {"every": 0}, {"share_start": 1.5}, {"share_end": -0.1}, {"duration": 0},
     {"final_density": 0.0}, {"layers": "hidden"}],
)  # fmt: skip
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ConfigError, match=rf"prune_and_regrow.{next(iter(settings))} is"):
        PruneAndRegrowConfig(**settings)


@pytest.mark.parametrize("mode", ["regrow", "granet"])
@pytest.mark.parametrize("name", ["dqn", "sac"])
def test_resume(name, mode):
    resumes(name, lambda: PruneAndRegrow(PruneAndRegrowConfig(**SPARSE | {"mode": mode})), half=6)
