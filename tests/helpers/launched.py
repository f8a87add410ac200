"""Several processes under torchrun's own agent, as forks of the fork server: nothing is loaded anew by any of them."""

import contextlib
import os
import select
import signal
from pathlib import Path

import torch.distributed.run
from conftest import server

TORCHRUN = torch.distributed.run.__file__
# The agent starts its processes by Popen; here they are forks of it. All else is torchrun's.
FORKED = """
import logging, os, runpy, sys, traceback
from subprocess import Popen
from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

class Forked(Popen):
    def _execute_child(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *rest):
        self.pid = os.fork()
        self._child_created = True
        if self.pid == 0:
            code = 1
            try:
                os.setsid()
                os.environ.clear()
                os.environ.update(env)
                logging.disable(logging.NOTSET)
                sys.argv = [arg for arg in args[1:] if arg != "-u"]
                sys.path[0] = os.path.dirname(sys.argv[0])
                runpy.run_path(sys.argv[0], run_name="__main__")
                code = 0
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)

subprocess_handler.Popen = Forked
"""


class Launched:
    """Something that the fork server is to start, used like subprocess.Popen: main.py, or another program, with these
    arguments. One at a time; `first` is Python code that all its processes run before."""

    def __init__(self, *arguments, cwd, program=None, first=""):
        self.output, self.returncode = Path(cwd, f"output_{os.urandom(4).hex()}"), None
        files = (self.output.name, self.output.name)
        self.pid = server().start(*arguments, cwd=cwd, first=FORKED + first, files=files, program=program)

    def poll(self):
        if self.returncode is None and select.select([server().process.stdout], [], [], 0)[0]:
            self.returncode = server().wait()
        return self.returncode

    def communicate(self, timeout=1800):
        """(what was printed on both streams, None), when it has ended."""
        if self.returncode is None:
            self.returncode = server().wait(timeout)
        return self.output.read_text(), None

    def send_signal(self, number):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def torchrun(program, *arguments, cwd, restarts=0, count=2):
    """Start torchrun with `count` processes of this program."""
    options = ["--standalone", f"--nproc-per-node={count}", f"--max-restarts={restarts}", program]
    return Launched(*options, *arguments, cwd=cwd, program=TORCHRUN)
