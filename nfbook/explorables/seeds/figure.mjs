// Forty repeats of a comparison with n seeds: how often the order comes out right.

import {
  assign, axes, clamp, clipped, curve, format, frameOf, group, html, key, numberTable, path, radios,
  redraw, set, setting, slider, svg, ticks,
} from "../kit.mjs";

// ---- the arithmetic -----------------------------------------------------------------------

const normal = (t) => Math.exp(-0.5 * t * t) / Math.sqrt(2 * Math.PI);

// The probability that a standard normal number lies below t: a series near zero, and a continued
// fraction far out, each to ten digits or more.
export function below(t) {
  if (t > 0) return 1 - below(-t);
  if (t < -3) {
    let rest = -t;
    for (let k = 60; k > 0; k -= 1) rest = -t + k / rest;
    return normal(t) / rest;
  }
  let [term, sum] = [t, t];
  for (let k = 1; k < 60; k += 1) {
    term *= t * t / (2 * k + 1);
    sum += term;
  }
  return 0.5 + normal(t) * sum;
}

// The bounds of Student's t with n - 1 degrees of freedom that are exceeded, to either side, with
// probability 5 %. One seed has no spread, and so no test.
export const CRITICAL = { 1: Infinity, 2: 12.7062047362, 3: 4.3026527297, 5: 2.7764451052,
  10: 2.2621571628, 20: 2.0930240544 };

// The probability that the mean of n differences has the right sign.
export const right = ({ effect, spread, seeds }) =>
  below(Math.sqrt(Number(seeds)) * effect / spread);

// The density of s, the root of a chi-squared number with `degrees` divided by them.
function spreadDensity(s, degrees) {
  let log = Math.log(2) + degrees / 2 * Math.log(degrees / 2) +
    (degrees - 1) * Math.log(s) - degrees * s * s / 2;
  // The logarithm of Γ(degrees / 2), by the recursion from 1 or 1/2.
  let half = degrees / 2;
  for (; half > 1; half -= 1) log -= Math.log(half - 1);
  if (half < 0.75) log -= Math.log(Math.PI) / 2;
  return Math.exp(log);
}

// The probability that the t-test finds a difference, in the right direction: Simpson's rule over
// the estimated spread, in units of the true one.
export function power(values) {
  const n = Number(values.seeds);
  if (n === 1) return 0;
  const shift = Math.sqrt(n) * values.effect / values.spread;
  const steps = 1200;
  const end = 1 + 8 / Math.sqrt(n - 1);
  let sum = 0;
  for (let k = 0; k <= steps; k += 1) {
    const s = Math.max(1e-12, end * k / steps);
    const weight = k === 0 || k === steps ? 1 : 2 + 2 * (k % 2);
    sum += weight * spreadDensity(s, n - 1) * below(shift - CRITICAL[n] * s);
  }
  return sum * end / steps / 3;
}

export const REPEATS = 40;
const MOST = 20; // seeds of a repeat

// Standard normal numbers, the same every time: one for each seed of each repeat.
export function noise(draw) {
  let state = 977 * (draw + 1);
  const uniform = () => { // mulberry32
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (((t ^ (t >>> 14)) >>> 0) + 0.5) / 4294967296;
  };
  return Array.from({ length: REPEATS }, () => Array.from({ length: MOST }, () =>
    Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform())));
}

// The mean of each repeat's differences, and half the width of its interval.
export function repeats({ effect, spread, seeds, draw }) {
  const n = Number(seeds);
  return noise(draw).map((row) => {
    const found = row.slice(0, n).map((e) => effect + spread * e);
    const mean = found.reduce((sum, d) => sum + d, 0) / n;
    const squares = found.reduce((sum, d) => sum + (d - mean) ** 2, 0);
    return { mean, half: n > 1 ? CRITICAL[n] * Math.sqrt(squares / (n - 1) / n) : Infinity };
  });
}

// ---- the figure ---------------------------------------------------------------------------

// The ranges are those that SeedsExplorable accepts.
const RANGES = {
  effect: { min: 0, max: 2, step: 0.01 },
  spread: { min: 0.1, max: 2, step: 0.01 },
  draw: { min: 0, max: 20, step: 1 },
};
const NAMES = ["effect", "spread", "seeds", "draw"];
const COUNTS = ["1", "2", "3", "5", "10", "20"];
const MARGIN = { left: 44, right: 14, top: 14, bottom: 40 };
const [LOW, HIGH] = [-2.5, 4.5]; // the differences that are shown
const UPPER = 120; // pixels of the picture of densities
const ROW = 6; // pixels of a repeat
const SPACE = 16; // between both

const round = (name, x) => {
  const { min, max, step } = RANGES[name];
  return Number(clamp(step * Math.round(x / step), min, max).toFixed(2));
};
const percent = (share) => `${format(100 * share, 1)} %`;
const KINDS = ["posterior nfbook-solid", "guide-soft", "likelihood nfbook-solid"];

function render({ model, el }) {
  const read = () => Object.fromEntries(NAMES.map((name) => [name, model.get(name)]));

  // Every node is made once and only moved afterwards.
  const wrong = svg("path");
  wrong.style.fill = "var(--nfbook-likelihood)";
  wrong.style.opacity = 0.45;
  const one = path("whole nfbook-dashed");
  const mean = path("whole");
  const rows = KINDS.map((kind) => path(`thin nfbook-${kind}`));
  rows[0].style.strokeWidth = 1.8;
  rows[2].style.strokeWidth = 2.2;
  const dots = path("whole");
  const densities = clipped(wrong, one, mean);
  const intervals = clipped(...rows, dots);
  const zero = path("whole nfbook-thin");
  zero.style.strokeWidth = 1;
  const truth = path("guide-soft");
  const scale = svg("g", { class: "nfbook-axes" });
  const picture = svg("svg", { role: "img" }, scale, truth, zero, densities.node, intervals.node);

  const control = (name, label, words, digits) => slider({ ...RANGES[name], label, name: words,
    input: (x) => assign(model, { [name]: round(name, x) }),
    show: (x) => ({ short: setting(x, digits), long: `${words} ${setting(x, digits)}` }) });
  const sliders = {
    effect: control("effect", "δ", "true difference", 2),
    spread: control("spread", "σ", "spread over seeds", 2),
    draw: control("draw", "set", "number of the set of repeats", 0),
  };
  const choice = radios({ words: COUNTS, input: (seeds) => assign(model, { seeds }) });
  const numbers = numberTable(["right", "right order: probability"],
    ["counted", "right among the 40"], ["power", "found by the t-test"],
    ["found", "found among the 40"]);
  const status = html("p", { role: "status", class: "nfbook-status" });
  const root = html("div", { class: "nfbook-figure nfbook-seeds" },
    html("p", { class: "nfbook-legend" }, key("whole nfbook-dashed", "one difference"),
      key("whole", "the mean of n"), key(KINDS[0], "right, and found by the test"),
      key(KINDS[1], "right order only"), key(KINDS[2], "wrong order")),
    picture,
    html("div", { class: "nfbook-controls" },
      group("The difference: δ in truth, σ between pairs", "posterior", sliders.effect.node,
        sliders.spread.node),
      group("The number n of seeds of a repeat", "likelihood", choice.node),
      group("Which forty repeats are shown", "data", sliders.draw.node)),
    numbers.node, status);
  el.append(root);

  function draw(width) {
    const values = read();
    const found = repeats(values);
    const sure = found.filter(({ mean: m, half }) => m > half).length;
    const good = found.filter(({ mean: m }) => m > 0).length;
    const exact = { right: right(values), power: power(values) };
    for (const [name, each] of Object.entries(sliders)) each.update(values[name]);
    choice.update(values.seeds);
    numbers.show("right", percent(exact.right));
    numbers.show("counted", String(good));
    numbers.show("power", values.seeds === "1" ? "no test" : percent(exact.power));
    numbers.show("found", String(sure));
    const words = inWords(values, exact, good, sure);
    if (status.textContent !== words) status.textContent = words;
    picture.setAttribute("aria-label", `Set ${values.draw} of forty repeats of a comparison, ` +
      `with the true difference ${setting(values.effect, 2)}, the spread ` +
      `${setting(values.spread, 2)} and so many seeds: ${values.seeds}. ${words}`);
    if (width === 0) return;
    drawAll(width, values, found);
  }

  function drawAll(width, { effect, spread, seeds }, found) {
    const height = MARGIN.top + UPPER + SPACE + ROW * REPEATS + MARGIN.bottom;
    const frame = frameOf(picture, width, height, MARGIN);
    const x = (d) => frame.left + (frame.right - frame.left) * (d - LOW) / (HIGH - LOW);
    const floor = MARGIN.top + UPPER;
    const narrow = spread / Math.sqrt(Number(seeds));
    const top = normal(0) / narrow;
    const y = (p) => floor - (UPPER - 6) * p / top;
    const density = (s) => (d) => normal((d - effect) / s) / s;
    densities.cut({ ...frame, bottom: floor });
    intervals.cut({ ...frame, top: floor });
    set(one, { d: curve(density(spread), LOW, HIGH, x, y) });
    const line = curve(density(narrow), LOW, HIGH, x, y);
    set(mean, { d: line });
    set(wrong, { d: `${curve(density(narrow), LOW, 0, x, y)}L${x(0)},${floor}L${x(LOW)},${floor}Z` });
    set(zero, { d: `M${x(0)},${frame.top}V${frame.bottom}` });
    set(truth, { d: `M${x(effect)},${frame.top}V${frame.bottom}` });
    const parts = KINDS.map(() => []);
    const points = [];
    found.forEach(({ mean: m, half }, k) => {
      const at = (floor + SPACE + ROW * (k + 0.5)).toFixed(1);
      const kind = m <= 0 ? 2 : m > half ? 0 : 1;
      const [from, to] = [m - half, m + half].map((d) => x(clamp(d, LOW - 1, HIGH + 1)).toFixed(1));
      const middle = x(clamp(m, LOW, HIGH));
      // Without a spread there is no interval, but the colour still says which kind it is.
      if (half === Infinity) {
        parts[kind].push(`M${(middle - 7).toFixed(1)},${at}H${(middle + 7).toFixed(1)}`);
      } else parts[kind].push(`M${from},${at}H${to}`);
      points.push(`M${middle.toFixed(1)},${(at - 2).toFixed(1)}v4`);
    });
    rows.forEach((node, k) => set(node, { d: parts[k].join("") || "M0,0" }));
    set(dots, { d: points.join("") });
    scale.replaceChildren(...axes(frame,
      { title: "difference of B and A in nats: A is better on the right",
        ticks: ticks(-2, 4).map(([v, text]) => [x(v), text]) },
      { title: "forty repeats", ticks: [] }));
  }

  return redraw(model, NAMES, root, draw);
}

function inWords({ effect, seeds }, exact, good, sure) {
  if (effect === 0) {
    return `There is no difference. Still ${good} of the forty repeats call A better, and the ` +
      `others B${seeds === "1" ? "." : `; the test finds A better in ${sure} of them.`}`;
  }
  const counted = `Of the forty repeats ${good} have the right order; ` +
    `${format(REPEATS * exact.right, 1)} are expected.`;
  if (seeds === "1") return `${counted} None of them knows its own spread.`;
  return `${counted} The test finds the difference in ${sure}; ` +
    `${format(REPEATS * exact.power, 1)} are expected.`;
}

export default { render };
