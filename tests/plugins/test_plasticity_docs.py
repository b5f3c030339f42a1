"""The Stable-Baselines3 example of docs/plasticity.md."""

import re
import warnings
from pathlib import Path

from rlkit.plasticity.record import read_record

PAGE = Path(__file__).parents[2] / "docs" / "plasticity.md"


def test_the_callback_writes_a_record(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = [c for c in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "stable_baselines3" in c]
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # of other people's code
        exec(compile(re.sub(r"\b2_000\b", "320", code), "docs/plasticity.md", "exec"), {"__name__": "docs"})
    (part,) = read_record(tmp_path / "runs/sb3-sac/s0/plasticity/record.bin").parts
    assert part.step.tolist() == list(range(120, 321, 20))
    assert [layer.name for layer in part.layers] == ["0", "2", "4"]
    assert (part.layer_metrics["update_ratio"] != part.layer_metrics["update_ratio"]).all()  # not asked for: NaN
