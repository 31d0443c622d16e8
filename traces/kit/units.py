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


def parse_bytes(text: object, key: str = "budget", of: int | None = None) -> int:
    """Read a positive number of bytes: ``"8GB"``, ``"1.5GiB"``, ``"1500000000"`` or an int; or a share ``of``
    all expert bytes, if these are given: ``"50%"``, above 0% and up to 100%. A number of bytes may exceed all experts.

    Decimals are exact (no floating point); what is left below one byte is rounded down.
    Raises UserError, naming `key`, for anything else: signs, exponents, blanks, other spellings, zero.
    """
    forms = _FORMS if of is None else f"{_FORMS}, or a share of all expert bytes above 0% and up to 100%, such as 50%"
    match = _NUMBER.fullmatch(text) if isinstance(text, str) else None
    number, unit = match.groups() if match else ("0", "B")
    sizes = UNITS | ({} if of is None else {"%": Fraction(of, 100)})
    if isinstance(text, int) and not isinstance(text, bool):
        nbytes = text
    elif unit == "%" and of is not None and Fraction(number) > 100:
        raise UserError(f"{key}={str(text)!r}: above 100%, which is all experts; allowed: {forms}")
    elif unit in sizes or (not unit and number.isdigit()):
        nbytes = int(Fraction(number) * sizes.get(unit, 1))
    else:
        nbytes = 0
    if nbytes <= 0:
        raise UserError(f"{key}={str(text)!r}: not a positive size; allowed: {forms}")
    if nbytes > MAX_INT:
        raise UserError(f"{key}={str(text)!r}: more than any machine has; allowed: up to {MAX_INT} bytes")
    return nbytes


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
    """A number of things: ``1 run``, ``2,000 runs``."""
    return f"{n:,} {one if n == 1 else several or one + 's'}"
