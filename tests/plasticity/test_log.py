"""A run folder of somebody else's loop."""

import json
import math

import pytest
import torch
from torch import nn

from rlkit.core.errors import ConfigError
from rlkit.plasticity.log import PlasticityLog
from rlkit.plasticity.monitor import PlasticityMonitor
from rlkit.report.run_data import load_run


def monitor():
    torch.manual_seed(0)
    return PlasticityMonitor(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)))


def test_what_is_logged_is_what_reports_read(tmp_path):
    with PlasticityLog(tmp_path / "run", monitor(), name="mine", env="task", seed=4) as log:
        measurement = log.probe(torch.randn(16, 3), step=10, updates=5)
        log.scalars(10, updates=5, loss=0.5, episode_return=2.0)
        log.evaluation(10, [1.0, 3.0])
        log.event(12, "learning rate", updates=6, value=1e-4)
        assert load_run(tmp_path / "run").about["status"] == "running"
    data = load_run(tmp_path / "run")
    assert (data.name, data.about["status"]) == ("mine task s4", "finished")
    assert data.metrics == [{"step": 10, "updates": 5, "loss": 0.5, "episode_return": 2.0}]
    assert data.evaluations == [{"step": 10, "mean": 2.0, "returns": [1.0, 3.0]}]
    assert data.ledger == [{"step": 12, "updates": 6, "kind": "learning rate", "value": 1e-4}]
    (part,) = data.record.parts
    assert part.probe.batch == 16
    assert part.counts["redo"][0, 0].tolist() == [
        int((measurement.layers["0"].scores["redo"] <= tau).sum()) for tau in (0, 0.025, 0.1)
    ]


def test_a_crash_keeps_what_was_logged(tmp_path):
    def train():
        with PlasticityLog(tmp_path / "run", monitor(), name="mine") as log:
            log.probe(torch.randn(16, 3), step=0, updates=0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
    data = load_run(tmp_path / "run")
    assert data.about["status"] == "crashed"
    assert len(data.record.parts[0].step) == 1


def test_another_run_is_never_written_over(tmp_path):
    PlasticityLog(tmp_path / "run", monitor(), name="mine").close()
    with pytest.raises(ConfigError, match="already holds a run"):
        PlasticityLog(tmp_path / "run", monitor(), name="mine")


def test_numbers_that_json_does_not_have_are_refused(tmp_path):
    log = PlasticityLog(tmp_path / "run", monitor(), name="mine")
    with pytest.raises(ValueError, match="JSON"):
        log.scalars(0, updates=0, loss=math.nan)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["agent"] == "mine"
