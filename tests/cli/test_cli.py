"""The command line as a person meets it: what begins and ends a process in one of its own, the rest in this one."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from rlkit.cli.main import COMMANDS
from rlkit.configs.shipped import available
from rlkit.core.errors import ConfigError
from tests.cli.commands import rlkit
from tests.report.runs import make_run

SMOKE = ("--preset", "smoke", "--threads=1")


def process(*words):
    return subprocess.run(
        [sys.executable, "-m", "rlkit.cli.main", *words], capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished smoke run, made once."""
    folder = tmp_path_factory.mktemp("runs")
    done = process("train", "dqn", "--env", "gym/CartPole-v1", *SMOKE, "--runs", str(folder))
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*/*/*/run.json")
    return path.parent, done.stdout


def test_help_imports_nothing_heavy():
    code = "import sys; from rlkit.cli.main import run; run(['--help']); print(sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(re.findall(r"'([\w.]+)'", done.stderr))
    heavy = {"torch", "numpy", "gymnasium", "dm_control", "mujoco", "plotly", "matplotlib", "rich", "numba", "yaml"}
    assert loaded & heavy == set()
    for command in COMMANDS:
        assert command in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command):
    done = rlkit(command, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: rlkit {command}")
    assert "example: rlkit " + command in done.stdout


def test_train_names_its_results_and_the_next_command(run):
    path, output = run
    for part in (f"run folder: {path}", "env steps   600", "metrics.jsonl", f"next: rlkit eval {path}"):
        assert part in output
    metrics = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics] == [100, 200, 300, 400, 500, 600]
    assert {"updates", "frames", "wall_s", "loss", "episode_return"} <= metrics[-1].keys()
    assert metrics[-1]["updates"] == 200
    evaluations = [json.loads(line) for line in (path / "evaluations.jsonl").read_text().splitlines()]
    assert [line["step"] for line in evaluations] == [0, 300, 600]  # 0: the untrained agent
    assert evaluations[0]["protocol"]["time_limit"] == 500
    assert json.loads((path / "run.json").read_text())["status"] == "finished"
    assert "torch" in json.loads((path / "versions.json").read_text())
    assert list((path / "tensorboard").iterdir())
    assert not (path / "lock").exists()


def test_no_colour_in_a_pipe(run):
    assert "\x1b" not in run[1]


def test_ls_lists_it(run):
    path, _ = run
    done = rlkit("ls", "--runs", str(path.parents[2]))
    titles, row = (re.split(r" {2,}", line) for line in done.stdout.splitlines()[:2])
    shown = dict(zip(titles, row, strict=True))
    metrics = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    (*_, dormant) = (line["plasticity/dormant_0.1"] for line in metrics if "plasticity/dormant_0.1" in line)
    assert shown["run"].endswith(path.name)
    assert (shown["status"], shown["env steps"]) == ("finished", "600")
    assert shown["dormant"] == f"{100 * dormant:.1f} %"


def test_ls_shows_a_dash_where_nothing_was_probed(tmp_path):
    make_run(tmp_path / "gym-X" / "dqn" / "a")
    titles, row = (re.split(r" {2,}", line) for line in rlkit("ls", "--runs", str(tmp_path)).stdout.splitlines())
    assert dict(zip(titles, row, strict=True))["dormant"] == "-"


def test_eval_and_video(run):
    path, _ = run
    done = rlkit("eval", "last", "--runs", str(path.parents[2]), "--episodes", "3", "--video")
    assert done.returncode == 0, done.stderr
    assert re.search(r"mean [\d.]+, median [\d.]+, 3 episodes", done.stdout)
    video = Path(re.search(r"video: (\S+)", done.stdout).group(1))
    assert video.suffix == ".mp4"
    assert video.read_bytes()[4:8] == b"ftyp"
    assert video.stat().st_size > 1000


def test_the_next_command_films_a_run_of_the_fast_atari_backend(tmp_path):
    """It cannot draw, so the film is played on the exact backend under the same protocol, and the protocol says so."""
    flags = ["--env.backend", "fast", "--env.protocol", "atari100k", "--env.num_envs", "2", "--env.episode_cap", "200"]
    flags += ["--env_steps", "40", "--learning_starts", "20", "--evaluation.episodes", "0"]
    flags += ["--logging.tensorboard", "false", "--replay.capacity", "100", "--plasticity.monitor", "false"]
    trained = rlkit("train", "dqn", "--env", "ALE/Pong-v5", *SMOKE, *flags, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    command = re.search(r"next: rlkit (eval .*), or", trained.stdout).group(1)
    done = rlkit(*shlex.split(command), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"mean [-\d.]+, median [-\d.]+, 10 episodes", done.stdout)
    assert "backend exact (trained on fast, which cannot draw)" in done.stdout
    for setting in ("name atari100k", "sticky 0.0", "episode_cap 200"):
        assert setting in done.stdout
    assert (tmp_path / re.search(r"video: (\S+)", done.stdout).group(1)).stat().st_size > 1000


def test_resume_a_finished_run_further_and_refuse_another_seed(run, tmp_path):
    path, _ = run
    refused = rlkit("resume", str(path), "--seed", "3")
    assert refused.returncode == 4
    assert "seed 0 -> 3" in refused.stderr
    forked = rlkit("resume", str(path), "--fork", "--replay.batch_size", "8", "--env_steps", "700")
    assert forked.returncode == 0, forked.stderr
    (fork,) = path.parent.glob("*-fork1")
    assert "batch_size: 8" in (fork / "config.yaml").read_text()
    assert json.loads((path / "run.json").read_text())["status"] == "finished"


def test_dry_run_prints_the_plan_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("rlkit.training.plan._MEASURE_S", 0.05)
    done = rlkit(
        "train", "dqn", "--env", "ALE/Pong-v5", "--replay.capacity", "20000", "--dry-run", "--threads=1", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    for part in (
        "1,000,000 (4,000,000 frames)",
        "updates     245,000",
        "0.14 GB replay",
        "disk        at most",
        "time        about",
    ):
        assert part in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_too_little_memory_is_told_before_the_start(tmp_path):
    done = rlkit("train", "dqn", "--env", "ALE/Pong-v5", "--replay.capacity", "90000000000", cwd=tmp_path)
    assert done.returncode == 6
    assert re.search(r"replay needs [\d.]+ GB of memory, [\d.]+ GB are free", done.stderr)
    assert re.search(r"fix: --replay.capacity \d+ fits", done.stderr)
    assert list(tmp_path.iterdir()) == []


def test_too_little_disk_is_told_before_the_start(tmp_path):
    flags = ["--replay.capacity", "1000000", "--env_steps", "1000000000000", "--checkpoint.period", "1000000000"]
    done = rlkit("train", "sac", "--env", "dmc/walker-walk", *flags, cwd=tmp_path)
    assert done.returncode == 6
    assert re.search(r"checkpoints need up to [\d.]+ GB of disk, [\d.]+ GB are free", done.stderr)
    assert "--checkpoint.replay false" in done.stderr


@pytest.mark.parametrize(
    ("words", "status", "parts"),
    [
        (["trian"], 2, ["unknown command 'trian'", "Did you mean 'train'"]),
        (["train"], 2, ["AGENT is missing", "usage: rlkit train"]),
        (["train", "dqn", "sac", "--env", "tiny/one"], 2, ["too many words"]),
        (["train", "dqm", "--env", "tiny/one"], 2, ["unknown agent 'dqm'", "'dqn'", "rlkit agents"]),
        (["train", "dqn"], 2, ["no environment is given", "--env ID"]),
        (["train", "dqn", "--env", "ALE/Pnog-v5"], 2, ["ALE/Pong-v5"]),
        (["train", "dqn", "--env"], 2, ["--env has no value"]),
        (["train", "dqn", "--env", "tiny/one", "--seed", "1", "--seed=2"], 2, ["--seed is given twice"]),
        (["train", "dqn", "--env", "tiny/one", "--agent.lr", "1"], 2, ["unknown key agent.lr"]),
        (["train", "dqn", "--env", "tiny/one", "--replay.sampler", "unifrom"], 2, ["Did you mean 'uniform'"]),
        (["train", "dqn", "--env", "tiny/one", "--network.activation", "rleu"], 2, ["'relu'"]),
        (["train", "dqn", "--env", "dmc/walker-walk"], 2, ["dqn", "sac"]),
        (["train", "sac", "--env", "gym/CartPole-v1"], 2, ["sac", "Discrete(2)", "dqn"]),
        (["train", "sac", "--env", "ALE/Pong-v5"], 2, ["Discrete(6)", "dqn"]),
        (["train", "dqn", "--env", "tiny/one", "--device", "cuda"], 6, ["found no CUDA device", "--device cpu"]),
        (["train", "dqn", "--env", "tiny/one", "--device", "gpu"], 2, ["unknown device 'gpu'"]),
        (["train", "dqn", "--env", "tiny/one", "--device", "mps"], 2, ["unknown device 'mps'", "cuda:NUMBER"]),
        (["resume", "nothing"], 2, ["no run 'nothing'", "rlkit ls"]),
        (["eval", "last"], 2, ["no run 'last'"]),
        (["eval", "last", "--episodes", "none"], 2, ["--episodes is 'none'"]),
        (["eval", "last", "--episods", "3"], 2, ["unknown option --episods", "'episodes'"]),
        (["config", "shwo", "dqn"], 2, ["rlkit config shwo dqn is not a command"]),
    ],
)
def test_bad_input_has_a_message_and_a_status(words, status, parts, tmp_path):
    done = rlkit(*words, cwd=tmp_path)
    assert done.returncode == status, done.stderr
    assert done.stderr.startswith("error[")
    assert "\nfix: " in done.stderr
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in done.stderr
    assert list(tmp_path.rglob("run.json")) == []


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(ConfigError):
        rlkit("train", "dqm", "--env", "tiny/one", "--debug", cwd=tmp_path)


def test_a_mistake_ends_the_process_with_its_status():
    done = process("trian")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error[config]: unknown command 'trian'")


def test_lists():
    agents = rlkit("agents")
    for name in available(""):
        assert name in agents.stdout
    assert "dmc/walker-walk" in rlkit("envs", "walker-w").stdout
    assert "no environment holds 'zzz'" in rlkit("envs", "zzz").stdout


def test_config_show_and_diff(run):
    shown = rlkit("config", "show", "dqn", "--env", "gym/CartPole-v1", "--seed", "3").stdout
    assert re.search(r"^seed: 3 +# --seed$", shown, re.MULTILINE)
    assert re.search(r"^replay_ratio: 1/2 +# configs/dqn.yaml:\d+$", shown, re.MULTILINE)
    assert re.search(r"^  gamma: 0.99 +# default$", shown, re.MULTILINE)
    path, _ = run
    assert "no setting differs" in rlkit("config", "diff", str(path), str(path)).stdout


def test_doctor_finds_this_machine_well_or_says_what_to_mend():
    done = rlkit("doctor")
    for part in ("torch", "mujoco", "Pong started", "tasks, cartpole-balance loaded", "memory", "rendering"):
        assert part in done.stdout
    assert done.returncode == (3 if "MEND" in done.stdout else 0)
    assert ("fix " in done.stdout) == (done.returncode == 3)
