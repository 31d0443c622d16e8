"""What a first reader is told of runs: whose routing it is, as what it is priced, and whether it was simulated.

Tables and commands keep the names that one types; titles are what models, machines and policies are called elsewhere.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from policies import registry
from sim.prices import title_of
from sim.results.label import label
from traces.format.layout import SIGNALS
from traces.kit.errors import UserError, one_of
from traces.kit.units import format_bytes

ROUTING = "routing"
"""What expert_ids are called where they were modelled."""
SAID = {"scope=layer": "per layer", "scope=global": "one pool"}
"""Settings of policies that are said in words."""


@dataclass(frozen=True, slots=True)
class Titles:
    """The parts of :func:`titles`, for a page that has a place of its own for each."""

    routing: str
    """``tiny-moe (14 M parameters)``"""
    priced_as: str
    """``OLMoE-1B-7B``, with what was changed; ``itself`` where the routing is its own."""
    how: str
    """``simulated`` or ``measured``"""
    machine: str
    """``RTX 4090 (published figures)``; a device's run: ``H200``"""
    prices: str = ""
    """Of a device's run, what told the policies their prices: ``RTX 4090, published figures``"""

    def __str__(self) -> str:
        """:attr:`work` and :attr:`where` in one line."""
        return f"{self.work}, {self.where}"

    @property
    def work(self) -> str:
        """``routing of tiny-moe (14 M parameters), priced as OLMoE-1B-7B``"""
        return f"routing of {self.routing}, priced as {self.priced_as}"

    @property
    def where(self) -> str:
        """``simulated on RTX 4090 (published figures)``, ``measured on H200 (policies' prices: ...)``"""
        return f"{self.how} on {self.machine}" + (f" (policies' prices: {self.prices})" if self.prices else "")


def titles(row: Any) -> Titles:
    """Of a row of ``sim.load``, or of a result by way of :func:`sim.results.columns.row`."""
    own = row["routing_from"] == row["model"]
    device = row["source"] == "device"
    profile, figures = str(_title(row, "hardware")), f"{row['figures']} figures"
    return Titles(
        routing=title_of("model", str(row["routing_from"])) + (" (modelled)" if _parts(row, ROUTING) else ""),
        priced_as="itself" if own else str(_title(row, "model")),
        how="measured" if device else "simulated",
        machine=str(row["device"]) if device else _with(profile, figures + _host_memory(row)),
        prices=f"{profile}, {figures}" if device else "",
    )


def _host_memory(row: Any) -> str:
    """What the host holds, above a disk; nothing where it holds all experts, as in tables of an earlier version."""
    nbytes = row.get("host_memory_bytes")
    if not isinstance(nbytes, Integral):
        return ""
    kept = f"{row['host_tier']}, {row['host_policy']}"
    return f", {format_bytes(int(nbytes))} of experts in host memory ({kept}) above a disk"


def modelled(about: Mapping[str, Mapping[str, Any]]) -> str:
    """What a run rests on that nobody recorded: ``routing (figures gpt_oss_20b); gate_ahead (recall 0.87, 0.79)``."""
    # Names of figures are anybody's: a semicolon in one is no end of a part.
    return "; ".join(_modelled(name, it).replace(";", ",") for name, it in about.items())


def rests_on(rows: Iterable[Mapping[Any, Any]]) -> str:
    """Of rows as of :func:`titles`, in one line: what was modelled, for which policies; "" if all was recorded.

    Signals that the same policies read stand together; so does what is told of a signal in several traces.
    """
    told, users, labels = dict[str, dict[str, None]](), dict[str, dict[str, None]](), dict[str, dict[str, None]]()
    for row in rows:
        name = str(row["policy_label"])
        labels.setdefault(name.partition(" (")[0], {})[name] = None
        for part in _parts(row):
            signal, _, how = part.partition(" (")
            users.setdefault(signal, {})[name] = None
            told.setdefault(signal, {}).update({how.removesuffix(")"): None} if how else {})
    groups: dict[str, list[str]] = {}
    for signal in sorted(users, key=lambda signal: signal != ROUTING):
        words = f"{signal} ({' or '.join(told[signal])})" if told[signal] else signal
        who = "" if signal == ROUTING else f" of {', '.join(_together(users[signal], labels))}"
        groups.setdefault(who, []).append(words)
    said = "; ".join(f"{', '.join(parts)}{who}" for who, parts in groups.items())
    return f"modelled, not recorded: {said}" if said else ""


def _together(some: Collection[str], labels: Mapping[str, Collection[str]]) -> list[str]:
    """The policies of ``some`` labels: by its name alone where all ``labels`` of that name are among them."""
    found: list[str] = []
    for name, all_of_it in labels.items():
        its = [it for it in all_of_it if it in some]
        found += [name] if its and len(its) == len(all_of_it) else its
    return found


def cells_rest_on(cells: Iterable[Mapping[str, Any]]) -> str:
    """:func:`rests_on` of a validation's cells (``python -m real validate``)."""
    return rests_on({"policy_label": label(it["policy"]), "modelled": modelled(it.get("modelled", {}))} for it in cells)


def _modelled(name: str, about: Mapping[str, Any]) -> str:
    told = [
        f"{key} {one_of(it) if isinstance(it, list) else it}" for key in ("figures", "recall") if (it := about.get(key))
    ]
    if name == "expert_ids":
        return f"{ROUTING} ({', '.join(told)})" if told else ROUTING
    if name not in SIGNALS:
        return f"{name} (from {', '.join(ROUTING if signal == 'expert_ids' else signal for signal in about)})"
    return f"{name} ({told[-1]})" if about.get("recall") else name


def _parts(row: Any, of: str = "") -> list[str]:
    """What :func:`modelled` made one text of, or what of it is ``of``; [] of a table of an earlier version."""
    found = row.get("modelled")
    parts = found.split("; ") if isinstance(found, str) and found else []
    return [part for part in parts if part.partition(" (")[0] == of] if of else parts


def policy(labelled: str) -> str:
    """What a policy is called, from its label (:func:`sim.results.label.label`): LRU per layer."""
    name, _, settings = labelled.partition(" (")
    try:
        title = registry.find(name).title or name
    except UserError:  # of a package that is not installed here
        title = name
    parts = settings.removesuffix(")").split(", ") if settings else []
    rest = ", ".join(part for part in parts if part not in SAID)
    return " ".join([title, *(SAID[part] for part in parts if part in SAID)]) + (f" ({rest})" if rest else "")


def profile(result: Mapping[str, Any], group: str) -> str:
    """What a run's model or hardware is called, with the settings in which it is not the shipped one of its name."""
    about = result["provenance"][group]
    return with_changes(result, group, str(about.get("title") or title_of(group, str(about["name"]))))


def with_changes(result: Mapping[str, Any], group: str, name: str = "") -> str:
    """A run's model or hardware by its name (or ``name``), with the settings in which it is not the shipped one."""
    own = []
    for path in result["provenance"][group]["changed"]:
        if path.startswith("sources."):  # where a figure is from is none
            continue
        value: Any = result["config"][group]
        for part in path.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        own.append(f"{path}={value}")
    name = name or str(result["provenance"][group]["name"])
    return f"{name} ({', '.join(own)})" if own else name


def _title(row: Any, group: str) -> Any:
    """Tables that were saved by an earlier version have no titles."""
    return row.get(f"{group}_title") or title_of(group, str(row[group]))


def _with(name: str, more: str) -> str:
    """``RTX 4090 (published figures)``, ``RTX 4090 (link.depth=2, published figures)``."""
    return f"{name[:-1]}, {more})" if name.endswith(")") else f"{name} ({more})"
