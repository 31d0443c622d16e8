"""Other people's deprecations fail no user's test run, and do fail where they are asked for; all else fails always."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("Deprecation", "PendingDeprecation", "Future")
TESTS = """\
import logging
import warnings

import pytest

log = logging.getLogger("somebody.elses")


def their_function():
    warnings.warn("`old` is deprecated; use `new`", FutureWarning, stacklevel=2)  # about our call of theirs


@pytest.mark.parametrize("kind", [DeprecationWarning, PendingDeprecationWarning, FutureWarning])
def test_warned(kind):
    warnings.warn("gone soon", kind)


def test_about_our_call():
    their_function()


def test_logged():
    log.setLevel(logging.ERROR)  # as transformers' is while a model loads
    log.warning("`%s` is deprecated and will be removed in version 9", "torch_dtype")


@pytest.fixture
def loaded():
    log.warning("The argument will be removed in v9")


def test_logged_by_a_fixture(loaded):
    pass


def test_nothing_of_the_kind():
    log.warning("took long")


def test_something_else():
    warnings.warn("and this is ours to mend", ResourceWarning)
"""


@pytest.mark.ci
@pytest.mark.parametrize("asked_for", [False, True])
def test_they_fail_where_they_are_asked_for(asked_for: bool, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    plugin = ["-p", "deprecations"] if asked_for else []
    # A process of its own, with the project's own settings; -n 1: workers are to have the plugin too.
    words = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path), "-n", "1", "-p", "no:cacheprovider", "-rA"]
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT / ".ci"), *filter(None, [env.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "pytest", *plugin, *words, str(tmp_path / "test_it.py")]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    ended = {name: how for how, name in re.findall(r"^(PASSED|FAILED|ERROR) \S*::(\S+)", done.stdout, re.MULTILINE)}
    about = ["test_about_our_call", "test_logged", *(f"test_warned[{k}Warning]" for k in KINDS)]
    assert ended == {
        **dict.fromkeys(about, "FAILED" if asked_for else "PASSED"),
        "test_logged_by_a_fixture": "ERROR" if asked_for else "PASSED",
        "test_nothing_of_the_kind": "PASSED",
        "test_something_else": "FAILED",
    }, done.stdout
    if not asked_for:
        assert "`old` is deprecated; use `new`" in done.stdout, "they are shown"


def test_none_of_them_is_ours() -> None:
    """So that every one is another's, and none of our own warnings goes by."""
    raised = re.compile(rf"\b({'|'.join(KINDS)})Warning\b|warnings\.(deprecated|filterwarnings)|-W ")
    for room in ("traces", "policies", "sim", "real"):
        for path in (ROOT / room).rglob("*.py"):
            assert not raised.search(path.read_text(encoding="utf-8")), path
