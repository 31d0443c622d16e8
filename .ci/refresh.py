"""Write constraints.txt: the newest releases that pyproject.toml allows, for each supported Python that is at hand.

    python .ci/refresh.py [PYTHON ...]      # by default python3.11, python3.12 and python3.13, as far as they run

Standard library only. Each Python resolves in a fresh environment of its own, without installing. Try the suite with
the outcome before it is committed. Exit status: 0 written, 1 a Python could not resolve (the file is as it was),
2 a mistake.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "constraints.txt"
SUPPORTED = ("3.11", "3.12", "3.13")
EXTRAS = ("hf", "dev", "notebooks", "joblib", "optuna")
"""Not submitit and ray: hydra-ray-launcher holds others, cloudpickle among them, at releases of years ago."""
DIFFERS = re.compile(r"torch|triton|(nvidia|cuda)-.*|setuptools")
"""By machine: which torch is the machine's to say, and what it takes of these, setuptools too, it says itself."""
HEAD = """\
# Releases that were tested together: pip install -c constraints.txt -e ".[hf,dev]". Written by .ci/refresh.py.
# Without torch, whose build differs by machine. A constraint installs nothing that is not asked for.
"""


def main(words: Sequence[str]) -> int:
    """Resolve on each Python, and write the file whole or not at all; returns the exit status."""
    if any(word.startswith("-") for word in words):
        sys.stdout.write(str(__doc__))
        return 0 if words[0] in ("-h", "--help") else 2
    found = {}
    for python in words or [f"python{version}" for version in SUPPORTED]:
        version = version_of(python)
        if version is not None:
            found[version] = python
        elif words:
            sys.stderr.write(f"error: {python}: does not run; allowed: Python {', '.join(SUPPORTED)}\n")
            return 2
    if other := sorted(found.keys() - set(SUPPORTED)):
        sys.stderr.write(f"error: {found[other[0]]}: is Python {other[0]}; allowed: {', '.join(SUPPORTED)}\n")
        return 2
    if not found:
        sys.stderr.write(f"error: no Python is at hand; allowed: {', '.join(SUPPORTED)}, by name or path\n")
        return 2
    resolved = {}
    for version in sorted(found, key=_key):
        sys.stderr.write(f"Python {version} ...\n")
        try:
            resolved[version] = resolve(found[version])
        except subprocess.CalledProcessError as error:
            sys.stderr.write(f"error: Python {version}: {' '.join(error.cmd[:4])} ...: {last_line(error.stderr)}\n")
            return 1
    whole = FILE.with_name(f".{FILE.name}.new")
    whole.write_text(HEAD + "".join(f"{line}\n" for line in lines(resolved)), encoding="utf-8")
    whole.replace(FILE)
    missing = [version for version in SUPPORTED if version not in resolved]
    more = f"; not at hand: {', '.join(missing)}, so these take the versions of their neighbours" if missing else ""
    sys.stderr.write(f"wrote {FILE.name}: {len(set().union(*resolved.values()))} packages{more}\n")
    return 0


def version_of(python: str) -> str | None:
    """Such as "3.12"; None if it does not run."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        return _run(python, "-c", code).strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def resolve(python: str) -> dict[str, str]:
    """What pip would install into a fresh environment of that Python, by normalised name."""
    with tempfile.TemporaryDirectory() as folder:
        _run(python, "-m", "venv", folder)
        own = str(Path(folder) / "bin" / "python")
        report = Path(folder) / "report.json"
        words = ("--quiet", "--dry-run", "--ignore-installed", "--report", str(report))
        _run(own, "-m", "pip", "install", *words, f"{ROOT}[{','.join(EXTRAS)}]")
        return constrained(json.loads(report.read_bytes()))


def constrained(report: Mapping[str, object]) -> dict[str, str]:
    """Of pip's report, what is to stand in the file: all but ourselves and what differs by machine."""
    ourselves = normal(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"])
    found = {normal(item["metadata"]["name"]): item["metadata"]["version"] for item in report["install"]}  # type: ignore[attr-defined]
    kept = {name: v for name, v in found.items() if name != ourselves and not DIFFERS.fullmatch(name)}
    if labelled := sorted(f"{name} {version}" for name, version in kept.items() if "+" in version):
        raise ValueError(f"{labelled[0]}: a build of this machine's")
    return kept


def lines(resolved: Mapping[str, Mapping[str, str]]) -> list[str]:
    """``name==version``, with a marker where the Pythons differ: a version is that of its Python and of all that lie
    between it and the next one's; the ends are open."""
    out = []
    for name in sorted(set().union(*resolved.values())):
        runs: list[tuple[str, str]] = []  # (first Python, version)
        for python in sorted(resolved, key=_key):
            version = resolved[python].get(name)
            if version is not None and (not runs or runs[-1][1] != version):
                runs.append((python, version))
        for at, (python, version) in enumerate(runs):
            bounds = [f'python_version >= "{python}"'] if at else []
            bounds += [f'python_version < "{runs[at + 1][0]}"'] if at + 1 < len(runs) else []
            out.append(f"{name}=={version}" + (f" ; {' and '.join(bounds)}" if bounds else ""))
    return out


def normal(name: str) -> str:
    """A distribution's name as packaging tools compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def last_line(text: str) -> str:
    """The last line that says something."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no message")


def _key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _run(*command: str) -> str:
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PIP_CONSTRAINT")}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout  # noqa: S603


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
