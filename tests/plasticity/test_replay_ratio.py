"""Replay ratios: vector V16, the account over a switch, schedules, signals, resume."""

from fractions import Fraction

import pytest
import torch

from rlkit.core.errors import ConfigError
from rlkit.nn.config import NetworkConfig
from rlkit.plasticity import replay_ratio
from rlkit.plasticity.protocols import Progress
from rlkit.plasticity.replay_ratio import AdaptiveConfig, AdaptiveReplayRatio, ScheduledConfig, UpdateSchedule
from tests.agents.helpers import batch, make_dqn, make_sac

LOW, HIGH = Fraction(1, 2), Fraction(2)


def at(step):
    return Progress(step, 0, step, 1_000_000)


def see(ratio, fau):
    """One update whose critic has this fraction of active units, exactly."""
    active = round(fau * 10_000)
    ratio.observer.activation("critic.trunk.0", (torch.arange(10_000) < active).float())
    ratio.observer.gradients(None, "critic")


def test_plateau_of_the_official_rule():
    """V16, an episode counted as one env step: one is averaged before a check every 4."""
    ratio = AdaptiveReplayRatio(LOW, AdaptiveConfig(check_period=4, window=1, warmup_checks=0), make_sac())
    of_episode = {4: (0.40, 0.42), 8: (0.405, 0.405), 12: (0.4055, 0.4055), 16: (0.9, 0.9)}
    found = {}
    for episode in range(1, 17):
        for fau in of_episode.get(episode, (0.6, 0.6)):
            see(ratio, fau)
        found[episode] = ratio.ratio(at(episode))
    assert [found[episode] for episode in (4, 8, 11, 12, 16)] == [LOW, LOW, LOW, HIGH, HIGH]
    events = ratio.events()
    assert [event.details["value"] for event in events] == pytest.approx([0.41, 0.405, 0.4055, 0.9])
    assert [event.details["last"] for event in events] == pytest.approx([0.60, 0.41, 0.405, 0.4055])
    assert [event.kind == "replay_ratio" for event in events] == [False, False, True, False]
    assert ratio.events() == []


def test_the_first_check_only_remembers_by_default():
    for warmup, expected in ((0, HIGH), (1, LOW)):
        ratio = AdaptiveReplayRatio(LOW, AdaptiveConfig(check_period=10, window=5, warmup_checks=warmup), make_sac())
        for step in range(1, 11):
            see(ratio, 0.5)
            found = ratio.ratio(at(step))
        assert found == expected


def run(config, signals, low=LOW):
    ratio = AdaptiveReplayRatio(low, config, make_sac())
    found = []
    for number, fau in enumerate(signals, start=1):
        for step in range(10 * number - 9, 10 * number + 1):
            see(ratio, fau)
            last = ratio.ratio(at(step))
        found.append(last)
    return found


def test_patience_hysteresis_and_waiting():
    settings = {"check_period": 10, "window": 10}
    still = [0.5, 0.5, 0.5, 0.5]
    assert run(AdaptiveConfig(**settings, patience=2), still) == [LOW, LOW, HIGH, HIGH]
    falling = [0.5, 0.5, 0.496, 0.48, 0.3]
    assert run(AdaptiveConfig(**settings), falling) == [LOW, HIGH, HIGH, HIGH, HIGH]
    assert run(AdaptiveConfig(**settings, mode="hysteresis"), falling) == [LOW, HIGH, HIGH, LOW, LOW]
    moving = [0.1, 0.2, 0.3, 0.4]
    assert run(AdaptiveConfig(**settings), moving) == [LOW] * 4
    assert run(AdaptiveConfig(**settings, max_wait=30), moving) == [LOW, LOW, HIGH, HIGH]
    assert run(AdaptiveConfig(**settings, gap=0.2), moving) == [LOW, HIGH, HIGH, HIGH]
    assert run(AdaptiveConfig(**settings, high=Fraction(3)), still)[-1] == 3


def test_a_window_without_updates_decides_nothing():
    ratio = AdaptiveReplayRatio(LOW, AdaptiveConfig(check_period=10, window=5), make_sac())
    for step in range(1, 41):
        assert ratio.ratio(at(step)) == LOW
    assert ratio.events() == []


def test_several_environments_at_once_check_once():
    ratio = AdaptiveReplayRatio(LOW, AdaptiveConfig(check_period=100, window=50), make_sac())
    for step in range(64, 641, 64):
        see(ratio, 0.5)
        ratio.ratio(at(step))
    assert len(ratio.events()) == 6


def test_a_continued_one_decides_the_same():
    config = AdaptiveConfig(check_period=10, window=7, warmup_checks=0)
    whole, parts = (AdaptiveReplayRatio(LOW, config, make_sac()) for _ in range(2))
    decisions = []
    for step in range(1, 60):
        parts = (lambda old: (new := AdaptiveReplayRatio(LOW, config, make_sac()), new.load_state_dict(old))[0])(
            parts.state_dict()
        )
        for ratio in (whole, parts):
            see(ratio, 0.6 - 0.1 / step)
        decisions.append((whole.ratio(at(step)), parts.ratio(at(step))))
    assert all(a == b for a, b in decisions)
    assert whole.state_dict() == parts.state_dict()
    assert whole.ratio(at(60)) == HIGH


def test_it_sees_the_critic_of_a_real_update():
    agent = make_sac()
    ratio = AdaptiveReplayRatio(LOW, AdaptiveConfig(check_period=10, window=10), agent)
    rows = batch(0, discrete=False)
    seen = []
    hooks = [
        agent.networks.get_submodule(f"critic.trunk.{i}").register_forward_hook(
            lambda _m, _i, h: seen.append(h.detach())
        )
        for i in (1, 3)
    ]
    agent.update(rows, ratio.observer)
    for hook in hooks:
        hook.remove()
    online = seen[:2]  # the later pass belongs to the actor's loss
    expected = sum(int((h > 0).sum()) for h in online) / sum(h.numel() for h in online)
    assert ratio.observer.first == pytest.approx(expected)


def test_other_signals_come_from_probes():
    ratio = AdaptiveReplayRatio(LOW, AdaptiveConfig(signal="dormant", check_period=10, window=5, gap=0.05), make_sac())
    assert ratio.observer is None
    from rlkit.plasticity.monitor import PlasticityMonitor

    agent = make_sac()
    monitor = PlasticityMonitor(agent.networks, agent.unit_graph(), forward=agent.outputs)
    for step in range(1, 21):
        if step % 5 == 0:
            ratio.measured(monitor.measure(batch(step, discrete=False)))
        found = ratio.ratio(at(step))
    assert found == HIGH
    assert ratio.events()[-1].details["signal"] == "dormant"


def test_activations_that_are_never_zero_are_refused_for_fau():
    agent = make_sac(network=NetworkConfig(hidden=(8,), activation="tanh"))
    with pytest.raises(ConfigError, match="never exactly 0"):
        AdaptiveReplayRatio(LOW, AdaptiveConfig(), agent)
    AdaptiveReplayRatio(LOW, AdaptiveConfig(signal="srank"), agent)
    crelu = make_sac(network=NetworkConfig(hidden=(8,), activation="crelu"))
    with pytest.raises(ConfigError, match="always active"):
        AdaptiveReplayRatio(LOW, AdaptiveConfig(), crelu)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"high": Fraction(1, 2)}, "above replay_ratio"),
        ({"network": "critics"}, "one of actor, critic"),
        ({"window": 0}, "1 or more"),
        ({"window": 30_000}, "at most ratio.check_period"),
        ({"gap": -1}, "0 or more"),
    ],
)
def test_settings_out_of_range(settings, words):
    with pytest.raises(ConfigError, match=words):
        AdaptiveReplayRatio(LOW, AdaptiveConfig(**settings), make_sac())


def test_schedules():
    def ratios(config, steps, start=Fraction(1, 4)):
        ratio = replay_ratio.find("scheduled").build(start, config, make_dqn())
        return [ratio.ratio(at(step)) for step in steps], ratio

    config = ScheduledConfig(steps=(100, 200), ratios=(Fraction(1), Fraction(4)))
    found, ratio = ratios(config, (0, 99, 100, 199, 200, 900))
    assert found == [Fraction(1, 4), Fraction(1, 4), 1, 1, 4, 4]
    assert [event.details for event in ratio.events()] == [{"old": "1/4", "new": "1"}, {"old": "1", "new": "4"}]
    found, _ = ratios(ScheduledConfig(steps=(0, 200), end=Fraction(4)), (0, 50, 100, 150, 200, 900))
    assert found == [Fraction(1, 4), Fraction(1, 2), 1, 2, 4, 4]
    found, _ = ratios(ScheduledConfig(steps=(0, 7), end=Fraction(4)), range(8))
    assert all(value.denominator <= 64 for value in found)
    assert found == sorted(found)
    for wrong in ({"steps": (1,)}, {"steps": (2, 1), "ratios": (1, 1)}, {"steps": (1,), "end": Fraction(1)}, {}):
        with pytest.raises(ConfigError, match="ratio"):
            ScheduledConfig(**wrong)


def test_the_account_is_kept_over_a_switch():
    """V16: 1/2 for 6 steps, then 2 for 6."""
    schedule, switch = (
        UpdateSchedule(0),
        replay_ratio.find("scheduled").build(LOW, ScheduledConfig(steps=(7,), ratios=(HIGH,)), make_dqn()),
    )
    updates = [schedule.due(step, 1, switch.ratio(at(step))) for step in range(1, 13)]
    assert updates == [0, 1, 0, 1, 0, 1, 2, 2, 2, 2, 2, 2]


def test_unknown_kind():
    with pytest.raises(ConfigError, match="adaptive"):
        replay_ratio.find("adaptiv")
