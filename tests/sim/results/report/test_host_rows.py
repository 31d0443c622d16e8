"""Rows whose host computes experts, beside others: what the page says of bounds holds for both."""

from pathlib import Path

import pandas as pd
import pytest

import sim
from sim.experiment.run import run
from sim.results import pictures
from sim.results.report.draw import _of_latency, _of_link


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    out: Path = tmp_path_factory.mktemp("mixed") / "grid"
    for policy in ("lru", "ktransformers"):
        run(f"policy={policy}", "budget=4GB", "limit=2", out=out)
    return sim.load(out)


def test_who_copies_less_than_the_bound_of_bytes_is_not_said_to_be_impossible(mixed: pd.DataFrame) -> None:
    least = mixed["bound_bytes"].max() / mixed["generated_tokens"].max()
    below = mixed[mixed["bytes_per_token"] < least]
    assert list(below["policy"]) == ["ktransformers"], "the case is none"
    lru = mixed[mixed["policy"] == "lru"]
    for frame, alone in ((mixed, True), (pd.concat([lru, lru.assign(policy_label="b", bytes_per_token=1e9)]), False)):
        copied = pictures.link(frame).axes[-1]
        words = "no lossless policy on the GPU alone" if alone else "no lossless policy copies"
        texts = [*(text.get_text() for text in copied.texts), *copied.get_legend_handles_labels()[1]]
        assert any(text.replace("\n", " ").startswith(words) for text in texts), texts
        assert ("on the GPU alone" in pictures.link.sheet(frame).panels[-1].title) == alone
        assert "less than the bound where the GPU computes all experts" in _of_link(frame)
    assert "bound" not in _of_link(mixed[mixed["policy"] != "lru"]), "it is not drawn"


def test_the_grey_area_of_latency_is_of_them_too(mixed: pd.DataFrame) -> None:
    floors = mixed.set_index("policy")["bound_ms_per_token"]
    assert floors["ktransformers"] < floors["lru"], "the case is none"
    assert "or the host some of them" in _of_latency(mixed)
    assert "Nothing lossless that computes on the GPU" in _of_latency(mixed[mixed["policy"] == "lru"])
