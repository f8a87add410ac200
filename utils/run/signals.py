"""SIGTERM and SIGINT (Ctrl-C): a training finishes its step and is saved, all else ends at once; no traceback."""

import _thread
import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from bdb import BdbQuit
from typing import Any

from utils.events import Control

SIGNALS = [signal.SIGTERM, signal.SIGINT]
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as it is under nohup
    SIGNALS.append(signal.SIGHUP)  # the terminal is gone: a closed ssh session
PROMPTS = ("pdb", "interaction"), ("cmd", "cmdloop")  # modules and functions in which a debugger waits for input
GRACE = 5.0  # seconds for cleaning up, where a signal ends the program at once
# Where end_on_signals was called: the pid, whether the program still loads, the exit code when a signal ended it.
program: dict[str, Any] = {}


class Stopped(SystemExit):
    """A signal ends the program; the code is 128 + its number, as shells have it."""


def end_on_signals() -> None:
    """Let signals end this process wherever it is, with one line, until a Signals takes over: at once while the program
    loads, from `loaded` on with Stopped."""
    program.update(pid=os.getpid(), loading=True, code=None)
    for number in SIGNALS:
        signal.signal(number, end)
    atexit.register(last)  # the first one that is registered, so the last one that is called


def loaded() -> None:
    """All is imported: from here on there may be something to clean up."""
    program["loading"] = False


def end(number: int, frame: Any) -> None:
    """The handler. Stopped lets everything clean up on its way; further signals change nothing."""
    if os.getpid() != program["pid"]:  # a worker that has just been forked
        return
    for each in SIGNALS:
        signal.signal(each, ignore)
    say(f"stopped by {signal.Signals(number).name}")
    program["code"] = 128 + number
    if program["loading"]:  # C++ that imports a module would abort on Stopped
        os._exit(program["code"])
    # Stopped may be raised where exceptions are swallowed (a destructor), or become another one (in an import).
    sys.excepthook = sys.unraisablehook = ignore
    _thread.start_new_thread(end_late, ())  # threading's locks may be held by what is interrupted here
    raise Stopped(program["code"])


def ignore(*_: Any) -> None:
    """A handler, or a hook, that does nothing. (SIG_IGN makes Python complain of a signal that is on its way.)"""


def end_late() -> None:
    """End a process that has not ended by itself."""
    time.sleep(GRACE)
    os._exit(program["code"])


def last() -> None:
    """Python's last act: it drops its handlers now, and a signal has nothing left to save."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if program["code"] is not None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(program["code"])


def say(message: str) -> None:
    """A line on stderr, also from within a handler, where print may have been interrupted itself."""
    with contextlib.suppress(OSError):
        os.write(2, ("\n" * os.isatty(2) + message + "\n").encode())  # a bar may be there


_typed: list[bool] = []  # not empty: the next SIGINT is Ctrl-C of who sits at another terminal


def interrupt_prompt() -> None:
    """Raise KeyboardInterrupt in the main thread if it is at a debugger's prompt when it hears of it."""
    _typed.append(True)
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


class Signals(Control):
    """From the training's first step on a signal is noted, and the training ends after the step: Stopped. Until the
    process is gone, further ones do nothing. A validation ends at once; of several processes all end after the same
    step, or when they have validated, also when the debugger is left in one: they agree on it once a step.

    In a notebook Ctrl-C is KeyboardInterrupt, as it always is there, but after the step.

    Args:
        world: the World, all of whose processes end together.
        meters: the TrainMeters, which the processes merge before they end.
        debugger: the Debugger; it was left, when its `left` is True.

    Attributes:
        agreed: what ends the run in all processes: a signal's exit code, 1 for another end, 0 while it goes on.
    """

    def __init__(self, world: Any, meters: Any, debugger: Any):
        self.world, self.meters, self.debugger = world, meters, debugger
        self.ending: BaseException | None = None
        self.before: dict[int, Any] = {}
        self.agreed = 0

    def on_train_begin(self, **_: Any) -> None:
        if program.get("code") is not None:  # an import took Stopped for its own failure
            raise Stopped(program["code"])
        self.pid = os.getpid()
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows none
            for number in SIGNALS:
                self.before[number] = signal.getsignal(number)
                signal.signal(number, self._note)

    def agree(self, *others: int) -> list[int]:
        """Let all processes know what each has to do, so that they stop after the same step; in the same message the
        largest of every other number that they bring, which is returned. Steering calls it after each step."""
        own = getattr(self.ending, "code", 0) or bool(self.ending) or self.debugger.left
        self.agreed, *found = self.world.all_reduce_maxima(own, *others)
        return found

    def on_batch_end(self, **_: Any) -> None:
        if self.agreed:
            self.meters.reduce()
            raise self.ending or (BdbQuit() if self.agreed == 1 else Stopped(self.agreed))

    def on_test_summary(self, **_: Any) -> None:
        if self.ending and self.world.size == 1:
            raise self.ending

    def on_test_end(self, **_: Any) -> None:
        if self.world.size > 1:
            self.agree()
            self.on_batch_end()

    def close(self, finished: bool, error: BaseException | None, **_: Any) -> None:
        """Give the handlers back; a run that a signal ended raises Stopped."""
        for number, before in self.before.items():
            kept = program and self.ending  # the process will be gone at once
            signal.signal(number, ignore if kept else before or signal.SIG_DFL)
        # An error says more: torchrun sends signals where another process has failed. And what is finished stays so.
        if self.ending and not finished and error is None:
            raise self.ending

    def _note(self, number: int, frame: Any) -> None:
        if os.getpid() != self.pid:  # a worker that has just been forked
            return
        typed = number == signal.SIGINT and _typed and _typed.pop()  # too late, perhaps: it is not meant for the run
        if number == signal.SIGINT and at_prompt(frame):
            raise KeyboardInterrupt  # drop what was being typed
        if not self.ending and not typed:
            say(f"{signal.Signals(number).name}: the run ends after this step")
            self.ending = self.end_by(number)

    def end_by(self, number: int) -> BaseException:
        """What ends a run on the signal with that number."""
        notebook = self.before.get(number) is signal.default_int_handler
        return KeyboardInterrupt() if notebook else Stopped(128 + number)


def at_prompt(frame: Any) -> bool:
    """Whether this frame was called by a debugger: somebody types at its prompt."""
    while frame and (frame.f_globals.get("__name__"), frame.f_code.co_name) not in PROMPTS:
        frame = frame.f_back
    return frame is not None
