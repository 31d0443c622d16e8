"""The page of a report: whole in itself, every row with its origin, nothing of a name taken for markup."""

import base64
import hashlib
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pytest
import yaml

from sim.cli import main
from sim.experiment.again import Again
from sim.experiment.cell import make_cell
from sim.experiment.compose import read_config
from sim.experiment.config import dump_configs
from sim.experiment.provenance import identify
from sim.results.compare import Comparison, compare
from sim.results.compare.conclude import conclude, limits
from sim.results.report.content import data, opening
from sim.results.report.page import POLICY, SCRIPT
from tests.sim.results.report.conftest import draw_alone
from tests.sim.saying import edit, refused

EVIL = "<script>alert(1)</script>&\"'</td>\x07"


def other_trace(result: dict[str, Any]) -> None:
    result["config"]["trace"] = "f" * 64


class Reader(HTMLParser):
    """Tags, what they refer to, and the text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags, self.open = list[str](), list[str]()
        self.refers, self.places, self.texts = list[str](), list[str](), list[str]()
        self.style, self.script = "", ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)
        self.places += [value or "" for name, value in attrs if name == "id"]
        for name, value in attrs:
            assert not name.startswith("on"), "a script"
            if name in ("src", "href", "action", "data", "srcset", "poster", "background", "formaction"):
                self.refers.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.style += data
        elif self.open and self.open[-1] == "script":
            self.script += data
        else:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return "\n".join(self.texts)


def test_the_page_needs_nothing_else(html: str) -> None:
    page = Reader(html)
    assert html.startswith("<!DOCTYPE html>")
    assert page.open == []
    assert not {"iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert page.tags.count("script") == 1
    assert page.script == SCRIPT
    digest = base64.b64encode(hashlib.sha256(page.script.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" == POLICY
    assert html.count(POLICY) == 1, "that script, and nothing else"
    loaded = [it for it in page.refers if not it.startswith("#") and it != "./page.csv"]
    assert loaded
    assert all(reference.startswith("data:") for reference in loaded)
    assert not re.search(r"url\(|@import", page.style)
    assert not re.search("https?://", re.sub('src="data:[^"]*"', "", html))


def test_the_contents_lead_to_every_section(html: str) -> None:
    page = Reader(html)
    links = [it[1:] for it in page.refers if it.startswith("#")]
    assert links == page.places
    assert len(links) == len(set(links)) == page.tags.count("h2") + page.tags.count("h3") > 10


def test_a_panel_is_an_image_of_its_own(html: str) -> None:
    """As SVG, none wider than 14 cm, so that none is lost at the side of a narrow screen; of a bounded size."""
    images = [unquote(it.partition(",")[2]) for it in Reader(html).refers if it.startswith("data:image/svg+xml,")]
    assert len(images) == html.count("<img ") > 20
    for image in images:
        root = ET.fromstring(image)
        assert float(root.attrib["width"].removesuffix("pt")) <= 6.5 * 72
        shapes = sum(it.tag.endswith(("}path", "}use", "}image")) for it in root.iter())
        assert shapes > 15, "an empty picture"
        assert len(image) < 150_000  # patterns of bars that are told apart without colour take the most
        assert not any(it.tag.endswith(("}script", "}foreignObject")) for it in root.iter())
    assert len(html) < 1_000_000


def test_the_runs_lie_beside_as_csv(html: str, grid: Path, runs: pd.DataFrame) -> None:
    assert html.count('href="./page.csv"') == 1
    beside = pd.read_csv(io.BytesIO(data(compare(grid, metric="request"))))
    assert list(beside.columns) == [*runs.columns, "request_ms_low", "request_ms_high"]
    merged = beside.merge(runs, on="cell", suffixes=("", "_own"))
    assert len(merged) == len(beside) == len(runs)
    assert merged["tpot_ms_mean"].to_numpy() == pytest.approx(merged["tpot_ms_mean_own"].to_numpy(), rel=1e-12)


def test_the_opening_sentence_is_of_the_figures(compared: Comparison, runs: pd.DataFrame, html: str) -> None:
    said = opening(compared)
    assert said in Reader(html).text
    exact = compared.cells[compared.cells["lossless"]]
    for part, budget in zip(said.split(". "), (exact["budget_bytes"].max(), exact["budget_bytes"].min()), strict=True):
        own = exact[exact["budget_bytes"] == budget]
        best = own.loc[own["value"].idxmin()]
        assert best["policy_label"] in said
        assert f"{best['value']:.2f} ms" in part
        run = runs[(runs["policy_label"] == best["policy_label"]) & (runs["budget_bytes"] == budget)]
        assert f"{run['bound_time_gap'].iloc[0]:.2f} times the bound" in part
    named = exact.assign(policy_label=exact["policy_label"].replace("lru", "a slower one"))
    assert "gate_ahead" in opening(replace(compared, cells=named)), "not the first by name"
    sure = replace(compared, cells=compared.cells.assign(low=1.0, high=9.0, bound_time_gap=np.nan))
    assert "ms (95 % interval 1.00 to 9.00)." in opening(sure).partition(". ")[0] + "."
    lossy = replace(compared, cells=compared.cells[~compared.cells["lossless"]])
    assert "the mean TPOT of lossy swapmoe is 3." in opening(lossy)
    assert opening(lossy).count("GB") == 2
    one = replace(compared, cells=exact[exact["budget_bytes"] == exact["budget_bytes"].max()])
    assert opening(one).count("GB") == 1


def test_the_page_holds_every_row_and_sentence(html: str, runs: pd.DataFrame, compared: Comparison) -> None:
    text = Reader(html).text
    for run in runs.to_dict("records"):
        for name in ("cell", "code", "decision_digest", "folder", "trace", "model_sha", "hardware_sha"):
            assert run[name] in text
        assert f"{run['tpot_ms_mean']:#.4g}" in text
        for name in ("link_utilisation", "hit_complete", "hit_bytes"):
            assert f"{100 * run[name]:#.4g}" in text
        for reason in json.loads(run["nulls"]).values():
            assert reason in text
    for said in (*conclude(compared), *limits(compared)):
        assert said in text
    for cell in compared.cells.to_dict("records"):
        assert f"{cell['value']:.2f}" in text


def test_the_commands_make_the_rows_again(html: str, runs: pd.DataFrame) -> None:
    commands = [text for text in Reader(html).texts if text.startswith("python -m sim run ")]
    assert len(commands) == len(runs)
    cells = [make_cell(read_config(shlex.split(command)[4:])) for command in commands]
    made = {identify(cell, ()).key for cell in cells}
    assert made == set(runs["cell"])


@pytest.mark.parametrize(
    "words",
    [
        ["policy=fmoe", "policy.distance=1", "policy.eviction=lru", "budget=30%", "seed=3", "chunks=3", "warmup=1"],
        ["policy=lru_layer", "budget=2GiB", "model=olmoe_1b_7b", "hardware=h100", "hardware.link.h2d_gb_per_s=50.5"],
        ["policy=lru", "budget=2GB", "workload.batch=2", "bounds=false", "log=true", "model.dtype=fp8"],
        ["policy=lru", "budget=1GB", "timeline=true"],
    ],
)
def test_words_compose_the_same_configuration(words: list[str], tmp_path: Path) -> None:
    config = read_config(words)
    (tmp_path / "config.yaml").write_text(dump_configs([config]))
    command = shlex.split(Again(tmp_path).command("", "simulated"))
    assert command[:4] == ["python", "-m", "sim", "run"]
    assert read_config(command[4:]) == config


def test_what_no_words_compose_is_read_from_its_file(grid: Path, runs: pd.DataFrame, tmp_path: Path) -> None:
    folder = runs["folder"][runs["policy"] == "lru"].iloc[0]
    shutil.copytree(grid / folder, tmp_path / "it's" / folder)
    path = tmp_path / "it's" / folder / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["hardware"]["name"] = "nowhere"
    path.write_text(yaml.safe_dump(config))
    command = shlex.split(Again(tmp_path / "it's").command(folder, "simulated"))
    assert command[:2] == ["python", "-c"]
    done = subprocess.run([sys.executable, *command[1:]], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "again").glob("lru-*/result.json"))
    path.unlink()
    assert Again(tmp_path / "it's").command(folder, "simulated").startswith("none: ")


def test_the_command_of_a_device_names_what_its_configuration_lacks(tmp_path: Path) -> None:
    words = ["policy=lru", "budget=50%", "limit=2", "model=olmoe_1b_7b", "trace=sample", "bounds=false"]
    (tmp_path / "config.yaml").write_text(dump_configs([read_config(words)]))
    about = {"name": "cpu", "threads": 2, "weights": "random", "routing": "of the trace"}
    result = tmp_path / "result.json"
    result.write_text(json.dumps({"provenance": {"device": about}}))
    command = shlex.split(Again(tmp_path).command("", "device"))
    assert command[:4] == ["python", "-m", "real", "run"]
    assert {"model=olmoe_1b_7b", "routing=sample", "weights=random", "threads=2", "device=cpu"} < set(command)
    assert not any(word.startswith("trace=") for word in command), "its requests are asked for by routing="
    result.write_text(json.dumps({"provenance": {"device": about | {"routing": "of the model"}}}))
    assert Again(tmp_path).command("", "device").startswith("none: prompts and decoding")


@pytest.mark.usefixtures("undrawn")
def test_a_page_of_which_nothing_may_be_concluded(grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sim.results.report.content.conclude", lambda found: [])
    target = tmp_path / "page.html"
    assert main(["report", str(grid), "policy=lru", "budget=2GB", f"out={target}"]) == 0
    text = Reader(target.read_text()).text
    assert "\nNothing: there is no second policy or budget to compare with." in text


def test_a_name_is_never_markup(
    grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_alone(monkeypatch, "latency", "fates")  # where a name is a label at a line, and at an axis

    def evil(result: dict[str, Any]) -> None:
        result["config"]["policy"] = {"name": EVIL}
        result["provenance"]["measured_requests"] = EVIL
        result["nulls"][EVIL] = EVIL

    copy = shutil.copytree(grid, tmp_path / EVIL.replace("/", "_").replace("\x07", ""))
    for file in copy.glob("gate_ahead-*/result.json"):
        edit(file.parent, evil)
    assert main(["report", str(copy), "budget=2GB"]) == 0, capsys.readouterr().err
    page = Reader((copy / "report.html").read_text(encoding="utf-8"))
    assert page.tags.count("script") == 1
    assert page.script == SCRIPT
    for image in [unquote(it.partition(",")[2]) for it in page.refers if it.startswith("data:image/svg+xml,")]:
        assert not any(it.tag.endswith("}script") for it in ET.fromstring(image).iter())
    assert EVIL.replace("\x07", "\N{REPLACEMENT CHARACTER}") in page.texts


@pytest.mark.usefixtures("undrawn")
def test_the_same_runs_give_the_same_page(grid: Path, tmp_path: Path) -> None:
    """And the same pictures: see test_pictures."""
    pages = []
    for name in ("one", "other"):
        target = tmp_path / name / "page.html"
        assert main(["report", str(grid), f"out={target}"]) == 0
        pages.append(target.read_text(encoding="utf-8").replace(str(target), ""))
    assert pages[0] == pages[1]


def test_what_is_not_drawn_is_said(grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pictures of another trace in the place of theirs, say."""
    copy = shutil.copytree(grid, tmp_path / "copy")
    for folder in copy.glob("lru-*"):
        edit(folder, other_trace)
    assert main(["report", str(copy), "policy=lru", "budget=2GB"]) == 0
    printed = capsys.readouterr().err
    assert "not drawn: fates: no policy here prefetches\n" in printed
    assert "fates: no policy here prefetches" in Reader((copy / "report.html").read_text()).text
    for name in ("popularity", "reuse"):
        assert f"not drawn: {name}: trace=sample is another one now (ac7c4f72b3ec, the runs replayed fff" in printed


@pytest.mark.usefixtures("undrawn")
def test_mistakes_are_one_line(grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty, file, target = tmp_path / "empty", tmp_path / "file", tmp_path / "page.html"
    empty.mkdir()
    file.write_text("here")
    for words, named in (
        ([str(empty)], f"{empty}: no finished run in it or below it (it is empty)"),
        ([str(file)], "a folder of results is wanted"),
        ([str(grid), f"out={file}/page.html"], "cannot be written"),
        ([str(grid), f"out={empty}"], f"out={empty}: a folder; allowed: a file"),
        ([str(grid), f"out={tmp_path}/it.csv"], "the table of the runs takes that name; allowed: such as it.html"),
    ):
        own = words if any(word.startswith("out=") for word in words) else [*words, f"out={target}"]
        assert named in refused(["report", *own], capsys)
        assert not target.exists()
        assert list(empty.iterdir()) == []
