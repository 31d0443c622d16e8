"""Saved outputs beside fresh ones: what a reader would see changed is found, and what nobody would see is not."""

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.scripts import script_of

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
execute, stale = script_of("notebooks/execute.py"), script_of("notebooks/stale.py")

from PIL import Image, ImageDraw  # noqa: E402 (of matplotlib)

Notebook = Any


def picture(y: int = 40, shade: int = 0, size: tuple[int, int] = (200, 120)) -> bytes:
    """A line and a marker, at a height, in a grey."""
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    draw.line([(10, y), (190, y)], fill=(shade, shade, shade), width=2)
    draw.ellipse([96, y - 4, 104, y + 4], fill=(shade, shade, shade))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def notebook(text: str = "4.2 ms\n", table: str = "<td>17.2</td>", png: bytes = b"", source: str = "f()") -> Notebook:
    v4 = nbformat.v4
    outputs = [
        v4.new_output("stream", text=text),
        v4.new_output("execute_result", {"text/html": table, "text/plain": "<Styler>"}),
        v4.new_output("display_data", {"image/png": base64.b64encode(png or picture()).decode()}),
    ]
    return v4.new_notebook(cells=[v4.new_markdown_cell("# Found"), v4.new_code_cell(source, outputs=outputs)])


# The text below a table told of other figures, as the code that prints was in another file.
@pytest.mark.parametrize(
    ("fresh", "said"),
    [
        (lambda: notebook(text="4.3 ms\n"), "cell 1: --- saved\n+++ fresh\n@@ -1 +1 @@\n-4.2 ms\n+4.3 ms"),
        (lambda: notebook(table="<td>17.3</td>"), "+<td>17.3</td>"),
        (lambda: notebook(png=picture(y=46)), "a picture that differs by"),
        (lambda: notebook(png=picture(shade=90)), "a picture that differs by"),
        (lambda: notebook(png=picture(size=(200, 128))), "a picture of another size"),
        (lambda: notebook(source="g()"), "cell 1: not the same cell"),
    ],
)
def test_what_a_reader_sees_changed_is_found(fresh: Callable[[], Notebook], said: str) -> None:
    (found,) = stale.differences(notebook(), fresh())
    assert said in found


def test_a_cell_more_and_an_output_less_are_found() -> None:
    longer, silent = notebook(), notebook()
    longer.cells.append(nbformat.v4.new_markdown_cell("And more"))
    silent.cells[1].outputs.pop()
    assert list(stale.differences(notebook(), longer)) == ["cell 2: not the same cell"]
    (found,) = stale.differences(notebook(), silent)
    assert "image/png before, nothing now" in found


def test_what_nobody_sees_is_not() -> None:
    assert list(stale.differences(notebook(), notebook(png=picture(shade=8)))) == []


def test_a_picture_of_few_colours_is_the_same_picture_and_tidied_once() -> None:
    before, after = notebook(), notebook()
    execute.tidy(after)
    assert list(stale.differences(before, after)) == []
    once = after.cells[1].outputs[2].data["image/png"]
    execute.tidy(after)
    assert after.cells[1].outputs[2].data["image/png"] == once
    with Image.open(io.BytesIO(base64.b64decode(once))) as image:
        assert image.mode == "P"


def test_the_command_fails_where_an_output_is_not_the_saved_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = notebook()
    execute.tidy(saved)
    nbformat.write(saved, tmp_path / "01_one.ipynb")
    monkeypatch.setattr(execute, "HERE", tmp_path)

    def run(one: Notebook) -> None:
        one.cells[1].outputs[0].text = says

    monkeypatch.setattr(execute, "execute", run)
    says = "4.2 ms\n"
    assert execute.main([]) == 0
    says = "4.3 ms\n"
    assert execute.main([]) == 1
    assert "+4.3 ms" in capsys.readouterr().out
    assert execute.main(["--write"]) == 0
    assert execute.main([]) == 0
