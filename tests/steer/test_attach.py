"""`python main.py control --debug`: the debugger of a training that has no terminal, at that of who calls."""

import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys

import pytest
from conftest import NO_SERVER, ROOT, server
from runs import begun
from terminal import PROMPT, WAIT, Training, pexpect
from wait import until

from benchmarks.faults_steering import SLOWER
from utils import UserError
from utils.run import signals
from utils.steer import attach
from utils.steer.channel import OVER, Listener, connect, listening, send
from utils.steer.client import listens
from utils.train.processes import ALONE

HEART = ["--config=Heart", NO_SERVER, "--keep-every=0", "--print-freq=5", "--batch-size=1000", "--scheduler=constant"]
HOME = "import os; os.environ.update(HOME=os.getcwd(), PROMPT_TOOLKIT_NO_CPR='1')"


def call(folder, *options, **how):
    """The command at a terminal of its own, and what its prompt opens with."""
    session = Training([sys.executable, str(ROOT / "main.py"), "control", "--debug", *options], folder, **how)
    return session, session.wait(r"ipdb>|\(Pdb\) ")


def step_of(run):
    return int(re.search(r"step (\d+)", send(run, {"status": True}))[1])


def assert_goes_on(run):
    before = step_of(run)
    until(lambda: step_of(run) > before + 2)


def insist(session, keys, shown):
    """Type these keys until that is shown: what comes before a prompt, or a statement, has begun may be lost."""
    for _ in range(WAIT):
        if session.child.expect([pexpect.TIMEOUT, shown], timeout=1):
            return
        session.child.send(keys)
    pytest.fail(f"{shown} is not shown: {session.child.buffer}")


@pytest.fixture
def run(tmp_path):
    """A training without a terminal."""
    pid = server().start("train", *HEART, "--max-epoch=1000", cwd=tmp_path, first=f"{SLOWER}\n{HOME}")
    yield begun(tmp_path)
    if server().pid:  # the test has failed
        os.kill(pid, signal.SIGKILL)
        server().wait()


@pytest.mark.slow
def test_a_run_without_a_terminal_is_entered_looked_at_changed_and_left(run, tmp_path):
    session, opened = call(tmp_path)
    assert "stopped by control --debug" in opened and re.search(r"> \S*main\.py\(\d+\)train\(\)", opened)
    assert "ipdb>" in opened and "at the debugger's prompt" in send(run, {"status": True})
    assert session.value("opt.lr") == 0.1
    gradient = "next(model.parameters()).grad"
    mean, std = session.value(f"({gradient}.mean().item(), {gradient}.std().item())")
    assert mean == mean and std > 0
    session.do("for p in optimizer.param_groups: p['lr'] = 0.0123")
    assert "sent to me" in session.do("print('sent to', 'me')")
    assert (tmp_path / session.value("model.save()")).is_file()
    session.child.sendline("!__import__('time').sleep(1000)")
    insist(session, "\x03", "KeyboardInterrupt")
    session.wait(PROMPT)

    session.do("b model.forward")
    assert "forward()" in session.do("c") and "def forward" in session.do("l")
    mean, std = session.value("(x.mean().item(), x.std().item())")
    assert abs(mean) < 3 and std > 0.1
    session.do("clear 1")
    assert "--Return--" in session.do("r")
    assert session.end("c\n") == 0 and f"{run.name}: the run goes on" in session.screen
    assert_goes_on(run)
    assert "lr 0.0123" in send(run, {"status": True})
    assert "sent to me" not in (tmp_path / "output").read_text()

    session, _ = call(tmp_path, term="xterm")  # it completes, knows what was typed before, and how wide it is
    session.child.send("model.named_par\t")
    session.wait("eters")
    insist(session, "\x03!__import__('os').get_terminal_size(1)\r", "columns=200")
    session.child.setwinsize(50, 120)
    insist(session, "\x03!__import__('os').get_terminal_size(1)\r", "columns=120")
    session.wait("ipdb>")
    session.child.send("\x1b[A")  # the last line once more
    session.wait("get_terminal_size")
    session.child.send("\x03b model.forward\r")
    session.wait("Breakpoint")
    session.child.send("c\r")
    session.wait("forward")
    session.wait("ipdb>")
    session.child.close(force=True)
    assert_goes_on(run)

    session, _ = call(tmp_path)
    session.do("b model.load")  # nothing comes there any more
    session.child.sendline("c")
    insist(session, "\x03", "the run goes on, without breakpoints")
    assert session.end() == 0
    assert_goes_on(run)

    assert "paused" in send(run, {"pause": True})
    session, _ = call(tmp_path)
    session.child.sendline("while True: pass")
    session.wait("pass")
    session.child.close(force=True)
    until(lambda: "paused" in send(run, {"status": True}))
    session, _ = call(tmp_path)
    assert session.end_with("\x04") == 0 and "the run ends after this batch" in session.screen
    assert server().wait() == 0 and "stopped; to resume" in (tmp_path / "output").read_text()


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
shown = os.read(near, 100)
while len(shown) < len("to the caller..too"):  # a terminal hands over what it has
    shown += os.read(near, 100)
assert shown == b"to the caller\\r\\ntoo"
assert not caller.gone
os.close(near)
assert caller.gone
print("nobody hears it", file=caller.out)
caller.release()
assert caller.ended
"""


def test_the_run_keeps_its_streams_and_survives_the_callers_end():
    how = {
        "cwd": ROOT,
        "env": {**os.environ, "TERM": "dumb"},
        "text": True,
        "timeout": WAIT,
        "preexec_fn": lambda: os.close(0),
    }
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
