"""Hydra's launchers and sweepers: extras, chosen by the user and never by ``conf/``."""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

from traces.kit.errors import UserError, allowing, one_of

EXTRAS = {
    "launcher": {
        "joblib": "joblib",
        "submitit_local": "submitit",
        "submitit_slurm": "submitit",
        "ray": "ray",
        "ray_aws": "ray",
    },
    "sweeper": {"optuna": "optuna"},
}
"""Which extra brings a launcher or a sweeper."""


def check_plugins(words: Sequence[str]) -> None:
    """UserError, naming the extra, if a launcher or a sweeper among the words is not installed."""
    for word in words:
        key, _, name = word.lstrip("+").partition("=")
        kind = key.removeprefix("hydra/")
        if key == f"hydra/{kind}" and kind in EXTRAS:
            check_plugin(kind, name)


def check_plugin(kind: str, name: str) -> None:
    """UserError, naming the extra, if there is no such ``kind`` (launcher or sweeper)."""
    there = installed(kind)
    if name in there:
        return
    if name in EXTRAS[kind]:
        extra = EXTRAS[kind][name]
        raise UserError(
            f"hydra/{kind}={name}: not installed; pip install 'moe-offload-workbench[{extra}]', or in a checkout"
            f" pip install -e '.[{extra}]'; installed: {one_of(there)}"
        )
    raise UserError(f"hydra/{kind}={name}: unknown; {allowing(name, sorted({*there, *EXTRAS[kind]}))}")


def installed(kind: str) -> list[str]:
    """The launchers or sweepers that Hydra has found."""
    Plugins.instance()
    found = (name.removesuffix(".yaml") for name in ConfigStore.instance().list(f"hydra/{kind}"))
    return sorted(name for name in found if name in (*EXTRAS[kind], "basic"))
