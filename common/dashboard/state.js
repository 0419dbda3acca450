"use strict";
// What is chosen. The address's fragment holds the run and the tab.

const runs = new Map(data.runs.map(run => [run.id, run]));
const best_ids = new Set(data.best.map(best => best.run).filter(known));
const chosen = new Set();  // runs in the curves
const place = {run: null, tab: "summary"};
let redraw = () => {};  // draws the open tab's charts again

function with_place(changes) {  // the address with these keys changed, and all others kept
  const address = new URLSearchParams(location.hash.slice(1));
  Object.entries(changes).forEach(([key, value]) => address.set(key, value));
  return `#${address}`;
}
const link = (id, tab = "summary") => with_place({run: id, tab});
// The rest of the address may have changed since the link was made.
const run_link = id => runs.has(id) ? el("a", {href: link(id), onclick: event => { event.currentTarget.href = link(id); }}, id) : id || "–";
const test = (run, key) => run.report ? run.report.metrics[`test/${key}`] : null;

// key → {step, epoch, minutes, value}, four lists
data.runs.forEach(run => {
  run.curves = Object.fromEntries(run.curves.flatMap(table => Object.entries(table.values).map(([key, value]) => [key, {...table, value}])));
});
