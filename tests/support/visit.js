// Reads a rendered page the way its reader does, and returns the facts that are asked for by name;
// test_site.py evaluates it and asserts.
async (wanted) => {
  if (window.MathJax?.startup?.promise) await MathJax.startup.promise;

  // A colour is read where it ends, not on its way there.
  const still = document.getElementById("still") ?? document.createElement("style");
  if (!still.id) {
    still.id = "still";
    still.textContent = "* { transition: none !important; animation: none !important; }";
    document.head.append(still);
  }
  // Figures follow a new width in the frame after it.
  for (let k = 0; k < 2; k++) await new Promise((done) => requestAnimationFrame(done));

  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const isShown = (element) =>
    element.checkVisibility({ opacityProperty: true, visibilityProperty: true });

  // Text outside code and formulas.
  const article = document.querySelector("article") ?? document.body;
  const prose = () => {
    const copy = article.cloneNode(true);
    all("pre, code, script, style, mjx-container", copy).forEach((e) => e.remove());
    return copy.textContent;
  };

  // The contrast of a text with what lies behind it (WCAG 2.2, 1.4.3). The page's colours are
  // drawn onto a canvas, which understands every notation that CSS has for them.
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const remember = (known, compute) => (key) => {
    if (!known.has(key)) known.set(key, compute(key));
    return known.get(key);
  };
  const rgba = remember(new Map(), (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  });
  const over = ([r, g, b, a], back) =>
    [r, g, b].map((v, i) => v * a + back[i] * (1 - a)).concat(1);
  const background = remember(new WeakMap(), (element) =>
    over(rgba(getComputedStyle(element).backgroundColor),
      element.parentElement ? background(element.parentElement) : [255, 255, 255, 1]));
  const luminance = (color) =>
    color.slice(0, 3)
      .map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
      .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const contrast = (element) => {
    const back = background(element);
    const text = over(rgba(getComputedStyle(element).color), back);
    const [dark, light] = [luminance(text), luminance(back)].sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  };
  const faint = () => {
    const owners = new Set();
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      if (node.data.trim()) owners.add(node.parentElement);
    }
    return [...owners]
      // Marks that only repeat what the words beside them say are hidden from screen readers.
      .filter((e) => !e.closest("mjx-assistive-mml, svg, script, style, [aria-hidden=true]"))
      .filter(isShown)
      .map((e) => ({ text: e.textContent.trim().slice(0, 40), ratio: contrast(e), large: parseFloat(getComputedStyle(e).fontSize) >= 24 }))
      .filter(({ ratio, large }) => ratio < (large ? 3 : 4.5))
      .map(({ text, ratio }) => `${ratio.toFixed(2)}: ${text}`);
  };

  const facts = {
    title: () => document.title,
    formulas: () => all(".math").length,
    unrendered: () => all(".math").filter((e) => !e.querySelector("mjx-container")).map((e) => e.textContent),
    formulaErrors: () => all("mjx-merror, [data-mjx-error]").map((e) => e.textContent),
    numbered: () => all(".eqno").length,
    prose,
    ids: () => all("[id]").map((e) => e.id),
    links: () => all("a[href]").map((e) => e.getAttribute("href")),
    imagesWithoutAlt: () => all("img").filter((e) => !e.getAttribute("alt")).map((e) => e.src),
    brokenImages: () => all("img").filter((e) => isShown(e) && e.complete && !e.naturalWidth).map((e) => e.src),
    // Font Awesome draws a question mark of circles for an icon that it does not have.
    icons: () => all("svg.svg-inline--fa").length,
    missingIcons: () => all("svg.svg-inline--fa").filter((e) => e.querySelector("circle") || !e.querySelector("path")).map((e) => e.dataset.icon),
    searchBoxes: () => all(".search-button__button").filter(isShown).length,
    explorables: () => all(".nfbook-explorable").length,
    drawnExplorables: () => all(".nfbook-explorable svg, .nfbook-explorable canvas").length,
    // Cut off at the window's edge, with no way to scroll there.
    cutOff: () => all("article *")
      .filter((e) => e.getBoundingClientRect().right > innerWidth + 1 && isShown(e))
      .filter((e) => {
        for (let a = e; a && a !== document.body; a = a.parentElement) {
          if (["auto", "scroll"].includes(getComputedStyle(a).overflowX)) return false;
        }
        return !e.closest("mjx-assistive-mml, .visually-hidden");
      })
      .map((e) => `${e.tagName}: ${e.textContent.trim().slice(0, 40)}`),
    widthOfPage: () => document.documentElement.scrollWidth,
    widthOfWindow: () => document.documentElement.clientWidth,
    faint,
    faces: () => [...document.fonts].filter((face) => face.status === "loaded").map((face) => face.family.replaceAll('"', "")),
    // Captions that are paler or lighter than the text around them.
    paleCaptions: () => all("figcaption", article)
      .filter((e) => getComputedStyle(e).fontWeight !== "400" || getComputedStyle(e).color !== getComputedStyle(article).color)
      .map((e) => e.textContent.trim().slice(0, 40)),
    // Numbers that a line's end may part from their per cent sign.
    partedPercents: () => all("p, li, figcaption, td", article)
      .filter((e) => !e.closest(".nfbook-explorable"))
      .flatMap((e) => e.textContent.match(/.{0,30}\d %/g) ?? []),
    // Paragraphs of the text that are larger or smaller than those of the page's own level.
    otherSizes: () => all("section > p, section.optional p", article)
      .filter((e) => !e.closest("aside, .admonition, .cell, .chapter, figure, table, .nfbook-explorable"))
      .filter((e) => getComputedStyle(e).fontSize !== getComputedStyle(article).fontSize)
      .map((e) => `${getComputedStyle(e).fontSize}: ${e.textContent.trim().slice(0, 40)}`),
    headings: () => ["h1", "h2", "h3"].map((name) => article.querySelector(name)).filter(Boolean)
      .map((e) => [parseFloat(getComputedStyle(e).fontSize), Number(getComputedStyle(e).fontWeight)]),
    bells: () => all(".proof > .admonition-title")
      .filter((e) => getComputedStyle(e, "::after").content !== "none").map((e) => e.textContent),
    ledgerRows: () => all(".ledger tbody tr").map((e) => [e.cells[0].textContent.trim(), e.cells[1].textContent.trim(), getComputedStyle(e).display]),
    chapterCards: () => all(".chapter").map((e) => ({ pictures: all("img", e).length, links: all("a", e).map((a) => a.getAttribute("href")) })),
    sections: () => all("h2", article).map((e) => e.id || e.parentElement.id),
  };
  return Object.fromEntries(wanted.map((name) => [name, facts[name]()]));
}
