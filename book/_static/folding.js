// Opens what is folded where a link leads into it, and all optional sections for the printer.
(() => {
  function openAround() {
    const place = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!place) return;
    for (let box = place.closest("details"); box; box = box.parentElement.closest("details")) {
      box.open = true;
    }
    place.scrollIntoView();
  }

  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("section.optional > details:not([open])")];
    for (const box of opened) box.open = true;
  });
  addEventListener("afterprint", () => {
    for (const box of opened) box.open = false;
  });
  addEventListener("hashchange", openAround);
  openAround();
})();
