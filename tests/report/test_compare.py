"""Comparisons: the right groups and numbers, and no comparison of what does not compare."""

import numpy as np
import pytest

from rlkit.core.errors import ConfigError
from rlkit.report.compare import compare, final_score
from rlkit.report.run_data import load_run
from rlkit.report.statistics import interquartile_mean
from tests.report.runs import make_run


def load(*paths):
    return [load_run(path) for path in paths]


def family(tmp_path, name, values, **settings):
    return load(*(make_run(tmp_path / f"{name}{i}", seed=i, returns=(v, v), **settings) for i, v in enumerate(values)))


def test_groups_and_numbers(tmp_path):
    plain = family(tmp_path, "plain", [1.0, 2.0, 3.0, 4.0])
    cured = family(tmp_path, "cured", [2.5, 3.5, 6.0, 9.0], interventions=("redo",))
    result = compare(plain + cured, "agent", np.random.default_rng(0))
    first, second = result.groups
    assert (first.name, second.name) == ("dqn", "dqn + redo")
    assert second.scores == {"gym/X": [2.5, 3.5, 6.0, 9.0]}
    assert second.mean == float(interquartile_mean([2.5, 3.5, 6.0, 9.0]))
    assert second.interval[0] < second.mean < second.interval[1]
    assert (first.better, first.better_interval) == (None, None)
    assert second.better == pytest.approx((2 + 3 + 4 + 4) / 16)
    assert second.better_interval[0] <= second.better <= second.better_interval[1]
    assert result.notes == ["scores: mean return of the last evaluation"]


def test_groups_by_a_setting(tmp_path):
    runs = family(tmp_path, "a", [1.0]) + family(tmp_path, "b", [2.0], interventions=("redo",))
    result = compare(runs, "plasticity.interventions", np.random.default_rng(0))
    assert [group.name for group in result.groups] == ["[]", "['redo']"]
    with pytest.raises(ConfigError, match=r"no setting plasticity\.nothing"):
        compare(runs, "plasticity.nothing", np.random.default_rng(0))


def test_no_interval_below_three_seeds(tmp_path):
    runs = family(tmp_path, "a", [1.0, 2.0]) + family(tmp_path, "b", [2.0, 3.0, 4.0], agent="sac")
    result = compare(runs, "agent", np.random.default_rng(0))
    assert [group.interval is None for group in result.groups] == [True, False]
    assert result.groups[1].better == pytest.approx((0.5 + 1 + 1 + 1 + 1 + 1) / 6)
    assert result.groups[1].better_interval is None
    assert any("dqn: fewer than 3 seeds" in note for note in result.notes)


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ({"env_steps": 200}, "number of env steps on gym/X differs (100: a0, a1; 200: odd)"),
        ({"protocol": {"episodes": 9}}, "evaluation protocol on gym/X differs"),
        ({"env": "gym/Y", "agent": "sac"}, "other environments"),
        ({"probes": 3, "batch": 64}, "probe on gym/X differs (32 states, replay: a0, a1; 64 states, replay: odd)"),
        ({"probes": 3, "version": 2}, "definition of ace on gym/X differs"),
        ({"evaluated": False}, "what is compared on gym/X differs (mean return of the last evaluation: a0, a1; mean t"),
    ],
)
def test_what_does_not_compare_is_refused_and_named(odd, words, tmp_path):
    runs = family(tmp_path, "a", [1.0, 2.0], probes=3) + load(make_run(tmp_path / "odd", **odd))
    with pytest.raises(ConfigError) as error:
        compare(runs, "agent", np.random.default_rng(0))
    assert words in str(error.value)
    assert "--force" in error.value.fix
    result = compare(runs, "agent", np.random.default_rng(0), force=True)
    assert any(note.startswith("compared by force although") for note in result.notes)


def test_what_a_reader_must_know_is_noted(tmp_path):
    runs = family(tmp_path, "a", [1.0, 2.0, 3.0]) + load(make_run(tmp_path / "b", agent="sac", seed=0))
    runs += load(make_run(tmp_path / "c", agent="sac", seed=0, status="running"))
    notes = compare(runs, "agent", np.random.default_rng(0)).notes
    assert "not finished, what they have reached so far counts: c (running)" in notes
    assert "sac: 2 runs on gym/X have seed 0; if one is a copy, intervals are too narrow" in notes
    assert not any(note.startswith("dqn") for note in notes)


def test_training_returns_count_by_episode(tmp_path):
    path = make_run(tmp_path / "a", evaluated=False, env_steps=1_000)
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 10000, "episode_return": 1.0, "episodes": 3}\n')
        file.write('{"step": 10010, "episode_return": 5.0, "episodes": 1}\n')
    assert final_score(load_run(path)) == (2.0, "mean training return of the last tenth")


def test_without_evaluation_the_last_tenth_of_training_counts(tmp_path):
    (run,) = load(make_run(tmp_path / "a", evaluated=False, env_steps=1_000))
    assert final_score(run) == (np.mean(range(900, 1001, 10)), "mean training return of the last tenth")
    (none,) = load(make_run(tmp_path / "b", evaluated=False, env_steps=1))
    assert final_score(none) is None
    with pytest.raises(ConfigError, match="1 of 2 runs have a return"):
        compare([run, none], "agent", np.random.default_rng(0))
