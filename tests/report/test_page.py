"""The report without a browser: its words, its files, its errors."""

import json
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest

from rlkit.cli import report as command
from rlkit.core.errors import ConfigError
from rlkit.plasticity.measurement import LayerMeasurement, Measurement, Probe
from rlkit.plasticity.record import RecordWriter
from rlkit.plasticity.scores import DEFINITIONS
from rlkit.report.blobs import Blobs
from rlkit.report.history import joined
from rlkit.report.page import PLOTLY, build_page, write_report
from rlkit.report.run_data import dormant_share, load_run
from rlkit.report.sections import comparison, run_sections
from rlkit.report.server import ReportServer
from rlkit.report.verdict import definition_in_words, verdict
from tests.report.made_up import SAC, make_run, write_lines


def words_of(path):
    run = load_run(path)
    found = verdict(run, joined(run.record)[0])
    return found.headline, " ".join(found.sentences)


def by_hand(path, rows, ledger=()):
    """A run with one layer of four units; rows: (kind, gradient step, scores)."""
    path.mkdir()
    (path / "run.json").write_text(json.dumps({"format": 1, "agent": "dqn", "env": "gym/X", "seed": 0}))
    writer = RecordWriter(path / "plasticity" / "record.bin", DEFINITIONS, Probe(8, "given"))
    for kind, step, scores in rows:
        layer = LayerMeasurement(4, 1, {"redo": np.array([scores], float)}, {})
        writer.append(Measurement(step, step, kind, {"net.a": layer}))
    writer.close()
    write_lines(path / "ledger.jsonl", list(ledger))
    return path


def test_the_verdict_by_hand(tmp_path):
    rows = [
        ("start", 0, [1, 1, 1, 1]),
        ("pre", 10, [0, 0, 1, 1]),
        ("post", 10, [1, 1, 1, 1]),
        ("probe", 20, [0, 0.1, 0.05, 1]),
        ("probe", 30, [0, 1, 1, 1]),
    ]
    event = {"step": 10, "updates": 10, "kind": "redo", "intervention": "redo", "layer": "net.a", "units": [[0, 1]]}
    headline, text = words_of(by_hand(tmp_path / "run", rows, [event]))
    assert headline == "About 1 unit in 4 is dormant, most of them in net.a."
    assert "At the last probe (env step 30, gradient step 30) 1 of 4 hidden units, 25.0 %, score at most 0.1." in text
    assert "net.a has 1 (25.0 % of its 4)." in text
    assert "At the first probe it was 0.0 %, at most 75.0 % (env step 20)." in text
    assert "It has stayed above half of its present value since env step 10." in text
    assert "Cures that acted: redo 1 time; 2 units were started anew." in text
    assert "the dormant share went from 50.0 % to 0.0 % (mean of 1 treatment)." in text
    assert "2 probes later, 50.0 % of 2 were dormant or had been started anew again" in text
    assert "of the others in these layers 0.0 % were dormant." in text


@pytest.mark.parametrize(
    ("scores", "headline"),
    [
        ([1, 1, 1, 1], "No hidden unit is dormant."),
        ([0, 0, 0, 0], "All units are dormant, most of them in net.a."),
        ([0, 0, 1, 1], "50.0 % of the units are dormant, most of them in net.a."),
        ([np.nan] * 4, "Nothing can be said about dormant units: no unit has a finite score."),
    ],
)
def test_headlines(tmp_path, scores, headline):
    assert words_of(by_hand(tmp_path / "run", [("probe", 5, scores)]))[0] == headline


def test_what_is_right_after_a_cure_is_no_verdict(tmp_path):
    rows = [("probe", 5, [0, 1, 1, 1]), ("pre", 10, [0, 0, 1, 1]), ("post", 10, [1, 1, 1, 1])]
    path = by_hand(tmp_path / "run", rows)
    headline, text = words_of(path)
    assert headline.startswith("50.0 %")
    assert "at most 50.0 % (env step 10)" in text
    shares = [row["values"] for row in comparison([load_run(path)] * 2)["dormant"] if row["threshold"] == 0.1]
    assert shares == [[0.5, 0.5]]


def test_the_largest_part_is_not_most(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(json.dumps({"format": 1, "agent": "dqn", "env": "gym/X", "seed": 0}))
    with_one = LayerMeasurement(8, 1, {"redo": np.array([[0.0] + [1.0] * 7])}, {})
    writer = RecordWriter(tmp_path / "run" / "plasticity" / "record.bin", DEFINITIONS, Probe(8, "given"))
    writer.append(Measurement(5, 5, "probe", {f"net.{name}": with_one for name in "abc"}))
    writer.close()
    headline = words_of(tmp_path / "run")[0]
    assert headline == "About 1 unit in 8 is dormant, the largest part of them in net.a."


def test_cures_that_leave_no_line_are_named(tmp_path):
    path = by_hand(tmp_path / "run", [("probe", 5, [0, 1, 1, 1])])
    (path / "config.yaml").write_text("plasticity: {interventions: [l2_init]}\n")
    text = words_of(path)[1]
    assert "l2_init left no line in the ledger" in text
    assert "No cure was applied" not in text


def test_a_run_without_cures_says_so(tmp_path):
    assert "No cure was applied." in words_of(make_run(tmp_path / "run", cure=False))[1]


def test_the_definition_is_printed_in_words():
    text = definition_in_words(DEFINITIONS["redo"], Probe(256, "replay, fresh", 7))
    assert text == (
        "A unit is dormant if its score is at most the threshold τ. The score (redo, version 1) is |h| after the "
        "activation, mean over samples and positions, divided by the layer mean + 1e-9; hidden layers. Each probe "
        "takes 256 states (replay, fresh, seed 7)."
    )


def test_one_file_that_refers_to_nothing_else(tmp_path):
    page = build_page([load_run(make_run(tmp_path / "run"))])
    around = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"(src|href)=\"(?!#|data:)", around)
    assert "default-src 'none'" in around
    assert 4.8e6 < len(page) < 5.2e6  # Plotly is in it
    assert re.findall(r"{{\w+}}", page) == []


def test_what_a_run_calls_itself_stays_text(tmp_path):
    evil = "</script><img src=x onerror=alert(1)>"
    path = make_run(tmp_path / "run", about={"agent": evil, "env": "<b>"})
    page = build_page([load_run(path)])
    assert evil not in page
    assert "&lt;b&gt;" in page
    assert page.count("</script>") == page.count("<script")


def test_a_run_with_nothing_in_it(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text('{"format": 1}')
    page = build_page([load_run(tmp_path / "run")])
    assert "Nothing can be said about dormant units: the run has no plasticity record." in page
    assert "no line in metrics.jsonl yet: no training curve" in page


def test_a_cut_record_gives_a_page_that_says_it(tmp_path):
    path = make_run(tmp_path / "run")
    record = path / "plasticity" / "record.bin"
    record.write_bytes(record.read_bytes()[:-3])
    run = load_run(path)
    assert "is cut off" in build_page([run])
    assert run_sections(run, 0, Blobs())["sentences"]


def test_no_run_is_an_error():
    with pytest.raises(ConfigError, match="no run"):
        build_page([])


def test_shared_plotly_lies_beside_the_page(tmp_path):
    write_report([load_run(make_run(tmp_path / "run"))], tmp_path / "out" / "a.html", assets="shared")
    assert (tmp_path / "out" / "a.html").stat().st_size < 300_000
    assert (tmp_path / "out" / PLOTLY).stat().st_size > 4e6


def test_comparison_has_intervals_from_three_seeds_on(tmp_path):
    runs = [load_run(make_run(tmp_path / f"r{seed}", seed=seed)) for seed in range(3)]
    runs += [load_run(make_run(tmp_path / f"p{seed}", seed=seed, cure=False)) for seed in range(2)]
    found = comparison(runs)
    cured, plain = found["returns"]
    assert (cured["group"], cured["runs"], cured["iqm"]) == ("sac + redo", 3, 12.0)
    assert cured["interval"][0] < 12 < cured["interval"][1]
    assert (plain["group"], plain["interval"]) == ("sac", None)
    assert any("fewer than 3 seeds" in note for note in found["notes"])
    row = next(row for row in found["dormant"] if row["group"] == "sac" and row["threshold"] == 0.1)
    assert row["values"] == [dormant_share(run.record.parts[-1], 0.1)[-1] for run in runs[3:]]
    assert row["interval"] is None
    assert comparison(runs) == found  # the same numbers each time
    page = build_page(runs)
    assert "<td>sac</td><td>2</td>" in page
    assert "<td>fewer than 3 seeds</td>" in page


def test_runs_without_returns_are_compared_by_what_they_have(tmp_path):
    runs = [load_run(by_hand(tmp_path / name, [("probe", 5, [0, 1, 1, 1])])) for name in "ab"]
    found = comparison(runs)
    assert found["returns"] == []
    assert found["notes"] == ["returns are not compared: 0 of 2 runs have a return"]
    assert found["dormant"][-1]["values"] == [0.25, 0.25]
    bare = []
    for name in "cd":
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text('{"format": 1}')
        bare.append(load_run(tmp_path / name))
    assert "none of 2 runs has a plasticity record" in build_page(bare)


def test_the_command_writes_into_the_run_or_here(tmp_path, capsys, monkeypatch):
    one, two = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    monkeypatch.chdir(tmp_path)
    assert command.main([str(one)]) == 0
    assert (one / "report.html").exists()
    assert re.match(r"report: .*a/report\.html \(\d\.\d MB\)", capsys.readouterr().out)
    assert command.main([str(one), str(two), "--assets", "shared"]) == 0
    assert (tmp_path / "report.html").exists()
    assert command.main([str(one), "--out", "x/y.html", "--assets=shared"]) == 0
    assert (tmp_path / "x" / "y.html").exists()
    assert command.main(["--help"]) == 0
    assert "--serve" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "RUN is missing"),
        (["{run}", "--assets", "web"], "--assets is 'web'"),
        (["{run}", "--serve", "--out", "x"], "--serve writes no file"),
        (["{run}", "--out", "{run}/run.json/x.html"], "cannot be written"),
        (["nowhere"], "no run 'nowhere'"),
        (["{run}", "--colour"], "unknown option --colour"),
    ],
)
def test_bad_words_of_the_command(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path / "run")
    with pytest.raises(ConfigError, match=re.escape(message)):
        command.main([word.format(run=run) for word in words])


def test_reports_need_neither_torch_nor_the_plotly_package():
    code = "import sys, rlkit.report.page, rlkit.report.server; print({'torch', 'plotly'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_the_server_shows_what_is_new_and_only_here(tmp_path):
    path = make_run(tmp_path / "run")
    with ReportServer([path]) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"

        def get(place="/", host=None):
            request = urllib.request.Request(address + place, headers={"Host": host} if host else {})
            try:
                with urllib.request.urlopen(request) as answer:
                    return answer.status, answer.read().decode()
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, error.read().decode()

        status, first = get()
        assert status == 200
        assert "finished" in first
        assert get()[1] == first  # not built again
        assert len(get(f"/{PLOTLY}")[1]) > 4e6
        assert get("/etc/passwd")[0] == 404
        assert get(host="evil.example:80")[0] == 403
        (path / "run.json").write_text((path / "run.json").read_text().replace("finished", "interrupted"))
        assert "interrupted" in get()[1]
        (path / "run.json").unlink()
        status, text = get()
        assert (status, "is not a run folder" in text) == (500, True)
        server.shutdown()


@pytest.mark.slow
def test_twenty_long_runs_of_sac_take_seconds_and_fit(tmp_path):
    for seed in range(20):
        make_run(tmp_path / f"r{seed:02}", layers=SAC, probes=1000, seed=seed, cure=seed % 2 == 0)
    begin = time.process_time()
    assert command.main([str(tmp_path), "--out", str(tmp_path / "report.html")]) == 0
    assert time.process_time() - begin < 20
    assert (tmp_path / "report.html").stat().st_size < 15e6
