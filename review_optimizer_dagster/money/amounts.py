"""Amounts of money as text."""

from __future__ import annotations

from decimal import Decimal


def usd(nanos: int) -> str:
    """Nano-dollars as an exact decimal string of dollars.

    >>> usd(12_345_678)
    '0.012345678'
    """
    return f"{Decimal(nanos).scaleb(-9):.9f}"
