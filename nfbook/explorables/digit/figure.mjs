// A point of a VAE's latent plane, and the digit that its trained decoder makes of it.

import {
  assign, axes, clamp, clipped, draggable, format, frameOf, group, html, key, numberTable, radios,
  redraw, ring, set, setting, slider, svg,
} from "../kit.mjs";
import DECODER from "../../data/digits_decoder.csv";
import MAP from "../../data/digits_map.csv";

// ---- the arithmetic -----------------------------------------------------------------------

const SIDE = 8;
// The decoder's layers: each has a row of weights and a row of biases, which start with a number.
const rows = DECODER.map((row) => row.slice(1));
const LAYERS = [0, 2, 4].map((k) => ({ weights: rows[k], biases: rows[k + 1] }));

// The probability of ink in each of the 64 pixels, row by row.
export function decode(z) {
  let units = z;
  LAYERS.forEach(({ weights, biases }, k) => {
    const width = units.length;
    const last = k === LAYERS.length - 1;
    units = biases.map((bias, i) => {
      let sum = bias;
      for (let j = 0; j < width; j += 1) sum += weights[i * width + j] * units[j];
      return last ? 1 / (1 + Math.exp(-sum)) : Math.max(0, sum);
    });
  });
  return units;
}

export const logPrior = ([a, b]) => -Math.log(2 * Math.PI) - 0.5 * (a * a + b * b);

// The entropy of all pixels given z, in nats.
export function entropy(probabilities) {
  const part = (p) => (p > 0 ? -p * Math.log(p) : 0);
  return probabilities.reduce((sum, p) => sum + part(p) + part(1 - p), 0);
}

// The class of the test digit whose mean lies nearest.
export function nearest([a, b]) {
  const distance = ([, x, y]) => (x - a) ** 2 + (y - b) ** 2;
  return MAP.reduce((best, row) => (distance(row) < distance(best) ? row : best))[0];
}

// Numbers between 0 and 1, the same every time: a pixel of a draw has ink where its probability is
// above its number.
const GOLDEN = (Math.sqrt(5) - 1) / 2;
export const NOISE = Array.from({ length: SIDE * SIDE }, (_, i) => ((i + 0.5) * GOLDEN) % 1);

// ---- the figure ---------------------------------------------------------------------------

const MARGIN = { left: 46, right: 14, top: 14, bottom: 40 };
const MARGIN_OF_DIGIT = { left: 14, right: 14, top: 14, bottom: 14 };
const SIDE_BY_SIDE = 560; // pixels: below it the two pictures stand one above the other
// The ranges are those that DigitExplorable accepts.
const COORDINATE = { min: -3, max: 3, step: 0.05 };
const NAMES = ["pixels", "z1", "z2"];
const SEEN = 3.2;
// Each mark has the shape of its class, of the seven strokes of a pocket calculator: from the top
// around to the left, then the middle. So colour, of which there are five, only helps to tell them
// apart.
const STROKES = ["M-1,-2h2", "M1,-2v2", "M1,0v2", "M-1,2h2", "M-1,0v2", "M-1,-2v2", "M-1,0h2"];
const SHAPES = ["012345", "12", "01346", "01236", "1256", "02356", "023456", "012", "0123456",
  "012356"];
const HUES = ["prior", "likelihood", "posterior", "variational", "data"];
const SIZE = 1.9; // pixels for a unit of these strokes

const onStep = (x, { min, max, step }) =>
  clamp(Number((step * Math.round(x / step)).toFixed(2)), min, max);

function render({ model, el }) {
  // Every node is made once and only moved afterwards.
  const marks = SHAPES.map((_, label) => {
    const hue = HUES[label % HUES.length];
    return svg("path", { class: hue === "data" ? "" : `nfbook-${hue}`,
      style: `stroke: var(--nfbook-${hue}); stroke-width: 1.2; stroke-dasharray: none; fill: none` });
  });
  const seen = clipped(...marks);
  const handle = ring("truth");
  const planeGrid = svg("g", { class: "nfbook-axes" });
  const plane = svg("svg", {}, planeGrid, seen.node, handle);

  const pixels = NOISE.map(() => svg("rect", { style: "fill: var(--nfbook-ink); " +
    "shape-rendering: crispEdges" }));
  const edge = svg("rect", { class: "nfbook-guide-soft" });
  const digit = svg("svg", {}, ...pixels, edge);
  const picture = html("div", { role: "img", class: "nfbook-pair" }, plane, digit);

  const coordinate = (name, label, words) => slider({ ...COORDINATE, label, name: words,
    input: (x) => assign(model, { [name]: onStep(x, COORDINATE) }),
    show: (x) => ({ short: setting(x, 2), long: `${words} ${setting(x, 2)}` }) });
  const sliders = { z1: coordinate("z1", "first", "first coordinate"),
    z2: coordinate("z2", "second", "second coordinate") };
  const choice = radios({ words: ["probabilities", "a draw"],
    input: (word) => assign(model, { pixels: word }) });
  const numbers = numberTable(["prior", "log p(z)"], ["ink", "pixels with ink, expected"],
    ["entropy", "entropy of the pixels (nats)"], ["nearest", "nearest test digit"]);
  const status = html("p", { role: "status", class: "nfbook-status" });

  const root = html("div", { class: "nfbook-figure nfbook-digit" },
    html("p", { class: "nfbook-legend" },
      key("guide-soft", "means of q for the 250 test digits, each drawn as its class")),
    picture,
    html("p", { class: "nfbook-hint" }, "Drag the ring over the latent plane: the decoder draws " +
      "what it makes of that z."),
    html("div", { class: "nfbook-controls" },
      group("The point z", "data", sliders.z1.node, sliders.z2.node),
      group("Each pixel shows", "data", choice.node)),
    numbers.node, status);
  el.append(root);

  let scale = 1; // pixels for a unit of length
  let drawnFor = ""; // the frame for which axes and marks stand as they are

  function draw(width) {
    const [word, z1, z2] = NAMES.map((name) => model.get(name));
    const z = [z1, z2];
    const probabilities = decode(z);
    const ink = probabilities.reduce((sum, p) => sum + p, 0);
    for (const name of ["z1", "z2"]) sliders[name].update(model.get(name));
    choice.update(word);
    numbers.show("prior", format(logPrior(z), 2));
    numbers.show("ink", format(ink, 1));
    numbers.show("entropy", format(entropy(probabilities), 1));
    numbers.show("nearest", `${nearest(z)}`);
    const unsure = probabilities.filter((p) => p > 0.1 && p < 0.9).length;
    const words = `The decoder is unsure, by more than a tenth, of ${unsure} of the 64 pixels.`;
    if (status.textContent !== words) status.textContent = words;
    picture.setAttribute("aria-label", `The point ${setting(z1, 2)}, ${setting(z2, 2)} of the ` +
      `latent plane, among the means of q for 250 test digits; the nearest is a ${nearest(z)}. ` +
      `Beside it 8 by 8 pixels, ${word === "a draw" ? "a draw of black and white ones" :
        "as grey as ink is probable"}; ${format(ink, 1)} with ink are expected.`);
    pixels.forEach((node, i) => {
      const shown = word === "a draw" ? Number(NOISE[i] < probabilities[i]) : probabilities[i];
      set(node, { "fill-opacity": shown.toFixed(3) });
    });
    if (width === 0) return;
    const wide = width >= SIDE_BY_SIDE;
    const left = wide ? Math.round(0.58 * width) : width;
    drawPlane(frameOf(plane, left, wide ? 340 : 280, MARGIN), z);
    drawDigit(frameOf(digit, wide ? width - left : width, wide ? 340 : 230, MARGIN_OF_DIGIT));
  }

  function drawPlane(frame, z) {
    const middle = { x: (frame.left + frame.right) / 2, y: (frame.top + frame.bottom) / 2 };
    scale = Math.min(frame.right - frame.left, frame.bottom - frame.top) / (2 * SEEN);
    const x = (a) => middle.x + scale * a;
    const y = (b) => middle.y - scale * b;
    set(handle, { transform: `translate(${x(z[0]).toFixed(1)},${y(z[1]).toFixed(1)})` });
    if (drawnFor === JSON.stringify(frame)) return;
    drawnFor = JSON.stringify(frame);
    seen.cut(frame);
    planeGrid.replaceChildren(...axes(frame,
      { title: "first coordinate of z", ticks: [-2, 0, 2].map((t) => [x(t), format(t, 0)]) },
      { title: "second coordinate", ticks: [-2, 0, 2].map((t) => [y(t), format(t, 0)]) }));
    marks.forEach((node, label) => {
      const places = MAP.filter((row) => row[0] === label).map(([, a, b]) => [x(a), y(b)]);
      set(node, { d: places.map((place) => shape(label, place)).join("") });
    });
  }

  function drawDigit(frame) {
    const size = Math.floor(Math.min(frame.right - frame.left, frame.bottom - frame.top) / SIDE);
    const left = Math.round((frame.left + frame.right - SIDE * size) / 2);
    const top = Math.round((frame.top + frame.bottom - SIDE * size) / 2);
    pixels.forEach((node, i) => set(node, { x: left + size * (i % SIDE),
      y: top + size * Math.floor(i / SIDE), width: size, height: size }));
    set(edge, { x: left - 1, y: top - 1, width: SIDE * size + 2, height: SIDE * size + 2 });
  }

  draggable(handle, {
    start: () => [model.get("z1"), model.get("z2")],
    move: (dx, dy, [a, b]) => assign(model, {
      z1: onStep(a + dx / scale, COORDINATE), z2: onStep(b - dy / scale, COORDINATE),
    }),
  });

  return redraw(model, NAMES, root, draw);
}

// A digit's strokes around a place.
function shape(label, [x, y]) {
  return [...SHAPES[label]].map((k) => {
    const [, a, b, way, length] = /^M(-?\d),(-?\d)([hv])(\d)$/.exec(STROKES[k]);
    return `M${(x + SIZE * a).toFixed(1)},${(y + SIZE * b).toFixed(1)}${way}${SIZE * length}`;
  }).join("");
}

export default { render };
