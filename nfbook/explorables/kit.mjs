// What the interactive figures share: elements, controls, axes, lines and shades, handles. A
// figure's module names what it needs in one import statement; the package puts this text in its
// place, so that a page or a notebook receives a single module.

const SVG = "http://www.w3.org/2000/svg";

export function set(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

export function html(tag, attributes = {}, ...children) {
  const node = set(document.createElement(tag), attributes);
  node.append(...children);
  return node;
}

export function svg(tag, attributes = {}, ...children) {
  const node = set(document.createElementNS(SVG, tag), attributes);
  node.append(...children);
  return node;
}

// A line or an area of a picture, whose course is set later.
export function path(name) {
  return svg("path", { class: `nfbook-${name}` });
}

export function clamp(value, low, high) {
  return Math.min(high, Math.max(low, value));
}

// A number as the book prints it: with a minus sign, not a hyphen.
export function format(value, digits) {
  const text = value.toFixed(digits);
  return (Number(text) === 0 ? text.replace("-", "") : text).replace("-", "\u2212");
}

// A setting as it is shown: one chosen by hand has so many decimals; one that came from Python, or
// from a computation, is not passed off as such.
export function setting(value, digits) {
  const scaled = value * 10 ** digits;
  return format(value, Math.abs(scaled - Math.round(scaled)) < 1e-9 ? digits : 3);
}

// A name for use inside one figure: two figures on a page must not share a clip path, for example.
export function unique(word) {
  return `nfbook-${word}-${Math.random().toString(36).slice(2)}`;
}

// An entry of a legend: how a curve is drawn, and its title.
export function key(name, title) {
  return html("span", {},
    svg("svg", { class: "nfbook-key", width: 28, height: 10, "aria-hidden": "true" },
      svg("path", { class: `nfbook-${name}`, d: "M1,5 H27" })), title);
}

// Controls under a common title, in the colour of what they move.
export function group(title, kind, ...nodes) {
  return html("fieldset", { class: `nfbook-${kind}-controls` },
    html("legend", {}, title), ...nodes);
}

// Numbers with their titles, as { node, show }. Each entry is [name, title, sign, sign's class].
export function numberTable(...entries) {
  const cells = {};
  const nodes = entries.map(([name, title, sign = "", kind = ""]) => {
    cells[name] = html("div", { class: "nfbook-number", "data-number": name });
    const mark = html("span", { class: kind, "aria-hidden": "true" }, sign);
    return html("div", {}, html("div", { class: "nfbook-title" }, mark, title), cells[name]);
  });
  return {
    node: html("div", { class: "nfbook-numbers" }, ...nodes),
    show: (name, text) => { cells[name].textContent = text; },
  };
}

// A labelled slider. The browser's own range input brings the keyboard, touch and the role.
// `show` turns a value into { short, long }: what stands beside the slider and what is read out.
export function slider({ label, name, min, max, step, show, input }) {
  const range = html("input", { type: "range", "aria-label": name, min, max, step });
  range.dataset.lmSuppressShortcuts = "true"; // or JupyterLab takes the arrow keys for itself
  const value = html("span", { class: "nfbook-value", "aria-hidden": "true" });
  range.addEventListener("input", () => input(Number(range.value)));
  return {
    node: html("label", { class: "nfbook-slider" }, html("span", {}, label), range, value),
    update(current) {
      const { short, long } = show(current);
      range.value = current;
      range.setAttribute("aria-valuetext", long);
      value.textContent = short;
    },
  };
}

// A choice between words: the browser's own radio buttons, as { node, update }.
export function radios({ words, input }) {
  const name = unique("choice"); // buttons of the same name exclude each other
  const buttons = words.map((value) => html("input", { type: "radio", name, value }));
  for (const button of buttons) {
    button.dataset.lmSuppressShortcuts = "true";
    button.addEventListener("change", () => input(button.value));
  }
  return {
    node: html("div", { class: "nfbook-radios" },
      ...buttons.map((button, k) => html("label", {}, button, words[k]))),
    update(current) {
      for (const button of buttons) button.checked = button.value === current;
    },
  };
}

// The ring by which a curve is dragged.
export function ring(name) {
  return svg("g", { class: `nfbook-handle nfbook-handle-${name}` },
    svg("circle", { r: 20, class: "nfbook-reach" }), svg("circle", { r: 8 }));
}

// A handle that a pointer moves. `start` returns whatever `move` needs to know about the moment
// of the grip; `move` receives it with the distance from there in pixels.
export function draggable(node, { start, move }) {
  let grip = null;
  node.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    event.preventDefault();
    node.setPointerCapture(event.pointerId);
    grip = { x: event.clientX, y: event.clientY, from: start() };
  });
  node.addEventListener("pointermove", (event) => {
    if (grip) move(event.clientX - grip.x, event.clientY - grip.y, grip.from);
  });
  // A finger on a handle must not scroll the page. The style `touch-action` says so too, but
  // Chromium does not follow it inside an SVG.
  node.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false });
  for (const end of ["pointerup", "pointercancel"]) {
    node.addEventListener(end, () => {
      grip = null;
    });
  }
}

// Gives a picture its size, and returns the frame inside its margins. The frame reaches a little
// above the margin, so that nothing is drawn on its edge.
export function frameOf(picture, width, height, margin) {
  set(picture, { width, height, viewBox: `0 0 ${width} ${height}` });
  return { left: margin.left, right: width - margin.right, top: margin.top - 4,
    bottom: height - margin.bottom };
}

// Draws the figure now, and again whenever one of the model's values or the width of `root`
// changes; returns how to stop. `draw` receives the width, which is 0 before there is one.
export function redraw(model, names, root, draw) {
  let width = 0;
  const again = () => draw(width);
  for (const name of names) model.on(`change:${name}`, again);
  const observer = new ResizeObserver(([entry]) => {
    if (entry.contentRect.width === 0) return;
    width = entry.contentRect.width;
    again();
  });
  observer.observe(root);
  again();
  return () => {
    observer.disconnect();
    for (const name of names) model.off(`change:${name}`, again);
  };
}

// Sets several values, then tells Python.
export function assign(model, values) {
  for (const [name, value] of Object.entries(values)) model.set(name, value);
  model.save_changes();
}

const FRAME_TIME = 25; // milliseconds between two steps of a motion

// What sets a model's values, and moves them by itself until the reader sets one.
export function motion(model) {
  let timer;
  const stop = () => clearTimeout(timer);
  // Sets values, and ends a motion that is under way.
  function choose(values) {
    stop();
    assign(model, values);
  }
  // Calls `step` now, and once more a frame later, for as long as it returns true.
  function run(step) {
    if (step()) timer = setTimeout(run, FRAME_TIME, step);
  }
  return { choose, run, stop };
}

// Whether the reader wants nothing to move by itself.
export function wantsStillness() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}

// Three to six round numbers from `low` to `high`, as [value, text].
export function ticks(low, high) {
  const rough = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const digits = Math.max(0, -Math.floor(Math.log10(step)));
  const first = Math.ceil(low / step - 1e-9);
  const count = Math.floor(high / step + 1e-9) - first;
  return Array.from({ length: count + 1 }, (_, k) => (first + k) * step)
    .map((value) => [value, format(value, digits)]);
}

// The axes around a frame of pixels. Each axis has a title and ticks, [place in pixels, text].
export function axes({ left, right, top, bottom }, across, up) {
  const line = (x1, y1, x2, y2) => svg("line", { x1, y1, x2, y2 });
  const text = (words, attributes) => svg("text", attributes, words);
  return [
    line(left, bottom, right, bottom),
    ...across.ticks.flatMap(([x, words]) => [
      line(x, bottom, x, bottom + 4),
      text(words, { x, y: bottom + 17, "text-anchor": "middle" }),
    ]),
    ...up.ticks.flatMap(([y, words]) => [
      line(left - 4, y, left, y),
      text(words, { x: left - 7, y: y + 4, "text-anchor": "end" }),
    ]),
    line(left, bottom, left, top),
    text(across.title,
      { x: (left + right) / 2, y: bottom + 34, "text-anchor": "middle" }),
    text(up.title, { transform: `translate(12,${(top + bottom) / 2}) rotate(-90)`,
      "text-anchor": "middle" }),
  ];
}

// The line of a function, computed at every pixel; `x` and `y` turn values into pixels.
export function curve(f, low, high, x, y) {
  const steps = Math.ceil(x(high) - x(low));
  const points = Array.from({ length: steps + 1 }, (_, k) => {
    const value = low + (high - low) * (k / steps);
    return `${x(value).toFixed(1)},${y(f(value)).toFixed(1)}`;
  });
  return `M${points.join("L")}`;
}

// The area between such a line and the frame's bottom.
export function area(line, { left, right, bottom }) {
  return `${line}L${right},${bottom}L${left},${bottom}Z`;
}

// The line through points of the plane.
export function polyline(points, x, y) {
  return `M${points.map((p) => `${x(p[0]).toFixed(1)},${y(p[1]).toFixed(1)}`).join("L")}`;
}

// Pieces, with two points each, of the line on which a function of the square from -side to side
// has a value: by the cells of a grid, of which `heights` holds the function's values.
export function contour(heights, value, side) {
  const count = heights.length - 1;
  const at = (k) => -side + 2 * side * k / count;
  const pieces = [];
  for (let i = 0; i < count; i += 1) {
    for (let j = 0; j < count; j += 1) {
      const corners = [[i, j], [i + 1, j], [i + 1, j + 1], [i, j + 1]];
      const ends = corners.flatMap(([a, b], k) => {
        const [c, d] = corners[(k + 1) % 4];
        const [one, two] = [heights[a][b] - value, heights[c][d] - value];
        if (one > 0 === two > 0) return [];
        const part = one / (one - two);
        return [[at(a + part * (c - a)), at(b + part * (d - b))]];
      });
      for (let k = 0; k + 1 < ends.length; k += 2) pieces.push(ends.slice(k, k + 2));
    }
  }
  return pieces;
}

// The values of a function on the nodes of such a grid.
export function heightsOf(f, side, count) {
  const at = (k) => -side + 2 * side * k / count;
  return Array.from({ length: count + 1 }, (_, i) =>
    Array.from({ length: count + 1 }, (__, j) => f([at(i), at(j)])));
}

// Areas of the square in which a function lies above each of some levels and below the next, as
// lines to be filled. The cells of a row with the same shade form one rectangle.
export function shadesOf(f, levels, side, count, x, y) {
  const cell = 2 * side / count;
  const parts = levels.map(() => []);
  for (let row = 0; row < count; row += 1) {
    const second = -side + cell * (row + 0.5);
    let [start, level] = [0, -1];
    for (let column = 0; column <= count; column += 1) {
      const value = column === count ? 0 : f([-side + cell * (column + 0.5), second]);
      const here = column === count ? -2 : levels.findLastIndex((least) => value > least);
      if (here === level) continue;
      if (level >= 0) {
        const [from, to] = [start, column].map((k) => x(-side + cell * k).toFixed(1));
        const [low, high] = [row, row + 1].map((k) => y(-side + cell * k).toFixed(1));
        parts[level].push(`M${from},${low}H${to}V${high}H${from}Z`);
      }
      [start, level] = [column, here];
    }
  }
  return parts.map((part) => part.join(""));
}

// What such areas are drawn with: a path for each level, by `step` less transparent than the last.
export function shadePaths(name, levels, faintest, step) {
  return levels.map((_, k) => {
    const shade = path(name);
    shade.style.opacity = faintest + step * k;
    return shade;
  });
}

// û of a planar layer, which keeps it invertible: wᵀû = m(a) = a + √(1 + a²) - 1 for a = wᵀu. With
// w = 0 it is u.
export function uHat(w, u) {
  const a = w[0] * u[0] + w[1] * u[1];
  const length = w[0] * w[0] + w[1] * w[1];
  const share = length > 0 ? a * a / (1 + Math.hypot(1, a)) / length : 0;
  return [u[0] + share * w[0], u[1] + share * w[1]];
}

// Drawings of which only the part inside a frame is seen, as { node, cut }.
export function clipped(...nodes) {
  const id = unique("clip");
  const rect = svg("rect");
  return {
    node: svg("g", {}, svg("clipPath", { id }, rect),
      svg("g", { "clip-path": `url(#${id})` }, ...nodes)),
    cut: ({ left, right, top, bottom }) =>
      set(rect, { x: left, y: top, width: right - left, height: bottom - top }),
  };
}
