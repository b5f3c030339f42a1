"""The record: what was measured comes back, whatever happens to the end of the file."""

import math
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlkit.core import score_codec
from rlkit.core.errors import ConfigError, ResumeError
from rlkit.plasticity.measurement import THRESHOLDS, LayerMeasurement, Measurement, Probe
from rlkit.plasticity.record import KINDS, RecordWriter, read_record
from rlkit.plasticity.scores import DEFINITIONS

PROBE = Probe(256, "replay, uniform, fresh", 7)


def measurement(step, *, layers=(("a", 5, 1), ("b", 3, 2), ("head", 2, 2)), full=True, seed=0, kind="probe", **metrics):
    rng = np.random.default_rng([seed, step])
    found = {}
    for name, units, copies in layers:
        scores = {}
        if name != "head":
            scores["redo"] = np.where(rng.random((copies, units)) < 0.3, 0, rng.lognormal(-2, 3, (copies, units)))
            scores["mean_activation"] = -np.ones((copies, units))  # has no definition
        if full:
            scores["ace"] = rng.random((copies, units))
        extra = {"srank": rng.integers(1, 9, copies).astype(float)} if full and name != "head" else {}
        found[name] = LayerMeasurement(units, copies, scores, {"weight_norm": rng.random(copies)} | extra)
    return Measurement(step, step // 2, kind, found, metrics)


def write(path, measurements):
    writer = RecordWriter(path, DEFINITIONS, PROBE)
    for each in measurements:
        writer.append(each)
    writer.close()


def check(part, measurements):
    """Every number of `part` against the measurements that it was made from."""
    assert part.step.tolist() == [m.step for m in measurements]
    assert part.updates.tolist() == [m.updates for m in measurements]
    assert part.kind == [m.kind for m in measurements]
    for t, m in enumerate(measurements):
        for i, row in enumerate(part.layers):
            layer = m.layers[row.name]
            for score in part.scores:
                codes = part.codes[score][t, row.first : row.first + row.units]
                if score in layer.scores:
                    values = layer.scores[score][row.copy]
                    assert (codes == score_codec.encode(values)).all()
                    expected = [sum(v <= threshold for v in values) for threshold in THRESHOLDS]
                    assert part.counts[score][t, i].tolist() == expected
                else:
                    assert (codes == 255).all()
                    assert not part.counts[score][t, i].any()
            for name, values in part.layer_metrics.items():
                wanted = layer.metrics[name][row.copy] if name in layer.metrics else math.nan
                np.testing.assert_equal(values[t, i], np.float32(wanted))
        for name, values in part.run_metrics.items():
            np.testing.assert_equal(values[t], np.float32(m.metrics.get(name, math.nan)))
        for score, there in part.present.items():
            assert there[t] == any(score in layer.scores for layer in m.layers.values())


def test_everything_comes_back(tmp_path):
    path = tmp_path / "plasticity" / "record.bin"
    taken = [
        measurement(0, kind="start"),
        measurement(10, full=False),
        measurement(20, kind="pre", policy_churn=0.25),
        measurement(20, kind="post", full=False),
        measurement(30, kind="end"),
    ]
    write(path, taken)
    record = read_record(path)
    (part,) = record.parts
    assert record.damage == ""
    assert [(layer.name, layer.copy, layer.units, layer.first) for layer in part.layers] == [
        ("a", 0, 5, 0),
        ("b", 0, 3, 5),
        ("b", 1, 3, 8),
        ("head", 0, 2, 11),
        ("head", 1, 2, 13),
    ]
    assert part.definitions == DEFINITIONS
    assert part.probe == PROBE
    check(part, taken)


def test_another_network_starts_another_part(tmp_path):
    path = tmp_path / "record.bin"
    other = (("a", 5, 1), ("c", 4, 1))
    taken = [measurement(0), measurement(1), measurement(2, layers=other), measurement(3, layers=other, full=False)]
    write(path, taken)
    first, second = read_record(path).parts
    check(first, taken[:2])
    check(second, taken[2:])


def test_an_unknown_metric_starts_another_part_and_keeps_it(tmp_path):
    path = tmp_path / "record.bin"
    write(path, [measurement(0), measurement(1, something=3.0)])
    first, second = read_record(path).parts
    assert "something" not in first.run_metrics
    assert second.run_metrics["something"].tolist() == [3.0]


def test_a_file_cut_anywhere_keeps_all_whole_measurements(tmp_path):
    path = tmp_path / "record.bin"
    taken = [measurement(0), measurement(1, full=False), measurement(2, layers=(("a", 4, 1),))]
    ends = []
    for count in range(len(taken) + 1):
        path.unlink(missing_ok=True)
        write(path, taken[:count])
        ends.append(path.stat().st_size)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        record = read_record(path)
        left = sum(end <= size for end in ends) - 1
        assert sum(len(part.step) for part in record.parts) == left
        if size not in (*ends, 0) and record.damage:
            assert "cut off" in record.damage
        if size % 9 and min(abs(size - end) for end in ends) > 12:
            continue  # writing at every place would take long
        writer = RecordWriter(path, DEFINITIONS, PROBE)  # goes on behind the last whole frame
        writer.append(taken[-1])
        writer.close()
        record = read_record(path)
        assert record.damage == ""
        assert [int(s) for part in record.parts for s in part.step] == [*[0, 1][:left], 2]


def test_other_states_start_another_part(tmp_path):
    """A run that goes on with other settings: counts of dormant units depend on the number of states."""
    path = tmp_path / "record.bin"
    write(path, [measurement(0)])
    for probe in (Probe(512, PROBE.source, 7), Probe(512, PROBE.source, 7)):
        writer = RecordWriter(path, DEFINITIONS, probe)
        writer.append(measurement(writer.path.stat().st_size))
        writer.close()
    first, second = read_record(path).parts
    assert (first.probe.batch, len(first.step)) == (256, 1)
    assert (second.probe.batch, len(second.step)) == (512, 2)


def test_other_definitions_start_another_part(tmp_path):
    path = tmp_path / "record.bin"
    write(path, [measurement(0)])
    writer = RecordWriter(path, {"redo": DEFINITIONS["redo"]}, PROBE)
    writer.append(measurement(1))
    writer.close()
    first, second = read_record(path).parts
    assert (len(first.scores), second.scores) == (len(DEFINITIONS), ("redo",))


def test_a_flipped_byte_anywhere_ends_the_reading_there(tmp_path):
    path, ends = tmp_path / "record.bin", []
    for count in (1, 2, 3):
        path.unlink(missing_ok=True)
        write(path, [measurement(step) for step in range(count)])
        ends.append(path.stat().st_size)
    whole = path.read_bytes()
    for place in range(ends[0], ends[1]):
        for bit in (1, 128):
            content = bytearray(whole)
            content[place] ^= bit
            path.write_bytes(content)
            record = read_record(path)
            assert [part.step.tolist() for part in record.parts] == [[0]]
            assert record.damage.startswith(f"frame 2, at byte {ends[0]:,}, is ")


def test_a_flipped_byte_is_said(tmp_path):
    path = tmp_path / "record.bin"
    write(path, [measurement(0)])
    first = path.stat().st_size
    path.unlink()
    write(path, [measurement(0), measurement(1), measurement(2)])
    content = bytearray(path.read_bytes())
    content[first + 40] ^= 1
    path.write_bytes(content)
    record = read_record(path)
    assert [part.step.tolist() for part in record.parts] == [[0]]
    assert record.damage == f"frame 2, at byte {first:,}, is damaged; it and all after it are left out"


MEASUREMENT = struct.Struct("<cBQQI")


@pytest.mark.parametrize(
    "frame",
    [
        b"M" + bytes(40),
        b"M",
        b"?" + bytes(40),
        MEASUREMENT.pack(b"M", len(KINDS), 1, 1, 0) + bytes(5 * 22 * 4 + 8 * 4),  # a kind that there is not
        MEASUREMENT.pack(b"M", 0, 1, 1, 1 << 31) + bytes(15 + 5 * 12 + 5 * 22 * 4 + 8 * 4),  # a score, likewise
    ],
)
def test_a_frame_that_does_not_fit_its_table_is_said(frame, tmp_path):
    path = tmp_path / "record.bin"
    write(path, [measurement(0)])
    with path.open("ab") as file:
        file.write(struct.pack("<I", len(frame)) + frame + struct.pack("<I", zlib.crc32(frame)))
    record = read_record(path)
    assert len(record.parts[0].step) == 1
    assert "does not fit" in record.damage


def test_a_record_of_another_release_is_read_as_far_as_it_goes_and_not_continued(tmp_path):
    path = tmp_path / "record.bin"
    write(path, [measurement(0)])
    frame = b'T{"format": 2}'
    with path.open("ab") as file:
        file.write(struct.pack("<I", len(frame)) + frame + struct.pack("<I", zlib.crc32(frame)))
    before = path.read_bytes()
    record = read_record(path)
    assert len(record.parts[0].step) == 1
    assert "format 2; this release reads format 1" in record.damage
    with pytest.raises(ResumeError, match="cannot be continued"):
        RecordWriter(path, DEFINITIONS, PROBE)
    assert path.read_bytes() == before


def test_an_unknown_kind_is_refused_and_nothing_is_written(tmp_path):
    writer = RecordWriter(tmp_path / "record.bin", DEFINITIONS, PROBE)
    with pytest.raises(ConfigError) as error:
        writer.append(measurement(0, kind="prob"))
    assert "allowed: start, probe, pre, post, end. Did you mean 'probe'?" in str(error.value)
    writer.append(measurement(1))
    assert read_record(writer.path).parts[0].step.tolist() == [1]
    writer.close()


def test_no_file_and_an_empty_file(tmp_path):
    assert read_record(tmp_path / "none").parts == []
    (tmp_path / "empty").touch()
    assert read_record(tmp_path / "empty") == read_record(tmp_path / "none")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.booleans(), st.booleans()),
            st.tuples(st.just("cut"), st.integers(0, 12), st.just(0)),
            st.tuples(st.just("open again"), st.just(0), st.just(0)),
        ),
        max_size=14,
    )
)
def test_writer_equals_a_list(tmp_path_factory, operations):
    path = tmp_path_factory.mktemp("record") / "record.bin"
    writer, kept, step = RecordWriter(path, DEFINITIONS, PROBE), [], 0
    for name, one, two in operations:
        if name == "append":
            layers = (("a", 5, 1), ("head", 2, 1)) if two else (("a", 4, 2),)
            kept.append(measurement(step, full=one, layers=layers))
            writer.append(kept[-1])
            step += 1
        elif name == "cut":
            writer.cut_after(one)
            kept = [m for m in kept if m.step <= one]
            step = min(step, one + 1)
        else:
            writer.close()
            writer = RecordWriter(path, DEFINITIONS, PROBE)
        record = read_record(path)  # also while it is open for writing
        assert record.damage == ""
        assert [int(s) for part in record.parts for s in part.step] == [m.step for m in kept]
    rest = list(kept)
    for part in read_record(path).parts:
        check(part, rest[: len(part.step)])
        rest = rest[len(part.step) :]
    writer.close()


NATURE = (("conv1", 32, 1), ("conv2", 64, 1), ("conv3", 64, 1), ("fc", 512, 1), ("head", 18, 1))
SAC = (
    *(("actor.0", 256, 1), ("actor.1", 256, 1), ("actor.head", 12, 1)),
    *(("critic.0", 256, 2), ("critic.1", 256, 2), ("critic.head", 1, 2)),
)


@pytest.mark.parametrize(("layers", "light", "full"), [(NATURE, 2_752, 4_252), (SAC, 5_828, 9_144)])
def test_size_of_a_thousand_probes(layers, light, full, tmp_path):
    """The arithmetic of docs/plasticity_record.md; the limit is 20 MB."""
    path = tmp_path / "record.bin"
    rng = np.random.default_rng(0)
    writer = RecordWriter(path, DEFINITIONS, PROBE)
    for step in range(1_000):
        found = {}
        for name, units, copies in layers:
            names = ["redo", "redo_centred", "active_share"] if "head" not in name else []
            names += ["ace", "grama"] if step % 4 == 0 else []
            found[name] = LayerMeasurement(units, copies, {n: rng.random((copies, units)) for n in names}, {})
        writer.append(Measurement(step, step, "probe", found))
    writer.close()
    content = 750 * light + 250 * full
    assert content < path.stat().st_size < content + 5_000 < 20e6  # and the table
    assert len(read_record(path).parts[0].step) == 1_000
    page = (Path(__file__).parents[2] / "docs" / "plasticity_record.md").read_text()
    assert all(text in page for text in (f"{light:,}", f"{full:,}", f"{content / 1e6:.1f} MB"))


@pytest.mark.parametrize("kind", KINDS)
def test_kinds(kind, tmp_path):
    write(tmp_path / "record.bin", [measurement(0, kind=kind)])
    assert read_record(tmp_path / "record.bin").parts[0].kind == [kind]
