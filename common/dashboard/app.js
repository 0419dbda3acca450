"use strict";
// The page itself: the run and the tab that the address names are shown, and all is begun.

function show_run() {
  const run = runs.get(place.run);
  by_id("run-title").textContent = `Run ${run.id}`;
  by_id("run").value = run.id;
  document.querySelectorAll("[data-row]").forEach(row => row.dataset.row === run.id ? row.setAttribute("aria-current", "true") : row.removeAttribute("aria-current"));
  by_id("tabs").childNodes.forEach(tab => {
    const selected = tab.dataset.tab === place.tab;
    tab.setAttribute("aria-selected", selected);
    tab.tabIndex = selected ? 0 : -1;
    if (selected) by_id("panel").setAttribute("aria-labelledby", tab.id);
  });
  redraw = () => {};
  by_id("panel").querySelectorAll(".js-plotly-plot").forEach(chart => chart.drawn.then(() => Plotly.purge(chart)));
  by_id("panel").replaceChildren(...TABS[place.tab][1](run));
  redraw();
}

function follow_address(scroll) {
  const restored = restore_view();
  if (restored) show_overview();
  const wanted = new URLSearchParams(location.hash.slice(1)), before = {...place};
  place.run = runs.has(wanted.get("run")) ? wanted.get("run") : place.run ?? [...best_ids][0] ?? data.runs[0].id;
  place.tab = Object.hasOwn(TABS, wanted.get("tab")) ? wanted.get("tab") : "summary";
  if (known(before.run)) note_view();  // the address that a page is opened with stays as it is
  if (!restored && place.run === before.run && place.tab === before.tab) return;
  show_run();
  if (scroll && place.run !== before.run) {
    by_id("run-section").scrollIntoView();
    by_id("run-title").focus({preventScroll: true});
  }
}

// At once, since hashchange comes later, and the next key or click may come before it.
function go_to(run, tab) {
  location.hash = link(run, tab);
  follow_address(true);
}

function set_up_run() {
  by_id("run").append(...data.runs.map(run => el("option", {value: run.id}, run.id)));
  by_id("run").addEventListener("change", event => go_to(event.target.value, place.tab));
  const names = Object.keys(TABS);
  by_id("tabs").append(...names.map(name => el("button", {
    type: "button", role: "tab", id: `tab-${name}`, "data-tab": name, "aria-controls": "panel",
    onclick: () => go_to(place.run, name),
  }, TABS[name][0])));
  by_id("tabs").addEventListener("keydown", event => {
    const at = names.indexOf(place.tab);
    const to = {ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: names.length - 1}[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const tab = by_id("tabs").children[(to + names.length) % names.length];
    tab.focus();
    tab.click();
  });
  addEventListener("hashchange", () => follow_address(true));
  follow_address(false);
}

by_id("built").textContent = moment(data.built);
if (data.runs.length) {
  show_best();
  set_up_overview();
  restore_view();
  show_overview();
  set_up_run();
  show_recipes();
  if (data.runs.length > 1) set_up_two();
}
const draw_sweeps = show_sweeps();
draw_sweeps();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  if (data.runs.length) show_curves();
  redraw();
  draw_sweeps();
});

const reload_seconds = Number(document.body.dataset.reload);
if (reload_seconds) {  // only while nobody is doing anything with the page, whose choices a reload would undo
  let last = Date.now();
  for (const kind of ["pointermove", "pointerdown", "keydown", "wheel"]) addEventListener(kind, () => { last = Date.now(); }, {passive: true});
  setInterval(() => { if (by_id("reload").checked && Date.now() - last > 1000 * reload_seconds) location.reload(); }, 1000 * reload_seconds);
}
