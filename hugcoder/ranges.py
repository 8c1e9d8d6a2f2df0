"""Checks the numbers of a whole group of settings against their ranges; loads no torch.

A plain comparison may let NaN through, so groups use these ranges and do not compare themselves.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from hugcoder.refusal import Refusal


@dataclass(frozen=True)
class Range:
    """Holds finite numbers from low to high; `above` and `below` exclude the ends."""

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False
    is_whole: bool = False

    def holds(self, value: float) -> bool:
        if isinstance(value, float) and not math.isfinite(value):
            return False  # an integer may be too large for a float
        if self.is_whole and value != int(value):
            return False
        is_high = value > self.low if self.above else value >= self.low
        return is_high and (value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        kind = "a whole number, " if self.is_whole else ""
        first = f"above {self.low:,}" if self.above else f"{self.low:,}"
        if self.high == math.inf:
            return f"a number {first}" if self.above else f"{kind}{first} or more"
        return f"{kind}{first} to {'below ' if self.below else ''}{self.high:,}"


COUNT = Range(1, is_whole=True)
COUNT_OR_NONE = Range(0, is_whole=True)
POSITIVE = Range(0, above=True)
NOT_NEGATIVE = Range(0)
SHARE = Range(0, 1)
SEED = Range(0, 2**32, below=True, is_whole=True)  # what numpy takes
BYTES = Range(1, 10**15, is_whole=True)  # sums of them fit 64 bits


def check_ranges(settings: Any, ranges: Mapping[str, Range]) -> None:
    """Check ranges. Raises: Refusal naming the first setting out of range; None passes."""
    for name, allowed in ranges.items():
        value = getattr(settings, name)
        if value is not None and not allowed.holds(value):
            raise Refusal(f"{name} {value} is out of range; give {allowed}.")


def check_steps_or_share(settings: Any, *names: str) -> None:
    """Check settings. Raises: Refusal for a number that is neither steps nor a share of the run."""
    for name in names:
        value = getattr(settings, name)
        is_count = value is None or COUNT.holds(value)
        if not is_count and not Range(0, 1, above=True, below=True).holds(value):
            raise Refusal(
                f"{name} {value} is out of range; give a whole number of steps, 1 or more, or a "
                "share of the run above 0 and below 1."
            )


def plain_value(value: Any) -> Any:
    """Return a value as the user wrote it."""
    if isinstance(value, list):
        return " ".join(str(plain_value(item)) for item in value)
    return value.value if isinstance(value, Enum) else value


def check_choice(arguments: Any, name: str, allowed: tuple[str, ...], more: str = "") -> None:
    value = plain_value(getattr(arguments, name))
    if value not in (None, *allowed):
        raise Refusal(
            f"{name} {value} is not possible here; give one of {', '.join(allowed)}{more}."
        )
