"""`python main.py ...` again and again, as forks of a process that has loaded everything: a second instead of four."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CODE = """
import atexit, gc, json, os, runpy, sys
os.fsync = lambda handle: None  # nobody cuts the power: what the system has need not be on the disk
code, teardown = None, True

def leave():
    if code is not None and not teardown:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

atexit.register(leave)  # the first one, so it is called last
import main, matplotlib.backends.backend_agg, sklearn.metrics, torch._dynamo, torchvision.models
exec(sys.argv[1])
gc.freeze()
for line in sys.stdin:
    if pid := os.fork():
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
        continue
    sys.argv, folder, first, files = json.loads(line)
    sys.path[0] = os.path.dirname(sys.argv[0])  # as Python has it
    os.setsid()
    os.chdir(folder)
    for stream, file in enumerate([os.devnull, *files]):
        os.dup2(os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND), stream)
    exec(first)
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except Exception:
        code = 1
        raise
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else bool(end.code)
        raise
    break
"""
# For `prepare` or `first`: a process ends without taking Python apart, after all else that its end has. (A third of the
# time of a short training: what is shared with the server is copied to be forgotten.)
QUICK = "teardown = False"


class Server:
    """Starts `python main.py ...` as such forks, one at a time; `prepare` is Python code that they all run before."""

    def __init__(self, prepare=""):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "bufsize": 0}  # for `wait`, nothing is read ahead
        self.process = subprocess.Popen([sys.executable, "-c", CODE, prepare], cwd=ROOT, **pipes)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.communicate()

    def start(self, *command, cwd, first="", files=("output", "output"), program=None):
        """Start main.py, or another program, with this command; its pid. What it prints, on stdout and on stderr, is
        added to these files in the folder cwd. `first` is Python code that the process runs before."""
        if left := getattr(self.process, "running", None):  # of a test that failed
            with contextlib.suppress(ProcessLookupError):
                os.killpg(left, signal.SIGKILL)
            self.process.stdout.readline()
        arguments = [str(program or ROOT / "main.py"), *map(str, command)]
        line = json.dumps([arguments, str(cwd), first, [*map(str, files)]]) + "\n"
        self.process.stdin.write(line.encode())
        self.pid = self.process.running = int(self.process.stdout.readline())
        return self.pid

    def wait(self, seconds=1800):
        """The exit code of the process that was started last; negative: the signal that killed it."""
        pid, self.pid = self.pid, None
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            os.killpg(pid, signal.SIGKILL)
            raise TimeoutError(f"main.py has not ended after {seconds} seconds")
        self.process.running = None
        return int(self.process.stdout.readline())

    def run(self, *command, **options):
        """Start and wait; the exit code."""
        self.start(*command, **options)
        return self.wait()
