"""`touch /tmp/debug` stops the running loop in the debugger, in the frame of main.py's loop, with its variables."""

import os
import stat
import sys
import time

from .callbacks import Callback


class Debugger(Callback):
    """Looks for the touch file after every batch of training, validation and test, and opens ipdb (or pdb) there.

    The file counts when it is a plain file (no link) of the user who runs the training, touched after the run began;
    it is removed before the prompt opens. Without a terminal to type at there is one warning and the run goes on.

    It must be the last of the callbacks: whatever Python function is called after set_trace is where it would stop.
    """

    def __init__(self, path):
        self.path, self.began, self.warned = path, time.time(), set()

    def on_batch_end(self, **_):
        if self._asked():
            open_prompt(caller())

    on_test_summary = on_batch_end

    def _asked(self):
        try:
            found = os.lstat(self.path)
        except OSError:  # the usual case: no such file
            return False
        if not stat.S_ISREG(found.st_mode) or (hasattr(os, "getuid") and found.st_uid != os.getuid()):
            return self._warn(f"{self.path} is not a plain file of yours: it does not open the debugger")
        if found.st_mtime < self.began - 0.1:  # file systems stamp with the kernel's tick, some ms behind time.time()
            return self._warn(f"{self.path} is older than this run: `touch` it again to open the debugger")
        if not terminal():
            return self._warn(f"{self.path} asks for the debugger, but there is no terminal to type at: going on")
        try:
            os.unlink(self.path)
        except OSError as error:
            return self._warn(f"{self.path} cannot be removed ({error.strerror}): it does not open the debugger")
        return True

    def _warn(self, message):
        if message not in self.warned:
            self.warned.add(message)
            print(f"warning: {message}", file=sys.stderr, flush=True)
        return False


def terminal():
    """True when somebody can type at this process: its input and output are a terminal and it is in the foreground."""
    if not (sys.stdin and sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    return not hasattr(os, "tcgetpgrp") or os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()


def caller():
    """The innermost frame outside utils/: the loop that is being watched."""
    frame, here = sys._getframe(1), os.path.dirname(os.path.abspath(__file__))
    while frame.f_back and os.path.dirname(os.path.abspath(frame.f_code.co_filename)) == here:
        frame = frame.f_back
    return frame


def open_prompt(frame):
    """Stop at the next line of `frame`: ipdb where it is installed, else pdb."""
    print("\nstopped by the touch file: h help, c go on, q end the run safely", flush=True)
    try:
        import ipdb

        set_trace, excepthook = ipdb.set_trace, sys.excepthook
    except ImportError:
        from pdb import Pdb

        set_trace, excepthook = Pdb().set_trace, sys.excepthook
    set_trace(frame)
    sys.excepthook = excepthook  # IPython puts its own crash report in its place
