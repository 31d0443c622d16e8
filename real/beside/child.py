"""One engine in a process of its own: a job comes on stdin, as JSON, and what came of it is stdout's last line."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from traces.kit.errors import UserError

DRY_BYTES = 1 << 30
"""Of a checkpoint that is smaller, one layer is run before memory is looked at: it shows what code alone takes."""


@dataclass(frozen=True)
class Job:
    """What one process is to do. ``config``: of ours, a whole configuration; ``scratch``: a folder for files."""

    engine: str
    config: dict[str, Any] | None
    model: str
    dtype: str
    weights: str
    layers: int | None
    device: str
    threads: int
    host_memory: int | None
    prompts: str
    limit: int
    prompt_tokens: int
    new_tokens: int
    repeat: int
    scratch: str


class AskedError(UserError):
    """What is wrong for every engine: the model, the prompts, the device."""


def run(job: Job) -> dict[str, Any]:
    """Load, warm up and ask; times in seconds, memory in bytes. UserError where the engine cannot be had."""
    from real.words import prepare

    prepare(job.threads)
    import torch

    from real.beside import engines, memory
    from real.runtime.models import Where
    from sim.experiment.config import RunConfig
    from traces.calibrate.machine import describe, now

    where = Where(job.device, job.host_memory)
    subject = engines.Subject(job.model, job.dtype, job.weights, job.layers, where)
    slots = list[int]()
    try:
        device, asked = subject.device, engines.Asked(_prompts(job), job.new_tokens, job.repeat)
        _dry_run(job)
    except UserError as error:
        raise AskedError(str(error)) from None
    torch.zeros(1, device=device)  # what a GPU's driver takes of the host is nobody's own
    engines.settle()
    memory.forget()
    code = memory.taken()
    if job.engine == engines.OURS:
        assert job.config is not None
        made = engines.ours(subject, RunConfig.from_dict(job.config), slots.append)
    else:
        made = engines.library(subject, job.engine, Path(job.scratch))
    with made as engine:
        engines.settle()
        loading = memory.most()
        alone = memory.forget()
        memory.forget_device(device)
        answers = engine(asked)
        answering, on_device = memory.most(), memory.most_on_device(device)
    rounds = _rounds(answers[1:], len(asked.prompts))
    return {
        "about": describe(device),
        "date": now(),
        "prompt_tokens": [len(prompt) for prompt in asked.prompts],
        "seconds": [_seconds(answers) for answers in rounds],
        "tokens": [answer.tokens for answer in rounds[0]],
        "steady": all([it.tokens for it in answers] == [it.tokens for it in rounds[0]] for answers in rounds),
        "memory": {
            "code": code,
            "loading": loading - code,
            "answering": answering - code if alone else None,
            "peak": max(loading, answering),
            "device": on_device,
            "slots": slots[0] if slots else None,
        },
    }


def _prompts(job: Job) -> list[list[int]]:
    """Tokens of the first prompts of a file, or, of random weights, drawn ones."""
    if job.weights == "random":
        import torch

        from traces.models.shapes import configuration

        vocabulary = int(configuration(job.model).get_text_config().vocab_size)
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randint(vocabulary, (job.limit, job.prompt_tokens), generator=generator).tolist()
        return [[int(token) for token in prompt] for prompt in drawn]
    from transformers import AutoTokenizer

    from real.run.asked import Asked
    from traces.models.load import weights_folder
    from traces.models.quantised import LOCAL
    from traces.prompts.jobs import encode

    tokenizer = AutoTokenizer.from_pretrained(str(weights_folder(job.model)), **LOCAL)
    asked = Asked.of_file(Path(job.prompts), job.limit).prompts
    return [encode(tokenizer, prompt, "auto")[0][: job.prompt_tokens] for prompt in asked]


def _dry_run(job: Job) -> None:
    """Of a small model, have one layer of it generate: the library's code, kernels and their workspace come into memory
    on first use, and would count as the engine's. A large one's weights leave nothing of it to be seen."""
    import torch

    from traces.models.load import weights_folder
    from traces.models.shapes import DTYPES, build

    if job.weights == "random":
        return
    if sum(file.stat().st_size for file in weights_folder(job.model).glob("*.safetensors")) > DRY_BYTES:
        return
    with torch.inference_mode():
        model = build(job.model, torch.device("cpu"), job.dtype if job.dtype in DTYPES else "float32").model
        model.generate(
            torch.tensor([[1, 2, 3, 4]]), max_new_tokens=2, min_new_tokens=2, do_sample=False, pad_token_id=0
        )


def _rounds(answers: Sequence[Any], each: int) -> list[Sequence[Any]]:
    return [answers[first : first + each] for first in range(0, len(answers), each)]


def _seconds(answers: Sequence[Any]) -> dict[str, float]:
    """Of all prompts once: whole answers, and of these from the first token on."""
    return {
        "whole": sum(answer.at[-1] - answer.began for answer in answers) / 1e9,
        "decode": sum(answer.at[-1] - answer.at[0] for answer in answers) / 1e9,
    }


def main() -> int:
    """Run the job; returns the exit status: 0 also where the engine cannot be had, which the answer then says."""
    job = Job(**json.loads(sys.stdin.read()))
    try:
        found = run(job)
    except UserError as error:
        found = {"error": str(error), "of_all": isinstance(error, AskedError)}
    sys.stdout.write(f"{json.dumps(found)}\n")
    return 0


def as_json(job: Job) -> str:
    """What :func:`main` reads."""
    return json.dumps(asdict(job))


if __name__ == "__main__":
    sys.exit(main())
