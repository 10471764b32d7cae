// A planar layer bends a grid and a density; with a steep enough u it folds them, with û it cannot.

import {
  assign, axes, clamp, clipped, curve, draggable, format, frameOf, group, html, key, numberTable,
  path, polyline, radios, redraw, ring, set, setting, shadePaths, shadesOf, slider, svg, ticks,
  uHat,
} from "../kit.mjs";

// ---- the arithmetic -----------------------------------------------------------------------

// The range is that which PlanarExplorable accepts, for each number.
const RANGE = { min: -3, max: 3, step: 0.05 };
const onStep = (x) =>
  Number(clamp(RANGE.step * Math.round(x / RANGE.step), RANGE.min, RANGE.max).toFixed(2));

const dot = (p, q) => p[0] * q[0] + p[1] * q[1];

// The image of z, and the determinant of the Jacobian there.
export function layer(w, v, b, z) {
  const h = Math.tanh(dot(w, z) + b);
  return { y: [z[0] + v[0] * h, z[1] + v[1] * h], det: 1 + dot(w, v) * (1 - h * h) };
}

// What a layer with wᵀv = a does to the number wᵀz.
const along = (a, b, t) => t + a * Math.tanh(t + b);

// Where that number turns round: between these two it falls. Empty unless the layer folds.
function turns(a, b) {
  if (a >= -1) return [];
  const x = Math.atanh(Math.sqrt(1 + 1 / a));
  return [-x - b, x - b];
}

// All t with t + a tanh(t + b) = s: one, or up to three if the layer folds. Between two turns the
// left side rises or falls throughout, so each of its pieces holds at most one.
export function preimages(a, b, s) {
  const reach = Math.abs(a) + 1e-9;
  const ends = [s - reach, ...turns(a, b).filter((t) => Math.abs(t - s) < reach), s + reach];
  const found = [];
  for (let k = 0; k + 1 < ends.length; k += 1) {
    let [low, high] = [ends[k], ends[k + 1]];
    const rises = along(a, b, high) >= s;
    if (rises === along(a, b, low) >= s) continue;
    // Newton's steps, or halves of the interval where they would leave it.
    let t = (low + high) / 2;
    for (let step = 0; step < 60 && high - low > 1e-12; step += 1) {
      const miss = along(a, b, t) - s;
      if (Math.abs(miss) < 1e-13) break;
      if (miss > 0 === rises) high = t;
      else low = t;
      t -= miss / (1 + a * (1 - Math.tanh(t + b) ** 2));
      if (!(t > low && t < high)) t = (low + high) / 2;
    }
    found.push(t);
  }
  return found;
}

// The density of the image of N(0, I) at y: the sum over all points that have y for an image.
export function density(w, v, b, y) {
  const a = dot(w, v);
  let sum = 0;
  for (const t of preimages(a, b, dot(w, y))) {
    const h = Math.tanh(t + b);
    const z = [y[0] - v[0] * h, y[1] - v[1] * h];
    const det = Math.max(Math.abs(1 + a * (1 - h * h)), 1e-9);
    sum += Math.exp(-0.5 * dot(z, z)) / (2 * Math.PI * det);
  }
  return sum;
}

// The probability that a draw from the base shares its image with another point.
export function shared(w, v, b) {
  const a = dot(w, v);
  const [first, second] = turns(a, b);
  if (first === undefined) return 0;
  const low = preimages(a, b, along(a, b, second))[0];
  const high = preimages(a, b, along(a, b, first)).at(-1);
  const scale = Math.hypot(...w);
  return probability(low / scale, high / scale);
}

// That of a standard normal between two numbers, by Simpson's rule.
function probability(low, high) {
  const [from, to] = [clamp(low, -9, 9), clamp(high, -9, 9)];
  const step = (to - from) / 400;
  let sum = 0;
  for (let k = 0; k <= 400; k += 1) {
    const weight = k === 0 || k === 400 ? 1 : 2 + 2 * (k % 2);
    sum += weight * Math.exp(-0.5 * (from + k * step) ** 2);
  }
  return sum * step / 3 / Math.sqrt(2 * Math.PI);
}

// ---- the figure ---------------------------------------------------------------------------

const MARGIN = { left: 58, right: 14, top: 14, bottom: 40 };
const SIDE_BY_SIDE = 560; // pixels: below it the two pictures stand one above the other
const REALS = ["w1", "w2", "u1", "u2", "b"];
const SEEN = 4; // |y| up to which the plane is drawn
const ALONG = 6; // |wᵀz| up to which the curve is drawn
const CELLS = 56; // of the density, along each axis
// Densities above each of these are drawn darker; that of the base is 0.159 at most.
const LEVELS = [0.004, 0.015, 0.035, 0.065, 0.105, 0.15, 0.22, 0.35, 0.6];
const TITLES = { w1: "w₁", w2: "w₂", u1: "u₁", u2: "u₂", b: "b" };
const LONG = { w1: "first entry of w", w2: "second entry of w", u1: "first entry of u",
  u2: "second entry of u", b: "offset b" };

function render({ model, el }) {
  const read = () => {
    const [w1, w2, u1, u2, b] = REALS.map((name) => model.get(name));
    const [w, u, vector] = [[w1, w2], [u1, u2], model.get("vector")];
    return { w, u, b, vector, v: vector === "u" ? u : uHat(w, u) };
  };

  // Every node is made once and only moved afterwards.
  const shades = shadePaths("area nfbook-area-variational nfbook-crisp", LEVELS, 0.08, 0.09);
  const lines = path("guide-soft");
  const kink = path("arrow nfbook-dashed"); // it often lies on a line of the grid
  const plane = clipped(...shades, lines, kink);
  const arrows = { w: path("arrow"), u: path("arrow"), v: path("guide-soft") };
  const rings = { w: ring("variational"), u: ring("variational") };
  const names = { w: svg("text", { class: "nfbook-label-ring" }, "w"),
    u: svg("text", { class: "nfbook-label-ring" }, "u") };
  const planeGrid = svg("g", { class: "nfbook-axes" });
  const left = svg("svg", {}, planeGrid, plane.node, ...Object.values(arrows),
    ...Object.values(names), rings.w, rings.u);

  const shape = path("variational nfbook-solid");
  const before = path("guide-soft nfbook-dashed");
  const falling = set(path("slice"), { fill: "none" });
  const one = clipped(before, falling, shape);
  const oneGrid = svg("g", { class: "nfbook-axes" });
  const right = svg("svg", {}, oneGrid, one.node);
  const picture = html("div", { role: "img", class: "nfbook-pair" }, left, right);

  const sliders = Object.fromEntries(REALS.map((name) => [name, slider({
    ...RANGE, label: TITLES[name], name: LONG[name],
    input: (x) => assign(model, { [name]: onStep(x) }),
    show: (x) => ({ short: setting(x, 2), long: `${LONG[name]}: ${setting(x, 2)}` }),
  })]));
  const choice = radios({ words: ["u", "û"], input: (vector) => assign(model, { vector }) });
  const status = html("p", { role: "status", class: "nfbook-status" });
  const numbers = numberTable(["inner", "wᵀu"], ["used", "wᵀv"],
    ["least", "least determinant"], ["shared", "share that is folded"]);

  const root = html("div", { class: "nfbook-figure nfbook-planar" },
    html("p", { class: "nfbook-legend" },
      key("variational nfbook-solid", "what the layer does along w"),
      key("guide-soft", "lines of a square grid after the layer"),
      key("arrow nfbook-dashed", "where wᵀz + b = 0")),
    picture,
    html("p", { class: "nfbook-hint" }, "Drag the rings at the ends of w and u, or use the " +
      "sliders. The stronger the colour, the higher the density after the layer."),
    html("div", { class: "nfbook-controls" },
      group("The vector w and the offset", "variational", sliders.w1.node, sliders.w2.node,
        sliders.b.node),
      group("The vector u, and what the layer uses for v", "variational", sliders.u1.node,
        sliders.u2.node, choice.node)),
    numbers.node, status);
  el.append(root);

  let unit = 1; // pixels from y = 0 to y = 1

  function draw(width) {
    const now = read();
    const { w, u, b, vector, v } = now;
    const inner = dot(w, u);
    const used = dot(w, v);
    const part = shared(w, v, b);
    for (const name of REALS) sliders[name].update(model.get(name));
    choice.update(vector);
    numbers.show("inner", format(inner, 3));
    numbers.show("used", format(used, 3));
    numbers.show("least", format(1 + Math.min(used, 0), 3));
    numbers.show("shared", `${format(100 * part, 1)} %`);
    const words = summary(w, inner, used, vector, part);
    if (status.textContent !== words) status.textContent = words;
    const pair = (p) => `(${p.map((x) => setting(x, 2)).join(", ")})`;
    picture.setAttribute("aria-label", `A planar layer with w = ${pair(w)}, u = ${pair(u)} and ` +
      `b = ${setting(b, 2)}, which uses ${vector}, beside the curve of what it does along w. ` +
      words);
    if (width === 0) return;
    const wide = width >= SIDE_BY_SIDE;
    const first = wide ? Math.round(0.52 * width) : width;
    // The plane is drawn to scale.
    const height = first - MARGIN.left - MARGIN.right + MARGIN.top + MARGIN.bottom;
    drawPlane(frameOf(left, first, height, MARGIN), now);
    drawAlong(frameOf(right, wide ? width - first : width, wide ? height : 215, MARGIN), now);
  }

  function drawPlane(frame, { w, u, b, v }) {
    const size = frame.right - frame.left;
    unit = size / (2 * SEEN);
    const middle = [frame.left + size / 2, frame.bottom - size / 2];
    const x = (value) => middle[0] + unit * value;
    const y = (value) => middle[1] - unit * value;
    plane.cut(frame);
    const marks = ticks(-SEEN, SEEN);
    planeGrid.replaceChildren(...axes(frame,
      { title: "first coordinate", ticks: marks.map(([at, text]) => [x(at), text]) },
      { title: "second coordinate", ticks: marks.map(([at, text]) => [y(at), text]) }));
    const found = shadesOf((point) => density(w, v, b, point), LEVELS, SEEN, CELLS, x, y);
    shades.forEach((node, k) => set(node, { d: found[k] }));
    set(lines, { d: gridLines(x, y, w, v, b) });
    // Where wᵀz + b = 0 the layer moves nothing; the line is as long as the picture's diagonal.
    const length = Math.hypot(...w);
    const foot = w.map((value) => length > 0 ? -b * value / length ** 2 : NaN);
    const across = [-w[1] / length, w[0] / length];
    const end = (sign) => [0, 1].map((k) => foot[k] + sign * 2 * SEEN * across[k]);
    const seen = length > 0 && Math.abs(b) / length < 2 * SEEN;
    set(kink, { d: seen ? polyline([end(-1), end(1)], x, y) : "" });
    set(arrows.v, { d: v === u ? "" : polyline([[0, 0], v], x, y) });
    for (const [name, tip] of [["w", w], ["u", u]]) {
      set(arrows[name], { d: polyline([[0, 0], tip], x, y) });
      const at = [x(tip[0]), y(tip[1])];
      set(rings[name], { transform: `translate(${at[0].toFixed(1)},${at[1].toFixed(1)})` });
      // The names stand on opposite sides, so that they can be read where both ends meet.
      const beside = name === "u" ? [at[0] + 10, at[1] - 9] : [at[0] - 21, at[1] + 17];
      set(names[name], { x: beside[0], y: beside[1] });
    }
  }

  function gridLines(x, y, w, v, b) {
    const parts = [];
    for (let k = -SEEN; k <= SEEN; k += 1) {
      for (const turned of [false, true]) {
        const points = Array.from({ length: 121 }, (_, j) => {
          const at = SEEN * (j / 60 - 1);
          return layer(w, v, b, turned ? [k, at] : [at, k]).y;
        });
        parts.push(polyline(points, x, y));
      }
    }
    return parts.join("");
  }

  function drawAlong(frame, { w, u, b, v }) {
    const [width, height] = [frame.right - frame.left, frame.bottom - frame.top];
    const x = (t) => frame.left + width * (t + ALONG) / (2 * ALONG);
    const y = (s) => frame.bottom - height * (s + ALONG) / (2 * ALONG);
    one.cut(frame);
    const marks = ticks(-ALONG, ALONG);
    oneGrid.replaceChildren(...axes(frame,
      { title: "wᵀz", ticks: marks.map(([at, text]) => [x(at), text]) },
      { title: "wᵀf(z)", ticks: marks.map(([at, text]) => [y(at), text]) }));
    const line = (a, low, high) => curve((t) => along(a, b, t), low, high, x, y);
    set(shape, { d: line(dot(w, v), -ALONG, ALONG) });
    set(before, { d: v === u ? "" : line(dot(w, u), -ALONG, ALONG) });
    const [low, high] = turns(dot(w, v), b).map((t) => clamp(t, -ALONG, ALONG));
    set(falling, { d: high > low ? line(dot(w, v), low, high) : "" });
  }

  for (const name of ["w", "u"]) {
    const both = [`${name}1`, `${name}2`];
    draggable(rings[name], {
      start: () => both.map((one) => model.get(one)),
      move: (dx, dy, from) => assign(model, {
        [both[0]]: onStep(from[0] + dx / unit), [both[1]]: onStep(from[1] - dy / unit),
      }),
    });
  }

  return redraw(model, [...REALS, "vector"], root, draw);
}

// What is seen, in words.
function summary(w, inner, used, vector, part) {
  if (w[0] === 0 && w[1] === 0) return "With w = 0 the layer moves every point alike, by v tanh b.";
  if (used < -1) {
    return `The layer folds the plane: wᵀu = ${format(inner, 3)} is below −1, so the curve falls ` +
      `somewhere. ${format(100 * part, 1)} % of the base share their image with other points.`;
  }
  if (vector === "û" && inner < -1) {
    return `With u the layer would fold the plane, since wᵀu = ${format(inner, 3)}. With û it is ` +
      `invertible: wᵀû = ${format(used, 3)}.`;
  }
  if (used === -1) return "The layer is still one to one, but its determinant vanishes on a line.";
  if (used > 0) {
    return "The layer is invertible. Near the dashed line it stretches volume, by up to " +
      `${format(1 + used, 3)}, so the density is lower there.`;
  }
  if (used < 0) {
    return "The layer is invertible. Near the dashed line it shrinks volume, by down to " +
      `${format(1 + used, 3)}, so the density is higher there.`;
  }
  return "The layer shears the plane: u and w are orthogonal, and no volume changes.";
}

export default { render };
