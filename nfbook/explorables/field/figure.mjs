// A field on the line: how its particles move, what that makes of a density, and K layers of it.

import {
  axes, clamp, clipped, draggable, format, frameOf, group, html, key, motion, numberTable, path,
  radios, redraw, ring, set, setting, slider, svg, ticks, wantsStillness,
} from "../kit.mjs";

// ---- the arithmetic -----------------------------------------------------------------------

// The ranges are those that FieldExplorable accepts.
const TIME = { min: 0, max: 1, step: 0.01 };
const START = { min: -2.5, max: 2.5, step: 0.02 };
const LAYERS = ["1", "2", "4", "16"];

const logNormal = (z) => -0.5 * Math.log(2 * Math.PI) - 0.5 * z ** 2;

// A field v(z, t) with its slope ∂v/∂z. `at` and `back` solve the equation exactly, from time 0
// to t and from t to 0, and `stretch` is the derivative of `at` with respect to the start.
const growth = (rate) => ({
  v: (z) => rate * z,
  slope: () => rate,
  at: (start, t) => start * Math.exp(rate * t),
  back: (z, t) => z * Math.exp(-rate * t),
  stretch: (start, t) => Math.exp(rate * t),
});

// v = a s(t) tanh(b z). Since sinh(b z) grows at the rate a b s(t), it is multiplied by the
// exponential of a b S(t), where S is the integral of s.
function bend(a, b, s, S) {
  const at = (start, t) => Math.asinh(Math.exp(a * b * S(t)) * Math.sinh(b * start)) / b;
  return {
    v: (z, t) => a * s(t) * Math.tanh(b * z),
    slope: (z, t) => a * b * s(t) / Math.cosh(b * z) ** 2,
    at,
    back: (z, t) => Math.asinh(Math.exp(-a * b * S(t)) * Math.sinh(b * z)) / b,
    stretch: (start, t) =>
      Math.exp(a * b * S(t)) * Math.cosh(b * start) / Math.cosh(b * at(start, t)),
  };
}

export const FIELDS = {
  "stretch": growth(0.8),
  "split": bend(1.2, 2, () => 1, (t) => t),
  "gather": bend(-1.2, 2, () => 1, (t) => t),
  "there and back": bend(2.5, 2, (t) => Math.cos(Math.PI * t),
    (t) => Math.sin(Math.PI * t) / Math.PI),
};

// The density at time t: that of the start, divided by the factor by which the flow stretches.
export function density({ back, stretch }, z, t) {
  const start = back(z, t);
  return Math.exp(logNormal(start)) / stretch(start, t);
}

// All numbers of one particle, each by its own definition: that they add up is no convention. The
// integral of the slope along the path is found by Simpson's rule.
export function account(field, start, t) {
  const steps = 64;
  let sum = 0;
  for (let k = 0; k <= steps; k += 1) {
    const s = t * k / steps;
    const weight = k === 0 || k === steps ? 1 : 2 + 2 * (k % 2);
    sum += weight * field.slope(field.at(start, s), s);
  }
  return {
    base: logNormal(start),
    integral: sum * t / (3 * steps),
    density: Math.log(density(field, field.at(start, t), t)),
  };
}

// The path through K layers up to time t, of which the last layer may be taken in part: the corners
// [time, z], the log-determinant, and whether some layer turned the neighbourhood over.
export function layered({ v, slope }, start, K, t) {
  const corners = [[0, start]];
  let z = start;
  let ladj = 0;
  let folded = false;
  for (let k = 0; k / K < t; k += 1) {
    const step = Math.min(1 / K, t - k / K);
    const factor = 1 + step * slope(z, k / K);
    folded = folded || factor <= 0;
    ladj += Math.log(Math.abs(factor));
    z += step * v(z, k / K);
    corners.push([k / K + step, z]);
  }
  return { z, ladj, folded, corners };
}

// The density that K layers make, as points [z, density] from low to high starts; null where
// the layers fold, so that one place is reached from several.
export function layeredDensity(field, K, t) {
  const points = [];
  for (let k = -200; k <= 200; k += 1) {
    const start = k / 40;
    const { z, ladj, folded } = layered(field, start, K, t);
    if (folded) return null;
    points.push([z, Math.exp(logNormal(start) - ladj)]);
  }
  return points;
}

// ---- the figure ---------------------------------------------------------------------------

const MARGIN = { left: 44, right: 14, top: 14, bottom: 40 };
const SIDE_BY_SIDE = 560; // pixels: below it the two pictures stand one above the other
const NAMES = ["field", "layers", "time", "start"];
const SEEN = 4; // |z| up to which paths and densities are drawn
// Starts between which equal parts of the probability lie: quantiles of the standard Gaussian.
const STARTS = [-1.769, -1.198, -0.869, -0.615, -0.396, -0.194, 0, 0.194, 0.396, 0.615, 0.869,
  1.198, 1.769];

const onStep = (x, { min, max, step }) =>
  clamp(Number((step * Math.round(x / step)).toFixed(2)), min, max);
const line = (points) => `M${points.map((p) => p.map((x) => x.toFixed(1)).join()).join("L")}`;

// What the K layers make of the marked particle, in words.
function comparison(K, { density: exact }, layers, whole) {
  const words = `${K} ${K === 1 ? "layer" : "layers"}`;
  if (!whole) {
    return `With ${words} two paths cross before t: the layers are no bijection, and the density ` +
      "is not that of the formula.";
  }
  const off = layers - exact;
  if (Math.abs(off) < 5e-4) return `With ${words} log p is the same to three digits.`;
  return `With ${words} log p is ${format(layers, 3)}, ` +
    `${off > 0 ? "too high" : "too low"} by ${format(Math.abs(off), 3)}.`;
}

function render({ model, el }) {
  const read = () => NAMES.map((name) => model.get(name));

  // Every node is made once and only moved afterwards.
  const timeGrid = svg("g", { class: "nfbook-axes" });
  const paths = { exact: path("guide-soft"), layers: path("thin nfbook-variational") };
  const mine = { exact: path("whole"), layers: path("variational") };
  const now = svg("line", { class: "nfbook-guide-soft nfbook-dashed" });
  const dots = STARTS.map(() => svg("circle", { class: "nfbook-dots", r: 3.5 }));
  const inTime = clipped(paths.exact, paths.layers, now, mine.layers, mine.exact, ...dots);
  const handle = ring("truth");
  const left = svg("svg", {}, timeGrid, inTime.node, handle);

  const densityGrid = svg("g", { class: "nfbook-axes" });
  const shape = { base: path("prior"), layers: path("variational"), exact: path("whole") };
  const level = svg("line", { class: "nfbook-guide-soft nfbook-dashed" });
  const curves = clipped(level, shape.base, shape.exact, shape.layers);
  const right = svg("svg", {}, densityGrid, curves.node);
  const picture = html("div", { role: "img", class: "nfbook-pair" }, left, right);

  const sliders = {
    time: slider({ ...TIME, label: "t", name: "time",
      input: (x) => choose({ time: onStep(x, TIME) }),
      show: (x) => ({ short: setting(x, 2), long: `time ${setting(x, 2)}` }) }),
    start: slider({ ...START, label: "start", name: "start of the particle",
      input: (x) => choose({ start: onStep(x, START) }),
      show: (x) => ({ short: setting(x, 2), long: `start ${setting(x, 2)}` }) }),
  };
  const choices = {
    field: radios({ words: Object.keys(FIELDS), input: (word) => choose({ field: word }) }),
    layers: radios({ words: LAYERS, input: (word) => choose({ layers: word }) }),
  };
  const button = html("button", { type: "button", class: "nfbook-button" }, "Let time run");
  const numbers = numberTable(["base", "log p at the start"], ["integral", "∫ ∂v/∂z dt", "−"],
    ["density", "log p at time t", "="]);
  const status = html("p", { role: "status", class: "nfbook-status" });

  const root = html("div", { class: "nfbook-figure nfbook-field" },
    html("p", { class: "nfbook-legend" }, key("prior", "density at time 0"),
      key("whole", "at time t, by the equation"), key("variational", "by K layers")),
    picture,
    html("p", { class: "nfbook-hint" }, "Drag the ring: sideways in time, upwards and downwards " +
      "to another path. Or use the sliders."),
    html("div", { class: "nfbook-controls" },
      group("The field", "posterior", choices.field.node),
      group("Layers K", "variational", choices.layers.node),
      group("Time, and the start of one particle", "data", sliders.time.node, sliders.start.node,
        button)),
    numbers.node, status);
  el.append(root);

  const { choose, run, stop: stopMotion } = motion(model);

  // Lets time run to its end, unless the reader takes over or wants nothing to move by itself.
  button.addEventListener("click", () => {
    const at = model.get("time");
    if (wantsStillness()) {
      choose({ time: at < 1 ? 1 : 0 });
      return;
    }
    let t = at < 1 ? onStep(at + 0.02, TIME) : 0;
    run(() => {
      choose({ time: t });
      const goesOn = t < 1;
      t = onStep(t + 0.02, TIME);
      return goesOn;
    });
  });

  let across = 1; // pixels from time 0 to time 1
  let unit = 1; // pixels from z = 0 to z = 1

  function draw(width) {
    const [name, word, t, start] = read();
    const field = FIELDS[name];
    const K = Number(word);
    const result = account(field, start, t);
    const layers = layered(field, start, K, t);
    const byLayers = layeredDensity(field, K, t);
    sliders.time.update(t);
    sliders.start.update(start);
    choices.field.update(name);
    choices.layers.update(word);
    for (const each of ["base", "integral", "density"]) {
      numbers.show(each, format(result[each], 3));
    }
    const words = comparison(K, result, logNormal(start) - layers.ladj, byLayers !== null);
    if (status.textContent !== words) status.textContent = words;
    picture.setAttribute("aria-label", `The field "${name}" at time ${setting(t, 2)}, beside K = ` +
      `${K}. The particle that started at ${setting(start, 2)} is at ` +
      `${format(field.at(start, t), 3)}. Its log-density was ${format(result.base, 3)}; minus ` +
      `the integral of the slope, ${format(result.integral, 3)}, it is ` +
      `${format(result.density, 3)}. ${words}`);
    if (width === 0) return;
    const wide = width >= SIDE_BY_SIDE;
    const share = wide ? Math.round(0.58 * width) : width;
    const height = wide ? 270 : 215;
    drawPaths(frameOf(left, share, height, MARGIN), field, K, t, start);
    drawDensities(frameOf(right, wide ? width - share : width, height, MARGIN), field, t, start,
      byLayers);
  }

  function drawPaths(frame, field, K, t, start) {
    across = frame.right - frame.left;
    unit = (frame.bottom - frame.top) / (2 * SEEN);
    const x = (time) => frame.left + across * time;
    const y = (z) => frame.bottom - unit * (z + SEEN);
    const exact = (z) => line(Array.from({ length: 31 }, (_, k) =>
      [x(k / 30), y(field.at(z, k / 30))]));
    const corners = (z) => line(layered(field, z, K, 1).corners.map(([s, at]) => [x(s), y(at)]));
    inTime.cut(frame);
    timeGrid.replaceChildren(...axes(frame,
      { title: "time t", ticks: ticks(0, 1).map(([s, text]) => [x(s), text]) },
      { title: "z", ticks: ticks(-SEEN, SEEN).map(([z, text]) => [y(z), text]) }));
    set(paths.exact, { d: STARTS.map(exact).join("") });
    set(paths.layers, { d: STARTS.map(corners).join("") });
    set(mine.exact, { d: exact(start) });
    set(mine.layers, { d: corners(start) });
    set(now, { x1: x(t), x2: x(t), y1: frame.top, y2: frame.bottom });
    dots.forEach((dot, k) => set(dot,
      { cx: x(t).toFixed(1), cy: y(field.at(STARTS[k], t)).toFixed(1) }));
    set(handle, { transform: `translate(${x(t).toFixed(1)},${y(field.at(start, t)).toFixed(1)})` });
  }

  // The axis of z is upright here too, at the same scale as beside.
  function drawDensities(frame, field, t, start, byLayers) {
    const y = (z) => frame.bottom - (frame.bottom - frame.top) * (z + SEEN) / (2 * SEEN);
    const places = Array.from({ length: 201 }, (_, k) => SEEN * (k / 100 - 1));
    const exact = places.map((z) => [z, density(field, z, t)]);
    const high = 1.12 * Math.max(...exact.map((point) => point[1]), 0.45);
    const x = (value) => frame.left + (frame.right - frame.left) * Math.min(value / high, 2);
    const outline = (points) => line(points.map(([z, value]) => [x(value), y(z)]));
    curves.cut(frame);
    densityGrid.replaceChildren(...axes(frame,
      { title: "density", ticks: ticks(0, high).map(([value, text]) => [x(value), text]) },
      { title: "z", ticks: ticks(-SEEN, SEEN).map(([z, text]) => [y(z), text]) }));
    set(shape.base, { d: outline(places.map((z) => [z, Math.exp(logNormal(z))])) });
    set(shape.exact, { d: outline(exact) });
    shape.layers.toggleAttribute("hidden", byLayers === null);
    if (byLayers) set(shape.layers, { d: outline(byLayers) });
    const at = y(field.at(start, t));
    set(level, { x1: frame.left, x2: frame.right, y1: at, y2: at });
  }

  // The ring follows the pointer in time and space: the start is where the field leads back to.
  draggable(handle, {
    start: () => {
      const [name, , t, start] = read();
      return { field: FIELDS[name], t, z: FIELDS[name].at(start, t) };
    },
    move(dx, dy, { field, t, z }) {
      const time = onStep(t + dx / across, TIME);
      choose({ time, start: onStep(field.back(clamp(z - dy / unit, -SEEN, SEEN), time), START) });
    },
  });

  const stop = redraw(model, NAMES, root, draw);
  return () => {
    stopMotion();
    stop();
  };
}

export default { render };
