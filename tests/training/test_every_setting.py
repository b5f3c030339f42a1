"""Each field of each config, changed, gives another result or an error: no setting is decoration."""

import dataclasses
import json

import pytest
import torch

from rlkit.configs.parse import flatten
from rlkit.core.errors import RlkitError
from rlkit.replay.samplers import SAMPLERS
from rlkit.training.experiment import train
from rlkit.training.resolve import resolve
from rlkit.training.run_folder import RunFolder
from tests.training.runs import only_run

BASE = {
    "env_steps": 240,
    "learning_starts": 40,
    "replay.capacity": 120,
    "replay.batch_size": 8,
    "evaluation.period": 120,
    "evaluation.episodes": 2,
    "logging.period": 40,
    "logging.tensorboard": False,
    "checkpoint.period": 80,
    "network.hidden": [16],
    "threads": 1,
}
ATARI = {"env.episode_cap": 400, "evaluation.period": 0, "plasticity.monitor": False}  # pictures take long
RATIONAL = {"network.activation": "rational"}
SCHEDULED = {"ratio.steps": [100], "ratio.ratios": [1]}
ADAPTIVE = {"replay_ratio": "1/2", "ratio.high": 2, "ratio.check_period": 50, "ratio.window": 20, "ratio.gap": 0.5}


def cure(name, **settings):
    prefix = f"intervention.{name}."
    return {"plasticity.interventions": [name]} | {prefix + key: value for key, value in settings.items()}


REDO = cure("redo", every=20, threshold=0.7)
REGRAMA = cure("regrama", every=20, threshold=0.7)
CONTINUAL = cure("continual_backprop", replacement_rate=0.02, maturity=5, decay=0.9)
PRUNE = cure("prune_and_regrow", every=20, duration=100) | {"network.hidden": [16, 16]}
UNIT_CURES = (
    "redo",
    "regrama",
    "continual_backprop",
    "prune_and_regrow",
)  # the others: their test_settings_of_whole.py

# key: (agent, environment, other base values, changed value)
CHANGES = {
    "algorithm": ("dqn", "tiny/pixels", {}, "sac"),
    "name": ("dqn", "tiny/pixels", {}, "another"),
    "seed": ("dqn", "tiny/pixels", {}, 1),
    "threads": ("dqn", "tiny/pixels", {}, 2),
    "device": ("dqn", "tiny/pixels", {}, "cuda:7"),
    "env_steps": ("dqn", "tiny/pixels", {}, 200),
    "learning_starts": ("dqn", "tiny/pixels", {}, 80),
    "random_steps": ("dqn", "tiny/pixels", {}, 50),
    "replay_ratio": ("dqn", "tiny/pixels", {}, "1/3"),
    "env.id": ("dqn", "tiny/pixels", {}, "tiny/action"),
    "env.num_envs": ("dqn", "tiny/pixels", {}, 2),
    "env.protocol": ("dqn", "ALE/Breakout-v5", ATARI, "atari100k"),
    "env.backend": ("dqn", "ALE/Breakout-v5", ATARI, "fast"),
    "env.observation": ("sac", "dmc/cartpole-balance", {}, "pixels"),
    "env.action_repeat": ("dqn", "gym/CartPole-v1", {}, 2),
    "env.workers": ("dqn", "tiny/pixels", {}, 1),
    "env.stack": ("dqn", "tiny/pixels", {}, 2),
    "env.sticky": ("dqn", "ALE/Breakout-v5", ATARI, 0.9),
    "env.full_action_space": ("dqn", "ALE/Breakout-v5", ATARI, True),
    "env.episode_cap": ("dqn", "ALE/Breakout-v5", ATARI, 200),
    "network.hidden": ("dqn", "tiny/pixels", {}, [17]),
    "network.activation": ("dqn", "tiny/pixels", {}, "tanh"),
    "network.first_activation": ("dqn", "tiny/pixels", {"network.hidden": [16, 16]}, "tanh"),
    "network.init": ("dqn", "tiny/pixels", {}, "xavier"),
    "network.activation_version": ("dqn", "tiny/pixels", RATIONAL, "B"),
    "network.activation_degrees": ("dqn", "tiny/pixels", RATIONAL, [7, 6]),
    "network.activation_start": ("dqn", "tiny/pixels", RATIONAL, "tanh"),
    "network.activation_groups": ("dqn", "tiny/pixels", RATIONAL | {"network.hidden": [16, 16]}, [2]),
    "network.activation_rate_factor": ("dqn", "tiny/pixels", RATIONAL, 0.1),
    "network.activation_max_grad_norm": ("dqn", "tiny/pixels", RATIONAL, 1e-3),
    "network.layer_norm": ("dqn", "tiny/pixels", {}, True),
    "network.fourier_features": ("sac", "tiny/match", {}, 4),
    "network.fourier_scale": ("sac", "tiny/match", {"network.fourier_features": 4}, 1.0),
    "replay.capacity": ("dqn", "tiny/pixels", {}, 60),
    "replay.sampler": ("dqn", "tiny/pixels", {}, "another"),
    "replay.batch_size": ("dqn", "tiny/pixels", {}, 9),
    "replay.n_step": ("dqn", "tiny/pixels", {}, 2),
    "replay.storage": ("dqn", "tiny/pixels", {}, "disk"),
    "replay.directory": ("dqn", "tiny/pixels", {"replay.storage": "disk"}, "there/is/no/such/folder"),
    "replay.prefetch": ("dqn", "tiny/pixels", {}, True),
    "replay.gamma": ("dqn", "tiny/pixels", {}, 0.9),
    "replay.reward_clip": ("dqn", "tiny/pixels", {}, 0.5),
    "uniform sampler.replacement": ("dqn", "tiny/pixels", {"replay.batch_size": 30, "learning_starts": 60}, False),
    "rr-c sampler.shuffle": ("dqn", "tiny/pixels", {"replay.capacity": 4096}, "feistel"),
    "rr-c sampler.epoch_border": ("dqn", "tiny/pixels", {"replay.batch_size": 50, "learning_starts": 80}, "defer"),
    "rr-c sampler.strict": ("dqn", "tiny/pixels", {"replay.batch_size": 50}, True),
    "ere sampler.eta_start": ("dqn", "tiny/pixels", {"sampler.rows_min": 5}, 0.9),
    "ere sampler.eta_end": ("dqn", "tiny/pixels", {"sampler.rows_min": 5, "sampler.eta_batches": 10}, 0.9),
    "ere sampler.eta_batches": ("dqn", "tiny/pixels", {"sampler.rows_min": 5, "sampler.eta_start": 0.9}, 100),
    "ere sampler.cycle": ("dqn", "tiny/pixels", {"sampler.rows_min": 5}, 10),
    "ere sampler.rows_min": ("dqn", "tiny/pixels", {"sampler.eta_start": 0.9}, 5),
    "ere sampler.reshuffle": ("dqn", "tiny/pixels", {}, True),
    "cer sampler.inner": ("dqn", "tiny/pixels", {}, "rr-c"),
    "per sampler.priority_exponent": ("dqn", "tiny/pixels", {}, 0.9),
    "per sampler.priority_rule": ("dqn", "tiny/pixels", {"sampler.priority_epsilon": 0.1}, "clamp"),
    "per sampler.priority_epsilon": ("dqn", "tiny/pixels", {}, 0.1),
    "per sampler.new_row": ("dqn", "tiny/pixels", {}, "in_buffer_max"),
    "per sampler.draw": ("dqn", "tiny/pixels", {}, "independent"),
    "per sampler.uniform_share": ("dqn", "tiny/pixels", {}, 0.5),
    "per sampler.weight_exponent": ("dqn", "tiny/pixels", {}, 0.8),
    "per sampler.weight_exponent_end": ("dqn", "tiny/pixels", {"sampler.anneal_batches": 10}, 0.6),
    "per sampler.anneal_batches": ("dqn", "tiny/pixels", {}, 10),
    "per sampler.weight_normaliser": ("dqn", "tiny/pixels", {}, "none"),
    # SAC draws an action for each row of a batch, so that two copies of one row have different TD errors.
    "per sampler.duplicates": ("sac", "tiny/match", {"replay.batch_size": 50, "sampler.draw": "independent"}, "max"),
    "per-rank sampler.priority_exponent": ("dqn", "tiny/pixels", {}, 0.2),
    "per-rank sampler.sort_period": ("dqn", "tiny/pixels", {}, 50),
    "per-rank sampler.weight_exponent": ("dqn", "tiny/pixels", {}, 0.9),
    "per-rank sampler.weight_exponent_end": ("dqn", "tiny/pixels", {"sampler.anneal_batches": 10}, 0.6),
    "per-rank sampler.anneal_batches": ("dqn", "tiny/pixels", {}, 10),
    "rr-m sampler.priority_exponent": ("dqn", "tiny/pixels", {}, 0.9),
    "rr-m sampler.priority_rule": ("dqn", "tiny/pixels", {}, "add"),
    "rr-m sampler.priority_epsilon": ("dqn", "tiny/pixels", {}, 0.5),
    "rr-m sampler.new_row": ("dqn", "tiny/pixels", {}, "in_buffer_max"),
    "rr-m sampler.rebalance": ("dqn", "tiny/pixels", {}, "none"),
    "rr-m sampler.weight_exponent": ("dqn", "tiny/pixels", {}, 0.4),
    "consume sampler.max_visits": ("dqn", "tiny/pixels", {"sampler.max_visits": 4}, 5),
    "evaluation.period": ("dqn", "tiny/pixels", {}, 60),
    "evaluation.episodes": ("dqn", "tiny/pixels", {}, 3),
    "evaluation.epsilon": ("dqn", "tiny/pixels", {}, 1.0),
    "checkpoint.period": ("dqn", "tiny/pixels", {}, 100),
    "checkpoint.keep": ("dqn", "tiny/pixels", {}, 1),
    "checkpoint.replay": ("dqn", "tiny/pixels", {}, False),
    "logging.period": ("dqn", "tiny/pixels", {}, 60),
    "logging.tensorboard": ("dqn", "tiny/pixels", {}, True),
    "plasticity.monitor": ("dqn", "tiny/pixels", {}, False),
    "plasticity.period": ("dqn", "tiny/pixels", {}, 30),
    "plasticity.full_every": ("dqn", "tiny/pixels", {"plasticity.period": 20}, 2),
    "plasticity.batch_size": ("dqn", "tiny/pixels", {}, 32),
    "plasticity.interventions": ("dqn", "tiny/pixels", {}, "[l2]"),
    "plasticity.replay_ratio": ("dqn", "tiny/pixels", {}, "another"),
    "scheduled ratio.steps": ("dqn", "tiny/pixels", SCHEDULED, [150]),
    "scheduled ratio.ratios": ("dqn", "tiny/pixels", SCHEDULED, [2]),
    "scheduled ratio.end": ("dqn", "tiny/pixels", {"ratio.steps": [60, 100], "ratio.end": 1}, 2),
    "adaptive ratio.high": ("dqn", "tiny/pixels", ADAPTIVE, 3),
    "adaptive ratio.signal": ("dqn", "tiny/pixels", ADAPTIVE, "srank"),
    "adaptive ratio.network": ("dqn", "tiny/pixels", ADAPTIVE, "target"),
    "adaptive ratio.check_period": ("dqn", "tiny/pixels", ADAPTIVE, 60),
    "adaptive ratio.window": ("dqn", "tiny/pixels", ADAPTIVE, 40),
    "adaptive ratio.gap": ("dqn", "tiny/pixels", ADAPTIVE, 0),
    "adaptive ratio.warmup_checks": ("dqn", "tiny/pixels", ADAPTIVE, 3),
    "adaptive ratio.patience": ("dqn", "tiny/pixels", ADAPTIVE, 2),
    "adaptive ratio.mode": ("dqn", "tiny/pixels", ADAPTIVE | {"ratio.gap": 1e-9, "ratio.max_wait": 50}, "hysteresis"),
    "adaptive ratio.max_wait": ("dqn", "tiny/pixels", ADAPTIVE | {"ratio.gap": 0}, 50),
    "intervention.redo.every": ("dqn", "tiny/pixels", REDO, 30),
    "intervention.redo.threshold": ("dqn", "tiny/pixels", REDO, 0.1),
    "intervention.redo.bias": ("dqn", "tiny/pixels", REDO, "zero"),
    "intervention.redo.optimizer_step": ("dqn", "tiny/pixels", REDO, "zero_tensor"),
    "intervention.redo.second_moment": ("dqn", "tiny/pixels", REDO, "living_mean"),
    "intervention.redo.target": ("dqn", "tiny/pixels", REDO, "mirror"),
    "intervention.redo.compensate": ("dqn", "tiny/pixels", REDO, True),
    "intervention.regrama.every": ("dqn", "tiny/pixels", REGRAMA, 30),
    "intervention.regrama.threshold": ("dqn", "tiny/pixels", REGRAMA, 0.1),
    "intervention.regrama.max_share": ("dqn", "tiny/pixels", REGRAMA, 0.1),
    "intervention.regrama.outgoing": ("dqn", "tiny/pixels", REGRAMA, "zero"),
    "intervention.regrama.bias": ("dqn", "tiny/pixels", REGRAMA, "zero"),
    "intervention.regrama.optimizer_step": ("dqn", "tiny/pixels", REGRAMA, "zero_tensor"),
    "intervention.regrama.second_moment": ("dqn", "tiny/pixels", REGRAMA, "living_mean"),
    "intervention.regrama.target": ("dqn", "tiny/pixels", REGRAMA, "mirror"),
    "intervention.continual_backprop.replacement_rate": ("dqn", "tiny/pixels", CONTINUAL, 0.05),
    "intervention.continual_backprop.maturity": ("dqn", "tiny/pixels", CONTINUAL, 20),
    "intervention.continual_backprop.decay": ("dqn", "tiny/pixels", CONTINUAL, 0.1),
    "intervention.continual_backprop.utility": ("dqn", "tiny/pixels", CONTINUAL, "adaptable_contribution"),
    "intervention.continual_backprop.compensate": ("dqn", "tiny/pixels", CONTINUAL, False),
    "intervention.continual_backprop.optimizer_step": ("dqn", "tiny/pixels", CONTINUAL, "zero_tensor"),
    "intervention.continual_backprop.second_moment": ("dqn", "tiny/pixels", CONTINUAL, "zero"),
    "intervention.continual_backprop.report_every": ("dqn", "tiny/pixels", CONTINUAL, 30),
    "intervention.prune_and_regrow.mode": ("dqn", "tiny/pixels", PRUNE, "granet"),
    "intervention.prune_and_regrow.every": ("dqn", "tiny/pixels", PRUNE, 30),
    "intervention.prune_and_regrow.share_start": ("dqn", "tiny/pixels", PRUNE, 0.9),
    "intervention.prune_and_regrow.share_end": ("dqn", "tiny/pixels", PRUNE, 0.4),
    "intervention.prune_and_regrow.duration": ("dqn", "tiny/pixels", PRUNE, 40),
    "intervention.prune_and_regrow.final_density": (
        "dqn",
        "tiny/pixels",
        PRUNE | {"intervention.prune_and_regrow.mode": "granet"},
        0.2,
    ),
    "intervention.prune_and_regrow.layers": ("dqn", "tiny/pixels", PRUNE, "all"),
    # dqn
    "dqn agent.learning_rate": ("dqn", "tiny/pixels", {}, 1e-3),
    "dqn agent.adam_eps": ("dqn", "tiny/pixels", {}, 1e-3),
    "dqn agent.double": ("dqn", "tiny/pixels", {"agent.target_update_period": 7}, True),
    "dqn agent.huber_threshold": ("dqn", "tiny/pixels", {}, 0.01),
    "dqn agent.target_update_period": ("dqn", "tiny/pixels", {}, 7),
    "dqn agent.max_grad_norm": ("dqn", "tiny/pixels", {}, 1e-3),
    "dqn agent.epsilon_start": ("dqn", "tiny/pixels", {}, 0.5),
    "dqn agent.epsilon_end": ("dqn", "tiny/pixels", {}, 0.9),
    "dqn agent.epsilon_decay_share": ("dqn", "tiny/pixels", {}, 0.9),
    "dqn agent.epsilon_decay_steps": ("dqn", "tiny/pixels", {}, 10),
    # sac
    "sac agent.actor_learning_rate": ("sac", "tiny/match", {}, 1e-2),
    "sac agent.critic_learning_rate": ("sac", "tiny/match", {}, 1e-2),
    "sac agent.temperature_learning_rate": ("sac", "tiny/match", {}, 1e-2),
    "sac agent.tau": ("sac", "gym/Pendulum-v1", {}, 0.5),
    "sac agent.log_std_min": ("sac", "tiny/match", {}, -3.0),
    "sac agent.log_std_max": ("sac", "tiny/match", {}, 1.0),
    "sac agent.initial_temperature": ("sac", "tiny/match", {}, 0.1),
    "sac agent.target_entropy_scale": ("sac", "tiny/match", {}, 2.0),
    "sac agent.log_std_bound": ("sac", "tiny/match", {}, "clip"),
    "sac agent.temperature_factor": ("sac", "tiny/match", {}, "log_temperature"),
    "sac agent.actor_period": ("sac", "tiny/match", {}, 2),
    "sac agent.actor_steps": ("sac", "tiny/match", {}, 2),
    "sac agent.target_period": ("sac", "gym/Pendulum-v1", {}, 2),
}
# ACE has SAC's settings, too; what its own change needs two action dimensions: tests/agents/test_ace.py.


def all_keys():
    """Every field there is, with the name of the algorithm, sampler or replay ratio before those that belong to it."""
    found = set()
    for name, needed in (("scheduled", SCHEDULED), ("adaptive", ADAPTIVE)):
        config = resolve("dqn", "tiny/pixels", flags=needed | {"plasticity.replay_ratio": name})
        found |= {f"{name} {key}" for key in flatten(config) if key.startswith("ratio.")}
    config = resolve("dqn", "tiny/pixels", flags={"plasticity.interventions": list(UNIT_CURES)})
    found |= {key for key in flatten(config) if key.startswith("intervention.")}
    for agent, sampler in [("dqn", "uniform"), ("sac", "uniform"), *(("dqn", name) for name in SAMPLERS)]:
        owner = {"agent": f"{agent} ", "sampler": f"{sampler} "}
        keys = flatten(resolve(agent, "tiny/pixels", flags={"replay.sampler": sampler}))
        found |= {owner.get(key.partition(".")[0], "") + key for key in keys}
    return found


def test_every_field_has_a_case():
    assert set(CHANGES) == all_keys()


def outcome(agent, env, settings, folder):
    """Everything that a run leaves, without measured times."""
    flags = {**BASE, **({"random_steps": 40} if agent == "sac" else {}), **settings}
    try:
        config = resolve(agent, flags.pop("env.id", env), flags={k: v for k, v in flags.items() if k != "name"})
        train(dataclasses.replace(config, name=settings.get("name", agent)), folder)
    except RlkitError as error:
        return str(error)
    run = only_run(folder)
    lines = {name: RunFolder(run).lines(name) for name in ("metrics", "evaluations", "ledger")}
    for line in [*lines["metrics"], *lines["evaluations"]]:
        del line["wall_s"]
    record = run / "plasticity" / "record.bin"
    content = record.read_bytes() if record.exists() else b""
    files = sorted(p.relative_to(run).as_posix() for p in run.rglob("*") if "events." not in p.name)
    about = json.loads((run / "run.json").read_text())
    return lines, files, content, about["agent"], about["env"], torch.get_num_threads()


_UNCHANGED = {}  # what many keys are compared with


def unchanged(agent, env, settings, folder):
    """The outcome, computed once for each set of settings."""
    key = json.dumps([agent, env, settings], sort_keys=True)
    if key not in _UNCHANGED:
        _UNCHANGED[key] = outcome(agent, env, settings, folder)
    return _UNCHANGED[key]


@pytest.mark.filterwarnings("ignore:a batch of")  # what sampler.strict turns into an error
@pytest.mark.parametrize("key", CHANGES)
def test_a_changed_field_changes_the_outcome(key, tmp_path):
    agent, env, base, value = CHANGES[key]
    owner, _, own = key.rpartition(" ")
    if own.startswith("sampler."):
        base = {"replay.sampler": owner, **base}
    if own.startswith("ratio."):
        base = {"plasticity.replay_ratio": owner, **base}
    before = unchanged(agent, env, base, tmp_path / "before")
    assert not isinstance(before, str), before
    if key in ("env.workers", "replay.storage"):  # told by the processes and files that they make: see their own tests
        assert outcome(agent, env, {**base, own: value}, tmp_path / "after") == before
        return
    after = outcome(agent, env, {**base, own: value}, tmp_path / "after")
    assert after != before
