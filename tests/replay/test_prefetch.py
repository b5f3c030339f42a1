"""Prefetch equals drawing one batch ahead in the same thread, whatever the timing; resume, errors, the thread's end."""

import contextlib
import gc
import random
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

from rlkit.core.errors import ReplayError, ResumeError
from rlkit.replay import Window
from rlkit.replay.mixture import MixtureReplay
from rlkit.replay.prefetch import PrefetchReplay
from rlkit.replay.samplers.consume import ConsumeSampler
from rlkit.replay.samplers.prioritized import PrioritizedSampler
from rlkit.replay.samplers.reshuffle import ReshuffleSampler
from tests.replay.test_mixture import copied, equal, fill, make

WINDOWS = [Window(), Window(3, 0.9), Window(1, 0.9, length=3, burn_in=1)]
KINDS = {
    "uniform": lambda: make(stack=2),
    "rr-c": lambda: make(ReshuffleSampler),
    "per": lambda: make(PrioritizedSampler),
    "consume": lambda: make(ConsumeSampler),
    "mixture": lambda: MixtureReplay(
        {"new": make(PrioritizedSampler), "old": make(ReshuffleSampler, seed=1)},
        {"new": Fraction(2, 3), "old": Fraction(1, 3)},
    ),
}


class AheadOracle:
    """The same by definition: no thread, no pages, every batch a copy."""

    def __init__(self, replay):
        self.replay, self.waiting, self.last = replay, [], None

    def sample(self, batch_size, window):
        request = (batch_size, window)
        found = [batch for asked, batch in self.waiting if asked == request]
        self.waiting = [(asked, batch) for asked, batch in self.waiting if asked != request][-4:]
        batch = found[0] if found else self.replay.sample(batch_size, window, copy=True)
        self.replay.usable(window)
        if request == self.last:
            with contextlib.suppress(ReplayError):  # nothing waits then
                self.waiting.append((request, self.replay.sample(batch_size, window, copy=True)))
        self.last = request
        return batch


class Slow:
    """A replay whose draws take as long as they like."""

    def __init__(self, replay, rng):
        self._replay, self._rng = replay, rng

    def __getattr__(self, name):
        return getattr(self._replay, name)

    def __len__(self):
        return len(self._replay)

    def sample(self, *arguments, **options):
        time.sleep(self._rng.choice([0, 0, 1e-4, 2e-3]))
        batch = self._replay.sample(*arguments, **options)
        time.sleep(self._rng.choice([0, 0, 1e-4, 2e-3]))
        return batch


def priority_of(batch):
    uid = batch["uid"] if batch["uid"].dim() == 1 else batch["uid"][:, 1]
    return uid.float() % 5 + 0.25


@st.composite
def programs(draw):
    requests = st.tuples(st.just("sample"), st.sampled_from([2, 3]), st.sampled_from(WINDOWS))
    again = st.tuples(st.just("again"), st.just(0), st.just(0))  # what was asked for last
    operations = st.one_of(
        st.tuples(st.just("add"), st.integers(1, 6), st.just(0)),
        requests,
        again,
        again,
        again,
        st.tuples(st.just("update"), st.just(0), st.just(0)),
        st.tuples(st.just("cut"), st.just(0), st.just(0)),
        st.tuples(st.just("save and load"), st.just(0), st.just(0)),
        st.tuples(st.just("metrics"), st.just(0), st.just(0)),
    )
    return draw(st.sampled_from(list(KINDS))), draw(st.lists(operations, min_size=1, max_size=40))


def outcome(replay, batch_size, window):
    """A batch, or the text of the error."""
    try:
        return replay.sample(batch_size, window)
    except ReplayError as error:
        return str(error)


def run(program, wrap):
    """Prefetch and oracle side by side; every batch is compared when it is handed out and again before the next."""
    kind, operations = program
    prefetch, oracle = PrefetchReplay(wrap(KINDS[kind]())), AheadOracle(KINDS[kind]())
    for replay in (prefetch, oracle.replay):
        fill(replay, 8)
    request, batch, expected = (2, WINDOWS[0]), None, None
    try:
        for name, one, two in operations:
            if name == "again":
                name, (one, two) = "sample", request
            match name:
                case "add":
                    fill(prefetch, one)
                    fill(oracle.replay, one)
                case "cut":
                    prefetch.cut(np.full((1, 3), 9, np.float32))
                    oracle.replay.cut(np.full((1, 3), 9, np.float32))
                case "sample":
                    assert batch is None or equal(batch, expected)
                    request, batch = (one, two), None
                    expected = outcome(oracle, one, two)
                    found = outcome(prefetch, one, two)
                    if isinstance(expected, str):
                        assert found == expected
                    else:
                        batch = found
                        assert equal(batch, expected)
                case "update" if batch is not None:
                    prefetch.update_priority(batch, priority_of(batch))
                    oracle.replay.update_priority(expected, priority_of(expected))
                case "save and load":
                    batch, old = None, prefetch
                    prefetch = copied(old, PrefetchReplay(wrap(KINDS[kind]())))
                    old.close()
                case "metrics":
                    found = prefetch.metrics()
                    found.pop("replay/prefetch_discarded", None)
                    assert found == oracle.replay.metrics()
        assert str(prefetch.state_dict()["replay"]) == str(oracle.replay.state_dict())
        assert batch is None or equal(batch, expected)
        waiting = prefetch.state_dict()["prefetch"]["waiting"]
        assert [(entry["batch_size"], Window(**entry["window"])) for entry in waiting] == [r for r, _ in oracle.waiting]
    finally:
        prefetch.close()


@pytest.mark.filterwarnings("ignore:a batch of")
@settings(max_examples=70, deadline=None)
@given(programs())
def test_prefetch_equals_drawing_one_ahead(program):
    run(program, wrap=lambda replay: replay)


@pytest.mark.filterwarnings("ignore:a batch of")
@settings(max_examples=25, deadline=None)
@given(programs(), st.integers(0, 99))
def test_timing_does_not_matter(program, seed):
    rng = random.Random(seed)
    run(program, wrap=lambda replay: Slow(replay, rng))


def test_the_next_batch_is_drawn_when_this_one_is_handed_out():
    prefetch = PrefetchReplay(make(ConsumeSampler))
    fill(prefetch, 10)  # 9 rows in a queue, row 7 being a final frame
    uids = [prefetch.sample(2, Window())["uid"].tolist() for _ in range(2)]
    assert uids == [[0, 1], [2, 3]]
    assert prefetch.usable(Window()) == 3  # 4 and 5 are drawn, too
    fill(prefetch, 12)  # over them
    waiting = prefetch.sample(2, Window())
    assert waiting["uid"].tolist() == waiting["observation"][:, 1].tolist() == [4, 5]
    assert min(prefetch.sample(2, Window())["uid"]) > 5
    prefetch.close()


class Recorder:
    """A replay that notes what is done to it; a draw takes its time."""

    def __init__(self):
        self.log = []

    def __getattr__(self, name):
        def noted(*arguments, **options):
            self.log.append(name)
            return {}

        return noted

    @property
    def rows_written(self):
        self.log.append("rows_written")
        return np.zeros(1, np.int64)

    def sample(self, batch_size, window, *, copy=False, page=0):
        self.log.append("begin")
        time.sleep(0.02)
        self.log.append("end")
        return TensorDict({"uid": torch.zeros(batch_size)}, batch_size=[batch_size])


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("add", (0, 0, 0)),
        ("cut", (0,)),
        ("usable", (Window(),)),
        ("update_priority", (0, 0)),
        ("metrics", ()),
        ("oldest_row", (0,)),
        ("export_rows", (0, 0, 0)),
        ("load_rows", (0, 0, {})),
        ("state_dict", ()),
        ("load_state_dict", ({"prefetch": {"waiting": [], "last": None, "discarded": 0}, "replay": {}},)),
        ("rows_written", None),
        ("close", ()),
    ],
)
def test_everything_waits_until_the_draw_is_over(name, arguments):
    recorder = Recorder()
    prefetch = PrefetchReplay(recorder)
    for _ in range(2):
        prefetch.sample(2, Window())
    found = getattr(prefetch, name)
    if arguments is not None:
        found(*arguments)
    assert recorder.log == ["begin", "end"] * 3 + [name]
    if name != "close":
        prefetch.close()


def test_a_batch_set_aside_is_not_written_over():
    prefetch = PrefetchReplay(KINDS["mixture"]())  # whose batches of equal shapes share tensors
    fill(prefetch, 14)
    for _ in range(2):
        prefetch.sample(3, Window())
    (waiting,) = prefetch.state_dict()["prefetch"]["waiting"]
    for _ in range(3):
        prefetch.sample(3, Window(3))
    batch = prefetch.sample(3, Window())
    np.testing.assert_array_equal(batch["uid"], waiting["columns"]["uid"])
    np.testing.assert_array_equal(batch["next", "observation"], waiting["columns"]["next"]["observation"])
    prefetch.close()


def test_the_first_batch_of_a_kind_is_not_drawn_ahead():
    prefetch = PrefetchReplay(make(ConsumeSampler))
    fill(prefetch, 10)
    for draws, window in enumerate([Window(), Window(1, 0.8), Window(1, 0.7), Window(1, 0.6)], start=1):
        prefetch.sample(2, window)
        assert prefetch.usable(window) == 9 - 2 * draws
    prefetch.close()


def test_epochs_stay_exact_while_batch_sizes_and_windows_change():
    replay = make(ReshuffleSampler, rows=61)
    prefetch = PrefetchReplay(replay)
    fill(prefetch, 52)
    rows, drawn = prefetch.usable(Window()), []
    requests = [(3, Window()), (3, Window()), (2, Window()), (3, Window(1, 0.9)), (3, Window(1, 0.9)), (2, Window())]
    while replay.sampler.epoch < 3:
        for request in requests:
            drawn += prefetch.sample(*request)["uid"].tolist()
    for entry in prefetch.state_dict()["prefetch"]["waiting"]:
        drawn += entry["columns"]["uid"].tolist()
    visits = np.unique(drawn, return_counts=True)[1]
    assert len(visits) == rows
    assert np.ptp(visits) <= 1  # the last epoch is not over
    prefetch.close()


def test_set_aside_batches_are_discarded_only_beyond_four_and_counted():
    prefetch = PrefetchReplay(make(ConsumeSampler, rows=128))
    fill(prefetch, 100)
    windows = [Window(1, 0.1 * k) for k in range(1, 7)]
    seen = {}
    for window in windows:
        for _ in range(2):
            seen[window] = prefetch.sample(2, window)["uid"].tolist()
    assert len(prefetch.state_dict()["prefetch"]["waiting"]) == 5  # four, and the one ahead
    resumed = copied(prefetch, PrefetchReplay(make(ConsumeSampler, rows=128)))
    for replay in (prefetch, resumed):
        assert replay.metrics()["replay/prefetch_discarded"] == 1
    resumed.close()
    assert "replay/prefetch_discarded" not in prefetch.metrics()
    for k in (1, 2, 3, 4):  # each was drawn right after the last of its window, and is still there
        uids = prefetch.sample(2, windows[k])["uid"].tolist()
        assert min(uids) > max(seen[windows[k]])
        assert max(uids) < min(seen[windows[k + 1]])
    prefetch.close()


def test_a_waiting_batch_is_in_the_checkpoint_though_its_rows_are_gone():
    prefetch = PrefetchReplay(make(PrioritizedSampler, rows=8))
    fill(prefetch, 8)
    prefetch.sample(4, Window())
    prefetch.sample(4, Window())
    fill(prefetch, 20)
    resumed = copied(prefetch, PrefetchReplay(make(PrioritizedSampler, rows=8)))
    for _ in range(3):
        batch = prefetch.sample(4, Window(), copy=True)
        assert equal(batch, resumed.sample(4, Window()))
        for replay in (prefetch, resumed):
            replay.update_priority(batch, torch.ones(4))
            fill(replay, 3)
    assert str(prefetch.state_dict()) == str(resumed.state_dict())
    prefetch.close()
    resumed.close()


def test_priorities_of_a_set_aside_sequence_reach_its_starts():
    replay, sequence = make(PrioritizedSampler), Window(1, 0.9, length=3, burn_in=2)
    prefetch = PrefetchReplay(replay)
    fill(prefetch, 14)
    for window in (sequence, sequence, Window()):
        prefetch.sample(2, window)
    batch = prefetch.sample(2, sequence)
    prefetch.update_priority(batch, torch.tensor([3.0, 3.0]))
    raised = replay.sampler.state_dict()["rows"]["p"] > 1.5
    assert sorted(np.flatnonzero(raised)) == sorted(set(batch["index"][:, 2].tolist()))
    prefetch.close()


def test_state_without_prefetch_is_refused():
    prefetch = PrefetchReplay(make())
    with pytest.raises(ResumeError, match="is a single buffer, this one is one with a batch drawn ahead"):
        prefetch.load_state_dict(make().state_dict())
    prefetch.close()


def test_too_few_rows_are_an_error_only_when_the_batch_is_asked_for():
    prefetch = PrefetchReplay(make(ConsumeSampler))
    with pytest.raises(ReplayError, match="no usable row"):
        prefetch.sample(2, Window())
    fill(prefetch, 5)
    for expected in ([0, 1], [2, 3]):  # with the second the thread finds no row left
        assert prefetch.sample(2, Window())["uid"].tolist() == expected
    prefetch.metrics()
    with pytest.raises(ReplayError, match="no usable row"):
        prefetch.sample(2, Window())
    for expected in ([4, 5], [6, 8]):  # 7 is a final frame
        fill(prefetch, 2)
        assert prefetch.sample(2, Window())["uid"].tolist() == expected
    prefetch.close()


def test_any_other_error_of_the_thread_is_raised_by_the_next_sample():
    replay = make(ReshuffleSampler, rows=32)
    fill(replay, 20)
    prefetch, draw = PrefetchReplay(replay), replay.sampler.sample
    prefetch.sample(2, Window())

    def fail(batch_size):
        if threading.current_thread() is threading.main_thread():
            return draw(batch_size)
        raise MemoryError("no room")

    replay.sampler.sample = fail
    prefetch.sample(2, Window())
    fill(prefetch, 1)
    prefetch.state_dict()
    replay.sampler.sample = draw
    with pytest.raises(MemoryError, match="no room"):
        prefetch.sample(2, Window())
    for _ in range(3):
        assert len(prefetch.sample(2, Window())) == 2
    assert prefetch.state_dict()["prefetch"]["waiting"]  # the thread goes on
    prefetch.close()


def test_a_batch_is_valid_until_the_next_of_its_page():
    prefetch = PrefetchReplay(make())
    fill(prefetch, 14)
    for page in (0, 1, 1, 0, 0, 0, 1, 0, 1, 1, 1):
        kept = prefetch.sample(4, Window(), copy=True, page=page)
        held = prefetch.sample(4, Window(), page=page)
        before, kept_before = held.clone(), kept.clone()
        for _ in range(3):
            prefetch.sample(4, Window(), page=1 - page)
        prefetch.sample(5, Window(), page=page)
        prefetch.usable(Window())  # the draw ahead is over
        assert equal(held, before)
        assert held.is_locked
        for _ in range(4):
            prefetch.sample(4, Window(), page=page)
        prefetch.usable(Window())
        assert equal(kept, kept_before)
        assert not kept.is_locked
    prefetch.close()


def with_thread():
    """A replay that has drawn ahead, and its thread."""
    before = set(threading.enumerate())
    prefetch = PrefetchReplay(make())
    fill(prefetch, 8)
    for _ in range(2):
        prefetch.sample(4, Window())
    (thread,) = set(threading.enumerate()) - before
    return prefetch, thread


def test_close_ends_the_thread_and_the_replay():
    prefetch, thread = with_thread()
    assert thread.is_alive()
    prefetch.close()
    assert not thread.is_alive()
    with pytest.raises(ReplayError, match="closed"):
        prefetch.sample(4, Window())


def test_a_forgotten_one_ends_its_thread():
    prefetch, thread = with_thread()
    del prefetch
    gc.collect()
    thread.join(timeout=20)
    assert not thread.is_alive()


def test_the_interpreter_leaves_without_close():
    program = """
        import time
        from rlkit.replay.batch import Window
        from rlkit.replay.prefetch import PrefetchReplay

        class Slow:
            def sample(self, batch_size, window, *, copy=False, page=0):
                time.sleep(0.3)

        prefetch = PrefetchReplay(Slow())
        for _ in range(2):
            prefetch.sample(4, Window())
        print("over while a batch is drawn")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "over while a batch is drawn\n", "")


def test_the_thread_does_not_take_the_learners_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        prefetch = PrefetchReplay(make())
        assert torch.get_num_threads() == 2
        assert prefetch._thread.submit(torch.get_num_threads).result() == 1
        with ThreadPoolExecutor(1) as another:
            assert another.submit(torch.get_num_threads).result() == 2
        prefetch.close()
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_probe_leaves_the_waiting_batch_and_all_draws_alone(kind):
    with_probes, without = PrefetchReplay(KINDS[kind]()), PrefetchReplay(KINDS[kind]())
    rng = np.random.default_rng(3)
    for replay in (with_probes, without):
        fill(replay, 12)
    for _ in range(4):
        probe = with_probes.probe(5, WINDOWS[0], rng)
        assert probe.batch_size == (5,)
        first, second = (replay.sample(2, WINDOWS[0], copy=True) for replay in (with_probes, without))
        assert torch.equal(first["uid"], second["uid"])
    assert with_probes.metrics() == without.metrics()
    with_probes.close()
    without.close()
