"""ACE in whole runs: without its parts it is SAC, with them it says what it found and did."""

import dataclasses

import pytest

from rlkit.agents.sac import SACConfig
from rlkit.training.experiment import Experiment, train
from rlkit.training.resolve import resolve
from rlkit.training.run_folder import RunFolder
from rlkit.training.sameness import differing_leaves
from tests.training.runs import COMMON, only_run, steps

FLAGS = {**COMMON, "env_steps": 300, "replay.capacity": 200, "random_steps": 40, "replay_ratio": "1"}


def test_without_search_and_resets_a_run_is_sac_bit_for_bit():
    shared = FLAGS | {"network.hidden": [16, 16], "network.first_activation": "elu", "network.init": "xavier"}
    off = {"agent.causal_search": "none", "plasticity.interventions": "[]"}
    ace = resolve("ace-small", "gym/Pendulum-v1", flags=shared | off)
    settings = {f"agent.{field.name}": getattr(ace.agent, field.name) for field in dataclasses.fields(SACConfig)}
    states = []
    for config in (ace, resolve("sac", "gym/Pendulum-v1", flags=shared | settings)):
        experiment = Experiment(config)
        steps(experiment, 200)
        assert experiment.updates == 140
        states.append(experiment.state_dict())
        experiment.close()
    assert states[0]["agent"].pop("causal")["recent"]["count"] == 0
    assert differing_leaves(states[0], states[1]) == []


@pytest.mark.parametrize("search", ["direct_lingam", "sink"])
def test_a_run_tells_its_weights_and_resets(search, tmp_path):
    causal = {"agent.causal_search": search, "agent.causal_period": 120, "agent.causal_rows": 100}
    reset = {"intervention.ace_reset.every": 100, "env.num_envs": 2}
    assert train(resolve("ace-small", "dmc/reacher-easy", flags=FLAGS | causal | reset), tmp_path) == 0
    run = RunFolder(only_run(tmp_path))
    told = [line for line in run.lines("metrics") if "causal/weight_0" in line]
    assert [line["step"] for line in told] == [150, 250]  # found at 120 and 240
    for line in told:
        assert line["causal/weight_0"] + line["causal/weight_1"] == pytest.approx(2)
        assert {"causal/effect_1", "causal/left_out", "causal/wall_s"} <= line.keys()
    (first, second) = (line for line in run.lines("ledger") if line["kind"] == "ace_reset")
    assert (first["updates"], second["updates"]) == (100, 200)
    assert 0.2 <= first["keep"] <= 0.9
    assert set(first["dormant_by_layer"]) == {"actor.trunk.0", "actor.head"}
