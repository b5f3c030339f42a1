"""Rings, windows and samplers; usable without the rest of rlkit."""

from rlkit.replay.batch import Batch, Window
from rlkit.replay.buffer import ReplayBuffer, replay_memory_bytes
from rlkit.replay.samplers.sampler import SampleInfo, Sampler
from rlkit.replay.samplers.uniform import UniformSampler

__all__ = ["Batch", "ReplayBuffer", "SampleInfo", "Sampler", "UniformSampler", "Window", "replay_memory_bytes"]
