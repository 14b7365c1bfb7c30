"""The page in a real browser: every chart is drawn, on a desk and on a phone, and nothing is asked of the network."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.report.fabricate_evals import GRID, write_eval

from lengthwise.report import build_page, load_groups

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    # Time runs as fast as the page works, and the page is dumped when this much of it has passed.
    "--virtual-time-budget=20000",
)
# Opens every folded block (their charts are drawn on opening), waits until every chart is drawn, and tells the page
# around it what a reader would see.
PROBE = """<script>
for (const block of document.querySelectorAll("details")) block.open = true;
if (window.name === "night") document.getElementById("theme").click();
const waiting = setInterval(() => {
  const root = document.documentElement, charts = Array.from(document.querySelectorAll(".chart"));
  if (!charts.every((chart) => chart.querySelector("svg, .broken"))) return;
  clearInterval(waiting);
  const right = (element) => element.getBoundingClientRect().right;
  const browser = document.querySelector(".browser"), samples = [];
  if (browser) {
    const words = (name) => browser.querySelector(name).innerText;
    const look = () => samples.push([words(".counter"), words(".sample")]);
    const [task, length, outcome] = browser.querySelectorAll("select");
    look();
    Array.from(browser.querySelectorAll("button")).at(-1).click();
    look();
    outcome.value = "failed";
    outcome.dispatchEvent(new Event("change"));
    look();
    document.querySelector(".export button").click();
  }
  window.parent.postMessage({
    name: window.name,
    viewport: root.clientWidth,
    theme: root.dataset.theme,
    samples: samples,
    copied: document.querySelector(".export textarea") && document.querySelector(".export textarea").value,
    overflow: root.scrollWidth - root.clientWidth,
    requests: performance.getEntriesByType("resource").length,
    drawn: charts.map((chart) => [chart.id, chart.dataset.drawn]),
    text: charts.map((chart) => chart.textContent).join(" "),
    widest: Math.max(...charts.map((chart) => right(chart.querySelector("svg, .broken")) - right(chart))),
  }, "*");
}, 50);
</script>"""
# The same page at two widths. Frames, because a window of Chromium is never narrower than 500 pixels.
AROUND = """<!doctype html><pre id="found"></pre>
<iframe name="desk" src="report.html" width="1280" height="900" frameborder="0"></iframe>
<iframe name="night" src="report.html" width="360" height="800" frameborder="0"></iframe>
<script>
const found = {};
addEventListener("message", (event) => {
  found[event.data.name] = event.data;
  document.getElementById("found").textContent = JSON.stringify(found);
});
</script>"""

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine to open the page with")


@pytest.fixture(scope="module")
def seen(full_page: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the probe found in the frames "desk" (1280 pixels, light) and "night" (360 pixels, dark)."""
    return look(full_page, tmp_path_factory.mktemp("browser"))


@pytest.fixture(scope="module")
def seen_evals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same of a page with two evaluations."""
    folder = tmp_path_factory.mktemp("browser-evals")
    write_eval(folder / "a", tasks=GRID, num_samples=4, failing=3)
    write_eval(folder / "b", tasks=GRID, num_samples=4, seed=1, model="state-spaces/mamba2attn-2.7b")
    return look(build_page(load_groups([folder / "a", folder / "b"])), folder)


def look(full_page: str, folder: Path) -> dict[str, Any]:
    """Open a page in both frames; what the probe says of each."""
    assert BROWSER is not None
    # The libraries hold "</body>" in a string; the last one is the page's own.
    head, end, tail = full_page.rpartition("</body>")
    (folder / "report.html").write_text(head + PROBE + end + tail, encoding="utf-8")
    (folder / "around.html").write_text(AROUND, encoding="utf-8")
    command = [BROWSER, *FLAGS, f"--user-data-dir={folder / 'profile'}", "--window-size=1400,1800", "--dump-dom"]
    done = subprocess.run(
        [*command, (folder / "around.html").as_uri()], capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr
    text = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert text is not None
    assert text[1], "no chart page answered; " + done.stderr[-2000:]
    return dict(json.loads(html.unescape(text[1])))


@pytest.mark.parametrize(("frame", "width", "theme"), [("desk", 1280, "light"), ("night", 360, "dark")])
def test_every_chart_is_drawn(seen: dict[str, Any], frame: str, width: int, theme: str) -> None:
    found = seen[frame]
    assert (found["viewport"], found["theme"]) == (width, theme)
    assert len(found["drawn"]) == 17
    assert [name for name, drawn in found["drawn"] if drawn != theme] == []
    assert "could not be drawn" not in found["text"]
    for words in ("training length 256", "position in tokens", "perplexity"):
        assert words in found["text"]


@pytest.mark.parametrize("frame", ["desk", "night"])
def test_nothing_scrolls_sideways(seen: dict[str, Any], frame: str) -> None:
    assert seen[frame]["overflow"] == 0
    assert seen[frame]["widest"] <= 1  # a pixel of rounding


@pytest.mark.parametrize("frame", ["desk", "night"])
def test_nothing_is_asked_of_the_network(seen: dict[str, Any], frame: str) -> None:
    assert seen[frame]["requests"] == 0


@pytest.mark.parametrize("frame", ["desk", "night"])
def test_evaluations_are_drawn_and_fit(seen_evals: dict[str, Any], frame: str) -> None:
    found = seen_evals[frame]
    assert len(found["drawn"]) == 1 + 3 + 2 + 6
    assert [name for name, drawn in found["drawn"] if drawn != found["theme"]] == []
    assert (found["overflow"], found["requests"]) == (0, 0)
    assert found["widest"] <= 1


def test_single_samples_can_be_chosen(seen_evals: dict[str, Any]) -> None:
    first, second, failed = seen_evals["desk"]["samples"]
    total = len(GRID) * 3 * 4
    assert [counter for counter, _ in (first, second, failed)] == [f"1 of {total}", f"2 of {total}", "1 of 3"]
    assert "depth=0/1024/00000" in first[1]
    assert "depth=0/1024/00001" in second[1]
    assert "error: out of memory" in failed[1]
    assert "Output of mamba2attn-2.7b" in failed[1]


def test_a_table_can_be_copied_as_text(seen_evals: dict[str, Any]) -> None:
    assert seen_evals["desk"]["copied"].startswith("### Mean of 9 tasks by length")
