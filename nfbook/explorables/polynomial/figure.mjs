// Old Faithful's waiting times as a polynomial of the duration: Bayesian linear regression, whose
// posterior, predictive and evidence are computed here for every degree and prior width.

import {
  assign, axes, clipped, format, frameOf, group, html, key, numberTable, path, redraw, set, setting,
  slider, svg, ticks,
} from "../kit.mjs";
import OLD_FAITHFUL from "../../data/old_faithful.csv";

// ---- the arithmetic -----------------------------------------------------------------------

// Round units: u in [-1, 1] for durations, tens of minutes from 70 for waits.
const inUnits = (duration) => (duration - 3.5) / 2;
const NOISE = 0.6; // standard deviation of the noise, in tens of minutes
const HIGHEST = 16;

// Chebyshev's polynomials T_0, ..., T_degree at u.
export function chebyshev(u, degree) {
  return Array.from({ length: degree + 1 }, (_, k) => Math.cos(k * Math.acos(u)));
}

const sum = (terms) => terms.reduce((total, term) => total + term, 0);

// The product of a with as many first elements of b.
function dot(a, b) {
  let total = 0;
  for (let k = 0; k < a.length; k += 1) total += a[k] * b[k];
  return total;
}

// What the posterior needs of the data: the products of features and targets, summed.
const rows = OLD_FAITHFUL.map(([duration]) => chebyshev(inUnits(duration), HIGHEST));
const targets = OLD_FAITHFUL.map(([, wait]) => (wait - 70) / 10);
const gram = rows[0].map((_, i) => rows[0].map((__, j) => sum(rows.map((row) => row[i] * row[j]))));
const moment = rows[0].map((_, i) => sum(rows.map((row, k) => row[i] * targets[k])));

// The lower triangular L with L Lᵀ = A.
function cholesky(A) {
  const L = A.map((row) => row.map(() => 0));
  for (let i = 0; i < A.length; i += 1) {
    for (let j = 0; j <= i; j += 1) {
      const rest = A[i][j] - dot(L[i].slice(0, j), L[j].slice(0, j));
      L[i][j] = i === j ? Math.sqrt(rest) : rest / L[j][j];
    }
  }
  return L;
}

// The solution x of L x = b.
function forward(L, b) {
  const x = [];
  for (let i = 0; i < b.length; i += 1) x.push((b[i] - dot(x, L[i])) / L[i][i]);
  return x;
}

// The solution x of Lᵀ x = b.
function backward(L, b) {
  const x = b.map(() => 0);
  for (let i = b.length - 1; i >= 0; i -= 1) {
    x[i] = (b[i] - sum(x.map((value, j) => (j > i ? L[j][i] * value : 0)))) / L[i][i];
  }
  return x;
}

// The posterior under the prior N(0, width²) for every weight: its mean, the log-evidence as fit
// plus log Occam factor, and the predictive, { mean, deviation }, at any u.
export function regression(degree, width) {
  const size = degree + 1;
  const variance = NOISE ** 2;
  const A = gram.slice(0, size).map((row, i) =>
    row.slice(0, size).map((value, j) => value / variance + (i === j ? 1 / width ** 2 : 0)));
  const L = cholesky(A);
  const m = backward(L, forward(L, moment.slice(0, size).map((value) => value / variance)));
  const residuals = rows.map((row, k) => targets[k] - dot(m, row));
  const fit = -0.5 * (targets.length * Math.log(2 * Math.PI * variance) +
    dot(residuals, residuals) / variance);
  const logOccam = -size * Math.log(width) - dot(m, m) / (2 * width ** 2) -
    sum(L.map((row, i) => Math.log(row[i])));
  return {
    m, fit, logOccam, logEvidence: fit + logOccam,
    predict(u) {
      const features = chebyshev(u, degree);
      const spread = forward(L, features);
      return { mean: dot(features, m), deviation: Math.sqrt(variance + dot(spread, spread)) };
    },
  };
}

// ---- the figure ---------------------------------------------------------------------------

const HEIGHT = 280;
const MARGIN = { left: 48, right: 14, top: 14, bottom: 40 };
// The ranges are those that PolynomialExplorable accepts.
const DEGREE = { min: 0, max: HIGHEST, step: 1 };
const WIDTH = { min: 0.1, max: 10, step: 0.1 };
const NAMES = ["degree", "prior_width"];
const MINUTES = { duration: [1.5, 5.5], wait: [30, 110] };
const POINTS = 120; // along a curve
const BAND = 1.96; // standard deviations: 95 %

function render({ model, el }) {
  // Every node is made once and only moved afterwards.
  const grid = svg("g", { class: "nfbook-axes" });
  const dots = path("dots");
  const line = path("posterior");
  const band = path("area");
  const curves = clipped(dots, band, line);
  const picture = svg("svg", { role: "img", height: HEIGHT }, grid, curves.node);
  const sliders = {
    degree: slider({ ...DEGREE, label: "degree", name: "degree",
      input: (x) => assign(model, { degree: x }),
      show: (x) => ({ short: `${x}`, long: `degree ${x}` }) }),
    prior_width: slider({ ...WIDTH, label: "width", name: "prior width",
      input: (x) => assign(model, { prior_width: Number(x.toFixed(1)) }),
      show: (x) => ({ short: setting(x, 1), long: `prior width ${setting(x, 1)}` }) }),
  };
  const numbers = numberTable(["fit", "fit"], ["occam", "log Occam factor", "+"],
    ["evidence", "log-evidence", "="]);
  const root = html("div", { class: "nfbook-figure nfbook-polynomial" },
    html("p", { class: "nfbook-legend" },
      key("posterior", "mean of the predictive, with its central 95 %")),
    picture,
    html("div", { class: "nfbook-controls" },
      group("Polynomial", "posterior", sliders.degree.node),
      group("Prior N(0, width²) for every weight", "prior", sliders.prior_width.node)),
    numbers.node);
  el.append(root);

  let drawn = 0; // the width for which the record is drawn

  function draw(width) {
    const [degree, priorWidth] = NAMES.map((name) => model.get(name));
    const result = regression(degree, priorWidth);
    sliders.degree.update(degree);
    sliders.prior_width.update(priorWidth);
    numbers.show("fit", format(result.fit, 2));
    numbers.show("occam", format(result.logOccam, 2));
    numbers.show("evidence", format(result.logEvidence, 2));
    picture.setAttribute("aria-label", `Waiting time against duration of 272 eruptions, with a ` +
      `polynomial of degree ${degree} under a prior of width ${setting(priorWidth, 1)}. ` +
      `Fit ${format(result.fit, 2)} plus log Occam factor ${format(result.logOccam, 2)} is the ` +
      `log-evidence, ${format(result.logEvidence, 2)}.`);
    if (width === 0) return;

    const frame = frameOf(picture, width, HEIGHT, MARGIN);
    const [shortest, longest] = MINUTES.duration;
    const [low, high] = MINUTES.wait;
    const x = (minutes) =>
      frame.left + (frame.right - frame.left) * (minutes - shortest) / (longest - shortest);
    const y = (minutes) =>
      frame.bottom - (frame.bottom - MARGIN.top) * (minutes - low) / (high - low);
    curves.cut(frame);
    grid.replaceChildren(...axes(frame,
      { title: "duration (minutes)", ticks: [2, 3, 4, 5].map((t) => [x(t), `${t}`]) },
      { title: "waiting time (minutes)",
        ticks: ticks(low, high).map(([value, text]) => [y(value), text]) }));
    if (width !== drawn) {
      drawn = width;
      set(dots, { d: OLD_FAITHFUL.map(([duration, wait]) =>
        `M${(x(duration) - 2).toFixed(1)},${y(wait).toFixed(1)}a2,2 0 1,0 4,0a2,2 0 1,0 -4,0`)
        .join("") });
    }
    const places = Array.from({ length: POINTS + 1 }, (_, k) => {
      const u = -1 + 2 * k / POINTS;
      return [x(3.5 + 2 * u), result.predict(u)];
    });
    const at = ([across, { mean, deviation }], shift) =>
      `${across.toFixed(1)},${y(70 + 10 * (mean + shift * deviation)).toFixed(1)}`;
    set(line, { d: `M${places.map((place) => at(place, 0)).join("L")}` });
    set(band, { d: `M${places.map((place) => at(place, BAND)).join("L")}` +
      `L${places.reverse().map((place) => at(place, -BAND)).join("L")}Z` });
  }

  return redraw(model, NAMES, root, draw);
}

export default { render };
