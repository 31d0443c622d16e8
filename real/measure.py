"""Run what ``real/GPU.md`` lists and is outstanding, and leave the result files in OUT. Start it again to go on.

    python3 real/measure.py [name=h200_measured] [minutes=8.5] [only=calibrate,runtime,...] [rehearse=true]

OUT is the environment's. What is done or half done lies in .text/measure, a rehearsal's in .text/rehearsal: git
ignores both. Standard library only. Exit status: 0 all done or to be continued, 1 an item failed, 2 a mistake.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEXT = Path(".text")
TRAVEL = TEXT / "travel.tar.xz"
CELLS = TEXT / "cells"  # resolved configurations, and Mixtral's synthetic trace
WORK, REHEARSAL = TEXT / "measure", TEXT / "rehearsal"
MAX_FILES, MAX_BYTES = 8, 16 << 20
TINY = {
    "model_type": "olmoe",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_experts": 8,
    "num_experts_per_tok": 2,
}
ITEMS = ("calibrate", "runtime", "validate", "mixtral", "peers", "train", "export")
DEFAULTS = {"name": "h200_measured", "minutes": "8.5", "only": ",".join(ITEMS), "rehearse": "false"}


@dataclass(frozen=True)
class Item:
    """One thing to measure. It is begun only where `least_s` are left of the call."""

    name: str
    command: tuple[str, ...]
    least_s: float
    resumes: bool = False  # goes on where it was stopped
    writes: tuple[Path, ...] = ()  # what a run that was stopped may have left, and the next one would not overwrite
    needs: str = ""  # the item whose result it reads


def items(name: str, work: Path, rehearse: bool) -> list[Item]:
    """In the order in which they run."""
    python = (sys.executable, "-m")
    profile, model = f"out={work / name}.yaml", f"out={work / 'model'}"
    files = (work / f"{name}.yaml", work / f"{name}.png")
    known, runtime = f"hardware={work / name}.yaml", work / f"{name}_runtime.yaml"
    priced, results = f"hardware={runtime}", f"out={work / 'results'}"
    validate = (*python, "real", "validate", priced, results)
    if rehearse:
        tiny = work / "tiny"
        tiny.mkdir(parents=True, exist_ok=True)
        (tiny / "config.json").write_text(json.dumps(TINY))
        for part in ("tokens", "tokenizer.json", "sources.json"):  # its own folder: a checkpoint may lie in .text
            if not (work / part).is_symlink() and not (work / part).exists():  # it may lead nowhere
                (work / part).symlink_to((TEXT / part).resolve())
        text = f"folder={work}"
        small = ("device=cpu", "seconds=2", "largest=1", "max_tokens=4", "max_context=8", "threads=1")
        return [
            Item(
                "calibrate",
                (*python, "traces", "calibrate", profile, f"model={tiny},reference", "dtype=float32", *small),
                0,
                writes=files,
            ),
            Item(
                "runtime",
                (*python, "real", "calibrate", f"out={runtime}", known, "threads=1", "tokens=4", "repeat=1"),
                0,
                writes=(runtime,),
                needs="calibrate",
            ),
            Item(
                "validate", (*validate, "policy=lru,fmoe", "budget=25%", "limit=1", "threads=1", "name=olmoe_1b_7b"), 0
            ),
            Item(
                "mixtral", (*validate, "--config", str(CELLS / "rehearsal.yaml"), "threads=1", "name=mixtral_8x7b"), 0
            ),
            Item("peers", (*python, "real", "peers", "policy=lru", "budget=50%", "new_tokens=4", "threads=1"), 0),
            Item("train", (*python, "traces.reference.train", text, "tokens=4096", "batch=4", "length=128"), 0, True),
            Item("export", (*python, "traces.reference.export", text, model, "windows=1"), 0, needs="train"),
        ]
    shapes = ("model=olmoe_1b_7b,mixtral_8x7b", "device=cuda", "seconds=210")
    train = ("tokens=200000000", "batch=128", "device=cuda")
    random = ("weights=random", "device=cuda")
    olmoe, mixtral = (str(CELLS / f"{model}.yaml") for model in ("olmoe_1b_7b", "mixtral_8x7b"))
    return [
        Item("calibrate", (*python, "traces", "calibrate", profile, *shapes), 300, writes=files),
        Item(
            "runtime",
            (*python, "real", "calibrate", f"out={runtime}", known, "model=olmoe_1b_7b", *random),
            120,
            writes=(runtime,),
            needs="calibrate",
        ),
        Item("validate", (*validate, "--config", olmoe, "name=olmoe_1b_7b", "repeat=3", *random), 240, needs="runtime"),
        Item("mixtral", (*validate, "--config", mixtral, "name=mixtral_8x7b", *random), 240, needs="runtime"),
        Item("peers", (*python, "real", "peers", "--config", str(CELLS / "peers.yaml"), *random), 120),
        Item("train", (*python, "traces.reference.train", *train), 60, resumes=True),
        Item("export", (*python, "traces.reference.export", model), 120, needs="train"),
    ]


def run(plan: Sequence[Item], work: Path, seconds: float) -> dict[str, str]:
    """Run what has no mark of being done, within `seconds`; what came of each item."""
    end, outcome = time.monotonic() + seconds, {}
    for item in plan:
        mark, left = work / f"{item.name}.done", end - time.monotonic()
        if mark.exists():
            outcome[item.name] = f"done before, {mark.read_text().strip()}"
            continue
        if item.needs and not (work / f"{item.needs}.done").exists():
            outcome[item.name] = f"outstanding: {item.needs} comes first"
            continue
        if left < item.least_s:
            outcome[item.name] = f"outstanding: {left:.0f} s are left, it wants {item.least_s:.0f}"
            break
        for file in item.writes:
            file.unlink(missing_ok=True)
        began, status = time.monotonic(), _call(item, work / f"{item.name}.log", left)
        took = f"{time.monotonic() - began:.0f} s"
        if status is None and item.resumes:
            outcome[item.name] = f"outstanding: stopped after {took}, goes on in the next call"
            break
        if status != 0:
            outcome[item.name] = f"failed: {'out of time' if status is None else f'status {status}'} after {took}"
            continue  # the next ones may not depend on it
        mark.write_text(f"in {took}\n")
        outcome[item.name] = f"done in {took}"
    return outcome


def _call(item: Item, log: Path, seconds: float) -> int | None:
    """The exit status; None where time ran out and it was stopped."""
    with log.open("a") as lines:
        lines.write(f"$ {' '.join(item.command)}\n")
        lines.flush()
        child = subprocess.Popen(item.command, stdout=lines, stderr=subprocess.STDOUT)  # noqa: S603
        try:
            return child.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            child.kill()
            child.wait()


def gather(name: str, work: Path, out: Path) -> list[Path]:
    """Copy the result files to `out`: at most 8, of at most 16 MiB each; the rest of the model as one archive."""
    profile = (work / f"{name}.yaml", work / f"{name}.png")
    found = [file for file in profile if file.exists() and (work / "calibrate.done").exists()]
    made = [*sorted((work / "results").glob("*")), work / f"{name}_runtime.yaml"]
    if present := [file for file in made if file.is_file()]:
        packed = work / "results.tar.gz"
        with tarfile.open(packed, "w:gz") as archive:
            for file in present:
                archive.add(file, file.name)
        found.append(packed)
    shards = sorted((work / "model").glob("*.safetensors"))
    if (work / "export.done").exists():
        found += shards
        rest = work / "model_rest.tar.gz"
        with tarfile.open(rest, "w:gz") as archive:
            for file in sorted(set((work / "model").iterdir()) - set(shards)):
                archive.add(file, file.name)
        found.append(rest)
    joined = work / "log.txt"
    joined.write_text("".join(log.read_text() for log in sorted(work.glob("*.log"))))
    found.append(joined)
    if len(found) > MAX_FILES or any(file.stat().st_size > MAX_BYTES for file in found):
        raise SystemExit(f"error: {[(file.name, file.stat().st_size) for file in found]} are too many or too large")
    out.mkdir(parents=True, exist_ok=True)
    return [Path(shutil.copy2(file, out / file.name)) for file in found]


def unpack() -> None:
    """The tokens travel as one archive, since with the checkout they are too large; see GPU.md."""
    if TRAVEL.exists() and not (TEXT / "tokens").exists():
        with tarfile.open(TRAVEL, "r:xz") as archive:
            archive.extractall(filter="data")


def options(args: Sequence[str]) -> Mapping[str, str]:
    """DEFAULTS with `key=value` words put over them."""
    given = dict(arg.partition("=")[::2] for arg in args)
    if unknown := set(given) - set(DEFAULTS):
        raise SystemExit(_mistake(f"unknown key {min(unknown)!r}; allowed: {', '.join(DEFAULTS)}"))
    return {**DEFAULTS, **given}


def _mistake(line: str) -> int:
    print(f"error: {line}", file=sys.stderr)
    return 2


def main(args: Sequence[str]) -> int:
    os.chdir(ROOT)
    given = options(args)
    if "OUT" not in os.environ or given["rehearse"] not in ("true", "false"):
        return _mistake("OUT is not set, or rehearse is neither true nor false; allowed: OUT=a folder for the results")
    rehearse = given["rehearse"] == "true"
    work = REHEARSAL if rehearse else WORK
    work.mkdir(parents=True, exist_ok=True)
    unpack()
    wanted = given["only"].split(",")
    plan = items(given["name"], work, rehearse)
    if unknown := set(wanted) - {item.name for item in plan}:
        return _mistake(f"only={min(unknown)!r}; allowed: {', '.join(item.name for item in plan)}")
    outcome = run([item for item in plan if item.name in wanted], work, 60 * float(given["minutes"]))
    for log in sorted(work.glob("*.log")):
        print(f"== {log.name}", *log.read_text().splitlines()[-8:], sep="\n")
    for file in gather(given["name"], work, Path(os.environ["OUT"])):
        print(f"{file.stat().st_size:>10} {file.name}")
    for name in wanted:
        print(f"{name}: {outcome.get(name, 'outstanding')}")
    return 1 if any(line.startswith("failed") for line in outcome.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
