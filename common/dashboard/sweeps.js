"use strict";
// Sweeps: their trials, the best so far, which parameters mattered, and why trials failed.

function show_sweeps() {
  const drawings = data.sweeps.map(sweep => {
    const parameters = [...new Set(sweep.trials.flatMap(trial => Object.keys(trial.parameters)))];
    const chart = el("div", {class: "chart"}), progress = el("div", {class: "chart"});
    by_id("sweeps").append(el("h3", {}, sweep.id), ...sweep.problems.map(problem => el("p", {class: "problem"}, problem)));
    if (!sweep.trials.length) return () => {};
    const several = new Set(sweep.trials.map(trial => trial.value).filter(known)).size > 1;  // else there is no better and no worse
    const counts = sweep.trials.reduce((sums, {state}) => { sums[state] = (sums[state] || 0) + 1; return sums; }, {});
    const failed = sweep.trials.filter(trial => trial.error);
    by_id("sweeps").append(
      el("p", {class: "note"}, `${Object.entries(counts).map(([state, n]) => `${n} ${state}`).join(", ")}.${several ? ` A line is a trial: the stronger its colour, the better its ${sweep.metric} (to ${sweep.goal}); dotted lines have no result.` : ""}`),
      ...several ? [el("div", {class: "scroll", tabindex: 0, role: "region", "aria-label": `Chart of sweep ${sweep.id}`, style: "width: 100%"}, chart)] : [],
      table(`Trials of sweep ${sweep.id}`, [
        {label: "Trial", value: trial => trial.number, number: true},
        {label: "Run", value: trial => trial.run_id, show: trial => el("span", {class: "wrap"}, trial.runs.flatMap((id, i) => [i ? ", " : "", run_link(id)]))},
        {label: "State", value: trial => trial.state, show: trial => trial.error ? `${trial.state}: ${trial.error}` : trial.state},
        {label: sweep.metric, value: trial => trial.value, number: true, show: trial => known(trial.value) ? `${shown(trial.value)}${known(trial.sd) ? ` ± ${shown(trial.sd)}` : ""}` : "–"},
        ...parameters.map(key => ({label: key, value: trial => trial.parameters[key] ?? null, show: trial => shown(trial.parameters[key])})),
      ], sweep.trials),
      ...sweep.trials.some(trial => known(trial.sd)) ? [el("p", {class: "note"}, "Of trials with several seeds the value is their mean ± sd.")] : [],
      ...failed.length ? [el("h4", {}, "Trials with an error"), el("ul", {}, failed.map(trial => el("li", {}, `Trial ${trial.number}, `, run_link(trial.run_id), `: ${trial.error}`)))] : [],
      el("div", {class: "columns"}, el("div", {}, el("h4", {}, "Which parameters matter"), ...importance(sweep)),
        several ? el("div", {}, el("h4", {}, "Best so far"), progress) : null));
    return () => {
      if (!several) return;
      draw_trials(chart, sweep, id => { if (runs.has(id)) go_to(id); });
      draw_progress(progress, sweep);
    };
  });
  return () => drawings.forEach(drawing => drawing());
}

function importance(sweep) {
  const share = ([, value]) => el("span", {}, el("meter", {min: 0, max: 1, value, "aria-label": "share"}), ` ${percent(value)}`);
  return [
    ...sweep.importance.length ? [table(`Importance in sweep ${sweep.id}`, [
      {label: "Parameter", value: ([key]) => key}, {label: "Importance", value: ([, value]) => value, number: true, show: share},
    ], sweep.importance)] : [],
    sweep.importance_note ? el("p", {class: "note"}, sweep.importance_note) : null,
  ].filter(known);
}

function draw_progress(chart, sweep) {
  const trials = [...sweep.trials].sort((a, b) => a.number - b.number), done = trials.filter(trial => trial.state === "complete" && known(trial.value));
  draw(chart, `Best ${sweep.metric} so far by trial; the table of trials gives each`, [
    {x: done.map(trial => trial.number), y: done.map(trial => trial.value), mode: "markers", name: "a trial", marker: {size: 7, color: css("--soft")},
      error_y: {type: "data", array: done.map(trial => trial.sd ?? 0), visible: done.some(trial => known(trial.sd)), color: css("--soft"), thickness: 1},
      hovertemplate: "trial %{x}: %{y:.4~f}<extra></extra>"},
    {x: trials.map(trial => trial.number), y: sweep.best_so_far, mode: "lines", name: "best so far", line: {...line_style(0), shape: "hv"}, hovertemplate: "best after trial %{x}: %{y:.4~f}<extra></extra>"},
  ], {xaxis: axis("trial", {tickformat: "d", dtick: trials.length <= 12 ? 1 : null}), yaxis: axis(safe(sweep.metric))});
}
