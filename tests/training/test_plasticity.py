"""Probes, cures and replay ratios in real runs: nothing changes by looking, everything continues, all is written."""

import math

import pytest
import torch

from rlkit.core.errors import ConfigError
from rlkit.plasticity.record import read_record
from rlkit.training.experiment import Experiment, train
from rlkit.training.resolve import resolve
from rlkit.training.run_folder import RunFolder
from rlkit.training.sameness import differing_leaves
from tests.training.runs import SHORT, config, only_run, steps

OFTEN = {"plasticity__period": 20, "plasticity__full_every": 2, "plasticity__batch_size": 32}


@pytest.mark.parametrize(("case", "prefetch"), [*((case, False) for case in SHORT), ("dqn-gym", True)])
def test_a_run_with_probes_is_the_run_without(case, prefetch):
    with_probes = Experiment(config(case, replay__prefetch=prefetch, **OFTEN))
    without = Experiment(config(case, replay__prefetch=prefetch, plasticity__monitor=False))
    for experiment in (with_probes, without):
        steps(experiment, experiment.config.env_steps)
    assert len(with_probes.plasticity.take_measurements()) > 1
    assert without.plasticity.take_measurements() == []
    states = [experiment.state_dict() for experiment in (with_probes, without)]
    for state in states:
        del state["plasticity"]
    assert differing_leaves(*states) == []
    for experiment in (with_probes, without):
        experiment.close()


@pytest.mark.parametrize("case", ["dqn-gym", "dqn-tiny-pixels", "sac-dmc"])
def test_what_a_run_writes(case, tmp_path):
    settings = config(case, logging__tensorboard=True, **OFTEN)
    assert train(settings, tmp_path) == 0
    folder = RunFolder(only_run(tmp_path))
    record = read_record(folder.path / "plasticity" / "record.bin")
    (part,) = record.parts
    kinds = list(part.kind)
    assert (kinds[0], kinds[-1]) == ("start", "end")
    assert set(kinds[1:-1]) == {"probe"}
    updates = [int(u) for u in part.updates]
    last = folder.lines("metrics")[-1]["updates"]
    assert updates == [0, *range(20, last + 1, 20), last]
    assert part.present["redo"].all()
    assert part.present["ace"].tolist() == [True, *(u % 40 == 0 for u in updates[1:-1]), True]
    lines = folder.lines("metrics")
    assert any("plasticity/dormant_0.1" in line for line in lines)
    assert all(math.isfinite(value) for line in lines for value in line.values())
    tags = tensorboard_tags(folder.path / "tensorboard")
    assert "train/plasticity/dormant_0.1" in tags["scalars"]
    assert tags["images"] == ["plasticity/scores"]


def tensorboard_tags(path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(path))
    accumulator.Reload()
    return accumulator.Tags()


def test_probes_come_at_a_two_hundredth_of_the_run():
    def period(**changes):
        experiment = Experiment(config("dqn-gym", **changes))
        found = experiment.plasticity._period
        experiment.close()
        return found

    assert period() == 500
    assert period(env_steps=400_060, replay_ratio=1) == 2_000
    assert period(env_steps=40_000_060, replay_ratio=1) == 10_000
    assert period(plasticity__period=7) == 7


def cured(name, **settings):
    return {"plasticity__interventions": [name]} | {f"intervention__{name}__{k}": v for k, v in settings.items()}


CURED = {
    "redo": cured("redo", every=30, threshold=0.5),
    "regrama": cured("regrama", every=30, threshold=0.5),
    "layer_reset": cured("layer_reset", every=30),
    "continual_backprop": cured("continual_backprop", replacement_rate=0.01, maturity=10, report_every=30),
}


@pytest.mark.parametrize("cure", CURED)
@pytest.mark.parametrize("case", ["dqn-gym", "sac-gym"])
def test_cures_act_and_say_so(cure, case, tmp_path):
    settings = config(case, **OFTEN, **CURED[cure])
    assert train(settings, tmp_path / "with") == 0
    assert train(config(case, **OFTEN), tmp_path / "without") == 0
    folders = [RunFolder(only_run(tmp_path / name)) for name in ("with", "without")]
    events = [line for line in folders[0].lines("ledger") if line.get("intervention") == cure]
    assert events
    assert {event["updates"] % 30 for event in events} == {0}
    (part,) = read_record(folders[0].path / "plasticity" / "record.bin").parts
    assert part.kind.count("pre") == part.kind.count("post") > 0
    losses = [[line["loss"] for line in folder.lines("metrics") if "loss" in line] for folder in folders]
    assert losses[0][-1] != losses[1][-1]


def test_an_adaptive_ratio_switches_and_says_so(tmp_path):
    changes = {
        "replay_ratio": "1/4",
        "plasticity__replay_ratio": "adaptive",
        "ratio__high": 1,
        "ratio__check_period": 100,
        "ratio__window": 50,
        "ratio__gap": 1.0,
    }
    assert train(config("dqn-gym", **changes), tmp_path) == 0
    folder = RunFolder(only_run(tmp_path))
    (switch,) = [line for line in folder.lines("ledger") if line["kind"] == "replay_ratio"]
    assert (switch["step"], switch["old"], switch["new"]) == (200, "1/4", "1")
    assert folder.lines("metrics")[-1]["updates"] == (199 - 60) // 4 + 401


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"plasticity.interventions": "[redoo]"}, "Did you mean 'redo'"),
        ({"plasticity.interventions": "redo"}, "a list"),
        ({"plasticity.interventions": "[redo, redo]"}, "at most once"),
        ({"plasticity.interventions": "[redo]", "intervention.redo.evry": 3}, "evry"),
        ({"intervention.redo.every": 3}, "intervention"),
        ({"plasticity.replay_ratio": "adaptiv"}, "adaptive"),
        ({"plasticity.period": 0}, "1 or more"),
    ],
)
def test_bad_settings(changes, words):
    with pytest.raises(ConfigError) as error:
        resolve("dqn", "gym/CartPole-v1", flags=changes)
    assert words in str(error.value)


@pytest.mark.parametrize(("case", "cure"), [("dqn-tiny-pixels", "redo"), *(("sac-gym", cure) for cure in CURED)])
def test_a_treated_run_continues_bit_for_bit(cure, case, tmp_path):
    from tests.training.test_resume import check_continuation

    check_continuation(case, 1, tmp_path, **OFTEN, **CURED[cure])


def test_probes_need_no_state_of_their_own():
    """The same probe at the same update, whether the ones before were taken or not."""
    every, rare = (Experiment(config("dqn-gym", **OFTEN | {"plasticity__period": period})) for period in (20, 40))
    for experiment in (every, rare):
        steps(experiment, 200)
    scores = [
        {m.updates: m.layers["online.trunk.0"].scores["redo"] for m in experiment.plasticity.take_measurements()}
        for experiment in (every, rare)
    ]
    assert (scores[0][40] == scores[1][40]).all()
    for experiment in (every, rare):
        experiment.close()


def test_a_cure_without_the_monitor_gets_its_measurement_and_nothing_is_recorded():
    experiment = Experiment(config("dqn-gym", plasticity__monitor=False, **CURED["redo"]))
    steps(experiment, 300)
    assert experiment.plasticity.take_measurements() == []
    assert experiment.plasticity.take_events()
    experiment.close()


def test_cures_that_exclude_each_other():
    with pytest.raises(ConfigError, match="cannot treat the same run"):
        Experiment(config("dqn-gym", plasticity__interventions=["full_reset", "plasticity_injection"]))


@pytest.mark.parametrize("other", ["redo", "layer_reset"])
def test_l2_init_pulls_to_where_a_unit_has_started_anew(other):
    settings = {**CURED[other], "plasticity__interventions": [other, "l2_init"]}
    experiment = Experiment(config("dqn-gym", **OFTEN, **settings))
    starts = experiment.plasticity._cures["l2_init"]._start["online"]
    before = {name: value.clone() for name, value in starts.items()}
    while experiment.updates < 30:
        experiment.step()
    weights = dict(experiment.agent.networks.named_parameters())
    moved = {name for name, value in starts.items() if not torch.equal(value, before[name])}
    changed = {name: (starts[name] != before[name]) for name in moved}
    assert moved
    for name, rows in changed.items():
        assert torch.equal(starts[name][rows], weights[name].detach()[rows])
    expected = {"redo": "online.trunk.0", "layer_reset": "online.head"}[other]
    assert all(name.startswith(expected) for name in moved)
    experiment.close()


def test_cures_of_one_moment_go_by_what_was_there_before_the_first(tmp_path):
    """What ReDo has just recycled has no gradient yet; ACE's reset must not take that for dormancy."""
    every = {
        "intervention__redo__every": 60,
        "intervention__ace_reset__every": 60,
        "intervention__redo__threshold": 0.5,
    }
    found = {}
    for cures in (("ace_reset",), ("redo", "ace_reset")):
        changes = {key: value for key, value in every.items() if key.split("__")[1] in cures}
        settings = config("sac-gym", plasticity__interventions=cures, **OFTEN, **changes)
        assert train(settings, tmp_path / "_".join(cures)) == 0
        ledger = RunFolder(only_run(tmp_path / "_".join(cures))).lines("ledger")
        line = next(line for line in ledger if line.get("intervention") == "ace_reset")
        changed = ("largest_change_of_values", "weight_change", "rng")  # by ReDo, before
        found[cures] = {key: value for key, value in line.items() if key not in changed}
    first, second = found.values()
    assert first == second


def test_the_numbers_of_a_run_are_not_those_right_after_a_cure(tmp_path):
    settings = config("sac-gym", plasticity__interventions=("redo",), intervention__redo__every=20, **OFTEN)
    experiment = Experiment(settings)
    kinds = []
    measure = experiment.plasticity._monitor.measure

    def watched(*args, **kwargs):
        found = measure(*args, **kwargs)
        kinds.append((kwargs["kind"], found))
        return found

    experiment.plasticity._monitor.measure = watched
    while not any(kind == "post" for kind, _ in kinds):
        experiment.step()
    pre = [found for kind, found in kinds if kind == "pre"][-1]
    assert experiment.plasticity.dormant_share == pre.dormant_fraction(0.1)
    assert experiment.plasticity.take_metrics()["plasticity/dormant_0.1"] == pre.dormant_fraction(0.1)
    count = len(kinds)
    experiment.plasticity.finish(experiment.progress)
    assert len(kinds) == count  # no last look right after a treatment
    experiment.close()


def test_a_ratio_that_goes_by_probes_needs_them():
    flags = {"plasticity.replay_ratio": "adaptive", "ratio.high": 2, "replay_ratio": "1/2", "ratio.signal": "dormant"}
    with pytest.raises(ConfigError, match="monitor is False"):
        Experiment(resolve("dqn", "gym/CartPole-v1", flags=flags | {"plasticity.monitor": False}))
