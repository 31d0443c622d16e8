"""Importers of other packages join by an entry point; a name is one importer's."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest

from traces.cli import main
from traces.importers import Importer, Options, cli
from traces.kit.errors import UserError
from traces.kit.words import Between


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


def test_a_name_is_one_importers(plug: Any) -> None:
    plug(Importer("npz", lambda source, target, options: target, ""))
    with pytest.raises(UserError, match="npz is defined twice"):
        cli.importers()


def test_an_entry_point_that_is_no_importer(plug: Any) -> None:
    plug(Importer)
    with pytest.raises(UserError, match=r"p0=elsewhere:p0: allowed: an instance of traces.importers.Importer"):
        cli.importers()
