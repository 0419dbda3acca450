"use strict";
// A link that reopens the same view: all that is chosen stands in the address's fragment, as data that anyone may have written.

const KEPT = new Map();  // key of the address → {read() → texts, restore(texts)}

// `read` gives no text where all is as at first; `restore` passes over what it does not know.
const keep = (key, read, restore) => KEPT.set(key, {read, restore});

function address_of_view() {  // keys that are not ours stay
  const address = new URLSearchParams(location.hash.slice(1));
  for (const key of ["run", "tab"]) if (known(place[key])) address.set(key, place[key]);
  for (const [key, {read}] of KEPT) {
    address.delete(key);
    read().forEach(text => address.append(key, text));
  }
  return `#${address}`;
}

function note_view() {
  try {
    history.replaceState(null, "", address_of_view());
  } catch { /* Safari allows a hundred in half a minute; the next choice or the button writes it */ }
}

// An address with none of the keys, such as `#run=…&tab=…`, leaves all as it is; else all is as it says, since one choice may bear on
// another. → whether anything changed.
function restore_view() {
  const address = new URLSearchParams(location.hash.slice(1));
  if (![...KEPT.keys()].some(key => address.has(key))) return false;
  if ([...KEPT].every(([key, {read}]) => JSON.stringify(read()) === JSON.stringify(address.getAll(key)))) return false;
  KEPT.forEach(({restore}, key) => restore(address.getAll(key)));
  return true;
}

const in_twos = texts => texts.flatMap((text, i) => i % 2 && known(text) ? [[texts[i - 1], text]] : []);

// Tables but the one of runs, which has a key of its own: name, column, name, column …
keep("sorted", () => [...ORDERS].sort().flatMap(([name, {by, descending}]) => known(by) ? [name, `${descending ? "-" : "+"}${by}`] : []), texts => {
  ORDERS.forEach(order => { order.by = null; });
  in_twos(texts).forEach(([name, by]) => Object.assign(order_of(name), {by: by.slice(1), descending: by.startsWith("-")}));
  ORDERS.forEach(order => order.apply?.());
});

async function copy_link() {
  const text = location.href.split("#")[0] + address_of_view(), field = by_id("link");
  note_view();
  field.value = text;
  try {
    await navigator.clipboard.writeText(text);
    field.hidden = true;
    by_id("link-said").textContent = "Copied.";
  } catch {
    field.hidden = false;
    field.focus();
    field.select();
    by_id("link-said").textContent = "This browser lets no page copy by itself: the link is selected, copy it as any text.";
  }
}
