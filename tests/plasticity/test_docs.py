"""The examples of docs/plasticity.md and plasticity_record.md that need no other library run as they stand there."""

import re
from pathlib import Path

import pytest

from rlkit.plasticity.interventions import INTERVENTIONS
from rlkit.plasticity.measurement import LAYER_METRICS, RUN_METRICS
from rlkit.plasticity.record import read_record
from rlkit.plasticity.scores import DEFINITIONS

DOCS = Path(__file__).parents[2] / "docs"


def examples(page):
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def run(code, name):
    exec(compile(re.sub(r"\b20_000\b", "1_000", code), name, "exec"), {"__name__": name})


def test_loops_write_records(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    plain, cleanrl, sb3 = examples("plasticity.md")
    for code in (plain, cleanrl):
        run(code, "docs/plasticity.md")
    assert "stable_baselines3" in sb3  # tests/plugins runs it
    for path in ("runs/plain/s0", "runs/cleanrl-dqn/s1"):
        record = read_record(tmp_path / path / "plasticity" / "record.bin")
        assert record.damage == ""
        assert len(record.parts[0].step) >= 10
        assert {"ace", "redo"} <= {name for name, there in record.parts[0].present.items() if there.all()}
    for code in examples("plasticity_record.md"):
        run(code, "docs/plasticity_record.md")
    assert "[" in capsys.readouterr().out


@pytest.mark.parametrize("name", [*INTERVENTIONS, *DEFINITIONS, *LAYER_METRICS, *(n for n in RUN_METRICS if "_" in n)])
def test_everything_is_in_the_page(name):
    text = (DOCS / "plasticity.md").read_text()
    assert name in text or name.startswith("interval_") or name.endswith(("_churn", "_relative"))
