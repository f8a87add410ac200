"""`touch /tmp/debug`, or a caller, stops the running loop in the debugger, in the frame of main.py's loop."""

import getpass
import os
import pdb
import stat
import sys
from bdb import BdbQuit
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from utils.events import Control
from utils.notices import once, warn
from utils.train.processes import ALONE, World

from .terminal import HERE, Here

UTILS = Path(__file__).resolve().parent.parent


class Debugger(Control):
    """Looks for the touch file after every batch of training, validation and test, and opens ipdb (or pdb) there.

    The file counts when it is a plain file (no link) of the user who runs the training, touched after the run began;
    it is removed before the prompt opens. Where another user has taken its name, so does <path>.<user>. Without a
    terminal to type at there is one warning and the run continues.

    Of the several processes of a World all have to end: Signals looks at `left`.

    Args:
        path: the touch file.
        world: the World; its first process looks for the file.
        otherwise: what the warning says is to be done without a terminal.

    Attributes:
        terminal: that of who called from elsewhere; when somebody waits there, the debugger opens there.
    """

    def __init__(self, path: str, world: World = ALONE, otherwise: str = ""):
        self.world, self.left, self.otherwise = world, False, otherwise
        self.terminal: Here = HERE
        if world.on_main(terminal):
            world.extend_timeout()  # for whoever sits there, at the prompt
        # Not compared with the clock: the file system may have another one.
        self.before = {each: stamp(each) for each in (path, f"{path}.{user()}")}

    def on_batch_end(self, **_: Any) -> None:
        if self.left and self.world.size == 1:
            raise BdbQuit
        self.terminal.release()
        if self.terminal.waiting and not self.left:
            open_prompt(caller(), self._leave, self.terminal)
        elif self.world.main and not self.left and any([self._asked(path) for path in self.before]):
            open_prompt(caller(), self._leave)

    on_test_summary = on_batch_end

    def _leave(self) -> None:
        # To leave in the middle of a step would save weights that have made it with a position before it: a resumed
        # run would make the step twice. So the step is finished first.
        self.left = True
        print("the run ends after this batch", flush=True)

    def _asked(self, path: str) -> bool:
        found = stamp(path)
        if found is None:  # the usual case: no such file
            return False
        mode, owner, *_ = found
        problem = ""
        if not stat.S_ISREG(mode) or (hasattr(os, "getuid") and owner != os.getuid()):
            problem = f"is not a plain file of yours: it does not open the debugger, {path}.{user()} would"
        elif found == self.before[path]:
            problem = "is older than this run: `touch` it again to open the debugger"
        elif not terminal():
            problem = f"asks for the debugger, but there is no terminal to type at: the run continues{self.otherwise}"
        else:
            try:
                os.unlink(path)
            except OSError as error:
                problem = f"cannot be removed ({error.strerror}): it does not open the debugger"
        if problem and once(problem, owner=self):
            warn(f"{path} {problem}")
        return not problem


def stamp(path: str) -> tuple[int, int, int, int] | None:
    """(mode, owner, number, time) of a file, or None where there is none."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_mode, found.st_uid, found.st_ino, found.st_mtime_ns


def user() -> str:
    """The name of the user who runs this, or where it has none the number."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's
        return str(os.getuid())


def terminal() -> bool:
    """True when somebody can type at this process: its input and output are a terminal and it is in the foreground."""
    if not all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout)):
        return False
    try:
        return not hasattr(os, "tcgetpgrp") or os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except OSError:  # a terminal, but another session's: torchrun gives each process one of its own, and does not read
        return "TORCHELASTIC_RUN_ID" in os.environ


def caller() -> FrameType:
    """The innermost frame outside utils/: the loop that is being watched."""
    frame = sys._getframe(1)
    while frame.f_back and Path(frame.f_code.co_filename).resolve().is_relative_to(UTILS):
        frame = frame.f_back
    return frame


def post_mortem(error: BaseException) -> None:
    """Open a prompt in the frame that an exception was raised in: ipdb where it is installed, else pdb."""
    print(f"\n{type(error).__name__}: {error}\nstopped where it was raised: h help, u up, q leave", flush=True)
    prompt(lambda ipdb: ipdb.post_mortem(error.__traceback__), lambda: pdb.post_mortem(error.__traceback__))


def prompt(with_ipdb: Callable[[Any], Any], with_pdb: Callable[[], Any]) -> Any:
    """What with_ipdb(ipdb) returns, or where that does not start with_pdb()."""
    main, excepthook = sys.modules["__main__"], sys.excepthook
    try:
        import ipdb
        from prompt_toolkit.application import create_app_session

        with create_app_session():  # else it keeps the terminal that its first prompt was at
            found = with_ipdb(ipdb)
    except (Exception, SystemExit) as error:  # it does not start with a home it cannot write to, or a broken profile
        if not isinstance(error, ImportError):
            print(f"pdb instead of ipdb, which does not start: {error}", flush=True)
        found = with_pdb()
    sys.modules["__main__"], sys.excepthook = main, excepthook  # IPython puts its own in their places
    return found


def open_prompt(frame: FrameType, leave: Callable[[], None], at: Here = HERE) -> None:
    """Stop at the next line of `frame`: ipdb where it is installed, else pdb, `at` this terminal. To quit there means
    leave() and `c`; so does `c` alone when the terminal is gone."""

    def stopped(set_trace: Callable[[FrameType], None]) -> Any:
        set_trace(frame)
        debugger = sys.gettrace().__self__  # type: ignore[union-attr]
        sys.settrace(None)  # else it would stop in the next function that is called, which is not in `frame`
        return debugger

    with at.streams():
        print(f"\n{at.reason}", flush=True)
        debugger = prompt(lambda ipdb: stopped(ipdb.set_trace), lambda: stopped(pdb.Pdb().set_trace))
        at.attach(debugger)
    plain, words = debugger.interaction, "the run goes on"

    def interaction(*facts: Any) -> None:
        with at.streams():
            try:
                if not at.gone:
                    plain(*facts)
            except (Exception, KeyboardInterrupt) as error:
                if not at.gone and isinstance(error, Exception):
                    raise
        at.release()
        if not sys.gettrace():  # `c`, and no breakpoint is left
            at.end(words)

    def quit() -> None:
        nonlocal words
        if not at.gone:  # else it is no Ctrl-D that was typed
            words = ""
            leave()
        debugger.clear_all_breaks()
        debugger.set_continue()

    debugger.interaction = interaction
    debugger.set_quit = quit  # instead of raising BdbQuit on the spot
    # Not pdb's command, which would start the program again: `run` is the loop's variable.
    debugger.do_run = lambda rest: debugger.default(f"run{' ' * (rest[:1] not in '.[(')}{rest}")
    debugger.nosigint = True  # Ctrl-C still ends the run; after `c` it would open the prompt wherever the run is
    debugger.set_next(frame)
    sys.settrace(debugger.trace_dispatch)
