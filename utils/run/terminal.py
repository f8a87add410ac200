"""At whose terminal the debugger's prompt opens: at this process's own, or at that of who called. No torch here."""

import contextlib
import io
import os
import select
import sys
from collections.abc import Callable, Iterator
from typing import Any

from . import signals

KEYS = "h help, c continue, q end the run safely"


class Here:
    """The terminal that this process was started at. Its streams are already what they have to be.

    Attributes:
        reason: what the prompt opens with.
        waiting: whether somebody waits for a prompt there.
        gone: whether the terminal is closed.
        ended: whether no more prompts open there for somebody who called.
    """

    waiting = gone = typing = False
    ended = True

    def __init__(self, reason: str = f"stopped by the touch file: {KEYS}"):
        self.reason = reason

    def streams(self) -> contextlib.AbstractContextManager[None]:
        """In the block what is read and printed is read and printed at this terminal."""
        return contextlib.nullcontext()

    def attach(self, debugger: Any) -> None:
        """The debugger's prompts open here from now on."""

    def release(self) -> None:
        """Let the run go on without breakpoints if the terminal is gone."""

    def end(self, words: str) -> None:
        """No prompt follows: tell who called."""


HERE = Here()


class Quiet(io.FileIO):
    """An open file that drops what it cannot write: the terminal may be gone at any moment."""

    def write(self, data: Any) -> int:
        """The number of bytes that are written or dropped."""
        with contextlib.suppress(OSError):
            return super().write(data) or 0
        return len(data)


class Caller(Here):
    """The terminal of who typed `python main.py control --debug`.

    Args:
        number: the open file of the pseudo-terminal whose other end is relayed to theirs; it is closed in the end.
        kind: of terminal, as the environment's TERM has it.
        reply: sends words to who called: OPENED, then how it ended.
    """

    OPENED = "opened"

    def __init__(self, number: int, kind: str, reply: Callable[[str], object]):
        super().__init__(f"stopped by control --debug: {KEYS}")
        self.number, self.kind, self.reply = number, kind, reply
        os.set_inheritable(number, False)
        self.waiting, self.ended = True, False
        self.out = writer(number, closes=True)
        self.debugger: Any = None

    @property
    def gone(self) -> bool:  # type: ignore[override]
        """Whether the other end is closed, as it is when the process that relays has died."""
        if self.ended:
            return True
        poll = select.poll()
        poll.register(self.number, 0)  # errors and hang-ups are always reported
        return bool(poll.poll(0))

    @contextlib.contextmanager
    def streams(self) -> Iterator[None]:
        """Also for C, whose readline knows the files 0 and 1 alone. The run's own streams are back afterwards."""
        kept, kind = (sys.stdin, sys.stdout, sys.stderr), os.environ.get("TERM")
        for number in range(3):
            try:
                os.fstat(number)
            except OSError:  # the run was started with it closed
                os.open(os.devnull, os.O_RDWR)
        flush(*kept[1:])
        numbers = [os.dup(number) for number in range(3)]
        for number in range(3):
            os.dup2(self.number, number)
        own = sys.stdin, sys.stdout, sys.stderr = open(0, closefd=False), writer(1), writer(2)  # noqa: SIM115
        os.environ["TERM"] = self.kind
        self.typing = True
        try:
            yield
        finally:
            self.typing = False
            flush(*own[1:])
            for number, before in enumerate(numbers):
                os.dup2(before, number)
                os.close(before)
            sys.stdin, sys.stdout, sys.stderr = kept
            os.environ.pop("TERM")
            os.environ.update({"TERM": kind} if kind is not None else {})

    def attach(self, debugger: Any) -> None:
        """What the debugger says itself it says here from now on."""
        self.waiting, self.debugger = False, debugger
        debugger.stdout = self.out
        self.reply(self.OPENED)

    def release(self) -> None:
        """Also who called and left before a prompt opened is done with."""
        if not self.ended and self.gone:
            if self.debugger:
                self.debugger.clear_all_breaks()
                self.debugger.set_continue()
            self.end("")

    def end(self, words: str) -> None:
        """The last words; the terminal is closed, once."""
        if not self.ended:
            self.waiting, self.ended = False, True
            self.reply(words)
            self.out.close()

    def interrupt(self) -> None:
        """Ctrl-C was typed, or the connection has ended: drop what is typed or done at the prompt; where none is open,
        that was all."""
        if self.typing:
            signals.interrupt_prompt()
        else:
            self.reply("the run goes on, without breakpoints")


def writer(number: int, closes: bool = False) -> io.TextIOWrapper:
    """A stream that writes to an open file, Quiet and line by line, and `closes` it when it is closed itself."""
    raw = Quiet(number, "w", closefd=closes)
    return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", "backslashreplace", line_buffering=True)


def flush(*streams: Any) -> None:
    """Write what the streams hold back."""
    for stream in streams:
        with contextlib.suppress(AttributeError, OSError, ValueError):  # there is none, the disk is full, it is closed
            stream.flush()
