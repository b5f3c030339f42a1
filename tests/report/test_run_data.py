"""Run folders as reports read them."""

import json

import numpy as np
import pytest

from rlkit.core.errors import ConfigError
from rlkit.plasticity.measurement import LayerMeasurement, Measurement, Probe
from rlkit.plasticity.record import RecordWriter, read_record
from rlkit.plasticity.scores import DEFINITIONS
from rlkit.report.run_data import dormant, dormant_share, load_run, scored_units, without_undone

SCORES = np.array([[0.0, 0.01, 0.05, 0.2, np.nan]])


def make(path, record=True):
    path.mkdir()
    (path / "run.json").write_text(json.dumps({"format": 1, "agent": "dqn", "env": "gym/X", "seed": 3}))
    if record:
        writer = RecordWriter(path / "plasticity" / "record.bin", DEFINITIONS, Probe(8, "given"))
        for step in (0, 10):
            single = LayerMeasurement(1, 1, {"redo": np.zeros((1, 1))}, {})
            head = LayerMeasurement(2, 1, {"ace": np.ones((1, 2))} if step == 0 else {}, {})
            layers = {"net.a": LayerMeasurement(5, 1, {"redo": SCORES}, {}), "net.b": single, "net.head": head}
            writer.append(Measurement(step, step, "probe", layers))
        writer.close()
    return path


def test_shares_leave_out_what_has_no_score(tmp_path):
    (part,) = load_run(make(tmp_path / "run")).record.parts
    assert dormant(part, 0.025).tolist() == [[2, 1, 0]] * 2
    assert scored_units(part).tolist() == [[4, 1, 0]] * 2
    assert dormant_share(part, 0.025).tolist() == [0.5, 0.5]  # the layer of one unit does not count
    assert dormant_share(part, 0.1).tolist() == [0.75, 0.75]
    assert dormant_share(part, 0.07).tolist() == [0.75, 0.75]  # from codes
    assert dormant_share(part, 0.0, network="other").tolist() == pytest.approx([np.nan] * 2, nan_ok=True)
    ace = dormant(part, 0.1, "ace")
    assert ace.tolist() == [[0, 0, 0], [-1, -1, -1]]


def test_what_is_missing_is_said(tmp_path):
    data = load_run(make(tmp_path / "run", record=False))
    assert data.record.parts == []
    assert [line.split()[1] for line in data.missing] == ["line", "evaluation", "plasticity"]
    assert data.config == {}
    assert data.name == "dqn gym/X s3"


def test_a_cut_record_and_torn_logs_are_read_as_far_as_they_go(tmp_path):
    path = make(tmp_path / "run")
    (path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    (path / "config.yaml").write_text("a: [")
    record = path / "plasticity" / "record.bin"
    record.write_bytes(record.read_bytes()[:-5])
    data = load_run(path)
    assert data.metrics == [{"step": 1, "loss": 2.0}]
    assert data.record.parts[0].step.tolist() == [0]
    assert any("cut off" in line for line in data.missing)
    assert any("config.yaml" in line for line in data.missing)


def test_a_damaged_line_takes_no_other_with_it(tmp_path):
    """Two lines that a crash has run together, and bytes that are no text."""
    path = make(tmp_path / "run")
    (path / "ledger.jsonl").write_text(
        '{"step": 1, "kind": "a"}\n{"step": 2, "ki{"step": 3, "kind": "b"}\n{"step": 4, "kind": "c"}\n'
    )
    (path / "metrics.jsonl").write_bytes(b'{"step": 1}\n\xff\x00\n5\n[]\n{}\n{"step": 2}')
    data = load_run(path)
    assert [line["step"] for line in data.ledger] == [1, 4]
    assert [line["step"] for line in data.metrics] == [1, 2]
    assert data.missing[:2] == [
        "metrics.jsonl: 4 damaged, left out: lines 2, 3, 4, ...",
        "ledger.jsonl: 1 damaged, left out: line 2",
    ]


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"3", b"\xff"])
def test_a_damaged_run_json_is_no_run(text, tmp_path):
    (tmp_path / "run.json").write_bytes(text)
    with pytest.raises(ConfigError, match="is not a run folder"):
        load_run(tmp_path)


@pytest.mark.parametrize("text", [b"a: [", b"- 1", b"word", b"\xff"])
def test_a_damaged_config_is_said(text, tmp_path):
    path = make(tmp_path / "run")
    (path / "config.yaml").write_bytes(text)
    data = load_run(path)
    assert (data.config, data.missing[0]) == ({}, "config.yaml cannot be read")


def test_shares_of_one_network(tmp_path):
    path = tmp_path / "record.bin"
    writer = RecordWriter(path, DEFINITIONS, Probe(8, "given"))
    low = {
        name: LayerMeasurement(4, 1, {"redo": np.array([[0.0] * n + [1.0] * (4 - n)])}, {})
        for name, n in (("net", 1), ("net.a", 2), ("network.a", 4))
    }
    writer.append(Measurement(0, 0, "probe", low))
    writer.close()
    (part,) = read_record(path).parts
    measured = Measurement(0, 0, "probe", low)
    for network in (None, "net", "network", "net.a"):
        share = dormant_share(part, 0.025, network=network)
        assert share.tolist() == [measured.dormant_fraction(0.025, network=network)]


def test_no_run_folder(tmp_path):
    with pytest.raises(ConfigError, match="is not a run folder"):
        load_run(tmp_path)


def test_what_a_resume_went_back_behind_is_left_out():
    ledger = [
        {"step": 5, "kind": "a"},
        {"step": 10, "kind": "checkpoint"},
        {"step": 12, "kind": "b"},
        {"step": 10, "kind": "resume", "checkpoint": 10},
        {"step": 12, "kind": "b"},
    ]
    assert without_undone(ledger) == [*ledger[:2], *ledger[3:]]
