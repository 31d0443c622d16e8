"""What is priced and on what: a model's sizes and a machine's figures."""

from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from typing import Any

import yaml

from sim.prices.disk import AUTO
from sim.prices.hardware import HardwareProfile
from sim.prices.model import ModelProfile
from traces.kit import conf
from traces.kit.errors import UserError, allowing

__all__ = ["AS_TRACED", "HardwareProfile", "ModelProfile", "figures", "own_title", "shipped", "title_of"]

AS_TRACED = "as_traced"
"""In ``conf/model``, not a model but the choice of what the trace says itself."""


def shipped(group: str, name: str) -> Mapping[str, Any]:
    """The mapping in ``conf/GROUP/NAME.yaml`` (`group`: model, hardware); UserError lists the names there."""
    names = sorted(conf.names(group) - {AS_TRACED})
    if name not in names:
        raise UserError(f"{group}={name!r}: unknown; {allowing(name, names)}")
    return deepcopy(_read(group, name))


@cache
def _read(group: str, name: str) -> Mapping[str, Any]:
    loaded: Mapping[str, Any] = yaml.safe_load((conf.FOLDER / group / f"{name}.yaml").read_text(encoding="utf-8"))
    return loaded


def figures(profile: Mapping[str, Any], *, several: bool | None = None) -> dict[str, Any]:
    """A profile without its title: what results depend on, and what tells two of them apart.

    What was always so, before one could say otherwise, is not said: not tied, no bytes of the dense part, one lane, one
    GPU, no disk, no page cache (nor what only it depends on). Nor, of a machine with one, what only ``several`` GPUs
    have (None: as the profile says): peers and a root.
    """
    of_several = {"peer", "root_gb_per_s"}
    unsaid = [("tied_embeddings", False), ("dense_bytes", None), ("gpus", 1), ("disk", None)]
    unsaid += [(key, None) for key in of_several]
    left_out = {"title"} if (profile.get("gpus", 1) != 1 if several is None else several) else {"title", *of_several}
    said = {key: value for key, value in profile.items() if key not in left_out and (key, value) not in unsaid}
    if isinstance(link := said.get("link"), Mapping):
        said["link"] = {key: value for key, value in link.items() if (key, value) != ("lanes", 1)}
    disk, host = said.get("disk"), said.get("host")
    if isinstance(disk, Mapping) and not disk.get("page_cache"):
        said["disk"] = {key: value for key, value in disk.items() if not key.startswith("page_cache")}
    if isinstance(host, Mapping) and (not isinstance(disk, Mapping) or disk.get("page_cache") != AUTO):
        said["host"] = {key: value for key, value in host.items() if key != "memory_bytes"}
    if isinstance(sources := said.get("sources"), Mapping):
        new = ("peer", ""), ("root_gb_per_s", ""), ("disk", "")
        kept = {key: value for key, value in sources.items() if key not in left_out and (key, value) not in new}
        said["sources"] = kept
    return said


@cache
def title_of(group: str, name: str) -> str:
    """What people call a model or a machine of that name: as its file in ``conf/`` says, else the name itself."""
    return str(shipped(group, name)["title"]) if name in conf.names(group) - {AS_TRACED} else name


def own_title(group: str, profile: ModelProfile | HardwareProfile) -> dict[str, str]:
    """The title that a profile brings itself, for a result; none where the name alone leads to it."""
    usual = ("", title_of(group, profile.name))
    return {} if profile.title in usual else {"title": profile.title}
