"""Does another checkout give the same results? ``python tests/same_results.py BEFORE [KEY=VALUE ...]``

Runs a grid in both checkouts, each with its own code, through nothing but the words of ``python -m sim run``, and
compares what is left in the results' folders: result.json, log.npy, timeline.json and config.yaml byte for byte but
for ``provenance.code`` and ``provenance.cell``, requests.parquet and layers.parquet by schema and content. What is
refused must be refused in the same words. Prints a line per differing cell, then a summary; exit status 1 if any
differs, 2 if it could not be told.

    trace=DIR       a trace beside the sample; may be given several times
    policies=a,b    presets of conf/policy (default: all that BEFORE has)
    limit=N         measured requests of each trace, or null (default 3)
    looks=N         how many of the LOOKS at the machine (default: all)
    quick=true      looks=1
    after=DIR       the other checkout (default: the one that this file lies in)
    out=DIR         where answers are kept: by the content of a checkout, so that each is computed once
                    (default: outputs/same_results here)
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parents[1]
LOOKS = (
    ("budget=30%", "chunks=1", "workload.batch=1"),
    ("budget=10%", "chunks=2", "workload.batch=2", "warmup=1"),
    ("budget=70%", "chunks=3", "workload.batch=4", "seed=1", "timeline=true"),
)
"""Budgets, with everything else varied beside them."""
ROOMS = {"sim": "*.py", "policies": "*.py", "traces": "*.py", "conf": "*.yaml"}
"""What a result may depend on."""
OWN = ("code", "cell")
"""Keys of the provenance that name the code, and so may differ."""
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "HF_HUB_OFFLINE": "1"}
DRIVER = """
import contextlib, io, json, runpy, sys, time, traceback
import sim
print(json.dumps(sim.__file__), flush=True)
for line in sys.stdin:
    sys.argv, status, said, began = ["sim", *json.loads(line)], 0, io.StringIO(), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        try:
            runpy.run_module("sim", run_name="__main__")
        except SystemExit as stop:
            status = stop.code
        except Exception:
            status = 1
            traceback.print_exc()
    print(json.dumps([status or 0, said.getvalue(), time.process_time() - began]), flush=True)
"""
"""In a process of the checkout: for each line of words, the exit status, stderr and CPU seconds."""

Words = tuple[str, ...]
Answer = Mapping[str, Any]
"""A file's digest by its name, what ``result.json`` says, and ``error`` where a cell was refused."""


class Checkout:
    """One side: its answers and their CPU seconds by the words of a cell, those of earlier calls read from ``kept``."""

    def __init__(self, root: Path, out: Path) -> None:
        self.root = root
        self.kept = out / f"{content_of(root)}.jsonl"
        lines = self.kept.read_text(encoding="utf-8").splitlines() if self.kept.is_file() else []
        self.answers: dict[Words, tuple[float, Answer]] = {tuple(w): (s, a) for w, s, a in map(json.loads, lines)}

    def answer(self, cells: Sequence[Words]) -> None:
        """Run what was not yet run."""
        new = [words for words in cells if words not in self.answers]
        if new:
            self.kept.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory() as folder, self.kept.open("a", encoding="utf-8") as kept:
                for words, (seconds, answer) in zip(new, self._run(new, Path(folder)), strict=True):
                    self.answers[words] = seconds, answer
                    print(json.dumps([words, seconds, answer]), file=kept, flush=True)

    def _run(self, cells: Sequence[Words], store: Path) -> Iterator[tuple[float, Answer]]:
        environment = os.environ | ENVIRONMENT | {"PYTHONPATH": str(self.root)}
        command, pipe = [sys.executable, "-P", "-c", DRIVER], subprocess.PIPE
        with subprocess.Popen(command, cwd=store, env=environment, stdin=pipe, stdout=pipe, text=True) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            imported = Path(json.loads(child.stdout.readline()))
            assert imported.is_relative_to(self.root), f"{imported} was imported, which is not of {self.root}"
            for words in cells:
                print(json.dumps(["run", *words, f"out={store}"]), file=child.stdin, flush=True)
                status, said, seconds = json.loads(child.stdout.readline())
                yield seconds, _answer(store) if status == 0 else {"error": f"{status}: {said.strip()}"}
            child.stdin.close()


def content_of(root: Path) -> str:
    """A digest of all that a result may depend on, the traces' manifests included."""
    files = [path for room, pattern in ROOMS.items() for path in (root / room).rglob(pattern)]
    digest = hashlib.sha256()
    for path in sorted([*files, *(root / "traces").rglob("*.json")]):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root)} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def _answer(store: Path) -> Answer:
    """What a run left, which is then removed; bounds stay for the cells to come."""
    (folder,) = [found for found in store.iterdir() if (found / "result.json").is_file()]
    text = (folder / "result.json").read_text(encoding="utf-8")
    document = json.loads(text)
    for key in OWN:
        text = text.replace(document["provenance"].pop(key), key)
    answer = {"result.json": _digest(text.encode()), "document": document}
    for path in sorted(folder.iterdir()):
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            answer[path.name] = _digest(repr((table.schema.remove_metadata(), table.to_pydict())).encode())
        elif path.name != "result.json":
            answer[path.name] = _digest(path.read_bytes())
    shutil.rmtree(folder)
    return answer


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def differences(before: Any, after: Any, name: str = "") -> Iterator[str]:
    """Where two answers differ, each with both values."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in {**before, **after}:
            inner = f"{name}.{key}" if name else key
            yield from differences(before.get(key, "nothing"), after.get(key, "nothing"), inner)
    elif before != after:
        yield f"{name}: {before} -> {after}"


def grid(before: Path, given: Mapping[str, list[str]]) -> list[Words]:
    """The cells that the words ask for. ValueError for words that are not understood."""
    one = {key: values[-1] for key, values in given.items()}
    presets = sorted(path.stem for path in (before / "conf" / "policy").glob("*.yaml"))
    chosen = one["policies"].split(",") if "policies" in one else presets
    if unknown := set(chosen) - set(presets):
        raise ValueError(f"policies={','.join(sorted(unknown))}: allowed: {', '.join(presets)}")
    looks = LOOKS[: 1 if one.get("quick") == "true" else int(one.get("looks", len(LOOKS)))]
    folders = [str(Path(trace).resolve()) for trace in given.get("trace", [])]
    for folder in folders:
        if not Path(folder).is_dir():
            raise ValueError(f"trace={folder}: no such folder")
    words = (f"limit={one.get('limit', 3)}", "log=true")
    return [
        (f"policy={policy}", f"trace={trace}", *look, *words)
        for trace, look, policy in product(["sample", *folders], looks, chosen)
    ]


def main(words: Sequence[str]) -> int:
    """Compare; returns the exit status."""
    given: dict[str, list[str]] = {}
    places = [word for word in words if "=" not in word]
    for word in words:
        key, separator, value = word.partition("=")
        if separator:
            given.setdefault(key, []).append(value)
    allowed = ("trace", "policies", "limit", "looks", "quick", "after", "out")
    if len(places) != 1 or not set(given) <= set(allowed):
        sys.stderr.write(f"{__doc__}\nerror: wanted: BEFORE, then any of {', '.join(allowed)}\n")
        return 2
    before, after = (Path(place).resolve() for place in (places[0], given.get("after", [HERE])[-1]))
    try:
        cells = grid(before, given)
        out = Path(given.get("out", [HERE / "outputs" / "same_results"])[-1])
        sides = [Checkout(before, out), Checkout(after, out)]
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    if sides[0].kept == sides[1].kept:  # the same code
        sides[1] = sides[0]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda side: side.answer(cells), sides[:1] if sides[0] is sides[1] else sides))
    counts = dict.fromkeys(("same", "refused alike", "different"), 0)
    for words in cells:
        old, new = (side.answers[words][1] for side in sides)
        found = [line if len(line) < 300 else f"{line[:300]}..." for line in differences(old, new)]
        counts["different" if found else "refused alike" if "error" in old else "same"] += 1
        if found:
            more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
            print(f"DIFFERS {' '.join(words)}: {'; '.join(found[:3])}{more}")
    told = ", ".join(f"{count} {name}" for name, count in counts.items())
    spent = [sum(side.answers[words][0] for words in cells) for side in sides]
    print(f"{len(cells)} cells: {told}; CPU {spent[0]:.0f} s before, {spent[1]:.0f} s after, earlier calls included")
    return 1 if counts["different"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
