"""What the pages tell people to type: every command runs as it stands there, or its flags are read.

Lines of command blocks run, trainings shortened by the smoke preset. Commands inside sentences are read by the command
that they name, and every flag must exist. A block, command or flag that no rule covers fails.
"""

import functools
import os
import re
import shlex
import tomllib
import warnings
from pathlib import Path

import pytest

from rlkit.cli.main import COMMANDS
from rlkit.configs.parse import dump, read_layer
from rlkit.configs.shipped import available
from rlkit.envs.registry import FAMILIES
from rlkit.plasticity.interventions import INTERVENTIONS
from rlkit.plasticity.replay_ratio import REPLAY_RATIOS
from rlkit.replay.samplers import SAMPLERS
from rlkit.training.resolve import resolve
from tests.cli.commands import rlkit

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Which test runs the Python examples of a page.
PYTHON = {
    "docs/ace.md": "tests/causal/test_direct_lingam.py",
    "docs/plasticity.md": "tests/plasticity/test_docs.py",
    "docs/plasticity_record.md": "tests/plasticity/test_docs.py",
    "docs/plugins/": "tests/plugins/test_docs.py",
}
PLACEHOLDERS = {"RUN": "last", "AGENT": "sac", "ID": "dmc/walker-walk", "...": "sac --env dmc/walker-walk"}


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def blocks(page):
    """(language, text) of each fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def inline(page):
    """Code inside sentences and tables."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE))


def lines(text):
    """Commands of a block, without their comments."""
    return [command for line in text.splitlines() if (command := re.sub(r"(^|\s)#.*", "", line).strip())]


IN_BLOCKS = dict.fromkeys(
    c for p in PAGES for language, text in blocks(p) if language in ("bash", "") for c in lines(text)
)
PROGRAMS = r"rlkit \w|scripts/|pip |tensorboard |\. "
MENTIONED = dict.fromkeys(code for page in PAGES for code in inline(page) if re.match(PROGRAMS, code))


@functools.cache
def settings():
    """Every key that some run has."""
    envs = {"ALE": "ALE/Pong-v5", "dmc": "dmc/walker-walk", "gym": "gym/CartPole-v1", "tiny": "tiny/one"}
    assert envs.keys() == FAMILIES.keys()
    every = [{"replay.sampler": sampler} for sampler in SAMPLERS]
    every += [{"plasticity.interventions": list(INTERVENTIONS)}]
    needed = {"scheduled": {"ratio.steps": [100], "ratio.ratios": [1]}}
    every += [{"plasticity.replay_ratio": ratio} | needed.get(ratio, {}) for ratio in REPLAY_RATIOS]
    configs = [resolve("dqn", "gym/CartPole-v1", flags=flags) for flags in every]
    configs += [resolve(agent, env) for agent in available("") for env in envs.values()]
    return {"env", *(key for config in configs for key in read_layer(dump(config), ""))}


@functools.cache
def options():
    """Every flag of every command, and of the scripts."""
    texts = [rlkit(command, "--help").stdout for command in COMMANDS] + [rlkit("--help").stdout]
    texts += [path.read_text() for path in (ROOT / "scripts").iterdir() if path.is_file()]
    return {flag for text in texts for flag in re.findall(r"--([a-z][\w-]*)(?![\w.])", text)}


def check_flags(code):
    """Each is an option or a setting; a placeholder in capitals, or *, stands for any ending."""
    for flag in re.findall(r"(?<!\S)--([a-z][\w.*-]*)", code):
        start = re.split(r"[A-Z*]", flag)[0]
        known = flag in options() | settings() if start == flag else any(key.startswith(start) for key in settings())
        assert known, f"--{flag} is no option of a command and no setting of a run"


def check_script(command, _folder):
    script, *_ = shlex.split(command)
    assert os.access(ROOT / script, os.X_OK)
    check_flags(command)


def check_pip(command, _folder):
    """What it installs is an extra of this package, or pinned as it stands there."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = shlex.split(command)[2]
    extra = re.fullmatch(r"rlkit-plasticity\[(\w+)\]", wanted)
    assert extra.group(1) in extras if extra else wanted in (ROOT / "constraints.txt").read_text().splitlines()


def check_tensorboard(command, _folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it imports
        from tensorboard import program

        program.TensorBoard().configure(argv=shlex.split(command))


def check_activate(command, _folder):
    assert command == ". .venv/bin/activate"
    assert ".venv" in (ROOT / "scripts" / "setup.sh").read_text()


def run_rlkit(command, folder, monkeypatch):
    """As it stands there, in a folder with two finished runs."""
    words = shlex.split(command)[1:]
    if words == ["doctor"]:
        words += ["--help"]  # tests/cli runs it, which takes seconds
    if words[0] == "train":
        words = [w for i, w in enumerate(words) if w != "--env_steps" and words[i - 1] != "--env_steps"]
        words += ["--preset", "smoke", "--threads=1", "--runs", "new", "--logging.tensorboard=false"]
        words += ["--env_steps=300", "--plasticity.batch_size=32", "--evaluation.period=0"]
        words += ["--env.episode_cap=400"] if "ALE/" in command else []
        monkeypatch.setattr("rlkit.training.plan._MEASURE_S", 0.05)
    if "--serve" in words:
        monkeypatch.setattr("rlkit.report.server.ReportServer.serve_forever", interrupt)
    return rlkit(*words, cwd=folder)


def interrupt(_server):
    raise KeyboardInterrupt


def check_rlkit(command, folder, monkeypatch):
    done = run_rlkit(command, folder, monkeypatch)
    assert done.returncode == 0, done.stderr
    if command.startswith("rlkit train"):
        assert ("next: rlkit eval" in done.stdout) != ("--dry-run" in command)


def check_mention(command, folder, monkeypatch):
    """The command reads it: `train` as far as the plan, the others up to their help."""
    for placeholder, value in PLACEHOLDERS.items():
        command = re.sub(rf"(?<!\S){re.escape(placeholder)}(?!\S)", value, command)
    words = shlex.split(command)[1:]
    check_flags(command)
    if words[0] == "train" and len(words) > 1:
        monkeypatch.setattr("rlkit.training.plan._measure_seconds", lambda _: 0.0)
        words = [*dict.fromkeys([*words, "--dry-run"])]
    elif not (words[:2] == ["config", "show"] and len(words) > 2):
        words.append("--help")
    done = rlkit(*words, cwd=folder)
    assert done.returncode == 0, done.stderr


RULES = {
    r"scripts/[\w-]+": check_script,
    r"pip install ": check_pip,
    r"tensorboard ": check_tensorboard,
    r"\. ": check_activate,
}


def rule_for(command):
    """The check of a command that is not of rlkit."""
    found = [check for pattern, check in RULES.items() if re.match(pattern, command)]
    assert found, f"no rule says how to check {command!r}: add one here"
    return found[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two finished trainings in `runs`."""
    path = tmp_path_factory.mktemp("readme")
    for seed in ("0", "1"):  # two, for `rlkit compare`
        flags = ["--preset", "smoke", "--threads=1", "--logging.tensorboard=false", "--seed", seed]
        assert rlkit("train", "dqn", "--env", "gym/CartPole-v1", *flags, cwd=path).returncode == 0
    return path


@pytest.mark.parametrize("command", IN_BLOCKS)
def test_commands_run(command, folder, monkeypatch):
    if command.startswith("rlkit "):
        check_rlkit(command, folder, monkeypatch)
    else:
        rule_for(command)(command, folder)


@pytest.mark.parametrize("command", MENTIONED)
def test_mentioned_commands_are_read(command, folder, monkeypatch):
    if command.startswith("rlkit "):
        check_mention(command, folder, monkeypatch)
    else:
        rule_for(command)(command, folder)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_flags_exist(page):
    for code in inline(page):
        if not code.startswith(("pip ", "tensorboard ", "ssh ")):
            check_flags(code)


def test_every_block_has_somebody_who_runs_it():
    for page in PAGES:
        for language, text in blocks(page):
            if language == "python":
                (test,) = [test for start, test in PYTHON.items() if name_of(page).startswith(start)]
                assert page.name in (ROOT / test).read_text() or "DOCS.glob" in (ROOT / test).read_text()
            elif language == "diff":  # what is to be added stands alone
                added = [line[1:] for line in text.splitlines() if line.startswith("+")]
                assert added
                exec("\n".join(added), {})
            else:
                assert language in ("bash", ""), f"{name_of(page)}: no rule says how to check a block of {language!r}"


def test_what_no_rule_covers_fails(monkeypatch, tmp_path):
    with pytest.raises(AssertionError, match="no rule says how to check 'make coffee'"):
        rule_for("make coffee")
    for code in ("--replay.capacitiy 3", "rlkit train --plan", "--intervention.redo.periode 3"):
        with pytest.raises(AssertionError, match="no option of a command"):
            check_flags(code)
    with pytest.raises(AssertionError, match="unknown option --vidoe"):
        check_rlkit("rlkit eval last --vidoe", tmp_path, monkeypatch)
    with pytest.raises(AssertionError, match=r"agent\.lr"):
        check_rlkit("rlkit train dqn --env tiny/one --agent.lr 1", tmp_path, monkeypatch)
    page = tmp_path / "page.md"
    page.write_text("```fish\nrlkit ls\n```\n")
    monkeypatch.setattr("tests.test_readme.PAGES", [page])
    monkeypatch.setattr("tests.test_readme.ROOT", tmp_path)
    with pytest.raises(AssertionError, match="block of 'fish'"):
        test_every_block_has_somebody_who_runs_it()


def test_the_commands_that_people_look_for_are_there():
    assert {"scripts/train", "scripts/test"} <= IN_BLOCKS.keys()
    words = {command.split()[1] for command in IN_BLOCKS if command.startswith("rlkit ")}
    assert words >= {"train", "ls", "resume", "eval", "doctor", "report", "compare", "dormancy", "replay"}
    for name in ("scripts/train", "scripts/test", ".ci/run"):
        assert os.access(ROOT / name, os.X_OK)
    assert "scripts/test" in (ROOT / ".ci" / "run").read_text()


def test_top_level_names_are_there():
    for name in ("pyproject.toml", "rlkit", "agents", "envs", "replay", "configs", "tests", "scripts"):
        assert (ROOT / name).exists()
    for name in ("agents", "envs", "replay", "configs"):
        assert (ROOT / name).resolve() == ROOT / "rlkit" / name


def test_every_linked_file_exists():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_pages_that_errors_name_exist():
    named = {m for p in (ROOT / "rlkit").rglob("*.py") for m in re.findall(r'see="(docs/[\w.]+)"', p.read_text())}
    assert named
    for page in named:
        assert (ROOT / page).exists(), page
