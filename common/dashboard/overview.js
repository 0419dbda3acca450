"use strict";
// All runs: the best, their table, and the curves of the chosen ones.

function show_best() {
  by_id("best").append(...data.best.map(best => el("p", {}, known(best.run) ? el("strong", {}, run_link(best.run), " ") : null, best.text)));
  if (!data.best.length) by_id("best").append(el("p", {}, "No run has a result yet."));
}

function show_runs() {
  const differing = data.differing.slice(0, 8), more = data.differing.slice(8);
  const share = (label, value, title) => ({label, value, title, number: true, show: run => percent(value(run))});
  const box = run => el("input", {
    type: "checkbox", "aria-label": `${run.id} in the curves`, "data-run": run.id, onchange: event => {
      event.target.checked ? chosen.add(run.id) : chosen.delete(run.id);
      show_curves();
    },
  });
  by_id("runs").append(table("Table of runs", [
    {label: "Curves", show: box},
    {label: "Run", value: run => run.id, show: run => el("span", {}, run_link(run.id), best_ids.has(run.id) ? " ★ best" : "")},
    {label: "Status", value: run => run.status, show: run => el("span", {class: {finished: "good", crashed: "bad", failed: "bad"}[run.status], title: run.status_text}, run.status)},
    share("Validation", run => run.validation_accuracy, "Validation accuracy of the best epoch"),
    share("Test", run => test(run, "accuracy"), "Accuracy on the test set"),
    share("Macro F1", run => test(run, "macro_f1"), "Mean F1 of the classes, on the test set"),
    {label: "Epochs done", value: run => run.facts["Epochs done"] ?? null, number: true, show: run => shown(run.facts["Epochs done"] ?? "–")},
    {label: "Duration", value: run => run.seconds, number: true, show: run => duration(run.seconds)},
    {label: "Started", value: run => run.started, number: true, show: run => moment(run.started)},
    ...differing.map(key => ({label: key, value: run => run.config[key] ?? null, show: run => key in run.config ? shown(run.config[key]) : "–",
      number: data.runs.every(run => !known(run.config[key]) || typeof run.config[key] === "number")})),
  ], data.runs, run => ({"data-row": run.id})));
  if (more.length) by_id("more-differences").textContent = `Also differing: ${more.join(", ")}.`;
}

function choose(ids) {
  chosen.clear();
  ids.forEach(id => chosen.add(id));
  document.querySelectorAll("[data-run]").forEach(box => { box.checked = chosen.has(box.dataset.run); });
  show_curves();
}

function show_curves() {
  const key = by_id("curve").value, against = by_id("against").value;
  if (key) draw_curves(by_id("curves"), data.runs.filter(run => chosen.has(run.id) && run.curves[key]), key, against);
}

function set_up_curves() {
  const keys = Object.keys(CURVE_NAMES).filter(key => data.runs.some(run => run.curves[key]));
  by_id("curve").append(...keys.map(key => el("option", {value: key}, CURVE_NAMES[key])));
  const newest = data.runs.filter(run => Object.keys(run.curves).length).map(run => run.id);
  const choices = {best: [...data.leading, ...newest].filter((id, i, all) => all.indexOf(id) === i).slice(0, 5), newest: newest.slice(0, 5), all: newest, none: []};
  document.querySelectorAll("[data-choose]").forEach(button => button.addEventListener("click", () => choose(choices[button.dataset.choose])));
  for (const id of ["curve", "against"]) by_id(id).addEventListener("change", show_curves);
  choose(choices.best);
}
