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
const capitalised = text => text ? `${text[0].toUpperCase()}${text.slice(1)}.` : "";
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

// A raw name such as `test/balanced_accuracy` may break behind a "/" or a "_", and nowhere else.
const breakable = text => (text.match(/[^/_]+[/_]*|[/_]+/g) ?? []).flatMap((part, i) => i ? [el("wbr"), part] : [part]);

// A table whose columns sort: {label, value(row) → number, string or null, show(row) → text or element, number: bool}.
// Nulls stay last either way; a first click puts large numbers and early letters on top. order: {by, descending, changed()}, how it is
// sorted: by the column of that `key`, or else `label`, changed by a click. The first column stays where it is when the table is moved
// sideways, or the one that is `fixed`.
const letters = new Intl.Collator("en", {numeric: true});
function table(name, columns, rows, attributes_of_row = () => ({}), order = order_of(name)) {
  const fixed = Math.max(0, columns.findIndex(column => column.fixed)), key_of = column => column.key ?? column.label;
  const look = (column, i) => [column.number ? "number" : null, i === fixed ? "fixed" : null].filter(known).join(" ") || null;
  const body = el("tbody", {}, rows.map(row => el("tr", attributes_of_row(row), columns.map((column, i) => {
    const content = column.show ? column.show(row) : shown(column.value(row));
    return el("td", {class: look(column, i), title: typeof content === "string" && content.length > 28 ? content : null}, i === fixed ? el("span", {}, content) : content);
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
  const head = el("tr", {}, columns.map((column, i) => {
    if (!column.value) return el("th", {scope: "col", class: look(column, i)}, el("span", {class: "note"}, column.label));
    const header = el("th", {scope: "col", "aria-sort": "none", class: look(column, i)});
    header.append(el("button", {type: "button", title: column.title, onclick: () => {
      const now = header.getAttribute("aria-sort"), descending = now === "none" ? Boolean(column.number) : now === "ascending";
      sort(column, header, descending);
      Object.assign(order, {by: key_of(column), descending});
      order.changed?.();
    }}, column.label));
    return header;
  }));
  order.apply = () => {
    const sorted = columns.findIndex(column => column.value && known(order.by) && key_of(column) === order.by);
    if (sorted >= 0) return sort(columns[sorted], head.cells[sorted], order.descending);
    head.querySelectorAll("[aria-sort]").forEach(header => header.setAttribute("aria-sort", "none"));
    body.append(...in_turn);
  };
  const in_turn = [...body.rows];
  if (known(order.by)) order.apply();
  const scroll = el("div", {class: "scroll", tabindex: 0, role: "region", "aria-label": name},
    el("table", {}, el("caption", {}, name), el("thead", {}, head), body));
  const frame = el("div", {class: "frame"}, scroll);
  scroll.addEventListener("scroll", () => hint(frame), {passive: true});
  [scroll, scroll.firstChild].forEach(element => sizes.observe(element));
  return frame;
}

// Its style shows on which side of the frame there is more of the table. Firefox leaves no room for a scrollbar beside a tall one.
function hint(frame) {
  const {scrollLeft, scrollWidth, clientWidth, scrollHeight, clientHeight} = frame.firstChild;
  frame.classList.toggle("tall", scrollHeight > clientHeight);
  frame.classList.toggle("before", scrollLeft > 1);
  frame.classList.toggle("after", scrollWidth - clientWidth - scrollLeft > 1);
}
const sizes = new ResizeObserver(entries => entries.forEach(({target}) => hint(target.closest(".frame"))));

// How tables were sorted by a click: name → order. A table that was never sorted has an order without a column.
const ORDERS = new Map();
function order_of(name) {
  if (!ORDERS.has(name)) ORDERS.set(name, {by: null, descending: false, changed: () => note_view()});
  return ORDERS.get(name);
}
