"""A record as a page shows it: joined, pooled in time, counted at stops, followed after resets."""

import itertools
import json
import zlib
from base64 import b64decode

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rlkit.core import score_codec
from rlkit.plasticity.measurement import LayerMeasurement, Measurement, Probe
from rlkit.plasticity.record import RecordLayer, RecordWriter, read_record
from rlkit.plasticity.scores import DEFINITIONS
from rlkit.report.blobs import Blobs, to_json
from rlkit.report.history import (
    EXACT,
    LAGS,
    STOPS,
    bin_edges,
    counts_at_stops,
    hidden_layers,
    joined,
    main_score,
    most_dormant,
    resets,
    stop_threshold,
    survival,
)


def record_of(path, rows, kinds=None, name="net.a"):
    """One layer; a row of scores for each probe, 10 gradient steps apart; a "post" is at the step of its "pre"."""
    writer = RecordWriter(path, DEFINITIONS, Probe(8, "given"))
    step = 0
    for t, row in enumerate(rows):
        kind = kinds[t] if kinds else "probe"
        step += 0 if kind == "post" else 10
        layer = LayerMeasurement(len(row), 1, {"redo": np.array([row], float)}, {"srank": np.array([float(t)])})
        writer.append(Measurement(step, step, kind, {name: layer}))
    writer.close()
    return read_record(path)


def test_stops_are_zero_the_exact_thresholds_and_edges_of_codes():
    assert [stop_threshold(code) for code in EXACT] == [0.0, 0.025, 0.1]
    assert set(EXACT) <= set(STOPS)
    assert stop_threshold(108) == pytest.approx(0.010580, rel=1e-4)  # plasticity.md 5.1
    thresholds = [stop_threshold(code) for code in STOPS]
    assert thresholds == sorted(thresholds)
    assert thresholds[1] > 0.001
    assert thresholds[-1] == pytest.approx(0.9576, rel=1e-3)


@given(st.integers(0, 700), st.integers(1, 50))
def test_bins_are_nearly_equal_and_leave_nothing_out(count, most):
    sizes = np.diff(bin_edges(count, most))
    assert sizes.sum() == count
    assert len(sizes) == min(count, most)
    assert count == 0 or (sizes.min() >= 1 and sizes.max() - sizes.min() <= 1)


@given(arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 4))), st.integers(1, 25))
def test_pooling_keeps_the_most_dormant_score_of_each_unit(codes, most):
    edges = bin_edges(len(codes), most)
    pooled = most_dormant(codes, edges)
    for unit in range(codes.shape[1]):
        for k, (first, end) in enumerate(itertools.pairwise(edges)):
            assert pooled[unit, k] == min(codes[t][unit] for t in range(first, end))


@given(arrays(np.uint8, st.tuples(st.integers(1, 6), st.just(7))))
def test_counts_at_stops_add_up_to_counts_at_each_threshold(codes):
    layers = [RecordLayer("a", 0, 3, 0), RecordLayer("b", 0, 4, 3)]
    found = counts_at_stops(codes, layers)
    for t in range(len(codes)):
        for i, layer in enumerate(layers):
            mine = codes[t, layer.first : layer.first + layer.units]
            assert found[t, i].sum() == (mine != score_codec.NOT_FINITE).sum()
            for s, code in enumerate(STOPS):
                assert found[t, i, : s + 1].sum() == (mine <= code).sum()


def test_parts_with_other_layers_become_one_history(tmp_path):
    path = tmp_path / "record.bin"
    record_of(path, [[0.0, 1.0], [0.5, 1.0]])
    record_of(path, [[0.2, 0.3, 2.0]], name="net.b")
    record = read_record(path)
    assert len(record.parts) == 2
    history, remarks = joined(record)
    assert remarks == []
    assert [(row.name, row.units, row.first) for row in history.layers] == [("net.a", 2, 0), ("net.b", 3, 2)]
    assert history.codes["redo"].tolist() == [
        [0, 161, 255, 255, 255],
        [153, 161, 255, 255, 255],
        [255, 255, 142, 147, 169],
    ]
    assert history.counts["redo"][:, :, 0].tolist() == [[1, 0], [0, 0], [0, 0]]
    srank = [[0, np.nan], [1, np.nan], [np.nan, 0]]
    assert np.array_equal(history.layer_metrics["srank"], srank, equal_nan=True)
    assert history.kind == ["probe"] * 3
    assert main_score(history) == "redo"
    assert hidden_layers(history, "redo") == [0, 1]


def test_parts_with_other_definitions_are_left_out_and_said(tmp_path):
    path = tmp_path / "record.bin"
    writer = RecordWriter(path, {"ace": DEFINITIONS["ace"]}, Probe(8, "given"))
    writer.append(Measurement(0, 0, "probe", {"net.a": LayerMeasurement(1, 1, {"ace": np.ones((1, 1))}, {})}))
    writer.close()
    record_of(path, [[0.0, 1.0]])
    history, remarks = joined(read_record(path))
    assert history.step.tolist() == [10]
    assert remarks == ["1 parts of the record have other definitions; they are left out"]


def test_an_empty_record_has_no_history(tmp_path):
    assert joined(read_record(tmp_path / "none")) == (None, [])


def test_resets_are_found_in_the_ledger_whatever_else_is_in_it(tmp_path):
    history, _ = joined(record_of(tmp_path / "r", [[1.0, 1.0, 1.0]]))
    ledger = [
        {"step": 1, "updates": 10, "kind": "redo", "layer": "net.a", "units": [[0, 2]]},
        {"step": 1, "updates": 10, "kind": "redo", "layer": "gone", "units": [[0]]},
        {"step": 1, "updates": 10, "kind": "redo", "layer": "net.a", "units": [[], [1]]},  # a copy that is not there
        {"step": 1, "updates": 20, "kind": "redo", "layer": "net.a", "units": [[1, 7]]},  # 7 is no unit of it
        {"step": 1, "updates": 20, "kind": "full_reset", "units": "all"},
        {"step": 1, "updates": 10, "kind": "regrama", "layer": "net.a", "units": [[2]]},  # the same unit at that moment
    ]
    found = resets(history, ledger)
    assert found.unit.tolist() == [0, 2, 1]
    assert found.updates.tolist() == [10, 10, 20]


def test_survival_after_resets_by_hand(tmp_path):
    # Updates 10 pre (units 0, 1 started anew), 10 post, 20, 30 pre (unit 0 again), 30 post, 40.
    rows = [[0, 0, 1, 1], [1, 1, 1, 1], [0, 1, 0, 1], [0, 1, 1, 1], [1, 1, 1, 1], [1, 0.1, 1, np.nan]]
    history, _ = joined(record_of(tmp_path / "r", rows, ["pre", "post", "probe", "pre", "post", "end"]))
    ledger = [
        {"step": 10, "updates": 10, "kind": "redo", "layer": "net.a", "units": [[0, 1]]},
        {"step": 30, "updates": 30, "kind": "redo", "layer": "net.a", "units": [[0]]},
    ]
    kept, again, others = survival(history, "redo", resets(history, ledger))
    assert LAGS[:3] == (1, 2, 3)
    dormant = lambda counts, k: int(counts[k, 0, : STOPS.index(134) + 1].sum())  # noqa: E731
    # 1 probe later: at 20 unit 0 is dormant and 1 is not; after the reset at 30, at 40, unit 0 is not.
    assert (kept[0].sum(), dormant(kept, 0), again[0].sum()) == (3, 1, 0)
    # others at 20: units 2 (dormant) and 3; at 40: 1 (dormant), 2, and 3 has no score.
    assert (others[0].sum(), dormant(others, 0)) == (4, 2)
    # 2 probes later: at 30, before the reset there: unit 0 dormant, 1 not.
    assert (kept[1].sum(), dormant(kept, 1), again[1].sum()) == (2, 1, 0)
    # 3 probes later: at 40: unit 0 had been started anew again, unit 1 is at 0.1.
    assert (kept[2].sum(), dormant(kept, 2), again[2].sum()) == (1, 1, 1)
    assert kept[3:].sum() == again[3:].sum() == others[3:].sum() == 0


@given(arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 7))), st.booleans())
def test_blobs_are_what_was_put_in(array, differences):
    blobs = Blobs()
    blob = blobs.add(array, differences=differences)
    values = np.frombuffer(opened(blobs, blob), np.uint8).reshape(blob["shape"])
    if differences:
        values = np.cumsum(values, axis=-1, dtype=np.uint8)
    assert values.tolist() == array.tolist()


def test_blobs_of_wide_numbers_come_byte_by_byte():
    blobs = Blobs()
    array = np.array([[1.5, np.nan], [-3.25, 1e-30]], np.float32)
    blob = blobs.add(array)
    planes = np.frombuffer(opened(blobs, blob), np.uint8).reshape(4, -1)
    assert np.array_equal(np.ascontiguousarray(planes.T).view("<f4").reshape(2, 2), array, equal_nan=True)
    assert (blob["type"], blob["shape"]) == ("float32", [2, 2])


def opened(blobs, blob):
    text = blobs.html().splitlines()[blob["blob"]]
    return zlib.decompress(b64decode(text.split(">")[1].split("<")[0]))


def test_json_cannot_end_its_script_element():
    assert "</script>" not in to_json({"name": "</script><b>"})
    assert json.loads(to_json({"name": "</script><b>"})) == {"name": "</script><b>"}
