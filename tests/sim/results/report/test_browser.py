"""The page of a report in a browser: whole at any width, silent, and loading nothing."""

import html as markup
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sim.results.report.page import POLICY

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
WIDTHS = (400, 1280)
PROBE = """<script>addEventListener("load", () => {
  const root = document.documentElement, images = [...document.images];
  const tables = [...document.querySelectorAll(".wide")];
  const style = getComputedStyle(document.body);
  const order = () => [...document.querySelector("table").tBodies[0].rows].map(row => row.cells[0].textContent);
  const before = order(), head = document.querySelectorAll("th button")[1];
  head.click();
  const up = order(), sorted = head.parentElement.getAttribute("aria-sort");
  head.click();
  parent.postMessage(JSON.stringify({
    width: root.clientWidth, needs: root.scrollWidth, height: root.scrollHeight,
    images: images.map(i => i.complete ? Math.min(i.naturalWidth, i.naturalHeight) : 0),
    over: [...document.querySelectorAll("body *")].filter(e => !e.closest(".wide") &&
      e.getBoundingClientRect().right > root.clientWidth + 1).map(e => e.tagName + ": " + e.textContent.slice(0, 40)),
    unscrollable: tables.filter(e => e.scrollWidth > e.clientWidth + 1 &&
      getComputedStyle(e).overflowX != "auto").length,
    scrolled: tables.filter(e => e.scrollWidth > e.clientWidth + 1).length,
    hints: [...document.querySelectorAll(".hint")].filter(e => e.offsetHeight > 0).length,
    lost: tables.filter(e => { e.scrollLeft = 9999; const first = e.querySelector("tbody tr:last-child td");
      return Math.abs(first.getBoundingClientRect().left - e.getBoundingClientRect().left) > 2; }).length,
    tall: Math.max(...[...document.querySelectorAll("td:first-child")].map(e => e.offsetHeight)),
    colours: [style.color, style.backgroundColor], before, up, sorted, down: order(),
    reached: tables.every(e => e.tabIndex == 0) && head.tabIndex == 0,
  }), "*");
})</script></body>"""
FRAME = """<!DOCTYPE html><body><script>
addEventListener("message", told => document.body.setAttribute("data-probe", told.data));
</script><iframe src="{page}" style="border:0;width:{width}px;height:900px"></iframe></body>"""
"""A window of a browser has a least width, a frame has none."""
OWN = re.compile(r"https?://(?:(?:accounts|clients\d|update|www)\.google\.com|redirector\.gvt1\.com)/")
"""Whom a browser asks by itself, whatever the page."""


def browse(page: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Open a file; every run has a profile of its own."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("no Chromium here; the page is read by a parser in test_report")
    profile = page.with_suffix(".profile")
    common = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    words = [browser, *common, f"--user-data-dir={profile}", "--enable-logging=stderr", *flags, page.as_uri()]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120)
    shutil.rmtree(profile, ignore_errors=True)
    return done


def probed(html: str, page: Path, width: int) -> dict[str, Any]:
    """What a script sees of the page, which forbids all but its own, so that this one is let in."""
    assert html.count("</body>") == 1
    open_policy = POLICY.partition("script-src")[0] + "script-src 'unsafe-inline'"
    page.write_text(html.replace(POLICY, open_policy).replace("</body>", PROBE))
    frame = page.with_suffix(".frame.html")
    frame.write_text(FRAME.format(page=page.name, width=width))
    dom = browse(frame, "--window-size=1400,1000", "--virtual-time-budget=10000", "--dump-dom").stdout
    found = re.search('data-probe="([^"]*)"', dom)
    assert found is not None
    return dict(json.loads(markup.unescape(found[1])))


def complaints(html: str, page: Path) -> list[str]:
    """What the page as it is says in the console, and what it asks of a network."""
    page.write_text(html)
    log = page.with_suffix(".net")
    said = browse(page, f"--log-net-log={log}", "--net-log-capture-mode=Everything", "--dump-dom").stderr
    asked = set(re.findall('"url":"((?!file:|data:)[^"]*)"', log.read_text()))
    return [line for line in said.splitlines() if "CONSOLE" in line] + sorted(
        url for url in asked if not OWN.match(url)
    )


@pytest.fixture(scope="module")
def whole(html: str, tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """What a script sees of the page, by width."""
    folder = tmp_path_factory.mktemp("whole")
    return {width: probed(html, folder / f"{width}.html", width) for width in WIDTHS}


@pytest.mark.parametrize("width", WIDTHS)
def test_everything_fits_and_is_there(html: str, whole: dict[int, dict[str, Any]], width: int) -> None:
    seen = whole[width]
    assert seen["needs"] <= seen["width"] <= width, "the page is wider than the window"
    assert seen["over"] == []
    assert seen["unscrollable"] == 0
    assert len(seen["images"]) == html.count("<img ") > 20
    assert min(seen["images"]) > 150
    assert seen["colours"] == ["rgb(17, 17, 17)", "rgb(255, 255, 255)"]
    assert seen["lost"] == 0, "the first column stays where a table is scrolled"
    assert seen["tall"] < 80, "names are not broken letter by letter"
    assert seen["reached"], "by the keyboard"
    if width < 960:
        assert seen["hints"] >= seen["scrolled"] > 0
    else:
        assert seen["hints"] == 0


def test_a_head_sorts_within_its_groups(html: str, whole: dict[int, dict[str, Any]]) -> None:
    seen = whole[1280]
    groups = [place for place, name in enumerate(seen["before"]) if name.startswith("budget")]
    assert len(groups) == 2
    assert seen["sorted"] == "ascending"
    rows = dict(re.findall(r"<tr[^>]*><td>([^<]*)</td><td>([\d.]+)</td>", html[html.index("<tbody>") :][:6000]))
    for which, reverse in (("up", False), ("down", True)):
        assert [place for place, name in enumerate(seen[which]) if name.startswith("budget")] == groups
        assert [seen[which][place] for place in groups] == [seen["before"][place] for place in groups]
        last = seen[which][groups[1] + 1 :]
        assert sorted(last) == sorted(seen["before"][groups[1] + 1 :])
        values = [float(rows[name]) for name in last]
        assert values == sorted(values, reverse=reverse)
    assert seen["up"] != seen["down"]


def test_its_own_script_runs_and_no_other(html: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(html.replace("</body>", "<script>document.title = 'changed'</script></body>"))
    dom = browse(page, "--dump-dom").stdout
    assert '<th scope="col"><button type="button">' in dom
    assert "<title>changed" not in dom


def test_it_is_silent_and_asks_for_nothing(html: str, tmp_path: Path) -> None:
    assert complaints(html, tmp_path / "page.html") == []


def test_a_broken_page_is_found(html: str, tmp_path: Path) -> None:
    """The checks above can fail."""
    page = tmp_path / "page.html"
    foreign = html.replace("</body>", '<img src="https://example.invalid/x.png"></body>')
    assert any("violates" in line for line in complaints(foreign, page))
    assert "https://example.invalid/x.png" in complaints(foreign.replace(POLICY, ""), page)
    broken = html.replace("data:image/svg+xml,%3Csvg", "data:image/svg+xml,%3Cno", 1)
    assert broken != html
    wide = broken.replace("</body>", f"<p style='white-space: nowrap'>{'wide ' * 300}</p></body>")
    seen = probed(wide, page, 1280)
    assert min(seen["images"]) == 0
    assert seen["needs"] > seen["width"]


def test_no_screen_is_empty(html: str, whole: dict[int, dict[str, Any]], tmp_path: Path) -> None:
    height = whole[1280]["height"]
    (tmp_path / "page.html").write_text(html)
    browse(tmp_path / "page.html", f"--window-size=1280,{height}", f"--screenshot={tmp_path / 'page.png'}")
    image = Image.open(tmp_path / "page.png").convert("L")
    assert image.height >= height
    for top in range(0, height - 900, 900):
        assert len(image.crop((0, top, 1280, top + 900)).getcolors() or range(256)) > 20, f"an empty screen at {top}"
