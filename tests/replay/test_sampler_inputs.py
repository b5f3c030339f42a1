"""What every sampler refuses, unchanged."""

import numpy as np
import pytest

from rlkit.core.errors import ReplayError, ResumeError
from rlkit.replay.samplers import SAMPLERS, make
from rlkit.replay.samplers.combined import CombinedConfig
from rlkit.replay.samplers.uniform import UniformConfig
from rlkit.training.experiment import Experiment
from tests.training.runs import config, steps


@pytest.mark.parametrize("name", SAMPLERS)
def test_uids_of_another_number_than_slots(name):
    sampler = make(name, 4_096, seed=0)
    before = repr(sampler.state_dict())
    with pytest.raises(ReplayError, match="uid"):
        sampler.extend(np.arange(5), np.array([7, 8]))
    assert repr(sampler.state_dict()) == before


def test_a_state_of_other_settings_is_refused():
    stored = make("uniform", 8, 0, UniformConfig(replacement=True)).state_dict()
    with pytest.raises(ResumeError, match="replacement=True"):
        make("uniform", 8, 0, UniformConfig(replacement=False)).load_state_dict(stored)


def test_a_feistel_permutation_with_three_environments():
    """The small twin that compiles the kernels must not have fewer slots than the permutation needs."""
    settings = {"replay__sampler": "rr-c", "sampler__shuffle": "feistel", "replay__capacity": 6_000, "env__num_envs": 3}
    experiment = Experiment(config("dqn-tiny-pixels", **settings))
    steps(experiment, 40)
    assert experiment.updates > 0
    experiment.close()


@pytest.mark.parametrize("batch_size", [0, -1])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_batch_has_at_least_one_row(name, batch_size):
    sampler = make(name, 8, seed=0)
    sampler.extend(np.arange(5), np.arange(5))
    before = repr(sampler.state_dict())
    with pytest.raises(ReplayError, match=f"a batch of {batch_size} rows"):
        sampler.sample(batch_size)
    assert repr(sampler.state_dict()) == before


@pytest.mark.parametrize("inner", ["uniform", "rr-c"])
def test_a_combined_batch_of_one_is_the_newest_row(inner):
    sampler = make("cer", 8, 0, CombinedConfig(inner))
    sampler.extend(np.arange(5), np.arange(5))
    assert sampler.sample(1)[0].tolist() == [4]
