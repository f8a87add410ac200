"""How hearth speaks to its user: notes on stdout, warnings on stderr, above the progress bar where there is one."""

import os
import sys

from tqdm import tqdm

_said: set[str] = set()


def note(text: str) -> None:
    """Print a note on stdout, of several processes the first one's. File names may be any bytes: what is not UTF-8 is
    escaped."""
    if os.environ.get("RANK", "0") == "0":
        tqdm.write(f"note: {text}".encode("utf-8", "backslashreplace").decode(), file=sys.stdout)


def warn(text: str) -> None:
    """Print a warning on stderr."""
    tqdm.write(f"warning: {text}".encode("utf-8", "backslashreplace").decode(), file=sys.stderr)


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: "1 epoch", "2 epochs", and with a plural of its own "2 classes"."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def once(topic: str, owner: object = None) -> bool:
    """True the first time that this process, or the object `owner`, asks about `topic`, and again after `forget`."""
    said = _topics(owner)
    first = topic not in said
    said.add(topic)
    return first


def forget(topic: str, owner: object = None) -> bool:
    """Let `once` answer True again. Returns whether the topic had come up."""
    said = _topics(owner)
    known = topic in said
    said.discard(topic)
    return known


def _topics(owner: object) -> set[str]:
    return _said if owner is None else vars(owner).setdefault("_said", set())


def note_once(text: str) -> None:
    """Print a note unless this process has printed the same one: train and val read the same folders."""
    if once(text):
        note(text)


def warn_once(text: str) -> None:
    """Print a warning unless this process has printed the same one."""
    if once(text):
        warn(text)
