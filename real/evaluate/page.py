"""The page of an evaluation, what was found first, then by what; and the files beside it."""

from collections.abc import Iterator
from pathlib import Path
from statistics import median

from real.beside.told import markdown
from real.evaluate.evaluation import GRIDS, Evaluation
from real.validation.arrivals import arrivals
from real.validation.tables import number, share, table
from real.validation.verdict import agrees, judgement
from real.validation.writing import word, write_results
from sim.prices import HardwareProfile
from sim.results.titles import cells_rest_on
from traces.calibrate.machine import write as write_profile
from traces.kit.whole import writable, write_whole


def page(found: Evaluation) -> str:
    """Markdown."""
    about = found.about
    blocks = [
        f"# {found.name}: the simulator against {about['device']}",
        _finding(found),
        f"{about['device']} ({about['host']}), Python {about['python']}, torch {about['torch']}, transformers"
        f" {about['transformers']}; runtime {about['code']}; everything at {about['size']} size.",
    ]
    for part in (_criteria, _grids, _copies, _overheads, _decisions, _peers, _beside, _exact, _passes, _steps):
        blocks += part(found)
    return "\n\n".join(blocks) + "\n"


def _finding(found: Evaluation) -> str:
    """The first line: what was found, in words."""
    rows = [row for document in found.documents.values() for row in document["cells"]]
    if not rows:
        return "**No cell was run: nothing can be judged.** What each step came to stands below."
    agree, closed = sum(map(agrees, rows)), [row for row in rows if "serving" not in row]
    said = [f"{agree} of {len(rows)} logs give the device's decisions again without a clock"]
    for kind, where in (("link", "the link decides"), ("host", "the host decides"), ("software", "software decides")):
        errors = [row["errors"]["tpot_ms"]["error"] for row in closed if row["decides"] == kind]
        if off := [abs(error) for error in errors if error is not None]:
            worst = f"the prediction of TPOT is off by {median(off):.1%} in the median, {max(off):.1%} at worst"
            said.append(f"where {where} ({len(off)} cells) {worst}")
    if failed := sum(len(document["failed"]) for document in found.documents.values()):
        said.append(f"**{failed} cells cannot be judged**")
    if (exact := found.step("exact")) is not None:
        said.append(f"outputs are {'' if exact['equal'] else '**not** '}equal to the bit between policies and budgets")
    judged = "Every criterion that could be judged holds." if found.holds else "**Not every criterion holds.**"
    return f"**{'; '.join(said)}.** {judged}"


def _criteria(found: Evaluation) -> Iterator[str]:
    yield "## What was to hold"
    rows: list[tuple[object, ...]] = []
    for grid, document in found.documents.items():
        agree, cells = sum(map(agrees, document["cells"])), len(document["cells"])
        rows.append(("logs whose replay gives the decisions", grid, cells, agree, cells, _said(agree == cells)))
        for it in document["criteria"]:
            if it["value"] is not None:
                over = f"{grid}, {it['over']} decides" if it["over"] != "all" else grid
                rows.append((it["what"], over, it["cells"], *judgement(it)))
    if (exact := found.step("exact")) is not None:
        rows.append(("outputs equal between policies", "exact", len(exact["digests"]), "", "", _said(exact["equal"])))
    yield table(("figure", "over", "cells", "found", "wanted", ""), rows, 0)


def _grids(found: Evaluation) -> Iterator[str]:
    yield "## Cells"
    heads = ("policy", "budget", "TPOT ms", "predicted", "error", "expected", "decides", "link GB/s")
    for grid, document in found.documents.items():
        name = document["provenance"]["model"]["name"]
        yield f"{GRIDS[grid]}: [{name}]({file_of(grid, name)}.md), {len(document['cells'])} cells"
        rows = []
        for row in document["cells"]:
            it = row["errors"]["tpot_ms"]
            figures = (number(it["device"]), number(it["simulated"]), share(it["error"]), share(row["expected"]))
            of = row["policy"]["name"], row["budget"]
            rows.append((*of, *figures, row["decides"], number(row["link"]["gb_per_s"])))
        yield table(heads, rows, 0)
        yield from arrivals(document["cells"], whole=True)
        if rests := cells_rest_on(document["cells"]):
            yield f"{rests[0].upper()}{rests[1:]}."
        if left := document["failed"]:
            yield "\n".join(f"- not judged: {it['policy']} at {it['budget']}: {it['error']}" for it in left)


def _copies(found: Evaluation) -> Iterator[str]:
    if (copies := found.step("copies")) is None:
        return
    yield "## Copies from host to device"
    shown = [copies["curves"][f"copy_h2d_{name}"] for name in ("pinned", "call", "pageable")]
    rows = [
        (n, *(f"{n / curve['samples'][i]['median']:.2f}" for curve in shown))
        for i, n in enumerate(shown[0]["axes"]["bytes"])
    ]
    yield table(("bytes", "pinned GB/s", "one by one", "pageable"), rows, 0)


def _overheads(found: Evaluation) -> Iterator[str]:
    if (runtime := (found.hardware or {}).get("runtime")) is None:
        return
    yield "## The runtime's own overheads"
    yield (
        f"Per layer event {runtime['layer_overhead_us']:g} us, per expert launched {runtime['launch_us']:g} us, per"
        f" copy {runtime['copy_overhead_us']:g} us; with them the runs that they are fitted to are off by"
        f" {', '.join(f'{name} {share:.1%}' for name, share in runtime['fit'].items())}."
    )


def _decisions(found: Evaluation) -> Iterator[str]:
    if policies := found.decisions["policy_us"]:
        yield f"## The policies' own time, {found.decisions['where']}"
        rows = [(name, *(number(it.get(phase)) for phase in ("prefill", "decode"))) for name, it in policies.items()]
        yield table(("policy", "us per prefill pass", "us per decode pass"), rows, 0)


def _peers(found: Evaluation) -> Iterator[str]:
    if (peers := found.step("peers")) is None:
        return
    yield "## Beside the library"
    took = {row["name"]: row["ms_per_token"] for row in peers["rows"]}
    base = peers["rows"][0]["ms_per_token"]
    yield table(("", "ms per token", "ratio"), [(row, number(ms), f"{ms / base:.2f}") for row, ms in took.items()], 0)
    if peers["left_out"]:
        yield "\n".join(f"- left out: {name}: {why}" for name, why in peers["left_out"].items())


def _beside(found: Evaluation) -> Iterator[str]:
    if (beside := found.step("beside")) is not None:
        yield "## Beside the library, each in a process of its own"
        yield markdown(beside).rstrip()


def _exact(found: Evaluation) -> Iterator[str]:
    if (exact := found.step("exact")) is None:
        return
    yield "## Outputs"
    same = "equal to the bit" if exact["equal"] else "**not equal**"
    yield f"{', '.join(exact['digests'])}: {same} over {exact['passes']} passes. From the library's logits:"
    rows = [
        (name, f"{exact[key]['largest']:.3g}", f"{exact[key]['largest_logit']:.3g}", share(exact[key]["same_argmax"]))
        for name, key in (("one expert at a time", "library"), ("grouped kernel", "grouped"))
    ]
    yield table(("", "largest difference", "largest logit", "same argmax"), rows, 0)
    if host := exact.get("host"):
        yield (
            f"With most experts on the host, from the same without: largest difference {host['largest']:.3g}, KL"
            f" {host['kl_mean']:.2g} nats a token, {host['kl_largest']:.2g} at most."
        )
    ways = exact["tpot_ms"]
    yield (
        f"TPOT of one request under lru at 75 % ({ways['exact']['slots']} slots): {number(ways['exact']['mean'])} ms"
        f" one at a time, {number(ways['grouped']['mean'])} ms grouped."
    )


def _passes(found: Evaluation) -> Iterator[str]:
    if (passes := found.step("passes")) is not None:
        yield "## A decode pass"
        launches = f" and {passes['launches_per_pass']:.0f} kernel launches" * bool(passes["launches_per_pass"])
        yield (
            f"{passes['aten_calls_per_pass']:.0f} operations of torch, nested ones counted too,{launches} a pass under"
            f" {passes['policy']} at {passes['budget']}, over {passes['passes']} passes."
        )


def _steps(found: Evaluation) -> Iterator[str]:
    yield "## Steps"
    steps = found.record["steps"].items()
    rows = [(name, it["state"], f"{it['wall_s']:.1f}", f"{it['cpu_s']:.1f}", it["said"]) for name, it in steps]
    yield table(("step", "state", "wall s", "CPU s", ""), rows, 0)


def _said(holds: bool) -> str:
    return "holds" if holds else "**fails**"


def write(found: Evaluation, page: str, out: Path) -> None:
    """The profile, a validation's files for each grid, and the page. UserError where they cannot be written."""
    with writable(f"out={out}"):
        out.mkdir(parents=True, exist_ok=True)
        if found.hardware is not None:
            HardwareProfile.from_dict(found.hardware)  # what is written can be read
            write_profile(out / f"{found.name}.yaml", found.hardware, "real evaluate")
        write_whole(out / "README.md", page)
    for grid, document in found.documents.items():
        write_results(document, out, file_of(grid, document["provenance"]["model"]["name"]))


def file_of(grid: str, model: str) -> str:
    """The name of a grid's files: the model's, and of the link's grid that, too."""
    return word(model if grid == "cells" else f"{model}_{grid}")
