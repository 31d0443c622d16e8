"""One damaged result spoils no folder: the others are read, and it is named."""

import shutil
from collections.abc import Callable
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import sim
from sim.cli import main
from sim.core.accounts import PHASES
from sim.results.compare.comparison import compare
from sim.results.report import draw
from tests.sim.many_requests import grid, topical
from tests.sim.saying import edit, refused
from traces.kit.errors import UserError

HUGE = 9999999999999999999999


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damaged")
    trace = topical(folder / "trace", n=8)
    return grid(trace, folder / "out", ("lru", "fifo"), (3,), (0, 1))


def at(path: str, value: object) -> Callable[[Path], object]:
    """Put a value at a dotted path of result.json."""

    *parents, last = path.split(".")
    return lambda folder: edit(folder, lambda it: reduce(getitem, parents, it).update({last: value}))


def content(raw: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / "result.json").write_bytes(raw)


def without(*path: str) -> Callable[[Path], object]:
    *parents, last = path
    return lambda folder: edit(folder, lambda it: reduce(getitem, parents, it).pop(last))


RESULTS: dict[str, Callable[[Path], object]] = {
    "empty": content(b""),
    "cut": content(b'{"schema": 1'),
    "a list": content(b"[]"),
    "not text": content(b"\xff\xfe\x00"),
    "nested": content(b"[" * 100_000),
    "of many digits": content(b'{"schema": ' + b"1" * 5000 + b"}"),
    "another schema": at("schema", 99),
    "gone": lambda folder: (folder / "result.json").unlink(),
    "huge limit": at("config.limit", HUGE),
    "huge seed": at("config.seed", HUGE),
    "huge budget": at("config.budget_bytes", HUGE),
    "huge latency": at("latency_ms.tpot.mean", 10**400),
    "infinite": content(b'{"schema": 1, "totals": NaN}'),
    "a text for a number": at("latency_ms.tpot.mean", "fast"),
    "a text for a group": at("latency_ms", "fast"),
    "a list for a text": at("provenance.routing_from", ["x"]),
    "a number for a truth": at("provenance.lossless", 1),
    "a truth for a number": at("config.seed", True),
    "no policy": at("config.policy", None),
    "a policy without a name": at("config.policy", {}),
    "a list for a policy": at("config.policy.name", []),
    "no config": without("config"),
    "no provenance": without("provenance"),
    "no totals": without("totals"),
    "odd totals": at("totals", []),
    "odd bounds": at("bounds", {"belady_bypass": 3}),
    "odd stalls": at("stall_ms_per_token", {"demand_copy": "long"}),
    "odd nulls": at("nulls", {"x": float("nan")}),
}


@pytest.mark.parametrize("damage", RESULTS.values(), ids=RESULTS)
def test_a_damaged_result_is_named_and_the_others_are_read(
    damage: Callable[[Path], object], whole: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(whole, tmp_path / "out")
    victim = sorted(out.glob("lru-*"))[0]
    expected = sim.load(whole)
    damage(victim)
    damaged: list[str] = []
    frame = sim.load(out, damaged)
    pd.testing.assert_frame_equal(frame, expected[expected["folder"] != victim.name].reset_index(drop=True))
    (line,) = damaged
    assert str(victim) in line
    assert "\n" not in line
    assert len(line) < 300 + len(str(victim))
    for other in out.iterdir():
        if other != victim:
            shutil.rmtree(other)
    with pytest.raises(UserError) as caught:
        sim.load(out)
    assert str(caught.value) == line


def test_who_asks_for_no_list_is_warned(whole: Path, tmp_path: Path) -> None:
    out = shutil.copytree(whole, tmp_path / "out")
    victim = sorted(out.glob("lru-*"))[0]
    content(b"")(victim)
    with pytest.warns(UserWarning, match=f"left out: .*{victim.name}") as warned:
        assert len(sim.load(out)) == 3
    assert [Path(one.filename) for one in warned] == [Path(__file__)]
    (victim / "requests.parquet").unlink()
    shutil.copy(sorted(whole.glob("lru-*"))[0] / "result.json", victim)
    with pytest.warns(UserWarning, match=r"left out: .*requests\.parquet"):
        assert len(sim.load_requests(out)) == 3 * 8


def _rewritten(**columns: object) -> Callable[[Path], object]:
    def damage(file: Path) -> None:
        pd.read_parquet(file).assign(**columns).to_parquet(file, index=False)

    return damage


TABLES: dict[str, Callable[[Path], Any]] = {
    "gone": lambda file: file.unlink(),
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-20]),
    "other types": _rewritten(request="x", layer="x"),
    "nulls": _rewritten(end_ns=pd.NA, layer=pd.NA),
    "no rows": lambda file: pd.read_parquet(file).iloc[:0].to_parquet(file),
    "no column": lambda file: pd.read_parquet(file).iloc[:, 1:].to_parquet(file),
}


@pytest.mark.parametrize("damage", TABLES.values(), ids=TABLES)
def test_a_damaged_table_is_named_and_the_others_are_read(
    damage: Callable[[Path], object], whole: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(whole, tmp_path / "out")
    victim = sorted(out.glob("lru-*"))[0]
    for load, name, rows in ((sim.load_requests, "requests", 8), (sim.load_layers, "layers", len(PHASES))):
        damaged: list[str] = []
        damage(victim / f"{name}.parquet")
        frame = load(out, damaged=damaged)
        assert len(frame) == 3 * rows
        assert victim.name not in set(frame["folder"])
        (line,) = damaged
        assert str(victim) in line
    for folder in out.iterdir():
        if folder != victim:
            damage(folder / "requests.parquet")
    with pytest.raises(UserError, match=r"and 3 more damaged results\)$"):
        sim.load_requests(out)


def test_a_twin_stands_in_for_a_damaged_table(whole: Path, tmp_path: Path) -> None:
    out = shutil.copytree(whole, tmp_path / "out")
    victim = sorted(out.glob("lru-*"))[0]
    shutil.copytree(victim, out / "zz")
    (victim / "requests.parquet").write_bytes(b"PAR1")
    damaged: list[str] = []
    assert len(sim.load_requests(out, damaged=damaged)) == 4 * 8
    (victim / "requests.parquet").unlink()
    assert len(sim.load_requests(out, damaged=damaged)) == 4 * 8
    assert damaged == []


def test_compare_and_report_show_the_rest(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(whole, tmp_path / "out")
    first, second = sorted(out.glob("lru-*"))
    at("config.limit", HUGE)(first)
    (sorted(out.glob("fifo-*"))[0] / "requests.parquet").unlink()
    found = compare(out)
    assert sorted(found.runs["policy"]) == ["fifo", "lru"]
    assert len([line for line in found.missing if line.startswith("Left out, as it is damaged: ")]) == 2
    assert main(["compare", str(out)]) == 0
    assert first.name in capsys.readouterr().out.replace("\n", "").replace(" ", "")
    (second / "layers.parquet").unlink()
    # Pictures take seconds, and are none of this.
    monkeypatch.setattr(draw, "_draw", lambda name, caption, *_: draw.Drawn(name, caption, (), "not asked for"))
    assert main(["report", str(out)]) == 0
    page = (out / "report.html").read_text()
    assert first.name in page
    assert "layers.parquet" in page
    for folder in out.glob("*-*"):
        content(b"")(folder)
    for verb in ("compare", "report"):
        assert "and 3 more damaged results" in refused([verb, str(out)], capsys)
