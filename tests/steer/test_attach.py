"""`python main.py control --debug`: the debugger of a training that has no terminal, at that of who calls."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys

import pytest
from conftest import ROOT
from wait import until

from utils import UserError
from utils.run import signals
from utils.steer import attach
from utils.steer.channel import OVER, Listener, connect, listening
from utils.steer.client import listens
from utils.train.processes import ALONE


def test_one_caller_is_let_in_and_who_waits_when_the_run_ends_is_told(tmp_path):
    listener, near, callers = Listener(tmp_path, str), [], []
    listener.open()
    for answer in ("", "refused: another"):
        end, far = os.openpty()
        caller = socket.socket(socket.AF_UNIX)
        connect(caller, tmp_path)
        socket.send_fds(caller, [b"vt100\n"], [far])
        os.close(far)
        near, callers = [*near, end], [*callers, caller]
        if answer:
            assert answer in caller.recv(1000).decode()
        until(lambda: listener.caller.waiting)
    assert not listener.caller.gone
    listener.close()
    assert OVER in callers[0].recv(1000).decode()
    assert listener.caller.ended and listening(tmp_path, 0) == {}
    for caller, end in zip(callers, near, strict=True):
        caller.close()
        os.close(end)


def unreachable(folder, rank=0):
    with socket.socket(socket.AF_UNIX) as connection, pytest.raises(UserError) as error:
        attach.reach(connection, folder, rank)
    return str(error.value)


def test_a_process_that_is_not_here_is_named_with_its_machine(tmp_path):
    (tmp_path / "control").mkdir()
    place = {"socket": str(tmp_path / "gone"), "host": "node7", "processes": 2}
    (tmp_path / "control" / "0.address").write_text(json.dumps(place))
    assert "log in there (ssh -t node7)" in unreachable(tmp_path)
    assert "does not listen" in unreachable(tmp_path, 1)
    assert "--rank=7" in unreachable(tmp_path, 7) and "2 processes: give --rank=0 to 1" in unreachable(tmp_path, 7)
    assert listens(tmp_path)
    (tmp_path / "config.yaml").write_text("steer: false\n")
    assert not listens(tmp_path)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be another user")
def test_another_user_is_told_that_the_run_is_not_theirs(tmp_path):
    listener = Listener(tmp_path, str)
    listener.open()
    here, there = multiprocessing.Pipe()

    def ask():
        os.setuid(65534)
        there.send(unreachable(tmp_path))

    process = multiprocessing.get_context("fork").Process(target=ask)
    process.start()
    there.close()
    assert "is trained by another user" in here.recv()
    process.join()
    listener.close()


STREAMS = """
import os, sys
from utils.run.terminal import Caller

near, far = os.openpty()
caller = Caller(far, "vt100", print)
assert sys.stdin is None
with caller.streams():
    print("to the caller")
    os.write(2, b"too")
    assert os.isatty(0) and os.environ["TERM"] == "vt100"
print("to the log")
assert sys.stdin is None and not os.isatty(1) and os.environ["TERM"] == "dumb"
assert os.read(near, 100) == b"to the caller\\r\\ntoo"
assert not caller.gone
os.close(near)
assert caller.gone
print("nobody hears it", file=caller.out)
caller.release()
assert caller.ended
"""


def test_the_run_keeps_its_streams_and_survives_the_callers_end():
    how = {"cwd": ROOT, "env": {**os.environ, "TERM": "dumb"}, "text": True, "preexec_fn": lambda: os.close(0)}
    done = subprocess.run([sys.executable, "-c", STREAMS], capture_output=True, **how)
    assert (done.stdout, done.stderr) == ("to the log\n\n", "")


def test_ctrl_c_that_comes_after_the_prompt_is_not_for_the_run():
    controls = signals.Signals(ALONE, None, None)
    controls.on_train_begin()
    signals.interrupt_prompt()
    assert controls.ending is None
    signal.raise_signal(signal.SIGINT)
    assert controls.ending is not None
    controls.close(finished=True, error=None)
