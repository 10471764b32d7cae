// A flow that widens and bends a Gaussian towards a posterior, layer by layer, and its bound.

import {
  assign, axes, clamp, clipped, contour, draggable, format, frameOf, group, heightsOf, html, key,
  numberTable, path, polyline, radios, redraw, ring, set, setting, shadePaths, shadesOf, slider,
  svg, ticks, uHat,
} from "../kit.mjs";
import WEIGHTS from "../../data/parabola_layers.csv";

// ---- the arithmetic -----------------------------------------------------------------------

export const NOISE = 0.5;
const LENGTH = 4;
// The observations by what they are called here.
export const OBSERVATIONS = { "−1": -1, 1: 1, 3: 3, 5: 5 };

const dot = (a, b) => a[0] * b[0] + a[1] * b[1];
const logNormal = (x, mean, variance) =>
  -0.5 * Math.log(2 * Math.PI * variance) - (x - mean) ** 2 / (2 * variance);

export const logJoint = (x, [a, b]) =>
  logNormal(a, 0, 1) + logNormal(b, 0, 1) + logNormal(x, a * a + b, NOISE ** 2);

// log p(x): given the first coordinate all is Gaussian, and the trapezoidal rule does the rest.
export function logEvidence(x) {
  const [reach, steps] = [9, 7200];
  let sum = 0;
  for (let k = 0; k <= steps; k += 1) {
    const a = -reach + 2 * reach * k / steps;
    sum += Math.exp(logNormal(a, 0, 1) + logNormal(x, a * a, 1 + NOISE ** 2));
  }
  return Math.log(sum * 2 * reach / steps);
}

// The trained flow of an observation after so many layers, as the settings change it: the Gaussian
// is `width` times as wide, and `change` is added to the u of the last layer.
export function flowOf(x, layers, width, change) {
  const [start, ...rows] = WEIGHTS.filter(([own]) => own === x).map((row) => row.slice(2));
  const last = Math.ceil(layers) - 1;
  return {
    mean: start.slice(0, 2),
    std: start.slice(2, 4).map((log) => width * Math.exp(log)),
    steps: rows.slice(0, last + 1).map(([w1, w2, u1, u2, b], k) => {
      const [w, own] = [[w1, w2], k === last];
      const u = own ? [u1 + change[0], u2 + change[1]] : [u1, u2];
      const part = own ? layers - last : 1;
      return { w, u, b, v: uHat(w, u).map((value) => part * value) };
    }),
  };
}

// Where the noise e ends, with log q there.
export function forward({ mean, std, steps }, e) {
  let z = [mean[0] + std[0] * e[0], mean[1] + std[1] * e[1]];
  let logQ = logNormal(e[0], 0, 1) + logNormal(e[1], 0, 1) - Math.log(std[0] * std[1]);
  for (const { w, v, b } of steps) {
    const h = Math.tanh(dot(w, z) + b);
    logQ -= Math.log(1 + dot(w, v) * (1 - h * h));
    z = [z[0] + v[0] * h, z[1] + v[1] * h];
  }
  return { z, logQ };
}

// The solution of x + a tanh x = c, for a > -1: Newton's steps within an interval that shrinks.
function root(a, c) {
  let [low, high, x] = [c - Math.abs(a), c + Math.abs(a), c];
  for (let k = 0; k < 60; k += 1) {
    const h = Math.tanh(x);
    const off = x + a * h - c;
    if (off > 0) high = x; else low = x;
    let next = x - off / (1 + a * (1 - h * h));
    if (!(next >= low && next <= high)) next = (low + high) / 2;
    if (Math.abs(next - x) < 1e-11) return next;
    x = next;
  }
  return x;
}

// log q at a point of the plane: back through the layers, the last one first.
export function logDensity({ mean, std, steps }, point) {
  let [z, ladj] = [point, 0];
  for (let k = steps.length - 1; k >= 0; k -= 1) {
    const { w, v, b } = steps[k];
    const h = Math.tanh(root(dot(w, v), dot(w, z) + b));
    ladj += Math.log(1 + dot(w, v) * (1 - h * h));
    z = [z[0] - v[0] * h, z[1] - v[1] * h];
  }
  return logNormal(z[0], mean[0], std[0] ** 2) + logNormal(z[1], mean[1], std[1] ** 2) - ladj;
}

const [REACH, PARTS, LEAST] = [5.5, 176, 1e-9];
const NODES = Array.from({ length: PARTS + 1 }, (_, k) => -REACH + 2 * REACH * k / PARTS);
const CHANCE = NODES.map((e) => Math.exp(logNormal(e, 0, 1)) * 2 * REACH / PARTS);

const TOTAL = CHANCE.reduce((all, one) => all + CHANCE.reduce((sum, other) =>
  sum + (one * other < LEAST ? 0 : one * other), 0), 0);

// The bound: an expectation over the noise, by the trapezoidal rule. Steep layers need a fine grid,
// of which only what has a weight is looked at.
export function bound(x, { mean, std, steps }) {
  const flat = steps.map(({ w, v, b }) => [...w, ...v, b, dot(w, v)]);
  const scales = Math.log(std[0] * std[1]) + Math.log(2 * Math.PI);
  let sum = 0;
  for (let i = 0; i <= PARTS; i += 1) {
    for (let j = 0; j <= PARTS; j += 1) {
      const chance = CHANCE[i] * CHANCE[j];
      if (chance < LEAST) continue;
      let [first, second] = [mean[0] + std[0] * NODES[i], mean[1] + std[1] * NODES[j]];
      let stretch = 1;
      for (const [w1, w2, v1, v2, b, a] of flat) {
        const h = Math.tanh(w1 * first + w2 * second + b);
        stretch *= 1 + a * (1 - h * h);
        first += v1 * h;
        second += v2 * h;
      }
      const logQ = -0.5 * (NODES[i] ** 2 + NODES[j] ** 2) - scales - Math.log(stretch);
      const off = (x - first * first - second) / NOISE;
      sum += chance * (-0.5 * (first * first + second * second + off * off) - logQ);
    }
  }
  return sum - (1.5 * Math.log(2 * Math.PI) + Math.log(NOISE)) * TOTAL;
}

const EVIDENCES = Object.fromEntries(
  Object.entries(OBSERVATIONS).map(([word, x]) => [word, logEvidence(x)]));

// The posteriors' densities on a fine grid of what is seen of the plane.
const [SEEN, FINE] = [4.2, 84];
const POSTERIORS = Object.fromEntries(Object.entries(OBSERVATIONS).map(([word, x]) =>
  [word, heightsOf((z) => Math.exp(logJoint(x, z) - EVIDENCES[word]), SEEN, FINE)]));

// ---- the figure ---------------------------------------------------------------------------

const MARGIN = { left: 46, right: 14, top: 14, bottom: 40 };
const MARGIN_OF_BARS = { left: 28, right: 20, top: 14, bottom: 40 };
const SIDE_BY_SIDE = 560; // pixels: below it the two pictures stand one above the other
const NAMES = ["x", "layers", "width", "across", "up"];
// The ranges are those that LayersExplorable accepts.
const LAYERS = { min: 0, max: LENGTH, step: 0.05 };
const WIDTH = { min: 0.4, max: 2.5, step: 0.05 };
const CHANGE = { min: -2, max: 2, step: 0.05 };
const CELLS = 50;
const HEIGHTS = [0.02, 0.1, 0.3]; // of the lines at which the posterior is drawn
const LEVELS = [0.005, 0.02, 0.05, 0.1, 0.2, 0.3, 0.45, 0.7]; // of the shades of q

const onStep = (value, { min, max, step }) =>
  clamp(Number((min + step * Math.round((value - min) / step)).toFixed(2)), min, max);

function render({ model, el }) {
  const read = () => {
    const [word, layers, width, across, up] = NAMES.map((name) => model.get(name));
    const x = OBSERVATIONS[word];
    return { word, x, layers, width, flow: flowOf(x, layers, width, [across, up]) };
  };

  // Every node is made once and only moved afterwards.
  const shades = shadePaths("area nfbook-area-variational nfbook-crisp", LEVELS, 0.14, 0.1);
  const lines = path("posterior");
  const outline = path("variational nfbook-solid");
  const plane = clipped(...shades, outline, lines);
  const arrow = path("arrow");
  const handle = ring("variational");
  const name = svg("text", { class: "nfbook-label-ring" }, "u");
  const planeGrid = svg("g", { class: "nfbook-axes" });
  const left = svg("svg", {}, planeGrid, plane.node, arrow, name, handle);

  const barsGrid = svg("g", { class: "nfbook-axes" });
  const bars = {
    truth: svg("rect", { class: "nfbook-bar-energy" }),
    same: svg("rect", { class: "nfbook-bar-energy" }),
    gap: svg("rect", { class: "nfbook-bar-variational" }),
  };
  const words = Object.fromEntries(["truth", "bound"].map((one) => [one, svg("text", {})]));
  const right = svg("svg", {}, barsGrid, ...Object.values(bars), ...Object.values(words));
  const picture = html("div", { role: "img", class: "nfbook-pair" }, left, right);

  const real = (key_, range, label, long) => slider({ ...range, label, name: long,
    input: (value) => assign(model, { [key_]: onStep(value, range) }),
    show: (value) => ({ short: setting(value, 2), long: `${long} ${setting(value, 2)}` }) });
  const sliders = {
    layers: real("layers", LAYERS, "layers", "layers gone through"),
    width: real("width", WIDTH, "width", "width of the Gaussian, times"),
    across: real("across", CHANGE, "across", "change of u across"),
    up: real("up", CHANGE, "up", "change of u upwards"),
  };
  const choice = radios({ words: Object.keys(OBSERVATIONS).sort((a, b) =>
    OBSERVATIONS[a] - OBSERVATIONS[b]), input: (word) => assign(model, { x: word }) });
  const numbers = numberTable(["bound", "bound"], ["gap", "gap", "+"],
    ["evidence", "log-evidence", "="]);
  const status = html("p", { role: "status", class: "nfbook-status" });

  const root_ = html("div", { class: "nfbook-figure nfbook-layers" },
    html("p", { class: "nfbook-legend" },
      key("posterior", "exact posterior"),
      key("variational nfbook-solid", "q after the layers, and where two thirds of it end")),
    picture,
    html("p", { class: "nfbook-hint" }, "Drag the ring: it changes the u of the layer that came " +
      "last. The stronger the colour, the higher the density of q."),
    html("div", { class: "nfbook-controls" },
      group("Observation x", "posterior", choice.node),
      group("Flow", "variational", sliders.layers.node, sliders.width.node),
      group("What is added to the last layer's u", "variational", sliders.across.node,
        sliders.up.node)),
    numbers.node, status);
  el.append(root_);

  let unit = 1; // pixels for a unit of length

  function draw(width) {
    const now = read();
    const { word, x, layers, flow } = now;
    const value = bound(x, flow);
    const evidence = EVIDENCES[word];
    const gap = evidence - value;
    for (const one of NAMES.slice(1)) sliders[one].update(model.get(one));
    choice.update(word);
    // The shown gap is the difference of the shown numbers, so that the three add up to the digit.
    const [shownBound, shownEvidence] = [value, evidence].map((one) => Number(one.toFixed(3)));
    numbers.show("bound", format(shownBound, 3));
    numbers.show("gap", format(shownEvidence - shownBound, 3));
    numbers.show("evidence", format(shownEvidence, 3));
    const account = summary(layers, shownEvidence - shownBound);
    if (status.textContent !== account) status.textContent = account;
    const change = ["across", "up"].map((one) => setting(model.get(one), 2)).join(", ");
    picture.setAttribute("aria-label", `The posterior for x = ${word} beside q after ` +
      `${setting(layers, 2)} of ${LENGTH} layers, with a Gaussian ${setting(now.width, 2)} times ` +
      `as wide as trained, and ${change} added to the last u. The bound is ${format(value, 3)}, ` +
      `the gap ${format(gap, 3)}.`);
    if (width === 0) return;
    const wide = width >= SIDE_BY_SIDE;
    const first = wide ? Math.round(0.56 * width) : width;
    const height = first - MARGIN.left - MARGIN.right + MARGIN.top + MARGIN.bottom;
    drawPlane(frameOf(left, first, height, MARGIN), now);
    drawBars(frameOf(right, wide ? width - first : width, wide ? height : 190, MARGIN_OF_BARS),
      evidence, value);
  }

  function drawPlane(frame, { word, x: seen, layers, flow }) {
    const size = frame.right - frame.left;
    unit = size / (2 * SEEN);
    const middle = [frame.left + size / 2, frame.bottom - size / 2];
    const x = (value) => middle[0] + unit * value;
    const y = (value) => middle[1] - unit * value;
    plane.cut(frame);
    const marks = [-4, -2, 0, 2, 4].map((at) => [at, format(at, 0)]);
    planeGrid.replaceChildren(...axes(frame,
      { title: "z₁", ticks: marks.map(([at, text]) => [x(at), text]) },
      { title: "z₂", ticks: marks.map(([at, text]) => [y(at), text]) }));
    const density = (point) => Math.exp(logDensity(flow, point));
    const found = shadesOf(density, LEVELS, SEEN, CELLS, x, y);
    shades.forEach((node, k) => set(node, { d: found[k] }));
    // A circle of the noise that holds two thirds of it, carried along.
    const radius = Math.sqrt(2 * Math.log(3));
    const around = Array.from({ length: 721 }, (_, k) => forward(flow,
      [radius * Math.cos(k * Math.PI / 360), radius * Math.sin(k * Math.PI / 360)]).z);
    set(outline, { d: polyline(around, x, y) });
    set(lines, { d: HEIGHTS.flatMap((height) => contour(POSTERIORS[word], height, SEEN))
      .map((piece) => polyline(piece, x, y)).join("") });
    const u = flow.steps.length ? flow.steps.at(-1).u : flowOf(seen, 1, 1,
      [model.get("across"), model.get("up")]).steps[0].u;
    const tip = [x(u[0]), y(u[1])].map((at, k) => (k === 0 ? clamp(at, frame.left, frame.right)
      : clamp(at, frame.top, frame.bottom)));
    set(arrow, { d: `M${x(0).toFixed(1)},${y(0).toFixed(1)}L${tip.map((t) => t.toFixed(1))}` });
    set(handle, { transform: `translate(${tip.map((t) => t.toFixed(1))})` });
    const beside = tip[0] > frame.right - 30 ? -24 : 12;
    set(name, { x: tip[0] + beside, y: clamp(tip[1] - 9, frame.top + 12, frame.bottom) });
    name.textContent = `u${"₁₂₃₄"[Math.max(0, Math.ceil(layers) - 1)]}`;
  }

  function drawBars(frame, evidence, value) {
    const total = Math.max(-value, -evidence);
    const far = Math.max(6, 1.15 * total);
    const x = (nats) => frame.left + (frame.right - frame.left) * (far + nats) / far;
    const [top, height] = [frame.top + 26, Math.min(38, (frame.bottom - frame.top) / 4)];
    const second = top + height + 34;
    barsGrid.replaceChildren(...axes(frame,
      { title: "nats", ticks: ticks(-far, 0).map(([nats, text]) => [x(nats), text]) },
      { title: "", ticks: [] }));
    const bar = (node, from, to, at) => set(node, { x: x(from), y: at,
      width: Math.max(0, x(to) - x(from)), height });
    bar(bars.truth, evidence, 0, top);
    bar(bars.same, evidence, 0, second);
    bar(bars.gap, Math.min(value, evidence), evidence, second);
    set(words.truth, { x: x(0), y: top - 7, "text-anchor": "end" });
    set(words.bound, { x: x(0), y: second - 7, "text-anchor": "end" });
    words.truth.textContent = `log-evidence ${format(evidence, 3)}`;
    words.bound.textContent = `bound ${format(value, 3)}: the gap is coloured`;
  }

  draggable(handle, {
    start: () => [model.get("across"), model.get("up")],
    move: (dx, dy, [a, b]) => assign(model, {
      across: onStep(a + dx / unit, CHANGE), up: onStep(b - dy / unit, CHANGE),
    }),
  });

  return redraw(model, NAMES, root_, draw);
}

// What is seen, in words.
function summary(layers, gap) {
  if (layers === 0) return "No layer: q is a Gaussian with independent coordinates.";
  const came = layers === 1 ? "one layer" : `${setting(layers, 2)} layers`;
  return `After ${came} the bound lies ${format(gap, 3)} nats below the log-evidence. What is ` +
    "missing is the divergence of q from the posterior.";
}

export default { render };
