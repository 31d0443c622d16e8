"""Execute the notebooks, each in a fresh kernel and an empty folder.

    python notebooks/execute.py                  # all of them, as CI does: what they say is what was saved
    python notebooks/execute.py --write 03       # keep the outputs of one

Status 1 for an error, for more than 240 s, and where an output is not the saved one: whatever code prints it, the
notebook's or the project's. Needs the ``notebooks`` extra. A notebook keeps the digest of its own code beside its
outputs, so that the tests see outputs that are stale without running anything.
"""

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
from stale import differences
from traitlets.config import Config

from traces.kit.drawing import few_colours

HERE = Path(__file__).resolve().parent
SECONDS = 600
"""For a whole notebook: four times what the longest takes on two quiet cores. Beyond it, it hangs."""

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
            # What it puts into a temporary folder goes away, too.
            running = client.async_execute(env=os.environ | {"TMPDIR": folder})
            asyncio.run(asyncio.wait_for(running, seconds))
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
            if "image/png" in data:
                data["image/png"] = base64.b64encode(few_colours(base64.b64decode(data["image/png"]))).decode()


def main(words: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    write = "--write" in words
    chosen = [word for word in words if word != "--write"]
    paths = [path for path in sorted(HERE.glob("*.ipynb")) if not chosen or path.name.startswith(tuple(chosen))]
    if not paths:
        print(f"no notebook begins with {' or '.join(chosen)}", file=sys.stderr)
        return 2
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    # This checkout's code, whichever is installed.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
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
        tidy(notebook)
        if write:
            nbformat.write(notebook, path)
        elif found := list(differences(nbformat.read(path, as_version=4), notebook)):
            failed += 1
            again = f"python notebooks/execute.py --write {path.stem[:2]}"
            print(f"{path.name}: its outputs are not what was saved; {again}", *found, sep="\n", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
