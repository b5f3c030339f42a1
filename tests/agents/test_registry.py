import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest

from rlkit.agents import registry
from rlkit.core.errors import ConfigError
from rlkit.nn.config import NetworkConfig
from tests.agents.helpers import BOX, DISCRETE, inputs


@pytest.mark.parametrize("entry", registry.ENTRIES, ids=lambda entry: entry.name)
def test_every_line_builds_an_agent_with_defaults(entry):
    algorithm = registry.find(entry.name)
    space = DISCRETE if algorithm.actions == "discrete" else BOX
    agent = algorithm.build(inputs(space), algorithm.config(), algorithm.network())
    assert agent.unit_graph().layers
    assert algorithm.network is NetworkConfig


def test_an_unknown_name_shows_the_nearest_and_all():
    with pytest.raises(ConfigError, match=r"unknown algorithm 'dqm'\. Did you mean 'dqn'") as caught:
        registry.find("dqm")
    assert all(name in str(caught.value) for name in registry.names())


def test_listing_imports_no_torch():
    code = "import sys; from rlkit.agents.registry import ENTRIES; assert ENTRIES; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("name", "space", "words"),
    [
        ("sac", DISCRETE, ["sac cannot act in Discrete(2)", "use an agent for discrete actions: dqn"]),
        ("ace", DISCRETE, ["ace cannot act in Discrete(2)", "use an agent for discrete actions: dqn"]),
        ("dqn", BOX, ["dqn cannot act in Box", "use an agent for continuous actions: ace, sac"]),
        ("dqn", gym.spaces.MultiDiscrete([2, 3]), ["dqn cannot act in MultiDiscrete", "with discrete actions"]),
        ("dqn", gym.spaces.Discrete(3, start=1), ["dqn cannot act in Discrete(3, start=1)", "starts at 0"]),
        ("sac", gym.spaces.Box(-1, 1, (2, 2)), ["sac cannot act in Box", "shape (A,)"]),
        ("sac", gym.spaces.Box(-np.inf, 1, (2,)), ["the unbounded Box", "every bound must be finite"]),
        ("ace", gym.spaces.Box(-np.inf, 1, (2,)), ["ace cannot act in the unbounded Box"]),
    ],
)
def test_a_space_that_does_not_fit_is_named_with_the_way_out(name, space, words):
    algorithm = registry.find(name)
    with pytest.raises(ConfigError) as caught:
        algorithm.build(inputs(space), algorithm.config(), algorithm.network())
    assert all(word in str(caught.value) for word in words), str(caught.value)
