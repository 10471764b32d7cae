// An autoregressive layer on five numbers: what depends on what, and how many passes it takes.

import {
  assign, clamp, format, group, html, key, numberTable, radios, redraw, set, setting, slider, svg,
} from "../kit.mjs";

// ---- the arithmetic -----------------------------------------------------------------------

const D = 5;

// The shift of number i by number j is A[i][j] sin(u_j) if j comes before i, its log-scale
// B[i][j] tanh(u_j). The numbers are arbitrary.
export const SHIFTS = [
  [0, 0.9, -0.7, 0.5, 0.8],
  [1.1, 0, 0.6, -0.9, 0.4],
  [-0.8, 0.7, 0, 1.0, -0.6],
  [0.6, -1.0, 0.8, 0, 0.7],
  [0.9, 0.5, -0.9, 0.7, 0],
];
export const LOG_SCALES = [
  [0, 0.3, 0.2, -0.3, 0.2],
  [-0.4, 0, 0.3, 0.2, -0.2],
  [0.3, -0.2, 0, 0.3, 0.2],
  [0.2, 0.4, -0.3, 0, 0.3],
  [-0.3, 0.2, 0.3, -0.2, 0],
];
// What goes in, but for the number that the reader sets.
const INPUT = [0.8, -0.6, 1.2, 0.4, -1.1];

// The numbers before i in an order such as "3 1 5 2 4"; numbers are counted from 0 here.
export function before(order, i) {
  const places = order.split(" ").map((word) => Number(word) - 1);
  return places.slice(0, places.indexOf(i));
}

const total = (row, seen, f) => seen.reduce((sum, j) => sum + row[j] * f(j), 0);

// What the network says about each number when it sees u.
export function network(order, u) {
  return u.map((_, i) => {
    const seen = before(order, i);
    return {
      shift: total(SHIFTS[i], seen, (j) => Math.sin(u[j])),
      logScale: total(LOG_SCALES[i], seen, (j) => Math.tanh(u[j])),
    };
  });
}

// From u to v, in one pass, with the logarithm of the determinant of that map.
export function forward(order, u) {
  const made = network(order, u);
  return {
    v: u.map((one, i) => Math.exp(made[i].logScale) * one + made[i].shift),
    ladj: made.reduce((sum, { logScale }) => sum + logScale, 0),
  };
}

// From v to u, the state after 0, 1, ..., `passes` passes. Each pass asks the network about what
// the last one found, zeros at first.
export function back(order, v, passes) {
  const states = [v.map(() => 0)];
  for (let k = 0; k < passes; k += 1) {
    const made = network(order, states.at(-1));
    states.push(v.map((one, i) => (one - made[i].shift) * Math.exp(-made[i].logScale)));
  }
  return states;
}

// ---- the figure ---------------------------------------------------------------------------

const NAMES = ["order", "task", "passes", "number", "value"];
const ORDERS = ["1 2 3 4 5", "5 4 3 2 1", "3 1 5 2 4", "2 4 1 3 5"];
// Does the network see what goes in, and what goes in and comes out?
const TASKS = {
  "MAF scores": { direct: true, from: "data", to: "noise" },
  "MAF samples": { direct: false, from: "noise", to: "data" },
  "IAF samples": { direct: true, from: "noise", to: "data" },
  "IAF scores": { direct: false, from: "data", to: "noise" },
};
const PASSES = ["0", "1", "2", "3", "4", "5"];
const NUMBERS = ["1", "2", "3", "4", "5"];
const VALUE = { min: -2, max: 2, step: 0.05 };
const LETTER = { data: "x", noise: "z" };
const SUBSCRIPT = ["₁", "₂", "₃", "₄", "₅"];
const SIDE_BY_SIDE = 560; // pixels: below it the two pictures stand one above the other
const ROW = 30; // pixels, of the table on the right
const HEIGHT = 232;

const toValue = (x) => clamp(Number(x.toFixed(2)), VALUE.min, VALUE.max);
const name = (side, i) => `${LETTER[side]}${SUBSCRIPT[i]}`;
const listed = (words) => (words.length < 2 ? words.join("")
  : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`);

// All that is shown: what goes in, the states after each pass, and which numbers are right.
export function story({ order, task, passes, number, value }) {
  const { direct } = TASKS[task];
  const chosen = Number(number) - 1;
  const given = INPUT.map((one, i) => (i === chosen ? value : one));
  const rank = (i) => before(order, i).length;
  const states = direct ? [given.map(() => 0), ...Array(Number(passes)).fill(forward(order, given).v)]
    : back(order, given, Number(passes));
  const right = states.map((_, k) => given.map((__, i) => (direct ? k > 0 : rank(i) < k)));
  const u = direct ? given : back(order, given, D).at(-1);
  const { ladj } = forward(order, u);
  // In both directions a number that comes out depends on the same one and on those before it,
  // so a change of what goes in reaches the chosen number and those after it.
  const reached = given.map((_, i) => i === chosen || before(order, i).includes(chosen));
  return { given, states, right, reached, ladj: direct ? ladj : -ladj, needed: direct ? 1 : D };
}

function render({ model, el }) {
  const read = () => Object.fromEntries(NAMES.map((one) => [one, model.get(one)]));

  const wires = svg("svg");
  const table = svg("svg");
  const picture = html("div", { role: "img", class: "nfbook-pair" }, wires, table);

  const choices = {
    order: radios({ words: ORDERS, input: (word) => assign(model, { order: word }) }),
    task: radios({ words: Object.keys(TASKS), input: (word) => assign(model, { task: word }) }),
    passes: radios({ words: PASSES, input: (word) => assign(model, { passes: word }) }),
    number: radios({ words: NUMBERS, input: (word) => assign(model, { number: word }) }),
  };
  const value = slider({ ...VALUE, label: "value", name: "value of the number",
    input: (x) => assign(model, { value: toValue(x) }),
    show: (x) => ({ short: setting(x, 2), long: `value ${setting(x, 2)}` }) });
  const numbers = numberTable(["needed", "passes needed"], ["right", "right so far"],
    ["ladj", "log |det J| of this map"]);
  const status = html("p", { role: "status", class: "nfbook-status" });
  const legend = html("p", { class: "nfbook-legend" });

  const root = html("div", { class: "nfbook-figure nfbook-order" }, legend, picture,
    html("div", { class: "nfbook-controls" },
      group("Order of the numbers", "prior", choices.order.node),
      group("Flow and direction", "prior", choices.task.node),
      group("Passes through the network", "prior", choices.passes.node),
      group("Change this number", "posterior", choices.number.node, value.node)),
    numbers.node, status);
  el.append(root);
  legend.append(key("posterior", "depends on the number that you change"),
    key("guide-soft", "does not"));

  function draw(width) {
    const values = read();
    const { from, to, direct } = TASKS[values.task];
    const chosen = Number(values.number) - 1;
    const { given, states, right, reached, ladj, needed } = story(values);
    for (const [one, choice] of Object.entries(choices)) choice.update(values[one]);
    value.update(values.value);
    const made = Number(values.passes);
    const known = right[made].filter(Boolean).length;
    numbers.show("needed", `${needed}`);
    numbers.show("right", `${known} of ${D}`);
    numbers.show("ladj", format(ladj, 3));
    const changed = given.map((_, i) => i).filter((i) => reached[i]).map((i) => name(to, i));
    const words = `${name(from, chosen)} reaches ${listed(changed)}. ` + (direct
      ? `The network sees the ${from}, all of which is given, so one pass is enough.`
      : `The network sees the ${to}, which is being found, so each pass adds one number.`);
    if (status.textContent !== words) status.textContent = words;
    picture.setAttribute("aria-label", `${values.task}, from ${from} to ${to}, in the order ` +
      `${values.order}. ${name(from, chosen)} is ${setting(values.value, 2)}; it reaches ` +
      `${listed(changed)}. Passes needed: ${needed}. After ${made}, ${known} of ${D} numbers are right.`);
    if (width === 0) return;
    const wide = width >= SIDE_BY_SIDE;
    const left = wide ? Math.round(0.46 * width) : width;
    set(wires, { width: left, height: HEIGHT, viewBox: `0 0 ${left} ${HEIGHT}` });
    drawWires(left, values.order, from, to, given, chosen, reached);
    const rest = wide ? width - left : width;
    set(table, { width: rest, height: HEIGHT, viewBox: `0 0 ${rest} ${HEIGHT}` });
    drawTable(rest, to, states, right);
  }

  // Above what goes in, below what comes out, and a line from each to all that depend on it.
  function drawWires(width, order, from, to, given, chosen, reached) {
    const across = (i) => 62 + (width - 62 - 26) * (i / (D - 1));
    const [high, low] = [56, HEIGHT - 44];
    const lines = [];
    for (let i = 0; i < D; i += 1) {
      for (const j of [...before(order, i), i]) {
        const bent = `M${across(j)},${high + 15}C${across(j)},${(high + low) / 2} ` +
          `${across(i)},${(high + low) / 2} ${across(i)},${low - 15}`;
        // The lines of the chosen number come last, on top of all others.
        const on = j === chosen;
        lines.push([on, svg("path", { class: on ? "nfbook-posterior" : "nfbook-guide-soft",
          d: bent })]);
      }
    }
    lines.sort(([one], [other]) => Number(one) - Number(other));
    const circle = (i, y, on) => svg("path", {
      class: `${on ? "nfbook-posterior" : "nfbook-guide-soft"}`,
      d: `M${across(i) - 15},${y}a15,15 0 1 0 30,0a15,15 0 1 0 -30,0Z` });
    const text = (words, x, y, anchor = "middle") =>
      svg("text", { x, y, "text-anchor": anchor }, words);
    const rank = (i) => before(order, i).length + 1;
    wires.replaceChildren(...lines.map(([, node]) => node),
      ...given.flatMap((_, i) => [
        circle(i, high, i === chosen), circle(i, low, reached[i]),
        text(name(from, i), across(i), high + 4), text(name(to, i), across(i), low + 4)]),
      svg("g", { class: "nfbook-axes" }, text(from, 34, high + 4, "end"),
        text(to, 38, low + 4, "end"), text("in order", 2, HEIGHT - 8, "start"),
        ...given.map((_, i) => text(`${rank(i)}.`, across(i), HEIGHT - 8)),
        text("goes in", 2, 18, "start"),
        ...given.map((one, i) => text(format(one, 2), across(i), 18))));
  }

  // One row a pass: the numbers found so far, with those that are right on a blue ground.
  function drawTable(width, to, states, right) {
    const across = (i) => 62 + (width - 62 - 26) * (i / (D - 1));
    const down = (k) => 52 + ROW * k;
    const breadth = Math.min(52, (width - 88) / (D - 1) - 4);
    const text = (words, x, y, anchor = "middle") =>
      svg("text", { x, y, "text-anchor": anchor }, words);
    const grounds = states.flatMap((state, k) => state.map((_, i) => svg("path", {
      class: right[k][i] ? "nfbook-area-prior" : "nfbook-guide-soft",
      d: `M${across(i) - breadth / 2},${down(k) - 16}h${breadth}v${ROW - 6}h${-breadth}Z` })));
    const frames = states.flatMap((state, k) => state.map((_, i) => [k, i]))
      .filter(([k, i]) => right[k][i]).map(([k, i]) => svg("path", {
        class: "nfbook-prior nfbook-solid",
        d: `M${across(i) - breadth / 2},${down(k) + ROW - 22}h${breadth}` }));
    table.replaceChildren(...grounds, ...frames,
      ...states.flatMap((state, k) =>
        state.map((one, i) => text(format(one, 2), across(i), down(k) + 1))),
      svg("g", { class: "nfbook-axes" },
        text("pass", 4, 18, "start"),
        ...states[0].map((_, i) => text(name(to, i), across(i), 18)),
        ...states.map((_, k) => text(k === 0 ? "start" : `${k}`, 4, down(k) + 1, "start"))));
  }

  return redraw(model, NAMES, root, draw);
}

export default { render };
