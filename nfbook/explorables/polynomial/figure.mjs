// Old Faithful's waiting times as a polynomial of the duration: Bayesian linear regression, whose
// posterior, predictive and evidence are computed here for every degree and prior width.

import {
  assign, axes, clipped, format, group, html, key, numberTable, redraw, set, setting, slider, svg,
  ticks,
} from "../kit.mjs";

// ---- the record ---------------------------------------------------------------------------

// Duration of each eruption and waiting time until the next, in minutes (Härdle, 1991).
const RECORD = `
3.6 79, 1.8 54, 3.333 74, 2.283 62, 4.533 85, 2.883 55, 4.7 88, 3.6 85, 1.95 51, 4.35 85,
1.833 54, 3.917 84, 4.2 78, 1.75 47, 4.7 83, 2.167 52, 1.75 62, 4.8 84, 1.6 52, 4.25 79,
1.8 51, 1.75 47, 3.45 78, 3.067 69, 4.533 74, 3.6 83, 1.967 55, 4.083 76, 3.85 78, 4.433 79,
4.3 73, 4.467 77, 3.367 66, 4.033 80, 3.833 74, 2.017 52, 1.867 48, 4.833 80, 1.833 59,
4.783 90, 4.35 80, 1.883 58, 4.567 84, 1.75 58, 4.533 73, 3.317 83, 3.833 64, 2.1 53, 4.633 82,
2 59, 4.8 75, 4.716 90, 1.833 54, 4.833 80, 1.733 54, 4.883 83, 3.717 71, 1.667 64, 4.567 77,
4.317 81, 2.233 59, 4.5 84, 1.75 48, 4.8 82, 1.817 60, 4.4 92, 4.167 78, 4.7 78, 2.067 65,
4.7 73, 4.033 82, 1.967 56, 4.5 79, 4 71, 1.983 62, 5.067 76, 2.017 60, 4.567 78, 3.883 76,
3.6 83, 4.133 75, 4.333 82, 4.1 70, 2.633 65, 4.067 73, 4.933 88, 3.95 76, 4.517 80, 2.167 48,
4 86, 2.2 60, 4.333 90, 1.867 50, 4.817 78, 1.833 63, 4.3 72, 4.667 84, 3.75 75, 1.867 51,
4.9 82, 2.483 62, 4.367 88, 2.1 49, 4.5 83, 4.05 81, 1.867 47, 4.7 84, 1.783 52, 4.85 86,
3.683 81, 4.733 75, 2.3 59, 4.9 89, 4.417 79, 1.7 59, 4.633 81, 2.317 50, 4.6 85, 1.817 59,
4.417 87, 2.617 53, 4.067 69, 4.25 77, 1.967 56, 4.6 88, 3.767 81, 1.917 45, 4.5 82, 2.267 55,
4.65 90, 1.867 45, 4.167 83, 2.8 56, 4.333 89, 1.833 46, 4.383 82, 1.883 51, 4.933 86,
2.033 53, 3.733 79, 4.233 81, 2.233 60, 4.533 82, 4.817 77, 4.333 76, 1.983 59, 4.633 80,
2.017 49, 5.1 96, 1.8 53, 5.033 77, 4 77, 2.4 65, 4.6 81, 3.567 71, 4 70, 4.5 81, 4.083 93,
1.8 53, 3.967 89, 2.2 45, 4.15 86, 2 58, 3.833 78, 3.5 66, 4.583 76, 2.367 63, 5 88, 1.933 52,
4.617 93, 1.917 49, 2.083 57, 4.583 77, 3.333 68, 4.167 81, 4.333 81, 4.5 73, 2.417 50, 4 85,
4.167 74, 1.883 55, 4.583 77, 4.25 83, 3.767 83, 2.033 51, 4.433 78, 4.083 84, 1.833 46,
4.417 83, 2.183 55, 4.8 81, 1.833 57, 4.8 76, 4.1 84, 3.966 77, 4.233 81, 3.5 87, 4.366 77,
2.25 51, 4.667 78, 2.1 60, 4.35 82, 4.133 91, 1.867 53, 4.6 78, 1.783 46, 4.367 77, 3.85 84,
1.933 49, 4.5 83, 2.383 71, 4.7 80, 1.867 49, 3.833 75, 3.417 64, 4.233 76, 2.4 53, 4.8 94,
2 55, 4.15 76, 1.867 50, 4.267 82, 1.75 54, 4.483 75, 4 78, 4.117 79, 4.083 78, 4.267 78,
3.917 70, 4.55 79, 4.083 70, 2.417 54, 4.183 86, 2.217 50, 4.45 90, 1.883 54, 1.85 54,
4.283 77, 3.95 79, 2.333 64, 4.15 75, 2.35 47, 4.933 86, 2.9 63, 4.583 85, 3.833 82, 2.083 57,
4.367 82, 2.133 67, 4.35 74, 2.2 54, 4.45 83, 3.567 73, 4.5 73, 4.15 88, 3.817 80, 3.917 71,
4.45 83, 2 56, 4.283 79, 4.767 78, 4.533 84, 1.85 58, 4.25 83, 1.983 43, 2.25 60, 4.75 75,
4.117 81, 2.15 46, 4.417 90, 1.817 46, 4.467 74
`;

export const eruptions = RECORD.trim().split(",")
  .map((pair) => pair.trim().split(" ").map(Number));

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
const rows = eruptions.map(([duration]) => chebyshev(inUnits(duration), HIGHEST));
const targets = eruptions.map(([, wait]) => (wait - 70) / 10);
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

// The posterior under the prior N(0, width²) for every weight: its mean, the log evidence as fit
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
  const dots = svg("path", { class: "nfbook-dots" });
  const line = svg("path", { class: "nfbook-posterior" });
  const band = svg("path", { class: "nfbook-area" });
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
    ["evidence", "log evidence", "="]);
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
      `log evidence, ${format(result.logEvidence, 2)}.`);
    if (width === 0) return;

    const frame = { left: MARGIN.left, right: width - MARGIN.right, top: MARGIN.top - 4,
      bottom: HEIGHT - MARGIN.bottom };
    const [shortest, longest] = MINUTES.duration;
    const [low, high] = MINUTES.wait;
    const x = (minutes) =>
      frame.left + (frame.right - frame.left) * (minutes - shortest) / (longest - shortest);
    const y = (minutes) =>
      frame.bottom - (frame.bottom - MARGIN.top) * (minutes - low) / (high - low);
    set(picture, { width, viewBox: `0 0 ${width} ${HEIGHT}` });
    curves.cut(frame);
    grid.replaceChildren(...axes(frame,
      { title: "duration (minutes)", ticks: [2, 3, 4, 5].map((t) => [x(t), `${t}`]) },
      { title: "waiting time (minutes)",
        ticks: ticks(low, high).map(([value, text]) => [y(value), text]) }));
    if (width !== drawn) {
      drawn = width;
      set(dots, { d: eruptions.map(([duration, wait]) =>
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
