"""How hearth speaks to its user: notes on stdout, warnings on stderr, above the progress bar where there is one."""

import atexit
import contextlib
import errno
import io
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

_said: set[str] = set()


class Output(io.TextIOWrapper):
    """A stream of text to a file, a pipe or a terminal. Where that takes no more, on a full disk or because whoever
    read it (head, less) is gone, what is printed is lost, and the work continues. Names of files and classes need not
    be UTF-8, nor is every terminal: what cannot be encoded is escaped.

    Args:
        stream: what it takes the place of.
    """

    def __init__(self, stream: io.TextIOWrapper):
        stream.flush()
        lines = stream.line_buffering or stream.write_through  # the latter with PYTHONUNBUFFERED
        file = io.BufferedWriter(io.FileIO(stream.fileno(), "w", closefd=False))  # as the file is now, not as it began
        super().__init__(file, stream.encoding, "backslashreplace", line_buffering=lines)
        self.stream, self.lost = stream, False  # dropped, the stream would close the file
        atexit.register(self.end)

    def write(self, text: str) -> int:
        """As that of TextIOWrapper."""
        with self._safe():
            super().write(text)
        return len(text)

    def flush(self) -> None:
        """As that of TextIOWrapper."""
        with self._safe():
            super().flush()

    def end(self) -> None:
        """Drop what cannot be written until the end: Python would take it for a failure of the program."""
        if not self.closed:
            self.flush()
        if self.lost and not self.closed:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())

    @contextlib.contextmanager
    def _safe(self) -> Iterator[None]:
        """A warning, once, when the stream fails; none where it is a pipe that is read no longer."""
        try:
            yield
        except OSError as error:
            first, self.lost = not self.lost, True
            if first and error.errno not in (errno.EPIPE, errno.EINVAL):  # the latter on Windows
                what = f"{self.stream.name} cannot be written ({error.strerror})"
                warn(f"{what}: what is printed is lost, the work continues")


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


def command(*words: object) -> str:
    """`python main.py` and these words, as a shell takes them in the folder where this program was started."""
    program = Path(__file__).resolve().parent.parent / "main.py"
    here = Path("main.py")
    started = here if here.exists() and here.samefile(program) else program
    return " ".join(["python", *(shlex.quote(str(word)) for word in (started, *words))])
