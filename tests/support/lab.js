// What JupyterLab makes of an opened notebook; test_jupyterlab.py evaluates it and asserts.
async (path) => {
  const panel = [...jupyterapp.shell.widgets("main")].find((w) => w.context?.path === path);
  const notebook = panel.content;
  const cells = notebook.widgets;
  const markdown = cells.filter((cell) => cell.model.type === "markdown");
  // JupyterLab renders a cell when it comes into view, and each time works through the whole page.
  // Here all cells are parsed first, and worked through once.
  await Promise.all(markdown.map((cell) => cell.updateFragmentMDAST()));
  markdown[0].render();
  const done = () => markdown.every((cell) => cell.mystModel.mdast);
  while (!done()) await new Promise((later) => setTimeout(later, 50));

  const nodes = [];
  const walk = (node) => {
    nodes.push(node);
    (node.children ?? []).forEach(walk);
  };
  markdown.forEach((cell) => walk(cell.mystModel.mdast));
  const text = (node) => node.value ?? (node.children ?? []).map(text).join("");
  const targets = new Set(nodes.map((node) => node.html_id ?? node.identifier));
  const outputs = cells.flatMap((cell) => {
    const list = cell.model.outputs;
    return list ? [...Array(list.length).keys()].map((i) => list.get(i).data) : [];
  });
  const shown = outputs.map((data) => [notebook.rendermime.preferredMimeType(data, "ensure"), data]);

  return {
    changed: panel.context.model.dirty,
    unresolved: nodes
      .filter((n) => (n.type === "crossReference" && !n.resolved) || (n.type === "cite" && n.error))
      .map((n) => n.label),
    lost: nodes
      .filter((n) => n.type === "link" && n.url.startsWith("#") && !targets.has(n.url.slice(1)))
      .map((n) => n.url),
    errors: nodes.filter((n) => n.error || /Error$/.test(n.type)).map((n) => n.message ?? n.type),
    // What MyST does not know it leaves as it was.
    source: nodes
      .filter((n) => n.type === "text" && /\{[\w:-]+\}$|^:{3,}|<!--|-->/.test(n.value))
      .map((n) => n.value),
    directives: nodes.filter((n) => n.type === "code" && /^\{/.test(n.lang ?? "")).map((n) => n.lang),
    references: nodes.filter((n) => n.type === "crossReference").map((n) => [n.label, text(n)]),
    numbers: nodes
      .filter((n) => n.type === "math")
      .map((n) => n.enumerator ?? /\\tag\{(.*?)\}/.exec(n.value)?.[1])
      .filter(Boolean),
    boxes: nodes.filter((n) => n.type === "proof" && n.enumerator).map((n) => [n.label, n.enumerator]),
    lines: shown
      .filter(([, data]) => String(data["text/plain"] ?? "").startsWith("✓ eq-"))
      .map(([kind, data]) => (kind === "text/html" ? String(data[kind]) : kind)),
    preparing: cells.find((cell) => cell.model.type === "code").inputHidden,
    folded: markdown.filter((cell) => cell.headingCollapsed).map((cell) => cell.model.id),
    hidden: cells.filter((cell) => cell.isHidden).map((cell) => cell.model.id),
  };
}
