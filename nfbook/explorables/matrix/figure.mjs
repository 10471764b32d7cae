// A two-by-two matrix by its factors: the unit square's image, its area, and the Gaussian's ellipse.

import {
  assign, axes, clamp, clipped, format, frameOf, group, html, key, numberTable, path, radios,
  redraw, set, setting, slider, svg,
} from "../kit.mjs";

// ---- the arithmetic -----------------------------------------------------------------------

// Matrices are [[a, b], [c, d]], points [x, y].
const times = ([[a, b], [c, d]], [[p, q], [r, s]]) =>
  [[a * p + b * r, a * q + b * s], [c * p + d * r, c * q + d * s]];
const apply = ([[a, b], [c, d]], [x, y]) => [a * x + b * y, c * x + d * y];

// The matrix from noise to data.
export function matrixOf({ rotation, angle, lower, first, second, upper }) {
  const [c, s] = [Math.cos(angle * Math.PI / 180), Math.sin(angle * Math.PI / 180)];
  const turn = [[c, -s], [s, c]];
  const triangular = times([[1, 0], [lower, 1]], [[Math.exp(first), upper], [0, Math.exp(second)]]);
  return rotation === "last" ? times(turn, triangular) : times(triangular, turn);
}

export const SQUARE = [[0, 0], [1, 0], [1, 1], [0, 1]];

// The area of a polygon by the surveyor's formula, which knows nothing of determinants.
export function areaOf(corners) {
  const twice = corners.reduce((sum, [x, y], k) => {
    const [p, q] = corners[(k + 1) % corners.length];
    return sum + (x * q - p * y);
  }, 0);
  return Math.abs(twice) / 2;
}

// The greatest and the least factor by which the matrix lengthens a vector.
export function stretches([[a, b], [c, d]]) {
  const [e, f, g, h] = [(a + d) / 2, (a - d) / 2, (c + b) / 2, (c - b) / 2];
  const [sum, difference] = [Math.hypot(e, h), Math.hypot(f, g)];
  return [sum + difference, Math.abs(sum - difference)];
}

// ---- the figure ---------------------------------------------------------------------------

const MARGIN = { left: 46, right: 14, top: 14, bottom: 40 };
const SIDE_BY_SIDE = 560; // pixels: below it the two pictures stand one above the other
// The ranges are those that MatrixExplorable accepts.
const RANGES = {
  angle: { min: -180, max: 180, step: 5, digits: 0 },
  lower: { min: -1, max: 1, step: 0.05, digits: 2 },
  first: { min: -0.7, max: 0.7, step: 0.05, digits: 2 },
  second: { min: -0.7, max: 0.7, step: 0.05, digits: 2 },
  upper: { min: -1, max: 1, step: 0.05, digits: 2 },
};
const TITLES = {
  angle: ["angle", "angle of the rotation in degrees"], lower: ["l", "entry l of L"],
  first: ["s₁", "first log-scale"], second: ["s₂", "second log-scale"], upper: ["u", "entry u of U"],
};
const NAMES = ["rotation", ...Object.keys(RANGES)];
const RADII = [0.5, 0.9].map((share) => Math.sqrt(-2 * Math.log(1 - share))); // that hold 50, 90 %
const TALL = 3.4; // the coordinate at the upper edge of both pictures

function render({ model, el }) {
  const read = () => Object.fromEntries(NAMES.map((name) => [name, model.get(name)]));

  // Every node is made once and only moved afterwards.
  const plane = (name) => {
    const square = [path("built"), path("whole")];
    const rings = RADII.map(() => path(name));
    const grid = svg("g", { class: "nfbook-axes" });
    const seen = clipped(...square, ...rings);
    return { picture: svg("svg", {}, grid, seen.node), grid, seen, square, rings };
  };
  const noise = plane("prior");
  const data = plane("likelihood nfbook-solid");
  const picture = html("div", { role: "img", class: "nfbook-pair" }, noise.picture, data.picture);

  const sliders = Object.fromEntries(Object.entries(RANGES).map(([name, { digits, ...range }]) => {
    const [label, words] = TITLES[name];
    return [name, slider({ ...range, label, name: words,
      input: (x) => assign(model, { [name]: onStep(x, range) }),
      show: (x) => ({ short: setting(x, digits), long: `${words} ${setting(x, digits)}` }) })];
  }));
  const choice = radios({ words: ["last", "first"],
    input: (word) => assign(model, { rotation: word }) });
  const status = html("p", { role: "status", class: "nfbook-status" });
  const numbers = numberTable(["sum", "s₁ + s₂"], ["logdet", "log |det A|"],
    ["area", "area of the image"], ["peak", "density at x = 0"], ["condition", "condition number"]);

  const root = html("div", { class: "nfbook-figure nfbook-matrix" },
    html("p", { class: "nfbook-legend" }, key("prior", "noise z, 50 % and 90 %"),
      key("likelihood nfbook-solid", "data x = A z, 50 % and 90 %"),
      key("whole", "unit square and its image")),
    picture,
    html("div", { class: "nfbook-controls" },
      group("The diagonal of U", "likelihood", sliders.first.node, sliders.second.node),
      group("The other entries of L and U", "prior", sliders.lower.node, sliders.upper.node),
      group("The rotation Q comes", "posterior", choice.node, sliders.angle.node)),
    numbers.node, status);
  el.append(root);

  function draw(width) {
    const values = read();
    const matrix = matrixOf(values);
    const [[a, b], [c, d]] = matrix;
    const image = SQUARE.map((corner) => apply(matrix, corner));
    const [long, short] = stretches(matrix);
    const area = areaOf(image);
    for (const name of Object.keys(RANGES)) sliders[name].update(values[name]);
    choice.update(values.rotation);
    numbers.show("sum", format(values.first + values.second, 3));
    numbers.show("logdet", format(Math.log(Math.abs(a * d - b * c)), 3));
    numbers.show("area", format(area, 3));
    numbers.show("peak", format(1 / (2 * Math.PI * area), 3));
    numbers.show("condition", format(long / short, 2));
    const words = account(matrix, area);
    if (status.textContent !== words) status.textContent = words;
    const shown = (name) => setting(values[name], RANGES[name].digits);
    picture.setAttribute("aria-label", `The unit square and the standard normal density, and what ` +
      `becomes of both: rotation ${values.rotation}, by ${shown("angle")} degrees, l ` +
      `${shown("lower")}, log-scales ${shown("first")} and ${shown("second")}, u ` +
      `${shown("upper")}. The image of the square has the area ${format(area, 3)}.`);
    if (width === 0) return;
    const wide = width >= SIDE_BY_SIDE;
    const each = wide ? width / 2 : width;
    const height = wide ? 280 : 225;
    const identity = [[1, 0], [0, 1]];
    drawPlane(noise, frameOf(noise.picture, each, height, MARGIN), identity, "z");
    drawPlane(data, frameOf(data.picture, each, height, MARGIN), matrix, "x");
  }

  // Both pictures have one scale, so that areas can be compared.
  function drawPlane({ grid, seen, square, rings }, frame, matrix, letter) {
    const unit = (frame.bottom - MARGIN.top) / (2 * TALL);
    const middle = [(frame.left + frame.right) / 2, (frame.bottom + MARGIN.top) / 2];
    const x = (value) => middle[0] + unit * value;
    const y = (value) => middle[1] - unit * value;
    const line = (points) => `M${points.map((point) => {
      const [p, q] = apply(matrix, point);
      return `${x(p).toFixed(1)},${y(q).toFixed(1)}`;
    }).join("L")}Z`;
    seen.cut(frame);
    const every = [-2, 0, 2];
    grid.replaceChildren(...axes(frame,
      { title: `${letter}₁`, ticks: every.map((value) => [x(value), format(value, 0)]) },
      { title: `${letter}₂`, ticks: every.map((value) => [y(value), format(value, 0)]) }));
    for (const node of square) set(node, { d: line(SQUARE) });
    RADII.forEach((radius, k) => set(rings[k], { d: line(circle(radius)) }));
  }

  return redraw(model, NAMES, root, draw);
}

const onStep = (x, { min, max, step }) =>
  clamp(Number((step * Math.round(x / step)).toFixed(2)), min, max);

function circle(radius) {
  return Array.from({ length: 60 }, (_, k) =>
    [radius * Math.cos(k * Math.PI / 30), radius * Math.sin(k * Math.PI / 30)]);
}

// The matrix, and what it does to areas and densities, in words.
function account([[a, b], [c, d]], area) {
  const entry = (value) => format(value, 2);
  const matrix = `A has the rows (${entry(a)}, ${entry(b)}) and (${entry(c)}, ${entry(d)}). `;
  if (Math.abs(area - 1) < 5e-4) return `${matrix}It preserves areas, and with them densities.`;
  const word = area > 1 ? "enlarges" : "shrinks";
  return `${matrix}From noise to data it ${word} every area by the factor ${format(area, 3)}, so ` +
    `the density at an image point is ${format(1 / area, 3)} times what it was.`;
}

export default { render };
