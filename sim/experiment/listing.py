"""``python -m sim list``: what there is to choose from, a line each, read from the files and classes themselves."""

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from inspect import getdoc
from pathlib import Path
from typing import Annotated, Any

import yaml

from policies import registry
from sim.experiment.declared import declared
from sim.prices import AS_TRACED, HardwareProfile, ModelProfile, shipped
from traces.format.layout import SIGNALS
from traces.format.reader import find_trace, open_trace
from traces.kit import conf
from traces.kit.errors import UserError, allowing, brief
from traces.kit.strict import dump_json
from traces.kit.units import counted, figure, format_bytes
from traces.kit.vocabulary import Format
from traces.kit.words import Position

SCHEMA = 1
"""Version of the document that ``format=json`` prints."""
Entry = dict[str, Any]
_ARXIV = re.compile(r"arXiv (\d{4}\.\d{4,5})")
_CODE = re.compile(r"(github\.com/[\w.-]+/[\w.-]*\w)")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Lists what there is: policies (and whether the model's output stays the same),
    models, machines, traces (the sample, and those in this folder), or the presets
    of experiment=.

    {keys}

      python -m sim list policies
      python -m sim list hardware format=json
    """

    what: Annotated[str, Position("WHAT"), "policies, models, hardware, traces or experiments"]
    format: Annotated[Format, "json: one document on stdout"] = "table"


def main(options: Options) -> None:
    """Run the command."""
    if options.what not in LISTS:
        raise UserError(f"list {brief(options.what)}: no such list; {allowing(options.what, LISTS)}")
    entries = list(LISTS[options.what]())
    if options.format == "json":
        sys.stdout.write(dump_json({"schema": SCHEMA, options.what: entries}))
        return
    from traces.kit.telling import stdout_console

    show(entries, stdout_console())


def policies() -> Iterator[Entry]:
    """Every value of ``policy=``: its class of output, what it reads, and where it is from. Reference rows are none."""
    files = conf.names("policy")
    others = {name for name in registry.names() if not registry.find(name).clairvoyant}
    for preset in sorted(files | others):
        text = (conf.FOLDER / "policy" / f"{preset}.yaml").read_text(encoding="utf-8") if preset in files else ""
        given = yaml.safe_load(text) if text else {"name": preset}
        policy = registry.find(str(given["name"]))
        try:
            made = declared(given)
        except UserError as error:  # of a package that is not what a policy has to be
            yield {"name": preset, "why_not": str(error)}
            continue
        about = getdoc(policy) or ""
        found = [*(f"arXiv {it}" for it in _ARXIV.findall(about)), *_CODE.findall(about)]
        yield {
            "name": preset,
            "policy": policy.name,
            "title": policy.title or policy.name,
            "about": _comment(text) or about.partition("\n\n")[0].replace("\n", " "),
            "output": policy.output(),
            "signals": sorted(map(str, made.needs())),
            "predictors": sorted(made.predictors()),
            "learns": made.wants_history(),
            "source": [*dict.fromkeys(found)],
        }


def models() -> Iterator[Entry]:
    """Every model of ``conf/model``; sizes in bytes, in its own dtype."""
    for name in sorted(conf.names("model") - {AS_TRACED}):
        it = ModelProfile.from_dict(shipped("model", name))
        sizes = it.priced()
        yield {
            "name": name,
            "title": it.title or name,
            "layers": it.moe_layers,
            "experts": it.experts,
            "top_k": it.top_k,
            "dtype": it.dtype,
            "expert_bytes": max(sizes),
            "all_expert_bytes": it.experts * sum(sizes),
            "dtypes": [*it.expert_bytes, *(it.expert_bytes_per_layer or {})],
        }


def hardware() -> Iterator[Entry]:
    """Every machine of ``conf/hardware``; memory and link of each GPU."""
    for name in sorted(conf.names("hardware")):
        it = HardwareProfile.from_dict(shipped("hardware", name))
        yield {
            "name": name,
            "title": it.title or name,
            "gpus": it.gpus,
            "memory_bytes": it.gpu.memory_bytes,
            "link_gb_per_s": float(it.link.h2d_gb_per_s),
            "host_gb_per_s": None if it.host.dram_gb_per_s is None else float(it.host.dram_gb_per_s),
            "figures": it.provenance,
            "inferred": len(it.inferred),
        }


def traces() -> Iterator[Entry]:
    """The sample, and the traces in this folder and in the folders of it; one that is none any more says why."""
    found = sorted(path.parent for pattern in ("trace.json", "*/trace.json") for path in Path().glob(pattern))
    for name in ("sample", *map(str, found)):
        try:
            it = open_trace(find_trace(name), "shape")
        except UserError as error:
            yield {"name": name, "why_not": str(error)}
            continue
        yield {
            "name": name,
            "model": it.manifest.model.name,
            "layers": it.L,
            "experts": it.E,
            "top_k": it.K,
            "requests": len(it.requests),
            "tokens": sum(request.prompt_tokens + request.output_tokens for request in it.requests),
            "recording": it.manifest.recording,
            "signals": [name for name in SIGNALS if it.has(name)],
        }


def experiments() -> Iterator[Entry]:
    """Every value of ``experiment=``, and what it asks."""
    for name in sorted(conf.names("experiment")):
        text = (conf.FOLDER / "experiment" / f"{name}.yaml").read_text(encoding="utf-8")
        yield {"name": name, "about": _comment(text)}


LISTS: Mapping[str, Callable[[], Iterator[Entry]]] = {
    "policies": policies,
    "models": models,
    "hardware": hardware,
    "traces": traces,
    "experiments": experiments,
}


def _comment(text: str) -> str:
    """The first sentence of the comment that a file begins with, which may go over lines; "" where it has none."""
    lines = []
    for line in text.splitlines():
        if line.startswith("# @package"):
            continue
        if not line.startswith("# ") or line.startswith("#   "):
            break
        lines.append(line[2:])
    return re.split(r"(?<=[.?:]) ", " ".join(lines), maxsplit=1)[0].rstrip(":")


def show(entries: list[Entry], console: Any) -> None:
    """Print a line for each; a narrow terminal folds the words, and loses none."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    for entry in entries:
        table.add_row(Text(entry["name"], style="bold"), *map(Text, _told(entry)))
    console.print(table)


def _told(it: Entry) -> list[str]:
    """The other cells of an entry's line."""
    if "output" in it:
        fitted = [f"predictor {name}" for name in it["predictors"]]
        reads = [*it["signals"], *fitted, *(["train requests"] if it["learns"] else [])]
        needs = f"reads {', '.join(reads)}" if reads else ""
        return [it["title"], it["output"], needs, ", ".join(it["source"])]
    if "all_expert_bytes" in it:
        shape = f"{it['layers']} x {it['experts']}, top-{it['top_k']}"
        each, every = format_bytes(it["expert_bytes"]), format_bytes(it["all_expert_bytes"])
        return [it["title"], shape, f"{every} of experts in {it['dtype']}, {each} each"]
    if "memory_bytes" in it:
        memory = f"{it['gpus']} x {format_bytes(it['memory_bytes'])}" if it["gpus"] > 1 else None
        host = f", host memory {figure(it['host_gb_per_s'])}" if it["host_gb_per_s"] is not None else ""
        link = f"link {figure(it['link_gb_per_s'])} GB/s{host}"
        return [it["title"], memory or format_bytes(it["memory_bytes"]), link]
    if "recording" in it:
        size = f"{counted(it['requests'], 'request')}, {counted(it['tokens'], 'token')}"
        return [it["model"], f"{it['layers']} x {it['experts']}, top-{it['top_k']}", size, ", ".join(it["signals"])]
    return [it.get("about") or f"not usable: {it['why_not']}"]
