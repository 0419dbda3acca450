"use strict";
// All that can stand in the table of runs, be asked for in its filter, and go into its CSV.

// "8 of 8 (5 head alone)", as far as the settings are known; null where nothing was trained.
function epochs_done(run, of_head = " ({} head alone)") {
  const done = run.facts["Epochs done"], [head, rest] = [run.config.head_epochs ?? 0, run.config.epochs];
  if (typeof done !== "number" || typeof head !== "number" || typeof rest !== "number" || done > head + rest) return known(done) ? shown(done) : null;
  return `${done} of ${head + rest}${head ? of_head.replace("{}", Math.min(done, head)) : ""}`;
}

// {key, label, title, value(run) → number, string, list or null, show(run) → text or element, number, share: shown in percent, group}
const COLUMNS = (() => {
  const share = (key, label, value, title) => ({key, label, title, value, number: true, share: true, show: run => percent(value(run)), group: "Results"});
  const first = [
    {key: "status", label: "Status", value: run => run.status, group: "Results",
      show: run => el("span", {class: {finished: "good", crashed: "bad", failed: "bad"}[run.status], title: run.status_text}, run.status)},
    share("validation/accuracy", "Validation", run => run.validation_accuracy, "Validation accuracy of the best epoch"),
    share("test/accuracy", "Test", run => test(run, "accuracy"), "Accuracy on the test set"),
    share("test/macro_f1", "Macro F1", run => test(run, "macro_f1"), "Mean F1 of the classes, on the test set"),
    {key: "epochs_done", label: "Epochs done", title: "Of head_epochs, in which the head alone is trained, and epochs together", value: run => run.facts["Epochs done"] ?? null, number: true, group: "Results", show: run => epochs_done(run) ?? "–"},
    {key: "duration", label: "Duration", csv: "duration_seconds", value: run => run.seconds, number: true, group: "Results", show: run => duration(run.seconds)},
    {key: "started", label: "Started", csv: "started_unix_seconds", value: run => run.started, number: true, group: "Results", show: run => moment(run.started)},
  ];
  const all_numbers = value => data.runs.every(run => !known(value(run)) || typeof value(run) === "number");
  const plain = (key, label, group, value) => ({key, label, group, value, number: all_numbers(value), show: run => known(value(run)) ? shown(value(run)) : "–"});
  const metric = (key, label, value) => plain(key, label, "Results", value);
  const keys_of = part => [...new Set(data.runs.flatMap(run => Object.keys(part(run))))];
  const metrics = keys_of(run => run.report ? run.report.metrics : {}).filter(key => !first.some(column => column.key === key)).sort();
  const facts = keys_of(run => run.facts).filter(key => key !== "Epochs done");
  const settings = keys_of(run => run.config), differing = data.differing.filter(key => settings.includes(key));
  return [
    ...first,
    plain("data", "Data", "Results", run => run.data), plain("best_epoch", "Best epoch", "Results", run => run.best_epoch),
    ...metrics.map(key => (data.shares.includes(key) ? share : metric)(key, key, run => run.report ? run.report.metrics[key] ?? null : null)),
    ...facts.map(key => plain(`fact/${key.toLowerCase().replaceAll(" ", "_")}`, key, "Facts", run => run.facts[key] ?? null)),
    ...[...differing, ...settings.filter(key => !differing.includes(key)).sort()].map(key => ({
      ...plain(key, key, "Settings", run => run.config[key] ?? null), show: run => key in run.config ? shown(run.config[key]) : "–"})),
  ];
})();
const ID = {key: "id", label: "Run", value: run => run.id};
const DIFFERENCES_SHOWN = 8;
const FIRST_COLUMNS = ["status", "validation/accuracy", "test/accuracy", "test/macro_f1", "epochs_done", "duration", "started", ...data.differing.slice(0, DIFFERENCES_SHOWN)];
