"use strict";
// "lr<0.1 macro f1>65 status=finished" → which runs that means, and what of it can't be understood.

const COMPARE = {"<": (a, b) => a < b, ">": (a, b) => a > b, "<=": (a, b) => a <= b, ">=": (a, b) => a >= b};
const FOUND_IN = [ID, ...COLUMNS.filter(column => ["status", "data"].includes(column.key))];  // by a plain word

const is_number = text => text.trim() !== "" && Number.isFinite(Number(text));
const number_of = text => is_number(text) ? Number(text) : /^[^%]+%$/.test(text) && is_number(text.slice(0, -1)) ? Number(text.slice(0, -1)) / 100 : null;
const has_word = (run, word) => FOUND_IN.some(column => shown(column.value(run)).toLowerCase().includes(word.toLowerCase()));
const is_found = word => data.runs.some(run => has_word(run, word));

// By its key, else by its title in the table or the CSV, else by the part of the key behind the last "/": several where that is not one.
function columns_named(name) {
  const plain = text => text.trim().toLowerCase().replace(/[\s/_-]+/g, "_"), wanted = plain(name), all = [ID, ...COLUMNS];
  const ways = [column => column.key === name, column => plain(column.key) === wanted, column => plain(column.label) === wanted, column => column.csv === wanted, column => plain(column.key.split("/").at(-1)) === wanted];
  return ways.map(way => all.filter(way)).find(found => found.length) ?? [];
}

// A share is shown in percent, so that a number above 1 means percent.
function meant(text, {key, share}) {
  const number = number_of(text);
  if (number === null && key === "started" && Date.parse(text)) return Date.parse(text) / 1000;
  return share && number > 1 && is_number(text) ? number / 100 : number;
}

// → {text, test(run)} or {problem}
function condition_of(name, written, value, text) {
  const operator = written === "==" ? "=" : written, columns = columns_named(name), ordered = /[<>]/.test(operator);
  const problem = why => ({problem: `“${text}” is left out: ${why}.`});
  if (!name) return problem(`nothing stands before “${operator}”`);
  if (!columns.length) return problem(`no run has a setting or a result “${name}”`);
  if (columns.length > 1) return problem(`“${name}” may be ${columns.map(column => column.key).join(" or ")}`);
  if (!value) return problem(`nothing stands behind “${operator}”`);
  const [column] = columns, number = meant(value, column);
  if (ordered && number === null) return problem(`“${value}” is no number`);
  const same = found => found === number || (column.share ? percent(found) === percent(number)  // as they are shown: a share with one digit
    : !Number.isInteger(found) && found === Number(number.toPrecision(5)));
  return {text, test: run => {
    const found = column.value(run);
    if (ordered) return typeof found === "number" && COMPARE[operator](found, number);
    const equal = typeof found === "number" && number !== null ? same(found)
      : [shown(found), ...Array.isArray(found) ? found.map(shown) : []].some(one => one.toLowerCase() === value.toLowerCase());
    return equal === (operator === "=");
  }};
}

// --- the text ---

const OPERATOR = "(!=|<=|>=|==?|<|>)";
const bare = text => text.replaceAll('"', "").trim();

// "lr<0.1" → [name, operator, value], each of which may stand in quotes, or all three in one pair; null where there is no operator, or
// a run's name looks like that.
function parts_of(piece) {
  const inside = bare(piece), unquoted = '(?:"[^"]*(?:"|$)|[^"=<>!]|!(?!=))*';
  const found = new RegExp(`^(${unquoted})${OPERATOR}(.*)$`, "s").exec(piece) ?? new RegExp(`^(.*?)${OPERATOR}(.*)$`, "s").exec(inside);
  if (!found) return null;
  const [name, operator, value] = found.slice(1).map(bare);
  return name && value && is_found(inside) ? null : [name, operator, value];
}

const LONGEST_NAME = Math.max(...[ID, ...COLUMNS].flatMap(({key, label}) => [key, label]).map(text => text.split(/[\s/_-]+/).length));  // in words

// The last words before an operator that are a column's name, the longest; else its last word, and those before it that no run has.
function taken_as_name(words) {
  const last = count => words.slice(words.length - count).join(" ");
  let count = [...Array(LONGEST_NAME).keys()].map(i => LONGEST_NAME - i).find(count => count <= words.length && columns_named(last(count)).length) ?? 0;
  if (!count) {
    const before = words.slice(0, -1).reverse().findIndex(is_found);
    count = before < 0 ? words.length : before + 1;
  }
  return words.splice(words.length - count).join(" ");
}

function conditions_of(text) {
  const pieces = text.match(/(?:"[^"]*"?|[^\s"])+/g) ?? [], conditions = [], words = [];
  const end_words = () => conditions.push(...words.splice(0).map(word => ({text: word, test: run => has_word(run, word)})));
  const begins = new RegExp(`^${OPERATOR}`), ends = new RegExp(`${OPERATOR}$`);
  while (pieces.length) {
    const piece = pieces.shift(), parts = parts_of(piece);
    if (!parts) {
      words.push(bare(piece));
      continue;
    }
    const [before, operator, after] = parts, behind = after ? [after] : pieces.splice(0, 1);
    while (pieces.length && (begins.test(pieces[0]) || ends.test(behind.at(-1)) || pieces[0] === "%")) behind.push(pieces.shift());
    if (before) words.push(before);
    const name = taken_as_name(words), value = bare(behind.join(" ")), gap = before && after ? "" : " ";
    end_words();
    conditions.push(condition_of(name, operator, value, [name, operator, value].filter(Boolean).join(gap)));
  }
  end_words();
  return conditions;
}

// → {runs, problems}: the runs that meet every condition that is understood.
function filter_runs(text) {
  const conditions = conditions_of(text), understood = conditions.filter(condition => condition.test);
  const found = data.runs.filter(run => understood.every(condition => condition.test(run)));
  const problems = conditions.flatMap(condition => condition.problem ?? []);
  if (!found.length) {
    const alone = understood.filter(condition => !data.runs.some(condition.test)).map(condition => `“${condition.text}”`);
    problems.push(alone.length ? `No run has ${alone.join(", nor ")}.` : "No run has all of this at once.");
  }
  return {runs: found, problems};
}
