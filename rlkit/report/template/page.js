"use strict";
/* The report's page. It loads nothing: all data lie in it, deflated, and are opened when they are needed. */

(() => {
  const index = JSON.parse(document.getElementById("index").textContent);
  const { stops, runs, comparison } = index;
  const NOT_FINITE = 255, STEPS_AN_OCTAVE = 8, CODE_OF_ONE = 161;  // of the codes: rlkit/core/score_codec.py
  // A group is an agent with its interventions; with several environments one of them, too.
  if (new Set(runs.map((run) => run.env)).size > 1) for (const run of runs) run.group += ` · ${run.env}`;
  const state = { run: 0, stop: index.stop, order: "layer", layer: -1, gradientStop: -1, metric: "" };

  // ---------------------------------------------------------------- small things

  const byId = (id) => document.getElementById(id);

  function el(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else if (value !== null && value !== false) node.setAttribute(key, value === true ? "" : value);
    }
    node.append(...children.filter((child) => child !== null));
    return node;
  }

  const percent = (share) => (Number.isFinite(share) ? `${(100 * share).toFixed(1)} %` : "–");
  const whole = (value) => (value === null || value === undefined ? "–" : Math.round(value).toLocaleString("en-US"));
  const plain = (value) => {
    if (value === null || value === undefined || (typeof value === "number" && !Number.isFinite(value))) return "–";
    if (typeof value !== "number") return String(value);
    return Number.isInteger(value) ? value.toLocaleString("en-US") : String(Number(value.toPrecision(7)));
  };
  const decode = (code) => (code === 0 ? 0 : code === NOT_FINITE ? NaN : 2 ** ((code - CODE_OF_ONE) / STEPS_AN_OCTAVE));
  const sum = (values) => values.reduce((total, value) => total + value, 0);
  const stopLabel = (stop) => (stop.exact === null ? stop.threshold.toPrecision(3) : String(stop.threshold));
  const plural = (count, word) => `${whole(count)} ${word}${count === 1 ? "" : "s"}`;

  function interquartileMean(values) {
    const sorted = [...values].sort((a, b) => a - b), cut = Math.floor(sorted.length / 4);
    const middle = sorted.slice(cut, sorted.length - cut);
    return sum(middle) / middle.length;
  }

  // ---------------------------------------------------------------- data

  const TYPES = { uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, float32: Float32Array };
  const opened = new Map();

  async function inflate(number) {
    const text = atob(byId(`blob-${number}`).textContent), bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  /** What a descriptor of rlkit/report/blobs.py stands for: a tree, or {data, shape}. */
  function open(descriptor) {
    if (!opened.has(descriptor.blob)) opened.set(descriptor.blob, read(descriptor));
    return opened.get(descriptor.blob);
  }

  async function read(descriptor) {
    const planes = await inflate(descriptor.blob);
    if (descriptor.type === "json") return JSON.parse(new TextDecoder().decode(planes));
    const type = TYPES[descriptor.type], size = type.BYTES_PER_ELEMENT, count = planes.length / size, { shape } = descriptor;
    const bytes = new Uint8Array(planes.length);
    for (let k = 0; k < size; k++) for (let i = 0; i < count; i++) bytes[i * size + k] = planes[k * count + i];
    const data = new type(bytes.buffer);
    if (descriptor.differences) {
      const length = shape[shape.length - 1];
      for (let i = 0; i < data.length; i++) if (i % length) data[i] += data[i - 1];
    }
    return { data, shape };
  }

  /** Opens every blob of a tree of descriptors in place. */
  async function openAll(tree) {
    if (tree === null || typeof tree !== "object") return tree;
    if ("blob" in tree) return open(tree);
    const entries = await Promise.all(Object.entries(tree).map(async ([key, value]) => [key, await openAll(value)]));
    return Array.isArray(tree) ? entries.map(([, value]) => value) : Object.fromEntries(entries);
  }

  const loaded = new Map();
  function details(number) {
    if (!loaded.has(number)) loaded.set(number, open(runs[number].details).then(openAll));
    return loaded.get(number);
  }

  // Counts come as differences between stops [..., stops + 1]; the last bin is above all stops.
  const BINS = stops.length + 1;
  function dormantIn(counts, place, stop = state.stop) {
    let total = 0;
    for (let s = 0; s <= stop; s++) total += counts.data[place * BINS + s];
    return total;
  }
  function unitsIn(counts, place) {
    let total = 0;
    for (let s = 0; s < BINS; s++) total += counts.data[place * BINS + s];
    return total;
  }
  /** At 0, 0.025 and 0.1 the record's exact counts, elsewhere the codes', which are exact at their stops. */
  function dormantExactly(counts, exact, place, stop = state.stop) {
    const which = stops[stop].exact;
    return which === null ? dormantIn(counts, place, stop) : exact.data[place * 3 + which];
  }

  // ---------------------------------------------------------------- colours

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const DASHES = ["solid", "dash", "dot", "dashdot"];
  const seriesColour = (i) => css(`--series-${i % 7}`);

  /** A layer's colour is its name's, its dash the copy's (twin critics). */
  function layerStyles(layers) {
    const names = [...new Set(layers.map((layer) => layer.name.replace(/ #\d+$/, "")))];
    return layers.map((layer) => {
      const place = names.indexOf(layer.name.replace(/ #\d+$/, ""));
      return { color: seriesColour(place), dash: DASHES[(layer.copy + Math.floor(place / 7)) % DASHES.length], width: 1.4 };
    });
  }

  const KINDS = ["square", "diamond", "triangle-up", "circle", "cross", "x", "star"];

  function mix(a, b, share) {
    return a.map((value, i) => Math.round(value + (b[i] - value) * share));
  }
  const rgb = (name) => css(name).match(/\d+/g).map(Number);

  /** Colour of each code: dormant ones orange, the darker the nearer to 0; others blue by their logarithm. */
  function heatColours() {
    const table = new Uint8ClampedArray(256 * 4), stop = stops[state.stop].code;
    const [zero, low, high, lowest, highest, none] = ["zero", "dormant-low", "dormant-high", "alive-low", "alive-high", "none"]
      .map((name) => rgb(`--heat-${name}`));
    for (let code = 0; code < 256; code++) {
      const alive = Math.min(1, Math.max(0, (code - 121) / 64));  // 1/32 to 8 layer averages
      const dormant = Math.min(1, Math.max(0, (code - 81) / Math.max(1, stop - 81)));
      const colour = code === NOT_FINITE ? none : code === 0 ? zero : code <= stop ? mix(low, high, dormant) : mix(lowest, highest, alive);
      table.set([...colour, 255], 4 * code);
    }
    return new Uint32Array(table.buffer);  // a pixel each
  }

  // ---------------------------------------------------------------- figures

  const figures = [];
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      entry.target.figure.visible = entry.isIntersecting;
      if (entry.isIntersecting) entry.target.figure.refresh();
    }
  }, { rootMargin: "400px" });

  /**
   * A chart with its caption, its table and its CSV.
   * draw(node): puts the chart in; table(): {columns, rows}, numbers as numbers; note(): text under the title.
   */
  class Figure {
    constructor(parent, { name, title, note = null, draw = null, table, csv = null, height = 260, open: shown = false }) {
      Object.assign(this, { name, drawChart: draw, makeTable: table, makeCsv: csv, makeNote: note, stale: true, visible: false });
      this.note = el("p", { class: "note" });
      this.plot = draw === null ? null : el("div", { class: "plot", style: `min-height:${height}px` });
      this.tableBox = el("div", { class: "table-box", tabindex: "0" });
      this.details = el("details", { ontoggle: () => this.fillTable(), open: shown },
        el("summary", {}, "Table"), this.tableBox);
      const download = el("button", { type: "button", class: "csv", title: `Download ${name}.csv`, onclick: () => this.download() }, "CSV");
      this.node = el("figure", { id: `figure-${name}` }, el("figcaption", {}, el("strong", {}, title), download), this.note,
        this.plot, this.details);
      this.node.figure = this;
      parent.append(this.node);
      figures.push(this);
      watcher.observe(this.node);
    }

    changed() {
      this.stale = true;
      if (this.visible) this.refresh();
    }

    refresh() {
      if (!this.stale) return;
      this.stale = false;
      if (this.plot) this.drawChart(this.plot);
      if (this.makeNote) this.note.textContent = this.makeNote();
      this.fillTable();
    }

    fillTable() {
      if (this.details.open) this.tableBox.replaceChildren(tableNode(this.makeTable()));
    }

    download() {
      const { columns, rows } = (this.makeCsv ?? this.makeTable)();
      const cell = (value) => (value === null || value === undefined || Number.isNaN(value) ? "" : typeof value === "string" ? `"${value.replaceAll('"', '""')}"` : value);
      save(`${this.name}.csv`, [columns.map((column) => cell(column.text ?? column)), ...rows.map((row) => row.map((value) => cell(value?.value ?? value)))].map((row) => row.join(",")).join("\n") + "\n");
    }

    remove() {
      watcher.unobserve(this.node);
      figures.splice(figures.indexOf(this), 1);
      if (this.plot?.data && window.Plotly) window.Plotly.purge(this.plot);
      this.node.remove();
    }
  }

  function save(name, text) {
    const link = el("a", { href: URL.createObjectURL(new Blob([text], { type: "text/csv" })), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  /** Cells are numbers, texts, or {value, text}; columns texts. */
  function tableNode({ columns, rows }) {
    const numeric = columns.map((_, i) => rows.length > 0 && rows.every((row) => row[i] === null || typeof (row[i]?.value ?? row[i]) === "number"));
    const body = el("tbody");
    for (const row of rows) {
      body.append(el("tr", {}, ...row.map((cell, i) => {
        const text = cell?.text ?? plain(cell);
        return el(i === 0 && typeof cell === "string" ? "th" : "td", { class: typeof (cell?.value ?? cell) === "number" ? "number" : null, scope: i === 0 && typeof cell === "string" ? "row" : null }, text);
      })));
    }
    return el("table", {}, el("thead", {}, el("tr", {}, ...columns.map((column, i) => el("th", { scope: "col", class: numeric[i] ? "number" : null }, column)))), body);
  }

  const share = (value) => ({ value, text: percent(value) });

  function layout(extra = {}) {
    const axis = { gridcolor: css("--grid"), linecolor: css("--axis"), zeroline: false, ticks: "outside", tickcolor: css("--axis"), ticklen: 3, automargin: true, title: { standoff: 6, font: { size: 11 } } };
    const { xaxis, yaxis, yaxis2, ...rest } = extra;
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: css("--sans"), size: 11, color: css("--text") },
      margin: { l: 48, r: 20, t: 6, b: 34 }, height: 260, hovermode: "closest",
      hoverlabel: { bgcolor: css("--panel"), bordercolor: css("--axis"), font: { color: css("--text"), size: 11 } },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--faint"), activecolor: css("--text") },
      legend: { orientation: "h", y: -0.18, yanchor: "top", x: 0, font: { size: 11 }, itemwidth: 30 },
      xaxis: { ...axis, showgrid: false, tickformat: "~s", nticks: 7, ...xaxis },
      yaxis: { ...axis, nticks: 6, ...yaxis },
      ...(yaxis2 ? { yaxis2: { ...axis, ...yaxis2 } } : {}),
      ...rest,
    };
  }

  function plot(node, data, extra) {
    if (!window.Plotly) {
      node.replaceChildren(el("p", { class: "warning" }, "The charts need plotly.min.js beside this page; the tables hold the same numbers."));
      return;
    }
    window.Plotly.react(node, data, layout(extra), { responsive: true, displaylogo: false, displayModeBar: extra.height > 200, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"] });
  }

  const axisTitle = (text) => ({ text, standoff: 4, font: { size: 11 } });
  /** All charts of a run have the same axis of time. */
  const steps = (more = {}) => ({ title: axisTitle("env steps"), range: [0, lastStep(current)], ...more });
  const lastStep = ({ metrics, evaluations, dormancy, events }) => Math.max(1, ...[metrics.step, evaluations.step, dormancy?.points.step ?? [], events.map((event) => event.step)].map((list) => list.at(-1) ?? 0));
  const shareAxis = (text) => ({ title: { text }, tickformat: ".2~%", rangemode: "tozero" });
  const line = (x, y, name, style, more = {}) => ({ x, y, name, type: "scatter", mode: y.filter(Number.isFinite).length > 2 ? "lines" : "lines+markers", line: style, marker: { color: style.color, size: 5 }, connectgaps: false, cliponaxis: false, ...more });

  // ---------------------------------------------------------------- sections of a run

  let current = null;  // details of the chosen run

  const OF_UNITS = new Set(["heatmap", "agreement", "overlap", "survival", "ranks"]);  // left out without a record
  const SECTIONS = [
    ["return", "Return and what was done", returnSection],
    ["dormant", "Dormant units by layer", dormantSection],
    ["heatmap", "Every unit over time", heatSection],
    ["agreement", "Gradient against activation", agreementSection],
    ["overlap", "The same units, or others?", overlapSection],
    ["survival", "After a reset", survivalSection],
    ["ranks", "Ranks, norms and steps", ranksSection],
    ["replay-ratio", "Replay ratio", ratioSection],
    ["replay", "Replay health", replaySection],
    ["activations", "Learned activations", activationsSection],
    ...(comparison ? [["comparison", "Runs compared", comparisonSection]] : []),
    ["data", "Data", dataSection],
  ];

  function absent(box, text) {
    box.append(el("p", { class: "absent" }, text));
  }

  function returnSection(box) {
    const { metrics, evaluations, events } = current, keys = Object.keys(metrics.values);
    const choices = [...(keys.includes("episode_return") ? ["episode_return"] : []), ...keys.filter((key) => key !== "episode_return" && !/(^|\/)replay\//.test(key))];
    if (!choices.length && !evaluations.step.length && !events.length) return absent(box, "No line of training, no evaluation and no event in this run.");
    if (!choices.includes(state.metric)) state.metric = choices[0] ?? "";
    const withReturns = () => state.metric === "episode_return" || !choices.length;
    if (choices.length > 1) {
      const choice = el("select", { id: "metric", onchange: () => { state.metric = choice.value; figure.changed(); } },
        ...choices.map((key) => el("option", { value: key, selected: key === state.metric }, key)));
      box.append(el("p", { class: "controls" }, el("label", {}, "Curve ", choice)));
    }
    const kinds = [...new Set(events.map((event) => event.kind))];
    const figure = new Figure(box, {
      name: "return", title: "Training, evaluation and events", height: 300,
      note: () => [
        metrics.step.length < metrics.lines ? `${whole(metrics.step.length)} of ${whole(metrics.lines)} lines of metrics.jsonl are drawn.` : "",
        evaluations.step.length ? "Evaluation: mean over its episodes, bars from the lowest to the highest." : "",
        kinds.length ? "Marks below: what was done to the networks." : "No event in the ledger.",
      ].filter(Boolean).join(" "),
      draw: (node) => {
        const data = [], rug = kinds.length ? Math.min(0.3, 0.04 + 0.05 * kinds.length) : 0;
        if (state.metric) data.push(line(metrics.step, metrics.values[state.metric], withReturns() ? "training" : state.metric, { color: seriesColour(0), width: 1.3 }, { connectgaps: true }));
        if (withReturns() && evaluations.step.length) {
          data.push({
            x: evaluations.step, y: evaluations.mean, name: "evaluation", type: "scatter", mode: "markers", cliponaxis: false, marker: { color: seriesColour(1), size: 6 },
            error_y: { type: "data", symmetric: false, array: evaluations.highest.map((v, i) => v - evaluations.mean[i]), arrayminus: evaluations.lowest.map((v, i) => evaluations.mean[i] - v), thickness: 1, width: 2, color: seriesColour(1) },
          });
        }
        kinds.forEach((kind, k) => {
          const these = events.filter((event) => event.kind === kind);
          data.push({ x: these.map((event) => event.step), y: these.map(() => kind), yaxis: "y2", name: kind, type: "scatter", mode: "markers", showlegend: false, marker: { symbol: "line-ns-open", size: 9, color: css("--text"), line: { width: 1 } }, text: these.map((event) => `${kind}: ${event.text}`.replace(/(.{60,}?)[;,] /g, "$1<br>")), hovertemplate: "env step %{x:,}<br>%{text}<extra></extra>" });
        });
        plot(node, data, {
          height: 300, xaxis: steps({ anchor: kinds.length ? "y2" : "y" }),
          yaxis: { domain: [rug && rug + 0.04, 1], title: { text: withReturns() ? "return" : state.metric } },
          ...(kinds.length ? { yaxis2: { domain: [0, rug], type: "category", showgrid: false, ticks: "", range: [-0.6, kinds.length - 0.4], fixedrange: true } } : {}),
        });
      },
      table: () => {
        const rows = [
          ...metrics.step.map((step, i) => [step, "training", state.metric, state.metric ? metrics.values[state.metric][i] : null]).filter((row) => row[3] !== null),
          ...(withReturns() ? evaluations.step.map((step, i) => [step, "evaluation", `mean of ${evaluations.episodes[i]}`, evaluations.mean[i]]) : []),
          ...events.map((event) => [event.step, "event", event.kind, event.text]),
        ];
        return { columns: ["env step", "source", "what", "value"], rows: rows.sort((a, b) => a[0] - b[0]) };
      },
    });
    causalFigure(box);
  }

  /** What ACE's searches found, where there are any. */
  function causalFigure(box) {
    const { metrics } = current, keys = Object.keys(metrics.values).filter((key) => /^causal\/weight_\d+$/.test(key));
    if (!keys.length) return;
    const told = [...metrics.step.keys()].filter((i) => metrics.values[keys[0]][i] !== null), at = (values) => told.map((i) => values[i]);
    new Figure(box, {
      name: "causal-weights", title: "Causal weights of the action dimensions",
      note: () => "How much each dimension counts in the entropy, from one search to the next; their mean is 1.",
      draw: (node) => plot(node, keys.map((key, k) => line(at(metrics.step), at(metrics.values[key]), key.replace("causal/weight_", "dimension "), { color: seriesColour(k), width: 1.3, shape: "hv" })), { height: 260, xaxis: steps(), yaxis: { title: { text: "weight" }, rangemode: "tozero" } }),
      table: () => ({ columns: ["env step", ...keys], rows: told.map((i) => [metrics.step[i], ...keys.map((key) => metrics.values[key][i])]) }),
    });
  }

  function dormantSection(box) {
    const d = current.dormancy;
    if (!d) return absent(box, "No plasticity record in this run: nothing about its units, their gradients, resets and ranks.");
    const { counts, exact, points, layers } = d, L = layers.length;
    const pooled = layers.map((layer, i) => i).filter((i) => layers[i].units > 1);
    const total = (t) => {
      const dormant = sum(pooled.map((i) => dormantExactly(counts, exact, t * L + i))), units = sum(pooled.map((i) => unitsIn(counts, t * L + i)));
      return { dormant, units, share: units ? dormant / units : NaN };
    };
    box.append(el("p", { class: "definition" }, d.definition, " Dormant is not the same as unable to learn: read it beside ranks and return."));
    const latest = el("p", { class: "latest", id: "latest", "aria-live": "polite" });
    box.append(latest);
    const figure = new Figure(box, {
      name: "dormant", title: "Share of dormant units", height: 320,
      note: () => {
        const { dormant, units } = total(points.step.length - 1), stop = stops[state.stop];
        latest.textContent = `At τ = ${stopLabel(stop)}: ${whole(dormant)} of ${whole(units)} units, ${percent(dormant / units)}, at the last probe (env step ${whole(points.step.at(-1))}).`;
        const drawn = points.step.length < d.probes ? `${whole(points.step.length)} of ${whole(d.probes)} probes are drawn. ` : `${plural(d.probes, "probe")}. `;
        const alone = layers.length > pooled.length ? " Layers of one unit are not in the total." : "";
        return drawn + (stop.exact === null ? "The threshold lies at the edge of a code, so the counts are exact." : "Counts at this threshold are the record's own.") + alone;
      },
      draw: (node) => {
        const styles = layerStyles(layers);
        const data = layers.map((layer, i) => line(points.step, points.step.map((_, t) => dormantExactly(counts, exact, t * L + i) / unitsIn(counts, t * L + i)), layer.name, styles[i], { hovertemplate: `${layer.name}<br>env step %{x:,}: %{y:.1%}<extra></extra>` }));
        data.push(line(points.step, points.step.map((_, t) => total(t).share), "all units", { color: css("--text"), width: 2.4 }, { hovertemplate: "all units<br>env step %{x:,}: %{y:.1%}<extra></extra>" }));
        plot(node, data, { height: 320, xaxis: steps(), yaxis: shareAxis("dormant") });
      },
      table: () => ({
        columns: ["env step", "gradient step", "probe", ...layers.map((layer) => `${layer.name} (of ${layer.units})`), "all", "share"],
        rows: points.step.map((step, t) => {
          const all = total(t);
          return [step, points.updates[t], points.kind[t], ...layers.map((_, i) => dormantExactly(counts, exact, t * L + i)), all.dormant, share(all.share)];
        }),
      }),
    });
    return figure;
  }

  // --- heat map

  function heatSection(box) {
    const d = current.dormancy;
    if (!d.layers.length) return absent(box, "No unit was probed in this run.");
    const { heat, layers } = d, [units, columns] = heat.codes.shape, codes = heat.codes.data;
    const firsts = layers.map((_, i) => sum(layers.slice(0, i).map((layer) => layer.units)));
    const layerOf = new Uint16Array(units);
    layers.forEach((layer, i) => layerOf.fill(i, firsts[i], firsts[i] + layer.units));
    const dots = heat.dots.data, cursor = { row: 0, column: columns - 1 };
    const select = (id, label, options, key, convert = String) => {
      const node = el("select", { id, onchange: () => { state[key] = convert(node.value); figure.changed(); } }, ...options.map(([value, text]) => el("option", { value, selected: String(state[key]) === String(value) }, text)));
      return el("label", {}, label, " ", node);
    };
    if (state.layer >= layers.length) state.layer = -1;
    box.append(el("p", { class: "controls" },
      select("order", "Order within a layer", [["layer", "as in the layer"], ["final", "by final score"], ["first", "by first time dormant"]], "order"),
      select("layer", "Layer", [[-1, "all"], ...layers.map((layer, i) => [i, layer.name])], "layer", Number)));

    const firstDormant = (unit) => {
      const stop = stops[state.stop].code;
      for (let c = 0; c < columns; c++) if (codes[unit * columns + c] <= stop) return c;
      return columns;
    };
    /** Units from top to bottom. */
    function rowsShown() {
      const shown = [];
      layers.forEach((layer, i) => {
        if (state.layer !== -1 && state.layer !== i) return;
        const ids = Array.from({ length: layer.units }, (_, k) => firsts[i] + k), final = heat.final.data;
        if (state.order === "final") ids.sort((a, b) => final[a] - final[b] || a - b);
        if (state.order === "first") {
          const first = new Map(ids.map((id) => [id, firstDormant(id)]));
          ids.sort((a, b) => first.get(a) - first.get(b) || final[a] - final[b] || a - b);
        }
        shown.push(...ids);
      });
      return shown;
    }

    const canvas = el("canvas", { tabindex: "0", role: "img", "aria-label": "Score of every unit over time. Arrow keys move a cursor; the line below says what it points at." });
    const readout = el("p", { class: "readout", "aria-live": "polite" }, "Point at the map, or focus it and use the arrow keys.");
    let shown = [], view = null;

    function describe(row, column) {
      const unit = shown[row], code = codes[unit * columns + column], layer = layers[layerOf[unit]];
      const from = heat.first_step[column], to = heat.last_step[column], many = heat.probes[column];
      const score = code === NOT_FINITE ? "no score" : `${many > 1 ? "lowest score" : "score"} ${code === 0 ? "0" : `≈ ${decode(code).toPrecision(3)}`}`;
      return `${layer.name}, unit ${unit - firsts[layerOf[unit]]} · env step ${whole(from)}${to > from ? `–${whole(to)}` : ""}${many > 1 ? ` (${many} probes)` : ""} · ${score} · ${code <= stops[state.stop].code ? "dormant" : "not dormant"}`;
    }

    function paint() {
      const width = Math.max(200, canvas.parentElement.clientWidth), narrow = width < 560, scale = window.devicePixelRatio || 1;
      const left = narrow ? 8 : 132, top = 9, bottom = 30, right = 4, blocks = state.layer === -1 ? layers.length : 1, gap = 4;
      const tall = Math.min(Math.max(shown.length, 140 * blocks), shown.length > 900 ? 640 : 520, 3 * shown.length + 60);
      const height = Math.max(160, tall) + gap * (blocks - 1) + top + bottom + (narrow ? 14 * blocks : 0);
      canvas.width = width * scale;
      canvas.height = height * scale;
      canvas.style.height = `${height}px`;
      const context = canvas.getContext("2d");
      context.scale(scale, scale);
      context.clearRect(0, 0, width, height);
      const map = { left, width: width - left - right, top, height: height - top - bottom };
      const unitsHeight = map.height - gap * (blocks - 1) - (narrow ? 14 * blocks : 0);
      const colours = heatColours(), blocksPainted = [];
      context.font = `11px ${css("--sans")}`;
      let y = top, row = 0;
      while (row < shown.length) {
        const layer = layerOf[shown[row]], count = layers[layer].units, blockHeight = (unitsHeight * count) / shown.length;
        const image = new ImageData(columns, count), pixels = new Uint32Array(image.data.buffer);
        for (let r = 0; r < count; r++) {
          const from = shown[row + r] * columns;
          for (let c = 0; c < columns; c++) pixels[r * columns + c] = colours[codes[from + c]];
        }
        if (narrow) y += 14;
        drawBlock(context, image, map.left, y, map.width, blockHeight, scale);
        context.fillStyle = css("--text");
        context.textBaseline = "middle";
        context.textAlign = narrow ? "left" : "right";
        const label = layers[layer].name;
        if (narrow) context.fillText(`${label} (${count})`, left, y - 7);
        else {
          context.fillText(label.length > 21 ? `…${label.slice(-20)}` : label, left - 8, y + blockHeight / 2 - (blockHeight > 26 ? 7 : 0));
          context.fillStyle = css("--faint");
          if (blockHeight > 26) context.fillText(`${count} units`, left - 8, y + blockHeight / 2 + 7);
        }
        blocksPainted.push({ row, count, y, height: blockHeight });
        y += blockHeight + gap;
        row += count;
      }
      view = { map, blocks: blocksPainted };
      drawDots(context);
      drawEvents(context, map);
      drawSteps(context, map, height - bottom);
      if (document.activeElement === canvas) drawCursor(context);
    }

    /** Rows are averaged where there are more than pixels; columns keep hard edges. */
    function drawBlock(context, image, x, y, width, height, scale) {
      const full = new OffscreenCanvas(image.width, image.height);
      full.getContext("2d").putImageData(image, 0, 0);
      const rows = Math.max(1, Math.min(image.height, Math.round(height * scale)));
      const squeezed = new OffscreenCanvas(image.width, rows), inner = squeezed.getContext("2d");
      inner.imageSmoothingEnabled = rows < image.height;
      inner.imageSmoothingQuality = "high";
      inner.drawImage(full, 0, 0, image.width, rows);
      context.imageSmoothingEnabled = false;
      context.drawImage(squeezed, x, y, width, height);
    }

    const middle = (row, column) => {
      const block = view.blocks.find(({ row: first, count }) => row >= first && row < first + count);
      return [view.map.left + ((column + 0.5) * view.map.width) / columns, block.y + ((row - block.row + 0.5) * block.height) / block.count];
    };

    function drawDots(context) {
      const rowOf = new Map(shown.map((unit, row) => [unit, row])), size = Math.max(1.2, Math.min(3, view.map.width / columns));
      context.fillStyle = css("--dot");
      for (let i = 0; i < dots.length; i += 2) {
        if (!rowOf.has(dots[i + 1])) continue;
        const [x, y] = middle(rowOf.get(dots[i + 1]), dots[i]);
        context.fillRect(x - size / 2, y - size / 2, size, size);
      }
    }

    function drawEvents(context, map) {
      context.fillStyle = css("--text");
      for (const { step } of current.events) {
        const after = heat.last_step.findIndex((last) => last >= step), column = after === -1 ? columns - 1 : after;
        context.fillRect(map.left + ((column + 0.5) * map.width) / columns - 0.5, 1, 1, 5);
      }
    }

    function drawSteps(context, map, y) {
      context.textBaseline = "top";
      context.fillStyle = css("--text");
      context.strokeStyle = css("--axis");
      const count = Math.min(columns, map.width < 400 ? 3 : 6);
      for (let k = 0; k < count; k++) {
        const column = count === 1 ? 0 : Math.round((k * (columns - 1)) / (count - 1)), x = map.left + ((column + 0.5) * map.width) / columns;
        context.textAlign = k === 0 ? "left" : k === count - 1 ? "right" : "center";
        context.beginPath();
        context.moveTo(x, y + 1);
        context.lineTo(x, y + 4);
        context.stroke();
        context.fillText(whole(heat.last_step[column]), x, y + 6);
      }
      context.fillStyle = css("--faint");
      context.textAlign = "left";
      context.fillText("env steps", map.left, y + 18);
    }

    function drawCursor(context) {
      const [x, y] = middle(cursor.row, cursor.column);
      context.strokeStyle = css("--text");
      context.lineWidth = 1.5;
      context.strokeRect(x - 5, y - 5, 10, 10);
    }

    canvas.addEventListener("mousemove", (event) => {
      const x = event.offsetX, y = event.offsetY, column = Math.floor(((x - view.map.left) * columns) / view.map.width);
      const block = view.blocks.find((each) => y >= each.y && y < each.y + each.height);
      if (!block || column < 0 || column >= columns) return;
      readout.textContent = describe(block.row + Math.floor(((y - block.y) * block.count) / block.height), column);
    });
    canvas.addEventListener("keydown", (event) => {
      const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], PageUp: [-20, 0], PageDown: [20, 0], Home: [0, -columns], End: [0, columns] }[event.key];
      if (!move) return;
      event.preventDefault();
      cursor.row = Math.min(shown.length - 1, Math.max(0, cursor.row + move[0]));
      cursor.column = Math.min(columns - 1, Math.max(0, cursor.column + move[1]));
      readout.textContent = describe(cursor.row, cursor.column);
      paint();
    });
    canvas.addEventListener("focus", paint);
    canvas.addEventListener("blur", paint);

    const figure = new Figure(box, {
      name: "heatmap", title: "Score of every unit at every probe", height: 240,
      note: () => {
        const probes = sum(heat.probes), pooling = probes > columns ? `Each column is up to ${Math.max(...heat.probes)} probes and shows the lowest score of each unit in them (the most dormant one), so dormancy looks more frequent here than in the curves. ` : "Each column is one probe. ";
        const averaged = shown.length > 640 ? "Rows are averaged to fit; choose a layer to see each unit. " : "";
        const edge = stops[state.stop], beside = edge.exact ? ` (in the map: the edge of a code beside it, ${(2 ** ((edge.code + 0.5 - CODE_OF_ONE) / STEPS_AN_OCTAVE)).toPrecision(4)})` : "";
        return `${pooling}${averaged}Orange: score at most τ = ${stopLabel(edge)}${beside}, strongest where it is 0. Blue: above, stronger the more active. Marks: units that a cure started anew; ticks above: whatever the ledger names.`;
      },
      draw: (node) => {
        shown = rowsShown();
        cursor.row = Math.min(cursor.row, shown.length - 1);
        if (!node.contains(canvas)) {
          node.replaceChildren(canvas, readout, legend);
          new ResizeObserver(() => figure.stale || paint()).observe(node);
        }
        drawLegend();
        paint();
      },
      table: () => {
        const stop = stops[state.stop].code;
        return {
          columns: ["layer", "units", "dormant at the end", "ever dormant", "dormant in most columns", "never dormant", "started anew"],
          rows: layers.map((layer, i) => {
            const ids = Array.from({ length: layer.units }, (_, k) => firsts[i] + k);
            const often = ids.map((id) => { let n = 0; for (let c = 0; c < columns; c++) n += codes[id * columns + c] <= stop; return n; });
            let anew = 0;
            for (let k = 1; k < dots.length; k += 2) anew += layerOf[dots[k]] === i;
            return [layer.name, layer.units, ids.filter((id) => heat.final.data[id] <= stop).length, often.filter((n) => n > 0).length, often.filter((n) => n > columns / 2).length, often.filter((n) => n === 0).length, anew];
          }),
        };
      },
      csv: () => ({
        columns: ["layer", "unit", ...heat.last_step.map((step) => `to env step ${step}`)],
        rows: Array.from({ length: units }, (_, unit) => [layers[layerOf[unit]].name, unit - firsts[layerOf[unit]], ...Array.from(codes.subarray(unit * columns, (unit + 1) * columns), (code) => Number(decode(code).toPrecision(6)))]),
      }),
    });

    const scale = el("canvas", { width: 256, height: 10, "aria-hidden": "true" });
    const ticks = el("div", { class: "ticks" });
    const legend = el("div", { class: "scale" }, scale, ticks);
    function drawLegend() {
      const colours = heatColours(), image = new ImageData(256, 10), pixels = new Uint32Array(image.data.buffer), low = 81, high = 185;
      for (let x = 0; x < 256; x++) {
        const code = x < 12 ? 0 : Math.round(low + ((x - 12) * (high - low)) / 243);
        for (let y = 0; y < 10; y++) pixels[256 * y + x] = colours[code];
      }
      scale.getContext("2d").putImageData(image, 0, 0);
      const at = (score) => 12 + ((CODE_OF_ONE + STEPS_AN_OCTAVE * Math.log2(score) - low) * 243) / (high - low);
      ticks.replaceChildren(el("span", { style: "left:6px" }, "0"), ...[0.001, 0.01, 0.1, 1, 8].slice(1).map((score) => el("span", { style: `left:${at(score)}px` }, String(score))));
    }
    return figure;
  }

  // --- tables and small charts

  function agreementSection(box) {
    const d = current.dormancy, a = d.agreement;
    const gradientScores = ["ace", "grama"];
    const stopFor = (score) => (gradientScores.includes(score) && state.gradientStop >= 0 ? state.gradientStop : state.stop);
    const options = [[-1, "as τ"], ...[0, 108, 126, 134].map((code) => { const i = stops.findIndex((stop) => stop.code === code); return [i, stopLabel(stops[i])]; })];
    const choice = el("select", { id: "gradient-threshold", onchange: () => { state.gradientStop = Number(choice.value); table.changed(); chart.changed(); } }, ...options.map(([value, text]) => el("option", { value, selected: state.gradientStop === value }, text)));
    box.append(el("p", { class: "controls" }, el("label", {}, "Threshold of gradient scores ", choice)));
    const firsts = d.layers.map((_, i) => sum(d.layers.slice(0, i).map((layer) => layer.units)));
    const table = !a ? null : new Figure(box, {
      name: "agreement", title: "Who calls which units dormant", open: true,
      note: () => `At the last probe with gradients (env step ${whole(a.step)}). First score: ${a.scores[0]}. “Both”: dormant by it and by the other. A unit that never fires has no gradient; one with a gradient of 0 may well fire.`,
      table: () => {
        const [main, ...others] = a.scores, N = a.codes.shape[1];
        const low = (score, unit) => a.codes.data[a.scores.indexOf(score) * N + unit] <= stops[stopFor(score)].code;
        const row = (name, ids) => {
          const mine = ids.filter((id) => low(main, id));
          return [name, ids.length, mine.length, ...others.flatMap((other) => [ids.filter((id) => low(other, id)).length, mine.filter((id) => low(other, id)).length])];
        };
        const all = Array.from({ length: N }, (_, i) => i);
        return {
          columns: ["layer", "units", main, ...others.flatMap((other) => [other, "both"])],
          rows: [...d.layers.map((layer, i) => row(layer.name, all.slice(firsts[i], firsts[i] + layer.units))), row("all", all)],
        };
      },
    });
    if (!a) absent(box, "No probe of this run has gradient scores.");
    const chart = new Figure(box, {
      name: "definitions", title: "Share of dormant units by each definition",
      note: () => `All at τ = ${stopLabel(stops[state.stop])}${state.gradientStop >= 0 ? `, gradient scores at ${stopLabel(stops[state.gradientStop])}` : ""}; hidden layers of more than one unit. ${d.definitions.map((each) => `${each.name}: ${each.quantity}`).join("; ")}.`,
      draw: (node) => plot(node, d.by_definition.map((each, i) => line(each.step, each.step.map((_, t) => dormantIn(each.counts, t, stopFor(each.score)) / unitsIn(each.counts, t)), each.score, { color: seriesColour(i), width: 1.5, dash: DASHES[gradientScores.includes(each.score) ? 1 : 0] }, { hovertemplate: `${each.score}<br>env step %{x:,}: %{y:.1%}<extra></extra>` })), { xaxis: steps(), yaxis: shareAxis("dormant") }),
      table: () => ({ columns: ["score", "env step", "dormant", "units", "share"], rows: d.by_definition.flatMap((each) => each.step.map((step, t) => { const n = dormantIn(each.counts, t, stopFor(each.score)), of = unitsIn(each.counts, t); return [each.score, step, n, of, share(n / of)]; })) }),
    });
  }

  const METRICS = {
    overlap: ["Overlap", "in both sets / in the smaller one"],
    survival: ["Still dormant", "in both sets / in the one before"],
    jaccard: ["Jaccard index", "in both sets / in at least one"],
    srank: ["srank", "fewest singular values that make up 99 % of their sum"],
    effective_rank: ["Effective rank", "exp of the entropy of the singular values"],
    stable_rank: ["Stable rank", "squared Frobenius norm / squared largest singular value"],
    feature_rank: ["Feature rank", "singular values above 0.01 √batch"],
    pca_rank: ["PCA rank", "fewest squared singular values that make up 99 %"],
    feature_norm: ["Feature norm", "mean length of a state's features"],
    weight_norm: ["Weight norm", "Frobenius norm of the incoming weights"],
    init_distance: ["Distance from the start", "Frobenius norm of the change of the weights"],
    init_distance_relative: ["Relative distance from the start", "divided by the norm at the start"],
    grad_norm: ["Gradient norm", "of the loss, incoming weights"],
    update_ratio: ["Update to weight", "length of one step / length of the weights"],
    adam_step_rms: ["Adam step", "root mean square of one step"],
    fau_element: ["Active share (FAU)", "activations above 0 / all"],
    fau_unit: ["Units ever active", "units above 0 on some state"],
    dead_rate: ["Dynamic dead rate", "activations that are exactly 0 / all"],
    saturated: ["Saturated", "activations with |h| above 0.99"],
    mean_activation: ["Mean activation", "mean |h| over units and states"],
    nonfinite: ["Not finite", "units with NaN or infinite activations"],
  };
  const OVERLAP = ["overlap", "survival", "jaccard"];
  const SHARES = new Set([...OVERLAP, "fau_element", "fau_unit", "dead_rate", "saturated"]);
  const HIDE_IF_ZERO = new Set(["saturated", "nonfinite"]);

  /** Small charts of layer metrics side by side. */
  function metricGrid(box, names) {
    const d = current.dormancy, grid = el("div", { class: "grid" }), L = d.layers.length;
    let count = 0;
    for (const name of names) {
      const set = Object.values(d.layer_metrics).find((each) => each.names.includes(name));
      if (!set) continue;
      const place = set.names.indexOf(name), T = set.step.length;
      const value = (t, i) => { const v = set.values.data[(place * T + t) * L + i]; return Number.isFinite(v) ? v : null; };
      if (HIDE_IF_ZERO.has(name) && !set.values.data.subarray(place * T * L, (place + 1) * T * L).some((v) => v > 0)) continue;
      const [title, help] = METRICS[name] ?? [name, ""];
      count++;
      new Figure(grid, {
        name, title, height: 190, note: () => help,
        draw: (node) => {
          const styles = layerStyles(d.layers);
          plot(node, d.layers.map((layer, i) => line(set.step, set.step.map((_, t) => value(t, i)), layer.name, styles[i], { connectgaps: true, hovertemplate: `${layer.name}<br>env step %{x:,}: %{y:.4~g}<extra></extra>` })), { height: 190, showlegend: false, margin: { l: 44, r: 18, t: 4, b: 24 }, xaxis: steps({ nticks: 5, title: null }), yaxis: { nticks: 5, rangemode: "tozero", ...(OVERLAP.includes(name) ? { range: [-0.02, 1.03] } : {}), ...(SHARES.has(name) ? { tickformat: ".2~%" } : { exponentformat: "power" }) } });
        },
        table: () => ({ columns: ["env step", ...d.layers.map((layer) => layer.name)], rows: set.step.map((step, t) => [step, ...d.layers.map((_, i) => value(t, i))]) }),
      });
    }
    if (count) box.append(layerKey(d.layers), grid);
    return count;
  }

  const keys = [];
  function layerKey(layers) {
    const node = el("ul", { class: "key" });
    const fill = () => {
      const styles = layerStyles(layers);
      node.replaceChildren(...layers.map((layer, i) => el("li", {}, el("span", { class: "swatch", style: `border-top:2px ${{ solid: "solid", dash: "dashed", dot: "dotted", dashdot: "dashed" }[styles[i].dash]} ${styles[i].color}` }), layer.name)));
    };
    fill();
    keys.push(fill);
    return node;
  }

  function seriesGrid(box, list, prefix) {
    const grid = el("div", { class: "grid" });
    for (const { name, title, help, step, values, format } of list) {
      new Figure(grid, {
        name: `${prefix}-${name.replaceAll("/", "-")}`, title, height: 170, note: () => help ?? "",
        draw: (node) => plot(node, [line(step, values, title, { color: seriesColour(0), width: 1.4 }, { connectgaps: true, hovertemplate: "env step %{x:,}: %{y:.4~g}<extra></extra>" })], { height: 170, showlegend: false, margin: { l: 44, r: 18, t: 4, b: 24 }, xaxis: steps({ nticks: 5, title: null }), yaxis: { nticks: 5, rangemode: "tozero", ...(format ? { tickformat: format } : {}) } }),
        table: () => ({ columns: ["env step", name], rows: step.map((at, i) => [at, values[i]]).filter((row) => row[1] !== null) }),
      });
    }
    box.append(grid);
  }

  function overlapSection(box) {
    const d = current.dormancy;
    box.append(el("p", { class: "lead" }, "Dormant sets of a full probe and the one before it, at the monitor's threshold, on the same states. Near 1: the same units stay dormant. No line: one of the sets is empty."));
    if (!metricGrid(box, OVERLAP)) absent(box, "No probe of this run has an overlap: it takes two full probes with dormant units.");
  }

  function survivalSection(box) {
    const s = current.dormancy.survival;
    if (!s.resets) return absent(box, "No cure of this run names units that it started anew.");
    const L = current.dormancy.layers.length, layers = current.dormancy.layers;
    const at = (k, ids) => {
      const kept = sum(ids.map((i) => unitsIn(s.kept, k * L + i))), low = sum(ids.map((i) => dormantIn(s.kept, k * L + i))), again = sum(ids.map((i) => s.again.data[k * L + i]));
      const others = sum(ids.map((i) => unitsIn(s.others, k * L + i))), lowOthers = sum(ids.map((i) => dormantIn(s.others, k * L + i)));
      return { n: kept + again, low, again, share: (low + again) / (kept + again), others: lowOthers / others };
    };
    const every = layers.map((_, i) => i), lags = s.lags.map((lag, k) => k).filter((k) => at(k, every).n > 0);
    if (!lags.length) return absent(box, `${plural(s.resets, "unit")} started anew, and no probe after that.`);
    new Figure(box, {
      name: "survival-after-reset", title: "Units started anew that are dormant again",
      note: () => `${plural(s.resets, "unit")} started anew. Dormant again at the k-th probe later (τ = ${stopLabel(stops[state.stop])}), or started anew again before it; beside them the other units of the same layers at the same probes.`,
      draw: (node) => plot(node, [
        line(lags.map((k) => s.lags[k]), lags.map((k) => at(k, every).share), "started anew", { color: seriesColour(1), width: 2 }, { mode: "lines+markers" }),
        line(lags.map((k) => s.lags[k]), lags.map((k) => at(k, every).others), "others in these layers", { color: seriesColour(0), width: 2, dash: "dash" }, { mode: "lines+markers" }),
      ], { xaxis: { title: axisTitle("probes after the reset"), tickmode: "array", tickvals: lags.map((k) => s.lags[k]), tickformat: "d" }, yaxis: { ...shareAxis("dormant again"), range: [0, null] } }),
      table: () => ({
        columns: ["layer", "probes later", "units seen", "dormant", "started anew again", "share", "others dormant"],
        rows: [...layers.map((layer, i) => [layer.name, [i]]), ["all", every]].flatMap(([name, ids]) => lags.filter((k) => at(k, ids).n).map((k) => { const r = at(k, ids); return [name, s.lags[k], r.n, r.low, r.again, share(r.share), share(r.others)]; })),
      }),
    });
  }

  function ranksSection(box) {
    const d = current.dormancy;
    const known = Object.keys(METRICS).filter((name) => !OVERLAP.includes(name));
    const others = Object.values(d.layer_metrics).flatMap((set) => set.names).filter((name) => !(name in METRICS) && name !== "rank_cap");
    box.append(el("p", { class: "lead" }, `Ranks are of the features of ${whole(d.batch)} states, so none is above that, nor above the width of the layer. Ranks of different batch sizes do not compare.`));
    if (!metricGrid(box, [...known, ...others])) absent(box, "No probe of this run has layer metrics.");
    if (d.run_metrics.length) {
      box.append(el("h3", {}, "Churn"), el("p", { class: "lead" }, "How much one gradient step, or all steps since the probe before (interval), change what the network answers to the probe's states."));
      seriesGrid(box, d.run_metrics.map((each) => ({ ...each, title: each.name.replaceAll("_", " ") })), "churn");
    }
  }

  const fraction = (text) => { const [a, b = 1] = String(text).split("/").map(Number); return a / b; };

  function ratioSection(box) {
    const { ratio, metrics } = current, { checks, switches } = ratio;
    const realised = metrics.step.slice(1).map((step, i) => (step > metrics.step[i] && metrics.updates[i + 1] !== null && metrics.updates[i] !== null ? (metrics.updates[i + 1] - metrics.updates[i]) / (step - metrics.step[i]) : null));
    if (!realised.some((value) => value !== null) && !ratio.start) return absent(box, "No line of training in this run.");
    const end = metrics.step.at(-1) ?? checks.at(-1)?.step ?? 0;
    const set = { step: [], value: [] };
    if (ratio.start !== null) {
      set.step.push(0); set.value.push(fraction(ratio.start));
      for (const each of switches) { set.step.push(each.step); set.value.push(fraction(each.new)); }
      set.step.push(Math.max(end, set.step.at(-1))); set.value.push(set.value.at(-1));
    }
    new Figure(box, {
      name: "replay-ratio", title: "Gradient steps per env step", height: checks.length ? 320 : 200,
      note: () => [ratio.kind ? `Plug-in: ${ratio.kind}.` : "", ratio.start ? `Starts at ${ratio.start}.` : "", switches.length ? `Changed ${plural(switches.length, "time")}: ${switches.slice(0, 6).map((each) => `to ${each.new} at env step ${whole(each.step)}`).join(", ")}${switches.length > 6 ? ", …" : ""}.` : "Never changed.", checks.length ? `Signal: ${ratio.signal}; a check finds a plateau if it moved by at most ${checks[0].gap}.` : ""].filter(Boolean).join(" "),
      draw: (node) => {
        const data = [line(metrics.step.slice(1), realised, "taken", { color: seriesColour(4), width: 1 }, { connectgaps: true })];
        if (set.step.length) data.push(line(set.step, set.value, "set", { color: seriesColour(0), width: 2, shape: "hv" }));
        if (checks.length) {
          data.push(line(checks.map((each) => each.step), checks.map((each) => each.value), ratio.signal, { color: seriesColour(1), width: 1.4 }, { mode: "lines+markers", yaxis: "y2" }));
          const decided = checks.filter((each) => each.old !== each.new);
          data.push({ x: decided.map((each) => each.step), y: decided.map((each) => each.value), yaxis: "y2", type: "scatter", mode: "markers", name: "decided", marker: { symbol: "circle-open", size: 12, color: css("--text"), line: { width: 2 } } });
        }
        plot(node, data, { height: checks.length ? 320 : 200, xaxis: steps({ anchor: checks.length ? "y2" : "y" }), yaxis: { title: { text: "ratio" }, rangemode: "tozero", ...(checks.length ? { domain: [0.55, 1] } : {}) }, ...(checks.length ? { yaxis2: { domain: [0, 0.45], title: { text: "signal" } } } : {}) });
      },
      table: () => ({
        columns: ["env step", "what", "ratio", "signal", "signal before", "gap"],
        rows: [...checks.map((each) => [each.step, each.old === each.new ? "check" : "changed", each.new, each.value, each.last, each.gap]), ...switches.filter((each) => !checks.some((check) => check.step === each.step)).map((each) => [each.step, "changed", each.new, null, null, null]), ...metrics.step.slice(1).map((step, i) => [step, "taken since the line before", realised[i], null, null, null]).filter((row) => row[2] !== null)].sort((a, b) => a[0] - b[0]),
      }),
    });
  }

  const REPLAY = {
    age_mean: ["Age of drawn rows", "env steps since they were written, mean"],
    age_p90: ["Age, 90th percentile", "env steps"],
    duplicates: ["Duplicates", "draws of a batch whose row was in it already"],
    first_visit_delay: ["Delay to the first draw", "env steps"],
    visits_mean: ["Draws of a row", "mean over overwritten rows"],
    visits_var: ["Variance of draws", "over overwritten rows"],
    never_drawn: ["Never drawn", "share of overwritten rows"],
  };

  function replaySection(box) {
    const { metrics } = current, found = Object.keys(metrics.values).filter((key) => /(^|\/)replay\//.test(key));
    if (!found.length) return absent(box, "No replay/* numbers in metrics.jsonl.");
    seriesGrid(box, found.map((key) => {
      const [, source, name] = key.match(/^(?:(.+)\/)?replay\/(.+)$/), [title, help] = REPLAY[name] ?? [name.replaceAll("_", " "), ""];
      return { name: key.replace("replay/", ""), title: source ? `${title} (${source})` : title, help, step: metrics.step, values: metrics.values[key], format: /^share_|never_drawn/.test(name) ? ".2~%" : "" };
    }), "replay");
  }

  function activationsSection(box) {
    box.append(el("p", { class: "lead" }, "What each learned function looks like at some times of the run, the later the stronger; dashed: its start. Starts of rationals are fitted between the dotted lines; outside, a rational is what its coefficients happen to make of it. activations.jsonl holds the coefficients."));
    const grid = el("div", { class: "grid" });
    current.activations.forEach((each, number) => {
      const last = each.step.length - 1, strength = (t) => 0.25 + 0.75 * (last ? t / last : 1);
      new Figure(grid, {
        name: `activation-${number + 1}`, title: each.name, height: 220,
        draw: (node) => plot(node, each.values.map((values, t) => line(each.x, values, `env step ${whole(each.step[t])}`, { color: seriesColour(0), width: t === last ? 2.2 : 1.2, dash: t === 0 && last ? "dash" : "solid" }, { mode: "lines", opacity: strength(t), hovertemplate: `f(%{x:.2f}) = %{y:.4~g}<br>env step ${whole(each.step[t])}<extra></extra>` })), {
          height: 220, showlegend: false, margin: { l: 40, r: 14, t: 4, b: 28 }, xaxis: { showgrid: true, tickformat: "~g" }, yaxis: { zeroline: true, zerolinecolor: css("--axis") },
          shapes: [-3, 3].map((x) => ({ type: "line", x0: x, x1: x, yref: "paper", y0: 0, y1: 1, line: { color: css("--axis"), width: 1, dash: "dot" } })),
        }),
        table: () => ({ columns: ["env step", ...each.coefficients[0].map((_, k) => `c${k}`)], rows: each.step.map((step, t) => [step, ...each.coefficients[t]]) }),
        csv: () => ({ columns: ["x", ...each.step.map((step) => `env step ${step}`)], rows: each.x.map((x, i) => [x, ...each.values.map((values) => values[i])]) }),
      });
    });
    box.append(grid);
  }

  // --- runs beside each other

  function comparisonSection(box) {
    const groups = [...new Set(runs.map((run) => run.group))], colour = (run) => seriesColour(groups.indexOf(run.group));
    const interval = (pair, text) => (pair ? { value: pair[0], text: `${text(pair[0])} to ${text(pair[1])}` } : `fewer than ${comparison.fewest} seeds`);
    const number = (value) => String(Number(value.toPrecision(5)));
    if (comparison.notes.length) box.append(el("ul", { class: "notes" }, ...comparison.notes.map((note) => el("li", {}, note))));
    if (comparison.returns.length) {
      const rows = comparison.returns;
      new Figure(box, {
        name: "compare-returns", title: "Return reached", open: true, height: 60 + 34 * rows.length,
        note: () => `Dots: runs. Diamond: interquartile mean, with its 95 % stratified bootstrap interval where an environment has at least ${comparison.fewest} seeds.`,
        draw: (node) => intervals(node, rows.map((row) => ({ ...row, label: row.group })), "return"),
        table: () => ({ columns: ["group", "runs", "IQM", "95 % interval", `P(better than ${rows[0].group})`, "its 95 % interval"], rows: rows.map((row) => [row.group, row.runs, { value: row.iqm, text: number(row.iqm) }, interval(row.interval, number), row.better === null ? "–" : row.better, row.better === null ? "–" : interval(row.better_interval, number)]) }),
      });
    }
    if (comparison.dormant.length) {
      const rows = comparison.dormant.map((row) => ({ ...row, label: `${row.group}, τ ${row.threshold}` }));
      new Figure(box, {
        name: "compare-dormant", title: "Dormant share at the last probe", open: true, height: 60 + 26 * rows.length,
        note: () => "At the three thresholds with exact counts.",
        draw: (node) => intervals(node, rows, "dormant share", ".2~%"),
        table: () => ({ columns: ["group", "τ", "runs", "IQM", "95 % interval"], rows: rows.map((row) => [row.group, row.threshold, row.runs, share(row.iqm), interval(row.interval, percent)]) }),
      });
    }
    const withRecord = runs.filter((run) => run.total !== null);
    if (withRecord.length) {
      return Promise.all(withRecord.map((run) => openAll(run.total))).then((totals) => {
        const curves = () => withRecord.map((run, i) => ({ run, step: totals[i].step, share: totals[i].step.map((_, t) => dormantExactly(totals[i].counts, totals[i].exact, t) / unitsIn(totals[i].counts, t)), counts: totals[i] }));
        new Figure(box, {
          name: "compare-curves", title: "Dormant share of every run", height: 320,
          note: () => `At τ = ${stopLabel(stops[state.stop])}. Thin: runs. Thick: interquartile mean of a group, each run's last probe so far, from where all of its runs have one to where the first ends.`,
          draw: (node) => {
            const all = curves(), data = all.map((curve) => line(curve.step, curve.share, curve.run.group, { color: colour(curve.run), width: 0.8 }, { opacity: 0.55, showlegend: false, hovertemplate: `${curve.run.group} s${curve.run.seed}<br>env step %{x:,}: %{y:.1%}<extra></extra>` }));
            groups.forEach((group, g) => {
              const mean = groupCurve(all.filter((curve) => curve.run.group === group));
              if (mean.step.length) data.push(line(mean.step, mean.share, group, { color: seriesColour(g), width: 2.6 }));
            });
            plot(node, data, { height: 320, xaxis: { title: axisTitle("env steps") }, yaxis: shareAxis("dormant") });
          },
          table: () => ({ columns: ["run", "group", "env step", "dormant", "units", "share"], rows: curves().map(({ run, step, share: values, counts }) => { const t = step.length - 1; return [run.name, run.group, step[t], dormantExactly(counts.counts, counts.exact, t), unitsIn(counts.counts, t), share(values[t])]; }) }),
          csv: () => ({ columns: ["run", "group", "env step", "share"], rows: curves().flatMap(({ run, step, share: values }) => step.map((at, t) => [run.name, run.group, at, values[t]])) }),
        });
      });
    }
  }

  function groupCurve(curves) {
    const from = Math.max(...curves.map((curve) => curve.step[0])), to = Math.min(...curves.map((curve) => curve.step.at(-1)));
    const step = [...new Set(curves.flatMap((curve) => curve.step))].sort((a, b) => a - b).filter((at) => at >= from && at <= to);
    const places = curves.map(() => 0);
    return { step, share: step.map((at) => interquartileMean(curves.map((curve, i) => { while (places[i] + 1 < curve.step.length && curve.step[places[i] + 1] <= at) places[i]++; return curve.share[places[i]]; }))) };
  }

  function intervals(node, rows, title, tickformat) {
    const labels = rows.map((row) => row.label);
    const data = rows.flatMap((row, i) => [
      { x: row.values, y: row.values.map(() => row.label), type: "scatter", mode: "markers", showlegend: false, marker: { color: seriesColour(0), size: 6, opacity: 0.45 }, hovertemplate: "%{x:.4~g}<extra></extra>" },
      { x: [row.iqm], y: [labels[i]], type: "scatter", mode: "markers", showlegend: false, marker: { symbol: "diamond", color: seriesColour(1), size: 10 }, hovertemplate: "IQM %{x:.4~g}<extra></extra>", ...(row.interval ? { error_x: { type: "data", symmetric: false, array: [row.interval[1] - row.iqm], arrayminus: [row.iqm - row.interval[0]], thickness: 2, width: 4, color: seriesColour(1) } } : {}) },
    ]);
    plot(node, data, { height: 60 + (rows.length > 6 ? 26 : 34) * rows.length, margin: { l: 8, r: 20, t: 4, b: 34 }, xaxis: { title: axisTitle(title), tickformat: tickformat ?? "~g", showgrid: true }, yaxis: { type: "category", autorange: "reversed", ticks: "", showgrid: false, nticks: 0, dtick: 1 } });
  }

  function dataSection(box) {
    box.append(el("p", { class: "lead" }, "Every chart has its table and a CSV file of it. The threshold is the one chosen above."));
    const list = el("ul", { class: "downloads" });
    const fill = () => list.replaceChildren(...figures.map((figure) => el("li", {}, el("button", { type: "button", onclick: () => figure.download() }, `${figure.name}.csv`))));
    box.append(list);
    keys.push(fill);
    setTimeout(fill, 0);
    const columns = ["run", "agent", "environment", "seed", "status", "columns in time"];
    new Figure(box, { name: "runs", title: "Runs in this page", open: true, note: () => (runs.length > index.runs_in_full ? `The first ${index.runs_in_full} runs have up to 600 columns in time, the others up to 200: name those first that are to be seen in full.` : ""), table: () => ({ columns, rows: runs.map((run) => [run.name, run.agent, run.env, String(run.seed), run.status, run.columns]) }) });
  }

  // ---------------------------------------------------------------- the page

  let showing = 0;  // a run that is chosen while another one is being opened wins
  async function showRun() {
    const mine = ++showing, chosen = await details(state.run);
    if (mine !== showing) return;
    current = chosen;
    for (const figure of [...figures]) figure.remove();
    keys.length = 0;
    delete document.documentElement.dataset.ready;
    const run = runs[state.run], holder = byId("sections"), boxes = [];
    const shown = SECTIONS.filter(([id]) => (current.dormancy || !OF_UNITS.has(id)) && (current.activations || id !== "activations"));
    byId("contents").replaceChildren(...shown.map(([id, title]) => el("li", {}, el("a", { href: `#${id}` }, title))));
    for (const [id, title, fill] of shown) {
      const box = el("section", { id, "aria-labelledby": `${id}-title` }, el("h2", { id: `${id}-title` }, title));
      boxes.push(box);
      if (runs.length > 1 && id === "return") {
        const missing = run.missing.length ? el("p", { class: "absent" }, `Missing: ${run.missing.join("; ")}.`) : null;
        box.prepend(el("div", { class: "run-head" }, el("p", { class: "over" }, [run.name, run.group, `seed ${run.seed}`, run.status].join(" · ")), el("p", { class: "run-headline" }, run.headline), ...run.sentences.map((text) => el("p", {}, text)), missing ?? ""));
      }
      await fill(box);
      if (mine !== showing) return;
    }
    holder.replaceChildren(...boxes);
    for (const refill of keys) refill();
    document.documentElement.dataset.ready = "yes";
  }

  let waiting = false;
  function thresholdChanged() {
    const stop = stops[state.stop];
    byId("threshold-value").textContent = stopLabel(stop);
    byId("threshold").setAttribute("aria-valuetext", `dormant if the score is at most ${stopLabel(stop)}`);
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      for (const figure of figures) if (AT_THRESHOLD.has(figure.name)) figure.changed();
    });
  }
  const AT_THRESHOLD = new Set(["dormant", "heatmap", "agreement", "definitions", "survival-after-reset", "compare-curves"]);

  function isDark() {
    const chosen = document.documentElement.dataset.theme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  }
  function themeChanged() {
    byId("theme").textContent = isDark() ? "Light" : "Dark";
    for (const refill of keys) refill();
    for (const figure of figures) figure.changed();
  }

  function drawAll() {
    for (const figure of figures) figure.refresh();
  }

  async function start() {
    const slider = byId("threshold");
    slider.max = stops.length - 1;
    slider.value = state.stop;
    slider.addEventListener("input", () => { state.stop = Number(slider.value); thresholdChanged(); });
    byId("threshold-marks").append(...stops.map((stop, i) => [stop, i]).filter(([stop]) => stop.exact !== null).map(([, i]) => el("option", { value: i })));
    byId("theme").addEventListener("click", () => { document.documentElement.dataset.theme = isDark() ? "light" : "dark"; themeChanged(); });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", themeChanged);
    if (runs.length > 1) {
      const choice = byId("run");
      choice.append(...runs.map((run, i) => el("option", { value: i }, `${run.group} s${run.seed} (${run.name})`)));
      choice.addEventListener("change", () => { state.run = Number(choice.value); showRun(); });
      byId("run-choice").hidden = false;
    }
    byId("theme").textContent = isDark() ? "Light" : "Dark";
    thresholdChanged();
    let before = null;
    addEventListener("beforeprint", () => { before = document.documentElement.dataset.theme ?? null; document.documentElement.dataset.theme = "light"; themeChanged(); drawAll(); });
    addEventListener("afterprint", () => { if (before === null) delete document.documentElement.dataset.theme; else document.documentElement.dataset.theme = before; themeChanged(); });
    await showRun();
  }

  window.rlkitReport = { drawAll };
  start();
})();
