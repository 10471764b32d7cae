// A known posterior and one that is wrong: the ranks of the truth among draws from it, the coverage
// of its interval, and what its own draws say.

import {
  area, assign, axes, clamp, clipped, curve, format, frameOf, group, html, key, numberTable, path,
  redraw, set, setting, slider, svg, ticks,
} from "../kit.mjs";

// ---- the arithmetic -----------------------------------------------------------------------

const DRAWS = 9; // among which the truth is ranked
const WEIGHED = 1000; // draws whose importance weights are looked at

// The distribution function of the standard normal, to 1e-7, by the rational fit of
// Numerical Recipes for the complementary error function.
export function normalCdf(x) {
  const t = 1 / (1 + 0.5 * Math.abs(x) / Math.SQRT2);
  const series = [-1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807,
    -1.13520398, 1.48851587, -0.82215223, 0.17087277].reduceRight((sum, c) => sum * t + c, 0);
  const tail = 0.5 * t * Math.exp(-0.5 * x * x + series);
  return x > 0 ? 1 - tail : tail;
}

// Two Gaussians of one width: where they stand, and the weight of the second.
export const exact = ({ apart }) => ({ at: [-apart, apart], width: 1, right: 0.5 });
export const approximate = ({ apart, shift, width, right }) =>
  ({ at: [shift - apart, shift + apart], width, right });

const mix = (f, { at, width, right }, z) =>
  (1 - right) * f((z - at[0]) / width) + right * f((z - at[1]) / width);
export const cdf = (mixture, z) => mix(normalCdf, mixture, z);
export const density = (mixture, z) =>
  mix((x) => Math.exp(-0.5 * x * x), mixture, z) / (mixture.width * Math.sqrt(2 * Math.PI));

// The logarithm of the density, which far from both Gaussians is no logarithm of zero.
export function logDensity({ at, width, right }, z) {
  const terms = [1 - right, right].map((weight, k) => (weight > 0
    ? Math.log(weight) - 0.5 * ((z - at[k]) / width) ** 2 : -1e9));
  const top = Math.max(...terms);
  return top + Math.log(terms.reduce((sum, term) => sum + Math.exp(term - top), 0)) -
    Math.log(width * Math.sqrt(2 * Math.PI));
}

// Where the distribution function has the values of an increasing list, by a table of it.
export function quantiles(mixture, levels) {
  const count = 3000;
  const [low, high] = [mixture.at[0] - 6 * mixture.width, mixture.at[1] + 6 * mixture.width];
  const at = (k) => low + (high - low) * k / count;
  let [k, before, after] = [0, 0, cdf(mixture, low)];
  return levels.map((level) => {
    while (after < level && k < count) {
      k += 1;
      [before, after] = [after, cdf(mixture, at(k))];
    }
    return after > before && k > 0 ? at(k - (after - level) / (after - before)) : at(k);
  });
}

// The nodes of Simpson's rule under a mixture, as [place, weight].
function nodes(mixture) {
  const count = 600;
  const [low, high] = [mixture.at[0] - 8 * mixture.width, mixture.at[1] + 8 * mixture.width];
  const step = (high - low) / count;
  return Array.from({ length: count + 1 }, (_, k) => {
    const z = low + k * step;
    const weight = k === 0 || k === count ? 1 : 2 + 2 * (k % 2);
    return [z, weight * density(mixture, z) * step / 3];
  });
}

// The probability of each rank of a truth from p among draws from q: that so many lie below it.
export function rankShares(p, q) {
  const shares = Array.from({ length: DRAWS + 1 }, () => 0);
  for (const [z, weight] of nodes(p)) {
    const below = clamp(cdf(q, z), 0, 1);
    let ways = 1;
    for (let rank = 0; rank <= DRAWS; rank += 1) {
      shares[rank] += weight * ways * below ** rank * (1 - below) ** (DRAWS - rank);
      ways *= (DRAWS - rank) / (rank + 1);
    }
  }
  return shares;
}

// How often the central interval of q holds the truth.
export function coverage(p, q, nominal) {
  const [low, high] = quantiles(q, [0.5 - nominal / 2, 0.5 + nominal / 2]);
  return cdf(p, high) - cdf(p, low);
}

// KL(q || p), in nats.
export const gap = (p, q) => nodes(q).reduce((sum, [z, weight]) =>
  sum + weight * (logDensity(q, z) - logDensity(p, z)), 0);

// What a typical set of draws from q says, its quantiles: which share of them counts by the weights
// p / q, and the logarithm of the weights' mean, which for the whole of p is zero.
export function weights(p, q) {
  const levels = Array.from({ length: WEIGHED }, (_, k) => (k + 0.5) / WEIGHED);
  const logs = quantiles(q, levels).map((z) => logDensity(p, z) - logDensity(q, z));
  const top = Math.max(...logs);
  const scaled = logs.map((log) => Math.exp(log - top));
  const sum = scaled.reduce((total, w) => total + w, 0);
  const squares = scaled.reduce((total, w) => total + w * w, 0);
  return { share: sum * sum / squares / WEIGHED, logMean: top + Math.log(sum / WEIGHED) };
}

// ---- the figure ---------------------------------------------------------------------------

const MARGIN = { left: 58, right: 14, top: 14, bottom: 40 };
const HEIGHT = 250;
const SIDE_BY_SIDE = 560; // pixels: below it the two pictures stand one above the other
const SEEN = 8; // |z| up to which the densities are drawn
// The ranges are those that RanksExplorable accepts.
const RANGES = {
  apart: { min: 0, max: 3, step: 0.05 }, shift: { min: -2, max: 2, step: 0.05 },
  width: { min: 0.4, max: 2.5, step: 0.05 }, right: { min: 0, max: 1, step: 0.05 },
};
const NAMES = Object.keys(RANGES);
const LONG = { apart: "half of the distance between the components", shift: "shift of q",
  width: "width of q", right: "weight of the right component in q" };
const SHORT = { apart: "apart", shift: "shift", width: "width", right: "right" };

function render({ model, el }) {
  // Every node is made once and only moved afterwards.
  const truth = path("posterior");
  const shade = path("area nfbook-area-variational");
  const line = path("variational");
  const densities = clipped(shade, truth, line);
  const leftGrid = svg("g", { class: "nfbook-axes" });
  const left = svg("svg", {}, leftGrid, densities.node);
  const bars = path("bar-variational");
  const uniform = set(path("posterior"), { "stroke-width": 1.4 });
  const rightGrid = svg("g", { class: "nfbook-axes" });
  const right = svg("svg", {}, rightGrid, bars, uniform);
  const picture = html("div", { role: "img", class: "nfbook-pair" }, left, right);

  const sliders = Object.fromEntries(NAMES.map((name) => [name, slider({
    ...RANGES[name], label: SHORT[name], name: LONG[name],
    input: (x) => assign(model, { [name]: Number(x.toFixed(2)) }),
    show: (x) => ({ short: setting(x, 2), long: `${LONG[name]}: ${setting(x, 2)}` }),
  })]));
  const status = html("p", { role: "status", class: "nfbook-status" });
  const numbers = numberTable(["gap", "gap of the bound"], ["coverage", "90 % interval holds"],
    ["share", "share of draws that count"], ["evidence", "error of log p by weights"]);

  const root = html("div", { class: "nfbook-figure nfbook-ranks" },
    html("p", { class: "nfbook-legend" },
      key("posterior", "exact posterior, and its ranks"), key("variational", "q")),
    picture,
    html("div", { class: "nfbook-controls" },
      group("The exact posterior", "posterior", sliders.apart.node),
      group("The approximation q", "variational", sliders.shift.node, sliders.width.node,
        sliders.right.node)),
    numbers.node, status);
  el.append(root);

  function draw(width) {
    const values = Object.fromEntries(NAMES.map((name) => [name, model.get(name)]));
    const [p, q] = [exact(values), approximate(values)];
    const shares = rankShares(p, q);
    const held = coverage(p, q, 0.9);
    const { share, logMean } = weights(p, q);
    for (const name of NAMES) sliders[name].update(values[name]);
    numbers.show("gap", format(Math.max(gap(p, q), 0), 2));
    numbers.show("coverage", `${format(100 * held, 0)} %`);
    numbers.show("share", `${format(100 * share, 0)} %`);
    numbers.show("evidence", format(logMean, 2));
    const words = summary(shares, held, share);
    if (status.textContent !== words) status.textContent = words;
    picture.setAttribute("aria-label", "An exact posterior and an approximation q, and the " +
      "probabilities of the truth's ranks among nine draws from q, with " +
      `${NAMES.map((name) => `${LONG[name]} ${setting(values[name], 2)}`).join(", ")}. ${words}`);
    if (width === 0) return;
    const wide = width >= SIDE_BY_SIDE;
    const first = wide ? Math.round(width / 2) : width;
    drawDensities(frameOf(left, first, HEIGHT, MARGIN), p, q);
    drawRanks(frameOf(right, wide ? width - first : width, HEIGHT, MARGIN), shares);
  }

  function drawDensities(frame, p, q) {
    const x = (z) => frame.left + (frame.right - frame.left) * (z + SEEN) / (2 * SEEN);
    const top = 1.08 * Math.max(...[p, q].flatMap((one) => one.at.map((z) => density(one, z))),
      density(p, 0), 0.2);
    const y = (height) => frame.bottom - (frame.bottom - frame.top) * height / top;
    densities.cut(frame);
    leftGrid.replaceChildren(...axes(frame,
      { title: "z", ticks: ticks(-SEEN, SEEN).map(([at, text]) => [x(at), text]) },
      { title: "density", ticks: ticks(0, top).map(([at, text]) => [y(at), text]) }));
    const [ofTruth, ofQ] = [p, q].map((one) => curve((z) => density(one, z), -SEEN, SEEN, x, y));
    set(truth, { d: ofTruth });
    set(line, { d: ofQ });
    set(shade, { d: area(ofQ, frame) });
  }

  function drawRanks(frame, shares) {
    const slot = (frame.right - frame.left) / (DRAWS + 1);
    const top = Math.max(0.25, 1.08 * Math.max(...shares));
    const y = (value) => frame.bottom - (frame.bottom - frame.top) * value / top;
    rightGrid.replaceChildren(...axes(frame,
      { title: "draws of q below the truth",
        ticks: shares.map((_, rank) => [frame.left + slot * (rank + 0.5), `${rank}`]) },
      { title: "probability (%)",
        ticks: ticks(0, 100 * top).map(([at, text]) => [y(at / 100), text]) }));
    set(bars, { d: shares.map((value, rank) => {
      const [from, to] = [0.08, 0.92].map((part) => (frame.left + slot * (rank + part)).toFixed(1));
      return `M${from},${frame.bottom}V${y(value).toFixed(1)}H${to}V${frame.bottom}Z`;
    }).join("") });
    set(uniform, { d: `M${frame.left},${y(0.1).toFixed(1)}H${frame.right}` });
  }

  return redraw(model, NAMES, root, draw);
}

// What is seen, in words.
function summary(shares, held, share) {
  const [first, last] = [shares[0], shares.at(-1)];
  const unseen = share > 0.9 && (held < 0.8 || Math.abs(first - last) > 0.05)
    ? " The weights of q's own draws look good all the same." : "";
  if (shares.every((value) => Math.abs(value - 0.1) < 0.005)) {
    return "The ranks are uniform: nothing here tells q from the exact posterior.";
  }
  if (first > 0.11 && last > 0.11 && Math.max(first, last) < 1.5 * Math.min(first, last)) {
    return `Both ends are high: q is too narrow, and the truth lies outside of its draws.${unseen}`;
  }
  if (first > last + 0.02) {
    return `Low ranks are too frequent: q lies too far to the right.${unseen}`;
  }
  if (last > first + 0.02) {
    return `High ranks are too frequent: q lies too far to the left.${unseen}`;
  }
  if (first < 0.095 && last < 0.095) {
    return `The ends are low: q is too wide, and the truth lies among its draws too often.${unseen}`;
  }
  return `The ranks are not uniform, so q is not the posterior.${unseen}`;
}

export default { render };
