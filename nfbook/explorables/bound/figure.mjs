// A Gaussian q beside an exact posterior; the bound, its gap, and how they add up.

import {
  area, axes, clamp, clipped, curve, draggable, format, frameOf, group, html, key, motion,
  numberTable, path, radios, redraw, ring, set, setting, slider, svg, ticks, wantsStillness,
} from "../kit.mjs";

// ---- the arithmetic -----------------------------------------------------------------------

// The ranges are those that BoundExplorable accepts.
const STEP = 0.02;
const MEAN = { min: -2.5, max: 2.5, step: STEP };
const STDDEV = { min: 0.1, max: 1.5, step: STEP };
const toMean = (m) => clamp(m, MEAN.min, MEAN.max);
const toStddev = (s) => clamp(s, STDDEV.min, STDDEV.max);

const logNormal = (x, mean, stddev) =>
  -0.5 * Math.log(2 * Math.PI) - Math.log(stddev) - 0.5 * ((x - mean) / stddev) ** 2;

// Σ f(k · step) · step for |k · step| ≤ reach: the trapezoidal rule. For an f as smooth as those
// here, which vanishes at both ends, it is exact up to rounding.
function integral(f, reach, step) {
  let sum = 0;
  for (let k = -Math.round(reach / step); k * step <= reach; k += 1) sum += f(k * step);
  return sum * step;
}

// E[f(z, t)] for z = m + s t and a standard normal t: the nodes follow q, however narrow it is.
function expectation(f, m, s) {
  return integral((t) => Math.exp(logNormal(t, 0, 1)) * f(m + s * t, t), 9, 0.25);
}

// One observation x under z ~ N(0, 1) and x | z ~ N(centre(z), noise²); `slope` is the derivative
// of `centre`.
function makeModel(x, noise, centre, slope) {
  const logJoint = (z) => logNormal(z, 0, 1) + logNormal(x, centre(z), noise);
  const logEvidence = Math.log(integral((z) => Math.exp(logJoint(z)), 9, 1 / 64));
  const model = {
    logJoint,
    logEvidence,
    score: (z) => -z + slope(z) * (x - centre(z)) / noise ** 2, // the derivative of logJoint
    posterior: (z) => Math.exp(logJoint(z) - logEvidence),
  };
  // The highest bound of any Gaussian: that of the best climb from several places.
  const tops = [-1.4, 0, 1.4].map((m) => climb(model, m, 0.5).at(-1));
  return { ...model, highest: Math.max(...tops.map((top) => terms(model, ...top).bound)) };
}

export const MODELS = {
  "one peak": makeModel(2, 0.6, (z) => 0.8 * z + 0.5, () => 0.8),
  "two peaks": makeModel(2, 0.5, (z) => z ** 2, (z) => 2 * z),
};

// All numbers of the figure, each by its own definition: that they add up is no convention.
export function terms({ logJoint, logEvidence }, m, s) {
  const energy = -expectation(logJoint, m, s);
  const entropy = 0.5 * Math.log(2 * Math.PI * Math.E) + Math.log(s);
  const logRatio = (z) => logNormal(z, m, s) - (logJoint(z) - logEvidence);
  return {
    energy, entropy, bound: entropy - energy, gap: expectation(logRatio, m, s), logEvidence,
  };
}

// The bound's natural gradient in m / s and log s: the gradient of E log p(m + s t) + log s, by
// reparametrisation, over the Fisher information of q.
export function uphill({ score }, m, s) {
  return {
    sideways: s * expectation((z) => score(z), m, s),
    wider: 0.5 * (s * expectation((z, t) => t * score(z), m, s) + 1),
  };
}

// From (m, s) uphill to a local maximum of the bound within the sliders' ranges, in short steps
// that never lower it. Returns the points of the way, [m, s] each.
export function climb(model, m, s) {
  const way = [[m, s]];
  for (;;) {
    const height = terms(model, m, s).bound;
    const { sideways, wider } = uphill(model, m, s);
    let step = Math.min(1, 0.4 / Math.hypot(sideways, wider));
    let next;
    do {
      if (!(step > 1e-4)) return way; // rounding hides any further rise
      next = [toMean(m + step * s * sideways), toStddev(s * Math.exp(step * wider))];
      step /= 2;
    } while (terms(model, ...next).bound <= height);
    [m, s] = next;
    way.push(next);
  }
}

// What raises the bound, in words.
function advice(model, m, s, { bound, gap }) {
  const { sideways, wider } = uphill(model, m, s);
  const ways = [];
  if (Math.abs(sideways) > 0.01) ways.push(`move q to the ${sideways > 0 ? "right" : "left"}`);
  if (Math.abs(wider) > 0.01) ways.push(`make it ${wider > 0 ? "wider" : "narrower"}`);
  if (ways.length) return `To raise the bound, ${ways.join(" and ")}.`;
  if (gap < 5e-4) return "The gap is closed: q is the posterior.";
  const lower = bound < model.highest - 0.01 ? " On one of the peaks q does better." : "";
  return "No small change of q raises the bound, and the gap stays open, since no Gaussian has " +
    `two peaks.${lower}`;
}

// ---- the figure ---------------------------------------------------------------------------

const MARGIN = { left: 58, right: 14, top: 14, bottom: 40 };
const SIDE_BY_SIDE = 560; // pixels: below it the two pictures stand one above the other
const NAMES = ["posterior", "mean", "stddev"];
const SEEN = 4; // |z| up to which the densities are drawn
const NATS = 4; // the least range of the vertical axis on the right

const onStep = (x) => Number((STEP * Math.round(x / STEP)).toFixed(2)); // no 0.6000000000000001

function render({ model, el }) {
  const read = () => NAMES.map((name) => model.get(name));

  // Every node is made once and only moved afterwards.
  const shape = { p: path("posterior"), q: path("variational") };
  const filled = { p: path("area"), q: path("area nfbook-area-variational") };
  const curves = clipped(filled.p, filled.q, shape.p, shape.q);
  const handle = ring("variational");
  const densityGrid = svg("g", { class: "nfbook-axes" });
  const densities = svg("svg", {}, densityGrid, curves.node, handle);

  const sumGrid = svg("g", { class: "nfbook-axes" });
  const bars = { energy: path("bar-energy"), bound: path("bar-variational"), gap: path("bar-gap") };
  const arrows = { entropy: path("arrow"), gap: path("arrow") };
  const level = svg("line", { class: "nfbook-guide-variational nfbook-dashed" });
  const truth = svg("line", { class: "nfbook-truth" });
  const label = (name, words) => svg("text", { class: `nfbook-label-${name}` }, words);
  const labels = { energy: label("energy", "minus energy"), entropy: label("entropy", "entropy"),
    bound: label("bound", "bound"), gap: label("gap", "gap"),
    truth: label("truth", "log p(x | θ)") };
  const sum = svg("svg", {}, sumGrid, ...Object.values(bars), level, truth,
    ...Object.values(arrows), ...Object.values(labels));
  const picture = html("div", { role: "img", class: "nfbook-pair" }, densities, sum);

  const sliders = {
    mean: slider({ ...MEAN, label: "m", name: "mean of q",
      input: (x) => choose({ mean: toMean(x) }),
      show: (x) => ({ short: setting(x, 2), long: `mean ${setting(x, 2)}` }) }),
    stddev: slider({ ...STDDEV, label: "s", name: "standard deviation of q",
      input: (x) => choose({ stddev: toStddev(x) }),
      show: (x) => ({ short: setting(x, 2), long: `standard deviation ${setting(x, 2)}` }) }),
  };
  const choice = radios({ words: Object.keys(MODELS),
    input: (word) => choose({ posterior: word }) });
  const button = html("button", { type: "button", class: "nfbook-button" }, "Climb the bound");
  const status = html("p", { role: "status", class: "nfbook-status" });
  const numbers = numberTable(["entropy", "entropy H(q)"], ["energy", "energy", "−"],
    ["bound", "bound L(q, θ)", "="], ["gap", "gap KL(q ‖ p)", "+"],
    ["evidence", "log p(x | θ)", "="]);

  const root = html("div", { class: "nfbook-figure nfbook-bound" },
    html("p", { class: "nfbook-legend" }, key("posterior", "posterior p(z | x, θ)"),
      key("variational", "q(z) = N(z | m, s²)")),
    picture,
    html("p", { class: "nfbook-hint" }, "Drag the ring: sideways it moves q, upwards it makes it " +
      "narrower. Or use the sliders."),
    html("div", { class: "nfbook-controls" },
      group("Mean and standard deviation of q", "variational", sliders.mean.node,
        sliders.stddev.node),
      group("The posterior has", "posterior", choice.node, button)),
    numbers.node, status);
  el.append(root);

  const { choose, run, stop: stopMotion } = motion(model);

  // Walks the way of a climb, unless the reader takes over or wants nothing to move by itself.
  button.addEventListener("click", () => {
    const [posterior, mean, stddev] = read();
    const way = climb(MODELS[posterior], mean, stddev);
    if (wantsStillness()) way.splice(0, way.length - 1);
    run(() => {
      const [m, s] = way.shift();
      choose({ mean: m, stddev: s });
      return way.length > 0;
    });
  });

  let unit = 1; // pixels from z = 0 to z = 1

  function draw(width) {
    const [posterior, m, s] = read();
    const target = MODELS[posterior];
    const result = terms(target, m, s);
    sliders.mean.update(m);
    sliders.stddev.update(s);
    choice.update(posterior);
    numbers.show("entropy", format(result.entropy, 3));
    numbers.show("energy", format(result.energy, 3));
    numbers.show("bound", format(result.bound, 3));
    numbers.show("gap", format(result.gap, 3));
    numbers.show("evidence", format(result.logEvidence, 3));
    const words = advice(target, m, s, result);
    if (status.textContent !== words) status.textContent = words;
    picture.setAttribute("aria-label", `A posterior with ${posterior}, and q with mean ` +
      `${setting(m, 2)} and standard deviation ${setting(s, 2)}. Entropy ` +
      `${format(result.entropy, 3)} minus energy ${format(result.energy, 3)} is the bound, ` +
      `${format(result.bound, 3)}. The gap of ${format(result.gap, 3)} above it reaches up to ` +
      `the log-evidence, ${format(result.logEvidence, 3)}.`);
    if (width === 0) return;
    const wide = width >= SIDE_BY_SIDE;
    const left = wide ? Math.round(0.55 * width) : width;
    // On a phone both pictures and the sliders are seen at once.
    const height = wide ? 250 : 205;
    drawDensities(frameOf(densities, left, height, MARGIN), target, m, s);
    drawSum(frameOf(sum, wide ? width - left : width, height, MARGIN), result);
  }

  function drawDensities(frame, { posterior }, m, s) {
    const q = (z) => Math.exp(logNormal(z, m, s));
    unit = (frame.right - frame.left) / (2 * SEEN);
    const x = (z) => frame.left + unit * (z + SEEN);
    // The posteriors' own peaks are not far above 1.
    const high = 1.12 * Math.max(1.15, q(m));
    const y = (value) => frame.bottom - (frame.bottom - MARGIN.top) * (value / high);
    curves.cut(frame);
    densityGrid.replaceChildren(...axes(frame,
      { title: "z", ticks: ticks(-SEEN, SEEN).map(([z, text]) => [x(z), text]) },
      { title: "density", ticks: ticks(0, high).map(([value, text]) => [y(value), text]) }));
    for (const [name, f] of [["p", posterior], ["q", q]]) {
      const line = curve(f, -SEEN, SEEN, x, y);
      set(shape[name], { d: line });
      set(filled[name], { d: area(line, frame) });
    }
    set(handle, { transform: `translate(${x(m).toFixed(1)},${y(q(m)).toFixed(1)})` });
  }

  // The line of the log-evidence never moves: where the gap is wide, the scale below it shrinks.
  function drawSum(frame, { energy, bound, logEvidence }) {
    const line = frame.top + 24;
    const range = Math.max(NATS, 1.25 * (logEvidence - Math.min(-energy, bound)));
    const y = (nats) => line + (frame.bottom - line) * (logEvidence - nats) / range;
    const half = (frame.right - frame.left) / 2;
    const breadth = 0.52 * half; // of a bar
    const [first, second] = [0.08, 1.08].map((share) => frame.left + share * half);
    sumGrid.replaceChildren(...axes(frame,
      { title: "", ticks: [[first + 0.42 * half, "entropy − energy"],
        [second + 0.42 * half, "bound + gap"]] },
      { title: "nats", ticks: ticks(logEvidence - range, logEvidence)
        .map(([nats, text]) => [y(nats), text]) }));
    set(bars.energy, { d: tornBar(first, breadth, y(-energy), frame.bottom) });
    set(bars.bound, { d: tornBar(second, breadth, y(bound), frame.bottom) });
    set(bars.gap, { d: `M${second},${y(bound)}V${line}h${breadth}V${y(bound)}` });
    set(level, { x1: first + breadth, x2: second + breadth, y1: y(bound), y2: y(bound) });
    set(truth, { x1: frame.left, x2: frame.right, y1: line, y2: line });
    const beside = [first + breadth + 9, second + breadth + 9];
    set(arrows.entropy, { d: arrow(beside[0], y(-energy), y(bound)) });
    set(arrows.gap, { d: arrow(beside[1], y(bound), line) });

    // Names keep below the line of the log-evidence, whose own name stands above it.
    const place = (name, x, height, anchor) =>
      set(labels[name], { x, y: Math.max(height, line + 15), "text-anchor": anchor });
    place("energy", first + breadth / 2, y(-energy) + 15, "middle");
    place("entropy", beside[0] + 7, (y(-energy) + y(bound)) / 2 + 4, "start");
    place("bound", second + breadth / 2, y(bound) + 15, "middle");
    place("gap", beside[1] + 7, (y(bound) + line) / 2 + 4, "start");
    set(labels.truth, { x: frame.right, y: line - 6, "text-anchor": "end" });
  }

  // Sideways the ring moves q; upwards it makes it narrower.
  draggable(handle, {
    start: () => ({ mean: model.get("mean"), stddev: model.get("stddev") }),
    move: (dx, dy, { mean, stddev }) => choose({
      mean: toMean(onStep(mean + dx / unit)),
      stddev: toStddev(onStep(stddev * Math.exp(dy / 80))),
    }),
  });

  const stop = redraw(model, NAMES, root, draw);
  return () => {
    stopMotion();
    stop();
  };
}

// A bar whose lower end is torn off: the scale goes on below the picture.
function tornBar(x, breadth, top, bottom) {
  const tooth = breadth / 12;
  return `M${x},${bottom - 6}V${top}h${breadth}V${bottom - 6}` +
    `l${-tooth},4l${-tooth},-4`.repeat(6) + "Z";
}

// An upright arrow from one height to another; its head shrinks with a short shaft.
function arrow(x, from, to) {
  const head = Math.sign(from - to) * Math.min(7, Math.abs(from - to));
  return `M${x},${from}V${to}m-4,${head}l4,${-head}l4,${head}`;
}

export default { render };
