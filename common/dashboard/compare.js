"use strict";
// Two runs side by side, or two groups of runs that differ in their seeds alone. The address's fragment holds which: `one`, `other`.

const {compared} = data, pair = {one: null, other: null};
const two = {curve: null, open: new Set(), drawn: false};  // what is chosen in the section; open: whose lists of images
const groups = new Map(compared.groups.map(group => [group.name, group]));
const side_number = new Map(compared.sides.map((name, i) => [name, i]));
const pairs = new Map(compared.pairs.map(([i, j, found]) => [`${i} ${j}`, found]));
const runs_of = name => (groups.has(name) ? groups.get(name).runs : [name]).map(id => runs.get(id));
const NAMED_RUNS = 12;  // of a group
const points = value => `${value < 0 ? "−" : "+"}${Math.abs(100 * value).toFixed(2)}`;
const bytes_of = base64 => Uint8Array.from(atob(base64), character => character.charCodeAt(0));

function show_recipes() {
  if (data.recipes.some(({text}) => text)) by_id("best-title").textContent = "The best recipe, and the best run";
  for (const {text, sure, next, commands, pair} of data.recipes) by_id(text ? "recipes" : "best").append(...[
    el("p", {}, text, sure ? el("strong", {}, ` ${sure}`) : null, pair ? [" ", el("a", pair_link(...pair), `${pair.join(" and ")} side by side`)] : null),
    next ? sentence(next) : null, ...commands.map(command => el("p", {}, el("code", {}, command))),
  ].filter(known));
  if (!groups.size) return;
  const share = (label, key) => ({label, value: group => group[key] && group[key].mean, number: true, show: group => mean_and_sd(group[key])});
  by_id("recipes").append(table("Groups of runs", [
    {label: "Group", value: group => group.name}, {label: "Runs", value: group => group.runs.length, number: true},
    share("Test, mean ± sd", "test"), share("Validation, mean ± sd", "validation"),
    {label: "Its runs", show: group => el("span", {class: "wrap"}, group.runs.slice(0, NAMED_RUNS).flatMap((id, i) => [i ? ", " : "", run_link(id)]), group.runs.length > NAMED_RUNS ? ` and ${group.runs.length - NAMED_RUNS} more` : null)},
    {label: "Not compared because", value: group => group.note || null, show: group => group.note ? el("span", {class: "wrap"}, ...sentence(group.note).childNodes) : "–"},
  ], compared.groups));
}

function mean_and_sd(found) {
  if (!found) return "–";
  const whole = text => el("span", {class: "whole"}, text);
  return el("span", {class: "parted"}, whole(`${(100 * found.mean).toFixed(1)}${known(found.sd) ? ` ± ${(100 * found.sd).toFixed(1)}` : ""} %`), " ", whole(`of ${found.seeds} seed${found.seeds === 1 ? "" : "s"}`));
}

const pair_link = (one, other) => ({href: with_place({one, other}), onclick: event => {
  event.preventDefault();
  go_to_pair(one, other);
  by_id("two-section").scrollIntoView();
  by_id("two-title").focus({preventScroll: true});
}});

// --- what is said of the two ---

const found_of = (one, other) => {
  const [i, j] = [side_number.get(one), side_number.get(other)];
  return i < j ? pairs.get(`${i} ${j}`) : pairs.get(`${j} ${i}`);
};

function why_not(one, other) {
  if (one === other) return "Choose two that are not the same.";
  return compared.why_not[one] ?? compared.why_not[other] ?? found_of(one, other);
}

// Differences are other − one; the page's data has each pair once, so that half of them turn round.
function intervals(one, other, found) {
  const turned = side_number.get(one) > side_number.get(other), single = runs_of(one).length + runs_of(other).length === 2;
  const rows = found.rows.map(([what, low, high, p]) => turned ? [what, -high, -low, p] : [what, low, high, p]);
  return table(`Difference, ${other} − ${one}`, [
    {label: "Over", value: row => row[0]},
    {label: "95 % interval, in points", value: row => row[1], number: true, show: row => el("span", {class: "parted"}, `${points(row[1])} to ${points(row[2])}`)},
    {label: single ? "McNemar's p" : "p", value: row => row[3], number: true, show: row => known(row[3]) ? row[3] < 0.0001 ? "< 0.0001" : row[3].toFixed(4) : "–"},
  ], rows);
}

function counts(one, other, found) {
  const turned = side_number.get(one) > side_number.get(other), [both, first, second, neither] = found.counts;
  const total = images_of(one).count;
  const rows = [["both", both], [`only ${one}`, turned ? second : first], [`only ${other}`, turned ? first : second], ["neither", neither]];
  const seeds = runs_of(one).length + runs_of(other).length > 2, open = total - both - first - second - neither;
  if (open) rows.push(["it depends on the seed", open]);
  return table("Which is right on how many images", [
    {label: seeds ? "Right with every seed" : "Right", value: row => row[0]}, {label: "Images", value: row => row[1], number: true},
    {label: "Share", value: row => row[1], number: true, show: row => percent(row[1] / total)},
  ], rows);
}

function settings(one, other) {
  const [a, b] = [one, other].map(name => runs_of(name)[0].config);
  if (![a, b].every(config => Object.keys(config).length)) return el("p", {}, "Which settings differ is not known: one of the two has no config.yaml that can be read.");
  const value = (config, key) => shown(key in config ? config[key] : compared.settings[key]);
  const keys = Object.keys(compared.settings).filter(key => value(a, key) !== value(b, key) && (key !== "seed" || !(groups.has(one) || groups.has(other))));
  if (!keys.length) return el("p", {}, "No setting differs.");
  return table("Settings that differ", [
    {label: "Setting", value: key => key, show: key => el("span", {}, breakable(key))}, {label: one, value: key => value(a, key)}, {label: other, value: key => value(b, key)},
  ], keys);
}

// --- which images ---

const images_of = name => compared.images.sets[compared.images.of[runs_of(name)[0].id]];
const is_right = bits => at => bits[at >> 3] >> (7 - at % 8) & 1;

// Places, in the order of the evaluation, of the images that every run of `one` gets right and none of `other`.
function only_right(one, other) {
  const [mine, theirs] = [one, other].map(name => runs_of(name).map(run => is_right(bytes_of(compared.right[run.id]))));
  return [...Array(images_of(one).count).keys()].filter(at => mine.every(right => right(at)) && !theirs.some(right => right(at)));
}

function image_names(name) {
  const {indices, files, labels, classes} = images_of(name), of = labels && new Uint16Array(bytes_of(labels).buffer), known_as = runs.get(classes).report.classes;
  return at => `${files ? files[at] : `image ${indices ? indices[at] : at}`}${of ? ` (${known_as[of[at]]})` : ""}`;
}

const PICTURED = 24, NAMED = 300;  // at most, of the images of a side

// The pictures that the page has are of mistakes: those of the one that is wrong, the surest first. Each says what every run of it says
// there, as far as the page has that too.
function alone_right(one, other) {
  const places = only_right(one, other), {indices, files} = images_of(one), name = image_names(one), wrong = runs_of(other);
  const tiles_of = wrong.filter(run => run.thumbnails).map(run => [run, new Map(run.thumbnails.tiles.map((tile, n) => [tile[3], n]))]);
  const said = new Map(places.map(at => [at, tiles_of.flatMap(([run, of]) => {
    const n = of.get(indices ? indices[at] : at);
    return known(n) ? [{run, n, tile: run.thumbnails.tiles[n]}] : [];
  })]));
  const sure = at => said.get(at).reduce((sum, {tile}) => sum + tile[2], 0) / said.get(at).length;
  const kept = places.filter(at => said.get(at).length).sort((a, b) => sure(b) - sure(a)), pictured = kept.slice(0, PICTURED);
  const rest = places.filter(at => !pictured.includes(at)), more = rest.length > NAMED ? `, and ${rest.length - NAMED} more` : "";
  const opened = !pictured.length, counted = n => `${n} image${n === 1 ? "" : "s"}`;
  return el("div", {},
    el("h3", {}, `Only ${one} gets right${runs_of(one).length + wrong.length > 2 ? ", with every seed" : ""}: ${counted(places.length)}`),
    ...pictured.length ? [
      el("p", {class: "note"}, `Each with its class, and what ${other} says.`),
      strip(pictured.map(at => ({...said.get(at)[0], text: mistakes(other, said.get(at))})), groups.has(other)),
    ] : [],
    pictured.some(at => said.get(at).length < wrong.length) ? el("p", {class: "note"}, "A seed that a caption does not name is wrong there too: what it says instead is not in the page.") : null,
    ...rest.length ? [
      sentence(why_no_picture(places.length - kept.length, kept.length - pictured.length, wrong), {class: "note"}),
      el("details", {open: opened || two.open.has(one), ontoggle: event => { if (!opened) note_opened(one, event.target.open); }},
        el("summary", {}, `${pictured.length ? `${rest.length} more` : "Which"}, by ${files ? "file" : "number in the test set"} and class`),
        el("p", {class: "note"}, rest.slice(0, NAMED).map(name).join(", "), more, ".")),
    ] : []);
}

// "glass; says metal, 83.0 % sure", of a group "glass; says metal (seed 0 83.0 %, seed 2 61.5 % sure)".
function mistakes(name, said) {
  const {classes} = said[0].run.report, by_class = new Map(said.map(({tile}) => [tile[1], []]));
  said.forEach(({run, tile}) => by_class.get(tile[1]).push(`${seed_name(run)} ${percent(tile[2])}`));
  const told = groups.has(name) ? runs => ` (${runs.join(", ")} sure)` : () => `, ${percent(said[0].tile[2])} sure`;
  return `${classes[said[0].tile[0]]}; says ${[...by_class].map(([label, runs]) => classes[label] + told(runs)).join(", ")}`;
}

const seed_name = run => known(run.config.seed) ? `seed ${run.config.seed}` : run.id;

function why_no_picture(missing, left_out, wrong) {
  const pictured = wrong.some(run => run.thumbnails), {pictures, pictures_note} = wrong[0];
  const why = pictured ? KEPT_PICTURES : "the page has none of these mistakes";
  return [
    left_out ? `The ${PICTURED} surest are pictured.` : "", missing ? `${missing === 1 ? "1 image has" : `${missing} images have`} no picture here: ${why}.` : "",
    pictured || pictures.length ? "" : pictures_note,
  ].filter(Boolean).join(" ");
}

// --- curves ---

let two_chart = null;
const two_curve = el("select", {id: "two-curve", onchange: () => {
  two.curve = two_curve.value;
  draw_two();
  note_view();
}});

function draw_two() {
  const key = two_curve.value;
  if (!key) return;
  const traces = [pair.one, pair.other].flatMap((name, side) => runs_of(name).filter(run => run.curves[key]).map((run, i) => ({
    x: run.curves[key].epoch, y: run.curves[key].value, connectgaps: true, name: short(run.id, 40),
    mode: run.curves[key].value.length < 30 ? "lines+markers" : "lines", marker: {size: 6, symbol: ["circle", "diamond-open"][side]},
    line: {...line_style(side), dash: ["solid", "dash", "dot", "dashdot"][i % 4]}, hovertemplate: `${safe(run.id)}<br>epoch %{x:.3~g}: %{y:.4~f}<extra></extra>`,
  })));
  draw(two_chart, `${CURVE_NAMES[key]} by epoch, ${pair.one} and ${pair.other}`, traces, {xaxis: axis("epoch"), yaxis: axis(CURVE_NAMES[key]), showlegend: true, height: 380});
}

function set_curves() {
  const old = two_chart, keys = Object.keys(CURVE_NAMES).filter(key => [pair.one, pair.other].some(name => runs_of(name).some(run => run.curves[key])));
  two_curve.replaceChildren(...keys.map(key => el("option", {value: key}, CURVE_NAMES[key])));
  if (keys.includes(two.curve)) two_curve.value = two.curve;
  old?.drawn?.then(() => window.Plotly?.purge(old));
  two_chart = el("div", {class: "chart"});
  return keys.length ? [el("div", {class: "controls for-charts"}, el("label", {}, "Curve ", two_curve)), two_chart] : [el("p", {}, "Neither has logged a curve.")];
}

// --- the section ---

function show_two() {
  const {one, other} = pair, reason = why_not(one, other), found = reason ? typeof reason === "string" ? null : reason : null;
  [by_id("one").value, by_id("other").value] = [one, other];
  by_id("two-said").replaceChildren(...found ? side_number.get(one) > side_number.get(other) ? [el("strong", {}, found.turned), ` ${found.said_turned}`] : [el("strong", {}, found.verdict), ` ${found.said}`] : sentence(reason ?? "Nothing is known of these two.").childNodes);
  const sides = found ? [
    el("h3", {}, `Difference, ${other} − ${one}`), found.rows.length ? intervals(one, other, found) : el("p", {}, "No interval can be told."),
    found.narrows ? el("p", {class: "note"}, found.narrows) : null, el("h3", {}, "Right on how many images"), counts(one, other, found),
  ].filter(known) : [];
  by_id("two").replaceChildren(...one === other ? [] : [
    el("div", {class: "columns"}, el("div", {}, ...sides, el("h3", {}, "Settings that differ"), settings(one, other)), el("div", {}, el("h3", {}, "Curves of both"), set_curves())),
    ...found ? [el("div", {class: "columns"}, alone_right(one, other), alone_right(other, one))] : [],
  ]);
  if (one !== other) draw_two();
  two.drawn = true;
}

keep("two_curve", () => known(two.curve) ? [two.curve] : [], ([text]) => {
  two.curve = known(text) && Object.hasOwn(CURVE_NAMES, text) && data.runs.some(run => run.curves[text]) ? text : null;
  two.drawn = false;
});
keep("lists", () => [...two.open], names => { two.open = new Set(names.filter(name => runs.has(name) || groups.has(name))); });

function note_opened(name, open) {
  if (two.open.has(name) === open) return;
  open ? two.open.add(name) : two.open.delete(name);
  note_view();
}

function follow_pair() {
  const wanted = new URLSearchParams(location.hash.slice(1)), [one, other] = ["one", "other"].map(key => wanted.get(key));
  const there = name => runs.has(name) || groups.has(name);
  const next = {one: there(one) ? one : pair.one, other: there(other) ? other : pair.other};
  if (two.drawn && next.one === pair.one && next.other === pair.other) return;
  Object.assign(pair, next);
  show_two();
}

function go_to_pair(one, other) {
  location.hash = with_place({one, other});
  follow_pair();  // at once, as go_to
}

function set_up_two() {
  for (const key of ["one", "other"]) {
    const options = names => names.map(name => el("option", {value: name}, name));
    by_id(key).append(...groups.size ? [el("optgroup", {label: "Recipes, of several seeds"}, options([...groups.keys()])), el("optgroup", {label: "Runs"}, options([...runs.keys()]))] : options([...runs.keys()]));
    by_id(key).addEventListener("change", event => { const next = {...pair, [key]: event.target.value}; go_to_pair(next.one, next.other); });
  }
  const recipes = data.recipes.find(recipe => recipe.pair);
  [pair.one, pair.other] = recipes ? recipes.pair : [...new Set([...data.leading, ...runs.keys()])];
  follow_pair();
  addEventListener("hashchange", follow_pair);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (pair.one !== pair.other) draw_two(); });
}
