"use strict";
// Which line is which run's, in the curves of the chosen ones: bound to the run, not to its place among them, so that neither a filter
// nor another choice changes it.

const COLOURS = 7, LOOKS = 28;  // of `line_style`: colours, and colours with dashes
const looks = new Map();  // run → look, of the chosen runs, and of those that were chosen before
let held = new Set();  // the chosen runs, as they were last drawn
let kept_looks = null;  // of an address, until its runs are drawn

// The look that a run gets if it may choose: in order of age, so that a new run changes no other's.
const first_look = new Map([...data.runs].reverse().map((run, n) => [run.id, n % LOOKS]));

// A colour that no other has, or else a dash; where there is neither, that of another run.
function free_look(first, taken) {
  const colours = new Set([...taken].map(look => look % COLOURS)), in_turn = [...Array(LOOKS).keys()].map(n => (first + n) % LOOKS);
  return in_turn.find(look => !colours.has(look % COLOURS)) ?? in_turn.find(look => !taken.has(look)) ?? first;
}

// ids → looks: those of `sure` as they are, the others as in `before` if that is still free.
function looks_of(ids, sure = new Map(), before = new Map()) {
  const found = new Map(ids.filter(id => sure.has(id)).map(id => [id, sure.get(id)])), taken = new Set(found.values());
  const crowded = ids.length > LOOKS;
  for (const id of ids.filter(id => !found.has(id))) {
    const look = before.has(id) && (crowded || !taken.has(before.get(id))) ? before.get(id) : free_look(first_look.get(id), taken);
    found.set(id, look);
    taken.add(look);
  }
  return found;
}

// A link may be older than the page, or written by anybody: of runs that it gives one look the first has it.
const alone = (wanted, ids) => new Map([...wanted].filter(([id, look], i, all) => ids.includes(id) && all.findIndex(other => other[1] === look) === i));

const chosen_in_order = () => data.runs.map(run => run.id).filter(id => chosen.has(id));

// Each time that the curves are drawn. Of an address the looks that it names are sure, all others as on a page just opened.
function give_looks() {
  const ids = chosen_in_order();
  if (kept_looks && ids.length <= LOOKS) kept_looks = alone(kept_looks, ids);
  const found = kept_looks ? looks_of(ids, kept_looks, looks_of(ids)) : looks_of(ids, new Map([...looks].filter(([id]) => held.has(id))), looks);
  if (kept_looks) looks.clear();
  found.forEach((look, id) => looks.set(id, look));
  [kept_looks, held] = [null, new Set(ids)];
}

// In the address stand the runs alone whose look is not the one that a page just opened gives them: run, look, run, look …
keep("looks", () => {
  const fresh = looks_of(chosen_in_order());
  return [...fresh].filter(([id, look]) => looks.has(id) && looks.get(id) !== look).flatMap(([id]) => [id, String(looks.get(id))]);
}, texts => {
  kept_looks = new Map();
  for (const [id, text] of in_twos(texts)) {
    const look = Number(text);
    if (runs.has(id) && /^\d+$/.test(text) && look < LOOKS) kept_looks.set(id, look);
  }
});
