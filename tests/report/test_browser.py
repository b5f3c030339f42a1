"""The report in a headless Chromium without a network: nothing asked for, no error, the numbers of the record."""

import json
import threading

import numpy as np
import pytest

from rlkit.core import score_codec
from rlkit.report.history import STOPS, hidden_layers, joined, resets, stop_threshold, survival
from rlkit.report.page import PLOTLY, write_report
from rlkit.report.run_data import dormant, load_run, scored_units
from rlkit.report.server import ReportServer
from rlkit.report.statistics import interquartile_mean
from tests.report.chromium import PROGRAM, Page
from tests.report.made_up import make_run, write_lines

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no chromium, chromium-browser or google-chrome on the path")

# Open the table of a figure and read it: rows of texts.
TABLE = """(() => {
  const figure = document.getElementById("figure-%s"), details = figure.querySelector("details");
  figure.figure.refresh();
  details.open = true;
  figure.figure.fillTable();
  return [...figure.querySelectorAll("tr")].map((row) => [...row.children].map((cell) => cell.textContent));
})()"""
SET = """(() => { const node = document.getElementById("%s"); node.value = %s;
  node.dispatchEvent(new Event("input")); node.dispatchEvent(new Event("change")); })()"""
SETTLE = "new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))"


def table(page, name):
    page.run("rlkitReport.drawAll()")
    return page.run(TABLE % name)


def choose(page, element, value):
    page.run(SET % (element, json.dumps(value)))
    page.run(SETTLE)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [make_run(folder / f"r{seed}", seed=seed, probes=14) for seed in (2, 1, 3)]


@pytest.fixture(scope="module")
def page(paths, tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "report.html"
    write_report([load_run(path) for path in paths], out)
    with Page() as shown:
        shown.open(out)
        shown.run("rlkitReport.drawAll()")
        yield shown
        assert shown.requests == []
        assert shown.errors == []


def test_learned_activations_are_drawn(tmp_path):
    path = make_run(tmp_path / "run", probes=3)
    x = np.linspace(-5, 5, 101)
    lines = []
    for step in range(0, 300, 20):
        kinked = {"coefficients": [0.0, 1.0 + step], "values": [*(step * x).tolist()[:-1], None]}
        shared = {"coefficients": [step / 100, 2.0], "values": (x + step).tolist()}
        functions = {"critic.1": [kinked, shared], "actor.1": [shared], "actor.3": [shared]}
        lines.append({"step": step, "updates": step, "range": 5.0, "functions": functions})
    write_lines(path / "activations.jsonl", lines)
    write_report([load_run(path)], tmp_path / "report.html")
    with Page() as shown:
        shown.open(tmp_path / "report.html")
        titles = "[...document.querySelectorAll('#activations figcaption strong')].map((node) => node.textContent)"
        assert shown.run(titles) == ["critic.1 #0", "critic.1 #1", "actor.1, actor.3"]
        rows = table(shown, "activation-1")
        assert rows[0] == ["env step", "c0", "c1"]
        assert [row[0] for row in rows[1:]] == ["0", "60", "120", "160", "220", "280"]
        assert rows[-1] == ["280", "0", "281"]
        drawn = shown.run("document.querySelector('#figure-activation-3 .plot').data.map((curve) => curve.y[0])")
        assert drawn == [-5, 55, 115, 155, 215, 275]
        assert shown.requests == []
        assert shown.errors == []


def test_a_run_without_learned_activations_has_no_section_for_them(page):
    assert page.run("document.getElementById('activations')") is None


def number(text):
    return float(text.replace(",", "").replace(" %", ""))


@pytest.mark.parametrize("stop", [0, 12, STOPS.index(118), STOPS.index(134), 40])
def test_the_threshold_moves_the_counts_of_every_layer(page, paths, stop):
    choose(page, "threshold", stop)
    history, _ = joined(load_run(paths[0]).record)
    counts = dormant(history, stop_threshold(STOPS[stop]))
    layers = hidden_layers(history, "redo")
    rows = table(page, "dormant")[1:]
    assert len(rows) == len(history.step)
    for t, row in enumerate(rows):
        assert [number(cell) for cell in row[:2]] == [history.step[t], history.updates[t]]
        assert row[2] == history.kind[t]
        assert [number(cell) for cell in row[3 : 3 + len(layers)]] == counts[t, layers].tolist()
        total = scored_units(history)[t, layers].sum()
        assert row[-1] == f"{100 * counts[t, layers].sum() / total:.1f} %"
    latest = page.run("document.getElementById('latest').textContent")
    assert f"{counts[-1, layers].sum()} of {total} units" in latest
    drawn = page.run("document.querySelector('#figure-dormant .plot').data.at(-1).y")
    assert drawn == pytest.approx([counts[t, layers].sum() / total for t in range(len(rows))])


def test_keys_move_the_threshold(page):
    choose(page, "threshold", 10)
    page.run("document.getElementById('threshold').focus()")
    page.press("ArrowRight")
    page.run(SETTLE)
    assert page.run("document.getElementById('threshold-value').textContent") == f"{stop_threshold(STOPS[11]):.3g}"


def test_the_heat_map_says_what_the_record_holds(page, paths):
    choose(page, "threshold", STOPS.index(134))
    choose(page, "order", "layer")
    history, _ = joined(load_run(paths[0]).record)
    page.run("document.querySelector('#figure-heatmap canvas').focus()")
    readout = "document.querySelector('#figure-heatmap .readout').textContent"
    for _ in range(20):
        page.press("ArrowLeft")  # to the first probe
    for _ in range(20):
        page.press("ArrowUp")  # to the first unit
    for unit in range(3):
        code = history.codes["redo"][0, unit]
        value = "0" if code == 0 else f"≈ {float(score_codec.decode(code)):.3g}"
        assert page.run(readout).startswith(f"actor.0, unit {unit} · env step 100 · score {value}")
        page.press("ArrowDown")
    rows = {row[0]: row for row in table(page, "heatmap")[1:]}
    codes = history.codes["redo"][:, :5]
    assert number(rows["actor.0"][2]) == (codes[-1] <= 134).sum()
    assert number(rows["actor.0"][3]) == (codes <= 134).any(0).sum()


def test_units_can_be_ordered_by_score_and_by_when_they_died(page, paths):
    history, _ = joined(load_run(paths[0]).record)
    codes = history.codes["redo"][:, :5]
    first = [next((t for t in range(len(codes)) if codes[t, u] <= 134), len(codes)) for u in range(5)]
    orders = {"final": [codes[-1, u] for u in range(5)], "first": first}
    for order, keys in orders.items():
        choose(page, "order", order)
        page.run("rlkitReport.drawAll(); document.querySelector('#figure-heatmap canvas').focus()")
        for _ in range(20):
            page.press("ArrowUp")
        found = []
        for _ in range(5):
            text = page.run("document.querySelector('#figure-heatmap .readout').textContent")
            page.press("ArrowDown")
            page.press("ArrowUp")
            text = page.run("document.querySelector('#figure-heatmap .readout').textContent")
            found.append(int(text.split("unit ")[1].split(" ")[0]))
            page.press("ArrowDown")
        assert [keys[unit] for unit in found] == sorted(keys)
        assert sorted(found) == list(range(5))
    choose(page, "order", "layer")


def test_pixels_of_dormant_units_are_orange(page):
    pixel = """(() => { const map = document.querySelector("#figure-heatmap canvas");
      const copy = new OffscreenCanvas(map.width, map.height).getContext("2d", { willReadFrequently: true });
      copy.drawImage(map, 0, 0);
      const seen = copy.getImageData(0, 0, map.width, map.height).data;
      let orange = 0;
      for (let i = 0; i < seen.length; i += 4) orange += seen[i + 3] > 0 && seen[i] > seen[i + 2] + 60;
      return orange; })()"""
    found = []
    for stop in (0, STOPS.index(134), 40):
        choose(page, "threshold", stop)
        page.run("rlkitReport.drawAll()")
        found.append(page.run(pixel))
    choose(page, "threshold", STOPS.index(134))
    assert 0 < found[0] <= found[1] < found[2]


def test_gradient_and_activation_are_set_against_each_other(page, paths):
    history, _ = joined(load_run(paths[0]).record)
    t = np.flatnonzero(history.present["ace"])[-1]
    rows = table(page, "agreement")
    others = ["redo_centred", "both", "active_share", "both", "ace", "both", "grama", "both"]
    assert rows[0] == ["layer", "units", "redo", *others]
    low = {name: history.codes[name][t, :5] <= 134 for name in history.scores}
    assert [number(cell) for cell in rows[1][1:]] == [
        5, low["redo"].sum(),
        *(n for name in rows[0][3::2] for n in (low[name].sum(), (low[name] & low["redo"]).sum())),
    ]  # fmt: skip
    choose(page, "gradient-threshold", STOPS.index(126))
    strict = history.codes["ace"][t, :5] <= 126
    assert number(table(page, "agreement")[1][7]) == strict.sum()
    choose(page, "gradient-threshold", -1)


def test_survival_and_layer_metrics_are_the_records(page, paths):
    run = load_run(paths[0])
    history, _ = joined(run.record)
    kept, again, _ = survival(history, "redo", resets(history, run.ledger))
    bound = STOPS.index(134) + 1
    rows = [row for row in table(page, "survival-after-reset") if row[0] == "all"]
    assert rows
    for k, row in enumerate(rows):
        seen, low = kept[k].sum() + again[k].sum(), kept[k, :, :bound].sum()
        assert [number(cell) for cell in row[2:5]] == [seen, low, again[k].sum()]
    rows = table(page, "srank")[1:]
    full = np.flatnonzero(np.isfinite(history.layer_metrics["srank"]).any(1))
    for t, row in zip(full, rows, strict=True):
        assert number(row[0]) == history.step[t]
        values = history.layer_metrics["srank"][t, hidden_layers(history, "redo")]
        assert [float(cell) for cell in row[1:]] == pytest.approx(values.tolist(), rel=1e-6)


def test_another_run_can_be_chosen(page, paths):
    choose(page, "run", 1)
    page.wait("document.documentElement.dataset.ready === 'yes'")
    history, _ = joined(load_run(paths[1]).record)
    counts = dormant(history, 0.1)[:, hidden_layers(history, "redo")]
    rows = table(page, "dormant")[1:]
    assert [number(row[-2]) for row in rows] == counts.sum(1).tolist()
    assert paths[1].name in page.run("document.querySelector('.run-head').textContent")
    choose(page, "run", 0)
    page.wait("document.documentElement.dataset.ready === 'yes'")


def test_runs_are_compared(page, paths):
    assert table(page, "compare-returns")[1][:3] == ["sac + redo", "3", "22"]
    rows = table(page, "compare-curves")[1:]
    for path, row in zip(paths, rows, strict=True):
        history, _ = joined(load_run(path).record)
        pooled = [i for i in hidden_layers(history, "redo") if history.layers[i].units > 1]
        assert number(row[3]) == dormant(history, 0.1)[-1, pooled].sum()
    mean = page.run("document.querySelector('#figure-compare-curves .plot').data.at(-1).y.at(-1)")
    shares = [number(row[3]) / number(row[4]) for row in rows]
    assert mean == pytest.approx(float(interquartile_mean(shares)))


def test_the_ratio_its_signal_and_events_are_shown(page):
    rows = table(page, "replay-ratio")
    assert [row for row in rows if row[1] == "changed"] == [["800", "changed", "2", "0.58", "0.5", "0.05"]]
    assert any(row[1:3] == ["event", "redo"] for row in table(page, "return"))


def test_csv_is_the_table(page):
    text = page.run("""(() => { let text = ""; const Old = Blob; window.Blob = class extends Old {
        constructor(parts, kind) { super(parts, kind); text = parts[0]; } };
      document.querySelector("#figure-dormant .csv").click(); window.Blob = Old; return text; })()""")
    lines = text.strip().split("\n")
    shown = table(page, "dormant")
    assert lines[0].split(",")[:3] == ['"env step"', '"gradient step"', '"probe"']
    assert len(lines) == len(shown)
    assert float(lines[-1].split(",")[-1]) == pytest.approx(number(shown[-1][-1]) / 100, abs=6e-4)


def test_themes(page):
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.run(background)
    page.run("document.getElementById('theme').click()")
    assert page.run(background) != light
    page.run("rlkitReport.drawAll()")
    page.run("document.getElementById('theme').click()")
    assert page.run(background) == light


@pytest.fixture(scope="module")
def narrow():
    with Page(400, 800, dark=True) as shown:
        yield shown


@pytest.mark.parametrize("what", ["empty", "cut", "one probe"])
def test_pages_of_runs_that_lack_something(tmp_path, narrow, what):
    path = make_run(tmp_path / "run", probes=1 if what == "one probe" else 6)
    record = path / "plasticity" / "record.bin"
    if what == "empty":
        for name in ("metrics.jsonl", "evaluations.jsonl", "ledger.jsonl", "config.yaml"):
            (path / name).unlink()
        record.unlink()
    if what == "cut":
        record.write_bytes(record.read_bytes()[:-9])
    write_report([load_run(path)], tmp_path / "report.html")
    narrow.open(tmp_path / "report.html")
    narrow.run("rlkitReport.drawAll()")
    narrow.run(SETTLE)
    text = narrow.run("document.body.innerText")
    assert ("No plasticity record in this run" in text) == (what == "empty")
    assert ("cut off" in text) == (what == "cut")
    assert narrow.run("document.documentElement.scrollWidth") <= 400
    assert narrow.run("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"  # dark
    assert narrow.errors == []
    assert narrow.requests == []


def test_causal_weights_are_drawn_where_a_search_told_them(tmp_path, narrow):
    path = make_run(tmp_path / "run")
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    for line, weight in ((lines[2], 1.25), (lines[5], 0.5)):
        line |= {"causal/weight_0": weight, "causal/weight_1": 2 - weight, "causal/effect_0": 0.1}
    write_lines(path / "metrics.jsonl", lines)
    write_report([load_run(path)], tmp_path / "report.html")
    narrow.open(tmp_path / "report.html")
    assert table(narrow, "causal-weights") == [
        ["env step", "causal/weight_0", "causal/weight_1"], ["300", "1.25", "0.75"], ["600", "0.5", "1.5"],
    ]  # fmt: skip
    drawn = narrow.run("document.querySelector('#figure-causal-weights .plot').data.map((each) => [each.name, each.y])")
    assert drawn == [["dimension 0", [1.25, 0.5]], ["dimension 1", [0.75, 1.5]]]
    assert narrow.errors == []
    write_report([load_run(make_run(tmp_path / "another"))], tmp_path / "report.html")
    narrow.open(tmp_path / "report.html")
    assert narrow.run("document.getElementById('figure-causal-weights')") is None


def test_shared_plotly_is_read_from_beside_the_page_and_its_absence_is_said(tmp_path, narrow):
    run, folder = load_run(make_run(tmp_path / "run")), tmp_path / "out"
    write_report([run], folder / "report.html", assets="shared")
    narrow.open(folder / "report.html")
    narrow.run("rlkitReport.drawAll()")
    assert narrow.run("document.querySelectorAll('.js-plotly-plot').length") > 5
    assert narrow.requests == [(folder / PLOTLY).resolve().as_uri()]
    (folder / PLOTLY).unlink()
    narrow.open(folder / "report.html")
    narrow.run("rlkitReport.drawAll()")
    assert "The charts need plotly.min.js beside this page" in narrow.run("document.body.innerText")


def test_a_served_page_shows_what_is_new_when_it_is_loaded_again(tmp_path, narrow):
    path = make_run(tmp_path / "run")
    with ReportServer([path]) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        narrow.open(address)
        narrow.run("rlkitReport.drawAll()")
        assert narrow.run("document.querySelectorAll('.js-plotly-plot').length") > 5
        before = len(table(narrow, "dormant"))
        (path / "plasticity" / "record.bin").write_bytes(
            (make_run(tmp_path / "longer", probes=20) / "plasticity" / "record.bin").read_bytes()
        )
        narrow.open(address)
        assert len(table(narrow, "dormant")) > before
        assert narrow.errors == []
        assert narrow.requests == [f"{address}{PLOTLY}"]
        server.shutdown()
