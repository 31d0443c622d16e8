"""Words of a command line composed by Hydra, and what it does not take, in one line."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from policies import registry
from sim.experiment.config import GROUPS
from sim.experiment.groups import choices, policies_elsewhere
from sim.experiment.overrides import parse, prepare
from sim.prices import HardwareProfile
from traces.kit import conf
from traces.kit.errors import UserError, allowing, one_of

CHOICES = (*GROUPS, "host", "experiment", "hydra/launcher", "hydra/sweeper")
"""Keys whose value is the name of a file."""
EXTRAS = {
    "hydra/launcher": {
        "joblib": "joblib",
        **dict.fromkeys(("submitit_local", "submitit_slurm"), "submitit"),
        **dict.fromkeys(("ray", "ray_aws"), "ray"),
    },
    "hydra/sweeper": {"optuna": "optuna"},
}
"""Which extra brings a launcher or a sweeper: chosen by the user, and never by ``conf/``."""


def sweeper_of(composed: DictConfig) -> Mapping[str, Any]:
    """Hydra's settings for the sweeper, the experiment's included."""
    found = OmegaConf.to_container(composed.hydra.sweeper, resolve=False)
    return {str(key): value for key, value in found.items()} if isinstance(found, dict) else {}


def compose_words(overrides: Sequence[str], *, hydra: bool = False) -> DictConfig:
    """Compose ``conf/`` with ``key=value`` words, unchecked; ``hydra``: with Hydra's own settings. UserError."""
    register_policies()
    words = [prepare(word) for word in overrides]
    _check_names(words)
    try:
        return _compose(words, hydra=hydra)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UserError(_explain(error, words)) from None
    except yaml.YAMLError as error:  # of a file in conf/, which it names
        raise UserError(f"not YAML: {' '.join(str(error).split())}") from None


def _compose(words: Sequence[str], *, hydra: bool = False) -> DictConfig:
    with initialize_config_dir(str(conf.FOLDER), version_base="1.3"):
        return compose("config", overrides=list(words), return_hydra_config=hydra)


def to_dict(composed: DictConfig) -> dict[str, Any]:
    """The composed configuration as plain Python, interpolations resolved."""
    try:
        ours = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
        plain = OmegaConf.to_container(ours, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {str(error).splitlines()[0]}") from None
    if not isinstance(plain, dict):
        raise UserError("the configuration is not a mapping")
    return {str(key): value for key, value in plain.items()}


def register_policies() -> None:
    """Make policies without a file in ``conf/policy`` (other packages', say) known to Hydra, with their defaults."""
    for name in policies_elsewhere(conf.names("policy")):
        try:
            known = registry.defaults(name) if registry.parameters(name) else {}
        except UserError:  # told where the policy is asked for: others can still be
            known = {}
        ConfigStore.instance().store(group="policy", name=name, node={"name": name, **known})


def _check_names(words: Sequence[str]) -> None:
    """UserError where the name of a group's file is wanted, and something else is given."""
    for override in map(parse, words):
        group, value = override.key_or_group, override.value()
        if group not in (*GROUPS, "host") or override.is_delete() or override.is_sweep_override():
            continue
        if not isinstance(value, str) or "${" in value:
            allowed = one_of(choices(group))
            raise UserError(f"{override.input_line}: the name of a {group} is wanted; allowed: {allowed}")


def _explain(error: Exception, words: Sequence[str]) -> str:
    """One line for a person, from Hydra's several."""
    if isinstance(error, OverrideParseException):
        return f"{error.override}: not understood; write key=value"
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        known = [option for option in error.options if not option.startswith("file_")]
        extras = EXTRAS.get(group, {})
        if name in extras:
            of = f"[{extras[name]}]'"
            return (
                f"{group}={name}: not installed; pip install 'moe-offload-workbench{of}, or in a checkout pip install"
                f" -e '.{of}; installed: {one_of(sorted({'basic', *extras} & {*known}))}"
            )
        return f"{group}={name}: unknown; {allowing(name, sorted({'basic', *extras}) if extras else known)}"
    found = None
    with suppress(HydraException, OmegaConfBaseException, ValueError):
        found = _culprit(words)
    return found or " ".join(str(error).split())


def _culprit(words: Sequence[str]) -> str | None:
    """Which word it was that Hydra did not take, and why."""
    overrides = [parse(word) for word in words]
    for override in overrides:
        if override.is_sweep_override():
            return f"{override.input_line}: several values; add -m to run each"
    chosen = [w for w in words if w.partition("=")[0].lstrip("+") in CHOICES]
    for override in overrides:
        if override.key_or_group in CHOICES:
            continue
        node: Any = _compose(chosen, hydra=override.key_or_group.startswith("hydra."))
        for part in override.key_or_group.split("."):
            if not isinstance(node, DictConfig) or part not in node:
                known = [str(key) for key in node] if isinstance(node, DictConfig) else []
                allowed = [key for key in known if key != "hydra" and not key.startswith("_")]
                group = "/".join(override.key_or_group.split(".")[:2])
                if (other := _of_another_workload(override.key_or_group, node)) is not None:
                    return f"{override.input_line}: {other}; allowed here: {one_of(allowed)}"
                more = f"; {group}=NAME chooses another {group[6:]}" if group in EXTRAS else ""
                if override.key_or_group.startswith("hardware.software.policy_us."):
                    more = f"; a policy's own time is added: +{override.input_line}"
                elif override.key_or_group == f"hardware.{part}" and part in HardwareProfile.__dataclass_fields__:
                    more = f"; a profile that does not say it takes it as +{override.input_line}"
                return f"{override.input_line}: no such key; {allowing(part, allowed or ['none here'])}{more}"
            node = node[part]
        if isinstance(node, DictConfig) and not override.is_delete():
            return _no_group(override, [str(key) for key in node])
    return None


def _of_another_workload(key: str, node: Any) -> str | None:
    """Whose key it is, where another workload has it; what takes its place, where there is something."""
    group, _, name = key.partition(".")
    if group != "workload" or not isinstance(node, DictConfig):
        return None
    for path in sorted((conf.FOLDER / "workload").glob("*.yaml")):
        if name in yaml.safe_load(path.read_text(encoding="utf-8")):
            instead = "; those that run at a time are workload.max_num_seqs" if name == "batch" else ""
            return f"of workload={path.stem}, and this is workload={node['name']}{instead}"
    return None


def _no_group(override: Override, known: Sequence[str]) -> str | None:
    """Why a value cannot take the place of a group of keys."""
    value, key = override.value(), override.key_or_group
    if not isinstance(value, Mapping):
        return f"{override.input_line}: a group of keys; allowed: {one_of(f'{key}.{k}' for k in known)}"
    unknown = next((k for k in value if str(k) not in known), None)
    return None if unknown is None else f"{override.input_line}: {key} has no key {unknown}; {allowing(unknown, known)}"
