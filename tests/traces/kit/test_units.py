"""Bytes as people write them."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traces.kit.errors import UserError
from traces.kit.fields import MAX_INT
from traces.kit.units import UNITS, figure, format_bytes, parse_bytes


def test_sizes_are_exact() -> None:
    sizes: dict[object, int] = {"8GB": 8_000_000_000, "8GiB": 8_589_934_592, "512MiB": 536_870_912, "1B": 1}
    sizes |= {"1500000000": 1_500_000_000, 1_500_000_000: 1_500_000_000, "1.5GB": 1_500_000_000}
    sizes |= {"0.1GiB": 107_374_182}  # 107374182.4, rounded down
    assert {text: parse_bytes(text) for text in sizes} == sizes == {text: parse_bytes(text, of=10**9) for text in sizes}


BAD: list[object] = ["8GBB", "-1GB", "0", "nan", "1e9", "", "GB", "8 GB", "8gb", "+1", "1.5", ".5GB", "1.GB", "1_000"]
BAD += ["0.1B", "inf", "٣GB", "8GB\n", "9" * 5000, 0, -1, 1e9, True, None, [1]]


@pytest.mark.parametrize("text", BAD)
def test_what_is_not_a_size_is_refused_in_one_line(text: object) -> None:
    for of in (None, 10**9):
        with pytest.raises(UserError) as error:
            parse_bytes(text, of=of)
        message = str(error.value)
        assert "\n" not in message
        assert message.startswith(f"budget={str(text)!r}: ")
        assert "GiB" in message


def test_a_share_is_of_all_experts() -> None:
    shares = {("50%", 12_884_901_888): 6_442_450_944, ("33.3%", 1000): 333, ("100%", 7): 7}
    assert {(text, of): parse_bytes(text, of=of) for text, of in shares} == shares
    for text in ("0%", "100.1%", "-5%", "50 %", "%", "0.0000000001%"):
        with pytest.raises(UserError, match="share of all expert bytes"):
            parse_bytes(text, of=10**9)
    with pytest.raises(UserError, match=r"chunk='50%'"):
        parse_bytes("50%", key="chunk")


@given(st.integers(0, 10**15), st.integers(0, 999_999), st.sampled_from(sorted(UNITS)))
def test_decimals_round_down_from_the_exact_product(whole: int, millionths: int, unit: str) -> None:
    exact = (whole + Fraction(millionths, 10**6)) * UNITS[unit]
    text = f"{whole}.{millionths:06d}{unit}" if millionths else f"{whole}{unit}"
    if 1 <= exact < MAX_INT + 1:
        assert parse_bytes(text) == exact // 1
    elif exact > 1:
        with pytest.raises(UserError, match=f"{text}.*up to {MAX_INT} bytes"):
            parse_bytes(text)


@given(st.integers(1, 10**14))
def test_printing_keeps_three_figures(nbytes: int) -> None:
    text = format_bytes(nbytes)
    number, unit = text.split()
    assert len(number.replace(".", "")) <= 3
    assert abs(Fraction(number) * UNITS[unit] - nbytes) <= Fraction(nbytes, 100)


def test_printing() -> None:
    sizes = {0: "0 B", 512: "512 B", 999: "999 B", 1000: "1 KB", 999_499: "999 KB", 999_500: "1.00 MB"}
    sizes |= {12_582_912: "12.6 MB", 12_884_901_888: "12.9 GB", 141 * 10**9: "141 GB", 5 * 10**15: "5,000 TB"}
    sizes |= {8 * 10**9: "8 GB", 10**10: "10 GB", 15 * 10**8: "1.5 GB"}
    sizes |= {8_000_000_001: "8.00 GB", 7_990_149_120: "7.99 GB"}
    assert {size: format_bytes(size) for size in sizes} == sizes


def test_a_number_has_three_figures_whatever_its_size() -> None:
    given = {0.0631: "0.0631", 0.63215: "0.632", 3.26195: "3.26", 9.996: "10.0", 21.7: "21.7", 172.6: "173"}
    given |= {999.6: "1,000", 1234.5: "1,234", -16.5: "-16.5", 0.0: "0", float("nan"): "-", 7.3e-7: "0.000000730"}
    assert {value: figure(value) for value in given} == given
    assert figure(None) == "-"
