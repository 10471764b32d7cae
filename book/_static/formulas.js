// Sets a displayed formula that is wider than its box anew, with more lines, and marks what still
// scrolls. On a phone a derivation's reasons stand under its lines from the start.
//
// The levels of breaking, each of which holds for the ones behind it:
//   1  a reason stands under its line, not beside it,
//   2  a line ends before each relation, such as =, and between formulas in a row,
//   3  and before each + and -.
// What is still a little too wide is set smaller, though never so small that it is hard to read.
// This script runs before MathJax.
globalThis.nfbookFormulas = (() => {
  const RELATIONS = /^(?:[=<>]|\\(?:le|ge|leq|geq|ne|approx|propto|sim|simeq|equiv|to|mapsto|iff|implies|Longleftrightarrow|Longrightarrow|Rightarrow|longrightarrow|rightarrow|succeq|preceq)(?![a-zA-Z]))$/;
  const SIGNS = /^(?:[+-]|\\pm|\\mp)$/;
  const SPACES = /^\\(?:quad|qquad)$/;
  const OPENS = /^(?:[{([]|\\(?:\{|left|begin|lvert|lVert|langle|lfloor|lceil))$/;
  const CLOSES = /^(?:[})\]]|\\(?:\}|right|end|rvert|rVert|rangle|rfloor|rceil))$/;
  const DEEPEST = 3;
  const SMALLEST = 0.8; // of the usual size
  const SHORT = 8; // a left side of at most so many symbols shares its line with what follows

  // The tokens of a formula, each with the depth of brackets and environments around it.
  function tokens(tex) {
    let depth = 0;
    return (tex.match(/\\(?:begin|end)\s*\{[^}]*\}|\\(?:left|right)\s*(?:\\[a-zA-Z]+|\\?.)|\\[a-zA-Z]+\*?|\\[^]|[^\\]/g) ?? []).map((text) => {
      const bare = text.match(/^\\(?:begin|end|left|right)(?![a-z])/)?.[0] ?? text;
      if (CLOSES.test(bare)) depth -= 1;
      const token = { text, depth };
      if (OPENS.test(bare)) depth += 1;
      return token;
    });
  }

  // Cuts a formula at the tokens outside all brackets that `isCut` accepts, given the token before
  // each; a token that `isDropped` accepts too belongs to neither part.
  function cut(tex, isCut, isDropped = isCut) {
    const parts = [""];
    let before = null;
    for (const { text, depth } of tokens(tex)) {
      const here = depth === 0 && isCut(text, before);
      if (here) parts.push("");
      if (!here || !isDropped(text)) parts[parts.length - 1] += text;
      if (text.trim()) before = text;
    }
    return parts;
  }

  const symbols = (tex) =>
    tex.replace(/\\(?:math[a-z]+|boldsymbol|operatorname|text|[td]?frac|[bB]igg?[lrm]?|[,;:! ])(?![a-zA-Z])/g, "")
      .replace(/\\[a-zA-Z]+/g, "x")
      .replace(/[\s{}^_]/g, "").length;

  // MathJax takes a sign after a \quad for that of a number, and sets it close to what follows. As
  // the second line of a sum it needs something before it.
  const AFTER_SPACE = /(&\s*(?:\\q?quad\s*)+)(?=[+-])/g;
  const spaced = (tex) => tex.replace(AFTER_SPACE, "$1{}");
  const unspaced = (tex) => tex.replace(/(\\q?quad\s*)\{\}(?=[+-])/g, "$1");

  // A formula's lines: [cells before the reason, reason].
  function lines(tex) {
    let body = unspaced(tex.trim());
    for (const name of ["split", "aligned", "gathered"]) {
      const around = body.match(`^\\\\begin\\{${name}\\}([^]*)\\\\end\\{${name}\\}$`);
      if (around && !around[1].includes(`\\begin{${name}}`)) body = around[1].trim();
    }
    return cut(body, (text) => text === "\\\\").map((line) => {
      const cells = cut(line.replace(/^\s*\[[^\]]*\]/, ""), (text) => text === "&").map((cell) => cell.trim());
      const hasReason = cells.length === 4 && !cells[2];
      return { cells: hasReason ? cells.slice(0, 2) : cells, reason: hasReason ? cells[3] : "" };
    }).filter(({ cells, reason }) => cells.some(Boolean) || reason);
  }

  // The parts of one line, to be set under one another. Each of several formulas in a row begins a
  // line of its own; what goes on with one is indented. A short left side keeps its relation.
  function parts(line, level, isFirst) {
    const isSign = (text, before) => level > 2 && SIGNS.test(text)
      && before !== null && !RELATIONS.test(before) && before !== ",";
    return cut(line, (text) => SPACES.test(text)).filter((formula) => formula.trim()).flatMap((formula) => {
      const found = cut(formula, (text, before) => RELATIONS.test(text) || isSign(text, before), () => false)
        .map((part) => part.trim()).filter(Boolean);
      const goesOn = (part) => RELATIONS.test(tokens(part)[0].text) || SIGNS.test(tokens(part)[0].text);
      if (found.length > 1 && !goesOn(found[0]) && symbols(found[0]) <= SHORT) found.splice(0, 2, `${found[0]} ${found[1]}`);
      return found.map((part, k) => (k || (!isFirst && goesOn(part)) ? `\\quad ${part}` : part));
    });
  }

  // The same formula with its lines broken as the level says.
  function broken(tex, level) {
    const all = lines(tex);
    if (level === 0 || (level === 1 && !all.some(({ reason }) => reason))) return tex;
    const rows = all.flatMap(({ cells, reason }, row) => {
      const [first, ...more] = level === 1 ? [cells.join(" & ")] : parts(cells.map((cell) => cell || "\\quad").join(" "), level, row === 0);
      const under = reason ? [`\\quad {\\small ${reason}}`] : [];
      if (level === 1) return [first, ...under.map((text) => `& ${text}`)];
      return [first, ...more, ...under].map((text) => `& ${text}`);
    });
    return `\\begin{aligned}${rows.join(" \\\\ ")}\\end{aligned}`;
  }

  // What scrolls when a formula is too wide: the part beside its number.
  const scroller = (box) => box.querySelector(":scope > mjx-container") ?? box;
  // The width that is hidden, if positive. A formula's copy for screen readers does not count.
  function hidden(box) {
    const part = scroller(box);
    const formula = part.querySelector(":scope > mjx-math");
    return (formula?.getBoundingClientRect().width ?? part.scrollWidth) - part.clientWidth - 1;
  }

  const original = new Map();

  function rewrite(box, level) {
    const text = [...box.childNodes].find((node) =>
      node.nodeName === "MJX-CONTAINER" || node.textContent.trim().startsWith("\\["));
    if (!original.has(box)) {
      original.set(box, text.nodeName === "MJX-CONTAINER"
        ? MathJax.startup.document.getMathItemsWithin(box)[0].math
        : text.textContent.trim().slice(2, -2));
    }
    globalThis.MathJax?.typesetClear?.([box]);
    text.replaceWith(`\\[${spaced(broken(original.get(box), level))}\\]`);
    box.dataset.level = level;
  }

  // Breaks what is too wide, level by level.
  async function fit(boxes) {
    for (let level = 1; level <= DEEPEST; level += 1) {
      const wide = boxes.filter((box) => hidden(box) > 0 && (box.dataset.level ?? 0) < level);
      if (!wide.length) continue;
      wide.forEach((box) => rewrite(box, level));
      await MathJax.typesetPromise(wide);
    }
    boxes.forEach(shrink);
    boxes.forEach(mark);
  }

  // Sets a formula smaller if it fits then, or nearly.
  function shrink(box) {
    box.style.fontSize = "";
    const seen = scroller(box).clientWidth;
    const share = (seen - 1) / (seen + hidden(box) + 1);
    if (hidden(box) > 0) box.style.fontSize = `${100 * Math.max(share, SMALLEST)}%`;
  }

  // Says at which of its edges a box hides something; the style sheet lets that edge fade.
  function mark(box) {
    const part = scroller(box);
    part.classList.toggle("more-before", hidden(box) > 0 && part.scrollLeft > 1);
    part.classList.toggle("more-behind", hidden(box) > 0 && part.scrollLeft < hidden(box));
  }

  function start() {
    const formulas = [...document.querySelectorAll("div.math")];
    formulas.forEach((box) => box.childNodes.forEach((node) => {
      if (node.nodeType === Node.TEXT_NODE) node.textContent = spaced(node.textContent);
    }));
    if (matchMedia("(max-width: 576px)").matches) {
      formulas.filter((box) => box.textContent.includes("&&")).forEach((box) => rewrite(box, 1));
    }
    const boxes = "mjx-container, .pst-scrollable-table-container";
    document.addEventListener("scroll", ({ target }) => target.matches?.(boxes) && mark(target), {
      capture: true, passive: true,
    });
    addEventListener("load", async () => {
      await globalThis.MathJax?.startup?.promise;
      // It reports each box at once, and again when it is unfolded or the window's width changes.
      const watch = new ResizeObserver((entries) => {
        const changed = entries.map(({ target }) => target);
        changed.filter((box) => !box.matches("div.math")).forEach(mark);
        const shown = changed.filter((box) => box.matches("div.math"));
        if (shown.length) MathJax.startup.promise = MathJax.startup.promise.then(() => fit(shown));
      });
      const others = document.querySelectorAll("span.math > mjx-container, .pst-scrollable-table-container");
      [...formulas, ...others].forEach((box) => watch.observe(box));
    });
  }

  start();
  return { broken, fit };
})();
