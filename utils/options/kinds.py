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
import importlib.util
import math
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
LIBRARIES = {"models": "torchvision or timm"}


@dataclasses.dataclass(frozen=True)
class Kind:
    """What an option takes, and its marks.

    Attributes:
        check: returns a value in the option's type, or raises ValueError.
        takes: the values in words, as errors and `help` print them.
        free: whether --resume may change the option.
        part: "model" or "dataset" when only some of these read the option, else "".
        only: {other option: the values of it with which this one is read}.
        old: former spellings of the option, {name: {old value: new value}}.
    """

    check: Callable[[Any], Any]
    takes: str
    free: bool = False
    part: str = ""
    only: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    old: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)

    def __or__(self, mark: dict[str, Any]) -> "Kind":
        return dataclasses.replace(self, **mark)


def _text(value: Any) -> str:
    if value is True or str(value).strip() == "":
        raise ValueError("text")
    return str(value)


def _flag(value: Any) -> bool:
    spelled = str(value).strip().lower()
    if spelled in ("true", "1", "yes", "on"):
        return True
    if spelled in ("false", "0", "no", "off"):
        return False
    raise ValueError("True or False")


def _run_name(value: Any) -> str | None:
    if str(value) in ("None", "False"):
        return None
    return "newest" if str(value) == "True" else _text(value)


text = Kind(_text, "text")
flag = Kind(_flag, "True or False")
run_name = Kind(_run_name, "the folder or name of a run; bare, the newest unfinished one")


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


def choice(*names: str) -> Kind:
    """One of these names."""
    takes = "one of " + ", ".join(names)

    def check(value: Any) -> str:
        if value not in names:
            raise ValueError(takes + nearest(value, names))
        return value

    return Kind(check, takes)


def optional(kind: Kind) -> Kind:
    """None, or what `kind` takes."""
    return Kind(lambda value: None if str(value) == "None" else kind.check(value), f"None or {kind.takes}")


def several(kind: Kind) -> Kind:
    """One value or more: a list, or text with commas between the values; ["a,b"] is one with a comma, [] is none."""

    def check(value: Any) -> list[Any]:
        if isinstance(value, str) and value[:1] + value[-1:] in ("[]", "()"):
            try:
                value = ast.literal_eval(value)
            except (ValueError, SyntaxError):  # names without quotes
                value = value[1:-1]
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",")]
        return [kind.check(part) for part in (value if isinstance(value, (list, tuple)) else [value])]

    return Kind(check, f"{kind.takes}, or several with commas between them")


def weighted_sum(*names: str) -> Kind:
    """One of these names, or a sum of them with weights, written like 0.7*first+0.3*second."""

    def check(value: Any) -> str:
        for term in str(value).split("+"):
            factor, _, name = term.rpartition("*")
            choice(*names).check(name.strip())
            number(0, above=True).check(factor or 1)
        return str(value)

    return Kind(check, f"one of {', '.join(names)}, or a weighted sum like 0.7*{names[0]}+0.3*{names[-1]}")


def name_in(package: str, own: bool = False) -> Kind:
    """The name of a class that package/__init__.py imports, or of what its library offers (see library_names). With
    `own` also a class in a file of the user's, my_file.MyClass."""
    place = package.replace(".", "/")

    def check(value: Any) -> str:
        names, more = imported_names(package), library_names(package)
        added_at_run_time = isinstance(getattr(sys.modules.get(package), str(value), None), type)  # from a notebook
        if own and re.fullmatch(r"[\w.]+\.\w+", str(value)):
            return str(value)
        if value not in [*names, *more] and not added_at_run_time:
            others = f", or a classifier of {LIBRARIES[package]}" if more else ""
            others += ", or a class in a file of yours, my_file.MyClass" if own else ""
            hint = nearest(value, [*names, *more])
            raise ValueError(f"a class that {place}/__init__.py imports: {', '.join(names)}{others}{hint}")
        return value

    return Kind(check, f"a class that {place}/__init__.py imports")


def imported_names(package: str) -> list[str]:
    """What package/__init__.py imports, read as text: a misspelled name is answered without waiting for torch."""
    tree = ast.parse(ROOT.joinpath(*package.split("."), "__init__.py").read_text(encoding="utf-8"))
    nodes = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    own = [node for node in nodes if node.level or str(node.module).split(".")[0] not in sys.stdlib_module_names]
    return [alias.asname or alias.name for node in own for alias in node.names]


def library_names(package: str) -> list[str]:
    """Classifiers that torchvision, and timm where it is installed, register by name. Their files are read as text:
    to import them takes seconds."""
    names: list[str] = []
    for library in LIBRARIES.get(package, "").split(" or "):
        found = importlib.util.find_spec(library) if library else None
        for file in sorted(Path(str(found.origin)).parent.glob("models/*.py")) if found else ():
            names += re.findall(
                r"^@register_model(?:\(\))?\n(?:@.*\n)*def (\w+)", file.read_text("utf-8"), re.MULTILINE
            )
    return sorted(set(names))


def nearest(name: Any, known: Iterable[str]) -> str:
    """'; did you mean a, b?' for the known names that look like `name`, or ''."""
    close = difflib.get_close_matches(str(name), list(known), n=3, cutoff=0.55)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def dashed(name: str) -> str:
    """An option's name as the command line spells it."""
    return "--" + name.replace("_", "-")
