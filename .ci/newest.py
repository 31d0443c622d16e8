"""Try a part of the suite on the newest releases that pyproject.toml allows, and say loudly what changed.

    .venv/bin/python .ci/newest.py TESTS ...        (in an environment that has the project with its extras hf and dev)

Everything but torch, in a folder beside the environment. Nothing here fails a build: whatever happens is said, at the
end and in .ci/newest.log, and the exit status is 0. Each step has a limit; all together take 260 s at most.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = "hf,dev"
RESOLVE_S, INSTALL_S, TEST_S = 80, 60, 120
LOG = ROOT / ".ci" / "newest.log"


def main(tests: Sequence[str]) -> int:
    """Say what became of it; returns 0."""
    with tempfile.TemporaryDirectory() as folder:
        said = attempt(Path(folder), tests)
    text = "".join(f"!! {line}\n" for line in ["", "THE NEWEST RELEASES", *said, ""])
    LOG.write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    return 0


def attempt(folder: Path, tests: Sequence[str]) -> list[str]:
    """Resolve, install beside, and run the tests; the lines to be said."""
    pin, report, beside = folder / "torch.txt", folder / "report.json", folder / "beside"
    try:
        pin.write_text(f"torch=={Version(version('torch')).public}\n")
        pip = (sys.executable, "-m", "pip", "install", "--quiet")
        newest = ("--upgrade", "--upgrade-strategy", "eager", "--dry-run", "--report", str(report))
        _run(*pip, *newest, "-c", str(pin), f"{ROOT}[{EXTRAS}]", limit_s=RESOLVE_S)
        found = releases(json.loads(report.read_bytes()))
        changed = changes(found, (ROOT / "constraints.txt").read_text(encoding="utf-8"))
        if not changed:
            return ["nothing is newer than constraints.txt"]
        words = [f"{name}=={release}" for name, release in found.items()]
        _run(*pip, "--no-deps", "--target", str(beside), *words, limit_s=INSTALL_S)
    except subprocess.SubprocessError as error:
        return [f"NOT TRIED: {why(error)}"]
    except Exception as error:  # no build is to fail of this
        return [f"NOT TRIED: {type(error).__name__}: {error}"]
    return [*changed, *outcome(tests, beside)]


def outcome(tests: Sequence[str], beside: Path) -> list[str]:
    """Run the tests with what lies beside; what to say of them."""
    path = os.pathsep.join([str(beside), *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        _run(sys.executable, "-m", "pytest", "-m", "not gpu", *tests, limit_s=TEST_S, PYTHONPATH=path)
    except subprocess.CalledProcessError as error:
        lines = [line for line in str(error.stdout).splitlines() if line.strip()]
        return [f"FAILED on them, exit status {error.returncode}:", *lines[-20:]]
    except subprocess.TimeoutExpired:
        return [f"NOT FINISHED on them within {TEST_S} s"]
    return ["passed on them: run .ci/refresh.py when you like"]


def releases(report: Mapping[str, object]) -> dict[str, str]:
    """What pip would install over what is there: versions by normalised name, without ourselves and torch."""
    ourselves = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"]
    items = [item["metadata"] for item in report["install"]]  # type: ignore[attr-defined]
    found = {str(canonicalize_name(item["name"])): str(item["version"]) for item in items}
    return {name: found[name] for name in sorted(found) if name not in ("torch", canonicalize_name(ourselves))}


def changes(found: Mapping[str, str], constraints: str, python: str = "") -> list[str]:
    """Where a release is not the one in constraints.txt on this Python: "name: tested -> newest"."""
    python = python or platform.python_version()
    where = {"python_full_version": python, "python_version": ".".join(python.split(".")[:2])}
    pinned = [Requirement(line) for line in constraints.splitlines() if line and not line.startswith("#")]
    here = [one for one in pinned if one.marker is None or one.marker.evaluate(where)]
    tested = {one.name: str(one.specifier).removeprefix("==") for one in here}
    return [
        f"{name}: {tested.get(name, 'not needed')} -> {release}"
        for name, release in found.items()
        if tested.get(name) != release
    ]


def why(error: subprocess.SubprocessError) -> str:
    """One line of what a command said: its last error, or else its last word."""
    if isinstance(error, subprocess.TimeoutExpired):
        return f"{' '.join(map(str, error.cmd[1:4]))} took longer than {error.timeout:g} s"
    lines = [line for line in str(getattr(error, "stderr", "")).splitlines() if line.strip()]
    errors = [line.strip() for line in lines if "ERROR: " in line]
    return (errors or lines or [str(error)])[-1]


def _run(*command: str, limit_s: float, **more: str) -> None:
    env = os.environ | more
    # A session of its own, so that the end of the limit ends what it began as well.
    with subprocess.Popen(  # noqa: S603
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, cwd=ROOT, start_new_session=True
    ) as process:
        try:
            out, error = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.communicate()
            raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, out, error)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
