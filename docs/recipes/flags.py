"""Numbers from the command line, which are refused in one sentence where they are none or out of range."""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Callable
from functools import partial


def number(bounds: str = "(]", above: float = math.inf) -> Callable[[str], float]:
    """A number between zero and `above`; a round bracket leaves that end out, and infinity is one where it may be."""
    least = math.nextafter(0, 1) if bounds[0] == "(" else 0.0
    most = above if bounds[1] == "]" else math.nextafter(above, 0)

    def parsed(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if least <= value <= most:
            return value
        raise argparse.ArgumentTypeError(f"expected a number in {bounds[0]}0, {above:g}{bounds[1]}, got {text}")

    return parsed


def real(text: str) -> float:
    """Any number that is finite."""
    with contextlib.suppress(ValueError):
        if math.isfinite(value := float(text)):
            return value
    raise argparse.ArgumentTypeError(f"expected a number, got {text}")


def count(text: str, least: int = 1) -> int:
    """A whole number of at least so much."""
    if not (text.isascii() and text.isdecimal()) or int(text) < least:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, got {text}")
    return int(text)


from_zero = partial(count, least=0)
from_two = partial(count, least=2)
