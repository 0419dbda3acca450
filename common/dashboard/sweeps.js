"use strict";
// Sweeps: their trials.

function show_sweeps() {
  const drawings = data.sweeps.map(sweep => {
    const parameters = [...new Set(sweep.trials.flatMap(trial => Object.keys(trial.parameters)))];
    const chart = el("div", {class: "chart"});
    by_id("sweeps").append(el("h3", {}, sweep.id), ...sweep.problems.map(problem => el("p", {class: "problem"}, problem)));
    if (!sweep.trials.length) return () => {};
    const several = new Set(sweep.trials.map(trial => trial.value).filter(known)).size > 1;  // else there is no better and no worse
    const counts = sweep.trials.reduce((sums, {state}) => { sums[state] = (sums[state] || 0) + 1; return sums; }, {});
    by_id("sweeps").append(
      el("p", {class: "note"}, `${Object.entries(counts).map(([state, n]) => `${n} ${state}`).join(", ")}.${several ? ` A line is a trial: the stronger its colour, the better its ${sweep.metric} (to ${sweep.goal}); dotted lines have no result.` : ""}`),
      ...several ? [el("div", {class: "scroll", tabindex: 0, role: "region", "aria-label": `Chart of sweep ${sweep.id}`, style: "width: 100%"}, chart)] : [],
      table(`Trials of sweep ${sweep.id}`, [
        {label: "Trial", value: trial => trial.number, number: true}, {label: "Run", value: trial => trial.run_id, show: trial => run_link(trial.run_id)},
        {label: "State", value: trial => trial.state, show: trial => trial.error ? `${trial.state}: ${trial.error}` : trial.state},
        {label: sweep.metric, value: trial => trial.value, number: true, show: trial => known(trial.value) ? shown(trial.value) : "–"},
        ...parameters.map(key => ({label: key, value: trial => trial.parameters[key] ?? null, show: trial => shown(trial.parameters[key])})),
      ], sweep.trials));
    return () => several && draw_trials(chart, sweep, id => { if (runs.has(id)) go_to(id); });
  });
  return () => drawings.forEach(drawing => drawing());
}
