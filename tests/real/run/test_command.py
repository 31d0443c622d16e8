"""``python -m real run`` as one uses it: its answers as they come, and the ways in which it may end."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import real
from real.cli import main
from real.run.serving import Serving
from real.run.shown import Line, Page
from real.run.stream import Stream, Token
from tests.real.run.cases import ids_of, library, offloaded, stream
from tests.traces.models.tiny import tiny
from traces import open_trace
from traces.kit.errors import UserError
from traces.models.load import load

ROOT = Path(__file__).parents[3]
WORDS = ["run", "policy=lru", "budget=50%", "threads=1", "device=cpu"]
PROMPT = "The firewall decides"


def left(out: Path) -> tuple[dict[str, Any], str]:
    """The result of the one run there, whose trace can be opened, and the text."""
    (folder,) = out.iterdir()
    (line,) = (folder / "texts.jsonl").read_text().splitlines()
    assert len(open_trace(folder / "trace").requests) == 1
    return json.loads((folder / "result.json").read_text()), json.loads(line)["text"]


@pytest.mark.ci
def test_ctrl_c_leaves_what_there_is(tmp_path: Path) -> None:
    env = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    words = [*WORDS, f"prompt={PROMPT}", f"out={tmp_path}", "max_new_tokens=1000"]
    command = [sys.executable, "-m", "real", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, env=env) as process:
        assert process.stdout is not None
        first = process.stdout.read(1)  # it has begun to answer
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in err
    (folder,) = tmp_path.iterdir()
    assert err.decode().splitlines()[-1] == f"interrupted: {folder} has what there is"
    document, text = left(tmp_path)
    assert document["provenance"]["device"]["interrupted"] == "1 of 1 requests had begun"
    assert (first + out).decode() == text + "\n\n"  # and no table behind it


@pytest.mark.ci
def test_whoever_reads_no_more_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As ``| head`` does: a pipe whose other end is closed."""
    ours, theirs = os.pipe()
    threads = threading.active_count()
    with os.fdopen(theirs, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        os.close(ours)
        assert main([*WORDS, f"prompt={PROMPT}", f"out={tmp_path}", "max_new_tokens=1000"]) == 141
    assert capsys.readouterr().err == f"written to {next(tmp_path.iterdir())}\n"
    assert "interrupted" in left(tmp_path)[0]["provenance"]["device"]
    assert threading.active_count() == threads


@pytest.mark.ci
def test_a_batch_system_ends_it_likewise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what was there for signals before is there again."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    threads = threading.active_count()
    add = Page.add

    def told(page: Page, token: Token) -> None:
        add(page, token)
        if token.index == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Page, "add", told)
    assert main([*WORDS, f"prompt={PROMPT}", f"out={tmp_path / 'out'}", "max_new_tokens=1000"]) == 143
    assert "interrupted: " in capsys.readouterr().err
    document, _ = left(tmp_path / "out")
    assert "interrupted" in document["provenance"]["device"]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert threading.active_count() == threads


def test_answers_come_one_after_the_other_and_then_the_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two at a time, which come in turns; the second is as short as a token."""
    prompts = tmp_path / "prompts.jsonl"
    lines = [{"prompt": PROMPT, "source": "a"}, {"prompt": "def", "source": "b", "max_new_tokens": 1}]
    prompts.write_text("".join(json.dumps(line) + "\n" for line in [*lines, lines[0]]))
    more = [f"prompts={prompts}", f"out={tmp_path / 'out'}", "max_new_tokens=5", "workload.batch=2"]
    assert main([*WORDS, *more]) == 0
    printed = capsys.readouterr()
    (folder,) = (tmp_path / "out").iterdir()
    texts = [json.loads(line)["text"] for line in (folder / "texts.jsonl").read_text().splitlines()]
    page = "".join(
        f"--- {n} of 3: {source}\n{text}\n\n" for n, source, text in zip((1, 2, 3), "aba", texts, strict=True)
    )
    assert printed.out.startswith(page)
    assert printed.out[len(page) :].startswith("lru at 25.2 MB: ")
    assert printed.err == f"written to {folder}\n"  # no terminal, no line of progress
    assert open_trace(folder / "trace").manifest.decoding["repetition_penalty"] == 1
    assert main([*WORDS, *more, "format=json"]) == 0
    assert json.loads(capsys.readouterr().out)["policy"]["name"] == "lru"


def test_a_page_waits_for_its_turn() -> None:
    out = io.StringIO()
    page = Page(out, ["1 of 2: a", "2 of 2: b"], [1, 0])  # the second of those asked is served first
    said = [(0, "x", None, ""), (1, "a", None, "--- 1 of 2: a\na"), (0, "y", "stop", ""), (1, "b", None, "b")]
    said.append((1, "", "length", "\n\n--- 2 of 2: b\nxy\n\n"))
    for request, text, end, written in said:
        before = out.getvalue()
        page.add(Token(request, 0, 0, text, end, 0.0))  # type: ignore[arg-type]
        assert out.getvalue() == before + written


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.ci
@pytest.mark.parametrize("below", [True, False])
def test_a_terminal_is_told_how_it_goes(below: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr(sys, "stdout", Terminal() if below else io.StringIO())
    monkeypatch.setattr("real.run.shown.EVERY_S", 0)
    line, found = Line(), stream(offloaded(tiny("olmoe")), ["a", "b"], max_new_tokens=3)
    for token in found:
        line.note(found, token)
    line.end(found)
    told = stderr.getvalue()
    assert "6 tokens, " in told
    assert "tokens/s, hits " in told
    assert "%, link busy " in told
    assert ("\r" in told) != below
    assert told.count("\n") == (2 if below else 1)


def test_from_python_in_a_few_lines() -> None:
    whole = load("tiny-moe", "float32", "cpu")
    ids = whole.tokenizer(PROMPT)["input_ids"]
    wanted = library(whole.model, ids, max_new_tokens=6)
    model = real.load(device="cpu", threads=1)
    found = list(real.generate(model, PROMPT, policy="lru", budget="50%", max_new_tokens=6))
    assert ids_of(found) == wanted
    drawn = library(whole.model, ids, 3, max_new_tokens=6, top_k=0, temperature=1.5)
    again = real.generate(model, [PROMPT], decoding="sampled", temperature=1.5, seed=3, max_new_tokens=6)
    assert ids_of(list(again)) == drawn
    assert again.progress().tokens == 6
    assert again.result()["policy"]["name"] == "lru"
    assert isinstance(again, real.Stream)
    with pytest.raises(AttributeError, match="nothing"):
        real.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("prompts", "how", "said"),
    [
        ("a", {"policy": "lro"}, "policy=lro.*did you mean lru"),
        ("a", {"budget": "8GBB"}, "budget='8GBB'"),
        ("a", {"temperature": 0.5}, "temperature=0.5: is for decoding=sampled"),
        ("a", {"temperature": "hot", "decoding": "sampled"}, "temperature=hot: allowed: a number, 0.001 to 1000"),
        ("a", {"stop": ["a", ""]}, "stop=.*: allowed: a text, or a JSON list"),
        ("a", {"decoding": "beam"}, "decoding=beam: allowed: greedy, sampled"),
        ("a", {"batch": 0}, "batch"),
        ("a", {"seed": -1}, "seed"),
        ("a", {"max_new_tokens": 2000}, "1 prompt tokens . 2000 new ones; allowed: 1024, the model's window"),
        ("a", {"chat": True}, "chat=true: the tokenizer of tiny-moe has no chat template; allowed: chat=false"),
        ("a", {"system": "Be brief."}, "system=Be brief.: is for chat=true"),
        (" ", {}, "prompts: prompt is ' '"),
        ([], {}, "prompts: none given"),
        (["a", 5], {}, "prompts, number 1"),
        (5, {}, "prompts=5: allowed: a text"),
        (
            [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
            {},
            "ends with an assistant's turn",
        ),
        ([{"role": "system", "content": "a"}], {}, "no user speaks"),
        ([{"role": "judge", "content": "a"}], {}, "role is 'judge'; allowed"),
    ],
    ids=str,
)
def test_a_slip_from_python_is_one_line(prompts: Any, how: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        real.generate(served(), prompts, **how)
    assert "\n" not in str(caught.value)


def served() -> Any:
    """One for all slips, of which none runs."""
    if not hasattr(served, "model"):
        served.model = real.load(device="cpu")  # type: ignore[attr-defined]
    return served.model  # type: ignore[attr-defined]


def test_what_is_asked_is_checked_before_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object) -> None:
        raise AssertionError("it has run")

    monkeypatch.setattr(Serving, "run", run)
    assert isinstance(real.generate(served(), "a"), Stream)
