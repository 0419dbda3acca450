"use strict";
// Numbers → Plotly charts. Colours come from the style sheet, so that a change of theme needs only a redraw.

// Plotly lies compressed in the page, which is 3 MB smaller for it. Charts wait for it; all else does not.
const plotly = (async () => {
  if (!by_id("plotly")) return;  // a page without runs
  const bytes = Uint8Array.from(atob(by_id("plotly").textContent), character => character.charCodeAt(0));
  const text = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  document.head.append(el("script", {}, text));
  if (!window.Plotly) throw new Error("the charts' code is damaged");
  await new Promise(done => setTimeout(done));  // a page over many runs answers between this and the first chart
})();
plotly.catch(() => document.body.classList.add("no-charts"));

const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const line_style = i => ({color: css(`--line-${i % 7}`), dash: ["solid", "dash", "dot", "dashdot"][i % 4], width: 2});
const narrow = () => window.innerWidth < 600;
// Plotly reads a few tags in its text, so text from runs has its angle brackets taken.
const safe = text => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const short = (text, length = 18) => safe(text.length > length ? `${text.slice(0, length - 1)}…` : text);
const axis = (title, more = {}) => ({title: {text: title}, gridcolor: css("--edge"), zerolinecolor: css("--edge"), automargin: true, ...more});

// `label` is what a screen reader says of the chart; everything it shows is also in a table or a sentence nearby.
// Charts of another `shape` than before are begun anew: else a double click would go back to the first one's ranges.
function draw(chart, label, traces, layout, on_click, shape) {
  chart.setAttribute("role", "img");
  chart.setAttribute("aria-label", label);
  const whole = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: {family: "system-ui, sans-serif", size: 13, color: css("--text")},
    margin: {l: 55, r: 15, t: 10, b: 45}, height: 340, dragmode: narrow() ? false : "zoom",
    hoverlabel: {bgcolor: css("--raised"), bordercolor: css("--edge"), font: {color: css("--text")}, namelength: -1},
    legend: {orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: {size: 12}},
    ...layout,
  };
  return chart.drawn = plotly.then(async () => {
    offer_pictures(chart);
    if (chart.drawn_shape !== shape) Plotly.purge(chart);
    chart.drawn_shape = shape;
    await Plotly.react(chart, traces, whole, {displayModeBar: false, responsive: true});
    chart.removeAllListeners("plotly_click");
    if (on_click) chart.on("plotly_click", on_click);
  }, () => leave_out(chart));
}

// Where Plotly can't be unpacked one sentence stands for all charts of a section.
function leave_out(chart) {
  const section = chart.closest("section"), said = section?.querySelector(".left-out");
  if (!section || said === chart) return;
  ["role", "aria-label"].forEach(name => chart.removeAttribute(name));
  if (said) {
    (chart.closest(".scroll") ?? chart).hidden = true;
    return;
  }
  chart.classList.add("left-out");
  chart.replaceChildren(el("p", {class: "note"}, "This browser can't unpack the charts, for which it needs DecompressionStream (Chrome and Edge from 80, Firefox from 113, Safari from 16.4 on). The tables and the text are complete."));
}

const CURVE_NAMES = {
  "validation/accuracy": "validation accuracy", "validation/top5_accuracy": "validation top-5 accuracy", "validation/loss": "validation loss",
  "validation/macro_f1": "validation macro F1", "validation/balanced_accuracy": "validation balanced accuracy",
  "train/accuracy": "training accuracy", "train/loss": "training loss", "train/batch_loss": "training loss of a batch",
  "lr": "learning rate", "throughput/images_per_second": "images a second",
};

// Many curves as a trace for each colour: Plotly takes a thousand times as long over a thousand traces as over one that is as long.
function together(traces) {
  const of_look = new Map();
  for (const trace of traces) {
    const look = `${trace.line.color} ${trace.opacity}`;
    if (!of_look.has(look)) of_look.set(look, {...trace, x: [], y: [], text: [], mode: "lines", connectgaps: false, line: {color: trace.line.color, width: 1}});
    const all = of_look.get(look);
    trace.y.forEach((y, i) => { if (known(y) && known(trace.x[i])) { all.x.push(trace.x[i]); all.y.push(y); all.text.push(trace.name); } });
    [all.x, all.y].forEach(values => values.push(null));  // which parts one curve from the next
    all.text.push("");
  }
  return [...of_look.values()];
}

const MANY = 60;

// log: the axes that are logarithmic, as "x" or "xy".
function draw_curves(chart, runs, key, against, {smoothing, log}) {
  const traces = runs.flatMap(run => {
    const curve = run.curves[key];
    return curve_traces({
      x: curve[against], y: curve.value, connectgaps: true, name: short(run.id, 40), mode: curve.value.length < 30 ? "lines+markers" : "lines",
      line: line_style(looks.get(run.id)), marker: {size: 5}, hovertemplate: `${runs.length > MANY ? "%{text}" : safe(run.id)}<br>%{x:.4~g} ${against}: %{y:.4~f}<extra></extra>`,
    }, smoothing);
  });
  // Plotly would draw a line to such a point as one to the floor.
  const positive = values => values.map(value => value > 0 ? value : null);
  if (log.includes("x")) traces.forEach(trace => { trace.x = positive(trace.x); });
  if (log.includes("y")) traces.forEach(trace => { trace.y = positive(trace.y); });
  const scale = name => (log.includes(name) ? {type: "log", nticks: 5, exponentformat: "power"} : {type: "linear"}), how = smoothing ? `, smoothed by ${smoothing}` : "";
  draw(chart, `${CURVE_NAMES[key]} against ${against}, ${runs.length} runs${how}`, runs.length > MANY ? together(traces) : traces, {
    xaxis: axis(against, scale("x")), yaxis: axis(CURVE_NAMES[key], scale("y")), showlegend: runs.length <= 12, height: runs.length <= 12 ? 420 : 360,
  }, undefined, log);
}

// One run: several keys in one chart, its best epoch marked.
function draw_run_curves(chart, run, title, keys, smoothing) {
  const traces = keys.flatMap((key, i) => curve_traces({
    x: run.curves[key].epoch, y: run.curves[key].value, connectgaps: true, name: CURVE_NAMES[key], line: line_style(i),
    mode: run.curves[key].value.length < 30 ? "lines+markers" : "lines", hovertemplate: "epoch %{x:.3~g}: %{y:.4~f}<extra></extra>",
  }, key === "lr" ? 0 : smoothing));
  const best = known(run.best_epoch) && keys.some(key => key.startsWith("validation/")) ? run.best_epoch : null;
  draw(chart, `${title} by epoch: ${keys.map(key => CURVE_NAMES[key]).join(", ")}`, traces, {
    xaxis: axis("epoch"), yaxis: axis(title), showlegend: keys.length > 1,
    shapes: best === null ? [] : [{type: "line", x0: best, x1: best, yref: "paper", y0: 0, y1: 1, line: {color: css("--soft"), dash: "dot", width: 1}}],
    annotations: best === null ? [] : [{x: best, y: 0.5, yref: "paper", xanchor: "right", text: `best epoch ${best}`, showarrow: false, textangle: -90, font: {color: css("--soft"), size: 12}}],
  });
}

// matrix: {names, count[i][j], groups: [{name, from, to}] | null}. One trace: shares of mistakes are above zero, of hits below.
function draw_matrix(chart, matrix, on_cell) {
  const {names, count, groups} = matrix, totals = count.map(row => row.reduce((a, b) => a + b, 0));
  const share = (i, j) => totals[i] ? count[i][j] / totals[i] : 0;
  const largest = Math.max(1e-9, ...names.flatMap((_, i) => names.map((_, j) => i === j ? 0 : share(i, j))));
  const z = names.map((_, i) => names.map((_, j) => i === j ? -share(i, j) : share(i, j) / largest));
  const text = names.map((name, i) => names.map((other, j) => [
    `${safe(name)} ${i === j ? "recognised" : `taken for ${safe(other)}`}`,
    `${count[i][j]} of ${totals[i]} images, ${percent(share(i, j))}`,
  ].join("<br>")));
  const few = names.length <= (narrow() ? 12 : 40);
  const ticks = few
    ? {tickvals: names.map((_, i) => i), ticktext: names.map(name => short(name))}
    : groups && !narrow()
    ? {tickvals: groups.map(group => (group.from + group.to) / 2), ticktext: groups.map(group => short(group.name, 20))}
    : {showticklabels: false, ticks: ""};
  const edges = few || !groups ? [] : groups.slice(1).map(group => group.from - 0.5);
  const line = {color: css("--edge"), width: 1}, end = names.length - 0.5;
  const size = Math.min(760, chart.clientWidth || 760);
  draw(chart, "Confusion matrix, true classes down and predicted classes across; the lists beside it give every cell", [{
    type: "heatmap", z, zmin: -1, zmax: 1, customdata: text, hovertemplate: "%{customdata}<extra></extra>", showscale: false,
    xgap: few ? 1 : 0, ygap: few ? 1 : 0,
    colorscale: [[0, css("--right-high")], [0.4999, css("--right-low")], [0.5, css("--ground")], [0.5001, css("--wrong-low")], [1, css("--wrong-high")]],
  }], {
    height: size, margin: {l: 10, r: 10, t: 10, b: 10}, shapes: edges.flatMap(at => [
      {type: "line", x0: at, x1: at, y0: -0.5, y1: end, line}, {type: "line", y0: at, y1: at, x0: -0.5, x1: end, line}]),
    xaxis: {...axis("taken for"), ...ticks, tickangle: few && names.every(name => name.length < 4) ? 0 : -90, tickfont: {size: 11}, showgrid: false, zeroline: false, range: [-0.5, end]},
    yaxis: {...axis("true"), ...ticks, tickfont: {size: 11}, showgrid: false, zeroline: false, range: [end, -0.5]},
  }, event => on_cell(Math.round(event.points[0].y), Math.round(event.points[0].x)), names.length);
}

function draw_reliability(chart, calibration) {
  const points = (bins, name, i, symbol) => {
    const filled = bins.filter(bin => bin.count);
    return {
      x: filled.map(bin => bin.confidence), y: filled.map(bin => bin.accuracy), customdata: filled.map(bin => bin.count), name,
      mode: "lines+markers", line: line_style(i), marker: {size: 9, symbol},
      hovertemplate: "says %{x:.0%}, right %{y:.0%}<br>%{customdata} images<extra></extra>",
    };
  };
  const ideal = {x: [0, 1], y: [0, 1], mode: "lines", name: "ideal", hoverinfo: "skip", line: {color: css("--soft"), width: 1, dash: "dot"}};
  const counts = {
    type: "bar", x: calibration.bins.map(bin => (bin.low + bin.high) / 2), y: calibration.bins.map(bin => bin.count), yaxis: "y2",
    width: calibration.bins.map(bin => 0.9 * (bin.high - bin.low)), marker: {color: css("--soft")}, name: "images", showlegend: false,
    hovertemplate: "%{y} images<extra></extra>",
  };
  const traces = [ideal, counts, points(calibration.bins, "as it is", 0, "circle")];
  if (calibration.bins_after.length) traces.push(points(calibration.bins_after, "after temperature scaling", 1, "diamond-open"));
  draw(chart, "Reliability diagram: share right against stated confidence; the table gives its numbers", traces, {
    height: 480, xaxis: axis("stated confidence", {range: [0, 1.01], dtick: 0.2, tickformat: ".0%", anchor: "y2"}),
    yaxis: axis("share right", {range: [0, 1.02], dtick: 0.2, domain: [0.28, 1], tickformat: ".0%"}), yaxis2: axis("images", {domain: [0, 0.2], nticks: 3}),
  });
}

// Parallel coordinates as plain lines: an axis for each parameter and one for the result, a line for each trial.
function draw_trials(chart, sweep, open) {
  const parameters = [...new Set(sweep.trials.flatMap(trial => Object.keys(trial.parameters)))];
  const value_of = {...Object.fromEntries(parameters.map(key => [key, trial => trial.parameters[key]])), [sweep.metric]: trial => trial.value};
  const axes = [...parameters, sweep.metric].map(key => scale_of(key, sweep.trials.map(value_of[key]).filter(known)));
  const values = sweep.trials.map(trial => trial.value).filter(known), [worst, best] = [Math.min(...values), Math.max(...values)];
  const traces = sweep.trials.map(trial => {
    const places = axes.map((axis, i) => ({i, at: axis.place(value_of[axis.key](trial))})).filter(place => place.at !== null);
    let goodness = known(trial.value) ? (trial.value - worst) / (best - worst || 1) : null;
    if (goodness !== null && sweep.goal === "minimize") goodness = 1 - goodness;
    const told = axes.map(axis => `${safe(axis.key)}: ${safe(shown(value_of[axis.key](trial)))}`);
    return {
      x: places.map(place => place.i), y: places.map(place => place.at), mode: "lines+markers", showlegend: false, marker: {size: 6},
      line: {color: goodness === null ? css("--soft") : mix(css("--right-low"), css("--wrong-high"), 0.15 + 0.85 * goodness), width: goodness === 1 ? 4 : 2, dash: goodness === null ? "dot" : "solid"},
      hovertemplate: [`trial ${trial.number}, ${safe(trial.state)}`, ...told].join("<br>") + "<extra></extra>", meta: trial.run_id,
    };
  });
  const annotations = axes.flatMap((axis, i) => axis.ticks.map(([at, text]) => (
    {x: i, y: at, text: short(text, 14), showarrow: false, xanchor: i === axes.length - 1 ? "right" : "left", xshift: i === axes.length - 1 ? -6 : 6, bgcolor: css("--ground"), opacity: 0.9, font: {size: 11, color: css("--soft")}})));
  chart.style.minWidth = `${110 * axes.length}px`;
  draw(chart, "Parallel coordinates of the trials; the table below lists them", traces, {
    height: 380, margin: {l: 30, r: 30, t: 20, b: 60}, dragmode: false, hovermode: "closest", annotations,
    shapes: axes.map((_, i) => ({type: "line", x0: i, x1: i, y0: 0, y1: 1, line: {color: css("--edge"), width: 2}, layer: "below"})),
    xaxis: {tickvals: axes.map((_, i) => i), ticktext: axes.map(axis => short(axis.key, 22)), showgrid: false, zeroline: false, range: [-0.15, axes.length - 0.85]},
    yaxis: {visible: false, range: [-0.05, 1.05]},
  }, event => open(event.points[0].data.meta));
}

// Values → places in [0, 1]: numbers on a line (logarithmic where they span decades), anything else evenly spaced.
function scale_of(key, values) {
  const numbers = values.filter(value => typeof value === "number");
  if (!numbers.length || numbers.length < values.length) {
    const kinds = [...new Set(values.map(shown))].sort(), place = value => known(value) ? (kinds.indexOf(shown(value)) + 0.5) / kinds.length : null;
    return {key, place, ticks: kinds.map(kind => [(kinds.indexOf(kind) + 0.5) / kinds.length, kind])};
  }
  const [low, high] = [Math.min(...numbers), Math.max(...numbers)], log = low > 0 && high / low >= 20;
  const [f, g] = log ? [Math.log, Math.exp] : [x => x, x => x];
  const place = value => known(value) ? (low === high ? 0.5 : (f(value) - f(low)) / (f(high) - f(low))) : null;
  const distinct = [...new Set(numbers)], ticks = distinct.length <= 5 ? distinct : [low, g((f(low) + f(high)) / 2), high];
  return {key, place, ticks: ticks.map(value => [place(value), String(Number(value.toPrecision(3)))])};
}

function mix(from, to, share) {
  const parts = color => [1, 3, 5].map(i => parseInt(color.slice(i, i + 2), 16)), [a, b] = [parts(from), parts(to)];
  return `rgb(${a.map((value, i) => Math.round(value + share * (b[i] - value))).join(",")})`;
}
