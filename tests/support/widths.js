// Unfolds whatever a page folds away, and returns what is wider than its box; test_width.py
// evaluates it and asserts.
async () => {
  const all = (selector) => [...document.querySelectorAll(`.bd-article ${selector}`)];
  all("details").forEach((box) => { box.open = true; });
  all(".toggle-hidden").forEach((box) => box.classList.remove("toggle-hidden"));

  // A formula that is set anew hangs on MathJax's promise.
  let settled;
  do {
    settled = window.MathJax?.startup?.promise;
    await settled;
    for (let k = 0; k < 3; k += 1) await new Promise((done) => requestAnimationFrame(done));
  } while (settled !== window.MathJax?.startup?.promise);

  const isWide = (box) => box.scrollWidth > box.clientWidth + 1;
  // Beside a formula's number, what holds the formula scrolls.
  const part = (formula) => formula.querySelector(":scope > mjx-container");
  const width = (box) => box.getBoundingClientRect().width;
  const start = (text) => text.trim().replace(/\s+/g, " ").slice(0, 60);
  const tex = (box) => start(MathJax.startup.document.getMathItemsWithin(box)[0]?.math ?? "");
  const name = (box) => box.id.replace("equation-", "") || tex(box);
  const formulas = all("div.math");
  return {
    displayed: formulas.length,
    // Broken into lines by the page, because it was too wide as it was written.
    broken: formulas.filter((box) => box.dataset.level > 0).map(name),
    scrolling: formulas.filter((formula) => isWide(part(formula))).map(name),
    // How large formulas are, as shares of the usual size.
    sizes: formulas.map((box) => parseFloat(getComputedStyle(box).fontSize)
      / parseFloat(getComputedStyle(box.parentElement).fontSize)),
    unmarked: formulas.map(part).filter((box) => isWide(box) && !box.matches(".more-behind"))
      .map((box) => name(box.parentElement)),
    // Marked as if they went on, although all of them is to be seen.
    falselyMarked: all("mjx-container:is(.more-before, .more-behind)")
      .filter((box) => width(box.querySelector("mjx-math")) <= width(box)).map((box) => box.textContent),
    inline: all("span.math > mjx-container")
      .filter((formula) => width(formula.querySelector("mjx-math")) > width(formula) + 1).map((formula) => tex(formula.parentElement)),
    tables: all("table").filter((table) => isWide(table) || isWide(table.parentElement))
      .map((table) => start(table.textContent)),
  };
}
