"use strict";
// Draws every chart of the page from the specifications in #charts. A chart names its colours by token ("@before"), so
// switching between light and dark means drawing again with the other colours. Charts in a closed block have no width
// yet; they are drawn when the block is opened.
(function () {
  const data = JSON.parse(document.getElementById("charts").textContent);
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const preferred = window.matchMedia("(prefers-color-scheme: dark)");
  const views = new Map();
  let generation = 0;

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

  async function draw(element, colours, mine) {
    const spec = coloured({ ...data.specs[element.id], width: "container", config: data.config }, colours);
    const options = { mode: "vega-lite", renderer: "svg", actions: false, tooltip: { theme: root.dataset.theme } };
    const old = views.get(element.id);
    try {
      if (old) old.finalize();
      const result = await window.vegaEmbed(element, spec, options);
      if (mine !== generation) return;
      views.set(element.id, result);
      element.dataset.drawn = "yes";
    } catch (error) {
      element.dataset.drawn = "failed";
      const words = document.createElement("p");
      words.className = "broken";
      words.textContent = "This chart could not be drawn: " + error.message;
      element.replaceChildren(words);
    }
  }

  async function drawAll() {
    const mine = ++generation;
    const colours = data.themes[root.dataset.theme];
    const charts = Array.from(document.querySelectorAll(".chart")).filter((element) => !hidden(element));
    await Promise.all(charts.map((element) => draw(element, colours, mine)));
    root.dataset.charts = "drawn";
  }

  function use(theme) {
    root.dataset.theme = theme;
    button.textContent = theme === "dark" ? "Light" : "Dark";
    drawAll();
  }

  button.addEventListener("click", () => use(root.dataset.theme === "dark" ? "light" : "dark"));
  preferred.addEventListener("change", (event) => use(event.matches ? "dark" : "light"));
  document.querySelectorAll("details").forEach((block) => block.addEventListener("toggle", () => block.open && drawAll()));
  use(preferred.matches ? "dark" : "light");
})();
