// A latent variable model in the plane of z and x; the evidence of x builds up as z moves.

import {
  area, axes, clamp, clipped, curve, draggable, format, frameOf, group, html, key, motion,
  numberTable, path, radios, redraw, ring, set, setting, slider, svg, ticks, wantsStillness,
} from "../kit.mjs";

// ---- the arithmetic -----------------------------------------------------------------------

// The ranges are those that EvidenceExplorable accepts.
const STEP = 0.02;
const Z = { min: -3, max: 3, step: STEP };
const NOISE = { min: 0.2, max: 1.5, step: STEP };
const toZ = (z) => clamp(z, Z.min, Z.max);
const toNoise = (s) => clamp(s, NOISE.min, NOISE.max);

// The mean of x given z.
export const CURVES = {
  bent: (z) => 3 * Math.tanh(2 * z),
  straight: (z) => 1.5 * z,
};

export const normal = (x, mean, stddev) =>
  Math.exp(-0.5 * ((x - mean) / stddev) ** 2) / (stddev * Math.sqrt(2 * Math.PI));

// Gauss and Legendre's rule with four nodes on [-1, 1].
const NODES = [-0.8611363115940526, -0.3399810435848563, 0.3399810435848563, 0.8611363115940526];
const WEIGHTS = [0.3478548451374538, 0.6521451548625461, 0.6521451548625461, 0.3478548451374538];
const FIRST = -6; // below it lies a billionth of the prior
const LAST = 6;
const PANEL = 0.1; // at most; narrow against the bend of the curve
const FAR = 8; // standard deviations, beyond which a normal density is zero here

// What the latent variables up to `z` contribute to the evidence, as a function of x. The prior and
// the curve are evaluated once, not anew for every x. Panels are narrow against the likelihood too.
export function builtUp(centre, noise, z) {
  const panels = Math.ceil((z - FIRST) / Math.min(PANEL, 0.2 * noise));
  const half = (z - FIRST) / panels / 2;
  const means = new Float64Array(4 * panels);
  const weights = new Float64Array(4 * panels);
  for (let k = 0; k < means.length; k += 1) {
    const at = FIRST + half * (2 * Math.floor(k / 4) + 1 + NODES[k % 4]);
    means[k] = centre(at) / noise;
    weights[k] = half * WEIGHTS[k % 4] * normal(at, 0, 1) * normal(0, 0, noise);
  }
  return (x) => {
    let sum = 0;
    for (let k = 0; k < means.length; k += 1) {
      const off = x / noise - means[k];
      if (Math.abs(off) < FAR) sum += weights[k] * Math.exp(-0.5 * off * off);
    }
    return sum;
  };
}

// The evidence itself: the integral over all of them.
export function evidence(centre, noise) {
  return builtUp(centre, noise, LAST);
}

// The share of the prior up to z: the same rule, with a likelihood of one.
export function passed(z) {
  const panels = Math.ceil((z - FIRST) / PANEL);
  const half = (z - FIRST) / panels / 2;
  let sum = 0;
  for (let k = 0; k < panels; k += 1) {
    NODES.forEach((node, j) => {
      sum += half * WEIGHTS[j] * normal(FIRST + (2 * k + 1 + node) * half, 0, 1);
    });
  }
  return sum;
}

// ---- the figure ---------------------------------------------------------------------------

const MARGIN = { left: 48, right: 14, top: 14, bottom: 40 };
const SIDE_BY_SIDE = 560; // pixels: below it the two pictures stand one above the other
const NAMES = ["curve", "z", "noise"];
const SEEN = { z: 3.4, x: 6 }; // how far the axes reach to both sides
const PIXELS = 3; // between two points of a density
const BELL = 0.2; // of the height, for the prior

const onStep = (x) => Number((STEP * Math.round(x / STEP)).toFixed(2)); // no 0.6000000000000001

function render({ model, el }) {
  const read = () => NAMES.map((name) => model.get(name));

  // Every node is made once and only moved afterwards.
  const grids = [0, 1].map(() => svg("g", { class: "nfbook-axes" }));
  const shape = { prior: path("prior"), centre: path("likelihood"), slice: path("likelihood"),
    built: path("built"), whole: path("whole"), reached: path("area-prior") };
  const slice = svg("line", { class: "nfbook-slice" });
  const plane = clipped(shape.reached, shape.prior, slice, shape.centre);
  const handle = ring("likelihood");
  const left = svg("svg", {}, grids[0], plane.node, handle);
  const densities = clipped(shape.built, shape.whole, shape.slice);
  const right = svg("svg", {}, grids[1], densities.node);
  const picture = html("div", { role: "img", class: "nfbook-pair" }, left, right);

  const sliders = {
    z: slider({ ...Z, label: "z", name: "latent variable z", input: (x) => choose({ z: toZ(x) }),
      show: (x) => ({ short: setting(x, 2), long: `z is ${setting(x, 2)}` }) }),
    noise: slider({ ...NOISE, label: "σ", name: "standard deviation of x given z",
      input: (x) => choose({ noise: toNoise(x) }),
      show: (x) => ({ short: setting(x, 2), long: `standard deviation ${setting(x, 2)}` }) }),
  };
  const choice = radios({ words: Object.keys(CURVES), input: (word) => choose({ curve: word }) });
  const button = html("button", { type: "button", class: "nfbook-button" }, "Let z run");
  const numbers = numberTable(["passed", "prior up to z"], ["centre", "mean of x given z"],
    ["built", "built up there"], ["evidence", "p(x | θ) there"]);

  const root = html("div", { class: "nfbook-figure nfbook-evidence" },
    html("p", { class: "nfbook-legend" }, key("prior", "prior p(z)"),
      key("likelihood", "mean of x given z; p(x | z, θ) p(z)"), key("whole", "p(x | θ)")),
    picture,
    html("p", { class: "nfbook-hint" }, "Drag the ring: sideways it moves z, and the grey area on " +
      "the right grows to p(x | θ); upwards it makes the noise smaller. Or use the sliders."),
    html("div", { class: "nfbook-controls" },
      group("Latent variable and noise", "likelihood", sliders.z.node, sliders.noise.node),
      group("The curve is", "likelihood", choice.node, button)),
    numbers.node);
  el.append(root);

  const { choose, run, stop: stopMotion } = motion(model);

  // Moves z from one end to the other, unless the reader takes over or wants nothing to move.
  button.addEventListener("click", () => {
    let z = wantsStillness() ? Z.max : Z.min;
    run(() => {
      choose({ z: toZ(onStep(z)) });
      z += 0.06;
      return z < Z.max + 0.05;
    });
  });

  let unit = 1; // pixels from z = 0 to z = 1
  let whole = {}; // the evidence on its grid, which does not depend on z

  function draw(width) {
    const [word, z, noise] = read();
    const centre = CURVES[word];
    const [at, part, all] = [centre(z), builtUp(centre, noise, z), evidence(centre, noise)];
    sliders.z.update(z);
    sliders.noise.update(noise);
    choice.update(word);
    numbers.show("passed", format(passed(z), 3));
    numbers.show("centre", format(at, 2));
    numbers.show("built", format(part(at), 3));
    numbers.show("evidence", format(all(at), 3));
    picture.setAttribute("aria-label", `A ${word} curve, with noise of standard deviation ` +
      `${setting(noise, 2)}. z is ${setting(z, 2)}, where x has the mean ${format(at, 2)}. Up to ` +
      `this z, ${format(100 * passed(z), 1)} percent of the prior have been passed. At the mean, ` +
      `the density of x has built up to ${format(part(at), 3)} of ${format(all(at), 3)}.`);
    if (width === 0) return;
    const wide = width >= SIDE_BY_SIDE;
    const share = wide ? Math.round(0.6 * width) : width;
    // On a phone both pictures and the sliders are seen at once.
    const height = wide ? 260 : 205;
    drawPlane(frameOf(left, share, height, MARGIN), centre, z, noise);
    const beside = frameOf(right, wide ? width - share : width, height, MARGIN);
    drawDensities(beside, word, z, noise, part, all);
  }

  function heights(frame) {
    return (x) => frame.bottom - (frame.bottom - frame.top) * (x + SEEN.x) / (2 * SEEN.x);
  }

  function drawPlane(frame, centre, z, noise) {
    unit = (frame.right - frame.left) / (2 * SEEN.z);
    const x = (value) => frame.left + unit * (value + SEEN.z);
    const y = heights(frame);
    const bell = (p) => frame.bottom - BELL * (frame.bottom - frame.top) * p / normal(0, 0, 1);
    plane.cut(frame);
    grids[0].replaceChildren(...axes(frame,
      { title: "z", ticks: ticks(-SEEN.z, SEEN.z).map(([v, text]) => [x(v), text]) },
      { title: "x", ticks: ticks(-SEEN.x, SEEN.x).map(([v, text]) => [y(v), text]) }));
    const prior = (value) => normal(value, 0, 1);
    set(shape.prior, { d: curve(prior, -SEEN.z, SEEN.z, x, bell) });
    set(shape.reached, { d: area(curve(prior, -SEEN.z, z, x, bell), { ...frame, right: x(z) }) });
    set(shape.centre, { d: curve(centre, -SEEN.z, SEEN.z, x, y) });
    // Two standard deviations either side.
    const [low, high] = [y(centre(z) - 2 * noise), y(centre(z) + 2 * noise)];
    set(slice, { x1: x(z), x2: x(z), y1: low, y2: high });
    set(handle, { transform: `translate(${x(z).toFixed(1)},${y(centre(z)).toFixed(1)})` });
  }

  // Densities of x, which runs upwards as on the left.
  function drawDensities(frame, word, z, noise, part, all) {
    const y = heights(frame);
    const steps = Math.ceil((frame.bottom - frame.top) / PIXELS);
    const xs = Array.from({ length: steps + 1 }, (_, k) => SEEN.x * (2 * k / steps - 1));
    const name = `${word} ${noise} ${steps}`;
    if (whole.name !== name) {
      const values = xs.map(all);
      whole = { name, values, high: 1.12 * Math.max(...values) };
    }
    const across = (p) => frame.left + (frame.right - frame.left) * p / whole.high;
    const line = (values) =>
      `M${values.map((p, k) => `${across(p).toFixed(1)},${y(xs[k]).toFixed(1)}`).join("L")}`;
    densities.cut(frame);
    grids[1].replaceChildren(...axes(frame,
      { title: "density", ticks: ticks(0, whole.high).map(([p, text]) => [across(p), text]) },
      { title: "x", ticks: ticks(-SEEN.x, SEEN.x).map(([v, text]) => [y(v), text]) }));
    set(shape.whole, { d: line(whole.values) });
    set(shape.built, { d: `${line(xs.map(part))}V${frame.top}H${frame.left}V${frame.bottom}Z` });
    // Of the slice only the shape counts: its area is that of an infinitely narrow strip.
    const scale = 0.9 * whole.high * Math.exp(-z * z / 2);
    const at = CURVES[word](z);
    set(shape.slice, { d: line(xs.map((x) => scale * Math.exp(-0.5 * ((x - at) / noise) ** 2))) });
  }

  // Sideways the ring moves z; upwards it makes the noise smaller.
  draggable(handle, {
    start: () => ({ z: model.get("z"), noise: model.get("noise") }),
    move: (dx, dy, { z, noise }) => choose({
      z: toZ(onStep(z + dx / unit)),
      noise: toNoise(onStep(noise * Math.exp(dy / 80))),
    }),
  });

  const stop = redraw(model, NAMES, root, draw);
  return () => {
    stopMotion();
    stop();
  };
}

export default { render };
