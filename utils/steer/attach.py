"""`control --debug`: the debugger's prompt is at the caller's terminal until the run goes on. No torch here."""

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import sys
import termios
import tty
from pathlib import Path
from typing import Any

from utils import UserError
from utils.run import signals
from utils.run.terminal import Caller

from .channel import LOST, connect, listening

INTERRUPT = b"\x03"  # what Ctrl-C sends
SETTLE = 0.2  # seconds without output after which no more is expected
PLAIN = "\x1b[?2004l\x1b[?25h\x1b[0m"  # to a terminal that a killed prompt has left: no bracketed paste, a cursor


def enter(folder: Path, rank: int) -> None:
    """Open the debugger of process `rank` of the run in `folder` at this terminal; returns when its prompt is left.

    Both ends of a pseudo-terminal are made here: the process gets one, as an open file, and this one copies between the
    other and the real terminal. So whatever ends this process, the other one sees its terminal hang up.

    Raises UserError where there is no terminal, no such process on this machine, or when it refuses or ends.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UserError("--debug opens a prompt at your terminal, but there is none (with ssh: ssh -t HOST)")
    signals.loaded()  # from here on a signal ends this process as an exception: the terminal is restored
    near, far = os.openpty()
    with socket.socket(socket.AF_UNIX) as connection, open(near, "rb", buffering=0):
        with open(far, "rb", buffering=0):
            reach(connection, folder, rank)
            resize(near)
            socket.send_fds(connection, [os.environ.get("TERM", "dumb").encode() + b"\n"], [far])
        print(f"{folder.name}: waiting for the end of the step; Ctrl-C gives up", flush=True)
        with connection.makefile("rb", buffering=0) as answers:  # nothing is read ahead: relay waits for the last one
            answer = json.loads(answers.readline() or "null")
            if answer == Caller.OPENED:
                relay(near, connection)
                answer = json.loads(answers.readline() or "null")
            elif answer:
                raise UserError(f"{folder.name}: {answer}")
    if answer is None:
        sys.stdout.write(PLAIN * (os.environ.get("TERM", "dumb") != "dumb"))
        raise UserError(LOST.format(folder.name))
    if answer:
        print(f"{folder.name}: {answer}")


def reach(connection: socket.socket, folder: Path, rank: int) -> None:
    """Connect to the process. Raises UserError that says why it cannot be reached, and what to do."""
    count = listening(folder, 0).get("processes", rank + 1)  # not known before the first step
    if rank >= count:
        there = "one process: leave --rank out" if count == 1 else f"{count} processes: give --rank=0 to {count - 1}"
        raise UserError(f"--rank={rank}: {folder.name} has {there}")
    try:
        connect(connection, folder, rank)
    except OSError:
        host = listening(folder, rank).get("host", socket.gethostname())
        if host != socket.gethostname():
            here = f"it runs on {host}, and a prompt needs the same machine: log in there (ssh -t {host})"
        else:
            here = "it does not listen: it is not at its first step yet, or its socket could not be made"
        raise UserError(f"{folder.name} cannot be entered from here: {here}, then give this command again") from None


def relay(near: int, connection: socket.socket) -> None:
    """Copy between this process's terminal, in raw mode, and the open file `near` until the connection says more, or
    either end is closed."""
    ends: list[Any] = [0, near, connection]
    before, typed = termios.tcgetattr(0), b""
    window = signal.signal(signal.SIGWINCH, lambda *_: resize(near))
    os.set_blocking(near, False)
    try:
        tty.setraw(0)
        while True:
            ready, writable, _ = select.select(ends, [near] if typed else [], [])
            if near in ready and not copy(near) or connection in ready:
                break
            if 0 in ready:
                typed += (keys := read(0))
                if not keys:  # the terminal is gone
                    break
                if INTERRUPT in keys and termios.tcgetattr(near)[3] & termios.ISIG:
                    connection.sendall(b"\n")  # no signal comes of it there: it is not that process's own terminal
            if writable:
                with contextlib.suppress(BlockingIOError):
                    typed = typed[os.write(near, typed) :]
        while select.select([near], [], [], SETTLE)[0] and copy(near):
            pass
    finally:
        signal.signal(signal.SIGWINCH, window)
        with contextlib.suppress(termios.error):  # it is gone
            termios.tcsetattr(0, termios.TCSADRAIN, before)


def read(number: int) -> bytes:
    """What can be read from an open file; nothing when its other end is closed."""
    with contextlib.suppress(OSError):
        return os.read(number, 65536)
    return b""


def copy(near: int) -> bool:
    """Show what has come; whether any has."""
    shown = read(near)
    sys.stdout.buffer.write(shown)
    sys.stdout.flush()
    return bool(shown)


def resize(near: int) -> None:
    """Give the pseudo-terminal the size of this process's terminal."""
    size: Any = fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8))
    fcntl.ioctl(near, termios.TIOCSWINSZ, size)
