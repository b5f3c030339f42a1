"""Runs with learned activations: the same after a resume, with curves in the run folder and in the report."""

import json

import pytest

from rlkit.core.errors import ConfigError
from rlkit.report.blobs import Blobs
from rlkit.report.run_data import load_run
from rlkit.report.sections import _activations, run_sections
from rlkit.training.experiment import Experiment, train
from rlkit.training.resolve import resolve
from rlkit.training.run_folder import RunFolder
from tests.training.runs import only_run
from tests.training.test_resume import check_continuation

FLAGS = {
    "env_steps": 200,
    "learning_starts": 40,
    "replay.capacity": 100,
    "replay.batch_size": 8,
    "evaluation.episodes": 0,
    "logging.period": 40,
    "logging.tensorboard": False,
    "plasticity.period": 40,
    "network.hidden": [8, 8],
    "threads": 1,
}
CASES = {
    "dqn": ("dqn", "tiny/pixels", {"network.activation": "rational"}),
    "sac": ("sac", "tiny/match", {"network.activation": "recurrent_rational", "random_steps": 40}),
}


@pytest.mark.parametrize(
    ("case", "own"),
    [
        ("dqn-tiny-pixels", {"network__activation": "rational", "network__activation_version": "D"}),
        ("sac-gym", {"network__activation": "recurrent_rational"}),
    ],
)
def test_continuation_through_files_is_bit_exact(case, own, tmp_path):
    check_continuation(case, 1, tmp_path, **own)


def test_curves_after_the_step_of_a_resume_are_cut(tmp_path):
    agent, env, own = CASES["sac"]
    train(resolve(agent, env, flags=FLAGS | own), tmp_path)
    run = only_run(tmp_path)
    lines = RunFolder(run).lines("activations")
    RunFolder(run).cut_after(120)
    assert [line["step"] for line in RunFolder(run).lines("activations")] == [
        line["step"] for line in lines if line["step"] <= 120
    ]


def test_curves_are_in_the_run_folder_and_in_the_report(tmp_path):
    agent, env, own = CASES["sac"]
    train(resolve(agent, env, flags=FLAGS | own), tmp_path)
    run = only_run(tmp_path)
    lines = RunFolder(run).lines("activations")
    assert lines[0]["step"] == 0
    assert lines[-1]["step"] == 200
    assert 50 <= len(lines) <= 102
    assert list(lines[0]["functions"]) == ["critic.trunk.1", "critic.trunk.3", "actor.trunk.1", "actor.trunk.3"]
    assert lines[0]["functions"]["actor.trunk.1"] != lines[-1]["functions"]["actor.trunk.1"]
    assert any("activation_outside_range" in line for line in RunFolder(run).lines("metrics"))

    shown = _activations(load_run(run).activations)
    assert [each["name"] for each in shown] == [
        "critic.trunk.1 #0, critic.trunk.3 #0",
        "critic.trunk.1 #1, critic.trunk.3 #1",
        "actor.trunk.1, actor.trunk.3",
    ]
    for each in shown:
        assert (each["step"][0], each["step"][-1], len(each["step"])) == (0, 200, 6)
        assert len(each["x"]) == len(each["values"][0]) == 101
    assert run_sections(load_run(run), 0, Blobs())


def test_a_run_without_learned_activations_has_no_curves(tmp_path):
    train(resolve("dqn", "tiny/pixels", flags=FLAGS), tmp_path)
    assert not (only_run(tmp_path) / "activations.jsonl").exists()
    assert _activations(load_run(only_run(tmp_path)).activations) is None


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        ({"network.activation": "rationl"}, "unknown activation 'rationl'"),
        ({"network.activation": "recurrent_rational", "network.activation_degrees": [4, 4]}, "for recurrent_rational"),
        ({"network.activation": "rational", "network.activation_start": "no.json"}, "be read from no.json"),
        ({"network.activation": "rational", "network.activation_groups": [3]}, r"activation_groups is \[3\]"),
        ({"network.activation": "rational", "network.activation_version": "E"}, "activation_version is 'E'"),
    ],
)
def test_mistakes_are_told_before_the_start(flags, what):
    with pytest.raises(ConfigError, match=what):
        Experiment(resolve("dqn", "tiny/pixels", flags=FLAGS | flags))


def test_a_learned_function_is_the_start_of_another_run(tmp_path):
    agent, env, own = CASES["dqn"]
    train(resolve(agent, env, flags=FLAGS | own), tmp_path)
    last = RunFolder(only_run(tmp_path)).lines("activations")[-1]["functions"]["online.trunk.1"][0]["coefficients"]
    path = tmp_path / "learned.json"
    path.write_text(json.dumps({"version": "A", "numerator": last[:6], "denominator": last[6:]}))
    flags = FLAGS | own | {"network.activation_start": str(path), "network.activation_rate_factor": 0}
    experiment = Experiment(resolve(agent, env, flags=flags))
    for part in experiment.agent.networks["online"].modules():
        if hasattr(part, "coefficients"):
            assert part.coefficients.tolist() == pytest.approx(last, rel=1e-6)
    experiment.close()
