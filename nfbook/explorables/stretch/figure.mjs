// A map of the plane: grid and density follow it, and a small square shows what areas do.

import {
  assign, axes, clamp, clipped, draggable, format, frameOf, group, html, key, numberTable, redraw,
  ring, set, setting, slider, svg, ticks,
} from "../kit.mjs";

// ---- the arithmetic -----------------------------------------------------------------------

// The map from noise to data, g(z) = (2^(a z2) z1 + b z2², z2), with a = stretch and b = bend.
export const forward = ({ stretch, bend }, z1, z2) => [2 ** (stretch * z2) * z1 + bend * z2 ** 2, z2];

const normal = (t) => Math.exp(-t * t / 2) / Math.sqrt(2 * Math.PI);

// The probability of an interval under N(0, 1), by Gauss and Legendre's rule with five nodes,
// whose error is below 1e-9 for intervals no longer than 1.
const NODES = [[0, 128 / 225], ...[[1, 322 + 13 * Math.sqrt(70)], [-1, 322 - 13 * Math.sqrt(70)]]
  .flatMap(([sign, weight]) => {
    const node = Math.sqrt(5 - sign * 2 * Math.sqrt(10 / 7)) / 3;
    return [[node, weight / 900], [-node, weight / 900]];
  })];
const chance = (centre, length) => NODES.reduce(
  (sum, [node, weight]) => sum + weight * normal(centre + node * length / 2), 0) * length / 2;

// All numbers of the figure. The image's area is an integral over the square, not the
// determinant times its area: that both agree for a small square is what the figure shows.
export function measure(values) {
  const { stretch, across, up, side } = values;
  const rate = stretch * Math.log(2);
  const mean = rate === 0 ? 1 : Math.sinh(rate * side / 2) / (rate * side / 2);
  const det = 2 ** (stretch * up);
  const noise = normal(across) * normal(up);
  return {
    square: side ** 2, image: side ** 2 * det * mean, det, noise, data: noise / det,
    probability: chance(across, side) * chance(up, side),
  };
}

// ---- the figure ---------------------------------------------------------------------------

// The ranges are those that StretchExplorable accepts.
const RANGES = {
  stretch: { min: -0.5, max: 0.5, step: 0.02 },
  bend: { min: -0.5, max: 0.5, step: 0.02 },
  across: { min: -1.5, max: 1.5, step: 0.02 },
  up: { min: -2, max: 2, step: 0.02 },
  side: { min: 0.1, max: 1, step: 0.02 },
};
const NAMES = Object.keys(RANGES);
const MARGIN = { left: 46, right: 12, top: 12, bottom: 40 };
const SIDE_BY_SIDE = 560; // pixels: below it the two pictures stand one above the other
const REACH = 3; // of the noise that is drawn, in every direction
const SEEN = 5.5; // of the data plane, to the left and to the right
const CELL = 0.25; // side of the tinted cells
const LINE = 0.5; // distance of the grid's lines
const TINTS = 12;
const DARKEST = 0.17; // the density that has the last tint
const PALEST = 0.002; // below it nothing is seen, and nothing drawn

const onStep = (x) => Number((0.02 * Math.round(x / 0.02)).toFixed(2)); // no 0.6000000000000001
const within = (name, x) => clamp(onStep(x), RANGES[name].min, RANGES[name].max);
const steps = (from, to, count) =>
  Array.from({ length: count + 1 }, (_, k) => from + (to - from) * (k / count));

function render({ model, el }) {
  const read = () => Object.fromEntries(NAMES.map((name) => [name, model.get(name)]));

  // Every node is made once and only moved afterwards.
  const plane = (name) => {
    const tints = Array.from({ length: TINTS }, (_, k) => svg("path",
      { class: `nfbook-tint-${name}`, opacity: ((k + 0.5) / TINTS * 0.85).toFixed(3) }));
    const grid = svg("path", { class: "nfbook-guide-soft", opacity: 0.6 });
    const square = svg("path", { class: `nfbook-${name} nfbook-solid` });
    const scale = svg("g", { class: "nfbook-axes" });
    const content = clipped(...tints, grid, square);
    return { tints, grid, square, scale, content };
  };
  const planes = { prior: plane("prior"), variational: plane("variational") };
  const handle = ring("prior");
  const middle = svg("circle", { class: "nfbook-spot", r: 3.5 });
  const noise = svg("svg", {}, planes.prior.scale, planes.prior.content.node, handle);
  const data = svg("svg", {}, planes.variational.scale, planes.variational.content.node, middle);
  const picture = html("div", { role: "img", class: "nfbook-pair" }, noise, data);

  const control = (name, label, words) => slider({ ...RANGES[name], label, name: words,
    input: (x) => assign(model, { [name]: within(name, x) }),
    show: (x) => ({ short: setting(x, 2), long: `${words} ${setting(x, 2)}` }) });
  const sliders = {
    stretch: control("stretch", "a", "stretch"),
    bend: control("bend", "b", "bend"),
    across: control("across", "across", "position across"),
    up: control("up", "up", "position upwards"),
    side: control("side", "side", "side of the square"),
  };
  const numbers = numberTable(["square", "area of the square"], ["image", "area of its image"],
    ["ratio", "ratio of the areas"], ["det", "|det J| of g"], ["noise", "density of z"],
    ["data", "density of x"]);
  const status = html("p", { role: "status", class: "nfbook-status" });

  const root = html("div", { class: "nfbook-figure nfbook-stretch" },
    html("p", { class: "nfbook-legend" }, key("prior nfbook-solid", "a square of noise, z"),
      key("variational nfbook-solid", "its image, x = g(z)")),
    picture,
    html("p", { class: "nfbook-hint" }, "Drag the ring to move the square, or use the sliders. " +
      "A stronger tint is a higher density, on one scale for both planes."),
    html("div", { class: "nfbook-controls" },
      group("The map: stretch a and bend b", "variational", sliders.stretch.node,
        sliders.bend.node),
      group("The square", "prior", sliders.across.node, sliders.up.node, sliders.side.node)),
    numbers.node, status);
  el.append(root);

  let unit = 1; // pixels of one unit, in both planes and both directions

  function draw(width) {
    const values = read();
    const result = measure(values);
    const ratio = result.image / result.square;
    for (const name of NAMES) sliders[name].update(values[name]);
    numbers.show("square", format(result.square, 3));
    numbers.show("image", format(result.image, 3));
    numbers.show("ratio", format(ratio, 3));
    numbers.show("det", format(result.det, 3));
    numbers.show("noise", format(result.noise, 4));
    numbers.show("data", format(result.data, 4));
    const words = inWords(result);
    if (status.textContent !== words) status.textContent = words;
    picture.setAttribute("aria-label", `Noise and its image, with stretch ` +
      `${setting(values.stretch, 2)} and bend ${setting(values.bend, 2)}. A square of side ` +
      `${setting(values.side, 2)} around ${setting(values.across, 2)}, ${setting(values.up, 2)} ` +
      `has the area ${format(result.square, 3)}, and its image ${format(result.image, 3)}. The ` +
      `density falls or rises from ${format(result.noise, 4)} to ${format(result.data, 4)}.`);
    if (width === 0) return;
    const wide = width >= SIDE_BY_SIDE;
    const sides = MARGIN.left + MARGIN.right;
    unit = wide ? (width - 2 * sides) / (2 * REACH + 2 * SEEN) : (width - sides) / (2 * SEEN);
    const height = 2 * REACH * unit + MARGIN.top + MARGIN.bottom;
    drawPlane(planes.prior, frameOf(noise, 2 * REACH * unit + sides, height, MARGIN), REACH,
      ["z₁", "z₂"], values, { stretch: 0, bend: 0 });
    drawPlane(planes.variational, frameOf(data, 2 * SEEN * unit + sides, height, MARGIN), SEEN,
      ["x₁", "x₂"], values, values);
  }

  // One plane, as the image of the noise under a map: for the noise itself, the identity.
  function drawPlane({ tints, grid, square, scale, content }, frame, reach, titles, values, map) {
    const top = frame.bottom - 2 * REACH * unit;
    const x = (value) => frame.left + unit * (value + reach);
    const y = (value) => frame.bottom - unit * (value + REACH);
    const pixel = ([one, two]) => `${x(one).toFixed(1)},${y(two).toFixed(1)}`;
    const at = (z1, z2) => pixel(forward(map, z1, z2));
    const line = (points) => `M${points.join("L")}`;
    content.cut({ ...frame, top });
    const round = (limit) => ticks(-limit, limit).filter(([v]) => Number.isInteger(v));
    scale.replaceChildren(...axes({ ...frame, top },
      { title: titles[0], ticks: round(reach).map(([v, text]) => [x(v), text]) },
      { title: titles[1], ticks: round(REACH).map(([v, text]) => [y(v), text]) }));

    // The square moves alone: grid and tints are drawn anew only when map or size change.
    const state = [unit, map.stretch, map.bend].join();
    if (grid.dataset.state !== state) {
      grid.dataset.state = state;
      const count = 2 * REACH / CELL;
      const corners = steps(-REACH, REACH, count);
      const shapes = tints.map(() => []);
      for (let j = 0; j < count; j += 1) {
        const [low, high] = [corners[j], corners[j + 1]];
        const centre = (low + high) / 2;
        const height = normal(centre) / 2 ** (map.stretch * centre);
        for (let i = 0; i < count; i += 1) {
          const [near, far] = [corners[i], corners[i + 1]];
          const density = normal((near + far) / 2) * height;
          if (density < PALEST) continue;
          const tint = Math.min(TINTS - 1, Math.floor(TINTS * density / DARKEST));
          shapes[tint].push(`M${at(near, low)}L${at(far, low)}L${at(far, high)}L${at(near, high)}Z`);
        }
      }
      tints.forEach((node, k) => set(node, { d: shapes[k].join("") }));
      const marks = steps(-REACH, REACH, 2 * REACH / LINE);
      const upright = marks.map((z1) => line(corners.map((z2) => at(z1, z2))));
      const level = marks.map((z2) => line([at(-REACH, z2), at(REACH, z2)]));
      set(grid, { d: upright.join("") + level.join("") });
    }

    const { across, up, side } = values;
    const rise = steps(up - side / 2, up + side / 2, 20);
    const [near, far] = [across - side / 2, across + side / 2];
    set(square, { d: `${line([...rise.map((z2) => at(far, z2)),
      ...rise.toReversed().map((z2) => at(near, z2))])}Z` });
    const [px, py] = at(across, up).split(",");
    const spot = { transform: `translate(${px},${py})` };
    set(titles[0] === "z₁" ? handle : middle, spot);
  }

  draggable(handle, {
    start: () => read(),
    move: (dx, dy, { across, up }) => assign(model, {
      across: within("across", across + dx / unit), up: within("up", up - dy / unit),
    }),
  });

  return redraw(model, NAMES, root, draw);
}

// What the numbers say.
function inWords({ square, image, det, probability }) {
  const both = `Square and image hold the same probability, ${format(probability, 4)}`;
  if (Math.abs(det - 1) < 5e-4) {
    return `${both}. At its centre g keeps areas, so the density stays as it is.`;
  }
  const [verb, change, factor] = det > 1
    ? ["stretches", "lower", det] : ["squeezes", "higher", 1 / det];
  const exact = Math.abs(image / square / det - 1) < 5e-4 ? "" :
    " The ratio of the areas differs from |det J|, because g is not linear over the square.";
  return `${both}. At its centre g ${verb} areas, so the density of x is ${change} by the factor ` +
    `${format(factor, 3)}.${exact}`;
}

export default { render };
