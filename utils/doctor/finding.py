"""What a check of `doctor` has found: one line."""

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from utils import UserError

OK, LOOK, WRONG = "OK", "look", "wrong"
NAMED = 3  # things that a line names


class Finding(NamedTuple):
    """One line of the report.

    Attributes:
        name: what was looked at.
        verdict: OK; LOOK, where it may be meant so; WRONG.
        found: the facts, with numbers.
        advice: what to do, "" where all is well.
    """

    name: str
    verdict: str
    found: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.verdict:<6} {self.name:<22} {self.found}{f': {self.advice}' if self.advice else ''}"


def failed(name: str, error: Exception) -> Finding:
    """The Finding of a step that raises an error."""
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    reason = textwrap.shorten(str(error), 200, placeholder=" ...")
    return Finding(name, WRONG, f"it fails, {kind}{reason}", "train ends so, too, and --pdb stops it there")


def judged(name: str, faults: Sequence[Any], sound: str, found: str, advice: str, verdict: str = WRONG) -> Finding:
    """The Finding of a check that lists faults: OK with `sound` where there are none, else the `verdict`, and `found`
    followed by the first of them."""
    return Finding(name, verdict, f"{found} {listed(faults)}", advice) if faults else Finding(name, OK, sound)


def listed(things: Iterable[Any]) -> str:
    """The first of some things, with commas, and how many more there are."""
    words = [str(one) for one in things]
    more = f" and {len(words) - NAMED} more" if len(words) > NAMED else ""
    return ", ".join(words[:NAMED]) + more
