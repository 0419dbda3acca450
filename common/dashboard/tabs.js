"use strict";
// One run: what its tabs show.

const TABS = {
  summary: ["Summary", summary_tab], curves: ["Curves", curves_tab], classes: ["Classes", classes_tab], confusion: ["Confusion", confusion_tab],
  confidence: ["Confidence", confidence_tab], labels: ["Labels", labels_tab], pictures: ["Pictures", pictures_tab],
  machine: ["Machine", machine_tab], console: ["Console", console_tab],
  settings: ["Settings", settings_tab], lineage: ["Lineage", lineage_tab], card: ["Card", card_tab],
};
const not_tested = run => [el("p", {}, "This run is not tested yet: ", el("code", {}, run.evaluate))];

function summary_tab(run) {
  return [
    el("p", {}, el("strong", {}, run.status), `. ${run.status_text} `, run.error ? el("span", {class: "bad"}, run.error) : null),
    ...run.problems.map(problem => el("p", {class: "problem"}, problem)),
    el("div", {class: "answers"}, run.answers.map(({question, answer}) => el("div", {}, el("h3", {}, question), el("p", {}, answer)))),
    ...run.commands.length || run.remedies.length ? [el("h3", {}, "What next")] : [],
    ...run.remedies.map(text => sentence(text)),
    ...run.commands.map(({why, command}) => el("p", {}, `${why}: `, el("code", {}, command))),
  ];
}

function curves_tab(run, panel) {
  const wanted = [
    ["loss", ["train/loss", "validation/loss"]], ["accuracy", ["train/accuracy", "validation/accuracy", "validation/top5_accuracy"]],
    ["means over classes", ["validation/macro_f1", "validation/balanced_accuracy"]],
    ["loss of a batch", ["train/batch_loss"]], ["learning rate", ["lr"]], ["images a second", ["throughput/images_per_second"]],
  ].map(([title, keys]) => [title, keys.filter(key => run.curves[key])]).filter(([, keys]) => keys.length);
  const charts = wanted.map(() => el("div", {class: "chart"}));
  const said = el("p", {class: "note for-charts"});
  redraw = () => {
    said.textContent = view.smoothing ? `Smoothed by ${view.smoothing}, as the curves of the chosen runs.` : "";
    wanted.forEach(([title, keys], i) => draw_run_curves(charts[i], run, title, keys, view.smoothing));
  };
  return charts.length ? [said, el("div", {class: "columns"}, charts)] : [el("p", {}, "No curves: nothing was logged yet.")];
}

function classes_tab(run) {
  const report = run.report;
  if (!report) return not_tested(run);
  const rows = report.per_class.map((row, i) => ({...row, label: i})).sort((a, b) => (a.recall ?? 2) - (b.recall ?? 2));
  const score = (label, key) => ({label, value: row => row[key], number: true, show: row => percent(row[key])});
  const between = key => ({key: `${key}_low`, label: "95 %", title: `95 % interval of ${key}`, value: row => row[`${key}_low`], number: true,
    show: row => known(row[`${key}_low`]) ? `${(100 * row[`${key}_low`]).toFixed(0)}–${(100 * row[`${key}_high`]).toFixed(0)} %` : "–"});
  return [
    el("p", {class: "note"}, "Recall: of the images of a class, the share found. Precision: of the images given this name, the share that deserve it. F1 is their harmonic mean. The weakest recall comes first."),
    table("Classification report", [
      {label: "Class", value: row => report.classes[row.label]},
      ...report.superclasses ? [{label: "Superclass", value: row => report.superclasses[report.superclass_of[row.label]]}] : [],
      score("Recall", "recall"), between("recall"), score("Precision", "precision"), between("precision"), score("F1", "f1"), between("f1"),
      {label: "Images", value: row => row.support, number: true}, {label: "Predicted", value: row => row.predicted, number: true},
    ], rows),
  ];
}

const KEPT_PICTURES = "an evaluation keeps those of the commonest pairs of classes, of each pair the surest";
const tiles = (run, wanted, caption) => strip(wanted.map(n => ({run, n, text: caption(run.thumbnails.tiles[n])})));

// pictures: [{run, n: which of the run's thumbnails, text}]; told: the texts are long.
function strip(pictures, told = false) {
  const step = (at, count) => count > 1 ? 100 * at / (count - 1) : 0, sources = [...new Set(pictures.map(({run}) => run))];
  const all = el("div", {class: told ? "tiles told" : "tiles"}, pictures.map(({run, n, text}) => {
    const {columns, rows, tiles} = run.thumbnails, image = el("div", {class: "tile", role: "img", "aria-label": `Image ${tiles[n][3]}: ${text}`});
    image.style.backgroundImage = `var(--sprite-${sources.indexOf(run)})`;
    image.style.backgroundSize = `${100 * columns}% ${100 * rows}%`;
    image.style.backgroundPosition = `${step(n % columns, columns)}% ${step(Math.floor(n / columns), rows)}%`;
    return el("figure", {}, image, el("figcaption", {"aria-hidden": "true"}, text));
  }));
  sources.forEach((run, i) => all.style.setProperty(`--sprite-${i}`, `url("${run.thumbnails.src}")`));  // once for all of its images
  return all;
}

// The matrix at one level, with classes of one superclass side by side.
function matrix_of(report, level) {
  const of = report.superclass_of, by_superclass = level === "superclasses";
  const labels = report.classes.map((_, i) => i);
  if (of) labels.sort((a, b) => of[a] - of[b] || a - b);
  const names = by_superclass ? report.superclasses : labels.map(i => report.classes[i]);
  const row_of = by_superclass ? of : labels.reduce((rows, label, row) => { rows[label] = row; return rows; }, []);
  const count = names.map(() => names.map(() => 0));
  report.cells.forEach(([i, j, n]) => { count[row_of[i]][row_of[j]] += n; });
  const groups = by_superclass || !of ? null : report.superclasses.map((name, s) => {
    const rows = labels.flatMap((label, row) => of[label] === s ? [row] : []);
    return {name, from: rows[0], to: rows.at(-1)};
  }).filter(group => known(group.from));
  return {names, count, row_of, groups};
}

// What is chosen in the matrix, by name: it stays for every run that has these classes; others begin with their commonest mistake.
const confusion = {level: "classes", pair: []};
const names_at = (report, level) => level === "classes" ? report.classes : report.superclasses ?? [];
keep("level", () => confusion.level === "classes" ? [] : [confusion.level], ([text]) => {
  confusion.level = text === "superclasses" && data.runs.some(run => run.report?.superclasses) ? text : "classes";
});
keep("confused", () => confusion.pair, texts => {
  const there = texts.length === 2 && data.runs.some(run => run.report && texts.every(name => names_at(run.report, confusion.level).includes(name)));
  confusion.pair = there ? texts : [];
});

function confusion_tab(run) {
  const report = run.report;
  if (!report) return not_tested(run);
  const chart = el("div", {class: "chart matrix"}), found = el("div", {"aria-live": "polite", id: "cell"});
  const truth = el("select", {id: "true-class"}), guess = el("select", {id: "predicted-class"});
  let matrix;
  const show_cell = (i, j) => {
    [truth.value, guess.value] = [i, j];
    const {names, count, row_of} = matrix, total = count[i].reduce((a, b) => a + b, 0), n = count[i][j];
    const what = i === j ? `of ${names[i]} were recognised` : `of ${names[i]} were taken for ${names[j]}`;
    const content = [el("p", {}, el("strong", {}, total ? `${n} of ${total} images` : `There are no images of ${names[i]}`), total ? ` ${what} (${percent(n / total)}).` : ".")];
    const wanted = run.thumbnails ? run.thumbnails.tiles.flatMap(([t, p], at) => row_of[t] === i && row_of[p] === j && t !== p ? [at] : []) : [];
    if (wanted.length && wanted.length < n) content.push(el("p", {class: "note"}, `${Math.min(wanted.length, 48)} of them:`));
    if (wanted.length) content.push(tiles(run, wanted.slice(0, 48), ([t, p, sure]) => `${report.classes[t]}, taken for ${report.classes[p]}, ${percent(sure)} sure`));
    else if (n && i !== j) content.push(sentence(run.thumbnails || !run.pictures_note ? `The page holds no pictures of these: ${KEPT_PICTURES}.` : run.pictures_note, {class: "note"}));
    found.replaceChildren(...content);
  };
  const set_level = name => {
    level.value = name;
    matrix = matrix_of(report, name);
    for (const select of [truth, guess]) select.replaceChildren(...matrix.names.map((name, i) => el("option", {value: i}, name)));
    redraw = () => draw_matrix(chart, matrix, choose_cell);
    const wanted = confusion.pair.map(name => matrix.names.indexOf(name));
    let worst = [0, 0, 0];
    matrix.count.forEach((row, i) => row.forEach((n, j) => { if (i !== j && n > worst[2]) worst = [i, j, n]; }));
    show_cell(...wanted.length && !wanted.includes(-1) ? wanted : worst);
  };
  const choose_cell = (i, j) => {
    confusion.pair = [i, j].map(at => matrix.names[at]);
    show_cell(i, j);
    note_view();
  };
  const choose_level = name => {
    Object.assign(confusion, {level: name, pair: []});
    set_level(name);
    redraw();
    note_view();
  };
  const show_chosen = () => choose_cell(Number(truth.value), Number(guess.value));
  truth.addEventListener("change", show_chosen);
  guess.addEventListener("change", show_chosen);
  const level = el("select", {id: "level", onchange: event => choose_level(event.target.value)},
    el("option", {value: "classes"}, "classes"), el("option", {value: "superclasses"}, "superclasses"));
  set_level(report.superclasses ? confusion.level : "classes");
  const support = report.cells.reduce((sums, [i, , n]) => { sums[i] = (sums[i] || 0) + n; return sums; }, {});
  const pairs = table("Most confused pairs", [
    {label: "True", value: row => report.classes[row[0]]}, {label: "Taken for", value: row => report.classes[row[1]]},
    {label: "Images", value: row => row[2], number: true},
    {label: "Share", title: "Of the true class's images", value: row => row[2] / support[row[0]], number: true, show: row => percent(row[2] / support[row[0]])},
    {label: "Look", show: ([i, j]) => el("button", {type: "button", "aria-label": `Show ${report.classes[i]} taken for ${report.classes[j]}`, onclick: () => {
      if (level.value !== "classes") choose_level("classes");
      choose_cell(matrix.row_of[i], matrix.row_of[j]);
      truth.focus();
    }}, "Show")},
  ], report.confused);
  return [
    el("p", {class: "note for-charts"}, "A row is a true class, a column what its images are taken for. Blue: recognised. Orange: mistakes, stronger for a larger share of the row. ",
      narrow() ? "Tap a cell for its images." : "Hover for numbers, click for the images, drag to zoom, double-click to see all again."),
    el("div", {class: "controls"}, report.superclasses ? el("label", {}, "Level ", level) : null),
    el("div", {class: "columns"}, chart, el("div", {},
      el("div", {class: "controls"}, el("label", {}, "True ", truth), el("label", {}, "taken for ", guess)), found)),
    el("h3", {}, "Most confused pairs"),
    report.confused.length ? pairs : el("p", {}, "It made no mistake on these images."),
  ];
}

function confidence_tab(run) {
  if (!run.report) return not_tested(run);
  const {calibration} = run.report, chart = el("div", {class: "chart square"});
  redraw = () => draw_reliability(chart, calibration);
  const row = (name, before, after) => known(before) ? [{name, before, after}] : [];
  return [
    el("p", {}, run.answers.find(({question}) => question.includes("confidence")).answer),
    el("p", {class: "note"}, "A point below the dotted line: surer than it should be. Above it: too modest. ",
      known(calibration.temperature) ? `After temperature scaling: by one number, ${calibration.note}.` : capitalised(calibration.note)),
    el("div", {class: "columns"}, chart, el("div", {},
      table("Calibration", [
        {label: "Measure", value: entry => entry.name}, {label: "As it is", value: entry => entry.before, number: true, show: entry => shown(entry.before)},
        {label: "After temperature", value: entry => entry.after, number: true, show: entry => known(entry.after) ? shown(entry.after) : "–"},
      ], [...row("expected calibration error", calibration.ece, calibration.ece_after), ...row("negative log-likelihood", calibration.nll, calibration.nll_after), ...row("temperature", 1, calibration.temperature)]),
      table("Reliability", [
        {label: "Confidence", value: bin => bin.low, number: true, show: bin => `${(100 * bin.low).toFixed(0)}–${(100 * bin.high).toFixed(0)} %`},
        {label: "Images", value: bin => bin.count, number: true}, {label: "Says", value: bin => bin.confidence, number: true, show: bin => percent(bin.confidence)},
        {label: "Right", value: bin => bin.accuracy, number: true, show: bin => percent(bin.accuracy)},
      ], calibration.bins.filter(bin => bin.count)))),
  ];
}

function labels_tab(run) {
  const report = run.report;
  if (!report) return not_tested(run);
  const tile_of = new Map(run.thumbnails ? run.thumbnails.tiles.map((tile, n) => [tile[3], n]) : []);
  if (!report.beats_chance) return [el("p", {}, "Its answers are not surely better than blind ones, so that its doubts say nothing of the labels.")];
  const named = run.issue_files.length > 0, doubted = report.label_issues.map((issue, i) => ({...issue, file: run.issue_files[i]})), pictured = doubted.map(issue => tile_of.get(issue.index)).filter(known);
  return [
    el("h3", {}, "Images whose label looks wrong"),
    ...doubted.length ? [
      el("p", {class: "note"}, "The model contradicts these labels with more confidence than it usually has for either class. Look before you blame the model."),
      ...report.label_issues_found > doubted.length ? [el("p", {class: "note"}, `The ${doubted.length} most doubtful of ${report.label_issues_found}; label_issues.csv has them all.`)] : [],
      ...pictured.length ? [tiles(run, pictured.slice(0, 24), ([t, p]) => `labelled ${report.classes[t]}; looks like ${report.classes[p]}`)] : [],
      table("Label issues", [
        {label: "Image", ...named ? {value: issue => issue.file} : {value: issue => issue.index, number: true}}, {label: "Label", value: issue => report.classes[issue.given]},
        {label: "Probability", value: issue => issue.given_probability, number: true, show: issue => percent(issue.given_probability)},
        {label: "Suggested", value: issue => report.classes[issue.suggested]},
        {label: "Its probability", value: issue => issue.suggested_probability, number: true, show: issue => percent(issue.suggested_probability)},
      ], doubted)] : [el("p", {}, "None found.")],
    el("h3", {}, "Classes that overlap"),
    ...report.overlapping_found > report.overlapping.length ? [el("p", {class: "note"}, `The first ${report.overlapping.length} of ${report.overlapping_found}.`)] : [],
    report.overlapping.length ? table("Overlapping classes", [
      {label: "Class", value: pair => report.classes[pair.a]}, {label: "and", value: pair => report.classes[pair.b]},
      {label: "Images", value: pair => pair.count, number: true},
      {label: "Share", value: pair => pair.share, number: true, show: pair => percent(pair.share)},
    ], report.overlapping) : el("p", {}, "None found."),
  ];
}

function pictures_tab(run) {
  return [
    run.pictures_note ? sentence(run.pictures_note, {class: "note"}) : null,
    el("div", {class: "pictures"}, run.pictures.map(({title, src}) =>
      el("figure", {}, el("figcaption", {}, title),
        el("div", {class: "scroll", tabindex: 0, role: "region", "aria-label": title}, el("img", {src, alt: `${title} of run ${run.id}`}))))),
    run.pictures.length || run.pictures_note ? null : el("p", {}, "No prediction grids yet: ", el("code", {}, run.visualize)),
    ...run.predictions.length ? [el("h3", {}, "The newest grid in words"), table("Predictions", [
      {label: "Image", value: row => row.image}, {label: "True", value: row => row.true}, {label: "Predicted", value: row => row.predicted},
      {label: "Confidence", value: row => row.confidence, number: true, show: row => percent(row.confidence)},
    ], run.predictions)] : [],
  ].filter(known);
}

function settings_tab(run) {
  const best = runs.get([...best_ids].find(id => runs.get(id).data === run.data)), compared = best && best !== run;
  const settings = table("Settings", [
    {label: "Setting", value: ([key]) => key, show: ([key]) => el("span", {}, breakable(key))}, {label: "Value", value: ([, value]) => shown(value)},
    ...compared ? [{label: "In the best run", value: ([key, value]) => shown(best.config[key]) === shown(value) ? null : shown(best.config[key]),
      show: ([key, value]) => shown(best.config[key]) === shown(value) ? "same" : shown(best.config[key])}] : [],
  ], Object.entries(run.config));
  const facts = table("Facts", [{label: "Fact", value: ([key]) => key}, {label: "Value", value: ([, value]) => shown(value)}],
    [["Started", moment(run.started)], ["Duration", duration(run.seconds)],
      ...Object.entries(run.facts).map(([key, value]) => [key, key === "Epochs done" ? epochs_done(run, ", {} of them the head alone") : typeof value === "number" ? value.toLocaleString("en") : value])]);
  return [el("div", {class: "columns"}, el("div", {}, el("h3", {}, "Settings"), settings), el("div", {}, el("h3", {}, "Facts"), facts))];
}

function lineage_tab(run) {
  return [
    el("p", {class: "note"}, "Where the numbers come from: which data made which model, and which model was measured."),
    el("ol", {class: "lineage"}, run.lineage.map(({kind, title, lines, url}) => el("li", {},
      el("span", {class: "note"}, kind), el("strong", {}, title), lines.map(line => el("div", {class: "note"}, line)),
      url ? el("a", {href: url, rel: "noreferrer"}, "in W&B") : null))),
  ];
}

function card_tab(run) {
  if (!run.card) return [el("p", {}, "No model card: this run's config.yaml or split.json is missing or damaged.")];
  return [el("p", {class: "note"}, "What is known of this run's weights, as it goes with them to W&B and into an export."), el("div", {class: "card"}, markdown(run.card))];
}

// Markdown as card.py writes it: headings, lists, a block of code, a paragraph to unfold, paragraphs, with an empty line between them.
function markdown(text) {
  const elements = [];
  let unfolded = null;
  for (const block of text.trim().split(/\n\n+/)) {
    const lines = block.split("\n"), [, level, title] = block.match(/^(#+) (.*)$/s) ?? [], [, summary] = block.match(/^<details><summary>(.*)<\/summary>$/) ?? [];
    if (block === "</details>") { unfolded = null; continue; }
    const element = title ? el(`h${level.length + 2}`, {}, in_line(title))
      : summary ? el("details", {}, el("summary", {}, summary))
      : block.startsWith("```") ? el("pre", {}, lines.slice(1, -1).join("\n"))
      : block.startsWith("- ") ? el("ul", {}, lines.map(line => el("li", {}, in_line(line.slice(2)))))
      : el("p", {}, in_line(block));
    if (unfolded) unfolded.append(element); else elements.push(element);
    if (summary) unfolded = element;
  }
  return elements;
}

const ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">"};
const IN_LINE = /(`+)(?!`) ?(.+?) ?(?<!`)\1(?!`)|\*\*(.+?)\*\*|\\([!-/:-@[-`{-~])|&(?:amp|lt|gt);|[^`*\\&]+|./gs;
const in_line = text => [...text.matchAll(IN_LINE)].map(([all, , code, strong, escaped]) =>
  code ? el("code", {}, code) : strong ? el("strong", {}, strong) : escaped ?? ENTITIES[all] ?? all);
