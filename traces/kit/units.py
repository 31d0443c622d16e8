"""Bytes as people write them: strict to read, plain to print.

GB is 10^9 and GiB is 2^30, always. A budget is the one figure that everybody mistypes, so nothing
is guessed here: a unit is spelt exactly, and a bare number is bytes.
"""

import math
import re
from fractions import Fraction

from traces.kit.errors import UserError, one_of
from traces.kit.fields import MAX_INT

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_NUMBER = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)([A-Za-z%]*)", re.ASCII)
_FORMS = f"a whole number of bytes, or a positive decimal followed directly by one of {one_of(UNITS)}"


def parse_bytes(text: object, key: str = "budget") -> int:
    """Read a positive number of bytes: ``"8GB"``, ``"1.5GiB"``, ``"1500000000"`` or an int.

    Decimals are exact (no floating point); what is left below one byte is rounded down.
    Raises UserError, naming `key`, for anything else: signs, exponents, blanks, other spellings, zero.
    """
    return _positive(_bytes(text), text, key, _FORMS)


def parse_budget(text: object, total_expert_bytes: int, key: str = "budget") -> int:
    """Read a budget in bytes: as :func:`parse_bytes`, or ``"50%"`` of `total_expert_bytes`, rounded down.

    A share lies above 0% and at most at 100%; a number of bytes may exceed all experts.
    """
    forms = f"{_FORMS}, or a share of all expert bytes above 0% and up to 100%, such as 50%"
    number, unit = _split(text)
    if unit != "%":
        return _positive(_bytes(text), text, key, forms)
    share = Fraction(number) / 100
    if share > 1:
        raise UserError(f"{key}={str(text)!r}: above 100%, which is all experts; allowed: {forms}")
    return _positive(int(share * total_expert_bytes), text, key, forms)


def format_bytes(nbytes: int) -> str:
    """Print bytes for people, in decimal units: exact where few figures are (``8 GB``), else three of them.

    ``12.9 GB``, ``512 B``; ``8.00 GB`` is nearly 8 GB.
    """
    reached = [unit for unit in ("KB", "MB", "GB", "TB") if abs(nbytes) * 10_000 >= 9_995 * UNITS[unit]]
    if not reached:
        return f"{nbytes} B"
    size = Fraction(nbytes, UNITS[reached[-1]])
    digits = sum(abs(size) * 1000 < limit for limit in (9_995, 99_950))
    shown = f"{float(size):,.{digits}f}"
    exact = digits and Fraction(shown) == size
    return f"{shown.rstrip('0').rstrip('.') if exact else shown} {reached[-1]}"


def figure(value: float | None) -> str:
    """A number for people, in three significant figures and whole above them: ``0.0631``, ``21.7``, ``1,234``.

    ``-`` is what there is not.
    """
    if value is None or math.isnan(value):
        return "-"
    if value == 0:
        return "0"
    size = math.floor(math.log10(float(f"{abs(value):.2e}")))
    return f"{value:,.{min(9, max(0, 2 - size))}f}"


def counted(n: int, one: str, several: str = "") -> str:
    """A number of things: ``1 run``, ``2 runs``."""
    return f"{n} {one if n == 1 else several or one + 's'}"


def _split(text: object) -> tuple[str, str]:
    match = _NUMBER.fullmatch(text) if isinstance(text, str) else None
    return (match[1], match[2]) if match else ("", "")


def _bytes(text: object) -> int | None:
    if isinstance(text, int) and not isinstance(text, bool):
        return text
    number, unit = _split(text)
    if number.isdigit() and not unit:
        return int(number)
    return int(Fraction(number) * UNITS[unit]) if number and unit in UNITS else None


def _positive(nbytes: int | None, text: object, key: str, forms: str) -> int:
    if nbytes is None or nbytes <= 0:
        raise UserError(f"{key}={str(text)!r}: not a positive size; allowed: {forms}")
    if nbytes > MAX_INT:
        raise UserError(f"{key}={str(text)!r}: more than any machine has; allowed: up to {MAX_INT} bytes")
    return nbytes
