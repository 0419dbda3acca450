"use strict";
// All runs: the best, their table, and the curves of the chosen ones.

const view = {columns: FIRST_COLUMNS, order: {by: null, descending: false, changed: note_view}, filter: "", preset: "best", smoothing: 0, log: ""};
let filtered = data.runs;  // that the filter lets through

function show_best() {
  by_id("best").append(...data.best.map(best => el("p", {}, known(best.run) ? el("strong", {}, run_link(best.run), " ") : null, best.text)));
  if (!data.best.length) by_id("best").append(el("p", {}, "No run has a result yet."));
}

// --- the table ---

const shown_columns = () => COLUMNS.filter(column => view.columns.includes(column.key));

function show_runs() {
  const box = run => el("input", {
    type: "checkbox", "aria-label": `${run.id} in the curves`, "data-run": run.id, checked: chosen.has(run.id), onchange: event => {
      event.target.checked ? chosen.add(run.id) : chosen.delete(run.id);
      view.preset = null;
      show_curves();
      note_view();
    },
  });
  const columns = shown_columns();
  if (![ID, ...columns].some(column => column.key === view.order.by)) view.order.by = null;
  by_id("runs").replaceChildren(table("Table of runs", [
    {label: "Curves", show: box},
    {...ID, fixed: true, show: run => el("span", {}, run_link(run.id), best_ids.has(run.id) ? " ★ best" : "")},
    ...columns,
  ], data.runs, run => ({"data-row": run.id, "aria-current": run.id === place.run ? "true" : null}), view.order));
  hide_rows();
  const more = data.differing.filter(key => !view.columns.includes(key));
  by_id("more-differences").replaceChildren(...more.length ? ["Also differing: ", ...breakable(more.join(", ")), "."] : []);
}

const rows_of_runs = () => [...by_id("runs").querySelectorAll("[data-row]")];

function hide_rows() {
  const ids = new Set(filtered.map(run => run.id));
  rows_of_runs().forEach(row => { row.hidden = !ids.has(row.dataset.row); });
}

function apply_filter() {
  const {runs: through, problems} = filter_runs(view.filter);
  filtered = through;
  hide_rows();
  by_id("filter-said").textContent = [view.filter.trim() ? `${filtered.length} of ${data.runs.length} runs.` : "", ...problems].join(" ");
}

function save_table() {
  const rows = rows_of_runs().filter(row => !row.hidden).map(row => runs.get(row.dataset.row));
  save_file("runs.csv", new Blob([csv_of([ID, ...shown_columns()], rows)], {type: "text/csv;charset=utf-8"}));
}

function show_column_boxes() {
  const groups = [...new Set(COLUMNS.map(column => column.group))];
  const box = column => el("label", {}, el("input", {type: "checkbox", "data-column": column.key, checked: view.columns.includes(column.key), onchange: () => {
    set_columns([...by_id("columns").querySelectorAll("[data-column]:checked")].map(input => input.dataset.column));
    note_view();
  }}), el("span", {}, breakable(column.label)));
  by_id("columns").replaceChildren(...groups.map(group => el("fieldset", {}, el("legend", {}, group), COLUMNS.filter(column => column.group === group).map(box))));
}

function set_columns(keys) {
  view.columns = keys;
  by_id("columns").querySelectorAll("[data-column]").forEach(input => { input.checked = keys.includes(input.dataset.column); });
  show_runs();
}

// --- the curves ---

function preset_runs(preset) {
  if (preset === "none") return [];
  const ids = new Set(filtered.map(run => run.id)), newest = filtered.filter(run => Object.keys(run.curves).length).map(run => run.id);
  if (preset === "all") return newest;
  const best = data.ranked.flatMap(ranking => ranking.filter(id => ids.has(id)).slice(0, 5));
  return [...new Set(preset === "best" ? [...best, ...newest] : newest)].slice(0, 5);
}

function choose(ids) {
  chosen.clear();
  ids.forEach(id => chosen.add(id));
  document.querySelectorAll("[data-run]").forEach(box => { box.checked = chosen.has(box.dataset.run); });
  show_curves();
}

const choose_again = () => choose(view.preset ? preset_runs(view.preset) : [...chosen]);

function show_curves() {
  const key = by_id("curve").value, against = by_id("against").value;
  give_looks();
  if (!key) return;
  const drawn = data.runs.filter(run => chosen.has(run.id) && run.curves[key]);
  draw_curves(by_id("curves"), drawn, key, against, view);
  const log = {x: view.log.includes("x"), y: view.log.includes("y")};
  const lost = drawn.map(({curves: {[key]: curve}}) => curve.value.filter((value, i) => known(value) && ((log.x && curve[against][i] <= 0) || (log.y && value <= 0))).length).reduce((a, b) => a + b, 0);
  by_id("curves-said").textContent = lost ? `${lost} point${lost === 1 ? "" : "s"} at or below 0 can't stand on a logarithmic axis.` : "";
}

function set_smoothing(weight) {
  view.smoothing = weight;
  by_id("smoothing").value = weight;
  by_id("smoothing-said").textContent = weight.toFixed(2);
}

function set_log(axes) {
  view.log = axes;
  for (const name of "xy") by_id(`log-${name}`).checked = axes.includes(name);
}

// --- what the address keeps of it ---

function set_up_overview() {
  const select_of = id => [() => by_id(id).value ? [by_id(id).value] : [], ([text]) => {
    const options = [...by_id(id).options].map(option => option.value);
    by_id(id).value = options.includes(text) ? text : options[0] ?? "";
  }];
  by_id("curve").append(...Object.keys(CURVE_NAMES).filter(key => data.runs.some(run => run.curves[key])).map(key => el("option", {value: key}, CURVE_NAMES[key])));
  keep("curve", ...select_of("curve"));
  keep("against", ...select_of("against"));
  keep("smoothing", () => view.smoothing ? [String(view.smoothing)] : [], ([text]) => {
    const weight = Number(text ?? 0);
    set_smoothing(weight >= 0 && weight <= 0.99 ? weight : 0);
  });
  keep("log", () => view.log ? [view.log] : [], ([text]) => set_log(["x", "y", "xy"].includes(text) ? text : ""));
  keep("filter", () => view.filter.trim() ? [view.filter] : [], ([text]) => {
    view.filter = by_id("filter").value = data.runs.length > 1 ? text ?? "" : "";  // one run has no filter to take it away again
  });
  keep("columns", () => view.columns.join() === FIRST_COLUMNS.join() ? [] : [view.columns.join()], ([text]) => {
    const keys = (text ?? "").split(","), there = COLUMNS.map(column => column.key).filter(key => keys.includes(key));
    view.columns = there.length || text === "" ? there : FIRST_COLUMNS;
  });
  keep("sort", () => view.order.by ? [`${view.order.descending ? "-" : ""}${view.order.by}`] : [], ([text]) => {
    const by = (text ?? "").replace(/^-/, "");
    Object.assign(view.order, {by: [ID, ...COLUMNS].some(column => column.key === by) ? by : null, descending: (text ?? "").startsWith("-")});
  });
  keep("choose", () => view.preset && view.preset !== "best" ? [view.preset] : !view.preset && !chosen.size ? ["none"] : [], ([text]) => {
    view.preset = ["newest", "all", "none"].includes(text) ? text : "best";
  });
  keep("chosen", () => view.preset ? [] : [...chosen], ids => {
    const there = ids.filter(id => runs.has(id));
    if (!there.length) {
      view.preset ??= "best";
      return;
    }
    view.preset = null;
    chosen.clear();
    there.forEach(id => chosen.add(id));
  });

  let waiting = null;
  const filter_now = () => {
    clearTimeout(waiting);
    if (view.filter === by_id("filter").value) return;
    view.filter = by_id("filter").value;
    apply_filter();
    if (view.preset) choose_again();
    note_view();
  };
  by_id("filter").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(filter_now, 200); });
  by_id("filter").addEventListener("change", filter_now);
  const curves_changed = () => {
    show_curves();
    if (place.tab === "curves") redraw();
    note_view();
  };
  for (const id of ["curve", "against"]) by_id(id).addEventListener("change", () => { show_curves(); note_view(); });
  let frame = null;  // of the slider's many steps those are drawn that the screen can show
  by_id("smoothing").addEventListener("input", event => {
    set_smoothing(Number(event.target.value));
    frame ??= requestAnimationFrame(() => { frame = null; show_curves(); if (place.tab === "curves") redraw(); });
  });
  by_id("smoothing").addEventListener("change", note_view);
  for (const name of "xy") by_id(`log-${name}`).addEventListener("change", () => {
    set_log(["x", "y"].filter(axis => by_id(`log-${axis}`).checked).join(""));
    curves_changed();
  });
  document.querySelectorAll("[data-choose]").forEach(button => button.addEventListener("click", () => {
    view.preset = button.dataset.choose;
    choose_again();
    note_view();
  }));
  by_id("save-table").addEventListener("click", save_table);
  by_id("copy-link").addEventListener("click", copy_link);
  by_id("first-columns").addEventListener("click", () => { set_columns(FIRST_COLUMNS); note_view(); });
}

function show_overview() {  // after an address was read
  show_runs();
  apply_filter();
  show_column_boxes();
  choose_again();
}
