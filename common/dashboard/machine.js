"use strict";
// One run's machine, by the minutes since it began, and what its console said.

const GB = 1e9, MB = 1e6, KB = 1e3;
// key → [name in its chart, unit]
const MEASURES = {
  process_cores: ["this run", "% of the cores"], machine_cores: ["all programs", "% of the cores"],
  gpu_percent: ["computing", "% of the time"], gpu_memory: ["all programs", "GB"],
  process_memory: ["this run", "GB"], machine_memory: ["all programs", "GB"],
  disk_read: ["read", "MB/s"], disk_written: ["written", "MB/s"],
  network_received: ["received", "MB/s"], network_sent: ["sent", "MB/s"],
};
const MACHINE_CHARTS = [
  ["Processor", ["process_cores", "machine_cores"]], ["GPU", ["gpu_percent"]], ["GPU memory", ["gpu_memory"]],
  ["Memory", ["process_memory", "machine_memory"]], ["Disk", ["disk_read", "disk_written"]], ["Network", ["network_received", "network_sent"]],
];
const in_unit = (machine, key, value) => !known(value) ? null
  : key.endsWith("cores") ? 100 * value / (machine.cores || 1) : key === "gpu_percent" ? value : value / (MEASURES[key][1] === "GB" ? GB : MB);
const is_little = (key, value) => MEASURES[key][1] === "MB/s" && value < 0.1 * MB;
const measured = (machine, key, value) => !known(value) ? "–" : is_little(key, value) ? `${(value / KB).toFixed(1)} kB/s` : `${in_unit(machine, key, value).toFixed(MEASURES[key][1].startsWith("%") ? 0 : 1)} ${MEASURES[key][1]}`;

function machine_tab(run) {
  const machine = run.machine;
  if (!machine) return [sentence(run.machine_note || "Nothing was measured: the run was made by an earlier version or by soup.py, or it ended at once.")];
  const wanted = MACHINE_CHARTS.map(([title, keys]) => [title, keys.filter(key => machine.values[key])]).filter(([, keys]) => keys.length);
  const charts = wanted.map(() => el("div", {class: "chart low"}));
  redraw = () => wanted.forEach(([title, keys], i) => draw_machine(charts[i], machine, title, keys));
  const facts = [
    known(machine.cores) ? `${machine.cores} processor cores could be used` : null, known(machine.memory) ? `the machine has ${(machine.memory / GB).toFixed(1)} GB of memory` : null,
    known(machine.gpu_memory) ? `the GPU ${(machine.gpu_memory / GB).toFixed(1)} GB` : null,
  ].filter(known).join(", ");
  return [
    el("h3", {}, "Was the machine busy?"), sentence(machine.busy),
    el("p", {class: "note"}, facts ? `${capitalised(facts)} ` : null, "Disk and network are the whole machine's. A gap is a pause between an interruption and going on."),
    el("div", {class: "columns"}, wanted.map(([title], i) => el("div", {}, el("h3", {}, title), charts[i]))),
    el("h3", {}, "Over the whole run"),
    table("Machine", [
      {label: "Measure", value: ([title, key]) => `${title}: ${MEASURES[key][0]}`}, {label: "Mean", value: ([, key]) => machine.mean[key], number: true, show: ([, key]) => measured(machine, key, machine.mean[key])},
      {label: "Most", value: ([, key]) => machine.most[key], number: true, show: ([, key]) => measured(machine, key, machine.most[key])},
    ], wanted.flatMap(([title, keys]) => keys.map(key => [title, key]))),
  ];
}

function draw_machine(chart, machine, title, keys) {
  const unit = MEASURES[keys[0]][1], share = unit.startsWith("%");
  const traces = keys.map((key, i) => ({
    x: machine.minutes, y: machine.values[key].map(value => in_unit(machine, key, value)), name: MEASURES[key][0], line: line_style(i),
    mode: machine.minutes.length < 30 ? "lines+markers" : "lines", marker: {size: 5}, hovertemplate: `minute %{x:.3~g}: %{y:.3~f} ${unit}<extra></extra>`,
  }));
  draw(chart, `${title} by minutes: ${keys.map(key => MEASURES[key][0]).join(", ")}; the table below has means and the most`, traces, {
    height: 260, xaxis: axis("minutes", {rangemode: "tozero"}), yaxis: axis(unit, share ? {range: [0, 105]} : {rangemode: "tozero", exponentformat: "none"}), showlegend: keys.length > 1,
  });
}

function console_tab(run) {
  if (!run.console) return [sentence(run.machine_note || "Nothing of its console was kept: the run was made by an earlier version or by soup.py, or in a notebook's own process.")];
  const text = el("pre", {class: "scroll console", tabindex: 0, role: "region", "aria-label": "Console"}, run.console);
  redraw = () => { text.scrollTop = text.scrollHeight; };  // how it ended is what is asked first
  return [
    el("p", {class: "note"}, "What the training printed, without progress bars: the newest lines, the last one below. The whole is in ", el("code", {}, `${run.id}/console.log`), "."), text,
  ];
}
