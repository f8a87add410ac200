"""Kinds of options.

An option is one line of a class: `lr: number(0, above=True) = 0.001  # initial learning rate`. Its annotation is a
Kind: it takes what the user gave (text from the command line, YAML or Python values) and returns it in the option's
type, or raises ValueError saying what the option takes. Marks behind it (marks.py) say the rest: `| free`,
`| of("dataset")`.
"""

import ast
import contextlib
import dataclasses
import difflib
import math
import os
import re
from collections.abc import Callable, Iterable
from typing import Any

from .own import OWN


@dataclasses.dataclass(frozen=True)
class Kind:
    """What an option takes, and its marks.

    Attributes:
        check: returns a value in the option's type, or raises ValueError.
        takes: the values in words, as errors and `help` print them.
        free: whether --resume may change the option.
        commands: the commands of main.py that read it.
        hint: what to do instead where another command does not read it, or "".
        part: "model" or "dataset" when only some of these read the option, else "".
        needs: other options; one of them has to be given with it.
        only: {other option: the values of it with which this one is read}.
        old: former spellings of the option, {name: {old value: new value}}.
        before: its value in the record of a run that does not name it; None: the default.
    """

    check: Callable[[Any], Any]
    takes: str
    free: bool = False
    commands: tuple[str, ...] = ("train", "doctor", "find-lr")  # these two take a training's command line as it is
    hint: str = ""
    part: str = ""
    needs: tuple[str, ...] = ()
    only: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    old: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    before: Any = None

    def __or__(self, mark: dict[str, Any]) -> "Kind":
        return dataclasses.replace(self, **mark)

    def accepts(self, value: Any) -> bool:
        """Whether the option takes a value."""
        try:
            self.check(value)
        except ValueError:
            return False
        return True

    def accepts_each(self, value: Any) -> bool:
        """Whether a text is a list of values that the option takes one of, or a range, as `sweep` has them: 1,2 or
        1..2."""
        parts = re.split(r"\.\.|[,|]", value) if isinstance(value, str) and "commas" not in self.takes else []
        return len(parts) > 1 and all(self.accepts(part.strip()) for part in parts)


def read_text(value: Any) -> str:
    """Text that is not empty."""
    if value is True or str(value).strip() == "":
        raise ValueError("text")
    return str(value)


def expanded(path: str) -> str:
    """A path with ~ and $VARIABLES replaced, which a shell does only at the beginning of a word."""
    return os.path.expanduser(os.path.expandvars(path))


def _flag(value: Any) -> bool:
    spelled = str(value).strip().lower()
    if spelled in ("true", "1", "yes", "on"):
        return True
    if spelled in ("false", "0", "no", "off"):
        return False
    raise ValueError("True or False")


def _settings(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    with contextlib.suppress(SyntaxError, ValueError):
        call: Any = ast.parse(f"f({'' if str(value) in ('{}', 'None') else value})", mode="eval").body
        if not call.args:
            return {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    raise ValueError("settings like alpha=0.9,centered=True")


text = Kind(read_text, "text")
path = Kind(lambda value: expanded(read_text(value)), "text")
flag = Kind(_flag, "True or False")
settings = Kind(_settings, "settings like alpha=0.9,centered=True")


def integer(low: int, high: int = 2**63 - 1) -> Kind:
    """A whole number from `low` to `high`."""
    takes = f"a whole number of {low} or more" + (f", at most {high}" if high < 2**63 - 1 else "")

    def check(value: Any) -> int:
        with contextlib.suppress(ValueError):
            number = int(str(value))
            if low <= number <= high:
                return number
        raise ValueError(takes)

    return Kind(check, takes)


def pixels(low: int) -> Kind:
    """Width and height in pixels, each of `low` or more: a whole number for a square, else text, "320x192"."""
    takes = f"a whole number of {low} or more, or width x height, 320x192"
    side = integer(low)

    def check(value: Any) -> int | str:
        width, mark, height = str(value).lower().partition("x")
        try:
            sides = side.check(width), side.check(height if mark else width)
        except ValueError:
            raise ValueError(takes) from None
        return sides[0] if sides[0] == sides[1] else f"{sides[0]}x{sides[1]}"

    return Kind(check, takes)


def height_width(size: int | str) -> tuple[int, int]:
    """(height, width) of what an option of the kind pixels holds: 224 -> (224, 224), "320x192" -> (192, 320)."""
    width, _, height = str(size).partition("x")
    return int(height or width), int(width)


def number(low: float = 0.0, above: bool = False, high: float = math.inf) -> Kind:
    """A finite number from `low` (or above it) to `high`."""
    upper = f" and at most {high:g}" if math.isfinite(high) else ""
    takes = f"a number {'above' if above else 'of at least'} {low:g}{upper}"

    def check(value: Any) -> float:
        with contextlib.suppress(TypeError, ValueError):
            result = math.nan if isinstance(value, bool) else float(value)
            if math.isfinite(result) and low <= result <= high and not (above and result == low):
                return result
        raise ValueError(takes)

    return Kind(check, takes)


def choice(*names: str, own: bool = False) -> Kind:
    """One of these names; with `own` also a user's own, my_file.name."""
    takes = "one of " + ", ".join(names) + (", or your own, my_file.name" if own else "")

    def check(value: Any) -> str:
        if value not in names and not (own and OWN.fullmatch(str(value))):
            raise ValueError(takes + nearest(value, names))
        return value

    return Kind(check, takes)


def optional(kind: Kind) -> Kind:
    """None, or what `kind` takes."""
    return Kind(lambda value: None if str(value) == "None" else kind.check(value), f"None or {kind.takes}")


def either(kind: Kind, word: str) -> Kind:
    """This word, or what `kind` takes."""

    def check(value: Any) -> Any:
        try:
            return word if str(value) == word else kind.check(value)
        except ValueError as error:
            raise ValueError(f"{error}, or {word}") from None

    return Kind(check, f"{kind.takes}, or {word}")


def several(kind: Kind) -> Kind:
    """One value or more: a list, or text with commas between the values; ["a,b"] is one with a comma, [] or
    None is none."""

    def check(value: Any) -> list[Any]:
        value = [] if str(value) == "None" else value
        if isinstance(value, str) and value[:1] + value[-1:] in ("[]", "()"):
            try:
                value = ast.literal_eval(value)
            except (ValueError, SyntaxError):  # names without quotes
                value = value[1:-1]
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",")]
        parts, checked = value if isinstance(value, (list, tuple)) else [value], []
        for part in parts:
            try:
                checked.append(kind.check(part))
            except ValueError as error:
                raise ValueError(f"{error}; {part!r} is none" if len(parts) > 1 else str(error)) from None
        return checked

    return Kind(check, f"{kind.takes}, or several with commas between them; None: none")


def nearest(name: Any, known: Iterable[str]) -> str:
    """'; did you mean a, b?' for the known names that look like `name`, else begin with it, else look like it in other
    case; or ''."""
    name, known = str(name), [*known]
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.55)
    close = close or [one for one in known if one.startswith(name)][:3]
    lower = {one.lower(): one for one in known}
    close = close or [lower[one] for one in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.55)]
    return f"; did you mean {' or '.join(close)}?" if close else ""


def dashed(name: str) -> str:
    """An option's name as the command line spells it."""
    return "--" + name.replace("_", "-")
