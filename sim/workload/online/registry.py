"""Which disciplines there are: the one class with a ``name`` of each file in ``disciplines/``, named as the file."""

import pkgutil
from functools import cache
from importlib import import_module

from sim.workload.online import disciplines
from sim.workload.online.schedule import Limits, Scheduler
from traces.kit.errors import UserError, check_choice


def names() -> list[str]:
    """All disciplines, sorted."""
    return sorted(_catalogue())


def build(name: str, limits: Limits) -> Scheduler:
    """A scheduler that has seen nobody yet. UserError for a discipline that does not exist, or not by these limits."""
    check_choice("workload.discipline", name, names())
    if limits.layer_major and (other := not_by_layer(name)):
        raise UserError(f"workload.prefill_order=layer_major: allowed: {other}")
    return _catalogue()[name](limits)


def not_by_layer(name: str) -> str:
    """What is allowed instead of ``layer_major`` where the discipline has no meaning for it; "" where it has one."""
    kinds = _catalogue()
    if not (why := kinds[name].chunks_only):
        return ""
    able = [other for other in sorted(kinds) if not kinds[other].chunks_only]
    return f"chunk_major, as discipline={name} {why}; or discipline={', '.join(able)}"


@cache
def _catalogue() -> dict[str, type[Scheduler]]:
    found: dict[str, type[Scheduler]] = {}
    for info in pkgutil.iter_modules(disciplines.__path__, f"{disciplines.__name__}."):
        module = import_module(info.name)
        for kind in vars(module).values():
            if isinstance(kind, type) and issubclass(kind, Scheduler) and kind.__module__ == info.name:
                file = info.name.rpartition(".")[2]
                if kind.name != file:
                    raise TypeError(f"{info.name}: {kind.__qualname__}.name is {kind.name!r}; it is that of its file")
                found[file] = kind
    return found
