"""The page of an evaluation: what was found first, then by what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

from real.evaluate.evaluation import GRIDS, Evaluation
from real.evaluate.writing import file_of
from real.validation.verdict import agrees, head, line, number, share


def page(found: Evaluation) -> str:
    """Markdown."""
    about = found.about
    lines = [
        f"# {found.name}: the simulator against {about['device']}",
        "",
        _finding(found),
        "",
        f"{about['device']} ({about['host']}), Python {about['python']}, torch {about['torch']}, transformers"
        f" {about['transformers']}; runtime {about['code']}; everything at {about['size']} size.",
        "",
    ]
    for part in (_criteria, _grids, _copies, _overheads, _decisions, _peers, _exact, _passes, _steps):
        made = list(part(found))
        lines += [*made, ""] if made else []
    return "\n".join(lines).rstrip() + "\n"


def _finding(found: Evaluation) -> str:
    """The first line: what was found, in words."""
    rows = [row for document in found.documents.values() for row in document["cells"]]
    if not rows:
        return "**No cell was run: nothing can be judged.** What each step came to stands below."
    agree = sum(map(agrees, rows))
    said = [f"{agree} of {len(rows)} logs give the device's decisions again without a clock"]
    for kind, where in (("link", "the link decides"), ("software", "software decides")):
        off = [
            abs(e) for row in rows if row["decides"] == kind and (e := row["errors"]["tpot_ms"]["error"]) is not None
        ]
        if off:
            worst = f"the prediction of TPOT is off by {median(off):.1%} in the median, {max(off):.1%} at worst"
            said.append(f"where {where} ({len(off)} cells) {worst}")
    if failed := sum(len(document["failed"]) for document in found.documents.values()):
        said.append(f"**{failed} cells cannot be judged**")
    exact = found.step("exact")
    if exact is not None:
        said.append(f"outputs are {'' if exact['equal'] else '**not** '}equal to the bit between policies and budgets")
    judged = "Every criterion that could be judged holds." if found.holds else "**Not every criterion holds.**"
    return f"**{'; '.join(said)}.** {judged}"


def _criteria(found: Evaluation) -> Iterator[str]:
    yield "## What was to hold"
    yield ""
    yield from head("figure", "over", "cells", "found", "wanted", "")
    for grid, document in found.documents.items():
        rows = document["cells"]
        agree = sum(map(agrees, rows))
        yield line(
            "logs whose replay gives the decisions", grid, len(rows), agree, len(rows), _said(agree == len(rows))
        )
        for it in document["criteria"]:
            if it["value"] is not None:
                wanted = ", ".join(f"at {key} {it[key]:g}" for key in ("least", "most") if it[key] is not None)
                said = _said(it["holds"]) if it["judged"] else "not judged"
                over = f"{grid}, {it['over']} decides" if it["over"] != "all" else grid
                yield line(it["what"], over, it["cells"], f"{it['value']:.4g}", wanted, said)
    exact = found.step("exact")
    if exact is not None:
        yield line("outputs equal between policies", "exact", len(exact["digests"]), "", "", _said(exact["equal"]))


def _grids(found: Evaluation) -> Iterator[str]:
    yield "## Cells"
    for grid, document in found.documents.items():
        name = document["provenance"]["model"]["name"]
        yield ""
        yield f"{GRIDS[grid]}: [{name}]({file_of(grid, name)}.md), {len(document['cells'])} cells"
        yield ""
        yield from head("policy", "budget", "TPOT ms", "predicted", "error", "expected", "decides", "link GB/s")
        for row in document["cells"]:
            it, rate = row["errors"]["tpot_ms"], row["link"]["gb_per_s"]
            figures = (
                number(it["device"]),
                number(it["simulated"]),
                share(it["error"]),
                share(row["expected"]),
            )
            yield line(row["policy"]["name"], row["budget"], *figures, row["decides"], number(rate))
        if document["failed"]:
            yield ""
        for it in document["failed"]:
            yield f"- not judged: {it['policy']} at {it['budget']}: {it['error']}"


def _copies(found: Evaluation) -> Iterator[str]:
    copies = found.step("copies")
    if copies is None:
        return
    yield "## Copies from host to device"
    yield ""
    curves = copies["curves"]
    shown = ("copy_h2d_pinned", "copy_h2d_call", "copy_h2d_pageable")
    yield from head("bytes", "pinned GB/s", "one by one", "pageable")
    for i, n in enumerate(curves[shown[0]]["axes"]["bytes"]):
        yield line(n, *(f"{n / curves[name]['samples'][i]['median']:.2f}" for name in shown))


def _overheads(found: Evaluation) -> Iterator[str]:
    runtime = (found.hardware or {}).get("runtime")
    if runtime is None:
        return
    yield "## The runtime's own overheads"
    yield ""
    yield (
        f"Per layer event {runtime['layer_overhead_us']:g} us, per expert launched {runtime['launch_us']:g} us, per"
        f" copy {runtime['copy_overhead_us']:g} us; with them the runs that they are fitted to are off by"
        f" {', '.join(f'{name} {share:.1%}' for name, share in runtime['fit'].items())}."
    )


def _decisions(found: Evaluation) -> Iterator[str]:
    policies: Mapping[str, Any] = found.decisions["policy_us"]
    if not policies:
        return
    yield f"## The policies' own time, {found.decisions['where']}"
    yield ""
    yield from head("policy", "us per prefill pass", "us per decode pass")
    for name, it in policies.items():
        yield line(name, *(number(it.get(phase)) for phase in ("prefill", "decode")))


def _peers(found: Evaluation) -> Iterator[str]:
    peers = found.step("peers")
    if peers is None:
        return
    yield "## Beside the library"
    yield ""
    yield from head("", "ms per token", "ratio")
    for row in peers["rows"]:
        yield line(
            row["name"],
            number(row["ms_per_token"]),
            f"{row['ms_per_token'] / peers['rows'][0]['ms_per_token']:.2f}",
        )
    for name, why in peers["left_out"].items():
        yield f"- left out: {name}: {why}"


def _exact(found: Evaluation) -> Iterator[str]:
    exact = found.step("exact")
    if exact is None:
        return
    yield "## Outputs"
    yield ""
    same = "equal to the bit" if exact["equal"] else "**not equal**"
    yield f"{', '.join(exact['digests'])}: {same} over {exact['passes']} passes. From the library's logits:"
    yield ""
    yield from head("", "largest difference", "largest logit", "same argmax")
    for name, key in (("one expert at a time", "library"), ("grouped kernel", "grouped")):
        it = exact[key]
        yield line(name, f"{it['largest']:.3g}", f"{it['largest_logit']:.3g}", share(it["same_argmax"]))
    ways = exact["tpot_ms"]
    yield ""
    yield (
        f"TPOT of one request under lru at 75 % ({ways['exact']['slots']} slots): {number(ways['exact']['mean'])} ms"
        f" one at a time, {number(ways['grouped']['mean'])} ms grouped."
    )


def _passes(found: Evaluation) -> Iterator[str]:
    passes = found.step("passes")
    if passes is not None:
        yield "## A decode pass"
        yield ""
        launches = f" and {passes['launches_per_pass']:.0f} kernel launches" * bool(passes["launches_per_pass"])
        yield (
            f"{passes['aten_calls_per_pass']:.0f} operations of torch, nested ones counted too,{launches} a pass under"
            f" {passes['policy']} at {passes['budget']}, over {passes['passes']} passes."
        )


def _steps(found: Evaluation) -> Iterator[str]:
    yield "## Steps"
    yield ""
    yield from head("step", "state", "wall s", "CPU s", "")
    for name, it in found.record["steps"].items():
        yield line(name, it["state"], f"{it['wall_s']:.1f}", f"{it['cpu_s']:.1f}", it["said"])


def _said(holds: bool) -> str:
    return "holds" if holds else "**fails**"
