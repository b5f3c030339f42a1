"""One seed sequence per run, a named child per consumer; a counter-based stream for the samplers."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rlkit.core.errors import ResumeError
from rlkit.core.typing import IntArray, State

if TYPE_CHECKING:
    import torch

_MASK = (1 << 64) - 1
_GOLDEN, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


class SeedTree:
    """Children of one run seed. `tree.generator("env", 3)` never depends on who asked before."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def sequence(self, name: str, index: int = 0) -> np.random.SeedSequence:
        """The child for consumer `name`, number `index`."""
        return np.random.SeedSequence(self.seed, spawn_key=(zlib.crc32(name.encode()), index))

    def integer(self, name: str, index: int = 0) -> int:
        """A 63-bit seed for a foreign generator."""
        return int(self.sequence(name, index).generate_state(1, np.uint64)[0] >> np.uint64(1))

    def generator(self, name: str, index: int = 0) -> np.random.Generator:
        """A numpy generator (PCG64)."""
        return np.random.Generator(np.random.PCG64(self.sequence(name, index)))

    def torch_generator(self, name: str, index: int = 0, device: str | torch.device = "cpu") -> torch.Generator:
        """A torch generator on `device`."""
        import torch  # here, so that workers of environments and `rlkit envs` do without its second and 190 MB

        return torch.Generator(device).manual_seed(self.integer(name, index))


def generator_state(rng: np.random.Generator) -> State:
    """The state of a numpy generator as plain integers."""
    return dict(rng.bit_generator.state)


def load_generator_state(rng: np.random.Generator, state: State) -> None:
    """Put back what `generator_state` returned."""
    rng.bit_generator.state = state


def splitmix64(x: int) -> int:
    """The mixing function of splitmix64 (Steele et al. 2014) on one 64-bit integer."""
    x = (x + _GOLDEN) & _MASK
    x = ((x ^ (x >> 30)) * _MIX_1) & _MASK
    x = ((x ^ (x >> 27)) * _MIX_2) & _MASK
    return x ^ (x >> 31)


class CounterStream:
    """Draw number q is splitmix64(splitmix64(seed) ^ q): the same for ever, on every machine and numpy version.

    A kernel draws by itself from `key` at `counter` (core/kernels.py) and writes the counter back.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.key = np.uint64(splitmix64(seed & _MASK))
        self.counter = 0  # q of the next draw

    def words(self, count: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
        """The next `count` 64-bit words."""
        q = np.arange(self.counter, self.counter + count, dtype=np.uint64)
        self.counter += count
        x = (self.key ^ q) + np.uint64(_GOLDEN)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(_MIX_1)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(_MIX_2)
        return x ^ (x >> np.uint64(31))

    def units(self, count: int) -> npt.NDArray[np.float64]:
        """`count` floats in [0, 1): the upper 53 bits of a word."""
        return (self.words(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def integers(self, high: int, count: int) -> IntArray:
        """`count` integers in [0, high), floor(h * high / 2^64) exactly; high < 2^32."""
        h = self.words(count)
        n = np.uint64(high)
        low = ((h & np.uint64(0xFFFFFFFF)) * n) >> np.uint64(32)
        return (((h >> np.uint64(32)) * n + low) >> np.uint64(32)).astype(np.int64)

    def integer(self, low: int, high: int) -> int:
        """One integer in [low, high)."""
        return low + int(self.integers(high - low, 1)[0])

    def state_dict(self) -> State:
        """Seed and counter."""
        return {"seed": self._seed, "counter": self.counter}

    def load_state_dict(self, state: State) -> None:
        """Continue a stored stream; refuses another seed."""
        if state["seed"] != self._seed:
            raise ResumeError(
                "the stored random stream belongs to another seed",
                why=f"stored {state['seed']}, this run {self._seed}",
                fix="resume with the seed of the stored run",
            )
        self.counter = int(state["counter"])
