"""How to reproduce a run: the words of ``python -m sim run`` that compose its configuration, checked by composing."""

import json
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

from sim.experiment.config import GROUPS, RunConfig, load_config
from sim.prices import figures
from sim.results.columns import leaves
from sim.results.report.cli import Options, write_report
from traces.kit.errors import UserError


def main(options: Options) -> None:
    """``python -m sim report``: the page of results, which knows no configuration, with the commands of its rows."""
    write_report(options, lambda root: Again(root).command)


class Again:
    """Commands for the runs of one folder. Composing takes Hydra 0.1 s, so groups that were seen are kept."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._words: dict[str, list[str] | None] = {}
        self._usual: RunConfig | None = None

    def command(self, folder: str, source: str) -> str:
        """One shell line. A configuration that no words compose here is read from the run's ``config.yaml``."""
        path = self.root / folder / "config.yaml"
        try:
            config = load_config(path)
        except UserError:
            return f"none: {path.name} of this run is not there or not readable"
        if source == "device":
            return self._on_device(folder, config)
        words = self._compose(config)
        if words is not None:
            return shlex.join(["python", "-m", "sim", "run", *words])
        code = (
            "import sys, pathlib, sim.experiment.config as c, sim.experiment.run as r;"
            " r.run_config(c.load_config(pathlib.Path(sys.argv[1])), 'again')"
        )
        return shlex.join(["python", "-c", code, str(path)])

    def _on_device(self, folder: str, config: RunConfig) -> str:
        """What is no key of a configuration (threads, weights) stands in the result; prompts do not."""
        about = json.loads((self.root / folder / "result.json").read_bytes())["provenance"]["device"]
        if about.get("routing") != "of the trace":
            return "none: prompts and decoding are in no configuration; the trace of what was generated is kept"
        words = self._compose(config)
        if words is None:
            return f"none: no words compose {self.root / folder / 'config.yaml'} here"
        # The words' own default is another model, and the routing of a trace is asked for by another key.
        words = [word for word in words if not word.startswith(("trace=", "model=", "bounds="))]
        words += [f"model={config.model['name']}", f"routing={config.trace}", f"weights={about['weights']}"]
        words += [f"threads={about['threads']}", *(["device=cpu"] if about["name"] == "cpu" else [])]
        return shlex.join(["python", "-m", "real", "run", *words])

    def _compose(self, config: RunConfig) -> list[str] | None:
        groups = {group: getattr(config, group) for group in GROUPS}
        key = json.dumps(groups, sort_keys=True, default=str)
        if key not in self._words:
            self._words[key] = self._of_groups(config)
        own = self._words[key]
        if own is None or self._usual is None:
            return None
        plain = [field.name for field in fields(RunConfig) if field.name not in GROUPS]
        # Of the usual configuration the budget alone is not the defaults'.
        rest = [k for k in plain if k == "budget" or getattr(config, k) != getattr(self._usual, k)]
        return [*own, *(f"{key}={_text(getattr(config, key))}" for key in rest)]

    def _of_groups(self, config: RunConfig) -> list[str] | None:
        """Words that compose the groups, or None: a name alone where it is enough, and what else differs."""
        from sim.experiment.compose import read_config
        from sim.experiment.overrides import value_word

        try:
            self._usual = self._usual or read_config(["policy=lru", "budget=1GB"])
            words = [
                f"{group}={getattr(config, group)['name']}"
                for group in GROUPS
                if group == "policy" or getattr(config, group)["name"] != getattr(self._usual, group)["name"]
            ]
            plain = read_config([*words, "budget=1GB"])
            for group in GROUPS:
                several = getattr(config, group).get("gpus", 1) != 1
                usual, there = _settings(plain, group, several), dict(leaves(getattr(plain, group), group))
                for path, value in _settings(config, group).items():
                    if usual.get(path, ...) != value:
                        new = "" if path in there else "+"  # as a policy's own time in a profile that has none
                        # A source is any text; other texts are names and lists.
                        is_source = path.startswith("hardware.sources.")
                        words.append(new + (value_word(path, value) if is_source else f"{path}={_text(value)}"))
            found = read_config([*words, "budget=1GB"])
        except (UserError, KeyError):
            return None
        return words if all(_settings(found, group) == _settings(config, group) for group in GROUPS) else None


def _settings(config: RunConfig, group: str, several: bool | None = None) -> dict[str, Any]:
    given = figures(getattr(config, group), several=several)
    own = {f"{group}.{key}": given[key] for key in ("name", "source") if key in given}
    return own | dict(leaves(given, group))


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
