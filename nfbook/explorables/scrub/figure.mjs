// Points and a density on their way through a trained planar flow, layer by layer, to an energy.

import AFFINE from "../../data/energies_affine.csv";
import TABLE from "../../data/energies_divergences.csv";
import PLANAR from "../../data/energies_planar.csv";
import {
  assign, axes, clamp, clipped, contour, format, frameOf, group, heightsOf, html, key, numberTable,
  path, radios, redraw, set, shadePaths, slider, svg, ticks, uHat,
} from "../kit.mjs";

// ---- the arithmetic -----------------------------------------------------------------------

export const ENERGIES = ["U1", "U2", "U3", "U4"];
export const LENGTH = 32;
const SIDE = 4; // the targets live on the square from -SIDE to SIDE

const gauss = (x, middle, width) => -0.5 * ((x - middle) / width) ** 2;
const wave = (x) => Math.sin(Math.PI * x / 2);
const logAddExp = (a, b) => Math.max(a, b) + Math.log1p(Math.exp(-Math.abs(a - b)));

// The logarithms of the targets, without their normalisers.
const SHAPES = {
  U1: (x, y) => gauss(Math.hypot(x, y), 2, 0.4) + logAddExp(gauss(x, 2, 0.6), gauss(x, -2, 0.6)),
  U2: (x, y) => gauss(y, wave(x), 0.4),
  U3: (x, y) => logAddExp(gauss(y, wave(x), 0.35),
    gauss(y, wave(x) - 3 * Math.exp(gauss(x, 1, 0.6)), 0.35)),
  U4: (x, y) => logAddExp(gauss(y, wave(x), 0.4),
    gauss(y, wave(x) - 3 / (1 + Math.exp((1 - x) / 0.3)), 0.35)),
};
const LOG_Z = { U1: 1.877501616798, U2: 2.08208934301, U3: 2.641705130859, U4: 2.684567670243 };

// The log-density of a target at a point of the square.
export const logTarget = (energy, [x, y]) => SHAPES[energy](x, y) - LOG_Z[energy];

// A planar layer [w, û, b] of the stored w, u and b.
const safe = ([w1, w2, u1, u2, b]) => [w1, w2, ...uHat([w1, w2], [u1, u2]), b];

// The trained flows: log-scales and shifts of the coordinates, then the layers.
const FLOWS = Object.fromEntries(ENERGIES.map((energy, k) => [energy, {
  affine: AFFINE.find(([which]) => which === k + 1).slice(1),
  layers: PLANAR.filter(([which]) => which === k + 1).map((row) => safe(row.slice(2))),
}]));

// A noise point and its log-density, [z₁, z₂, log q], before the first layer...
function begin(energy, [z1, z2]) {
  const [s1, s2, m1, m2] = FLOWS[energy].affine;
  const logBase = -0.5 * (z1 * z1 + z2 * z2) - Math.log(2 * Math.PI);
  return [Math.exp(s1) * z1 + m1, Math.exp(s2) * z2 + m2, logBase - s1 - s2];
}

// ...after layer number k, from 0 on, ...
function step(energy, k, [z1, z2, logQ]) {
  const [w1, w2, u1, u2, b] = FLOWS[energy].layers[k];
  const h = Math.tanh(w1 * z1 + w2 * z2 + b);
  return [z1 + u1 * h, z2 + u2 * h, logQ - Math.log1p((w1 * u1 + w2 * u2) * (1 - h * h))];
}

// ...and in the square, where the sigmoids at the end of the flow take it from wherever it is.
function finish([z1, z2, logQ]) {
  const place = (z) => SIDE * Math.tanh(z / 2);
  const stretch = (z) => Math.log(2 * SIDE) - Math.abs(z) - 2 * Math.log1p(Math.exp(-Math.abs(z)));
  return [place(z1), place(z2), logQ - stretch(z1) - stretch(z2)];
}

// Where the first `count` layers and the sigmoids take a noise point: [x, y, log q].
export function through(energy, count, noise) {
  let state = begin(energy, noise);
  for (let k = 0; k < count; k += 1) state = step(energy, k, state);
  return finish(state);
}

// The divergences KL(q_k || p) for k = 0, ..., LENGTH. They take a fine grid, so they are stored.
export const DIVERGENCES = Object.fromEntries(ENERGIES.map((energy, k) =>
  [energy, TABLE.find(([which]) => which === k + 1).slice(1)]));

// ---- the figure ---------------------------------------------------------------------------

const MARGIN = { left: 44, right: 14, top: 14, bottom: 40 };
const SIDE_BY_SIDE = 560; // pixels: below it the two pictures stand one above the other
const NAMES = ["energy", "layers"];
const CELLS = 36; // of the noise, along each axis; the density is drawn by where they go
const NOISE = 3.5; // how far the cells reach
// Densities above each of these are drawn darker.
const LEVELS = [0.002, 0.006, 0.013, 0.024, 0.04, 0.06, 0.085, 0.115, 0.16];
const OUTLINE = [0.01, 0.05]; // densities at which the target's contours are drawn
const FINE = 80; // cells along each axis of the grid that finds the contours
const POINTS = 350;
const ONES = [0.001, 0.01, 0.1, 1, 10]; // ticks of the divergence
const [LEAST, MOST] = [0.0004, 60]; // ... and what is drawn of it

// Noise points that are spread evenly: a sequence of the plastic number, as Gaussians.
const DUST = Array.from({ length: POINTS }, (_, k) => {
  const [u, v] = [0.7548776662466927, 0.5698402909980532].map((step) => (0.5 + step * k) % 1);
  const radius = Math.sqrt(-2 * Math.log(u));
  return [radius * Math.cos(2 * Math.PI * v), radius * Math.sin(2 * Math.PI * v)];
});

// The corners of the cells, row by row.
const CORNERS = Array.from({ length: (CELLS + 1) ** 2 }, (_, k) =>
  [Math.floor(k / (CELLS + 1)), k % (CELLS + 1)].map((i) => NOISE * (2 * i / CELLS - 1)));

// The mass of each cell, and the area of what the flow makes of one.
const MASSES = Array.from({ length: CELLS ** 2 }, (_, k) => {
  const middle = [Math.floor(k / CELLS), k % CELLS].map((i) => NOISE * ((2 * i + 1) / CELLS - 1));
  return (2 * NOISE / CELLS) ** 2 * Math.exp(-0.5 * (middle[0] ** 2 + middle[1] ** 2)) / (2 * Math.PI);
});
const spread = (a, b, c, d) =>
  Math.abs((c[0] - a[0]) * (d[1] - b[1]) - (d[0] - b[0]) * (c[1] - a[1])) / 2;

// Contours of the target, and where points and corners are after each number of layers: found once
// for each energy, so that moving through the layers only draws.
const known = {};
function about(energy) {
  if (!known[energy]) {
    const heights = heightsOf((point) => logTarget(energy, point), SIDE, FINE);
    const outline = OUTLINE.flatMap((density) => contour(heights, Math.log(density), SIDE));
    let [dust, corners] = [DUST, CORNERS].map((all) => all.map((noise) => begin(energy, noise)));
    const after = [];
    for (let k = 0; k <= LENGTH; k += 1) {
      if (k > 0) [dust, corners] = [dust, corners].map((all) => all.map((z) => step(energy, k - 1, z)));
      after.push({ dust: dust.map(finish), corners: corners.map(finish) });
    }
    known[energy] = { outline, after };
  }
  return known[energy];
}

function render({ model, el }) {
  // Every node is made once and only moved afterwards.
  const shades = shadePaths("area nfbook-area-variational", LEVELS, 0.1, 0.09);
  const outline = path("thin nfbook-posterior");
  const dust = path("dust");
  const square = clipped(...shades, outline, dust);
  const squareGrid = svg("g", { class: "nfbook-axes" });
  const left = svg("svg", {}, squareGrid, square.node);

  const curve = path("variational nfbook-solid");
  const now = svg("circle", { class: "nfbook-spot", r: 6 });
  const curveGrid = svg("g", { class: "nfbook-axes" });
  const right = svg("svg", {}, curveGrid, curve, now);
  const picture = html("div", { role: "img", class: "nfbook-pair" }, left, right);

  const count = slider({
    min: 0, max: LENGTH, step: 1, label: "k", name: "layers k",
    input: (layers) => assign(model, { layers }),
    show: (layers) => ({ short: `${layers}`, long: `${layers} layers` }),
  });
  const choice = radios({ words: ENERGIES, input: (energy) => assign(model, { energy }) });
  const status = html("p", { role: "status", class: "nfbook-status" });
  const numbers = numberTable(["first", "KL before the layers"], ["now", "KL after k layers"],
    ["last", "KL after all layers"]);

  const root = html("div", { class: "nfbook-figure nfbook-scrub" },
    html("p", { class: "nfbook-legend" },
      key("posterior nfbook-thin", "contours of the target"),
      key("variational nfbook-solid", "divergence after k layers, in nats")),
    picture,
    html("div", { class: "nfbook-controls" },
      group("Layers that the points have passed", "variational", count.node),
      group("The energy", "posterior", choice.node)),
    numbers.node, status);
  el.append(root);

  function draw(width) {
    const [energy, layers] = NAMES.map((name) => model.get(name));
    if (!ENERGIES.includes(energy)) return;
    const kl = DIVERGENCES[energy];
    count.update(layers);
    choice.update(energy);
    numbers.show("first", format(kl[0], 3));
    numbers.show("now", format(kl[layers], 3));
    numbers.show("last", format(kl[LENGTH], 3));
    const words = summary(kl, layers);
    if (status.textContent !== words) status.textContent = words;
    picture.setAttribute("aria-label", `Points and density of a planar flow for ${energy} after ` +
      `${layers} of ${LENGTH} layers, beside its divergence from the target. ${words}`);
    if (width === 0) return;
    const wide = width >= SIDE_BY_SIDE;
    const first = wide ? Math.round(0.54 * width) : width;
    // The square is drawn to scale.
    const height = first - MARGIN.left - MARGIN.right + MARGIN.top + MARGIN.bottom;
    drawSquare(frameOf(left, first, height, MARGIN), energy, layers);
    const margin = { ...MARGIN, left: 62 }; // for the longest tick
    drawCurve(frameOf(right, wide ? width - first : width, wide ? height : 215, margin), kl, layers);
  }

  function drawSquare(frame, energy, layers) {
    const unit = (frame.right - frame.left) / (2 * SIDE);
    const x = (value) => (frame.left + unit * (value + SIDE)).toFixed(1);
    const y = (value) => (frame.bottom - unit * (value + SIDE)).toFixed(1);
    square.cut(frame);
    const marks = ticks(-SIDE, SIDE);
    squareGrid.replaceChildren(...axes(frame,
      { title: "first coordinate", ticks: marks.map(([at, text]) => [x(at), text]) },
      { title: "second coordinate", ticks: marks.map(([at, text]) => [y(at), text]) }));
    const at = (point) => `${x(point[0])},${y(point[1])}`;
    const { outline: pieces, after } = about(energy);
    const { dust: points, corners } = after[layers];
    set(outline, { d: pieces.map(([from, to]) => `M${at(from)}L${at(to)}`).join("") });
    set(dust, { d: points.map((point) => `M${at(point)}h0`).join("") });

    // Each cell of the noise is drawn where its corners go: its mass is spread over the area there.
    const places = corners.map(at);
    const parts = LEVELS.map(() => []);
    MASSES.forEach((mass, cell) => {
      const first = cell + Math.floor(cell / CELLS);
      const four = [first, first + CELLS + 1, first + CELLS + 2, first + 1];
      const density = mass / spread(...four.map((k) => corners[k]));
      const level = LEVELS.findLastIndex((bound) => density > bound);
      if (level >= 0) parts[level].push(`M${four.map((k) => places[k]).join("L")}Z`);
    });
    shades.forEach((node, k) => set(node, { d: parts[k].join("") }));
  }

  function drawCurve(frame, kl, layers) {
    const [low, high] = [Math.log(LEAST), Math.log(MOST)];
    const x = (k) => frame.left + (frame.right - frame.left) * k / LENGTH;
    const y = (value) => frame.bottom - (frame.bottom - frame.top) *
      (Math.log(clamp(value, LEAST, MOST)) - low) / (high - low);
    curveGrid.replaceChildren(...axes(frame,
      { title: "layers k", ticks: ticks(0, LENGTH).map(([at, text]) => [x(at), text]) },
      { title: "divergence (nats)", ticks: ONES.map((value) => [y(value), `${value}`]) }));
    set(curve, { d: `M${kl.map((value, k) =>
      `${x(k).toFixed(1)},${y(value).toFixed(1)}`).join("L")}` });
    set(now, { cx: x(layers), cy: y(kl[layers]) });
  }

  return redraw(model, NAMES, root, draw);
}

// What is seen, in words.
function summary(kl, layers) {
  const [now, last] = [kl[layers], kl[LENGTH]].map((value) => format(value, 3));
  if (layers === 0) return `Before the first layer the divergence is ${now} nats.`;
  if (layers === LENGTH) return `After all layers the divergence is ${last} nats.`;
  const best = kl.slice(0, layers + 1).indexOf(Math.min(...kl.slice(0, layers + 1)));
  const change = kl[layers] - kl[layers - 1];
  return `Layer ${layers} ${change < 0 ? "lowered" : "raised"} the divergence by ` +
    `${format(Math.abs(change), 3)}, to ${now} nats` +
    `${best === layers ? ", less than before any other." : "; it had been lower before."}`;
}

export default { render };
