"""Execute the notebooks, each in a fresh kernel and an empty folder; any error, or more than 120 s, ends in status 1.

    python notebooks/execute.py                  # all of them, as CI does
    python notebooks/execute.py --write 03       # keep the outputs of one; its tagged figure goes to docs/

Needs the ``notebooks`` extra. Beside its outputs a notebook keeps the digest of the code that they came from.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

HERE = Path(__file__).resolve().parent
SECONDS = 120
"""For a whole notebook."""
TAG = "picture="
"""Of a cell whose figure is kept as a file too: ``picture=docs/NAME.png``, below the repository's root."""

ADDRESS = re.compile(r" at 0x[0-9a-f]+")
STYLED = re.compile(r"\bT_[0-9a-f]{5}\b|\bT_[0-9a-f]{5}(?=_)")


def digest(notebook: nbformat.NotebookNode) -> str:
    """SHA-256 of the code cells: outputs under another one are stale."""
    code = "\0".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()


def execute(notebook: nbformat.NotebookNode, seconds: float = SECONDS) -> None:
    """Run all cells in place. Raises what a cell raised (nbclient's errors), or TimeoutError."""
    with tempfile.TemporaryDirectory(prefix="moe-offload-") as folder:
        # No ports: the kernel is reached through files that nobody else may open.
        private = Config(KernelManager={"transport": "ipc", "ip": str(Path(folder) / "kernel")})
        client = NotebookClient(
            notebook,
            config=private,
            kernel_name="python3",
            timeout=None,
            coalesce_streams=True,
            resources={"metadata": {"path": folder}},
        )
        begun = time.monotonic()
        try:
            asyncio.run(asyncio.wait_for(client.async_execute(), seconds))
        except Exception as error:
            if time.monotonic() - begun >= seconds:  # a kernel that is stopped can say that it died
                raise TimeoutError(f"more than {seconds} s") from error
            raise


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Leave what the notebook says, and nothing of when and where it ran: run again, it is the same file."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            "executed": digest(notebook),
        }
    )
    tables = 0
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for data in (out.data for out in cell.get("outputs", ()) if "data" in out):
            # pandas' styled tables: an address as text, a random name in the page
            data.update({kind: ADDRESS.sub("", text) for kind, text in data.items() if kind == "text/plain"})
            if name := STYLED.search(data.get("text/html", "")):
                tables += 1
                data["text/html"] = data["text/html"].replace(name[0], f"T_{tables}")


def pictures(notebook: nbformat.NotebookNode) -> dict[str, bytes]:
    """The figures of tagged cells as PNG, by their path below the repository's root."""
    found = {}
    for cell in notebook.cells:
        for tag in cell.metadata.get("tags", ()):
            if tag.startswith(TAG):
                data = [out.data["image/png"] for out in cell.outputs if "image/png" in out.get("data", {})]
                found[tag.removeprefix(TAG)] = base64.b64decode(data[-1])
    return found


def main(words: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    write = "--write" in words
    chosen = [word for word in words if word != "--write"]
    paths = [path for path in sorted(HERE.glob("*.ipynb")) if not chosen or path.name.startswith(tuple(chosen))]
    if not paths:
        print(f"no notebook begins with {' or '.join(chosen)}", file=sys.stderr)
        return 2
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    failed = 0
    for path in paths:
        notebook, begun = nbformat.read(path, as_version=4), time.monotonic()
        try:
            execute(notebook)
        except Exception as error:  # whatever a cell raised: the other notebooks are still worth a run
            failed += 1
            print(f"{path.name}: {type(error).__name__}: {error}", flush=True)
            continue
        print(f"{path.name}: {time.monotonic() - begun:.0f} s", flush=True)
        if write:
            tidy(notebook)
            nbformat.write(notebook, path)
            for name, content in pictures(notebook).items():
                (HERE.parent / name).write_bytes(content)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
