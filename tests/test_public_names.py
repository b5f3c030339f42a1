"""Names that other people's code imports: they change only on purpose, with a line in CHANGELOG.md."""

import importlib

import pytest

PUBLIC = {
    "rlkit.replay": [
        "Batch", "CombinedSampler", "ConsumeSampler", "DeviceStorage", "FrameStorage", "MaskedReshuffleSampler",
        "MemoryMapStorage", "MixtureReplay", "PrefetchReplay", "PrioritizedSampler", "RamStorage", "RankSampler",
        "RecencySampler", "Replay", "ReplayBuffer", "ReshuffleSampler", "SampleInfo", "Sampler", "UniformSampler",
        "Window", "replay_memory_bytes",
    ],
    "rlkit.replay.samplers": ["SAMPLERS", "find", "make"],
    "rlkit.core.timestep": ["EpisodeEnd", "TimeStep"],
    "rlkit.core.seeding": ["CounterStream", "SeedTree", "splitmix64"],
    "rlkit.core.errors": [
        "ConfigError", "EnvError", "NumericError", "ReplayError", "ResourceError", "ResumeError", "RlkitError",
    ],
    "rlkit.envs.spec": ["EnvSpec", "VectorEnv"],
    "rlkit.envs.registry": ["family_of", "list_envs", "make"],
    "rlkit.envs.stacking": ["FrameStacker"],
    "rlkit.agents.agent": ["Agent", "AgentInputs", "Algorithm", "Update"],
    "rlkit.agents.registry": ["find", "names"],
    "rlkit.agents.dqn": ["DQN", "DQNConfig", "EpsilonGreedy"],
    "rlkit.agents.sac": ["SAC", "SACConfig"],
    "rlkit.agents.ace": ["ACE", "ACEConfig"],
    "rlkit.causal": ["CausalModel", "adaptive_lasso", "direct_lingam", "regress_on_all"],
    "rlkit.nn.activations": ["ACTIVATIONS", "find", "make_activation", "network_activation", "outputs_per_unit"],
    "rlkit.nn.adam": ["adam_step", "clear_gradients", "make_adam"],
    "rlkit.nn.rational": ["Form", "Rational", "rational"],
    "rlkit.nn.rational_fit": ["Fit", "fit"],
    "rlkit.plasticity.protocols": [
        "Consumer", "Intervention", "LedgerEvent", "Measurement", "Observer", "Penalty", "Progress", "ReplayRatio",
        "UnitGraph", "UnitLayer",
    ],
    "rlkit.training.experiment": ["Experiment", "resume", "train"],
    "rlkit.training.resolve": ["load_config", "resolve"],
}  # fmt: skip


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names(module):
    found = importlib.import_module(module)
    for name in PUBLIC[module]:
        assert hasattr(found, name), f"{module}.{name}"
    if hasattr(found, "__all__"):
        assert sorted(found.__all__) == sorted(PUBLIC[module])
