"""Cures of whole networks in real runs: continued through files, evaluated from a checkpoint."""

import pytest

from rlkit.plasticity.interventions import INTERVENTIONS
from rlkit.training.evaluation import evaluate_run
from rlkit.training.experiment import train
from tests.training.runs import config, only_run
from tests.training.test_resume import check_continuation

SETTINGS = {
    "layer_reset": {"every": 50},
    "full_reset": {"every": 50},
    "shrink_and_perturb": {"every": 50},
    "ace_reset": {"every": 50},
    "plasticity_injection": {"at": [40, 90]},
    "l2": {"coefficient": 0.01},
    "l2_init": {"coefficient": 0.01},
    "parseval": {"coefficient": 0.01},
    "spectral_norm": {},
    "normalise_and_project": {},
}


def treated(name, **overrides):
    own = {f"intervention__{name}__{key}": value for key, value in SETTINGS[name].items()}
    if name == "normalise_and_project":
        own["network__layer_norm"] = True
    return {"plasticity__interventions": [name], **own, **overrides}


def test_every_cure_of_whole_networks_is_here():
    assert set(SETTINGS) == set(INTERVENTIONS) - {"redo", "regrama", "continual_backprop", "prune_and_regrow"}


@pytest.mark.parametrize("name", SETTINGS)
def test_continuation(name, tmp_path):
    check_continuation("dqn-tiny-pixels", 1, tmp_path, **treated(name, env_steps=200))


@pytest.mark.parametrize("name", ["full_reset", "plasticity_injection"])
def test_continuation_of_sac(name, tmp_path):
    check_continuation("sac-gym", 1, tmp_path, **treated(name, env_steps=200))


@pytest.mark.parametrize("name", ["plasticity_injection", "spectral_norm"])
def test_a_run_whose_networks_a_cure_has_changed_can_be_evaluated(name, tmp_path):
    settings = config("dqn-tiny-pixels", **treated(name, env_steps=200, evaluation__episodes=3))
    train(settings, tmp_path)
    folder = only_run(tmp_path)
    assert len(evaluate_run(folder, episodes=3, video=False).returns) == 3
