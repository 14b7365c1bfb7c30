"use strict";
// Draws every chart of the page from the specifications in #charts. A chart names its colours by token ("@before"), so
// switching between light and dark means drawing again with the other colours; `data-drawn` holds the theme a chart was
// last drawn in. Charts in a closed block have no width yet; they are drawn when the block is opened.
(function () {
  const data = JSON.parse(document.getElementById("charts").textContent);
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const preferred = window.matchMedia("(prefers-color-scheme: dark)");
  const views = new Map();

  function coloured(value, colours) {
    if (typeof value === "string") return value[0] === "@" ? colours[value.slice(1)] || value : value;
    if (Array.isArray(value)) return value.map((item) => coloured(item, colours));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, coloured(item, colours)]));
    }
    return value;
  }

  function hidden(element) {
    const block = element.closest("details");
    return block !== null && !block.open;
  }

  async function draw(element) {
    const theme = root.dataset.theme;
    if (element.dataset.drawn === theme) return;
    element.dataset.drawn = theme;
    const spec = coloured({ ...data.specs[element.id], width: "container", config: data.config }, data.themes[theme]);
    const options = { mode: "vega-lite", renderer: "svg", actions: false, tooltip: { theme } };
    try {
      const old = views.get(element.id);
      if (old) old.finalize();
      views.set(element.id, await window.vegaEmbed(element, spec, options));
    } catch (error) {
      element.dataset.drawn = "failed";
      const words = document.createElement("p");
      words.className = "broken";
      words.textContent = "This chart could not be drawn: " + error.message;
      element.replaceChildren(words);
    }
  }

  function drawWithin(parent) {
    const charts = Array.from(parent.querySelectorAll(".chart")).filter((element) => !hidden(element));
    return Promise.all(charts.map(draw));
  }

  async function use(theme) {
    root.dataset.theme = theme;
    button.textContent = theme === "dark" ? "Light" : "Dark";
    await drawWithin(document);
    root.dataset.charts = "drawn";
  }

  button.addEventListener("click", () => use(root.dataset.theme === "dark" ? "light" : "dark"));
  preferred.addEventListener("change", (event) => use(event.matches ? "dark" : "light"));
  for (const block of document.querySelectorAll("details")) {
    block.addEventListener("toggle", () => block.open && drawWithin(block));
  }
  use(preferred.matches ? "dark" : "light");
})();
