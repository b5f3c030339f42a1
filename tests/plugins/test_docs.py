"""The examples of docs/plugins run as they stand there, with fewer steps."""

import re
import warnings
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs" / "plugins"
PAGES = sorted(path for path in DOCS.glob("*.md") if path.name != "README.md")
EXAMPLES = [
    pytest.param(page.stem, code, id=f"{page.stem}-{i}")
    for page in PAGES
    for i, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
]


@pytest.mark.parametrize(("page", "code"), EXAMPLES)
def test_examples_run(page, code, tmp_path, monkeypatch, request):
    request.getfixturevalue({"tianshou": "uncompiled_tianshou", "torch_data": "forked_workers"}.get(page, "tmp_path"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # of other people's code
        exec(compile(re.sub(r"\b\d+_000\b", "320", code), f"docs/plugins/{page}.md", "exec"), {"__name__": page})


def test_every_adapter_has_a_page_with_an_example():
    adapters = {path.stem for path in (DOCS.parents[1] / "rlkit/replay/adapters").glob("*.py")} - {"__init__", "slots"}
    assert {page.stem for page in PAGES} == adapters == {param.values[0] for param in EXAMPLES}
    overview = (DOCS / "README.md").read_text()
    for name in adapters:
        assert f"({name}.md)" in overview
        assert f"`rlkit.replay.adapters.{name}`" in overview


def test_stable_baselines_scripts_are_short():
    scripts = [param.values[1] for param in EXAMPLES if param.values[0] == "sb3"]
    assert any("SAC(" in script for script in scripts)
    assert any("= DQN(" in script for script in scripts)
    for script in scripts:
        assert len(script.strip().splitlines()) <= 15


def test_links_lead_somewhere():
    adapters = DOCS.parents[1] / "rlkit/replay/adapters"
    named = {m for p in adapters.glob("*.py") for m in re.findall(r"docs/plugins/[\w.]+md", p.read_text())}
    assert len(named) == len(PAGES) + 1
    for page in named:
        assert (DOCS.parents[1] / page).exists(), page
    for page in DOCS.glob("*.md"):
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
