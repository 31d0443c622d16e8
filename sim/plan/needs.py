"""What would meet a target that nothing meets, each found by search: memory, link, host, or fewer bits.

One thing changes at a time. Of a policy that is asked about, any budget counts that it is tried with, so that more of
a thing never makes an answer worse.
"""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from sim.plan.cells import Figures, Runner
from sim.plan.question import Question, meets, value
from sim.plan.search import COARSE, STEPS, least, rungs, size, together

CANDIDATES = 3
"""Policies that are asked, the best at the room: what is slowest there leads nowhere soon."""
PER_OCTAVE, OCTAVES = 8, 6
"""Of factors: 2^(1/8) apart, up to 64 times."""

Need = dict[str, Any]


def needs_of(
    question: Question, names: Sequence[str], on_host: Sequence[str], trace: str, runner: Runner
) -> list[Need]:
    """One entry per thing that could help, whether it does, and by how much; memory that is missing comes first.

    ``names``: the policies that run here, the best first; ``on_host``: those of them that compute there.
    """
    host = [{"what": "host_memory", "missing_bytes": question.missing, "needed_bytes": question.total}]
    if question.missing > question.from_disk:
        return host
    if not names:
        room = question.room
        own = -(-question.least // question.hardware.gpus)
        rest = room.dense_bytes + room.head_bytes + room.kv_bytes + own
        return [{"what": "gpu_memory", "missing_bytes": rest - room.gpu_bytes, "needed_bytes": rest}]
    chosen = names[:CANDIDATES]
    found = host if question.from_disk else []
    found += [_memory(question, chosen, trace, runner), _factor(question, "link", chosen, trace, runner)]
    if on_host:
        found.append(_factor(question, "host", on_host[:CANDIDATES], trace, runner))
    found += _bits(question, chosen, trace, runner)
    return found


def _memory(question: Question, names: Sequence[str], trace: str, runner: Runner) -> Need:
    """The least GPU memory with which one of the policies meets the target, the rest of the model within; of several
    GPUs, of each.
    """
    room, total, gpus = question.room, question.most, question.hardware.gpus
    rest = room.gpu_bytes - room.bytes
    whole = rest - (-total // gpus)
    ample = question.with_hardware({"gpu": {"memory_bytes": whole}})

    def ask(numbers: Mapping[str, int]) -> dict[str, bool]:
        configs = [ample.cell(name, size(number, total), trace) for name, number in numbers.items()]
        return {name: meets(it, question) for name, it in zip(numbers, runner.run(configs), strict=True)}

    here = rungs(total, question.capacity)
    grid = [number for number in range(COARSE, STEPS + 1, COARSE) if number not in here]
    number, name = _first(grid, here[-1] if here else 0, STEPS, names, ask)
    if number is None:
        every = runner.run([ample.cell(name, total, trace) for name in names])
        known = [ms for it in every if (ms := value(it, question)) is not None]
        return {"what": "gpu_memory", "needed_bytes": None, "most_bytes": whole, "ms": min(known, default=None)}
    needed = rest - (-size(number, total) // gpus)
    return {"what": "gpu_memory", "needed_bytes": needed, "missing_bytes": needed - room.gpu_bytes, "policy": name}


def _factor(question: Question, what: str, names: Sequence[str], trace: str, runner: Runner) -> Need:
    """How many times as fast the link, or the host's memory and CPU, would have to be."""
    if question.hardware.measured is not None:
        return {"what": what, "factor": None, "why": "the prices are measured, and stand for this machine alone"}
    top = min(question.capacity, question.most)

    def ask(numbers: Mapping[str, int]) -> dict[str, bool]:
        configs = [faster(question, what, number).cell(name, top, trace) for name, number in numbers.items()]
        return {name: meets(it, question) for name, it in zip(numbers, runner.run(configs), strict=True)}

    most = PER_OCTAVE * OCTAVES
    number, name = _first(range(PER_OCTAVE, most + 1, PER_OCTAVE), 0, most, names, ask)
    if number is None:
        return {"what": what, "factor": None, "most": 2**OCTAVES}
    there = faster(question, what, number).hardware
    rate = there.link.h2d_gb_per_s if what == "link" else there.host.dram_gb_per_s
    return {"what": what, "factor": float(_times(number)), "gb_per_s": float(rate or 0), "policy": name}


def faster(question: Question, what: str, number: int) -> Question:
    """The question of a machine whose ``link`` or ``host`` is 2^(number/8) times as fast; of several GPUs, every link,
    and what they have in common.
    """
    hardware, times = question.hardware, _times(number)
    groups: dict[str, tuple[Any, tuple[str, ...]]] = {
        "link": (hardware.link, ("h2d_gb_per_s", "d2h_gb_per_s")),
        "host": (hardware.host, ("dram_gb_per_s", "cpu_tflops")),
    }
    group, keys = groups[what]
    old = {key: getattr(group, key) for key in keys}
    found = question.with_hardware({what: {key: float(it * times) for key, it in old.items() if it is not None}})
    root = hardware.root_gb_per_s if what == "link" else None
    return found if root is None else found.with_hardware({"root_gb_per_s": float(root * times)})


def _times(number: int) -> Fraction:
    """As three figures."""
    return Fraction(f"{2 ** (number / PER_OCTAVE):.3g}")


def _first(
    grid: Sequence[int],
    low: int,
    last: int,
    names: Sequence[str],
    ask: Callable[[Mapping[str, int]], Mapping[str, bool]],
) -> tuple[int | None, str]:
    """The least number with which any of ``names`` meets the target, and which; the coarse ``grid`` is tried first."""
    begun, known = {}, low
    for number in grid:
        met = ask(dict.fromkeys(names, number))
        begun = {name: least(known, number, last) for name in names if met[name]}
        if begun:
            break
        known = number
    if not begun:
        return None, ""
    found = together(begun, ask)
    best = min(found, key=lambda name: (found[name].number, list(names).index(name)))
    return found[best].number, best


def _bits(question: Question, names: Sequence[str], trace: str, runner: Runner) -> list[Need]:
    """Narrower experts, with which dtype one of the policies meets the target: other weights, so another output."""
    found: list[Need] = []
    for dtype in question.narrower:
        narrow = question.in_dtype(dtype)
        top = min(narrow.capacity, narrow.most)
        cells = runner.run([narrow.cell(name, top, trace) for name in names])
        good = [(it, name) for it, name in zip(cells, names, strict=True) if meets(it, question)]
        ms = [it.latency_ms["tpot"] for it in cells if isinstance(it, Figures)]
        known = [spread["mean"] for spread in ms if spread is not None]
        found.append(
            {"what": "bits", "dtype": dtype, "meets": bool(good), "expert_bytes": narrow.total}
            | {"tpot_ms": min(known, default=None), "policy": good[0][1] if good else None}
        )
        if good:
            break
    return found
