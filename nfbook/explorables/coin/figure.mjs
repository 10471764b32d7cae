// A coin's prior, its tosses and what both together say: Beta prior, Bernoulli data.

import {
  area, assign, axes, clamp, clipped, curve, draggable, format, group, html, key, numberTable, path,
  redraw, ring, set, setting, slider, svg, ticks,
} from "../kit.mjs";

// ---- the arithmetic -----------------------------------------------------------------------

// Lanczos's approximation of log Γ(x), x > 0, with g = 7 and nine terms (Numerical Recipes, 6.1;
// coefficients by Godfrey, 2001). Its relative error is about 1e-15.
const LANCZOS = [
  0.99999999999980993, 676.5203681218851, -1259.1392167224028, 771.32342877765313,
  -176.61502916214059, 12.507343278686905, -0.13857109526572012, 9.9843695780195716e-6,
  1.5056327351493116e-7,
];

export function logGamma(x) {
  if (x < 0.5) return logGamma(x + 1) - Math.log(x);
  const t = x + 6.5;
  const series = LANCZOS.slice(1).reduce((sum, c, k) => sum + c / (x + k), LANCZOS[0]);
  return 0.5 * Math.log(2 * Math.PI) + (x - 0.5) * Math.log(t) - t + Math.log(series);
}

function logBeta(a, b) {
  return logGamma(a) + logGamma(b) - logGamma(a + b);
}

// The density of Beta(a, b); infinite at a border whose exponent is negative.
export function density(theta, a, b) {
  const term = (power, x) => (power === 0 ? 0 : power * Math.log(x));
  return Math.exp(term(a - 1, theta) + term(b - 1, 1 - theta) - logBeta(a, b));
}

// Where the density of Beta(a, b) is highest: one place, both borders, or (empty) everywhere.
export function modes(a, b) {
  if (a === 1 && b === 1) return [];
  if (a < 1 && b < 1) return [0, 1];
  if (a <= 1 && b >= 1) return [0];
  if (a >= 1 && b <= 1) return [1];
  return [(a - 1) / (a + b - 2)];
}

// All numbers of the figure. `mle` is null without tosses; where the posterior is `unbounded`, it
// grows without limit towards its modes, at 0 or 1, and has no maximum.
export function coin(a, b, heads, tails) {
  const n = heads + tails;
  return {
    modes: modes(a + heads, b + tails),
    unbounded: a + heads < 1 || b + tails < 1,
    mean: (a + heads) / (a + b + n),
    mle: n === 0 ? null : heads / n,
    logEvidence: logBeta(a + heads, b + tails) - logBeta(a, b),
  };
}

// ---- the figure ---------------------------------------------------------------------------

const HEIGHT = 270;
const MARGIN = { left: 44, right: 14, top: 14, bottom: 40 };
// The ranges are those that CoinExplorable accepts.
const PRIOR = { min: 0.1, max: 20, step: 0.1 };
const TOSSES = { min: 0, max: 50, step: 1 };
const CURVES = ["prior", "likelihood", "posterior"];
const NAMES = ["prior_a", "prior_b", "heads", "tails"];

const toTenth = (x) => clamp(Math.round(10 * x) / 10, PRIOR.min, PRIOR.max);
const toCount = (x) => clamp(Math.round(x), TOSSES.min, TOSSES.max);
const weight = (x) => setting(x, 1);
const plural = (n, one, many) => `${n} ${n === 1 ? one : many}`;

// The top of a curve as far as the vertical axis follows it: a density that grows without limit
// is followed to 1 % from the border.
function visiblePeak(a, b) {
  const places = modes(a, b);
  const tops = (places.length ? places : [0.5]).map((theta) => {
    const top = density(theta, a, b);
    return Number.isFinite(top) ? top : density(clamp(theta, 0.01, 0.99), a, b);
  });
  return Math.max(...tops);
}

function render({ model, el }) {
  // Every node is made once and only moved afterwards.
  const grid = svg("g", { class: "nfbook-axes" });
  const paths = Object.fromEntries(
    CURVES.map((name) => [name, path(name)]));
  const filled = path("area");
  const meanLine = svg("line", { class: "nfbook-guide nfbook-dashed" });
  const meanMark = svg("path", { class: "nfbook-mark", d: "M0,-6 L6,0 L0,6 L-6,0 Z" });
  const mapLine = svg("line", { class: "nfbook-guide" });
  const noLimit = [0, 1].map(() => svg("text", { class: "nfbook-infinity" }, "∞"));
  const mapMark = svg("circle", { class: "nfbook-mark", r: 5 });
  const mleMark = svg("path", { class: "nfbook-mle", d: "M0,-11 L6.5,0 L-6.5,0 Z" });
  const handles = { prior: ring("prior"), likelihood: ring("likelihood") };
  // Without tosses the posterior is the prior: the dashed line lies on top and both are seen.
  const curves = clipped(filled, paths.posterior, paths.prior, paths.likelihood);
  const picture = svg("svg", { role: "img", height: HEIGHT }, grid, curves.node,
    mapLine, meanLine, mleMark, mapMark, meanMark, ...noLimit, ...Object.values(handles));

  const weights = (letter) => slider({ ...PRIOR, label: letter, name: `prior ${letter}`,
    input: (x) => assign(model, { [`prior_${letter}`]: toTenth(x) }),
    show: (x) => ({ short: weight(x), long: `${letter} is ${weight(x)}` }) });
  const tosses = (side) => slider({ ...TOSSES, label: side, name: side,
    input: (x) => assign(model, { [side]: x }),
    show: (x) => ({ short: `${x}`, long: plural(x, side.slice(0, -1), side) }) });
  const sliders = { prior_a: weights("a"), prior_b: weights("b"), heads: tosses("heads"),
    tails: tosses("tails") };
  const numbers = numberTable(
    ["map", "MAP", "●", "nfbook-posterior-text"],
    ["mean", "posterior mean", "◆", "nfbook-posterior-text"],
    ["mle", "MLE", "▲", "nfbook-likelihood-text"],
    ["evidence", "log-evidence"]);

  const root = html("div", { class: "nfbook-figure nfbook-coin" },
    html("p", { class: "nfbook-legend" }, key("prior", "prior"),
      key("likelihood", "likelihood, scaled to area 1"), key("posterior", "posterior")),
    picture,
    html("p", { class: "nfbook-hint" }, "Drag a ring: sideways it moves its curve, upwards it " +
      "makes it narrower. Or use the sliders."),
    html("div", { class: "nfbook-controls" },
      group("Prior Beta(a, b)", "prior", sliders.prior_a.node, sliders.prior_b.node),
      group("Tosses", "likelihood", sliders.heads.node, sliders.tails.node)),
    numbers.node);
  el.append(root);

  let across = 1; // pixels from θ = 0 to θ = 1

  function draw(width) {
    const [a, b, heads, tails] = NAMES.map((name) => model.get(name));
    const result = coin(a, b, heads, tails);
    const shapes = {
      prior: [a, b],
      likelihood: [heads + 1, tails + 1],
      posterior: [a + heads, b + tails],
    };
    for (const name of NAMES) sliders[name].update(model.get(name));

    let mapText = "every θ";
    if (result.unbounded) mapText = `none: ∞ at ${result.modes.join(" and ")}`;
    else if (result.modes.length === 1) mapText = format(result.modes[0], 3);
    numbers.show("map", mapText);
    numbers.show("mean", format(result.mean, 3));
    numbers.show("mle", result.mle === null ? "–" : format(result.mle, 3));
    numbers.show("evidence", format(result.logEvidence, 3));
    picture.setAttribute("aria-label", `Prior Beta(${weight(a)}, ${weight(b)}), ` +
      `${plural(heads, "head", "heads")} and ${plural(tails, "tail", "tails")}. MAP ${mapText}, ` +
      `posterior mean ${format(result.mean, 3)}, ` +
      `${result.mle === null ? "no MLE" : `MLE ${format(result.mle, 3)}`}, ` +
      `log-evidence ${format(result.logEvidence, 3)}.`);
    if (width === 0) return;

    const high = 1.12 * Math.max(...Object.values(shapes).map((shape) => visiblePeak(...shape)));
    const bottom = HEIGHT - MARGIN.bottom;
    across = width - MARGIN.left - MARGIN.right;
    const x = (theta) => MARGIN.left + across * theta;
    // Twice the height is well above the clip, and finite.
    const y = (value) => bottom - (bottom - MARGIN.top) * Math.min(value / high, 2);
    const seen = (value) => Math.max(y(value), MARGIN.top);  // marks stay inside the frame
    const place = (node, theta, value) => set(node,
      { transform: `translate(${x(theta).toFixed(1)},${seen(value).toFixed(1)})` });
    const stem = (node, theta, value) => set(node,
      { x1: x(theta), x2: x(theta), y1: bottom, y2: seen(value) });

    const frame = { left: x(0), right: x(1), top: MARGIN.top - 4, bottom };
    set(picture, { width, viewBox: `0 0 ${width} ${HEIGHT}` });
    curves.cut(frame);
    grid.replaceChildren(...axes(frame,
      { title: "θ, the probability of heads",
        ticks: [0, 0.25, 0.5, 0.75, 1].map((theta) => [x(theta), `${theta}`]) },
      { title: "density", ticks: ticks(0, high).map(([value, text]) => [y(value), text]) }));
    for (const name of CURVES) {
      set(paths[name], { d: curve((theta) => density(theta, ...shapes[name]), 0, 1, x, y) });
    }
    set(filled, { d: area(paths.posterior.getAttribute("d"), frame) });

    const posterior = (theta) => density(theta, ...shapes.posterior);
    place(meanMark, result.mean, posterior(result.mean));
    stem(meanLine, result.mean, posterior(result.mean));
    const [map] = result.modes;
    const one = result.modes.length === 1 && !result.unbounded;
    for (const node of [mapMark, mapLine]) node.toggleAttribute("hidden", !one);
    if (one) {
      place(mapMark, map, posterior(map));
      stem(mapLine, map, posterior(map));
    }
    [[0, 12, "start"], [1, -12, "end"]].forEach(([theta, shift, anchor], k) => {
      noLimit[k].toggleAttribute("hidden", posterior(theta) !== Infinity);
      set(noLimit[k], { x: x(theta) + shift, y: MARGIN.top + 6, "text-anchor": anchor });
    });
    mleMark.toggleAttribute("hidden", result.mle === null);
    place(mleMark, result.mle ?? 0.5, 0);

    place(handles.prior, a / (a + b), density(a / (a + b), a, b));
    const centre = result.mle ?? 0.5;
    place(handles.likelihood, centre, density(centre, ...shapes.likelihood));
  }

  // A ring moves its curve's centre sideways; upwards it adds to the evidence behind the curve.
  draggable(handles.prior, {
    start: () => ({ a: model.get("prior_a"), b: model.get("prior_b") }),
    move(dx, dy, { a, b }) {
      const mean = clamp(a / (a + b) + dx / across, 0.01, 0.99);
      const strength = (a + b) * Math.exp(-dy / 80);
      assign(model, { prior_a: toTenth(mean * strength), prior_b: toTenth((1 - mean) * strength) });
    },
  });
  draggable(handles.likelihood, {
    start: () => ({ heads: model.get("heads"), tails: model.get("tails") }),
    move(dx, dy, { heads, tails }) {
      const n = Math.max(0, heads + tails - dy / 5);
      const share = heads + tails === 0 ? 0.5 : heads / (heads + tails);
      const centre = clamp(share + dx / across, 0, 1);
      assign(model, { heads: toCount(n * centre), tails: toCount(n * (1 - centre)) });
    },
  });

  return redraw(model, NAMES, root, draw);
}

export default { render };
