// Draws the interactive figures of a static page, from a server or from a file, with no kernel.
//
// A figure's place is <div class="nfbook-explorable" data-module="coin"> and holds its values as
// JSON. The module itself, the same that a notebook's widget runs, stands as text in
// window.nfbookModules, put there by _static/explorables/coin.js. All of that precedes this script.
(() => {
  // What a module sees of a widget's model, without the kernel behind it.
  function makeModel(values) {
    const listeners = [];
    const emit = (event, ...details) => {
      for (const entry of [...listeners]) if (entry.event === event) entry.listener(...details);
    };
    const model = {
      get: (name) => values[name],
      set(name, value) {
        if (Object.is(values[name], value)) return;
        values[name] = value;
        emit(`change:${name}`, model, value);
        emit("change", model);
      },
      save_changes() {},
      on: (event, listener) => void listeners.push({ event, listener }),
      off(event, listener) {
        const keep = listeners.filter((entry) =>
          (event && entry.event !== event) || (listener && entry.listener !== listener));
        listeners.splice(0, listeners.length, ...keep);
      },
    };
    return model;
  }

  const loaded = {};

  function load(name) {
    const { esm, css } = window.nfbookModules[name];
    document.head.append(Object.assign(document.createElement("style"), { textContent: css }));
    // Browsers refuse to import a module from a file, but not from text.
    return import(URL.createObjectURL(new Blob([esm], { type: "text/javascript" })));
  }

  async function mount(place) {
    const name = place.dataset.module;
    const values = JSON.parse(place.querySelector("script").textContent);
    const { default: figure } = await (loaded[name] ??= load(name));
    const el = document.createElement("div");
    place.replaceChildren(el);
    figure.render({ model: makeModel(values), el });
  }

  for (const place of document.querySelectorAll(".nfbook-explorable")) {
    mount(place).catch((error) => console.error("nfbook:", error));
  }
})();
