"use strict";
// Draws every chart of the page from the specifications in #charts. A chart names its colours by token ("@before"), so
// switching between light and dark means drawing again with the other colours; `data-drawn` holds the theme a chart was
// last drawn in. Charts in a closed block have no width yet; they are drawn when the block is opened. Also: tables as text
// to be copied, and the browser over single samples.
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

  function element(tag, className, text) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  // Below a table: its text as Markdown, LaTeX or CSV, ready to be copied.
  function exporter(place) {
    const texts = data.exports[place.dataset.table];
    const area = element("textarea");
    area.readOnly = true;
    area.hidden = true;
    area.setAttribute("aria-label", "the table as text");
    for (const [kind, text] of texts) {
      const choice = element("button", "", kind);
      choice.type = "button";
      choice.addEventListener("click", () => {
        const close = !area.hidden && area.dataset.kind === kind;
        area.hidden = close;
        area.dataset.kind = kind;
        area.value = text;
        area.rows = Math.min(text.split("\n").length, 14);
        if (!close) area.select();
      });
      place.append(choice);
    }
    place.append(area);
  }

  function chooser(name, options) {
    const label = element("label", "", name + " ");
    const select = element("select");
    for (const [value, text] of options) {
      const option = element("option", "", text);
      option.value = value;
      select.append(option);
    }
    label.append(select);
    return [label, select];
  }

  // Text with every occurrence of the gold strings marked, capitals or not.
  function marked(parent, text, golds) {
    const wanted = golds.filter((gold) => gold.trim()).map((gold) => gold.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
    if (!wanted.length) return parent.append(text);
    text.split(new RegExp("(" + wanted.join("|") + ")", "i")).forEach((part, index) => {
      parent.append(index % 2 ? element("mark", "", part) : part);
    });
  }

  function outcome(answer) {
    return answer.score === null ? "failed" : answer.score === 1 ? "right" : answer.score === 0 ? "wrong" : "part";
  }

  // Single samples: choose among them, and look at one after the other.
  function browser(place) {
    const found = data.samples[place.dataset.samples];
    const [taskLabel, task] = chooser("Task", [["", "all"], ...found.tasks.map((item) => [item.name, item.title])]);
    const lengths = found.lengths.map((length) => [String(length), length.toLocaleString("en")]);
    const [lengthLabel, length] = chooser("Length", [["", "all"], ...lengths]);
    const outcomes = [["", "all"], ["right", "right"], ["part", "partly right"], ["wrong", "wrong"], ["failed", "failed"]];
    if (found.models.length > 1) outcomes.push(["differ", "models differ"]);
    const [outcomeLabel, wanted] = chooser("Outcome", outcomes);
    const back = element("button", "", "‹ previous");
    const next = element("button", "", "next ›");
    const counter = element("span", "counter");
    counter.setAttribute("aria-live", "polite");
    const view = element("div", "sample");
    let chosen = [];
    let at = 0;

    function fits(item) {
      if (task.value && item.task !== task.value) return false;
      if (length.value && String(item.length) !== length.value) return false;
      const outcomes = item.answers.map(outcome);
      if (wanted.value === "differ") return new Set(item.answers.map((answer) => answer.score)).size > 1;
      return !wanted.value || outcomes.includes(wanted.value);
    }

    function show() {
      counter.textContent = chosen.length ? (at + 1).toLocaleString("en") + " of " + chosen.length.toLocaleString("en") : "none";
      back.disabled = at <= 0;
      next.disabled = at >= chosen.length - 1;
      view.replaceChildren();
      if (!chosen.length) return;
      const item = chosen[at];
      const depth = item.depth === null ? "" : ", depth " + item.depth + " %";
      const tokens = item.tokens === null ? "" : item.tokens.toLocaleString("en") + " tokens of prompt" + depth;
      view.append(element("h3", "", item.id), element("p", "caption", tokens));
      view.append(element("h4", "", item.whole ? "Prompt" : "Prompt, beginning and end"));
      const prompt = element("pre", "text");
      prompt.append(item.head);
      if (!item.whole) prompt.append(element("span", "gap", " … left out … "));
      prompt.append(item.tail);
      view.append(prompt, element("h4", "", "Gold"), element("pre", "text", item.gold.join("\n")));
      for (const answer of item.answers) {
        const kind = outcome(answer);
        const title = element("h4", "", found.models.length > 1 ? "Output of " + found.models[answer.model] + " " : "Output ");
        const words = kind === "failed" ? "failed, counts as 0" : "score " + answer.score.toLocaleString("en", { maximumFractionDigits: 3 });
        const tone = { right: "pass", wrong: "fail", failed: "undecided", part: "plain" }[kind];
        title.append(element("span", "pill " + tone, words));
        const output = element("pre", "text");
        if (answer.error !== null) output.append("error: " + answer.error);
        else if (answer.output === "") output.append(element("span", "gap", "(nothing)"));
        else marked(output, String(answer.output), item.gold);
        view.append(title, output);
        const rule = [answer.scorer, answer.finish && "ended by " + answer.finish].filter(Boolean).join(", ");
        if (rule) view.append(element("p", "caption", rule));
      }
    }

    function choose() {
      chosen = found.items.filter(fits);
      at = 0;
      show();
    }

    for (const select of [task, length, wanted]) select.addEventListener("change", choose);
    back.type = next.type = "button";
    back.addEventListener("click", () => { at -= 1; show(); });
    next.addEventListener("click", () => { at += 1; show(); });
    const bar = element("div", "choices");
    bar.append(taskLabel, lengthLabel, outcomeLabel, back, next, counter);
    place.append(bar, view);
    choose();
  }

  for (const place of document.querySelectorAll(".export")) exporter(place);
  for (const place of document.querySelectorAll(".browser")) browser(place);

  button.addEventListener("click", () => use(root.dataset.theme === "dark" ? "light" : "dark"));
  preferred.addEventListener("change", (event) => use(event.matches ? "dark" : "light"));
  for (const block of document.querySelectorAll("details")) {
    block.addEventListener("toggle", () => block.open && drawWithin(block));
  }
  use(preferred.matches ? "dark" : "light");
})();
