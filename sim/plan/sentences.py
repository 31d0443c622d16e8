"""An answer in sentences, the first of which is the answer."""

import re
import shlex
from collections.abc import Mapping
from typing import Any

from sim.results.wording import room_worded
from traces.kit.units import counted, figure, format_bytes

NAMES = {"tpot": "per token", "ttft": "to the first token", "request": "per request"}


def first(it: Mapping[str, Any]) -> str:
    """The answer, whether it is yes or no, and that it is modelled."""
    how = "simulated" if it["lengths"] is None else "simulated on modelled routing"
    return f"{_first(it)}; {how}" if it["best"] is not None else _first(it)


def _first(it: Mapping[str, Any]) -> str:
    who = f"{it['model_title']} in {it['dtype']} on {machine(it)}"
    if it["from_disk"]:
        who += f" with {format_bytes(it['from_disk'])} of its experts on disk"
    best, target = it["best"], it["target"]
    if it["verdict"] == "no host memory":
        host = it["host_memory"]
        need, given = format_bytes(host["needed"]), format_bytes(host["given"])
        return f"No: {who} does not fit: its experts take {need} of host memory, of which there are {given}"
    if it["verdict"] == "no room":
        missing = format_bytes(it["needs"][0]["missing_bytes"])
        where = " on each GPU" if it["gpus"] > 1 else ""
        return f"No: {who} does not fit: {missing} of GPU memory are missing{where} for a single expert"
    at_best = f"{_ms(best['ms'])} {NAMES[it['metric']]} ({reach(best)}){_rate(best)}"
    most = held(best, it["gpus"])
    if it["verdict"] == "meets":
        least = it["least"]
        little = f"{held(least, it['gpus'])} ({least['policy']}, {_ms(least['ms'])})"
        return f"Yes: {who} meets {target} with {little}, and takes {at_best} with {most} ({best['policy']})"
    if it["verdict"] == "misses":
        return f"No: {who} fits, and misses {target}: it takes {at_best} with {most} ({best['policy']})"
    return f"Yes: {who} fits, and takes {at_best} with {most} ({best['policy']})"


def held(cell: Mapping[str, Any], gpus: int) -> str:
    """The memory of a cell; of several GPUs, the even part that each has of the budget."""
    where = f" on each of {gpus} GPUs" if gpus > 1 else ""
    return f"{format_bytes(cell['budget_bytes'] // gpus)} for experts{where}"


def _budgets(it: Mapping[str, Any]) -> str:
    """What a budget of several GPUs is, and which one holds all experts."""
    gpus, most, total = it["gpus"], it["most_bytes"], it["expert_bytes"]
    said = f"a budget is that of all {gpus} GPUs, an even part each"
    if most <= total:
        return said
    who = "each holds all of them" if most == gpus * total else f"one holds {format_bytes(most // gpus)} of them"
    return f"{said}; {format_bytes(most)} have room for all experts, {format_bytes(total)}, as {who}"


def machine(it: Mapping[str, Any]) -> str:
    """The machine, and its host where another than the profile's was chosen."""
    return f"{it['machine']} with {it['host']}" if it["host"] else str(it["machine"])


def basis(it: Mapping[str, Any]) -> str:
    """On what the answer rests."""
    routing = "the routing of the trace that was given"
    if it["lengths"] is not None:
        routing = f"routing that nobody recorded, drawn like the figures {it['routing']}"
    inferred = f", of which {counted(len(it['inferred']), 'is', 'are')} inferred" if it["inferred"] else ""
    return f"{routing}; {it['figures']} figures of the machine{inferred}"


def facts(it: Mapping[str, Any]) -> list[str]:
    """What was asked, and what memory there is."""
    lengths, room, said = it["lengths"], it["room"], list[str]()
    if lengths is not None:
        prompts = f"of {lengths['prompt']:,} prompt and {lengths['output']:,} generated tokens"
        said.append(f"{counted(lengths['measured'], 'request')} {prompts}, batch {it['batch']}, after one more")
        if lengths["prompt"] + lengths["output"] < it["context"]:
            more = _ms(it["attention_ms_of_the_rest"])
            said.append(f"the KV cache is for {it['context']:,} tokens; at its end attention takes {more} more a token")
    each = f" on each of {it['gpus']} GPUs (placement={it['placement']})" if it["gpus"] > 1 else ""
    said.append(f"room for experts{each}: {format_bytes(room['bytes'])} of {room_worded(room)}")
    if it["gpus"] > 1:
        said.append(_budgets(it))
    total, host = format_bytes(it["expert_bytes"]), it["host_memory"]
    if host is None:
        said.append(f"all experts: {total}, on the SSD: CPU and GPU share one memory, and its link is the SSD")
    elif host["given"] is None:
        said.append(f"all experts: {total}, in host memory (host_memory= says how much there is)")
    elif it["from_disk"]:
        given = format_bytes(host["given"])
        said.append(f"all experts: {total}, on disk; host memory has {given} for them, and what is not there is read")
    elif not host["missing"]:
        spare = format_bytes(host["given"] - host["needed"])
        said.append(f"all experts: {total} of {format_bytes(host['given'])} host memory; {spare} are left for the rest")
    return said


def spread(won: Mapping[str, Any]) -> str:
    """Over what a cell's range is: seeds, and kinds of routing."""
    kinds = dict.fromkeys(one["routing"] for one in won["range"])
    seeds = counted(len(won["range"]) // len(kinds), "seed")
    return f"over {seeds}" if len(kinds) == 1 else f"over routing like {', '.join(kinds)}, {seeds} each"


def sure(it: Mapping[str, Any]) -> list[str]:
    """How far the winners' figures reach, and which policy is the safer choice, in sentences."""
    best, least = it["best"], it["least"]
    said = [f"{_reach(best)} {spread(best)}"]
    if least is not None and least["run"] != best["run"]:
        missing = ", so that it misses the target on some" if least["high_ms"] > it["target_ms"] else ""
        said = [f"{_reach(least)} {spread(least)}{missing}", _reach(best)]
    each = [row["best"] | {"policy": row["policy"]} for row in it["policies"] if row["best"] is not None]
    safe = min(each, key=lambda cell: (cell["high_ms"], cell["budget_bytes"]))
    if safe["high_ms"] < best["high_ms"]:
        said.append(f"the safer choice, whichever routing it is: {_reach(safe)}")
    return said


def _reach(cell: Mapping[str, Any]) -> str:
    return f"{cell['policy']} with {format_bytes(cell['budget_bytes'])}: {reach(cell)} ms"


def reach(cell: Mapping[str, Any]) -> str:
    """The range of a cell's figure in ms."""
    low, high = figure(cell["low_ms"]), figure(cell["high_ms"])
    return low if low == high else f"{low} to {high}"


def unable(it: Mapping[str, Any]) -> list[str]:
    """Which policies cannot run here, a sentence for each reason."""
    found: dict[str, list[str]] = {}
    for row in it["policies"]:
        if row["best"] is None and row["why"]:
            why = re.sub(r"policy=[\w.-]+(?:, [\w.]+=[^:;,]+)*", "the policy", str(row["why"]))
            found.setdefault(why.removeprefix("the policy: "), []).append(row["policy"])
    return [f"{', '.join(names)} cannot run here: {why}" for why, names in found.items()]


def needs(it: Mapping[str, Any]) -> list[str]:
    """What would help, a sentence each."""
    return [_need(one, it) for one in it["needs"]]


def _need(one: Mapping[str, Any], it: Mapping[str, Any]) -> str:
    what, by = one["what"], f" ({one['policy']})" if one.get("policy") else ""
    if what == "host_memory":
        needed, missing = format_bytes(one["needed_bytes"]), format_bytes(one["missing_bytes"])
        return f"host memory: {needed} for the experts alone, {missing} more than there are"
    if what == "gpu_memory":
        each = " on each GPU" if it["gpus"] > 1 else ""
        if one["needed_bytes"] is None:
            most = format_bytes(one["most_bytes"])
            return f"GPU memory: none is enough; {most}{each}, for all of the model, give {_ms(one['ms'])}"
        needed, missing = format_bytes(one["needed_bytes"]), format_bytes(one["missing_bytes"])
        return f"GPU memory: {needed} in all{each}, {missing} more{by}"
    if what == "bits":
        size = f"{format_bytes(one['expert_bytes'])} of experts, {_ms(one['tpot_ms'])} per token"
        verdict = "are enough" if one["meets"] else "are not enough"
        return f"fewer bits: experts in {one['dtype']} {verdict} ({size}){by}; the output is then another"
    name = {"link": "SSD" if it["unified"] else "link", "host": "host (memory and CPU)"}[what]
    if one["factor"] is None:
        return f"a faster {name}: {one.get('why') or 'not ' + str(one['most']) + ' times as fast is enough'}"
    rate = f"{figure(one['gb_per_s'])} GB/s"
    return f"a faster {name}: {figure(one['factor'])} times as fast, {rate}{by}"


def commands(it: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What runs the winners, simulated and on a device."""
    said = []
    won = it["least"] or it["best"]
    if won is not None:
        on_device = shlex.join(won["real"]) if won["real"] else _not_on_device(it)
        said = [("simulate it", shlex.join(won["run"])), ("run it", on_device)]
        if it["least"] is not None and it["best"]["run"] != won["run"]:
            said.append(("the fastest", shlex.join(it["best"]["run"])))
    return said


def _not_on_device(it: Mapping[str, Any]) -> str:
    if it["from_disk"]:
        return "real/ has no disk below host memory"
    return "real/ has one GPU" if it["gpus"] > 1 else f"real/ computes in 16 and 32 bit, not in {it['dtype']}"


def _rate(cell: Mapping[str, Any]) -> str:
    return f", {figure(cell['tokens_per_s'])} tokens/s" if cell["tokens_per_s"] else ""


def _ms(value: float | None) -> str:
    return f"{figure(value)} ms"
