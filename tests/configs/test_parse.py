"""Settings: precedence, conversions, and what a mistake is told."""

from dataclasses import replace
from fractions import Fraction

import pytest

from rlkit.configs.parse import build, difference, dump, flag_layer, read_layer
from rlkit.configs.schema import RunConfig
from rlkit.configs.shipped import available
from rlkit.core.errors import ConfigError, ResumeError
from rlkit.core.seeding import SeedTree
from rlkit.training.build import make_env
from rlkit.training.resolve import check_resume, load_config, resolve, resolve_with_origins

ENVS = {"atari": "ALE/Pong-v5", "dmc": "dmc/walker-walk", "gym": "gym/CartPole-v1", "tiny": "tiny/pixels"}


def test_later_layers_win(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("evaluation: {period: 7}\nlogging:\n  period: 8\nseed: 9\n")
    config, origins = resolve_with_origins(
        "dqn", "gym/CartPole-v1", preset="smoke", config_file=file, flags={"seed": "10", "agent.double": "true"}
    )
    assert config.replay.gamma == 0.99  # dataclass
    assert config.replay_ratio == Fraction(1, 2)  # dqn.yaml over the dataclass
    assert config.env_steps == 600  # preset over the family
    assert config.replay.batch_size == 16  # preset over dqn.yaml
    assert (config.evaluation.period, config.logging.period) == (7, 8)  # file over the preset
    assert config.seed == 10  # flag over the file
    assert config.agent.double is True
    assert origins["seed"] == "--seed"
    assert origins["logging.period"] == f"{file}:3"
    assert origins["replay_ratio"].startswith("configs/dqn.yaml:")


def test_family_section_of_an_agent_applies_to_its_family_only():
    assert resolve("dqn", "ALE/Pong-v5").agent.learning_rate == 6.25e-5
    assert resolve("dqn", "gym/CartPole-v1").agent.learning_rate == 5e-4
    assert resolve("dqn", "ALE/Pong-v5").replay.reward_clip == 1.0


def test_an_agent_based_on_another_changes_what_it_says_alone():
    official = resolve("ace-official", "dmc/walker-walk")
    assert official.env.action_repeat == 1  # of its section for the family, kept
    for name, changed in {
        "ace-sink": {"name", "agent.causal_search", "agent.causal_standardise"},
        "ace-nocausal": {"name", "agent.causal_search"},
        "ace-noreset": {
            "name", "plasticity.interventions",
            *(f"intervention.ace_reset.{key}" for key in ("every", "dormancy_threshold", "keep_min", "keep_max")),
        },
    }.items():  # fmt: skip
        assert {key for key, _, _ in difference(official, resolve(name, "dmc/walker-walk"))} == changed
    origins = resolve_with_origins("ace-sink", "dmc/walker-walk")[1]
    assert origins["replay.batch_size"].startswith("configs/ace-official.yaml:")


def test_settings_of_a_cure_go_with_it():
    assert resolve("ace-small", "gym/Pendulum-v1").intervention.ace_reset.every == 10_000
    without = resolve("ace-small", "gym/Pendulum-v1", flags={"plasticity.interventions": "[redo]"})
    assert without.plasticity.interventions == ("redo",)
    assert not hasattr(without.intervention, "ace_reset")
    flags = {"plasticity.interventions": "[]", "intervention.ace_reset.every": 5}
    with pytest.raises(ConfigError, match=r"unknown key intervention\.ace_reset"):  # said at the same place
        resolve("ace-small", "gym/Pendulum-v1", flags=flags)


@pytest.mark.parametrize("family", ENVS)
@pytest.mark.parametrize("agent", available(""))
@pytest.mark.parametrize("preset", [None, *available("presets")])
def test_every_shipped_file_resolves_and_round_trips(agent, family, preset, tmp_path):
    if preset == "atari-hour" and not (agent == "dqn" and family == "atari"):
        with pytest.raises(ConfigError):  # it is for DQN, and says so by the keys that it sets
            make_env(resolve(agent, ENVS[family], preset=preset).env, SeedTree(0), "env")
        return
    config = resolve(agent, ENVS[family], preset=preset)
    (tmp_path / "config.yaml").write_text(dump(config))
    again = load_config(tmp_path / "config.yaml")
    assert again == config
    assert difference(config, again) == []


@pytest.mark.parametrize(
    ("flags", "value"),
    [
        ({"replay_ratio": "1/4"}, Fraction(1, 4)),
        ({"replay_ratio": "0.3"}, Fraction(3, 10)),
        ({"replay_ratio": 2}, Fraction(2)),
    ],
)
def test_fractions_are_exact(flags, value):
    assert resolve("dqn", "gym/CartPole-v1", flags=flags).replay_ratio == value


def test_lists_floats_and_none():
    flags = {"network.hidden": "[8, 4]", "agent.learning_rate": "3e-4", "replay.reward_clip": "null"}
    config = resolve("dqn", "gym/CartPole-v1", flags=flags)
    assert config.network.hidden == (8, 4)
    assert config.agent.learning_rate == 3e-4
    assert config.replay.reward_clip is None


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ({"gama": "1"}, ["--gama: unknown key gama", "known here"]),
        ({"replay.gama": "1"}, ["unknown key replay.gama", "Did you mean 'gamma'"]),
        ({"agent.learning_rat": "1"}, ["agent.learning_rate", "Did you mean"]),
        ({"replay": "1"}, ["replay is a group of settings", "capacity"]),
        ({"seed.x": "1"}, ["unknown key seed.x"]),
        ({"env.backend": "fats"}, ["one of exact, fast", "Did you mean 'fast'"]),
        ({"env_steps": "many"}, ["env_steps is 'many'", "a whole number"]),
        ({"env_steps": "1.5"}, ["a whole number"]),
        ({"env_steps": "true"}, ["a whole number"]),
        ({"replay.gamma": "high"}, ["a number"]),
        ({"logging.tensorboard": "1"}, ["true or false"]),
        ({"network.hidden": "256"}, ["a list, '[256, 256]'"]),
        ({"replay_ratio": "1/0"}, ["a fraction"]),
        ({"replay_ratio": "-1"}, ["a fraction of 0 or more"]),
        ({"network.hidden": "[0]"}, ["at least one unit"]),
        ({"agent.target_update_period": "0"}, ["agent.target_update_period"]),
        ({"agent.epsilon_end": "2"}, ["0 to 1"]),
        ({"seed": "[1"}, ["is not a YAML value"]),
    ],
)
def test_mistakes_in_flags(flags, parts):
    with pytest.raises(ConfigError) as caught:
        resolve("dqn", "gym/CartPole-v1", flags=flags)
    for part in parts:
        assert part in str(caught.value)
    assert caught.value.exit_code == 2


OUT_OF_RANGE = {
    "dqn": {
        "env_steps": [0, -1], "seed": [-1], "threads": [-1], "learning_starts": [-1], "random_steps": [-1],
        "replay.capacity": [0, -5], "replay.batch_size": [0, -3], "replay.n_step": [0, -1],
        "replay.gamma": [-0.1, 1.5, ".nan"], "replay.reward_clip": [0, -1, ".nan"],
        "evaluation.period": [-5], "evaluation.episodes": [-1], "evaluation.epsilon": [2, -0.1],
        "checkpoint.period": [-1], "checkpoint.keep": [0, -1], "logging.period": [0, -1], "network.hidden": ["[]"],
        "agent.learning_rate": [0, -1, ".nan", ".inf"], "agent.adam_eps": [-1, ".nan"],
        "agent.huber_threshold": [0, -1, ".nan"], "agent.max_grad_norm": [0, -1],
        "agent.epsilon_decay_steps": [-1], "agent.epsilon_decay_share": [1.1],
    },
    "sac": {
        "agent.actor_learning_rate": [0, ".nan"], "agent.critic_learning_rate": [-1],
        "agent.temperature_learning_rate": [".inf"], "agent.tau": [0, 1.1], "agent.actor_period": [0],
        "agent.initial_temperature": [0], "agent.actor_steps": [0], "agent.target_period": [0],
    },
    "ace-small": {
        "agent.tau": [0], "agent.causal_period": [0], "agent.causal_rows": [-1],
        "agent.causal_temperature": [0, ".nan", ".inf"],
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("agent", "key", "value"),
    [(agent, key, value) for agent, keys in OUT_OF_RANGE.items() for key, values in keys.items() for value in values],
)
def test_a_value_out_of_range_is_named_with_what_is_allowed(agent, key, value):
    with pytest.raises(ConfigError) as caught:
        resolve(agent, "tiny/pixels", flags={key: str(value)})
    what, why, *_ = str(caught.value).splitlines()
    assert what.startswith(f"error[config]: {key} is ")
    assert why.startswith("allowed: ") or key == "network.hidden"


def test_mistakes_in_a_file_name_its_line(tmp_path):
    file = tmp_path / "own.yaml"
    for text, part in [
        ("seed: 1\nreplay:\n  capasity: 3\n", f"{file}:3: unknown key replay.capasity"),
        ("seed: 1\nenv_steps: soon\n", f"{file}:2: env_steps is 'soon'"),
        ("seed: [1\n", f"{file}:2 is not YAML"),
        ("- 1\n", "holds no settings"),
        ("seed: 1\nseed: 2\n", f"{file}:2: seed is set twice"),
    ]:
        file.write_text(text)
        with pytest.raises(ConfigError) as caught:
            resolve("dqn", "gym/CartPole-v1", config_file=file)
        assert part in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        resolve("dqn", "gym/CartPole-v1", config_file=tmp_path / "none.yaml")
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not a text in UTF-8"):
        resolve("dqn", "gym/CartPole-v1", config_file=file)


def test_unknown_agent_and_preset():
    with pytest.raises(ConfigError, match="unknown agent 'sacc'") as caught:
        resolve("sacc", "gym/CartPole-v1")
    assert "Did you mean 'sac'" in str(caught.value)
    assert "rlkit agents" in str(caught.value)
    with pytest.raises(ConfigError, match="unknown preset 'smok'"):
        resolve("sac", "gym/CartPole-v1", preset="smok")


def test_resume_rules():
    old = resolve("dqn", "gym/CartPole-v1")
    longer = replace(old, env_steps=90_000, logging=replace(old.logging, period=10))
    assert {key for key, _, _ in check_resume(old, longer, allow_all=False)} == {"env_steps", "logging.period"}
    other = replace(longer, seed=5, replay=replace(old.replay, gamma=0.9))
    with pytest.raises(ResumeError) as caught:
        check_resume(old, other, allow_all=False)
    for part in ("seed 0 -> 5", "replay.gamma 0.99 -> 0.9", "safe to change: env_steps 50000 -> 90000", "--fork"):
        assert part in str(caught.value)
    assert caught.value.exit_code == 4
    assert len(check_resume(old, other, allow_all=True)) == 4


PARTS = ("agent", "network", "sampler", "intervention", "ratio")


def test_layers_need_not_be_ordered_by_hand():
    layers = [read_layer("seed: 1\nthreads: 4", "a"), flag_layer({"seed": "2"})]
    parts = {part: type(getattr(resolve("dqn", "tiny/one"), part)) for part in PARTS}
    config = build(RunConfig, layers, parts)
    assert (config.seed, config.threads) == (2, 4)
