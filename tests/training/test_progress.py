"""What a person sees while a run trains."""

import re

import pytest

from rlkit.training.experiment import Experiment, Trainer, train
from rlkit.training.run_folder import RunFolder
from tests.training.runs import config


@pytest.mark.parametrize(("num_envs", "end"), [(1, 100), (3, 102), (8, 104)])
def test_a_run_ends_at_100_percent(num_envs, end, tmp_path, capsys):
    """Environments step together, so the last step may lie behind `env_steps`: that is where the run ends."""
    assert train(config("dqn-gym", env__num_envs=num_envs, env_steps=100, replay__capacity=240), tmp_path) == 0
    shown = re.findall(r"step ([\d,]+)/([\d,]+) \((\d+) %\)", capsys.readouterr().out)
    assert shown[-1] == (str(end), str(end), "100")
    assert all(int(percent) <= 100 for _, _, percent in shown)


def test_the_end_is_known_from_the_start(tmp_path):
    settings = config("dqn-gym", env__num_envs=3, env_steps=100)
    experiment = Experiment(settings)
    trainer = Trainer(experiment, RunFolder.create(settings, tmp_path))
    totals = {trainer.snapshot().total}
    while experiment.env_steps < 100:
        experiment.step()
        totals.add(trainer.snapshot().total)
    assert totals == {102}
    trainer.close()
