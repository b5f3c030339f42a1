"""Each setting of each cure of whole networks, changed, gives another run."""

from dataclasses import fields

import numpy as np
import pytest
import torch

from rlkit.plasticity.interventions import INTERVENTIONS
from tests.agents.helpers import make_sac
from tests.plasticity.interventions.whole import NORMALISED, everything, learn

# cure: (base settings, {field: changed value})
CHANGES = {
    "layer_reset": ({"every": 5}, {"layers": 2, "every": 4, "target": "copy"}),
    "full_reset": ({"every": 5}, {"every": 4}),
    "shrink_and_perturb": ({"every": 5}, {"form": "step", "every": 4, "shrink": 0.7, "perturb": 0.3}),
    "ace_reset": (
        {"every": 5, "dormancy_threshold": 0.2},
        {"every": 4, "dormancy_threshold": 10.0, "keep_min": 0.5, "keep_max": 0.7},
    ),
    "plasticity_injection": ({"at": (5,)}, {"at": (4,)}),
    "l2": ({}, {"coefficient": 0.1}),
    "l2_init": ({}, {"coefficient": 0.1}),
    "parseval": ({}, {"coefficient": 0.1, "scale": 1.0}),
    "spectral_norm": ({}, {"layers": 2}),
    "normalise_and_project": ({}, {}),
}
# What is clipped below the lower limit needs a policy that is dormant; 10 calls all but the strongest units so.
NEEDS = {("ace_reset", "keep_min"): {"dormancy_threshold": 10.0}}


def run(name, settings):
    torch.manual_seed(0)
    agent, rng = make_sac(network=NORMALISED), np.random.default_rng(0)
    cure = INTERVENTIONS[name].build(INTERVENTIONS[name].config(**settings))
    cure.attach(agent, rng)
    learn(agent, cure, rng, 6)
    return everything(agent, cure)


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(value, second[path]) for path, value in first.items())


def test_every_field_has_a_case():
    for name, (_, changed) in CHANGES.items():
        assert {field.name for field in fields(INTERVENTIONS[name].config)} == set(changed), name


@pytest.mark.parametrize(("name", "field"), [(name, field) for name in CHANGES for field in CHANGES[name][1]])
def test_a_changed_setting_changes_the_run(name, field):
    base, changed = CHANGES[name]
    base = base | NEEDS.get((name, field), {})
    assert not same(run(name, base), run(name, base | {field: changed[field]}))


@pytest.mark.parametrize("name", CHANGES)
def test_a_cure_changes_the_run_and_the_seed_alone_decides(name):
    base, _ = CHANGES[name]
    first = run(name, base)
    assert same(first, run(name, base))
    plain, rng = make_sac(network=NORMALISED), np.random.default_rng(0)
    nothing = INTERVENTIONS["full_reset"].build(INTERVENTIONS["full_reset"].config())
    learn(plain, nothing, rng, 6)
    assert not same(first, everything(plain, nothing))
