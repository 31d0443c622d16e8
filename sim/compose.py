"""From the words of a command line to a checked configuration: Hydra composes, this module refuses."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from policies import registry
from sim.config import RunConfig
from sim.sweep.axes import listed
from sim.sweep.plugins import EXTRAS, check_plugin
from traces import conf
from traces.errors import UserError, allowing

GROUPS = ("policy", "model", "hardware", "workload")
CHOICES = (*GROUPS, "experiment", "hydra/launcher", "hydra/sweeper")
"""Keys whose value is the name of a file."""
PATHS = ("trace", "model", "hardware")
"""Keys whose value may be a path as well as a name."""
_FILES: dict[str, str] = {}
"""Profiles' files by the names under which Hydra knows them."""


def read_config(overrides: Sequence[str]) -> RunConfig:
    """Compose ``conf/`` with ``key=value`` words and check the outcome."""
    composed = to_dict(compose_words(overrides))
    listed(composed)
    return RunConfig.from_dict(composed)


def compose_words(overrides: Sequence[str], *, hydra: bool = False) -> DictConfig:
    """Compose ``conf/`` with ``key=value`` words, unchecked; ``hydra``: with Hydra's own settings. UserError."""
    register_policies()
    words = [prepare(word) for word in overrides]
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
        plain = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(str(error).splitlines()[0]) from None
    if not isinstance(plain, dict):
        raise UserError("the configuration is not a mapping")
    return {str(key): value for key, value in plain.items() if key != "hydra"}


def choices(group: str) -> list[str]:
    """The names that a group has, in ``conf/`` and, for policies, from other packages."""
    found = conf.names(group)
    return sorted(found | (set(_policies_elsewhere(found)) if group == "policy" else set()))


def register_policies() -> None:
    """Make policies without a file in ``conf/policy`` (other packages', say) known to Hydra, with their defaults."""
    for name in _policies_elsewhere(conf.names("policy")):
        try:
            known = registry.defaults(name) if registry.parameters(name) else {}
        except UserError:  # told where the policy is asked for: others can still be
            known = {}
        ConfigStore.instance().store(group="policy", name=name, node={"name": name, **known})


def _policies_elsewhere(found: Collection[str]) -> list[str]:
    """Policies without a file; reference rows, which are no choice, are not among them."""
    return [name for name in registry.names() if name not in found and not registry.find(name).clairvoyant]


def prepare(word: str, sweep: bool = False) -> str:
    """Let ``trace=``, ``model=`` and ``hardware=`` take paths, whatever characters are in them."""
    key, separator, value = word.partition("=")
    if not key:
        raise UserError(f"{word}: not understood; write key=value")
    if not separator or key not in PATHS or not value:
        return word
    if sweep and "," in value:
        return f"{key}=" + ",".join(prepare(f"{key}={v}").partition("=")[2] for v in value.split(","))
    if key == "trace":
        return value_word(key, value)
    looks_like_path = "/" in value or "\\" in value or value.endswith((".yaml", ".yml"))
    return f"{key}={_store(key, Path(value))}" if looks_like_path else word


def value_word(key: str, value: str) -> str:
    """An override in Hydra's grammar, quoted where the value needs it, with nothing interpolated."""
    if re.fullmatch(r"[\w./-]+", value, flags=re.ASCII) or value[0] in "'\"":
        return f"{key}={value}"
    # Backslashes count only before a quote, the closing one included.
    escaped = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), value.replace("${", "\\${"))
    return f"{key}='{escaped}'"


def _store(group: str, path: Path) -> str:
    """Read a profile's file and make it known to Hydra under a name of its own."""
    if not path.is_file():
        raise UserError(f"{group}={path}: no such file")
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.safe_load(text)
        if not isinstance(node, dict) or not all(isinstance(key, str) for key in node) or "defaults" in node:
            raise UserError(f"{group}={path}: a mapping of {group} keys is wanted")
        OmegaConf.create(node)
    except (yaml.YAMLError, UnicodeDecodeError, OmegaConfBaseException, RecursionError) as error:
        raise UserError(f"{group}={path}: not a profile in YAML: {' '.join(str(error).split())}") from None
    name = f"file_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    ConfigStore.instance().store(group=group, name=name, node=node)
    _FILES[name] = str(path)
    return name


def shell_word(word: str) -> str:
    """A prepared word as it is given in a shell: a profile's file by its path, and quoted where the shell wants it."""
    key, _, value = word.partition("=")
    return shlex.quote(f"{key}={_FILES.get(value, value)}")


def _explain(error: Exception, words: Sequence[str]) -> str:
    """One line for a person, from Hydra's several. UserError for an extra that is not installed."""
    if isinstance(error, OverrideParseException):
        return f"{error.override}: not understood; write key=value"
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        if group in ("hydra/launcher", "hydra/sweeper"):
            check_plugin(group.removeprefix("hydra/"), name)
        known = [option for option in error.options if not option.startswith("file_")]
        return f"{group}={name}: unknown; {allowing(name, known)}"
    try:
        return _culprit(words) or " ".join(str(error).split())
    except (HydraException, OmegaConfBaseException, ValueError):
        return " ".join(str(error).split())


def _culprit(words: Sequence[str]) -> str | None:
    """Which word it was that Hydra did not take, and why."""
    overrides = OverridesParser.create().parse_overrides(list(words))
    for override in overrides:
        if override.is_sweep_override():
            return f"{override.input_line}: several values; add -m to run each"
        if override.key_or_group in GROUPS and not isinstance(override.value(), str):
            return f"{override.input_line}: the name of a {override.key_or_group} is wanted"
    chosen = [w for w in words if w.partition("=")[0].lstrip("+") in CHOICES]
    for override in overrides:
        if override.key_or_group in CHOICES:
            continue
        node: Any = _compose(chosen, hydra=override.key_or_group.startswith("hydra."))
        for part in override.key_or_group.split("."):
            if not isinstance(node, DictConfig) or part not in node:
                known = [str(key) for key in node] if isinstance(node, DictConfig) else []
                allowed = [key for key in known if key != "hydra" and not key.startswith("_")]
                kind = next((k for k in EXTRAS if override.key_or_group.startswith(f"hydra.{k}.")), None)
                more = f"; hydra/{kind}=NAME chooses another {kind}" if kind else ""
                if override.key_or_group.startswith("hardware.software.policy_us."):
                    more = f"; a policy's own time is added: +{override.input_line}"
                return f"{override.input_line}: no such key; {allowing(part, allowed or ['none here'])}{more}"
            node = node[part]
    return None
