"""A cache that is not what its model takes it for is found before anything is recorded; rounding is no such thing."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.commands import collect as main
from tests.traces.models.tiny import SIZES, build, minimax, save_with_tokenizer, tiny
from traces.collect import probe, serve
from traces.collect.probe import check_cache, tolerance
from traces.collect.recorder import RAW, Recorder
from traces.kit.errors import UserError
from traces.models.families import inspect_model
from traces.models.routers import RecordingError

PROMPT = [10, 11, 12, 13, 14]
BEYOND = "a pass with a cache and one without differ by more than rounding"


def without_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = serve.known
    monkeypatch.setattr(
        serve, "known", lambda model, **given: sound(model, **{k: v for k, v in given.items() if k[0] != "p"})
    )


def test_a_cache_that_says_it_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    check_cache(inspect_model(minimax()), [PROMPT])
    without_positions(monkeypatch)
    with pytest.raises(UserError, match=rf"'minimax'.* layer 1: {BEYOND}, first for token 8 of 11, in decode pass 1:"):
        check_cache(inspect_model(minimax()), [PROMPT])
    check_cache(inspect_model(tiny("olmoe")), [PROMPT])  # its cache does tell


def test_padding_that_the_library_itself_gets_wrong() -> None:
    with pytest.raises(UserError, match=rf"layer 1: {BEYOND}.*; only in a padded batch; allowed: batch=1$"):
        check_cache(inspect_model(minimax()), [PROMPT, PROMPT])


def test_a_window_in_the_configuration_that_the_model_does_not_have() -> None:
    """The library cuts its cache to it; the model attends to all."""
    model = tiny("olmoe")
    model.config.sliding_window = 4
    with pytest.raises(RecordingError, match=rf"^layer 0: {BEYOND}, first for token \d+ of 11, in decode pass 1"):
        check_cache(inspect_model(model), [PROMPT])


def test_a_short_window_is_passed() -> None:
    """GPT-OSS's is 16 here: the probe has more tokens than its cache keeps."""
    seen: list[int] = []
    model = tiny("gpt_oss")
    model.register_forward_pre_hook(lambda _m, _a, kwargs: seen.append(kwargs["input_ids"].shape[1]), with_kwargs=True)
    check_cache(inspect_model(model), [PROMPT])
    assert seen == [18, 1, 1, 1, 21]
    model.config.max_position_embeddings = 6
    seen.clear()
    check_cache(inspect_model(model), [PROMPT])
    assert seen == [3, 1, 1, 1, 6]


def scale_values(model: Any) -> None:
    """What one layer puts into its cache is not what it takes from it."""
    attention = model.model.layers[2].self_attn
    attention.v_proj.register_forward_hook(lambda _module, _args, out: -out if out.shape[1] == 1 else out)


def another_token(model: Any) -> None:
    """What is said of a token depends on the pass that it is in, and its routing does not."""
    model.lm_head.register_forward_hook(
        lambda _module, args, logits: logits.roll(1, -1) if args[0].shape[1] == 1 else None
    )


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (scale_values, rf"^layer [23]: {BEYOND}, first for token \d+ of 11, in decode pass \d"),
        (another_token, rf"^{BEYOND} in what they say after token 7 of 11, though all is routed alike$"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_decode_pass_does_otherwise(fault: Callable[[Any], None], message: str, dtype: Any) -> None:
    model = tiny("olmoe").to(dtype)
    check_cache(inspect_model(model), [PROMPT])
    fault(model)
    with pytest.raises(RecordingError, match=message):
        check_cache(inspect_model(model), [PROMPT])


def test_rounding_is_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some numbers of every layer are a unit in the last place off, in the cached passes alone: experts of near scores
    change places, and that is all. What is forced upon the other pass keeps the rest comparable."""
    dtype = torch.bfloat16
    sizes = {"num_experts": 32, "num_hidden_layers": 12, "moe_intermediate_size": 24, "num_experts_per_tok": 1}
    model = build("qwen3_moe", **SIZES | sizes, norm_topk_prob=True).to(dtype)
    draw, eps, text = torch.Generator().manual_seed(0), torch.finfo(dtype).eps, PROMPT * 4

    def shaken(_module: Any, _args: Any, out: Any) -> Any:
        noise = torch.rand(out.shape, generator=draw)
        return (out.float() * (1 + eps * ((noise < 1 / 6).float() - (noise > 5 / 6).float()))).to(out.dtype)

    recorder = Recorder(inspect_model(model), frozenset(RAW), ahead=1)
    with recorder.attached(), torch.inference_mode(), ExitStack() as undo:
        with ExitStack() as hooks:
            for module in model.modules():
                if isinstance(module, torch.nn.Linear):
                    hooks.callback(module.register_forward_hook(shaken).remove)
            (ran,) = probe._with_cache(recorder, [text])
        alone = probe._without_cache(recorder, text, ran)
        unheard = property(lambda _: None, lambda *_: None)
        undo.enter_context(monkeypatch.context()).setattr(Recorder, "forced", unheard, raising=False)
        free = probe._without_cache(recorder, text, ran)
    assert (ran.ids != alone.ids).any()
    probe._compare(recorder.moe, ran, alone)
    assert 0 < probe._distance(ran.routers, alone.routers).max() < tolerance(dtype) / 2
    with pytest.raises(RecordingError, match=BEYOND):
        probe._compare(recorder.moe, ran, free)


def test_a_model_that_cannot_be_compared() -> None:
    def refused(change: Callable[[Any], None], message: str) -> None:
        model = tiny("olmoe")
        change(model)
        with pytest.raises(RecordingError, match=message):
            check_cache(inspect_model(model), [PROMPT])

    def wants(model: Any, cache: bool) -> None:
        def hook(_model: Any, _args: Any, kwargs: Any) -> None:
            if kwargs["use_cache"] != cache:
                raise ValueError("I can't\nlike this")

        model.register_forward_pre_hook(hook, with_kwargs=True)

    said = r" a cache \(ValueError: I can't like this\)$"
    refused(lambda model: wants(model, True), f"^the model does not run without{said}")
    refused(lambda model: wants(model, False), f"^the model does not run with{said}")

    def forgets(_model: Any, _args: Any, out: Any) -> Any:
        out.past_key_values = out.cache = None
        return out

    refused(lambda model: model.register_forward_hook(forgets), r"^its forward returns no cache")


@pytest.mark.parametrize("where", ["config", "generation_config"])
def test_a_configuration_without_a_cache_is_recorded_with_one(where: str) -> None:
    model = tiny("olmoe")
    getattr(model, where).use_cache = False
    check_cache(inspect_model(model), [PROMPT])


def test_nothing_is_recorded_where_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_with_tokenizer(minimax(), tmp_path / "m")
    (tmp_path / "p.txt").write_text("Some text.\nMore.\n")
    words = [f"model={folder}", f"prompts={tmp_path / 'p.txt'}", f"out={tmp_path / 't'}", "max_new_tokens=3"]
    with pytest.raises(UserError, match=r"allowed: batch=1$"):
        main([*words, "batch=2"])
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("m", "p.txt")] == []
    main(words)
    without_positions(monkeypatch)
    with pytest.raises(UserError, match=BEYOND):
        main([*words[:2], f"out={tmp_path / 'u'}"])
    assert not (tmp_path / "u").exists()
