"""Which pictures --input means."""

import glob
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from utils import UserError


def paths(given: str, pictures: Callable[[str], list[Any]]) -> Iterator[Any]:
    """Yield the files that `given` names: a file, a folder, a pattern (*.jpg) or `-`, the lines of standard input; or
    several of them with commas between. A file whose name has a comma or a * is that file.

    Args:
        pictures: the pictures in a folder.

    Raises UserError, before the first is yielded, for what is not there.
    """
    words = [given] if os.path.lexists(given) else [word.strip() for word in given.split(",")]
    return (path for files in [matched(word, pictures) for word in words] for path in files)


def matched(word: str, pictures: Callable[[str], list[Any]]) -> Any:
    """The files of one word, see `paths`."""
    if word == "-":
        return (line.rstrip("\r\n") for line in sys.stdin if line.strip())  # one at a time: it may be a pipe
    word = os.path.expanduser(os.path.expandvars(word))
    if os.path.isdir(word):
        return pictures(word)
    if os.path.lexists(word):
        return [word]
    if found := sorted(path for path in glob.glob(word, recursive=True) if os.path.isfile(path)):
        return found
    what = "no file matches it" if glob.has_magic(word) else "there is no such file"
    raise UserError(f"--input={word}: {what}; give a picture, a folder, a pattern like 'my/*.jpg', or - for a list")
