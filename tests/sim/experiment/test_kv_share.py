"""``kv_share=``: one room for experts and the KV cache, divided."""

from fractions import Fraction

import pytest

from sim.experiment.cell import Cell, make_cell
from sim.experiment.compose import read_config
from sim.experiment.provenance import identify
from traces.kit.errors import UserError

ONLINE = ("workload=online", "workload.rate=1", "hardware.gpu.memory_bytes=8000000000")


def cell(*words: str) -> Cell:
    return make_cell(read_config([*ONLINE, *words]))


@pytest.mark.parametrize("share", ["33.3%"])
def test_parts_are_the_room_and_a_run_is_that_of_both_parts_by_hand(share: str) -> None:
    it = cell("budget=auto", f"kv_share={share}")
    whole = it.room.gpu_bytes - it.room.dense_bytes - it.room.head_bytes
    assert it.room.kv_bytes == int(Fraction(share[:-1]) / 100 * whole)
    assert it.setup.budget == whole - it.room.kv_bytes < it.total_expert_bytes
    by_hand = cell(f"budget={it.setup.budget}", f"kv={it.room.kv_bytes}")
    assert identify(it, ()).key == identify(by_hand, ()).key


def test_experts_take_no_more_than_all_of_them() -> None:
    it = cell("budget=auto", "kv_share=5%", "hardware.gpu.memory_bytes=24000000000")
    assert it.setup.budget == it.total_expert_bytes


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "budget=4GB kv_share=20%",
            r"^budget=4GB: kv_share=20% leaves the rest of the room for experts; allowed: auto$",
        ),
        ("budget=auto kv_share=20% kv=1GB", r"^kv=1GB: kv_share=20% says how large the KV cache is; allowed: one of"),
        ("budget=auto kv_share=0%", r"^kv_share='0%': allowed: a share above 0% and below 100%, such as 20%, or null$"),
        ("budget=auto kv_share=0.2", r"^kv_share=0.2: allowed: a share"),
        ("budget=auto kv_share=0.0001%", r"^kv_share=0.0001%: less than a block"),
        ("budget=auto kv_share=1%", r"^kv_share=1%: has [0-9]+ blocks .*; allowed: at least [0-9]+ bytes"),
    ],
)
def test_a_slip_is_one_line(words: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        cell(*words.split())
    assert "\n" not in str(caught.value)


def test_it_is_of_arrivals_alone() -> None:
    with pytest.raises(UserError, match=r"^kv_share=20%: of workload=online; allowed here: null$"):
        read_config(["budget=auto", "kv_share=20%"])
