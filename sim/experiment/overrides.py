"""Words of a command line as Hydra's grammar has them: what it would misread is quoted, and files get a name."""

import hashlib
import json
import re
import shlex
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from traces.kit import conf
from traces.kit.errors import UserError, one_of
from traces.models.profile import profile_of

PATHS = ("trace", "model", "hardware")
"""Keys whose value may be a path as well as a name."""
_FILES: dict[str, str] = {}
"""Profiles' files by the names under which Hydra knows them."""


def prepare(word: str, sweep: bool = False) -> str:
    """A word in Hydra's grammar: what it does not take as a value is plain text, for whoever reads the key to judge.

    ``trace=``, ``model=`` and ``hardware=`` take paths, whatever characters are in them. UserError for no key.
    """
    key, separator, value = word.partition("=")
    if not key:
        raise UserError(f"{word}: not understood; write key=value")
    if "\0" in word or word.encode(errors="ignore").decode() != word:  # bytes that a shell let pass
        raise UserError(f"{ascii(word)[1:-1]}: not a text in UTF-8")
    if not separator or not value:
        return _parsable(word)
    if sweep and value[0] in "[{":  # a list was meant, and is not one text
        return _parsable(word, quoting=False)
    if sweep and "," in value and key in PATHS:
        return f"{key}=" + ",".join(prepare(f"{key}={v}").partition("=")[2] for v in value.split(","))
    if key == "trace":
        return _parsable(value_word(key, value))
    looks_like_path = "/" in value or "\\" in value or value.endswith((".yaml", ".yml", ".json"))
    return f"{key}={_store(key, Path(value))}" if key in PATHS and looks_like_path else _parsable(word)


def _parsable(word: str, *, quoting: bool = True) -> str:
    """The word, its value quoted if Hydra has no other way to read it. UserError for what has no key."""
    key, separator, value = word.partition("=")
    quoting = quoting and bool(separator)
    for tried in (word, _quoted(key, value)) if quoting else (word,):
        with suppress(HydraException):
            parse(tried)
            return tried
    if not quoting:
        raise UserError(f"{word}: not understood; write key=value")
    raise UserError(f"{word}: no such key (python -m sim run --help lists them)")


@cache
def parse(word: str) -> Override:
    """What Hydra reads in a word. HydraException."""
    return OverridesParser.create().parse_override(word)


def value_word(key: str, value: str) -> str:
    """An override in Hydra's grammar that gives a text, quoted where that needs it, with nothing interpolated."""
    plain = re.fullmatch(r"[\w./-]+", value, flags=re.ASCII)  # to Hydra a number, a truth, null or a text
    if value[0] in "'\"" or (plain and isinstance(parse(f"key={value}").value(), str)):
        return f"{key}={value}"
    return _quoted(key, value)


def _quoted(key: str, value: str) -> str:
    # Backslashes count only before a quote, the closing one included.
    escaped = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), value.replace("${", "\\${"))
    return f"{key}='{escaped}'"


def _store(group: str, path: Path) -> str:
    """Read a profile's file, or a model's config.json, and make it known to Hydra under a name of its own."""
    if group == "model" and _is_config(path):
        node = profile_of(path)
        return _known(group, json.dumps(node), node, path)
    if not path.is_file():
        raise UserError(
            f"{group}={path}: no such file; allowed: a profile's file, or {one_of(sorted(conf.names(group)))}"
        )
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.safe_load(text)
        if not isinstance(node, dict) or not all(isinstance(key, str) for key in node) or "defaults" in node:
            raise UserError(f"{group}={path}: a mapping of {group} keys is wanted")
        OmegaConf.create(node)
    except (yaml.YAMLError, ValueError, AttributeError, OmegaConfBaseException, RecursionError) as error:
        # YAML says 2026-13-01 by a ValueError, a !!timestamp that is none by an AttributeError
        raise UserError(f"{group}={path}: not a profile in YAML: {' '.join(str(error).split())}") from None
    return _known(group, text, node, path)


def _is_config(path: Path) -> bool:
    """Whether it is a model's config.json or the folder of one, and not a profile, which may be written in JSON too."""
    if path.suffix == ".json":
        with suppress(OSError, ValueError, TypeError, RecursionError):
            return "expert_bytes" not in json.loads(path.read_text(encoding="utf-8"))
    return path.suffix == ".json" or path.is_dir()


def _known(group: str, text: str, node: dict[str, Any], path: Path) -> str:
    name = f"file_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    ConfigStore.instance().store(group=group, name=name, node=node)
    _FILES[name] = str(path)
    return name


def shell_word(word: str) -> str:
    """A prepared word as it is given in a shell: a profile's file by its path, and quoted where the shell wants it."""
    key, _, value = word.partition("=")
    return shlex.quote(f"{key}={_FILES.get(value, value)}")
