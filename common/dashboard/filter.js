"use strict";
// "lr<0.1 finetune=head status=finished" → which runs that means, and what of it can't be understood.

const COMPARE = {"<": (a, b) => a < b, ">": (a, b) => a > b, "<=": (a, b) => a <= b, ">=": (a, b) => a >= b};
const FOUND_IN = [ID, ...COLUMNS.filter(column => ["status", "data"].includes(column.key))];  // by a plain word

const is_number = text => text.trim() !== "" && Number.isFinite(Number(text));
const number_of = text => is_number(text) ? Number(text) : /^[^%]+%$/.test(text) && is_number(text.slice(0, -1)) ? Number(text.slice(0, -1)) / 100 : null;
const has_word = (run, word) => FOUND_IN.some(column => shown(column.value(run)).toLowerCase().includes(word.toLowerCase()));

// By its key, else by its title in the table or the CSV, else by the part of the key behind the last "/": several where that is not one.
function columns_named(name) {
  const plain = text => text.toLowerCase().replaceAll(" ", "_"), wanted = plain(name.trim()), all = [ID, ...COLUMNS];
  const ways = [column => column.key === name, column => plain(column.key) === wanted, column => plain(column.label) === wanted, column => column.csv === wanted, column => plain(column.key).split("/").at(-1) === wanted];
  return ways.map(way => all.filter(way)).find(found => found.length) ?? [];
}

// → {text, test(run)} or {problem}
function condition_of(token) {
  const word = token.replaceAll('"', ""), parts = /^([^=<>!]*?)\s*(!=|<=|>=|==?|<|>)\s*(.*)$/s.exec(word);
  const as_word = {text: word, test: run => has_word(run, word)};
  if (!parts || data.runs.some(as_word.test)) return as_word;  // a run's name may look like a condition
  const [, name, written, text] = parts, operator = written === "==" ? "=" : written, columns = columns_named(name);
  const problem = why => ({problem: `“${word}” is left out: ${why}.`});
  if (!name) return problem(`nothing stands before “${operator}”`);
  if (!columns.length) return problem(`no run has a setting or a result “${name}”`);
  if (columns.length > 1) return problem(`“${name}” may be ${columns.map(column => column.key).join(" or ")}`);
  if (!text.trim()) return problem(`nothing stands behind “${operator}”`);
  const [{key, value}] = columns, ordered = /[<>]/.test(operator);
  const number = number_of(text) ?? (key === "started" && Date.parse(text) ? Date.parse(text) / 1000 : null);
  if (ordered && number === null) return problem(`“${text}” is no number`);
  const same = found => found === number || (!Number.isInteger(found) && found === Number(number.toPrecision(5)));  // the page has five digits
  return {text: word, test: run => {
    const found = value(run);
    if (ordered) return typeof found === "number" && COMPARE[operator](found, number);
    const equal = typeof found === "number" && number !== null ? same(found)
      : [shown(found), ...Array.isArray(found) ? found.map(shown) : []].some(one => one.toLowerCase() === text.toLowerCase());
    return equal === (operator === "=");
  }};
}

// → {runs, problems}: the runs that meet every condition that is understood.
function filter_runs(text) {
  const conditions = (text.match(/(?:"[^"]*"?|\s*(?:!=|<=|>=|==?|<|>)\s*|[^\s"])+/g) ?? []).map(condition_of), understood = conditions.filter(condition => condition.test);
  const found = data.runs.filter(run => understood.every(condition => condition.test(run)));
  const problems = conditions.flatMap(condition => condition.problem ?? []);
  if (!found.length) {
    const alone = understood.filter(condition => !data.runs.some(condition.test)).map(condition => `“${condition.text}”`);
    problems.push(alone.length ? `No run has ${alone.join(", nor ")}.` : "No run has all of this at once.");
  }
  return {runs: found, problems};
}
