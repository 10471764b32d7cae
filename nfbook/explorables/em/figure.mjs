// EM on Old Faithful: two components, half a step at a time, and the bound that touches and climbs.

import {
  assign, axes, clamp, clipped, draggable, format, frameOf, group, html, key, numberTable, path,
  redraw, ring, set, setting, slider, svg, ticks,
} from "../kit.mjs";
import OLD_FAITHFUL from "../../data/old_faithful.csv";

// ---- the arithmetic -----------------------------------------------------------------------

const sum = (values) => values.reduce((total, value) => total + value, 0);

// The mean and the covariance matrix, as [variance, covariance, variance], under given weights.
function moments(weights) {
  const total = sum(weights);
  const [mean, covariance] = [[0, 0], [0, 0, 0]];
  OLD_FAITHFUL.forEach(([a, b], i) => {
    mean[0] += weights[i] * a / total;
    mean[1] += weights[i] * b / total;
  });
  OLD_FAITHFUL.forEach(([a, b], i) => {
    const [share, p, q] = [weights[i] / total, a - mean[0], b - mean[1]];
    covariance[0] += share * p * p;
    covariance[1] += share * p * q;
    covariance[2] += share * q * q;
  });
  return { mean, covariance };
}

const WHOLE = moments(OLD_FAITHFUL.map(() => 1));
const FLOOR = [1e-6 * WHOLE.covariance[0], 1e-6 * WHOLE.covariance[2]];

// The eigenvalues of a symmetric matrix [a, b, c], larger first, and the first eigenvector.
function eigen([a, b, c]) {
  const half = (a - c) / 2;
  const radius = Math.hypot(half, b);
  const angle = 0.5 * Math.atan2(b, half);
  return { values: [(a + c) / 2 + radius, (a + c) / 2 - radius],
    vector: [Math.cos(angle), Math.sin(angle)] };
}

// A covariance matrix with its eigenvalues, measured relative to the floor, raised to one.
export function lifted([a, b, c]) {
  const [f, g] = FLOOR.map(Math.sqrt);
  const { values, vector: [u, v] } = eigen([a / f / f, b / f / g, c / g / g]);
  const [s, t] = values.map((value) => Math.max(value, 1));
  return [f * f * (s * u * u + t * v * v), f * g * (s - t) * u * v, g * g * (s * v * v + t * u * u)];
}

// log w + log N(x | mean, covariance) for every observation.
function logJoint({ weight, mean, covariance: [a, b, c] }) {
  const det = a * c - b * b;
  const constant = Math.log(weight) - Math.log(2 * Math.PI) - 0.5 * Math.log(det);
  return OLD_FAITHFUL.map(([x, y]) => {
    const [p, q] = [x - mean[0], y - mean[1]];
    return constant - 0.5 * (c * p * p - 2 * b * p * q + a * q * q) / det;
  });
}

const logAdd = (a, b) => {
  const high = Math.max(a, b);
  return high === -Infinity ? high : high + Math.log1p(Math.exp(Math.min(a, b) - high));
};
const timesLog = (share, value) => (share === 0 ? 0 : share * value);

// The responsibilities of the first component, the log-likelihood, and the bound for shares q.
function judge(parts, q) {
  const joint = parts.map(logJoint);
  const evidence = joint[0].map((first, i) => logAdd(first, joint[1][i]));
  const bound = (i) => timesLog(q[i], joint[0][i] - Math.log(q[i]))
    + timesLog(1 - q[i], joint[1][i] - Math.log1p(-q[i]));
  return {
    gamma: joint[0].map((first, i) => Math.exp(first - evidence[i])),
    logLikelihood: sum(evidence),
    bound: sum(q.map((_, i) => bound(i))),
  };
}

function mStep(parts, q) {
  return parts.map((part, k) => {
    const shares = k === 0 ? q : q.map((share) => 1 - share);
    const size = sum(shares);
    if (size === 0) return { ...part, weight: 0 }; // it owns nothing, and has no mean
    const { mean, covariance } = moments(shares);
    return { weight: size / q.length, mean, covariance: lifted(covariance) };
  });
}

// All stages of a run from the given means, [eruption, wait] each: parameters, q and the heights
// before the first half-step and after each. Odd half-steps are E-steps.
export function run(means, halfSteps) {
  let parts = means.map((mean) => ({ weight: 0.5, mean, covariance: WHOLE.covariance }));
  let q = OLD_FAITHFUL.map(() => 0.5);
  const stages = [{ parts, q, ...judge(parts, q) }];
  for (let t = 1; t <= halfSteps; t += 1) {
    if (t % 2) q = stages.at(-1).gamma;
    else parts = mStep(parts, q);
    stages.push({ parts, q, ...judge(parts, q) });
  }
  return stages;
}

// ---- the figure ---------------------------------------------------------------------------

const MARGIN = { left: 72, right: 14, top: 14, bottom: 40 };
const SIDE_BY_SIDE = 560; // pixels: below it the two pictures stand one above the other
// The ranges are those that EmExplorable accepts.
const ERUPTION = { min: 1, max: 6, step: 0.05 };
const WAIT = { min: 40, max: 100, step: 0.5 };
const STEPS = { min: 0, max: 80, step: 1 };
const MEANS = ["first_eruption", "first_wait", "second_eruption", "second_wait"];
const NAMES = [...MEANS, "half_steps"];
const SEEN = { eruption: [0.6, 6.4], wait: [36, 104] };
const RADIUS = 2.146; // of the ellipse that holds 90 % of a Gaussian, in standard deviations
const FEWEST = 12; // half-steps that the axis on the right shows at least

const onStep = (x, { min, max, step }) =>
  clamp(Number((step * Math.round(x / step)).toFixed(2)), min, max);

function render({ model, el }) {
  const read = () => {
    const [a, b, c, d, steps] = NAMES.map((name) => model.get(name));
    return { means: [[a, b], [c, d]], steps };
  };

  // Every node is made once and only moved afterwards.
  const dots = OLD_FAITHFUL.map(() => svg("circle", { r: 2.6, class: "nfbook-dot" }));
  const ellipses = [path("likelihood"), path("likelihood nfbook-solid")];
  const trails = [path("guide-soft"), path("guide-soft")];
  const seen = clipped(...dots, ...trails, ...ellipses);
  const rings = ["first", "second"].map(() => ring("likelihood"));
  const names = [1, 2].map((k) => svg("text", { class: "nfbook-label-ring" }, `${k}`));
  const planeGrid = svg("g", { class: "nfbook-axes" });
  const plane = svg("svg", {}, planeGrid, seen.node, ...rings, ...names);

  const climbGrid = svg("g", { class: "nfbook-axes" });
  const lines = { likelihood: path("height"), bound: path("variational") };
  const touch = svg("circle", { r: 4.5, class: "nfbook-mark" });
  const heights = clipped(lines.likelihood, lines.bound);
  const climb = svg("svg", {}, climbGrid, heights.node, touch);
  const picture = html("div", { role: "img", class: "nfbook-pair" }, plane, climb);

  const control = (name, label, range) => slider({ ...range, label, name: name.replace("_", " "),
    input: (x) => assign(model, { [name]: onStep(x, range) }),
    show: (x) => ({ short: setting(x, 2), long: `${label} ${setting(x, 2)}` }) });
  const sliders = Object.fromEntries(MEANS.map((name) => (name.endsWith("wait")
    ? [name, control(name, "wait", WAIT)] : [name, control(name, "erupts", ERUPTION)])));
  sliders.half_steps = slider({ ...STEPS, label: "steps", name: "half-steps taken",
    input: (x) => assign(model, { half_steps: x }),
    show: (x) => ({ short: `${x}`, long: `half-steps ${x}` }) });
  // What a button is called stays, while the words on it follow what it will do.
  const button = (name) => html("button", { type: "button", class: "nfbook-button",
    "aria-label": name });
  const [next, back] = [button("Take the next half-step"), button("Go back, or to the end")];
  const buttons = html("div", { class: "nfbook-buttons" }, next, back);
  const status = html("p", { role: "status", class: "nfbook-status" });
  const numbers = numberTable(["bound", "bound L(q, θ)"], ["gap", "gap KL(q ‖ p)", "+"],
    ["evidence", "log p(X | θ)", "="]);

  const root = html("div", { class: "nfbook-figure nfbook-em" },
    html("p", { class: "nfbook-legend" },
      key("likelihood nfbook-solid", "components, 90 % of each (dashed: 1)"),
      key("height", "log-likelihood"), key("variational", "bound")),
    picture,
    html("p", { class: "nfbook-hint" }, "Drag the rings: they are the means at the start. Green " +
      "observations belong to component 1, as far as q can tell, grey ones to component 2."),
    html("div", { class: "nfbook-controls" },
      group("Component 1 starts at", "likelihood", sliders.first_eruption.node,
        sliders.first_wait.node),
      group("Component 2 starts at", "likelihood", sliders.second_eruption.node,
        sliders.second_wait.node),
      group("Half-steps of EM", "variational", sliders.half_steps.node, buttons)),
    numbers.node, status);
  el.append(root);

  next.addEventListener("click", () => {
    // At the end of the slider it begins anew, so the button always does something.
    const steps = model.get("half_steps");
    assign(model, { half_steps: steps === STEPS.max ? 0 : steps + 1 });
  });
  back.addEventListener("click", () => {
    // Where nothing has been taken yet, it goes to the end instead.
    assign(model, { half_steps: model.get("half_steps") === 0 ? STEPS.max : 0 });
  });

  let scale = { x: 1, y: 1 }; // pixels for a minute of duration, and of wait

  function draw(width) {
    const { means, steps } = read();
    const stages = run(means, steps);
    const { bound, logLikelihood } = stages[steps];
    for (const name of NAMES) sliders[name].update(model.get(name));
    numbers.show("bound", format(bound, 2));
    numbers.show("gap", format(Math.max(0, logLikelihood - bound), 2));
    numbers.show("evidence", format(logLikelihood, 2));
    const words = account(stages, steps);
    if (status.textContent !== words) status.textContent = words;
    next.textContent = steps === STEPS.max ? "Begin anew" : ["E-step", "M-step"][steps % 2];
    back.textContent = steps === 0 ? "To the end" : "Start again";
    picture.setAttribute("aria-label", `Old Faithful and two components that started at ` +
      `${means.map(([a, b]) => `${setting(a, 2)} and ${setting(b, 2)} minutes`).join(", ")}, ` +
      `after ${steps} half-steps. Bound ${format(bound, 2)}, log-likelihood ` +
      `${format(logLikelihood, 2)}.`);
    if (width === 0) return;
    const wide = width >= SIDE_BY_SIDE;
    const left = wide ? Math.round(0.52 * width) : width;
    // On a phone both pictures and the sliders are seen at once.
    const height = wide ? 280 : 225;
    drawPlane(frameOf(plane, left, height, MARGIN), stages, means);
    drawClimb(frameOf(climb, wide ? width - left : width, height, MARGIN), stages, steps);
  }

  function drawPlane(frame, stages, means) {
    const { parts, q } = stages.at(-1);
    scale = { x: (frame.right - frame.left) / (SEEN.eruption[1] - SEEN.eruption[0]),
      y: (frame.bottom - frame.top) / (SEEN.wait[1] - SEEN.wait[0]) };
    const x = (minutes) => frame.left + scale.x * (minutes - SEEN.eruption[0]);
    const y = (minutes) => frame.bottom - scale.y * (minutes - SEEN.wait[0]);
    const point = ([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`;
    seen.cut(frame);
    planeGrid.replaceChildren(...axes(frame,
      { title: "eruption (min)", ticks: [1, 2, 3, 4, 5, 6].map((t) => [x(t), `${t}`]) },
      { title: "wait (min)", ticks: [40, 60, 80, 100].map((t) => [y(t), `${t}`]) }));
    OLD_FAITHFUL.forEach((at, i) => {
      const [cx, cy] = point(at).split(",");
      set(dots[i], { cx, cy, style: `--nfbook-share: ${(100 * q[i]).toFixed(0)}%` });
    });
    parts.forEach(({ mean, covariance }, k) => {
      set(ellipses[k], { d: ellipse(mean, covariance, point) });
      const way = stages.map((stage) => point(stage.parts[k].mean));
      set(trails[k], { d: `M${way.join("L")}` });
      const [a, b] = means[k];
      set(rings[k], { transform: `translate(${x(a).toFixed(1)},${y(b).toFixed(1)})` });
      set(names[k], { x: x(a) + (k === 0 ? 13 : -13), y: y(b) - 8,
        "text-anchor": k === 0 ? "start" : "end" });
    });
  }

  function drawClimb(frame, stages, steps) {
    const last = Math.max(FEWEST, steps);
    // The bound of the uniform q may lie far below; the scale follows it only as far as it must.
    const lowest = Math.min(...stages.map((stage, t) => (t ? stage.bound : stage.logLikelihood)));
    const high = Math.max(...stages.map((stage) => stage.logLikelihood));
    const spare = Math.max(4, 0.1 * (high - lowest));
    const [floor, top] = [lowest - spare, high + spare];
    const x = (t) => frame.left + (frame.right - frame.left) * (t / last);
    const y = (nats) => frame.bottom - (frame.bottom - frame.top) * (nats - floor) / (top - floor);
    const below = floor - (top - floor); // far enough to be clipped
    const line = (name) => `M${stages.map((stage, t) =>
      `${x(t).toFixed(1)},${y(Math.max(stage[name], below)).toFixed(1)}`).join("L")}`;
    heights.cut(frame);
    climbGrid.replaceChildren(...axes(frame,
      { title: "half-steps", ticks: ticks(0, last).map(([t, text]) => [x(t), text]) },
      { title: "nats", ticks: ticks(floor, top).map(([nats, text]) => [y(nats), text]) }));
    set(lines.likelihood, { d: line("logLikelihood") });
    set(lines.bound, { d: line("bound") });
    // After an E-step bound and log-likelihood touch.
    touch.toggleAttribute("hidden", steps % 2 === 0);
    set(touch, { cx: x(steps), cy: y(stages[steps].logLikelihood) });
  }

  rings.forEach((node, k) => {
    const [eruption, wait] = MEANS.slice(2 * k);
    draggable(node, {
      start: () => [model.get(eruption), model.get(wait)],
      move: (dx, dy, [a, b]) => assign(model, {
        [eruption]: onStep(a + dx / scale.x, ERUPTION), [wait]: onStep(b - dy / scale.y, WAIT),
      }),
    });
  });

  return redraw(model, NAMES, root, draw);
}

// What the last half-step did, in words.
function account(stages, steps) {
  if (steps === 0) return "q gives both components the probability 1/2 for every observation.";
  const rise = (name) => format(stages[steps][name] - stages[steps - 1][name], 2);
  if (steps % 2) {
    return `The E-step raised the bound by ${rise("bound")} nats, up to the log-likelihood, which ` +
      "did not change.";
  }
  return `The M-step raised the bound by ${rise("bound")} nats and the log-likelihood by ` +
    `${rise("logLikelihood")}, so a gap opened between them.`;
}

// The ellipse that holds 90 % of a Gaussian.
function ellipse(mean, covariance, point) {
  const { values, vector: [u, v] } = eigen(covariance);
  const [long, short] = values.map((value) => RADIUS * Math.sqrt(Math.max(value, 0)));
  const points = Array.from({ length: 60 }, (_, k) => {
    const [c, s] = [long * Math.cos(k * Math.PI / 30), short * Math.sin(k * Math.PI / 30)];
    return point([mean[0] + c * u - s * v, mean[1] + c * v + s * u]);
  });
  return `M${points.join("L")}Z`;
}

export default { render };
