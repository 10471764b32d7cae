// Two modes, and what a flow of bounded slope leaves between them: a bridge.

import {
  area, assign, axes, clamp, clipped, curve, draggable, format, frameOf, group, html, key,
  numberTable, path, radios, redraw, ring, set, setting, slider, svg, ticks,
} from "../kit.mjs";

// ---- the arithmetic -----------------------------------------------------------------------

const normal = (t) => Math.exp(-0.5 * t * t) / Math.sqrt(2 * Math.PI);

// The probability that a standard normal number lies above t: a series near zero, and a continued
// fraction far out, each to ten digits or more.
export function above(t) {
  if (t < 0) return 1 - above(-t);
  if (t > 3) {
    let rest = t;
    for (let k = 60; k > 0; k -= 1) rest = t + k / rest;
    return normal(t) / rest;
  }
  let [term, sum] = [t, t];
  for (let k = 1; k < 60; k += 1) {
    term *= t * t / (2 * k + 1);
    sum += term;
  }
  return 0.5 - normal(t) * sum;
}

// The t above which a standard normal number lies with this probability, at most one half.
function quantile(probability) {
  let [low, high] = [0, 40];
  for (let step = 0; step < 60; step += 1) {
    const middle = (low + high) / 2;
    if (above(middle) > probability) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}

// The density of the data.
export const target = ({ peaks, width }, x) =>
  (normal((x - peaks) / width) + normal((x + peaks) / width)) / (2 * width);

// From data to noise by the exact map, for x ≥ 0: equally much probability lies above both.
const exact = ({ peaks, width }, x) =>
  quantile((above((x - peaks) / width) + above((x + peaks) / width)) / 2);

// From data to noise by the flow.
export function noise(values, x) {
  const far = Math.abs(x);
  return Math.sign(x) * Math.max(far / 2 ** values.layers, exact(values, far));
}

// Where the line of slope L meets the exact map: up to there the flow is that line. Zero, if the
// exact map is nowhere steeper; infinite, if they meet where no noise ever is.
function meeting(values) {
  const slope = 2 ** values.layers;
  let [low, high] = [0, 1];
  while (exact(values, high) < high / slope) {
    if (high > 40) return Infinity;
    high *= 2;
  }
  for (let step = 0; step < 50; step += 1) {
    const middle = (low + high) / 2;
    if (exact(values, middle) < middle / slope) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}

// All numbers of the figure.
export function measure(values) {
  const { peaks, width, layers } = values;
  const slope = 2 ** layers;
  const gap = peaks / 2;
  const meets = meeting(values);
  const bound = 1 - 2 * above(gap / slope);
  const data = above((-gap - peaks) / width) - above((gap - peaks) / width);
  // Simpson's rule over the straight piece; beyond it the flow is exact.
  const end = Math.min(meets, peaks + 12 * width);
  const steps = 2000;
  const h = 2 * end / steps;
  let divergence = 0;
  for (let k = 0; k <= steps; k += 1) {
    const x = k * h - end;
    const p = target(values, x);
    const weight = k === 0 || k === steps ? 1 : 2 + 2 * (k % 2);
    if (p > 0) divergence += weight * p * Math.log(p * slope / normal(x / slope));
  }
  return { slope, gap, meets, bound, data, bridge: 1 - 2 * above(noise(values, gap)),
    divergence: divergence * h / 3 };
}

// The density of the flow, when the straight piece is known to end at `meets`.
export const density = (values, meets, x) => Math.abs(x) < meets
  ? normal(x / 2 ** values.layers) / 2 ** values.layers : target(values, x);

// ---- the figure ---------------------------------------------------------------------------

// The ranges are those that BridgeExplorable accepts.
const RANGES = {
  peaks: { min: 2, max: 5, step: 0.05 },
  width: { min: 0.25, max: 1, step: 0.01 },
  layers: { min: 0, max: 16, step: 1 },
};
const NAMES = [...Object.keys(RANGES), "scale"];
const MARGIN = { left: 52, right: 12, top: 14, bottom: 40 };
const SIDE_BY_SIDE = 560; // pixels: below it the two pictures stand one above the other
const FAR = 7.2; // |x| up to which data are drawn
const OUT = 3.6; // |z| up to which noise is drawn
const HIGHEST = 0.86; // the largest density that is drawn on the linear scale
const DECADES = [-7, 0]; // of the logarithmic one
const BASE = 0.3; // the part of the left picture's height that the base may fill

const round = (name, x) => {
  const { min, max, step } = RANGES[name];
  return Number(clamp(step * Math.round(x / step), min, max).toFixed(2));
};

function render({ model, el }) {
  const read = () => Object.fromEntries(NAMES.map((name) => [name, model.get(name)]));

  // Every node is made once and only moved afterwards.
  const bands = [path("built"), path("built")];
  for (const band of bands) band.style.opacity = 0.1;
  const base = path("prior");
  const baseShare = path("area-prior");
  const best = path("whole nfbook-dashed");
  const map = path("variational nfbook-solid");
  const mapping = clipped(bands[0], baseShare, base, best, map);
  const data = path("whole nfbook-dashed");
  const share = path("area-variational");
  share.style.opacity = 0.6;
  const image = path("variational nfbook-solid");
  const densities = clipped(bands[1], share, data, image);
  const handle = ring("truth");
  const scales = [svg("g", { class: "nfbook-axes" }), svg("g", { class: "nfbook-axes" })];
  const left = svg("svg", {}, scales[0], mapping.node);
  const right = svg("svg", {}, scales[1], densities.node, handle);
  const picture = html("div", { role: "img", class: "nfbook-pair" }, left, right);

  const control = (name, label, words, digits) => slider({ ...RANGES[name], label, name: words,
    input: (x) => assign(model, { [name]: round(name, x) }),
    show: (x) => ({ short: setting(x, digits), long: `${words} ${setting(x, digits)}` }) });
  const sliders = {
    layers: control("layers", "K", "number of layers", 0),
    peaks: control("peaks", "a", "distance of a mode from zero", 2),
    width: control("width", "s", "width of the modes", 2),
  };
  const choice = radios({ words: ["linear", "logarithmic"],
    input: (scale) => assign(model, { scale }) });
  const numbers = numberTable(["slope", "largest slope L"], ["gap", "gap: |x| below"],
    ["bridge", "the flow's share there"], ["bound", "any map of slope L: at least"],
    ["data", "the data's share"], ["divergence", "KL(data ‖ flow), nats"]);
  const status = html("p", { role: "status", class: "nfbook-status" });
  const root = html("div", { class: "nfbook-figure nfbook-bridge" },
    html("p", { class: "nfbook-legend" }, key("prior", "noise"),
      key("whole nfbook-dashed", "data, and the exact map to them"),
      key("variational nfbook-solid", "the flow and its density")),
    picture,
    html("p", { class: "nfbook-hint" }, "Drag the ring: sideways to move the modes, upwards to " +
      "make them narrower. The grey band is the gap, and both tinted areas are the flow's " +
      "probability there."),
    html("div", { class: "nfbook-controls" },
      group("The flow: K layers of slope 2 at most", "variational", sliders.layers.node),
      group("The data: two modes at ±a of width s", "data", sliders.peaks.node,
        sliders.width.node),
      group("The scale of the densities", "data", choice.node)),
    numbers.node, status);
  el.append(root);

  let across = 1; // pixels of one unit of x in the right picture
  let heights = { there: (y) => y, back: (y) => y }; // between densities and pixels

  function draw(width) {
    const values = read();
    const result = measure(values);
    for (const [name, one] of Object.entries(sliders)) one.update(values[name]);
    choice.update(values.scale);
    numbers.show("slope", String(result.slope));
    numbers.show("gap", format(result.gap, 2));
    numbers.show("bridge", percent(result.bridge));
    numbers.show("bound", percent(result.bound));
    numbers.show("data", percent(result.data));
    numbers.show("divergence", format(result.divergence, 4));
    const words = inWords(result);
    if (status.textContent !== words) status.textContent = words;
    picture.setAttribute("aria-label", `A flow of ${values.layers} layers, with the largest ` +
      `slope ${result.slope}, and the density that it makes beside that of data with modes at ` +
      `plus and minus ${setting(values.peaks, 2)}, of width ${setting(values.width, 2)}, on a ` +
      `${values.scale} scale. ${words}`);
    if (width === 0) return;
    const wide = width >= SIDE_BY_SIDE;
    const first = wide ? Math.round(0.42 * width) : width;
    const height = wide ? 330 : 270;
    drawMap(frameOf(left, first, height, MARGIN), values, result);
    drawDensities(frameOf(right, wide ? width - first : width, height, MARGIN), values, result);
  }

  function drawMap(frame, values, { gap }) {
    const x = (z) => frame.left + (frame.right - frame.left) * (z + OUT) / (2 * OUT);
    const y = (value) => frame.bottom - (frame.bottom - frame.top) * (value + FAR) / (2 * FAR);
    mapping.cut(frame);
    set(bands[0], { d: `M${frame.left},${y(-gap)}H${frame.right}V${y(gap)}H${frame.left}Z` });
    const low = (z) => frame.bottom - BASE * (frame.bottom - frame.top) * normal(z) / 0.4;
    set(base, { d: curve(normal, -OUT, OUT, x, (p) =>
      frame.bottom - BASE * (frame.bottom - frame.top) * p / 0.4) });
    const end = Math.min(noise(values, gap), OUT);
    const pieces = Array.from({ length: 41 }, (_, k) => end * (k / 20 - 1));
    set(baseShare, { d: `M${x(-end)},${frame.bottom}` +
      `${pieces.map((z) => `L${x(z).toFixed(1)},${low(z).toFixed(1)}`).join("")}` +
      `L${x(end)},${frame.bottom}Z` });
    const places = Array.from({ length: 161 }, (_, k) => FAR * (k / 80 - 1));
    const line = (f) => `M${places.map((v) =>
      `${x(f(v)).toFixed(1)},${y(v).toFixed(1)}`).join("L")}`;
    set(best, { d: line((v) => Math.sign(v) * exact(values, Math.abs(v))) });
    set(map, { d: line((v) => noise(values, v)) });
    scales[0].replaceChildren(...axes(frame,
      { title: "noise z", ticks: [-2, 0, 2].map((v) => [x(v), format(v, 0)]) },
      { title: "data x = g(z)", ticks: ticks(-FAR, FAR).map(([v, text]) => [y(v), text]) }));
  }

  function drawDensities(frame, values, { gap, meets }) {
    const { peaks, width, scale } = values;
    const height = frame.bottom - frame.top;
    across = (frame.right - frame.left) / (2 * FAR);
    const x = (value) => frame.left + across * (value + FAR);
    const span = DECADES[1] - DECADES[0];
    heights = scale === "linear"
      ? { there: (p) => frame.bottom - height * p / HIGHEST,
        back: (y) => HIGHEST * (frame.bottom - y) / height }
      : { there: (p) => frame.bottom -
            height * (Math.log10(Math.max(p, 10 ** (DECADES[0] - 1))) - DECADES[0]) / span,
        back: (y) => 10 ** (DECADES[0] + span * (frame.bottom - y) / height) };
    const y = heights.there;
    densities.cut(frame);
    set(bands[1], { d: `M${x(-gap)},${frame.bottom}H${x(gap)}V${frame.top}H${x(-gap)}Z` });
    set(data, { d: curve((v) => target(values, v), -FAR, FAR, x, y) });
    const flow = (v) => density(values, meets, v);
    // Its two jumps are drawn upright.
    const end = Math.min(meets, FAR);
    const parts = [[-FAR, -end], [-end, end], [end, FAR]].filter(([a, b]) => b - a > 1e-9);
    set(image, { d: parts.map(([a, b], k) => {
      const f = (v) => density(values, a === -end && b === end ? Infinity : 0, v);
      const piece = curve(f, a, b, x, y);
      return k === 0 ? piece : piece.replace("M", "L");
    }).join("") });
    const strip = curve(flow, -gap, gap, x, y);
    set(share, { d: area(strip, { left: x(-gap), right: x(gap), bottom: frame.bottom }) });
    const top = 1 / (2 * width * Math.sqrt(2 * Math.PI));
    set(handle, { transform: `translate(${x(peaks).toFixed(1)},${y(top).toFixed(1)})` });
    const marks = scale === "linear" ? ticks(0, HIGHEST).map(([v, text]) => [y(v), text])
      : [-6, -4, -2, 0].map((power) => [y(10 ** power), POWERS[power]]);
    scales[1].replaceChildren(...axes(frame,
      { title: "data x", ticks: ticks(-FAR, FAR).map(([v, text]) => [x(v), text]) },
      { title: "density", ticks: marks }));
  }

  draggable(handle, {
    start: () => {
      const { peaks, width } = read();
      return { peaks, y: heights.there(1 / (2 * width * Math.sqrt(2 * Math.PI))) };
    },
    move: (dx, dy, from) => {
      const top = Math.max(heights.back(from.y + dy), 1e-3);
      assign(model, { peaks: round("peaks", from.peaks + dx / across),
        width: round("width", 1 / (2 * top * Math.sqrt(2 * Math.PI))) });
    },
  });

  return redraw(model, NAMES, root, draw);
}

const POWERS = { "-6": "10⁻⁶", "-4": "10⁻⁴", "-2": "10⁻²", 0: "1" };

// A probability as a percentage, with more digits where it is small.
function percent(value) {
  return `${format(100 * value, value < 0.01 ? 3 : value < 0.1 ? 2 : 1)} %`;
}

// What is seen, in words.
function inWords({ slope, bridge, bound, data }) {
  const count = format(1000 * bridge, bridge < 0.01 ? 1 : 0);
  if (bridge - bound > 1e-6) {
    return `Of a thousand draws ${count} fall into the gap. The slope ${slope} is steep enough to ` +
      `follow the data through part of it: ${percent(data)} of the data lie there too.`;
  }
  return `Of a thousand draws ${count} fall into the gap, and no map whose slope is at most ` +
    `${slope} and which gives both sides equal shares has fewer there.`;
}

export default { render };
