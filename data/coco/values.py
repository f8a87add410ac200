"""Ids and numbers as people's JSON files have them."""

import math
import re
from typing import Any

FAR = 1e6  # pixels; the largest coordinate


def as_id(value: Any) -> int | str | None:
    """An id for comparison: a number that is written as text, or with a point, is that number; None: no id."""
    if isinstance(value, str) and not re.fullmatch(r"-?\d{1,18}", value, re.ASCII):
        return value or None
    number = as_number(value)
    return int(number) if number is not None and number == int(number) else None


def in_order(id: int | str) -> tuple[bool, int | str]:
    """What ids are sorted by: numbers, then texts."""
    return isinstance(id, str), id


def as_number(value: Any) -> int | float | None:
    """A number, which may be written as text; None for nan, infinity and anything else."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    return value if type(value) in (int, float) and math.isfinite(value) else None


def as_numbers(values: Any) -> list[Any] | None:
    """A list of numbers below FAR, which may be written as text; None where it is something else."""
    found = [as_number(value) for value in values] if isinstance(values, list) else [None]
    return found if all(value is not None and abs(value) < FAR for value in found) else None


def short(value: Any) -> str:
    """A value as text for an error message."""
    text = repr(value)
    return text if len(text) < 80 else f"{text[:77]}..."
