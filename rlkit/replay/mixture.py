"""Several replays as one: every batch has its rows from each in shares that are exact over time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NoReturn, TypeAlias

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from rlkit.core.errors import ConfigError, ReplayError, ResumeError
from rlkit.core.kernels import kernel
from rlkit.core.timestep import TimeStep
from rlkit.core.typing import Array, FloatArray, IntArray, State
from rlkit.replay.batch import Batch, Window
from rlkit.replay.replay import Guard, Replay, check_kind, guarded
from rlkit.replay.samplers.sampler import check_batch_size, check_priority, no_usable_row

# Columns of a batch but for its weights: name, shape of a row, type, device.
Layout: TypeAlias = tuple[tuple[Any, tuple[int, ...], torch.dtype, torch.device], ...]


class MixtureReplay:
    """Batches from several replays: source s gives its share of the rows, exactly, with a carry from batch to batch.

    sources: by name; all have rows of the same shapes and types. The first is the one that `add` and `cut` write to.
    shares: by the same names, above 0, together 1; 0.3 means 3/10. Raises ConfigError if they are not.

    A batch shows in `source` [B] the place of each row's source in `sources`; `index` and `uid` are that source's own.
    A source without usable rows gives nothing: the others share its rows in that batch, and its carry waits.

    `weight` is there if a source has weights, and is 1 for rows of the others. Row i of source s is drawn with
    P(i) = share_s p_i / S_s. A share is wanted, no bias to be corrected, so importance weights aim at equal chances
    inside each source, q(i) = share_s / N_s. The share cancels in (q / P)^beta = (N_s p_i / S_s)^-beta: that is the
    weight which the source gives by itself, and it is handed on as it is. A sampler that divides by the largest weight
    of its batch does so for the rows of its source alone; with `weight_normaliser` "none" all have one scale.
    """

    def __init__(self, sources: Mapping[str, Replay], shares: Mapping[str, Fraction | float]) -> None:
        self.names = tuple(sources)
        self._sources = list(sources.values())
        self._shares = _exact(self.names, shares)
        # Whole numbers, for speed: shares in units of their sum, carries in units of a `_unit`th of a row.
        common = math.lcm(*(share.denominator for share in self._shares))
        self._parts = [int(share * common) for share in self._shares]
        self._unit = common
        self._carry = [0] * len(self.names)
        self._drawn, self._empty = np.zeros(len(self.names), np.int64), np.zeros(len(self.names), np.int64)
        self._outputs: dict[tuple[int, int, Layout], _Output] = {}
        self._pieces: dict[tuple[int, int], _Piece] = {}
        self._guard = Guard()

    @guarded
    def __len__(self) -> int:
        """Rows stored now in all sources, final frames included."""
        return sum(len(source) for source in self._sources)

    @guarded
    def close(self) -> None:
        """Close all sources."""
        self._guard.closed = True
        self._outputs.clear()
        self._pieces.clear()
        for source in self._sources:
            source.close()

    def warm_up(self) -> None:
        """Compile what all sources run, and what mixes their rows."""
        for source in self._sources:
            source.warm_up()
        spread(np.ones(1, np.int64), np.empty(1, np.int64))

    # --- writing: to the first source

    @guarded
    def add(self, observation: Array, action: Array, step: TimeStep) -> None:
        """Store a step in the first source."""
        self._sources[0].add(observation, action, step)

    @guarded
    def cut(self, observation: Array) -> None:
        """End all open episodes of the first source."""
        self._sources[0].cut(observation)

    # --- reading

    @guarded
    def usable(self, window: Window) -> int:
        """Rows of all sources that a batch of such windows may start at; their windows are from now on such."""
        return sum(source.usable(window) for source in self._sources)

    @guarded
    def sample(self, batch_size: int, window: Window, *, copy: bool = False, page: int = 0) -> Batch:
        """A batch [B], or [B, burn_in + length] of sequences, in which the sources are spread evenly (`spread`).

        Valid until the next `sample` of the same `page` (its tensors are reused) unless `copy`.
        Raises ReplayError if no source has a usable row, or if one has fewer than its sampler needs: then the rows that
        other sources have given for this batch are spent, and the carry is as before.
        """
        check_batch_size(batch_size)
        present = [source.usable(window) > 0 for source in self._sources]
        if not any(present):
            no_usable_row()
        counts, unit, carry = divide(batch_size, self._parts, present, self._unit, self._carry)
        order = np.empty(batch_size, np.int64)
        spread(np.array(counts), order)
        output, weighted = None, False
        for s, source in enumerate(self._sources):
            if not counts[s]:
                continue
            piece = self._piece(s, source.sample(counts[s], window))
            output = output or self._output(batch_size, page, piece)
            if piece.layout != output.layout:
                _misfit(self.names[s], piece.layout, output.layout)
            places = np.flatnonzero(order == s)
            for column, rows in zip(output.columns, piece.columns, strict=True):
                column[places] = rows  # at once, while they are in the processor's cache
            output.weight[places] = 1.0 if piece.weight is None else piece.weight
            weighted = weighted or piece.weight is not None
        assert output is not None
        output.source.T[:] = order  # [B], or the same in every column of [B, T]

        self._unit, self._carry = unit, carry
        self._drawn += counts
        self._empty += ~np.array(present)
        batch = output.weighted if weighted else output.plain
        return batch.clone() if copy else batch

    @guarded
    def update_priority(self, batch: Batch, priority: Tensor) -> None:
        """Hand the priorities [B] of a sampled batch to the samplers of its rows' sources.

        Raises ReplayError, and changes nothing, if one is negative or not finite.
        """
        source, index, uid = batch["source"].cpu(), batch["index"].cpu(), batch["uid"].cpu()
        source = source[:, 0] if source.dim() == 2 else source  # of sequences, one priority each
        values = priority.detach().to("cpu", torch.float32)
        check_priority(values.numpy(), source.numpy())
        for s, replay in enumerate(self._sources):
            rows = torch.nonzero(source == s)[:, 0]
            if len(rows):
                own = TensorDict({"index": index[rows], "uid": uid[rows]}, batch_size=[len(rows)])
                replay.update_priority(own, values[rows])

    @guarded
    def probe(self, batch_size: int, window: Window, rng: np.random.Generator) -> Batch:
        """A batch for measurements, of the first source."""
        return self._sources[0].probe(batch_size, window, rng)

    @guarded
    def metrics(self) -> dict[str, float]:
        """Since the last call: `replay/share_NAME` of the rows drawn, batches without source NAME because it was empty
        (`replay/empty_NAME`, if there were any), and the sources' own metrics as `NAME/...`.
        """
        found = {}
        for s, name in enumerate(self.names):
            if self._drawn.any():
                found[f"replay/share_{name}"] = float(self._drawn[s] / self._drawn.sum())
            if self._empty[s]:
                found[f"replay/empty_{name}"] = float(self._empty[s])
            found |= {f"{name}/{key}": value for key, value in self._sources[s].metrics().items()}
        self._drawn[:], self._empty[:] = 0, 0
        return found

    def _piece(self, s: int, batch: Batch) -> _Piece:
        """The columns of a source's batch. Sources reuse theirs, so they are looked up once."""
        known = self._pieces.get((s, len(batch)))
        if known is None or known.batch is not batch:
            known = self._pieces[s, len(batch)] = _Piece.of(batch)
        return known

    def _output(self, batch_size: int, page: int, piece: _Piece) -> _Output:
        key = (batch_size, page, piece.layout)
        if key not in self._outputs:
            self._outputs[key] = _Output.make(batch_size, piece)
        return self._outputs[key]

    # --- storing: environments of all sources, one source after the other

    @property
    def rows_written(self) -> IntArray:
        """Rows that each environment of each source has ever written."""
        return np.concatenate([source.rows_written for source in self._sources])

    @guarded
    def oldest_row(self, env: int) -> int:
        """Number of the oldest row of `env` that is still there."""
        source, own = self._locate(env)
        return source.oldest_row(own)

    @guarded
    def export_rows(self, env: int, start: int, stop: int) -> dict[str, Array]:
        """Columns of the rows numbered [start, stop) of `env`, for an append-only file."""
        source, own = self._locate(env)
        return source.export_rows(own, start, stop)

    @guarded
    def load_rows(self, env: int, start: int, columns: dict[str, Array]) -> None:
        """Put back rows that `export_rows` returned, oldest first; `load_state_dict` completes it.

        If that refuses, the rows stay: this replay is of no more use then.
        """
        source, own = self._locate(env)
        source.load_rows(own, start, columns)

    def _locate(self, env: int) -> tuple[Replay, int]:
        """The source of environment `env`, and the environment's number in it."""
        for source in self._sources:
            if env < len(source.rows_written):
                return source, env
            env -= len(source.rows_written)
        raise IndexError(f"environment {env} beyond the last source")

    @guarded
    def state_dict(self) -> State:
        """Everything but the rows: the carry, and all sources."""
        return {
            "names": list(self.names),
            "shares": [str(share) for share in self._shares],
            "unit": self._unit,
            "carry": list(self._carry),
            "drawn": self._drawn.copy(),
            "empty": self._empty.copy(),
            "sources": [source.state_dict() for source in self._sources],
        }

    @guarded
    def load_state_dict(self, state: State) -> None:
        """Continue; the rows have been loaded. Refuses (ResumeError) other names or shares, or what a source refuses.

        Then everything but the rows is as before.
        """
        check_kind(state, "names", "a mixture")
        stored = dict(zip(state["names"], state["shares"], strict=True))
        mine = dict(zip(self.names, map(str, self._shares), strict=True))
        if list(stored.items()) != list(mine.items()):
            raise ResumeError(
                "the stored mixture is another one",
                why=f"stored {stored}, here {mine}",
                fix="resume with the sources and shares of the stored run",
                see="docs/replay.md",
            )
        before = [source.state_dict() for source in self._sources]
        try:
            for source, own in zip(self._sources, state["sources"], strict=True):
                source.load_state_dict(own)
        except ResumeError:
            for source, own in zip(self._sources, before, strict=True):
                source.load_state_dict(own)
            raise
        self._unit, self._carry = state["unit"], list(state["carry"])
        self._drawn[:], self._empty[:] = state["drawn"], state["empty"]


@dataclass(frozen=True)
class _Piece:
    """A source's batch, and its columns as arrays, or as tensors if they are on another device."""

    batch: Batch
    layout: Layout
    columns: list[Any]
    weight: FloatArray | None

    @classmethod
    def of(cls, batch: Batch) -> _Piece:
        columns: dict[Any, Tensor] = dict(batch.items(include_nested=True, leaves_only=True))  # type: ignore[arg-type]
        weight = columns.pop("weight", None)
        layout = tuple((key, tuple(t.shape[1:]), t.dtype, t.device) for key, t in columns.items())
        return cls(batch, layout, list(map(_writable, columns.values())), None if weight is None else weight.numpy())


@dataclass(frozen=True)
class _Output:
    """Mixed batches over the same tensors, with weights and without, and arrays of their columns."""

    weighted: Batch
    plain: Batch
    layout: Layout
    columns: list[Any]  # in the order of `layout`
    source: IntArray  # [B] or [B, T]
    weight: FloatArray

    @classmethod
    def make(cls, batch_size: int, piece: _Piece) -> _Output:
        shape = [batch_size, *piece.batch.batch_size[1:]]
        columns = [torch.empty(batch_size, *row, dtype=dtype, device=device) for _, row, dtype, device in piece.layout]
        weighted = TensorDict({}, batch_size=shape)
        for described, column in zip(piece.layout, columns, strict=True):
            weighted[described[0]] = column
        source, weight = torch.empty(shape, dtype=torch.int64), torch.empty(shape)
        weighted["source"], weighted["weight"] = source, weight
        plain = weighted.exclude("weight").lock_()
        arrays = list(map(_writable, columns))
        return cls(weighted.lock_(), plain, piece.layout, arrays, source.numpy(), weight.numpy())


def _writable(column: Tensor) -> Any:
    """What rows are best assigned to, `column[places] = rows`: in memory numpy is 15 to 35 times faster than torch."""
    return column.numpy() if column.device.type == "cpu" else column


def _misfit(name: str, layout: Layout, others: Layout) -> NoReturn:
    different = sorted(str(column) for column in set(layout) ^ set(others))
    raise ReplayError(
        f"replay {name!r} does not fit to those before it",
        why=f"their batches differ in {', '.join(different)}",
        fix="mix replays with the same observations, actions, stack and device",
        see="docs/replay.md",
    )


def _exact(names: Sequence[str], shares: Mapping[str, Fraction | float]) -> list[Fraction]:
    """The shares in the order of `names`, as the fractions that their decimals say, together exactly 1."""
    fits = bool(names) and set(names) == set(shares) and all(0 < share <= 1 for share in shares.values())
    exact = {k: v if isinstance(v, Fraction) else Fraction(repr(float(v))) for k, v in shares.items() if fits}
    total = sum(exact.values(), Fraction(0))
    if abs(total - 1) > Fraction(1, 10**9):  # 1/3 as a float is off by less
        raise ConfigError(
            f"shares {dict(shares)} for replays {list(names)}",
            why="every replay needs one, above 0, and together they are 1",
            fix="for two that give half the rows each: 0.5 and 0.5",
            see="docs/replay.md",
        )
    return [exact[name] / total for name in names]


def divide(
    batch_size: int, parts: Sequence[int], present: Sequence[bool], unit: int, carry: Sequence[int]
) -> tuple[list[int], int, list[int]]:
    """Rows of each source in the next batch, by largest remainder with carry; they add up to `batch_size`.

    The claim of a source is its carry plus share * batch_size, its share being parts / sum of the parts of those that
    are present. It gets the whole rows of its claim; rows that are missing then go to the largest fractions (ties: the
    lowest number), and what is left of each claim is the next carry. Carries are in 1 / unit rows; one that is absent
    keeps its carry. Returns the counts, and unit and carry for the next batch.

    While all sources are present a carry, which is the error of the source's count since the first batch, stays above
    -1 and at most 1/2 + ... + 1/K: rows go to the largest claims, so whoever got one is within 1 of all others.
    """
    here = [s for s, is_here in enumerate(present) if is_here]
    total = sum(parts[s] for s in here)
    scale = total // math.gcd(total, unit)
    unit, claims = unit * scale, [left * scale for left in carry]  # from now on in units that divide these shares, too
    counts = [0] * len(parts)
    for s in here:
        claims[s] += batch_size * parts[s] * (unit // total)
        counts[s] = max(0, claims[s] // unit)
        claims[s] -= counts[s] * unit
    missing = batch_size - sum(counts)
    for _ in range(missing):
        s = max(here, key=claims.__getitem__)
        counts[s], claims[s] = counts[s] + 1, claims[s] - unit
    for _ in range(-missing):  # with claims below 0, or carries that wait, whole rows can be too many
        s = min((s for s in reversed(here) if counts[s]), key=claims.__getitem__)
        counts[s], claims[s] = counts[s] - 1, claims[s] + unit
    return counts, unit, claims


@kernel
def spread(counts: IntArray, order: IntArray) -> None:
    """Fill `order` [B] with source numbers, `counts`[s] of each s (they add up to B), as evenly as possible.

    Tijdeman's solution of the chairman assignment problem (1980, Discrete Math. 32, 323-330): of K sources that have
    rows, each has in the first j places j * counts / B, give or take 1 - 1 / (2 K - 2) at most, which is the best that
    can be guaranteed. So in any L consecutive places it has L * counts / B, give or take 2 - 1 / (K - 1) at most: 1 for
    two sources, 1.5 for three. (1 for three is not always possible: counts of 5, 4 and 2 have no such order.)
    """
    batch = len(order)
    sources = (counts > 0).sum()
    slack = max(1, 2 * sources - 2)
    given = np.zeros(len(counts), np.int64)
    for j in range(batch):
        best, best_wait = -1, 0
        for s in range(len(counts)):
            lag = (j + 1) * counts[s] - batch * given[s]  # rows that s should have had by now, times B
            if counts[s] == 0 or lag * slack < batch:
                continue
            # Of those that may have this place, whoever must be served first: (1 - 1 / slack - lag / B) B / counts.
            wait = (slack - 1) * batch - slack * lag
            if best < 0 or wait * counts[best] < best_wait * counts[s]:
                best, best_wait = s, wait
        order[j] = best
        given[best] += 1
