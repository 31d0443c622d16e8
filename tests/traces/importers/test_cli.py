"""What a user is told, and the model that prices what was imported; importers of other packages, by entry points."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest

from tests.traces.importers.imported import raw_of, take
from traces import TraceError, open_trace
from traces.cli import main
from traces.importers import Importer, Options, cli, parse_layers, spans
from traces.kit.conf import model_sizes
from traces.kit.errors import UserError
from traces.kit.words import Between


def test_layers_are_written_as_they_are_read() -> None:
    for word, layers in (("0", {0}), ("0,2,4-6", {0, 2, 4, 5, 6}), ("7-7", {7})):
        assert parse_layers(word) == layers
        assert parse_layers(spans(layers)) == layers
    assert spans([3, 1, 2, 9]) == "1-3,9"


def lines(top_k: int = 8) -> list[dict[str, Any]]:
    """One request of OLMoE's shape, or of another top-k."""
    ids = np.argsort(np.random.default_rng(0).random((3, 16, 60)), axis=-1)[..., :top_k].tolist()
    places = [{"token": token, "layer": layer, "phase": "decode"} for token in range(3) for layer in range(16)]
    return [{**place, "ids": ids[place["token"]][place["layer"]]} for place in places]


def test_a_model_that_was_named_prices_the_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "trace"
    (tmp_path / "lines").write_bytes(raw_of(lines()))
    assert main(["import", "jsonl", str(tmp_path / "lines"), str(target), "model=olmoe_1b_7b"]) == 0
    assert "note: 64 experts per layer, as olmoe_1b_7b has" in capsys.readouterr().err
    trace = open_trace(target)
    assert (trace.L, trace.E, trace.K) == model_sizes("olmoe_1b_7b") == (16, 64, 8)
    assert (trace.manifest.model.name, trace.manifest.priced_as) == ("olmoe_1b_7b", "olmoe_1b_7b")


@pytest.mark.parametrize("name", ["olmoe_1b_7b", "mine", "as_traced"])
def test_a_model_of_other_sizes_does_not(tmp_path: Path, name: str) -> None:
    trace, notes = take(tmp_path, "jsonl", lines(top_k=4), Options(model=name))
    assert (trace.E, trace.manifest.model.name, trace.manifest.priced_as) == (60, name, None)
    assert any("not priced as olmoe_1b_7b, which has 16 layers" in note for note in notes) == (name == "olmoe_1b_7b")


def test_a_file_that_states_its_bytes_is_priced_by_them(tmp_path: Path) -> None:
    content = [{"expert_bytes": [7] * 16}, *lines()]
    trace = take(tmp_path, "jsonl", content, Options(model="olmoe_1b_7b")).trace
    assert (trace.manifest.model.expert_bytes, trace.manifest.priced_as) == ((7,) * 16, None)


def test_a_place_that_cannot_be_is_refused_before_the_file_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "trace").mkdir()
    (tmp_path / "lines").write_text("broken")
    for target, message in (("trace", "trace: exists already"), ("no/trace", "no: no such folder")):
        assert main(["import", "jsonl", str(tmp_path / "lines"), str(tmp_path / target)]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc/self").is_dir(), reason="no place that root cannot write")
def test_errors_name_the_place_that_was_asked_for(tmp_path: Path) -> None:
    place = Path("/proc/self") if os.geteuid() == 0 else tmp_path / "locked"
    if os.geteuid() != 0:
        place.mkdir(mode=0o500)
    (tmp_path / "lines").write_bytes(raw_of(lines()))
    with pytest.raises(TraceError, match=f"^{place}/trace: ") as refused:
        cli.importers()["jsonl"].run(tmp_path / "lines", place / "trace", Options())
    assert "partial" not in str(refused.value)


class Point:
    """An entry point."""

    def __init__(self, name: str, loaded: Any) -> None:
        self.name, self.value, self.loaded = name, f"elsewhere:{name}", loaded

    def load(self) -> Any:
        return self.loaded


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    def install(*loaded: Any) -> None:
        monkeypatch.setattr(cli, "entry_points", lambda group: [Point(f"p{i}", x) for i, x in enumerate(loaded)])
        cli.importers.cache_clear()

    yield install
    monkeypatch.undo()
    cli.importers.cache_clear()


def test_an_importer_of_another_package(plug: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[tuple[Path, Path, Options]] = []

    def run(source: Path, target: Path, options: Options) -> Path:
        calls.append((source, target, options))
        return target

    keys = {
        "depth": Annotated[int, Between(0, 9), "how deep"],
        "n_experts": Annotated[int, Between(1, 9), "per layer"],
    }
    plug(Importer("theirs", run, "what they record.\n", keys))
    assert main(["import", "theirs", "a", str(tmp_path / "b"), "depth=3", "n_experts=4", "limit=2"]) == 0
    assert calls == [(Path("a"), tmp_path / "b", Options(limit=2, n_experts=4, own={"depth": 3}))]
    capsys.readouterr()
    assert main(["import", "--help"]) == 0
    page = capsys.readouterr().out
    assert "\ntheirs\n  what they record.\n  n_experts  per layer\n  depth      how deep\n" in page
    assert main(["import", "other", "a", "b"]) == 2
    said = capsys.readouterr().err
    assert "import other: no such format; allowed: route_trace, npz, jsonl, routed_experts, vllm_log," in said
    assert ", theirs" in said


@pytest.mark.parametrize(
    ("loaded", "message"),
    [
        (Importer("npz", lambda source, target, options: target, ""), "npz is defined twice"),
        (Importer, "p0=elsewhere:p0: allowed: an instance of traces.importers.Importer"),
    ],
)
def test_an_entry_point_that_is_no_new_importer(plug: Any, loaded: object, message: str) -> None:
    plug(loaded)
    with pytest.raises(UserError, match=message):
        cli.importers()
