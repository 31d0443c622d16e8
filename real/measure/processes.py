"""The runtime, the library and accelerate, each in a process of its own, so that the memory of each is its own."""

from real.beside.plan import Plan, preset, run
from real.measure.bench import MAIN, Bench
from traces.kit import conf
from traces.kit.telling import say

MOST_S = 110.0
"""Of the step's time; what does not fit is left out, and the rest written."""


def beside(bench: Bench) -> str:
    """Tokens per second, and the most memory on the device, of as many as the time allows: ``beside.json``.

    What the steps before have in memory is given back first: each process loads the model for itself.
    """
    bench.drop()
    found = run(plan_of(bench), max(1.0, min(MOST_S, bench.clock.left())), say)
    bench.write("beside", found)
    rates = [f"{row['name']} {row['decode_per_s']['median']:.3g} tokens/s" for row in found["rows"]]
    return ", ".join([*rates, *(f"no row for {name}: {why}" for name, why in found["left_out"].items())])


def plan_of(bench: Bench) -> Plan:
    """The rows of a bench, the most telling first of ours."""
    subject, size = bench.subject(MAIN), bench.size
    return Plan(
        ours=size.beside,
        policies={name: preset(name) for name, _ in size.beside},
        hardware=bench.profile(),
        priced=subject.profile(),
        model=subject.model,
        dtype=subject.dtype,
        prompts=str(conf.PROMPTS_FILE),
        device=str(bench.device),
        host_memory=bench.host_memory,
        weights=subject.weights,
        layers=subject.profile().get("moe_layers"),
        limit=1,
        new_tokens=size.new_tokens,
        repeat=2,
        others=size.others,
        offload_tokens=size.accelerate_tokens,
    )
