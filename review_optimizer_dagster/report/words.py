"""Sums and shares as the dashboard writes them; page.js writes them the same way."""

from __future__ import annotations

import math
import re
from typing import Final

BLANK: Final = "\xa0"  # no line may end before the sign
_MOST_DECIMALS: Final = 9  # a nano-dollar


def dollars(value: float) -> str:
    """Dollars with cents; less than one dollar with three digits that count.

    >>> dollars(1234.5), dollars(0.5), dollars(0.0015), dollars(0.00123456)
    ('$1,234.50', '$0.50', '$0.0015', '$0.00123')
    """
    size = abs(value)
    decimals = 2
    if 0 < size < 1:
        decimals = min(_MOST_DECIMALS, max(2, 2 - math.floor(math.log10(size))))
    whole, _, fraction = f"{size:,.{decimals}f}".partition(".")
    return f"{'-' if value < 0 else ''}${whole}.{fraction[:2]}{fraction[2:].rstrip('0')}"


def percent(share: float) -> str:
    r"""A share in per cent, with a decimal where it has one.

    >>> percent(0.75), percent(3.3929)
    ('75\xa0%', '339.3\xa0%')
    """
    return f"{100 * share:,.1f}".removesuffix(".0") + f"{BLANK}%"


def spaced(text: str) -> str:
    r"""A text with every per cent sign set as `percent` sets it: messages come from many places.

    >>> spaced("95.00% asked, 90 % interval")
    '95.00\xa0% asked, 90\xa0% interval'
    """
    return re.sub(r"(?<=\d)[ \xa0]?%", f"{BLANK}%", text)
