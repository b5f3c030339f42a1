"""`rlkit resume`: what is checked before anything is written, and copies to go on in."""

import json
import shutil
from dataclasses import replace

import pytest

from rlkit.configs.parse import read_file
from rlkit.core.errors import ConfigError, ResourceError, ResumeError
from rlkit.training.checkpoint import CheckpointStore
from rlkit.training.experiment import Experiment, resume, train
from rlkit.training.resolve import load_config, with_flags
from rlkit.training.run_folder import RunFolder
from tests.training.runs import config, only_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run with two checkpoints."""
    folder = tmp_path_factory.mktemp("trained")
    assert train(config("dqn-gym", env_steps=200, checkpoint__period=100), folder) == 0
    return only_run(folder)


@pytest.fixture
def run(trained, tmp_path):
    """A copy of it."""
    return shutil.copytree(trained, tmp_path / "run")


def contents(folder):
    """Every file below and what is in it; a crash.txt says why a resume was refused."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "crash.txt")
    return {path.relative_to(folder): path.read_bytes() for path in files}


def changed(run, **flags):
    return with_flags(run / "config.yaml", {key.replace("__", "."): value for key, value in flags.items()})


@pytest.mark.parametrize(
    "flags",
    [
        {"network__hidden": "[64]"},
        {"replay__capacity": 400},
        {"replay__prefetch": True},
        {"plasticity__interventions": "[redo]"},
        {"env_steps": 100},
    ],
)
@pytest.mark.parametrize("fork", [True, False])
def test_what_cannot_go_on_changes_nothing(flags, fork, run, tmp_path):
    before = contents(tmp_path)
    with pytest.raises((ConfigError, ResumeError)):
        resume(run, replace(changed(run, **flags), threads=1), fork=fork)
    assert contents(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_copy_that_fails_is_removed(run, tmp_path):
    (run / "moved").symlink_to("nowhere")
    with pytest.raises(ResourceError, match=r"could not be copied\n.*No such file") as caught:
        resume(run, changed(run, env_steps=300), fork=True)
    assert "moved" in caught.value.why
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_copy_goes_on_and_the_original_stays(run, tmp_path):
    before = contents(run)
    for number in (1, 2):
        assert resume(run, changed(run, env_steps=250, replay__batch_size=8), fork=True) == 0
        copy = tmp_path / f"run-fork{number}"
        assert RunFolder(copy).run() == RunFolder(run).run()
        assert load_config(copy / "config.yaml").replay.batch_size == 8
        assert CheckpointStore(copy / "checkpoints", 2).steps() == [200, 250]
    assert contents(run) == before


@pytest.mark.parametrize(
    ("flags", "sides"),
    [
        ({"env__id": "gym/Acrobot-v1"}, ["observations float32 [4] -> float32 [6]", "actions 2 choices -> 3 choices"]),
        ({"env__id": "gym/MountainCar-v0"}, ["gym/CartPole-v1 -> gym/MountainCar-v0", "float32 [4] -> float32 [2]"]),
        ({"env__id": "tiny/pixels"}, ["float32 [4] -> uint8 [10, 10]"]),
        ({"env__stack": 2}, ["float32 [4] -> float32 [2, 4]"]),
        ({"env__num_envs": 2}, ["env.num_envs 1 -> 2"]),
    ],
)
def test_environments_with_other_spaces(flags, sides, run, tmp_path, monkeypatch):
    monkeypatch.setattr(Experiment, "__init__", None)  # they are compared before anything is built
    with pytest.raises(ConfigError, match="the run cannot go on with") as caught:
        resume(run, changed(run, **flags), fork=True)
    for side in sides:
        assert side in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_another_environment_with_the_same_spaces_starts_new_episodes(tmp_path, capsys):
    settings = config("dqn-tiny-pixels", env_steps=200)
    settings = replace(settings, env=replace(settings.env, id="tiny/discount"))
    assert train(settings, tmp_path) == 0
    run = only_run(tmp_path)
    assert resume(run, replace(settings, env_steps=300, env=replace(settings.env, id="tiny/action")), fork=True) == 0
    (copy,) = run.parent.glob("*-fork1")
    assert RunFolder(copy).run()["env"] == "tiny/action"
    out = capsys.readouterr().out
    assert "bit-exact: no (another environment (id tiny/discount -> tiny/action): episodes start anew)" in out


def test_fewer_steps_than_are_done(run):
    with pytest.raises(ConfigError, match="env_steps is 150, and 200 are done") as caught:
        resume(run, changed(run, env_steps=150))
    assert "more than 200" in caught.value.fix
    assert read_file(run / "config.yaml")["env_steps"].value == 200


def test_nothing_left_to_train(run, capsys):
    before = [RunFolder(run).lines(name) for name in ("metrics", "evaluations")]
    assert resume(run, changed(run)) == 0
    assert "200 of 200 env steps are done: nothing is left to train" in capsys.readouterr().out
    assert [RunFolder(run).lines(name) for name in ("metrics", "evaluations")] == before
    assert RunFolder(run).status() == "finished"


def test_several_environments_may_pass_the_end_by_less_than_a_step(tmp_path, capsys):
    settings = config("dqn-gym", env__num_envs=7, env_steps=100)
    assert train(settings, tmp_path) == 0
    assert resume(only_run(tmp_path), settings) == 0
    assert "105 of 100 env steps are done" in capsys.readouterr().out


@pytest.mark.parametrize(("other", "who"), [(1, "an older"), (3, "a newer")])
def test_a_checkpoint_of_another_format_is_no_damage(other, who, run):
    manifest = run / "checkpoints" / "200" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": other}))
    before = contents(run)
    with pytest.raises(ResumeError, match=f"checkpoint 200 was written by {who} rlkit") as caught:
        resume(run, changed(run, env_steps=300))
    assert f"it has format {other}, this one reads format 2" in caught.value.why
    assert contents(run) == before
