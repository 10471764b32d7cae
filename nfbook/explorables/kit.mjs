// What the interactive figures share: elements, sliders, handles. A figure's module names what it
// needs in one import statement; the package puts this text in its place, so that a page or a
// notebook receives a single module.

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

export function clamp(value, low, high) {
  return Math.min(high, Math.max(low, value));
}

// A number as the book prints it: with a minus sign, not a hyphen.
export function format(value, digits) {
  const text = value.toFixed(digits);
  return (Number(text) === 0 ? text.replace("-", "") : text).replace("-", "\u2212");
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

// Calls `draw` with the width of the node now and whenever it changes; returns how to stop.
export function onWidth(node, draw) {
  const observer = new ResizeObserver(([entry]) => {
    if (entry.contentRect.width > 0) draw(entry.contentRect.width);
  });
  observer.observe(node);
  return () => observer.disconnect();
}

// Three to six round numbers from 0 to `high`.
export function ticks(high) {
  const rough = high / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const digits = Math.max(0, -Math.floor(Math.log10(step)));
  const count = Math.floor(high / step + 1e-9);
  return Array.from({ length: count + 1 }, (_, k) => (k * step).toFixed(digits));
}
