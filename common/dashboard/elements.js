"use strict";
// What the page is made of. Text becomes text nodes, never HTML, so nothing in a run's files can be markup.

const data = JSON.parse(document.getElementById("data").textContent);
const by_id = id => document.getElementById(id);

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter(child => child !== null && child !== undefined));
  return node;
}

const known = value => value !== null && value !== undefined;
const percent = share => known(share) ? `${(100 * share).toFixed(1)} %` : "–";
const shown = value => !known(value) ? "none" : Array.isArray(value) ? value.join(", ") || "none" : String(value);
const moment = unix => known(unix) ? new Date(1000 * unix).toLocaleString("sv").slice(0, 16) : "–";

function duration(seconds) {
  if (!known(seconds)) return "–";
  const s = Math.round(seconds), m = Math.floor(s / 60), h = Math.floor(m / 60);
  return h ? `${h} h ${m % 60} min` : m ? `${m} min ${s % 60} s` : `${s} s`;
}

// Text whose `commands` stand in backquotes.
const sentence = (text, attributes = {}) =>
  el("p", attributes, text.split("`").map((part, i) => i % 2 ? el("code", {}, part) : part));

// A table whose columns sort: {label, value(row) → number, string or null, show(row) → text or element, number: bool}.
// Nulls stay last either way; a first click puts large numbers and early letters on top. order: {by, descending, changed()}, how it is
// sorted: by the column of that `key`, changed by a click.
const letters = new Intl.Collator("en", {numeric: true});
function table(name, columns, rows, attributes_of_row = () => ({}), order = {}) {
  const body = el("tbody", {}, rows.map(row => el("tr", attributes_of_row(row), columns.map(column => {
    const content = column.show ? column.show(row) : shown(column.value(row));
    return el("td", {class: column.number ? "number" : null, title: typeof content === "string" && content.length > 28 ? content : null}, content);
  }))));
  const entries = [...body.rows].map((element, i) => ({element, row: rows[i]}));
  const sort = (column, header, descending) => {
    header.parentNode.querySelectorAll("[aria-sort]").forEach(other => other.setAttribute("aria-sort", "none"));
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const compare = (a, b) => typeof a === "number" && typeof b === "number" ? a - b : letters.compare(String(a), String(b));
    entries.sort((a, b) => {
      const [x, y] = [column.value(a.row), column.value(b.row)];
      if (!known(x) || !known(y)) return known(y) - known(x);
      return descending ? compare(y, x) : compare(x, y);
    });
    body.append(...entries.map(entry => entry.element));
  };
  const head = el("tr", {}, columns.map(column => {
    if (!column.value) return el("th", {scope: "col"}, el("span", {class: "note"}, column.label));
    const header = el("th", {scope: "col", "aria-sort": "none", class: column.number ? "number" : null});
    header.append(el("button", {type: "button", title: column.title, onclick: () => {
      const now = header.getAttribute("aria-sort"), descending = now === "none" ? Boolean(column.number) : now === "ascending";
      sort(column, header, descending);
      Object.assign(order, {by: column.key, descending});
      order.changed?.();
    }}, column.label));
    return header;
  }));
  const sorted = columns.findIndex(column => order.by && column.key === order.by);
  if (sorted >= 0) sort(columns[sorted], head.cells[sorted], order.descending);
  return el("div", {class: "scroll", tabindex: 0, role: "region", "aria-label": name},
    el("table", {}, el("caption", {}, name), el("thead", {}, head), body));
}
