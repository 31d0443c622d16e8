"""An answer in sentences, the first of which is the answer."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from sim.results.wording import room_worded
from traces.kit.units import counted, figure, format_bytes

NAMES = {"tpot": "per token", "ttft": "to the first token", "request": "per request"}


def first(it: Mapping[str, Any]) -> str:
    """The answer, whether it is yes or no."""
    who = f"{it['model_title']} in {it['dtype']} on {machine(it)}"
    best, target = it["best"], it["target"]
    if it["verdict"] == "no host memory":
        host = it["host_memory"]
        need, given = format_bytes(host["needed"]), format_bytes(host["given"])
        return f"No: {who} does not fit: its experts take {need} of host memory, of which there are {given}"
    if it["verdict"] == "no room":
        need = it["needs"][0]
        return f"No: {who} does not fit: {format_bytes(need['missing_bytes'])} of GPU memory are missing"
    with_all = f"{_ms(best['ms'])} {NAMES[it['metric']]}{_rate(best)} with {_with(best)}"
    if it["verdict"] == "meets":
        least = it["least"]
        return f"Yes: {who} meets {target} with {_with(least)} ({_ms(least['ms'])}); at best {with_all}"
    if it["verdict"] == "misses":
        return f"No: {who} fits, and misses {target}: at best {with_all}"
    return f"Yes: {who} fits: {with_all}"


def machine(it: Mapping[str, Any]) -> str:
    """The machine, and its host where another than the profile's was chosen."""
    return f"{it['machine']} with {it['host']}" if it["host"] else str(it["machine"])


def basis(it: Mapping[str, Any]) -> str:
    """On what the answer rests."""
    routing, lengths = "a recorded or given trace", it["lengths"]
    if lengths is not None:
        routing = f"modelled routing (figures {it['routing']}), which nobody recorded"
    return f"simulated on {routing}, and {it['figures']} figures of the machine"


def facts(it: Mapping[str, Any]) -> list[str]:
    """What was asked, and what memory there is."""
    lengths, room, said = it["lengths"], it["room"], list[str]()
    if lengths is not None:
        prompts = f"of {lengths['prompt']:,} prompt and {lengths['output']:,} generated tokens"
        said.append(f"{counted(lengths['measured'], 'request')} {prompts}, batch {it['batch']}, cold start")
        if lengths["prompt"] + lengths["output"] < it["context"]:
            more = _ms(it["attention_ms_of_the_rest"])
            said.append(f"the KV cache is for {it['context']:,} tokens; at its end attention takes {more} more a token")
    said.append(f"room for experts: {format_bytes(room['bytes'])} of {room_worded(room)}")
    total, host = format_bytes(it["expert_bytes"]), it["host_memory"]
    if host is None:
        said.append(f"all experts: {total}, on the SSD: CPU and GPU share one memory, and its link is the SSD")
    elif host["given"] is None:
        said.append(f"all experts: {total}, in host memory (host_memory= says how much there is)")
    elif not host["missing"]:
        spare = format_bytes(host["given"] - host["needed"])
        said.append(f"all experts: {total} of {format_bytes(host['given'])} host memory; {spare} are left for the rest")
    return said


def spread(won: Mapping[str, Any]) -> str:
    """A cell's range over seeds and kinds of routing."""
    kinds = {one["routing"] for one in won["range"]}
    seeds = len(won["range"]) // len(kinds)
    over = f"{counted(len(kinds), 'kind')} of routing and {counted(seeds, 'seed')} each"
    return f"{_ms(won['low_ms'])} to {_ms(won['high_ms'])} over {over if len(kinds) > 1 else counted(seeds, 'seed')}"


def needs(it: Mapping[str, Any]) -> list[str]:
    """What would help, a sentence each."""
    return [_need(one, it) for one in it["needs"]]


def _need(one: Mapping[str, Any], it: Mapping[str, Any]) -> str:
    what, by = one["what"], f" ({one['policy']})" if one.get("policy") else ""
    if what == "host_memory":
        needed, missing = format_bytes(one["needed_bytes"]), format_bytes(one["missing_bytes"])
        return f"host memory: {needed} for the experts alone, {missing} more than there are"
    if what == "gpu_memory":
        if one["needed_bytes"] is None:
            return f"GPU memory: none is enough, not {format_bytes(one['most_bytes'])} for all of the model"
        needed, missing = format_bytes(one["needed_bytes"]), format_bytes(one["missing_bytes"])
        return f"GPU memory: {needed} in all, {missing} more{by}"
    if what == "bits":
        size = f"{format_bytes(one['expert_bytes'])} of experts, {_ms(one['tpot_ms'])} per token"
        verdict = "are enough" if one["meets"] else "are not enough"
        return f"fewer bits: experts in {one['dtype']} {verdict} ({size}){by}; the output is then another"
    name = {"link": "SSD" if it["unified"] else "link", "host": "host (memory and CPU)"}[what]
    if one["factor"] is None:
        return f"a faster {name}: " + one.get("why", f"not {one.get('most')} times as fast is enough")
    rate = f"{figure(one['gb_per_s'])} GB/s"
    return f"a faster {name}: {one['factor']:.3g} times as fast, {rate}{by}"


def commands(it: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What runs the winners, simulated and on a device."""
    said = []
    won = it["least"] or it["best"]
    if won is not None:
        said = [("simulate it", shlex.join(won["run"])), ("run it", shlex.join(won["real"]))]
        if it["least"] is not None and it["best"]["run"] != won["run"]:
            said.append(("the fastest", shlex.join(it["best"]["run"])))
    return said


def lines(it: Mapping[str, Any]) -> Sequence[str]:
    """All of it but the tables, for one machine."""
    return [first(it) + ".", basis(it), *facts(it)]


def _with(cell: Mapping[str, Any]) -> str:
    return f"{format_bytes(cell['budget_bytes'])} for experts ({cell['policy']})"


def _rate(cell: Mapping[str, Any]) -> str:
    return f", {figure(cell['tokens_per_s'])} tokens/s" if cell["tokens_per_s"] else ""


def _ms(value: float | None) -> str:
    return f"{figure(value)} ms"
