"""`rlkit eval`: which checkpoint is played, and what is read of it."""

import shutil

import pytest

from rlkit.cli.main import run as rlkit
from rlkit.core.errors import ResumeError
from rlkit.training.checkpoint import CheckpointStore
from rlkit.training.evaluation import evaluate_run
from rlkit.training.experiment import resume, train
from rlkit.training.resolve import load_config
from tests.training.runs import config, only_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run with two checkpoints."""
    folder = tmp_path_factory.mktemp("trained")
    assert train(config("dqn-gym", env_steps=200, checkpoint__period=100), folder) == 0
    return only_run(folder)


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def test_a_checkpoint_that_is_not_there(run, capsys):
    assert rlkit(["eval", str(run), "--checkpoint", "999"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "error[config]: unknown checkpoint '999'"
    assert lines[1].startswith("there are: 100, 200.")
    assert lines[2] == "fix: --checkpoint 200, or leave it out for the newest"


def test_rows_of_replay_are_not_read(run):
    """Damage in them does not matter here; a resume finds it."""
    for segment in (run / "checkpoints" / "segments").iterdir():
        segment.write_bytes(b"")
    whole = evaluate_run(run, episodes=2, video=False)
    assert len(whole.returns) == 2
    assert CheckpointStore(run / "checkpoints", 2).load(rows=False)[0] == 200
    with pytest.raises(ResumeError, match="has 0 bytes instead of"):
        resume(run, load_config(run / "config.yaml"))


def test_a_torn_checkpoint_that_was_asked_for(run):
    (run / "checkpoints" / "200" / "state.json").write_text("{}")
    with pytest.raises(ResumeError, match=r"200: state\.json has 2 bytes") as caught:
        evaluate_run(run, episodes=1, video=False, checkpoint=200)
    assert "--checkpoint 100" in caught.value.fix
