"""Which pictures --input means."""

import glob
import os
import select
import sys
from collections.abc import Callable, Iterator
from typing import Any

from utils import UserError

PAUSE = object()  # stands among paths where the next one is not there yet: what has been read so far is answered
PATIENCE = 0.05  # seconds; a list that is being written, by ls say, has shorter gaps


def named(given: str) -> list[Any]:
    """What `given` names, word by word: lists of files, folders, or `-`, the lines of standard input. It is a file, a
    folder, a pattern (*.jpg) or `-`; or several of them with commas between. A file whose name has a comma or a * is
    that file. Raises UserError for what is not there."""
    return [matched(word) for word in ([given] if os.path.lexists(given) else map(str.strip, given.split(",")))]


def matched(word: str) -> Any:
    """The files of one word, or the folder or `-` that it is, see `named`."""
    path = os.path.expanduser(os.path.expandvars(word))
    if word == "-" or os.path.isdir(path):
        return word if word == "-" else path
    if os.path.lexists(path):
        return [path]
    if found := sorted(path for path in glob.glob(path, recursive=True) if os.path.isfile(path)):
        return found
    what = "no file matches it" if glob.has_magic(path) else "there is no such file"
    raise UserError(f"--input={path}: {what}; give a picture, a folder, a pattern like 'my/*.jpg', or - for a list")


def paths(words: list[Any], pictures: Callable[[str], list[Any]]) -> Iterator[Any]:
    """Yield the files of `named`, and a PAUSE wherever standard input makes one wait.

    Args:
        pictures: the pictures in a folder.

    Raises UserError, before the first is yielded, for a folder without pictures.
    """
    lists = [word if isinstance(word, list) else lines() if word == "-" else pictures(word) for word in words]
    return (path for files in lists for path in files)


def lines() -> Iterator[Any]:
    """Yield the lines of standard input that are not empty, as they come, and a PAUSE where the next one takes long."""
    source, rest = sys.stdin.fileno(), b""
    while piece := os.read(source, 1 << 16):
        *whole, rest = (rest + piece).split(b"\n")
        yield from (os.fsdecode(line.rstrip(b"\r")) for line in whole if line.strip())
        if waits(source):
            yield PAUSE
    if rest.strip():
        yield os.fsdecode(rest.rstrip(b"\r"))


def waits(source: int) -> bool:
    """Whether nothing can be read from this file's number for a moment; False where the system cannot say (Windows)."""
    try:
        return not select.select([source], [], [], PATIENCE)[0]
    except OSError:
        return False
