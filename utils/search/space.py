"""What a sweep tries: ranges and lists in the place of options' values."""

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from utils import UserError
from utils.options.kinds import Kind, dashed
from utils.options.options import Options

DECADE = 10  # times that the end of a range has to be its beginning, for its logarithm to be spread evenly
FIXED = "config", "max_epoch"  # of what --resume could change, a trial's own
NUMBER = r"([+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?)"
# As a hurried person writes a range: 1-2, 1:2, 1 to 2, 1...2, and one that lacks an end, 1.. or ..2.
RANGE = re.compile(rf"{NUMBER}\s*(?:-|:|to|\.{{3,}})\s*{NUMBER}|{NUMBER}\.{{2,}}|\.\.+{NUMBER}", re.IGNORECASE)
PLAIN = "text", "None or text"  # what takes that, a path or a pattern say, is never read as a list,
LISTED = ("load_model_path",)  # but for this


@dataclasses.dataclass(frozen=True)
class Dimension:
    """The values of one option that a sweep tries.

    Attributes:
        values: the two ends of a range, both int or both float, or the texts of a list, each what the option takes.
        span: whether they are the ends of a range.
        depends: whether other options decide if the option is read.
    """

    values: tuple[Any, ...]
    span: bool
    depends: bool = False

    @property
    def log(self) -> bool:
        """Whether the logarithm is spread evenly."""
        return self.span and self.values[0] > 0 and self.values[1] / self.values[0] >= DECADE

    def __str__(self) -> str:
        if not self.span:
            return " or ".join(self.values)
        words = ["whole numbers"] * isinstance(self.values[0], int) + ["log"] * self.log
        return " to ".join(map(str, self.values)) + "".join(f", {word}" for word in words)

    def count(self) -> float:
        """How many values there are; infinity of numbers that are not whole."""
        if self.span:
            return self.values[1] - self.values[0] + 1 if isinstance(self.values[0], int) else math.inf
        return len(self.values)

    def all(self) -> Iterable[Any]:
        """Every value, of those that can be counted."""
        return range(self.values[0], self.values[1] + 1) if self.span else self.values


def dimension(name: str, kind: Kind, given: Any) -> Dimension | None:
    """What the text of an option lets a sweep try; None for a single value. Raises UserError for an empty range, one of
    an option that is no number, and a value that the option does not take."""
    if not isinstance(given, str) or (kind.takes in PLAIN and name not in LISTED):
        return None
    option, (low, dots, high) = f"{dashed(name)}={given}", given.partition("..")
    numeric = "number" in kind.takes and "several" not in kind.takes
    depends = bool(kind.only or kind.needs or kind.part)
    if numeric and (written := RANGE.fullmatch(given)) and not kind.accepts(given):
        low, high = written[1] or written[3] or "?", written[2] or written[4] or "?"
        raise UserError(f"{option}: a range has two ends, with two dots between them: {dashed(name)}={low}..{high}")
    if dots and (numeric or (is_number(low) and is_number(high))):
        if not numeric:
            raise UserError(f"{option}: a range is for numbers, and {dashed(name)} takes {kind.takes}: write a list")
        ends = tuple(checked(option, kind, end) for end in (low, high))
        if not all(isinstance(end, (int, float)) for end in ends):
            raise UserError(f"{option}: both ends of a range have to be numbers, {dashed(name)}=1..2 say")
        if not ends[0] < ends[1]:
            raise UserError(f"{option} is an empty range: its first end has to be less than the second")
        return Dimension(ends, True, depends)
    mark = "|" if "|" in given else ","
    if mark not in given or (mark == "," and kind.accepts(given)):
        return None
    parts = tuple(part.strip() for part in given.split(mark))
    values = [str(checked(option, kind, part)) for part in parts]
    if twice := next((part for part, value in zip(parts, values, strict=True) if values.count(value) > 1), ""):
        raise UserError(f"{option} has {twice} twice")
    return Dimension(parts, False, depends)


def words(options: dict[str, Any]) -> list[str]:
    """{option: value} as the command line has it."""
    return [dashed(name) if value is True else f"{dashed(name)}={value}" for name, value in options.items()]


def is_number(text: str) -> bool:
    """Whether a text is a number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def checked(option: str, kind: Kind, value: str) -> Any:
    """A value in the option's type. Raises UserError, which begins with `option`, where it is none."""
    try:
        return kind.check(value)
    except ValueError as error:
        raise UserError(f"{option}: {value!r} cannot be one of its values: it takes {error}") from None


class Space:
    """All that a sweep may train: the options that are the same in every trial, and those that vary.

    Args:
        words: {option: text} of what every trial is given.
        varied: {option: Dimension}.
        load: makes Options of {option: value} for a command.
    """

    def __init__(self, words: dict[str, Any], varied: dict[str, Dimension], load: Callable[..., Options]):
        self.words, self.load = words, load
        # What others decide about comes after them.
        self.varied = dict(sorted(varied.items(), key=lambda one: one[1].depends))

    def options(self, chosen: dict[str, Any]) -> Options:
        """The options of a training with these values of those that vary. Raises UserError."""
        return self.load({**self.words, **chosen}, command="train")

    def resumed(self, folder: Path) -> dict[str, Any]:
        """What a trial that is resumed is given: the run has its own options, those that it may change are as now."""
        kinds = self.load({}).options()
        free = {name: value for name, value in self.words.items() if kinds[name].free and name not in FIXED}
        return {**free, "resume": str(folder)}

    def check(self, accepts: Callable[[Options], Any]) -> None:
        """Raise UserError for an end of a range, or a value of a list, that no training can have: not alone, and not
        with any value of another option either. `accepts` raises UserError for options that it refuses."""
        for name, one in self.varied.items():
            others = [{other: value} for other, two in self.varied.items() if other != name for value in two.values]
            for value in one.values:
                refused = (self.refused({**chosen, name: value}, accepts) for chosen in ({}, *others))
                if (first := next(refused)) and all(refused):
                    raise first

    def refused(self, chosen: dict[str, Any], accepts: Callable[[Options], Any]) -> UserError | None:
        """Why no training can have these values, or None."""
        try:
            accepts(self.options(chosen))
        except UserError as error:
            return error
        return None

    def choose(self, suggest: Callable[[str, Dimension], Any], accepts: Callable[[Options], Any]) -> dict[str, Any]:
        """{option: value} of one trial: suggest(option, its Dimension) of every option that is read with the values of
        those before it."""
        chosen: dict[str, Any] = {}
        for name, one in self.varied.items():
            if not one.depends or not any(self.refused({**chosen, name: value}, accepts) for value in one.values):
                chosen[name] = suggest(name, one)
        return chosen

    def combinations(self, most: int, accepts: Callable[[Options], Any]) -> list[dict[str, Any]]:
        """Every combination of values, each once, if there are no more than `most`; else []."""
        if math.prod(one.count() for one in self.varied.values()) > most:
            return []
        found: list[dict[str, Any]] = []
        for values in self.product():
            chosen = self.choose(lambda name, _, values=values: values[name], accepts)  # type: ignore[misc]
            found += [chosen] * (chosen not in found)
        return found

    def product(self) -> Iterator[dict[str, Any]]:
        """Every combination of values, whether all of them are read or not."""
        for values in itertools.product(*(one.all() for one in self.varied.values())):
            yield dict(zip(self.varied, values, strict=True))
