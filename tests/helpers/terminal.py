"""hearth's command line at a real terminal (a pseudo-terminal), with a debugger's prompt where one opens."""

import csv
import os
import re
import struct

import pytest
from conftest import server
from wait import until

fcntl, termios = (pytest.importorskip(name) for name in ("fcntl", "termios"))  # Windows has no pseudo-terminals
pexpect = pytest.importorskip("pexpect")
fdpexpect = pytest.importorskip("pexpect.fdpexpect")

PROMPT = r"(?:ipdb>|\(Pdb\)) "
COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
WAIT = 300  # seconds: only a run that hangs takes so long


def environment(folder, ipdb=True, home=None, term="dumb"):
    """A home of its own, so that the debugger's history leaves no trace, and if wanted an ipdb that is not there."""
    hidden = folder / "without_ipdb"
    hidden.mkdir(exist_ok=True)
    if not ipdb:
        (hidden / "ipdb.py").write_text("raise ImportError('No module named ipdb')\n")
    plain = {"TERM": term, "PROMPT_TOOLKIT_NO_CPR": "1", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **plain, "HOME": str(home or folder), "PYTHONPATH": str(hidden)}


# A callback that holds a training after its second step, and after all others, until there is a file `go`, or go_2 for
# the second alone: so that it cannot be over before somebody has typed.
HOLD = """
import time
from pathlib import Path
from utils.events import Callback

class Hold(Callback):
    def __init__(self, run):
        self.run = run

    def on_batch_end(self, **_):
        while self.run.step > 1 and not (Path("go").exists() or Path(f"go_{self.run.step}").exists()):
            time.sleep(0.01)
"""


def held(folder):
    """The options that hold a training which is started in `folder`."""
    (folder / "hold.py").write_text(HOLD)
    return ["--callbacks=hold.Hold"]


# Code for a process that the fork server starts: it gets the terminal with this name.
AT_TERMINAL = """
import os, sys
for stream in range(3):
    os.dup2(os.open({name!r}, os.O_RDWR), stream)
sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w", buffering=1), open(2, "w", buffering=1)
"""


class Training:
    """`python main.py train` (or another command) at a terminal of its own, in `folder`."""

    def __init__(self, command, folder, **how):
        self.folder, self.touch_file, self.screen = folder, folder / "debug", ""
        self.child = pexpect.spawn(
            command[0],
            command[1:],
            cwd=str(folder),
            env=environment(folder, **how),
            encoding="utf-8",
            dimensions=(60, 200),
            timeout=WAIT,
        )

    def wait(self, pattern):
        """What appears on the screen up to the pattern, without colours."""
        self.child.expect(pattern)
        return self._shown()

    def _shown(self):
        after = self.child.after if isinstance(self.child.after, str) else ""
        text = re.sub(r"\r+\n?", "\n", COLOURS.sub("", self.child.before + after))
        self.screen += text
        return text

    def touch(self):
        """Touch the file, and let go a training that is held; what the prompt opens with."""
        self.touch_file.touch()
        (self.folder / "go").touch()
        return self.wait(PROMPT)

    def touch_in_train(self):
        """The same for the loop of train, should the run just be in val."""
        opened = self.touch()
        while "val()" in opened:
            self.touch_file.touch()
            opened = self.do("c")
        return opened

    def do(self, command):
        """Type a command; what it answers."""
        self.child.sendline(command)
        return self.wait(PROMPT)

    def until(self, command, goal):
        """Type the command as often as it takes to get to the goal."""
        assert any(re.search(goal, self.do(command)) for _ in range(60)), goal

    def value(self, expression):
        """What an expression is at the prompt: plain Python values only."""
        *_, answer, _ = self.do(f"p {expression}").split("\n")  # before it the command, once or twice
        return eval(answer, {"inf": float("inf"), "nan": float("nan")})

    def workers(self):
        return self.value("[w.pid for w in __import__('multiprocessing').active_children()]")

    def end(self, *keys):
        """Type keys that end the run; its exit code."""
        for key in keys:
            self.child.send(key)
        self.wait(pexpect.EOF)
        self.child.close()
        return self.child.exitstatus

    def end_with(self, key):
        """Type a key every second until the run ends; its exit code. A key is lost where no prompt listens yet."""
        ended = False
        while not ended:
            self.child.send(key)
            ended = self.child.expect([pexpect.TIMEOUT, pexpect.EOF], timeout=1)
        self._shown()
        return self.end()

    @property
    def run(self):
        (run,) = (self.folder / "checkpoints").glob("*/")
        return run

    def results(self):
        with open(self.run / "results.csv", newline="") as file:
            return list(csv.DictReader(file))


class Forked(Training):
    """The same as a fork of the process that has loaded everything, which runs the code `first` before: quicker. Of
    main.py, or of another program."""

    def __init__(self, command, folder, first="", program=None, home=None):
        self.folder, self.touch_file, self.screen = folder, folder / "debug", ""
        ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 60, 200, 0, 0))  # lines, columns
        plain = {"TERM": "dumb", "PROMPT_TOOLKIT_NO_CPR": "1", "HOME": str(home or folder)}
        first = f"{AT_TERMINAL.format(name=os.ttyname(theirs))}\nos.environ.update({plain})\n{first}"
        self.pid = server().start(*command, cwd=folder, first=first, program=program)
        until(lambda: os.readlink(f"/proc/{self.pid}/fd/2") == os.ttyname(theirs))
        os.close(theirs)  # now the process alone has it
        self.child = fdpexpect.fdspawn(ours, encoding="utf-8", timeout=WAIT)

    def end(self, *keys):
        """Type keys that end the run; its exit code."""
        for key in keys:
            self.child.send(key)
        self.wait(pexpect.EOF)
        self.child.close()
        return server().wait()
