"""Rings, windows and samplers; usable without the rest of rlkit."""

from rlkit.replay.batch import Batch, Window
from rlkit.replay.buffer import ReplayBuffer, replay_memory_bytes
from rlkit.replay.mixture import MixtureReplay
from rlkit.replay.prefetch import PrefetchReplay
from rlkit.replay.replay import Replay
from rlkit.replay.samplers.combined import CombinedSampler
from rlkit.replay.samplers.consume import ConsumeSampler
from rlkit.replay.samplers.masked import MaskedReshuffleSampler
from rlkit.replay.samplers.prioritized import PrioritizedSampler
from rlkit.replay.samplers.rank import RankSampler
from rlkit.replay.samplers.recency import RecencySampler
from rlkit.replay.samplers.reshuffle import ReshuffleSampler
from rlkit.replay.samplers.sampler import SampleInfo, Sampler
from rlkit.replay.samplers.uniform import UniformSampler
from rlkit.replay.storage import DeviceStorage, FrameStorage, MemoryMapStorage, RamStorage

__all__ = [
    "Batch",
    "CombinedSampler",
    "ConsumeSampler",
    "DeviceStorage",
    "FrameStorage",
    "MaskedReshuffleSampler",
    "MemoryMapStorage",
    "MixtureReplay",
    "PrefetchReplay",
    "PrioritizedSampler",
    "RamStorage",
    "RankSampler",
    "RecencySampler",
    "Replay",
    "ReplayBuffer",
    "ReshuffleSampler",
    "SampleInfo",
    "Sampler",
    "UniformSampler",
    "Window",
    "replay_memory_bytes",
]
