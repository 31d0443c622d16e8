"""What a new user mistypes: one line with the key, the value and what is allowed, and the name that was meant."""

from importlib import import_module
from pathlib import Path

import pytest

from traces.kit.errors import allowing, meant


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("sim check policy=lru", "policy=lru: no such key; allowed: python -m sim check NAME [NAME ...]"),
        ("sim check lru_layr", "policy=lru_layr: unknown; allowed: belady_forced, deepspeed,"),
        ("sim check lru_layr", "; did you mean lru_layer?"),
        ("sim check belady", "; did you mean belady_forced?"),
        ("sim bench beside=fmoe,lro", "beside=fmoe,lro: allowed: deepspeed"),
        ("sim bench policy_us=lro", "policy_us=lro: allowed: deepspeed"),
        ("sim bench polcy=lru", "; did you mean policy?"),
        ("sim bench model=mixtral", "; did you mean mixtral_8x7b?"),
        ("sim curve policy.scop=layer", "policy.scop=layer: no such key; allowed: name, scope; did you mean scope?"),
        ("sim curve workload.bach=2", "; did you mean batch?"),
        ("sim curve policy=fmoe", "policy=fmoe: the curve is LRU's; allowed: lru with scope=global"),
        ("policies fit promo trace=x out=y", "fit promo: no such predictor; allowed: promoe; did you mean promoe?"),
    ],
)
def test_a_slip_is_one_line_with_what_is_allowed(
    command: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    program, *words = command.split()
    assert import_module(f"{program}.cli").main(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert said in printed.err
    assert list(tmp_path.iterdir()) == []


def test_what_is_near_and_what_is_not() -> None:
    names = ["lru", "fifo", "policy", "mixtral_8x7b", "gpt-oss-20b", "gpt-oss-120b"]
    near = {"lro": "lru", "LRU": "lru", "polciy": "policy", "mixtral": "mixtral_8x7b"}
    for given, name in near.items():
        assert allowing(given, names) == f"allowed: {', '.join(names)}; did you mean {name}?"
    assert meant("xyz", names) == ""
