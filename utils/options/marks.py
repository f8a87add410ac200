"""Marks behind an option's kind, see kinds.py: `lr_decay: number(0) | only(scheduler="decay") = 0.95`."""

from typing import Any

free = {"free": True}  # --resume may change it; without the mark it would be another run under the same name


def by(*commands: str, hint: str = "") -> dict[str, Any]:
    """The commands of main.py that read the option, without the mark train, doctor and find-lr; for any other it is
    refused, with the hint."""
    return {"commands": commands, "hint": hint}


def of(part: str) -> dict[str, Any]:
    """Only some models or data sets read the option; for any other it is refused."""
    return {"part": part}


def only(**values: str | tuple[str, ...]) -> dict[str, Any]:
    """The option is read only when another option has one of these values."""
    return {"only": {name: (one,) if isinstance(one, str) else one for name, one in values.items()}}


def was(name: str, **values: str) -> dict[str, Any]:
    """The option's former name, and its former values where they changed, as old=new. Both still work."""
    return {"old": {name: values}}


def before(value: Any) -> dict[str, Any]:
    """The option is younger than some runs: its value in the record of one that does not name it."""
    return {"before": value}


def needs(*others: str) -> dict[str, Any]:
    """The option is refused unless one of the others is given."""
    return {"needs": others}
