"""llama.cpp's two CSVs: ubatches are passes, the order of layers ends them; what does not add up is named by line."""

from pathlib import Path

import pytest

from tests.traces.importers.imported import ids, refuse, steps, take
from traces.importers import Options

# Two layers, top-2, ubatches of 2: a prompt of 3 tokens, whose last layer (4) has the last token of an ubatch alone.
UBATCHES = [
    ["1,7", "1,2", "1,3", "1,0", "4,5", "4,6"],
    ["1,1", "1,2", "4,3", "4,4"],
    ["1,0", "1,7", "4,2", "4,1"],
]
HEAD = "layer,expert"


def narrow(*ubatches: list[str], head: str = HEAD) -> str:
    return "\n".join([head, *(row for ubatch in ubatches for row in ubatch)]) + "\n"


def test_rows_of_activations(tmp_path: Path) -> None:
    found = take(tmp_path, "llama_cpp", narrow(*UBATCHES), top_k=2, ubatch=2, prompt_tokens=3)
    trace = found.trace
    assert (trace.L, trace.E, trace.K) == (2, 8, 2)
    assert steps(trace) == [(0, 0, 2, 0), (0, 0, 1, 2), (0, 1, 1, 3)]
    assert ids(trace) == [[[7, 2], [-1, -1]], [[3, 0], [5, 6]], [[1, 2], [3, 4]], [[0, 7], [2, 1]]]
    assert (trace.requests[0].prompt_tokens, trace.requests[0].output_tokens) == (3, 2)
    said = "\n".join(found.notes)
    for part in (
        "first of fewer than 2 tokens",
        "8 experts per layer: the largest id is 7",
        "3 tokens of prompts, in 2 passes",
    ):
        assert part in said
    assert "layers 0,2-3 of the 5" in said


def test_files_one_behind_the_other_are_requests(tmp_path: Path) -> None:
    # The second prompt has one ubatch of two tokens, with both in the last layer, and nothing was generated.
    text = narrow(*UBATCHES) + narrow(["1,7", "1,2", "1,3", "1,0", "4,5", "4,6", "4,1", "4,0"])
    trace = take(tmp_path, "llama_cpp", text, Options(n_experts=16), top_k=2, ubatch=3).trace
    assert steps(trace) == [(0, 0, 2, 0), (0, 1, 1, 2), (0, 1, 1, 3), (1, 0, 2, 0)]
    assert ids(trace)[4:] == [[[7, 2], [5, 6]], [[3, 0], [1, 0]]]
    assert trace.E == 16


def test_a_file_that_was_cut_off(tmp_path: Path) -> None:
    cut = narrow(*UBATCHES) + narrow(["1,7", "1,2", "1,3", "4,5"])
    trace = take(tmp_path, "llama_cpp", cut, Options(limit=1), top_k=2, ubatch=3).trace
    assert steps(trace) == [(0, 0, 2, 0), (0, 1, 1, 2), (0, 1, 1, 3)]
    refuse(tmp_path, "llama_cpp", cut, "line 17, rows of layer 1", top_k=2, ubatch=3)
    refuse(tmp_path, "llama_cpp", cut, "line 17, rows of layer 1", Options(limit=2), top_k=2, ubatch=3)


def test_a_prompt_that_fills_its_ubatches(tmp_path: Path) -> None:
    text, own = narrow(*UBATCHES), {"top_k": 2, "ubatch": 2}
    trace = take(tmp_path, "llama_cpp", text, **own, prompt_tokens=2).trace
    assert steps(trace) == [(0, 0, 2, 0), (0, 1, 1, 2), (0, 1, 1, 3)]
    said = "line 8, a pass is '1 token after a full chunk of 2'; allowed: the last of the prompt, or the first decode"
    refuse(tmp_path, "llama_cpp", text, said, **own)
    refuse(tmp_path, "llama_cpp", text, "tokens of the prompt from here on is 3; allowed: 5", **own, prompt_tokens=5)
    refuse(tmp_path, "llama_cpp", narrow(*UBATCHES[1:]), "1 token after a full chunk of 1", top_k=2, ubatch=1)


def test_layers_are_left_out(tmp_path: Path) -> None:
    options = Options(without_layers=frozenset({4}))
    trace = take(tmp_path, "llama_cpp", narrow(*UBATCHES), options, top_k=2, ubatch=512).trace
    assert ids(trace) == [[[7, 2]], [[3, 0]], [[1, 2]], [[0, 7]]]


@pytest.mark.parametrize(
    ("text", "own", "message"),
    [
        (narrow(*UBATCHES), {}, "top_k and ubatch of this file must be given: top_k=K, the experts of a token"),
        (narrow(*UBATCHES), {"top_k": 2}, "ubatch of this file must be given"),
        ("", {}, "line 1, content is 'nothing'"),
        (HEAD, {"top_k": 2, "ubatch": 2}, "line 1, content is 'no routing'"),
        ("layer,expert,count\n0,1,2\n", {}, "line 1, content is 'counts per expert, without an order'"),
        ("token,layer,expert\n", {}, "line 1, content is 'token,layer,expert'; allowed: the header layer,expert"),
        (narrow(["1,-1"]), {"top_k": 2, "ubatch": 2}, "line 2, content is '1,-1'"),
        (narrow(["1,65535"]), {"top_k": 1, "ubatch": 2}, "line 2, expert is 65535; allowed: an integer, 0 to 65533"),
        (narrow(["1,1", "1,2"]), {"top_k": 2, "ubatch": 2}, "layer is '1 alone'; allowed: several layers"),
        # Counts that do not add up: nothing whole, a lost row, another top-k.
        (narrow(["1,3", "1,4", "4,1"]), {"top_k": 2, "ubatch": 2}, "line 4, rows of layer 4 is '1 from here on'"),
        (narrow(*UBATCHES, ["4,3", "4,4"]), {"top_k": 2, "ubatch": 3}, "line 14, tokens of layer 4 is 2; allowed: 1"),
        (narrow(UBATCHES[0], UBATCHES[1][1:]), {"top_k": 2, "ubatch": 2}, "line 8, rows of layer 1"),
        (narrow(*UBATCHES), {"top_k": 1, "ubatch": 8}, "line 6, tokens of layer 4 is 2; allowed: 4, as in layer 1"),
        (narrow(*UBATCHES), {"top_k": 4, "ubatch": 2}, "line 6, rows of layer 4"),
        # Passes that fit no request: a larger ubatch, several sequences at once, a prompt without a header.
        (narrow(*UBATCHES[1:], UBATCHES[0]), {"top_k": 2, "ubatch": 2}, "a pass is '2 tokens after a decode step'"),
        (narrow(UBATCHES[0], UBATCHES[0]), {"top_k": 2, "ubatch": 3}, "a pass is '2 tokens after a pass of 2'"),
        (narrow(["1,7", "1,2", "1,2", "1,1", "4,1", "4,2"]), {"top_k": 1, "ubatch": 3}, "tokens of layer 4 is 2"),
        (narrow(["1,7", "1,2", "4,2"]), {"top_k": 1, "ubatch": 1}, "tokens of a pass is 2; allowed: at most 1"),
        (narrow(["1,7", "1,7", "4,2", "4,2"]), {"top_k": 2, "ubatch": 1}, "layer 1 is [7, 7]; allowed: an expert"),
    ],
)
def test_what_does_not_add_up(tmp_path: Path, text: str, own: dict[str, int], message: str) -> None:
    refuse(tmp_path, "llama_cpp", text, message, **own)


@pytest.mark.parametrize("rest", [["1,3"], ["1,3", "1,4"], ["1,3", "1,4", "4,5"]])
def test_a_file_that_was_cut_off_keeps_what_is_whole(tmp_path: Path, rest: list[str]) -> None:
    whole = take(tmp_path, "llama_cpp", narrow(*UBATCHES), top_k=2, ubatch=3)
    found = take(tmp_path, "llama_cpp", narrow(*UBATCHES, rest), top_k=2, ubatch=3)
    assert ids(found.trace) == ids(whole.trace)
    said = "left out: the rows from line 16 on, since the file ends in the middle of an ubatch"
    assert found.notes.count(said) == 1
    assert not any("middle" in note for note in whole.notes)


# The other CSV: n_batch 4 and n_ubatch 2, a prompt of 5 tokens: its positions count back from the end of each batch.
PROMPT = [
    ["-2,0,7,2", "-1,0,3,0", "-1,1,5,6"],
    ["-2,0,1,0", "-1,0,2,0", "-1,1,4,5"],
    ["-5,0,6,1", "-5,1,2,3"],
]
DECODE = [["0,0,1,2", "0,1,3,4"], ["1,0,5,6", "1,1,7,0"]]


def wide(*passes: list[str]) -> str:
    return "".join(f"{row}\n" for one in passes for row in one)


def test_rows_of_positions(tmp_path: Path) -> None:
    found = take(tmp_path, "llama_cpp", wide(*PROMPT, *DECODE, PROMPT[0], DECODE[0]))
    assert steps(found.trace) == [
        *[(0, 0, 2, 0), (0, 0, 2, 2), (0, 0, 1, 4), (0, 1, 1, 5), (0, 1, 1, 6)],
        *[(1, 0, 2, 0), (1, 1, 1, 2)],
    ]
    assert ids(found.trace)[:6] == [
        *[[[7, 2], [-1, -1]], [[3, 0], [5, 6]], [[1, 0], [-1, -1]], [[2, 0], [4, 5]]],
        *[[[6, 1], [2, 3]], [[1, 2], [3, 4]]],
    ]
    assert "prompts: the rows with negative positions" in found.notes


def test_prompts_without_decoding_one_behind_the_other(tmp_path: Path) -> None:
    trace = take(tmp_path, "llama_cpp", wide(PROMPT[0], ["-1,0,1,0", "-1,1,2,3"], PROMPT[0])).trace
    assert steps(trace) == [(0, 0, 2, 0), (0, 0, 1, 2), (1, 0, 2, 0)]


@pytest.mark.parametrize(
    ("text", "own", "message"),
    [
        (wide(*PROMPT), {"top_k": 2}, "top_k is given; allowed: not for this file"),
        (wide(*PROMPT, ["0,0,1,x"]), {}, "line 9, content is '0,0,1,x'; allowed: pos,layer,id0,id1,...: integers"),
        (wide(["-2,0,7,2", "-1,0,3", "-1,1,5,6"]), {}, "line 2, number of ids is 1; allowed: 2, as above"),
        (wide(["-3,0,7,2", "-1,0,3,1", "-1,1,5,6"]), {}, "line 1, pos is -3; allowed: -1, behind the 0 tokens"),
        (wide(PROMPT[0], ["-4,0,6,1", "-4,1,2,3"]), {}, "line 4, pos is -4; allowed: -3, behind the 2 tokens"),
        (wide(*PROMPT, ["0,0,1,2", "1,1,3,4"]), {}, "line 10, pos is 1; allowed: 0, as in the layers before"),
        (wide(*PROMPT, DECODE[1]), {}, "line 9, pos is 1; allowed: 0, the next decode step"),
        (wide(*PROMPT, DECODE[0], DECODE[0]), {}, "line 11, pos is 0; allowed: 1, the next decode step"),
    ],
)
def test_positions_that_do_not_fit(tmp_path: Path, text: str, own: dict[str, int], message: str) -> None:
    refuse(tmp_path, "llama_cpp", text, message, **own)
