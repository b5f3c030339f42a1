"""Shares are exact over time, rows are spread evenly and lie where they belong; priorities, weights, state, errors."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlkit.core.errors import ConfigError, ReplayError, ResumeError
from rlkit.core.timestep import TimeStep
from rlkit.replay import ReplayBuffer, UniformSampler, Window
from rlkit.replay.mixture import MixtureReplay, divide, spread
from rlkit.replay.samplers.consume import ConsumeSampler
from rlkit.replay.samplers.prioritized import PrioritizedConfig, PrioritizedSampler
from rlkit.replay.samplers.reshuffle import ReshuffleSampler

GOLDEN_SHARES = {"online": 0.5, "old": 0.3, "oldest": 0.2}
WINDOWS = [Window(), Window(3, 0.9), Window(1, 0.9, length=3, burn_in=1)]


def make(sampler=UniformSampler, *, rows=16, envs=1, stack=1, seed=0, shape=(3,), **settings):
    capacity = rows * envs
    return ReplayBuffer(
        capacity=capacity, num_envs=envs, observation_shape=shape, observation_dtype=np.float32, action_shape=(2,),
        action_dtype=np.float32, sampler=sampler(capacity, seed, **settings), stack=stack,
    )  # fmt: skip


def fill(replay, steps, tag=0, envs=1, shape=(3,)):
    """Every observation is [tag, number of its row, environment]; each 7th step ends an episode."""
    for _ in range(steps):
        rows = replay.rows_written[:envs].copy()
        observation = np.zeros((envs, *shape), np.float32)
        observation[:, 0], observation[:, 1], observation[:, 2] = tag, rows, np.arange(envs)
        final = observation.copy()
        final[:, 1] += 1
        ended = rows % 7 == 6
        reward = (rows % 5 + 10 * tag).astype(np.float32)
        step = TimeStep(final, final, reward, ended & (rows % 2 == 0), ended & (rows % 2 == 1), ended, None)
        replay.add(observation, observation[:, :2].copy(), step)


def equal(one, two):
    keys = set(one.keys(include_nested=True, leaves_only=True))
    assert keys == set(two.keys(include_nested=True, leaves_only=True))
    return one.batch_size == two.batch_size and all(torch.equal(one[key], two[key]) for key in keys)


def copied(replay, fresh):
    """`replay` in `fresh` by way of rows and state, as a checkpoint does it."""
    for env in range(len(replay.rows_written)):
        start, stop = replay.oldest_row(env), int(replay.rows_written[env])
        fresh.load_rows(env, start, replay.export_rows(env, start, stop))
    fresh.load_state_dict(replay.state_dict())
    return fresh


# --- shares


def greedy(batch_size, shares, present, carry):
    """The oracle: row after row to the largest claim, the first of equals. Exact, slow, obvious."""
    total = sum(share for share, here in zip(shares, present, strict=True) if here)
    claims = [c + batch_size * w / total if here else c for c, w, here in zip(carry, shares, present, strict=True)]
    counts = [0] * len(shares)
    for _ in range(batch_size):
        s = max((s for s in range(len(shares)) if present[s]), key=lambda s: (claims[s], -s))
        counts[s], claims[s] = counts[s] + 1, claims[s] - 1
    return counts, claims


def test_division_golden():
    unit, carry, found = 10, [0, 0, 0], []
    for _ in range(5):
        counts, unit, carry = divide(32, [5, 3, 2], [True] * 3, unit, carry)
        found.append(counts)
    assert found == [[16, 10, 6], [16, 9, 7], [16, 10, 6], [16, 9, 7], [16, 10, 6]]
    assert np.sum(found, 0).tolist() == [80, 48, 32]


@st.composite
def divisions(draw):
    count = draw(st.integers(1, 6))
    parts = draw(st.lists(st.integers(1, 50), min_size=count, max_size=count))
    everyone = draw(st.booleans())
    presence = st.just([True] * count) if everyone else st.lists(st.booleans(), min_size=count, max_size=count)
    return parts, draw(st.lists(st.tuples(st.integers(1, 40), presence.filter(any)), min_size=1, max_size=30))


@settings(max_examples=120, deadline=None)
@given(divisions())
def test_division_equals_one_row_after_the_other(division):
    parts, batches = division
    shares = [Fraction(part, sum(parts)) for part in parts]
    unit, carry, expected = sum(parts), [0] * len(parts), [Fraction(0)] * len(parts)
    given_out = np.zeros(len(parts), np.int64)
    for i, (batch_size, present) in enumerate(batches):
        before = expected
        counts, unit, carry = divide(batch_size, parts, present, unit, carry)
        expected_counts, expected = greedy(batch_size, shares, present, expected)
        assert counts == expected_counts
        assert [Fraction(left, unit) for left in carry] == expected
        assert sum(counts) == batch_size
        assert min(counts) >= 0
        assert all(here or (n == 0 and a == b) for here, n, a, b in zip(present, counts, before, expected, strict=True))
        given_out += counts
        if all(all(here) for _, here in batches):
            rows = sum(size for size, _ in batches[: i + 1])
            bound = sum(Fraction(1, k) for k in range(2, len(parts) + 1))
            for count, share, left in zip(given_out.tolist(), shares, expected, strict=True):
                assert rows * share - count == left
                assert -1 < left <= bound


@settings(max_examples=120, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 4), st.booleans(), st.integers(-9, 9)), min_size=1, max_size=6), st.integers(1, 6)
)
def test_division_from_any_carry(sources, batch_size):
    """Sources that come and go leave carries in which claims are below 0 and whole rows can be too many."""
    parts, present, sixths = zip(*sources, strict=True)
    if not any(present):
        return
    counts, unit, carry = divide(batch_size, parts, present, 6, sixths)
    shares = [Fraction(part, sum(parts)) for part in parts]
    expected = greedy(batch_size, shares, present, [Fraction(sixth, 6) for sixth in sixths])
    assert (counts, [Fraction(left, unit) for left in carry]) == expected


# --- spreading


def tijdeman(counts):
    """The oracle, in fractions and as the theorem says it."""
    sources = [s for s in range(len(counts)) if counts[s]]
    if len(sources) == 1:
        return sources * sum(counts)
    share = {s: Fraction(counts[s], sum(counts)) for s in sources}
    least, order = Fraction(1, 2 * len(sources) - 2), []
    for place in range(1, sum(counts) + 1):
        lag = {s: place * share[s] - order.count(s) for s in sources}
        order.append(min((s for s in sources if lag[s] >= least), key=lambda s: ((1 - least - lag[s]) / share[s], s)))
    return order


def worst(order, counts, *, anywhere):
    """Largest difference between rows and share of rows, in the first places or in any consecutive ones."""
    found = Fraction(0)
    for s, count in enumerate(counts):
        error = [Fraction(0)]
        for source in order:
            error.append(error[-1] + (source == s) - Fraction(count, len(order)))
        found = max(found, max(error) - min(error) if anywhere else max(map(abs, error)))
    return found


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 16), min_size=1, max_size=6).filter(any))
def test_any_piece_of_a_batch_has_its_shares(counts):
    order = np.empty(sum(counts), np.int64)
    spread(np.array(counts), order)
    assert order.tolist() == tijdeman(counts)
    assert np.bincount(order, minlength=len(counts)).tolist() == counts
    sources = sum(count > 0 for count in counts)
    if sources > 1:
        assert worst(order.tolist(), counts, anywhere=False) <= 1 - Fraction(1, 2 * sources - 2)
        assert worst(order.tolist(), counts, anywhere=True) <= 2 - Fraction(1, sources - 1)


def test_three_sources_cannot_always_be_spread_to_one_row():
    counts, found = (5, 4, 2), []

    def extend(order):
        """Depth first; any piece that is off by more than 1 ends a branch."""
        if len(order) == 11:
            found.append(order)
        for s in range(3):
            longer = [*order, s]
            pieces = (longer[i:] for i in range(len(longer)))
            if longer.count(s) <= counts[s] and all(
                abs(piece.count(k) - Fraction(len(piece) * counts[k], 11)) <= 1 for piece in pieces for k in range(3)
            ):
                extend(longer)

    extend([])
    assert not found
    order = np.empty(11, np.int64)
    spread(np.array(counts), order)
    assert worst(order.tolist(), counts, anywhere=True) <= Fraction(3, 2)


# --- batches


class MixtureOracle:
    """Twins of the sources, drawn from one after the other; rows are put in place one at a time."""

    def __init__(self, sources, shares):
        self.sources = list(sources.values())
        self.shares = [Fraction(str(shares[name])) for name in sources]
        self.carry = [Fraction(0)] * len(self.sources)
        self.drawn, self.empty = np.zeros(len(self.sources)), np.zeros(len(self.sources))

    def sample(self, batch_size, window):
        present = [source.usable(window) > 0 for source in self.sources]
        counts, self.carry = greedy(batch_size, self.shares, present, self.carry)
        self.drawn, self.empty = self.drawn + counts, self.empty + np.logical_not(present)
        parts = [s.sample(n, window, copy=True) if n else None for s, n in zip(self.sources, counts, strict=True)]
        weighted = any(part is not None and "weight" in part for part in parts)
        rows, taken = [], [0] * len(parts)
        for s in tijdeman(counts):
            row = parts[s][taken[s]].clone()
            row["source"] = torch.full(row.batch_size, s)
            if weighted and "weight" not in row:
                row["weight"] = torch.ones(row.batch_size)
            rows.append(row)
            taken[s] += 1
        return torch.stack(rows)

    def update_priority(self, batch, priority):
        for s, source in enumerate(self.sources):
            mine = [i for i in range(len(batch)) if int(batch["source"][i].flatten()[0]) == s]
            if mine:
                source.update_priority(batch[mine], priority[mine])


def sources_of(kinds, stack, seed=0):
    settings = {"per": PrioritizedSampler, "rr-c": ReshuffleSampler, "uniform": UniformSampler}
    return {f"s{i}": make(settings[kind], envs=1 + i % 2, stack=stack, seed=seed + i) for i, kind in enumerate(kinds)}


@st.composite
def programs(draw):
    kinds = draw(st.lists(st.sampled_from(["per", "rr-c", "uniform"]), min_size=1, max_size=3))
    parts = draw(st.lists(st.integers(1, 9), min_size=len(kinds), max_size=len(kinds)))
    shares = {f"s{i}": Fraction(part, sum(parts)) for i, part in enumerate(parts)}
    operations = st.one_of(
        st.tuples(st.just("add"), st.integers(0, len(kinds) - 1), st.integers(1, 6)),
        st.tuples(st.just("sample"), st.sampled_from([1, 3, 8]), st.sampled_from(WINDOWS)),
        st.tuples(st.just("sample"), st.sampled_from([1, 3, 8]), st.sampled_from(WINDOWS)),
        st.tuples(st.just("save and load"), st.just(0), st.just(0)),
    )
    return kinds, draw(st.integers(1, 2)), shares, draw(st.lists(operations, min_size=1, max_size=25))


@pytest.mark.filterwarnings("ignore:a batch of")  # rr-c, with fewer rows than the batch
@settings(max_examples=60, deadline=None)
@given(programs())
def test_mixture_equals_drawing_from_twins(program):
    kinds, stack, shares, operations = program
    sources, twins = sources_of(kinds, stack), sources_of(kinds, stack)
    mixture, oracle = MixtureReplay(sources, shares), MixtureOracle(twins, shares)
    for i, (name, one, two) in enumerate(operations):
        match name:
            case "add":
                for replay in (list(sources.values())[one], oracle.sources[one]):
                    fill(replay, two, tag=one, envs=replay.num_envs)
            case "sample" if mixture.usable(two):
                batch, expected = mixture.sample(one, two, page=i % 2), oracle.sample(one, two)
                assert equal(batch, expected)
                priority = torch.arange(one) % 4 + 0.5
                mixture.update_priority(batch, priority)
                oracle.update_priority(expected, priority)
            case "sample":
                assert not any(source.usable(two) for source in oracle.sources)
                with pytest.raises(ReplayError, match="no usable row"):
                    mixture.sample(one, two)
            case "save and load":
                sources = sources_of(kinds, stack)
                mixture = copied(mixture, MixtureReplay(sources, shares))
    for source, twin in zip(sources.values(), oracle.sources, strict=True):
        assert str(source.state_dict()) == str(twin.state_dict())
    found = mixture.metrics()
    for s, name in enumerate(shares):
        assert found.get(f"replay/share_{name}", 0.0) == pytest.approx(oracle.drawn[s] / max(1, oracle.drawn.sum()))
        assert found.get(f"replay/empty_{name}", 0.0) == oracle.empty[s]


def golden_mixture(seed=0, steps=(12, 12, 12)):
    sources = {name: make(seed=seed + s) for s, name in enumerate(GOLDEN_SHARES)}
    for tag, (source, count) in enumerate(zip(sources.values(), steps, strict=True)):
        fill(source, count, tag)
    return sources, MixtureReplay(sources, GOLDEN_SHARES)


def test_rows_and_shares_golden():
    _, mixture = golden_mixture()
    counts = []
    for _ in range(5):
        batch = mixture.sample(32, Window())
        counts.append(torch.bincount(batch["source"], minlength=3).tolist())
        assert torch.equal(batch["observation"][:, 0], batch["source"].float())  # the tag of its source
        assert torch.equal(batch["observation"][:, 1], batch["uid"].float())
        assert torch.equal(batch["next", "observation"][:, 0], batch["source"].float())
        for start in range(0, 32, 8):
            piece = torch.bincount(batch["source"][start : start + 8], minlength=3)
            assert (piece - torch.tensor([4.0, 2.4, 1.6])).abs().max() <= 1.5
    assert counts == [[16, 10, 6], [16, 9, 7], [16, 10, 6], [16, 9, 7], [16, 10, 6]]
    assert mixture.metrics() == {
        "replay/share_online": 0.5, "replay/share_old": 0.3, "replay/share_oldest": 0.2,
        **{key: value for key, value in mixture_metrics().items() if "/share_" not in key},
    }  # fmt: skip


def mixture_metrics():
    """The sources' own numbers after five golden batches."""
    sources, mixture = golden_mixture()
    for _ in range(5):
        mixture.sample(32, Window())
    return {f"{name}/{key}": value for name, source in sources.items() for key, value in source.metrics().items()}


def test_empty_source_is_left_out_and_its_carry_waits():
    sources, mixture = golden_mixture(steps=(0, 12, 12))
    counts = torch.zeros(3, dtype=torch.int64)
    for _ in range(3):
        counts += torch.bincount(mixture.sample(32, Window())["source"], minlength=3)
    assert counts.tolist() == [0, 58, 38]  # 96 rows at 3 : 2
    assert mixture.metrics()["replay/empty_online"] == 3
    assert mixture.state_dict()["carry"][0] == 0
    fill(sources["online"], 12)
    assert int((mixture.sample(32, Window())["source"] == 0).sum()) == 16
    assert "replay/empty_online" not in mixture.metrics()


def test_no_rows_at_all_is_an_error_that_changes_nothing():
    _, mixture = golden_mixture(steps=(0, 1, 0))  # the one row waits for its next frame
    before = str(mixture.state_dict())
    with pytest.raises(ReplayError, match="no usable row"):
        mixture.sample(32, Window())
    assert str(mixture.state_dict()) == before


def test_a_source_that_fails_leaves_the_carry():
    sources = {"plenty": make(), "queue": make(ConsumeSampler)}
    for source in sources.values():
        fill(source, 5)  # 4 of them are usable
    mixture = MixtureReplay(sources, {"plenty": 0.75, "queue": 0.25})
    mixture.sample(6, Window())
    carry = mixture.state_dict()["carry"]
    assert carry != [0, 0]
    with pytest.raises(ReplayError, match="a batch of 8 from 3 usable rows"):
        mixture.sample(30, Window())
    assert mixture.state_dict()["carry"] == carry
    assert "replay/empty_queue" not in mixture.metrics()


def test_long_run_keeps_shares_that_floats_cannot_write():
    sources = {name: make(seed=s) for s, name in enumerate("abc")}
    for source in sources.values():
        fill(source, 12)
    mixture = MixtureReplay(sources, dict.fromkeys("abc", 1 / 3))
    total = np.zeros(3, np.int64)
    for _ in range(100):
        total += torch.bincount(mixture.sample(7, Window())["source"], minlength=3).numpy()
        assert np.ptp(total) <= 1
    assert max(abs(total - 700 / 3)) < 1


def test_weights_aim_at_equal_chances_inside_each_source():
    """At beta 1, P(i) weight(i) = share_s / N_s for every row, with P(i) = share_s p_i / S_s."""
    config = PrioritizedConfig(
        priority_exponent=1.0, priority_epsilon=0.0, weight_exponent=1.0, weight_normaliser="none"
    )
    per = [make(PrioritizedSampler, seed=s, config=config) for s in range(2)]
    sources = {"one": per[0], "two": per[1], "plain": make()}
    for source in sources.values():
        fill(source, 12)
    shares = {"one": 0.5, "two": 0.25, "plain": 0.25}
    mixture, priority = MixtureReplay(sources, shares), [{}, {}]
    for _ in range(100):  # until every row has a priority of its own
        batch = mixture.sample(16, Window())
        values = (batch["uid"] % 4 + 1 + 2 * batch["source"]).float()
        mixture.update_priority(batch, values)
        for s in range(2):
            mine = batch["source"] == s
            priority[s] |= dict(zip(batch["uid"][mine].tolist(), values[mine].tolist(), strict=True))
    batch = mixture.sample(64, Window())
    for s, name in enumerate(("one", "two")):
        rows = sources[name].usable(Window())
        assert len(priority[s]) == rows
        for i in torch.nonzero(batch["source"] == s)[:, 0].tolist():
            chance = shares[name] * priority[s][int(batch["uid"][i])] / sum(priority[s].values())
            assert chance * float(batch["weight"][i]) == pytest.approx(shares[name] / rows, rel=1e-5)
    assert (batch["weight"][batch["source"] == 2] == 1).all()
    assert len(set(batch["weight"].tolist())) > 4


def test_bad_priority_changes_no_source():
    sources = sources_of(["per", "per"], stack=1)
    for source in sources.values():
        fill(source, 12, envs=source.num_envs)
    mixture = MixtureReplay(sources, {"s0": 0.5, "s1": 0.5})
    batch = mixture.sample(8, Window())
    before = str(mixture.state_dict())
    priority = torch.ones(8)
    priority[int(torch.nonzero(batch["source"] == 1)[-1])] = torch.nan  # the source that comes last
    with pytest.raises(ReplayError, match="a priority is nan"):
        mixture.update_priority(batch, priority)
    with pytest.raises(ReplayError, match=r"shape \[8, 1\]"):
        mixture.update_priority(batch, torch.ones(8, 1))
    assert str(mixture.state_dict()) == before


def test_batches_are_reused_by_page_unless_copied():
    _, mixture = golden_mixture()
    kept, first = mixture.sample(8, Window(), copy=True), mixture.sample(8, Window())
    before, other = first.clone(), mixture.sample(8, Window(), page=1)
    assert equal(first, before)
    assert not equal(first, other)
    again = mixture.sample(8, Window())
    assert again["observation"].data_ptr() == first["observation"].data_ptr() != other["observation"].data_ptr()
    assert again["next", "observation"].data_ptr() == first["next", "observation"].data_ptr()
    assert kept["observation"].data_ptr() != first["observation"].data_ptr()


def test_steps_go_to_the_first_source_and_rows_of_all_are_stored():
    sources, mixture = golden_mixture(steps=(0, 5, 9))
    fill(mixture, 3, tag=7)
    assert mixture.rows_written.tolist() == [3, 5, 10]  # 9 steps and a final frame
    assert len(mixture) == 18
    mixture.cut(np.zeros((1, 3), np.float32))
    assert sources["online"].rows_written.tolist() == [4]
    assert mixture.oldest_row(2) == 0
    np.testing.assert_array_equal(
        mixture.export_rows(2, 2, 4)["frames"], sources["oldest"].export_rows(0, 2, 4)["frames"]
    )
    with pytest.raises(IndexError):
        mixture.oldest_row(3)
    mixture.close()
    with pytest.raises(ReplayError, match="closed"):
        sources["oldest"].sample(1, Window())


def test_other_names_or_shares_are_refused():
    sources, mixture = golden_mixture()
    state = mixture.state_dict()
    with pytest.raises(ResumeError, match="'old': '3/10'"):
        MixtureReplay(sources, {"online": 0.5, "old": 0.25, "oldest": 0.25}).load_state_dict(state)
    renamed = dict(zip("abc", sources.values(), strict=True))
    other = MixtureReplay(renamed, dict(zip("abc", GOLDEN_SHARES.values(), strict=True)))
    with pytest.raises(ResumeError, match="'b': '3/10'"):
        other.load_state_dict(state)
    backwards = MixtureReplay(dict(reversed(sources.items())), GOLDEN_SHARES)
    with pytest.raises(ResumeError, match="stored mixture is another"):  # another order is another numbering
        backwards.load_state_dict(state)


def test_a_source_that_refuses_leaves_the_mixture_as_it_was():
    _, mixture = golden_mixture()
    state = mixture.state_dict()
    mixture.sample(8, Window())
    before = str(mixture.state_dict())
    state["sources"][-1] = state["sources"][-1] | {"geometry": state["sources"][-1]["geometry"] | {"capacity": 4}}
    with pytest.raises(ResumeError, match="capacity: stored 4"):
        mixture.load_state_dict(state)
    assert str(mixture.state_dict()) == before


@pytest.mark.parametrize(
    "shares",
    [
        {},
        {"a": 1.0},
        {"a": 0.5, "c": 0.5},
        {"a": 0.5, "b": 0.4},
        {"a": 1.0, "b": 0.0},
        {"a": 1.5, "b": -0.5},
        {"a": 0.5, "b": math.nan},
    ],
)
def test_shares_that_do_not_fit_are_refused(shares):
    with pytest.raises(ConfigError, match="every replay needs one"):
        MixtureReplay({"a": make(), "b": make()}, shares)


def test_shares_are_what_their_decimals_say():
    assert MixtureReplay({"a": make(), "b": make()}, {"a": 0.3, "b": 0.7}).state_dict()["shares"] == ["3/10", "7/10"]
    thirds = MixtureReplay({"a": make(), "b": make()}, {"a": Fraction(1, 3), "b": Fraction(2, 3)})
    assert thirds.state_dict()["shares"] == ["1/3", "2/3"]


def test_sources_of_other_shapes_are_refused():
    sources = {"a": make(), "b": make(shape=(4,))}
    fill(sources["a"], 12)
    fill(sources["b"], 12, shape=(4,))
    with pytest.raises(ReplayError, match=r"'b' does not fit.*\n.*\(4,\)"):
        MixtureReplay(sources, {"a": 0.5, "b": 0.5}).sample(8, Window())
