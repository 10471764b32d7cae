// One point on its way through a trained RealNVP, layer by layer, with a choice of masks.

import {
  assign, axes, clamp, clipped, draggable, format, frameOf, group, html, key, numberTable, path,
  radios, redraw, ring, set, setting, slider, svg, ticks,
} from "../kit.mjs";
import WEIGHTS from "../../data/moons_realnvp.csv";

// ---- the arithmetic -----------------------------------------------------------------------

const UNITS = 24;
const LENGTH = 6;
const BOUND = 3; // of the log-scales
// The coordinate that stays in each layer, from 0.
export const MASKS = {
  "taking turns": [0, 1, 0, 1, 0, 1],
  "x1 stays": [0, 0, 0, 0, 0, 0],
  "x2 stays": [1, 1, 1, 1, 1, 1],
};

// The weights of each layer's network, in the order in which they are stored.
const networks = Object.keys(MASKS).map((_, number) => WEIGHTS.filter(([mask]) => mask === number)
  .map((row) => row.slice(2)));

// The shift and the log-scale that a network gives for the coordinate that stays.
function conditioner(weights, kept) {
  const [first, bias] = [0, UNITS];
  const [shifts, scales] = [2 * UNITS, 3 * UNITS];
  let [shift, raw] = weights.slice(4 * UNITS);
  for (let unit = 0; unit < UNITS; unit += 1) {
    const active = Math.max(0, weights[first + unit] * kept + weights[bias + unit]);
    shift += weights[shifts + unit] * active;
    raw += weights[scales + unit] * active;
  }
  return { shift, logScale: raw / (1 + Math.abs(raw) / BOUND) };
}

// A point before the first layer and after each, with the sum of the log-determinants so far.
export function way(mask, point) {
  const layers = networks[Object.keys(MASKS).indexOf(mask)];
  let stage = { point, ladj: 0 };
  return [stage, ...MASKS[mask].map((stays, k) => {
    const { shift, logScale } = conditioner(layers[k], stage.point[stays]);
    const moved = Math.exp(logScale) * stage.point[1 - stays] + shift;
    const next = stays === 0 ? [stage.point[0], moved] : [moved, stage.point[1]];
    stage = { point: next, ladj: stage.ladj + logScale };
    return stage;
  })];
}

// The same after a number of layers that need not be whole. A fraction of a layer is a layer with
// that fraction of the shift and of the log-scale.
export function after(mask, point, layers) {
  const whole = Math.min(Math.floor(layers), LENGTH - 1);
  const stages = way(mask, point);
  const [from, part] = [stages[whole], layers - whole];
  const stays = MASKS[mask][whole];
  const network = networks[Object.keys(MASKS).indexOf(mask)][whole];
  const { shift, logScale } = conditioner(network, from.point[stays]);
  const moved = Math.exp(part * logScale) * from.point[1 - stays] + part * shift;
  return { point: stays === 0 ? [from.point[0], moved] : [moved, from.point[1]],
    ladj: from.ladj + part * logScale };
}

export const logNormal = ([a, b]) => -Math.log(2 * Math.PI) - 0.5 * (a * a + b * b);

// log π of the two moons: 32 round Gaussians on two half circles.
const [COUNT, RADIUS, WIDTH] = [16, 1.5, 0.2];
const CENTRES = Array.from({ length: COUNT }, (_, j) => {
  const angle = Math.PI * j / (COUNT - 1);
  return [RADIUS * (Math.cos(angle) - 0.5), RADIUS * (Math.sin(angle) - 0.25)];
});
export function logMoons([x, y]) {
  const logs = [1, -1].flatMap((sign) => CENTRES.map(([a, b]) =>
    -((x - sign * a) ** 2 + (y - sign * b) ** 2) / (2 * WIDTH * WIDTH)));
  const high = Math.max(...logs);
  const total = logs.reduce((sum, value) => sum + Math.exp(value - high), 0);
  return high + Math.log(total / (2 * COUNT)) - Math.log(2 * Math.PI * WIDTH * WIDTH);
}

// A cloud of points whose distribution is close to the standard normal, the same every time: a
// lattice of the unit square, carried to the plane by radius and angle.
const GOLDEN = (Math.sqrt(5) - 1) / 2;
const CLOUD = Array.from({ length: 300 }, (_, i) => {
  const radius = Math.sqrt(-2 * Math.log((i + 0.5) / 300));
  const angle = 2 * Math.PI * ((i * GOLDEN) % 1);
  return [radius * Math.cos(angle), radius * Math.sin(angle)];
});

// ---- the figure ---------------------------------------------------------------------------

const MARGIN = { left: 46, right: 14, top: 14, bottom: 40 };
const MARGIN_OF_HEIGHTS = { left: 62, right: 14, top: 14, bottom: 40 };
const SIDE_BY_SIDE = 560; // pixels: below it the two pictures stand one above the other
// The ranges are those that CouplingExplorable accepts.
const COORDINATE = { min: -3, max: 3, step: 0.05 };
const LAYERS = { min: 0, max: LENGTH, step: 0.05 };
const NAMES = ["mask", "z1", "z2", "layers"];
const SEEN = 3.3;
const SMALL = 0.35; // the radius of the circle around the point

const onStep = (x, { min, max, step }) =>
  clamp(Number((step * Math.round(x / step)).toFixed(2)), min, max);

function render({ model, el }) {
  // Every node is made once and only moved afterwards.
  const [cloud, moons, trail] = [path("dots"), path("guide-soft"), path("guide-variational")];
  const circles = { before: path("prior"), now: path("variational nfbook-solid") };
  set(trail, { fill: "none" });
  set(cloud, { style: "stroke: var(--nfbook-data); stroke-width: 3.4; stroke-linecap: round" });
  const stops = Array.from({ length: LENGTH + 2 }, () =>
    svg("circle", { r: 2.5, class: "nfbook-mark" }));
  const seen = clipped(cloud, moons, circles.before, circles.now, trail, ...stops);
  const handle = ring("prior");
  const planeGrid = svg("g", { class: "nfbook-axes" });
  const plane = svg("svg", {}, planeGrid, seen.node, handle);

  const stepsGrid = svg("g", { class: "nfbook-axes" });
  const lines = { truth: path("whole nfbook-dashed"), density: path("guide-variational") };
  set(lines.density, { fill: "none" });
  const here = svg("circle", { r: 4.5, class: "nfbook-mark" });
  const heights = clipped(lines.truth, lines.density);
  const steps = svg("svg", {}, stepsGrid, heights.node, here);
  const picture = html("div", { role: "img", class: "nfbook-pair" }, plane, steps);

  const coordinate = (name, label, words) => slider({ ...COORDINATE, label, name: words,
    input: (x) => assign(model, { [name]: onStep(x, COORDINATE) }),
    show: (x) => ({ short: setting(x, 2), long: `${words} ${setting(x, 2)}` }) });
  const sliders = {
    z1: coordinate("z1", "first", "first coordinate"),
    z2: coordinate("z2", "second", "second coordinate"),
    layers: slider({ ...LAYERS, label: "layers", name: "layers gone through",
      input: (k) => assign(model, { layers: onStep(k, LAYERS) }),
      show: (k) => ({ short: setting(k, 2), long: `layers ${setting(k, 2)}` }) }),
  };
  const choice = radios({ words: Object.keys(MASKS), input: (mask) => assign(model, { mask }) });
  const numbers = numberTable(["base", "log p(z₀)"], ["ladj", "log-determinant", "−"],
    ["density", "log-density here", "="], ["truth", "log π, the two moons"]);
  const status = html("p", { role: "status", class: "nfbook-status" });

  const root = html("div", { class: "nfbook-figure nfbook-coupling" },
    html("p", { class: "nfbook-legend" },
      key("prior", "small circle in the noise"),
      key("variational nfbook-solid", "the same after the layers"),
      key("whole nfbook-dashed", "truth")),
    picture,
    html("p", { class: "nfbook-hint" }, "Drag the ring: it is the point as noise. The line is " +
      "its way through the layers, and the pale dots are draws on theirs."),
    html("div", { class: "nfbook-controls" },
      group("The point as noise", "prior", sliders.z1.node, sliders.z2.node),
      group("Layers", "variational", sliders.layers.node),
      group("Which coordinate stays", "variational", choice.node)),
    numbers.node, status);
  el.append(root);

  let scale = 1; // pixels for a unit of length

  function draw(width) {
    const [mask, z1, z2, layers] = NAMES.map((name) => model.get(name));
    const stages = way(mask, [z1, z2]);
    const { point, ladj } = after(mask, [z1, z2], layers);
    const density = logNormal([z1, z2]) - ladj;
    for (const name of ["z1", "z2", "layers"]) sliders[name].update(model.get(name));
    choice.update(mask);
    numbers.show("base", format(logNormal([z1, z2]), 2));
    numbers.show("ladj", format(ladj, 2));
    numbers.show("density", format(density, 2));
    numbers.show("truth", format(logMoons(point), 2));
    const words = account(mask, stages, layers);
    if (status.textContent !== words) status.textContent = words;
    picture.setAttribute("aria-label", `The point ${setting(z1, 2)}, ${setting(z2, 2)} of the ` +
      `noise after ${setting(layers, 2)} of ${LENGTH} layers, masks: ${mask}. It lies at ` +
      `${point.map((x) => format(x, 2)).join(", ")}, where the log-density is ` +
      `${format(density, 2)}.`);
    if (width === 0) return;
    const wide = width >= SIDE_BY_SIDE;
    const left = wide ? Math.round(0.55 * width) : width;
    const height = wide ? 330 : 260;
    drawPlane(frameOf(plane, left, height, MARGIN), mask, stages, layers, point);
    drawSteps(frameOf(steps, wide ? width - left : width, wide ? height : 190, MARGIN_OF_HEIGHTS),
      stages, layers, density);
  }

  function drawPlane(frame, mask, stages, layers, point) {
    const middle = { x: (frame.left + frame.right) / 2, y: (frame.top + frame.bottom) / 2 };
    scale = Math.min(frame.right - frame.left, frame.bottom - frame.top) / (2 * SEEN);
    const x = (a) => middle.x + scale * a;
    const y = (b) => middle.y - scale * b;
    const at = ([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`;
    const carried = (from) => after(mask, from, layers).point;
    seen.cut(frame);
    planeGrid.replaceChildren(...axes(frame,
      { title: "first coordinate", ticks: [-2, 0, 2].map((t) => [x(t), format(t, 0)]) },
      { title: "second coordinate", ticks: [-2, 0, 2].map((t) => [y(t), format(t, 0)]) }));
    // Lines of no length with round ends: the browser draws them much faster than circles.
    set(cloud, { d: CLOUD.map((from) => `M${at(carried(from))}h0`).join("") });
    set(moons, { d: [1, -1].map((sign) =>
      `M${CENTRES.map(([a, b]) => at([sign * a, sign * b])).join("L")}`).join("") });
    const around = Array.from({ length: 40 }, (_, k) => [
      stages[0].point[0] + SMALL * Math.cos(k * Math.PI / 20),
      stages[0].point[1] + SMALL * Math.sin(k * Math.PI / 20)]);
    set(circles.before, { d: `M${around.map(at).join("L")}Z` });
    set(circles.now, { d: `M${around.map((from) => at(carried(from))).join("L")}Z` });
    // The stops after whole layers, and last of all where the point is now.
    const whole = Math.floor(layers);
    const gone = [...stages.slice(0, whole + 1).map((stage) => stage.point), point];
    set(trail, { d: `M${gone.map(at).join("L")}` });
    stops.forEach((node, k) => {
      node.toggleAttribute("hidden", k > whole && k <= LENGTH);
      const [cx, cy] = at(k > LENGTH ? point : stages[k].point).split(",");
      set(node, { cx, cy, r: k > LENGTH ? 4.5 : 2.5 });
    });
    const [cx, cy] = at(stages[0].point).split(",");
    set(handle, { transform: `translate(${cx},${cy})` });
  }

  function drawSteps(frame, stages, layers, density) {
    const values = stages.map(({ ladj }) => logNormal(stages[0].point) - ladj);
    const truth = logMoons(stages[LENGTH].point);
    const [low, high] = [Math.min(...values, Math.max(truth, Math.min(...values) - 4)),
      Math.max(...values, truth)];
    const spare = Math.max(0.5, 0.15 * (high - low));
    const [floor, top] = [low - spare, high + spare];
    const x = (k) => frame.left + (frame.right - frame.left) * (k / LENGTH);
    const y = (nats) => frame.bottom - (frame.bottom - frame.top) * (nats - floor) / (top - floor);
    heights.cut(frame);
    stepsGrid.replaceChildren(...axes(frame,
      { title: "layers", ticks: values.map((_, k) => [x(k), `${k}`]) },
      { title: "log-density (nats)", ticks: ticks(floor, top)
        .map(([nats, text]) => [y(nats), text]) }));
    set(lines.truth, { d: `M${x(0)},${y(truth).toFixed(1)}H${x(LENGTH)}` });
    set(lines.density, { d: `M${values.map((value, k) =>
      `${x(k).toFixed(1)},${y(value).toFixed(1)}`).join("L")}` });
    set(here, { cx: x(layers), cy: y(density) });
  }

  draggable(handle, {
    start: () => [model.get("z1"), model.get("z2")],
    move: (dx, dy, [a, b]) => assign(model, {
      z1: onStep(a + dx / scale, COORDINATE), z2: onStep(b - dy / scale, COORDINATE),
    }),
  });

  return redraw(model, NAMES, root, draw);
}

// What the last layer did, in words.
function account(mask, stages, layers) {
  if (layers === 0) return "Noise: a draw from the standard normal, before the first layer.";
  const k = Math.ceil(layers);
  const stays = MASKS[mask][k - 1];
  const names = ["first", "second"];
  const factor = Math.exp(stages[k].ladj - stages[k - 1].ladj);
  const does = factor < 1 ? "shrinks" : "stretches";
  return `Layer ${k}: the ${names[stays]} coordinate stays, and says how to scale and shift the ` +
    `${names[1 - stays]} one. Here the whole layer ${does} a small area by the factor ` +
    `${format(factor, 2)}.`;
}

export default { render };
