"""Engines beside each other: the same prompts and tokens, memory that is each one's own, and rows that say what is."""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from real.beside import Options, memory, plan_of
from real.beside.child import AskedError, Job, as_json, main, run
from real.beside.engines import Asked, Subject, library, ours
from real.beside.plan import OTHERS, Plan, in_a_process
from real.beside.plan import run as rows_of
from real.beside.told import markdown, table
from real.cli import main as real
from real.measure import processes
from real.measure.bench import TINY
from real.runtime.models import Where
from sim.experiment.config import RunConfig
from sim.prices import shipped
from tests.traces.models.tiny import save_with_tokenizer, tiny
from traces.kit.errors import UserError

NEW, REPEAT, PROMPTS = 4, 2, ("The firewall decides", "def main", "a")


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Of a tiny model, on this CPU."""
    folder = tmp_path_factory.mktemp("model")
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(f"{json.dumps({'prompt': text})}\n" for text in PROMPTS))
    return Plan(
        ours=(("lru", "25%"), ("split", "50%")),
        policies={"lru": {"name": "lru"}, "split": {"name": "split", "prefill": "demand"}},
        hardware=shipped("hardware", "h100"),
        priced={"name": "as_traced", "dtype": None},
        model=str(save_with_tokenizer(tiny("olmoe"), folder)),
        dtype="float32",
        prompts=str(prompts),
        device="cpu",
        threads=1,
        limit=len(PROMPTS),
        prompt_tokens=12,
        new_tokens=NEW,
        repeat=REPEAT,
    )


@pytest.fixture(scope="module")
def found(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All its rows, made in this process, which brings the library's code in and collects garbage once."""
    scratch = str(tmp_path_factory.mktemp("scratch"))
    with pytest.MonkeyPatch.context() as patch:

        def ask(job: Job, seconds: float) -> dict[str, Any]:
            done = run(replace(job, scratch=scratch))
            patch.setattr("real.beside.child._dry_run", lambda job: None)
            patch.setattr("real.beside.engines.settle", lambda: None)
            return done

        return rows_of(plan, 600, lambda line: None, ask)


def test_every_engine_chooses_the_same_tokens_at_every_round(found: dict[str, Any]) -> None:
    assert found["left_out"] == {}
    ours = ["ours, lru at 25%", "ours, split at 50%"]
    assert [row["name"] for row in found["rows"]] == [*OTHERS.values(), *ours]
    assert all(row["same_tokens"] == 1 and row["steady"] for row in found["rows"])
    assert found["prompt_tokens"] == [12, 8, 1]


def test_answers_follow_one_another(plan: Plan, tmp_path: Path) -> None:
    """No time is in two answers, and none of an answer in none."""
    subject = Subject(plan.model, "float32", "auto", None, Where("cpu"))
    config: Any = next(job.config for _, job in plan.jobs() if job.engine == "ours")
    asked, slots = Asked([[3, 1, 4], [1]], 3, 2), list[int]()
    for made in (library(subject, "resident", tmp_path), ours(subject, RunConfig.from_dict(config), slots.append)):
        with made as engine:
            answers = engine(asked)
        times = [time for answer in answers for time in (answer.began, *answer.at)]
        assert times == sorted(times)
        assert [len(answer.at) for answer in answers] == [len(answer.tokens) for answer in answers] == [3] * 5
        assert sum(answer.at[-1] - answer.began for answer in answers) <= times[-1] - times[0]


def test_rates_and_memory_are_those_of_what_was_done(found: dict[str, Any]) -> None:
    for row in found["rows"]:
        for rate in (row["decode_per_s"], row["whole_per_s"]):
            assert 0 < rate["least"] <= rate["median"] <= rate["most"]
        held = row["memory"]
        assert held["peak"] >= held["code"] + max(held["loading"], held["answering"] or 0) > 0
        assert held["device"] is None, "a CPU's tensors lie in the process's memory"
    slots = [row["memory"]["slots"] for row in found["rows"]]
    expert = 3 * 32 * 24 * 4
    assert slots == [None, None, None, 8 * expert, 16 * expert]


def answering(plan: Plan, **changed: Any) -> dict[str, Any]:
    """What a process says that took 2 s for 6 tokens a round, of which 1 s after the first tokens."""
    held = {"code": 10, "loading": 5, "answering": 3, "peak": 15, "device": None, "slots": None}
    about = {"device": "cpu", "host": "A CPU, 2 cores, 1000 bytes", "torch": "2.13", "transformers": "5.24"}
    said = {"about": about, "date": "today", "prompt_tokens": [3, 4], "tokens": [[1, 2, 3], [4, 5, 6]], "steady": True}
    return said | {"seconds": [{"whole": 2.0, "decode": 1.0}], "memory": held} | changed


def test_a_row_is_of_its_own_tokens_and_says_where_they_differ(plan: Plan) -> None:
    def ask(job: Job, seconds: float) -> dict[str, Any]:
        if job.engine == "cpu_offload":
            assert (job.new_tokens, job.repeat) == (2, 1)
            return answering(plan, tokens=[[1, 2], [4, 5]])
        return answering(plan, tokens=[[1, 2, 3], [4, 9, 9]]) if job.engine == "ours" else answering(plan)

    fewer = replace(plan, others=("resident", "cpu_offload"), ours=plan.ours[:1], offload_tokens=2)
    found = rows_of(fewer, 60, lambda line: None, ask)
    assert [row["same_tokens"] for row in found["rows"]] == [1, 1, 4 / 6]
    assert found["rows"][0]["decode_per_s"]["median"] == 4, "of six tokens two are the first of an answer"
    assert found["rows"][0]["whole_per_s"]["median"] == 3
    assert found["rows"][1]["whole_per_s"]["median"] == 2
    for shown in (table(found), markdown(found)):
        assert "67% the same" in shown
        assert f"{OTHERS['cpu_offload']} (2 tokens, 1 round)" in shown
        assert "on the GPU" not in shown
    found["rows"][0]["memory"]["device"] = 59 * 10**6
    assert "on the GPU, MB" in table(found)
    assert " 59 " in table(found)


def test_what_cannot_be_had_is_left_out_and_said(plan: Plan) -> None:
    def ask(job: Job, seconds: float) -> dict[str, Any]:
        if job.engine == "cpu_offload":
            raise UserError("accelerate is not installed; allowed: pip install it")
        return answering(plan)

    found = rows_of(plan, 60, lambda line: None, ask)
    assert found["left_out"] == {OTHERS["cpu_offload"]: "accelerate is not installed; allowed: pip install it"}
    assert f"no row for {OTHERS['cpu_offload']}: accelerate is not installed" in table(found)
    assert f"- No row for {OTHERS['cpu_offload']}: accelerate" in markdown(found)
    with pytest.raises(UserError, match=r"^no room$"):
        rows_of(plan, 60, lambda line: None, lambda job, seconds: (_ for _ in ()).throw(UserError("no room")))


def test_it_ends_in_time(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("real.beside.plan.time", SimpleNamespace(monotonic=lambda: now[0]))

    def ask(job: Job, seconds: float) -> dict[str, Any]:
        assert seconds == 60 - now[0]
        now[0] += 25
        return answering(plan)

    found = rows_of(plan, 60, lambda line: None, ask)
    assert len(found["rows"]) == 2
    assert list(found["left_out"].values()) == ["10 s were left"] * 3
    assert list(found["left_out"])[-2:] == [OTHERS["cpu_offload"], OTHERS["disk_offload"]], "the slowest come last"


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import time; time.sleep(60)", "not done in the 0 s that were left"),
        ("raise KeyError('x')", "its process ended with status 1: KeyError: 'x'"),
        ("import os; os._exit(9)", "its process ended with status 9: without a word"),
        ("print('noise'); print('{\"error\": \"no room\"}')", "no room"),
    ],
)
def test_a_process_that_fails_is_told_of(plan: Plan, program: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ran, job = __import__("subprocess").run, next(plan.jobs())[1]

    def other(command: list[str], **how: Any) -> Any:
        assert json.loads(how["input"])["scratch"]
        assert command[1:] == ["-P", "-m", "real.beside.child"]
        return ran([sys.executable, "-S", "-c", program], **how)

    monkeypatch.setattr("subprocess.run", other)
    with pytest.raises(UserError) as caught:
        in_a_process(job, 0.3 if "sleep" in program else 60)
    assert str(caught.value) == said


def test_the_process_reads_a_job_and_says_a_mistake(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    job = next(job for _, job in plan.jobs() if job.engine == "cpu_offload")
    assert Job(**json.loads(as_json(job))) == job
    monkeypatch.setattr("sys.stdin", SimpleNamespace(read=lambda: as_json(job)))
    assert main() == 0
    said = json.loads(capsys.readouterr().out)
    assert said["error"].startswith("accelerate is not installed; allowed: pip")
    assert not said["of_all"]
    wrong = replace(job, prompts=f"{plan.prompts}.none")
    monkeypatch.setattr("sys.stdin", SimpleNamespace(read=lambda: as_json(wrong)))
    assert main() == 0
    assert json.loads(capsys.readouterr().out)["of_all"], "no other engine need be tried"


def test_what_is_wrong_for_all_ends_it_and_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Job] = []

    def ask(job: Job, seconds: float) -> dict[str, Any]:
        asked.append(job)
        raise AskedError("model='nosuch' cannot be loaded")

    monkeypatch.setattr("real.beside.plan.in_a_process", ask)
    assert real(["beside", "model=nosuch", f"out={tmp_path / 'out'}"]) == 2
    assert capsys.readouterr().err == "error: model='nosuch' cannot be loaded\n"
    assert len(asked) == 1
    assert list(tmp_path.iterdir()) == []


def test_memory_is_the_most_since_it_was_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not memory.forget():
        pytest.skip("the system does not forget")
    before = memory.taken()
    block = bytearray(b"x") * (64 << 20)
    del block
    assert memory.most() - before > 60 << 20
    assert memory.forget()
    assert memory.most() - before < 32 << 20
    monkeypatch.setattr(memory, "PROCESS", tmp_path / "none")
    assert (memory.forget(), memory.taken(), memory.most()) == (False, 0, 0)


def test_memory_of_a_gpu_is_the_allocator_s(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    cuda = torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", asked.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 5 if device == cuda else 0)
    memory.forget_device(cuda)
    assert asked == [cuda]
    assert memory.most_on_device(cuda) == 5
    assert memory.most_on_device(torch.device("cpu")) is None


def test_the_step_of_measure_gives_memory_back_and_asks_for_what_it_has_time_for(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    def rows(plan: Plan, seconds: float, say: Any) -> dict[str, Any]:
        given.extend([plan, seconds])
        return {"rows": [{"name": "a", "decode_per_s": {"median": 12.34}}], "left_out": {"b": "no room"}}

    fake: Any = SimpleNamespace(
        size=TINY,
        subject=lambda which: TINY.main,
        device=torch.device("cuda", 0),
        host_memory=7,
        clock=SimpleNamespace(left=lambda: 33.0),
        profile=lambda: shipped("hardware", "h200"),
        drop=lambda: given.append("dropped"),
        write=lambda name, content: given.append(name),
    )
    monkeypatch.setattr(processes, "run", rows)
    assert processes.beside(fake) == "a 12.3 tokens/s, no row for b: no room"
    assert (given[0], given[2:]) == ("dropped", [33.0, "beside"])
    jobs = [job for _, job in given[1].jobs()]
    assert [job.engine for job in jobs] == ["resident", "ours"]
    assert {(job.device, job.host_memory, job.weights) for job in jobs} == {("cuda:0", 7, "auto")}
    assert jobs[1].config["hardware"]["name"] == "h200"


def test_the_words_make_the_plan() -> None:
    made = plan_of(Options(policy="lru_layer,split", budget="50%,8MB", limit=2, dtype="bfloat16"))
    names = [row["name"] for row, _ in made.jobs()]
    assert names[3:] == [f"ours, {name} at {budget}" for name in ("lru_layer", "split") for budget in ("50%", "8MB")]
    config: Any = [job for _, job in made.jobs()][3].config
    assert config["policy"] == {"name": "lru", "scope": "layer"}
    assert config["model"]["dense_bytes_per_param"] == 2
    assert asdict(made)["limit"] == 2


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("policy=lro", "policy=lro: allowed: daop, "),
        ("policy=lru,swapmoe", "policy=swapmoe: is lossy, and chooses other tokens; allowed: lossless ones"),
        ("budget=50%,8GBB", "budget='8GBB': not a positive size"),
        ("hardware=rtx", "hardware='rtx': unknown; allowed: a100"),
        ("hardware=none.yaml", "hardware=none.yaml: No such file"),
        ("new_tokens=1", "new_tokens=1: allowed: a whole number, 2 to"),
    ],
)
def test_a_slip_is_one_line_and_nothing_is_written(
    word: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert real(["beside", word, f"out={tmp_path / 'out'}"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"error: {said}")
    assert printed.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_a_budget_is_less_memory(plan: Plan) -> None:
    rows = tuple(("lru", budget) for budget in ("100%", "25%"))
    found = rows_of(replace(plan, device="cuda", others=("resident", "cpu_offload"), ours=rows), 600, print)
    assert not found["left_out"]
    held = {row["name"]: row["memory"]["device"] for row in found["rows"]}
    assert held["ours, lru at 100%"] > held["ours, lru at 25%"] >= 8 * 3 * 32 * 24 * 4
    assert held[OTHERS["cpu_offload"]] < held[OTHERS["resident"]]


# What it is for: processes of their own, whose memory does not begin with ours.
@pytest.mark.ci
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["limit=1", "new_tokens=4", "repeat=1", "policy=lru", "budget=25%", "threads=1", f"out={tmp_path}"]
    block = bytearray(b"x") * (1 << 30)
    assert real(["beside", *words]) == 0
    found = json.loads((tmp_path / "beside.json").read_text())
    assert table(found) in capsys.readouterr().out
    assert not found["left_out"]
    assert all(row["same_tokens"] == 1 for row in found["rows"])
    assert all(row["memory"]["peak"] < len(block) for row in found["rows"])
