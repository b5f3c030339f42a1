"""Dormancy as text: strips, numbers, what was done."""

import json

import numpy as np
import pytest

from rlkit.core.errors import ConfigError
from rlkit.plasticity.measurement import LayerMeasurement, Measurement, Probe
from rlkit.plasticity.record import RecordWriter
from rlkit.plasticity.scores import DEFINITIONS
from rlkit.report.run_data import load_run
from rlkit.report.terminal import dormancy_lines
from tests.report.runs import make_run


def record(path, shares):
    """A run whose probes have these dormant shares by layer, [(layer, tenths), ...] each."""
    run = make_run(path)
    writer = RecordWriter(path / "plasticity" / "record.bin", DEFINITIONS, Probe(8, "given"))
    for step, layers in enumerate(shares):
        found = {
            name: LayerMeasurement(10, 1, {"redo": np.array([[0.0] * tenths + [1.0] * (10 - tenths)])}, {})
            for name, tenths in layers
        }
        writer.append(Measurement(step, step, "probe", found))
    writer.close()
    return run


def strips(lines):
    return {line.split("  ")[0].strip(): line for line in lines[2:]}


def test_blocks_and_digits(tmp_path):
    run = load_run(record(tmp_path / "run", [[("net.a", tenths)] for tenths in range(11)]))
    lines = strips(dormancy_lines(run, 0.025))
    assert lines["net.a"] == "net.a   ▁▂▃▄▄▅▆▇██  100.0 %     10 of 10"
    lines = strips(dormancy_lines(run, 0.025, blocks=False))
    assert lines["net.a"] == "net.a  01234567899  100.0 %     10 of 10"


def test_the_strip_fits_the_terminal_and_keeps_peaks(tmp_path):
    run = load_run(record(tmp_path / "run", [[("net.a", 9 if step == 37 else 0)] for step in range(100)]))
    lines = strips(dormancy_lines(run, 0.025, columns=60, blocks=False))
    assert all(len(line) <= 60 for line in lines.values())
    assert lines["net.a"].split()[1].strip("0") == "9"


def test_a_network_that_was_extended_is_one_history(tmp_path):
    first, second = [("net.a", 5), ("old", 2)], [("net.a", 6), ("new", 10)]
    lines = strips(dormancy_lines(load_run(record(tmp_path / "run", [first, first, second])), 0.025, blocks=False))
    assert lines["net.a"].split()[1:] == ["556", "60.0", "%", "6", "of", "10"]
    assert lines["old"].split(maxsplit=2)[1:] == ["22-", "not in the network now"]
    assert lines["new"].split()[1:] == ["--9", "100.0", "%", "10", "of", "10"]
    assert lines["all"].split()[1:] == ["338", "80.0", "%", "16", "of", "20"]


def test_another_number_of_states_is_said(tmp_path):
    path = make_run(tmp_path / "run", probes=3, batch=32)
    make_run(tmp_path / "other", probes=3, batch=64)
    record = path / "plasticity" / "record.bin"
    assert not any("states" in line for line in dormancy_lines(load_run(path), 0.025))
    record.write_bytes(record.read_bytes() + (tmp_path / "other" / "plasticity" / "record.bin").read_bytes())
    lines = dormancy_lines(load_run(path), 0.025)
    assert lines[2] == "probes of 32, then 64 states: fewer states find more units dormant at 0"


def test_what_was_done_is_counted(tmp_path):
    path = record(tmp_path / "run", [[("net.a", 0)]])
    ledger = [
        {"step": 5, "updates": 9, "kind": "redo", "intervention": "redo", "layer": "net.a", "units": [[1, 2], [3]]},
        {"step": 5, "updates": 9, "kind": "redo", "intervention": "redo", "layer": "net.b", "units": [[4]]},
        {"step": 5, "updates": 10, "kind": "redo", "intervention": "redo", "layer": "net.b", "units": [[5]]},
        {"step": 7, "updates": 12, "kind": "full_reset", "intervention": "full_reset", "parameters": []},
        {"step": 8, "updates": 12, "kind": "checkpoint"},
    ]
    (path / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in ledger))
    assert dormancy_lines(load_run(path), 0.025)[-2:] == ["redo: 2 times, 5 units started anew", "full_reset: 1 time"]


def test_scores_that_are_not_there(tmp_path):
    run = load_run(record(tmp_path / "run", [[("net.a", 0)]]))
    for score in ("ace", "nonsense"):  # one has a definition, but no probe has it
        with pytest.raises(ConfigError) as error:
            dormancy_lines(run, 0.025, score)
        assert "there are: redo." in error.value.why
