"""The notebooks as they are committed: valid, small, and with the outputs of their own code. CI also executes them."""

import ast
import base64
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import policies.api
import sim.pictures
import traces
from tests.scripts import script_of
from traces.kit.drawing import Picture
from traces.kit.panels import Panel, together

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
execute = script_of("notebooks/execute.py")

ROOT = Path(__file__).resolve().parents[2]
LARGEST_PICTURE = 60_000
LARGEST = 150_000
# A folder or a name that is this machine's alone, colours of a terminal, and addresses of objects.
OWN = re.compile(r"(?<![\w.])/(?:home|root|tmp|work|opt|Users|usr|var)/|localhost|\x1b\[|\bat 0x[0-9a-f]{6,}")


@pytest.fixture(params=sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def notebook(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_a_notebook_is_valid_and_its_code_compiles(notebook: nbformat.NotebookNode) -> None:
    nbformat.validate(notebook)
    assert notebook.cells[0].cell_type == "markdown"
    for cell in code_cells(notebook):
        ast.parse(cell.source)
        assert len(cell.source.splitlines()) <= 35, "a cell is to be read"


# Code that was changed without being run again: the text below it tells of other figures.
def test_outputs_are_those_of_the_code(path: Path, notebook: nbformat.NotebookNode) -> None:
    again = f"python notebooks/execute.py --write {path.stem[:2]}"
    assert notebook.metadata.get("executed") == execute.digest(notebook), f"stale: {again}"
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1)), f"not one run from a fresh kernel: {again}"


def public() -> dict[str, set[str]]:
    """What a notebook may use, by module: what is said to be there, and what a policy is written against."""
    api = {name for name in vars(policies.api) if name[0] != "_"}
    found = {"sim": {*sim.__all__}, "sim.pictures": {*sim.pictures.__all__}, "traces": {*traces.__all__}}
    return {**found, "policies.api": api, "real": {"__file__"}}


def of_ours(source: str) -> Iterator[str]:
    """What a cell imports of our packages, and names of modules that it has imported, as ``module.name``."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"{alias.name}." for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute | ast.Name):
            name = f"{ast.unparse(node.value)}.{node.attr}"
            yield from [name] if re.fullmatch(r"[\w.]+", name) else []


def private(source: str) -> list[str]:
    """Of these the ones that are nobody's but ours."""
    known, found = public(), []
    for name in of_ours(source):
        module, _, own = name.rpartition(".")
        if module.partition(".")[0] in ("sim", "traces", "policies", "real"):
            there = own in known.get(module, ()) or not (own or module not in known) or name in known
            found += [] if there else [name]
    return found


def test_only_public_names_are_used(notebook: nbformat.NotebookNode) -> None:
    used = [name for cell in code_cells(notebook) for name in of_ours(cell.source)]
    assert any(name.startswith(("sim.", "real.")) for name in used)
    assert [name for cell in code_cells(notebook) for name in private(cell.source)] == []


@pytest.mark.parametrize(
    "source",
    [
        "from sim.experiment.run import run",
        "import sim.experiment.run",
        "from sim import experiment",
        "import sim\nsim.experiment.run.run()",
        "from policies.registry import find",
        "from traces.kit.drawing import GREY",
    ],
)
def test_a_private_name_is_seen(source: str) -> None:
    assert private(source)


def test_public_names_are_there() -> None:
    assert [f"{m}.{n}" for m, names in public().items() for n in names if not hasattr(import_module(m), n)] == []


def test_outputs_are_small_clean_and_of_no_machine(path: Path, notebook: nbformat.NotebookNode) -> None:
    assert path.stat().st_size < LARGEST
    for cell in code_cells(notebook):
        for out in cell.outputs:
            assert out.output_type != "error"
            assert out.get("name") != "stderr", out.text
            for kind, content in out.get("data", {"text/plain": out.get("text", "")}).items():
                if kind == "image/png":
                    assert len(base64.b64decode(content)) < LARGEST_PICTURE
                else:
                    assert not OWN.search(content), OWN.search(content)


def test_links_lead_somewhere(path: Path, notebook: nbformat.NotebookNode) -> None:
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for link in re.findall(r"\]\(([^)#]+)\)", cell.source):
                assert link.startswith("https://") or (path.parent / link).exists(), link
            for name in re.findall(r"`((?:docs|real|traces|policies|conf)/[\w/.]+\.\w+)`", cell.source):
                assert (ROOT / name).exists() or "use_soon" in name, name


def notebook_of(*sources: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])


# An error that is only kept in the outputs, or a cell that never ends: CI would pass, or hang.
def test_an_error_and_a_cell_that_never_ends_fail() -> None:
    with pytest.raises(Exception, match="planted"):
        execute.execute(notebook_of("raise ValueError('planted')"))
    with pytest.raises(TimeoutError):
        execute.execute(notebook_of("import time; time.sleep(60)"), seconds=3)


def test_a_notebook_runs_in_a_folder_that_goes_away() -> None:
    notebook = notebook_of("import os, tempfile; print(os.getcwd()); print(tempfile.mkdtemp())")
    execute.execute(notebook)
    here, temporary = notebook.cells[0].outputs[0].text.split()
    assert Path(temporary).is_relative_to(here)
    assert not Path(here).exists()


# Said above, and something else printed below.
def test_the_figures_of_what_is_found_are_printed_below(notebook: nbformat.NotebookNode) -> None:
    (finding,) = re.findall(r"^\*\*(.*?)\*\*$", notebook.cells[0].source, flags=re.MULTILINE | re.DOTALL)
    printed = " ".join(
        re.sub("<[^>]*>", " ", str(out.get("data", {}).get("text/html", out.get("text", ""))))
        for cell in code_cells(notebook)
        for out in cell.outputs
    )
    for figure in re.findall(r"\d+(?:\.\d+)?", finding):
        assert re.search(rf"(?<![\d.]){re.escape(figure)}(?!\.?\d)", printed), figure


def test_a_picture_shows_itself_whole() -> None:
    picture = together([Panel("What was found", lambda axes: axes.plot([1, 2], label="lru"))])
    assert isinstance(picture, Picture)
    assert picture._repr_png_().startswith(b"\x89PNG")
    assert list(picture.get_tightbbox().size) == list(picture.get_size_inches())
