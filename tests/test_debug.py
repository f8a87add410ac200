"""Live debugging, at a real terminal: `touch` stops the real training, and everything is typed at its prompt."""

import csv
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT

from models import SqueezeNet
from utils import debug

if os.name == "nt":
    pytest.skip("Windows has no pseudo-terminals", allow_module_level=True)
pexpect = pytest.importorskip("pexpect")

EPOCHS = 6  # enough that the run is still going when the file is touched in its first epoch
PROMPT = r"(?:ipdb>|\(Pdb\)) "
COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
WAIT = 120  # seconds: only a run that hangs takes so long


def line_of(code, file="main.py"):
    """The number of the first line of a file that contains `code`: in main.py, train comes before val."""
    number = next(n for n, line in enumerate((ROOT / file).read_text().splitlines(), 1) if code in line)
    return number


def current_line(answer):
    """The line of code that the arrow points to."""
    return re.findall(r"^\d*-+> +(?:\d+ +)?(.*?) *$", answer, re.MULTILINE)[-1]


def options(pictures, folder):
    small = ["--image-size=32", "--batch-size=4", "--num-workers=1", "--model=SqueezeNet", f"--max-epoch={EPOCHS}"]
    return ["train", f"--train-data-root={pictures}", *small, "--vis-port=1", f"--debug-file={folder / 'debug'}"]


def environment(folder, ipdb=True, home=None):
    """A home of its own, so that the debugger's history leaves no trace, and if wanted an ipdb that is not there."""
    hidden = folder / "without_ipdb"
    hidden.mkdir(exist_ok=True)
    if not ipdb:
        (hidden / "ipdb.py").write_text("raise ImportError('No module named ipdb')\n")
    plain = {"TERM": "dumb", "PROMPT_TOOLKIT_NO_CPR": "1", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **plain, "HOME": str(home or folder), "PYTHONPATH": str(hidden)}


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
        after = self.child.after if isinstance(self.child.after, str) else ""
        text = re.sub(r"\r+\n?", "\n", COLOURS.sub("", self.child.before + after))
        self.screen += text
        return text

    def touch(self):
        """Touch the file; what the prompt opens with."""
        self.touch_file.touch()
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

    @property
    def run(self):
        (run,) = (self.folder / "checkpoints").glob("*/")
        return run

    def results(self):
        with open(self.run / "results.csv", newline="") as file:
            return list(csv.DictReader(file))


@pytest.fixture
def training(pictures, tmp_path):
    """Start a training at a terminal; when this returns, the screen says `until`: it has made its first steps."""
    started = []

    def start(*more, until=f"epoch 1/{EPOCHS}", **how):
        session = Training(
            [sys.executable, str(ROOT / "main.py"), *options(pictures, tmp_path), *more], tmp_path, **how
        )
        started.append(session)
        session.wait(until)
        return session

    yield start
    for session in started:
        session.child.close(force=True)


@pytest.fixture(scope="module")
def undisturbed(pictures, tmp_path_factory):
    """The weights that the same training ends with when nobody stops it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    command = [sys.executable, str(ROOT / "main.py"), *options(pictures, folder)]
    subprocess.run(command, cwd=folder, env=environment(folder), stdin=subprocess.DEVNULL, check=True)
    (last,) = folder.glob("checkpoints/*/last.pth")
    return torch.load(last, weights_only=True)["weights"]


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def assert_gone(pids):
    """Workers end with their parent, but within a moment."""
    assert pids
    for _ in range(100):
        if not any(map(alive, pids)):
            return
        time.sleep(0.1)
    raise AssertionError(f"left behind: {[pid for pid in pids if alive(pid)]}")


def assert_goes_on_exactly(session, undisturbed):
    """The command that was printed ends the run with the weights it would have had anyway."""
    (command,) = re.findall(r"^stopped; to go on: (python main\.py train --resume=\S+)$", session.screen, re.MULTILINE)
    assert "Traceback" not in session.screen and "Bdb" not in session.screen
    python, main, *rest = shlex.split(command)
    done = subprocess.run(
        [sys.executable, str(ROOT / main), *rest],
        cwd=session.folder,
        env=environment(session.folder),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert [int(row["epoch"]) for row in session.results()] == list(range(1, EPOCHS + 1))
    weights = torch.load(session.run / "last.pth", weights_only=True)["weights"]
    assert weights.keys() == undisturbed.keys()
    assert all(torch.equal(weights[name], undisturbed[name]) for name in weights)


def test_touch_stops_in_train_and_the_usual_commands_work(training):
    session = training()
    opened = session.touch_in_train()
    assert re.search(r"> \S*main\.py\(\d+\)train\(\)", opened) and "ipdb>" in opened
    assert not session.touch_file.exists()

    assert session.value("sys.modules['__main__'].__file__").endswith("main.py")  # IPython has put nothing of its own
    assert session.value("sys.excepthook is sys.__excepthook__")  # in the place of Python's
    bar = "next(c.bar for c in callbacks.callbacks if hasattr(c, 'bar'))"
    assert session.value(f"{bar}.miniters") == 1  # else tqdm's own thread draws the bar here after ten seconds

    assert f"{line_of('schedule.step(epoch')} " in session.do("l")
    assert "Documented commands" in session.do("h") and "next" in session.do("h n")
    session.until("n", r"-> .*callbacks\.on_batch_begin\(\)")  # after an epoch's last batch that is some lines away
    assert re.search(r"> \S*events\.py\(\d+\)forward\(\)", session.do("s"))  # into the function
    assert "train()" in session.do("u") and "forward()" in session.do("d")
    assert "--Return--" in session.do("r")
    assert "train()" in session.do("n")

    rate = line_of("schedule.step(epoch")
    assert "Breakpoint 1 at" in session.do(f"b {rate}") and f"main.py:{rate}" in session.do("b")
    assert f"main.py({rate})train()" in session.do("c")
    session.do("n")
    assert f"main.py({rate})train()" in session.do(f"j {rate}")  # back, to make a line once more
    assert "0.001" in session.do("!opt.lr")
    assert "Deleted breakpoint 1" in session.do("clear 1")

    assert session.end("c\n") == 0
    assert [int(row["epoch"]) for row in session.results()] == list(range(1, EPOCHS + 1))
    assert "stopped;" not in session.screen and not (session.run / "unfinished").exists()


def test_variables_can_be_looked_at_and_changed_with_effect(training):
    session = training("--scheduler=multistep", "--milestones=5")
    session.touch_in_train()
    workers = session.workers()
    memory = Path("/proc", str(session.child.pid), "statm")
    pages = int(memory.read_text().split()[1]) if memory.exists() else 0

    assert session.value("opt.lr") == 0.001
    epoch = session.value("epoch")
    session.do("for p in optimizer.param_groups: p['lr'] = 0.0123")
    session.do("!opt.print_freq = 1")
    path = session.folder / session.value("model.save()")
    assert SqueezeNet().load(path)["info"]["classes"] == ["cat", "dog"]

    # The layer's input, from the line of the forward down to the layer.
    session.do(f"b {line_of('losses = objective(')}")
    assert "losses = objective(" in current_line(session.do("c"))
    assert "objective()" in session.do("s")
    session.until("s", r"> \S*squeezenet\.py")
    session.do("n")
    mean, std = session.value("(x.mean().item(), x.std().item())")
    assert abs(mean) < 3 and 0.2 < std < 3 and session.value("tuple(x.shape)") == (4, 3, 32, 32)
    session.do("clear 1")

    # A gradient, and a local variable of the loop that is bound to something else.
    gradient = "next(model.parameters()).grad"
    assert "Breakpoint 2" in session.do(f"b main.py:{line_of('update.step(')}")  # from the layer's file
    session.do("c")
    mean, std = session.value(f"({gradient}.mean().item(), {gradient}.std().item())")
    assert mean == mean and std > 0
    session.do("clear 2")
    session.do(f"b {line_of('update.backward(')}")
    session.do("c")
    session.do("!losses = {name: value * 0 for name, value in losses.items()}")
    session.do("n")
    assert session.value("loss.item()") == 0 and session.value(f"{gradient}.abs().max().item()") == 0
    session.do("clear 3")

    assert session.workers() == workers and all(map(alive, workers))  # nothing was given up meanwhile
    assert not pages or int(memory.read_text().split()[1]) > pages / 2
    assert session.end("c\n") == 0
    assert_gone(workers)
    rates = [float(row["lr"]) for row in session.results()]
    typed = [0.0123] * (5 - epoch) + [0.00123]  # the schedule goes on from there
    assert rates == pytest.approx([0.001] * epoch + typed)
    events = [json.loads(line) for line in (session.run / "events.jsonl").read_text().splitlines()]
    assert sum(event.get("name") == "loss" for event in events) >= 7  # else there is one in 20 steps


def test_quit_in_the_middle_of_a_step_loses_nothing(training, undisturbed):
    session = training()
    session.touch_in_train()
    workers = session.workers()
    after = line_of("run.batch, run.step = ii")
    session.do(f"b {after}")
    assert f"main.py({after})train()" in session.do("c")  # the weights have made the step, the position has not
    assert session.end("q\n") == 0
    assert_gone(workers)
    assert (session.run / "last.pth").is_file()
    assert_goes_on_exactly(session, undisturbed)


def test_without_ipdb_pdb_stops_in_val_too_and_ctrl_d_is_quit(training, undisturbed):
    session = training(ipdb=False)
    opened = session.touch_in_train()
    assert re.search(r"> \S*main\.py\(\d+\)train\(\)", opened) and "(Pdb)" in opened
    workers = session.workers()

    session.child.sendintr()  # the workers get it too, and are needed afterwards
    session.wait("KeyboardInterrupt")
    session.wait(PROMPT)
    session.do(f"b {line_of('model.eval()')}")
    assert "val()" in session.do("c")
    session.do("clear 1")
    session.touch_file.touch()
    opened = session.do("c")
    assert re.search(r"> \S*main\.py\(\d+\)val\(\)", opened)
    assert session.value("model.training") is False and not session.touch_file.exists()
    assert set(workers) < set(session.workers())  # still the same, and that of val

    time.sleep(0.5)  # what is typed before readline listens is read by the terminal itself, which takes Ctrl-D away
    assert session.end("\x04") == 0
    assert_gone(workers)
    assert_goes_on_exactly(session, undisturbed)


def test_refused_files_do_not_keep_a_later_touch_from_working(training, tmp_path):
    (tmp_path / "debug").touch()
    nowhere = tmp_path / "file"
    nowhere.touch()
    session = training(until="warning: .* is older than this run", home=nowhere)  # ipdb wants to write in its home
    session.touch_file.unlink()
    session.touch_file.symlink_to(nowhere)
    session.wait("warning: .* is not a plain file of yours")
    session.touch_file.unlink()
    opened = session.touch()
    assert "pdb instead of ipdb" in opened and "(Pdb)" in opened
    session.child.sendline("c")
    session.touch()  # and again
    assert nowhere.exists()
    assert session.end("c\n") == 0
    assert session.screen.count("warning:") == 2
    assert len(session.results()) == EPOCHS


def test_without_a_terminal_there_is_one_warning_and_the_run_goes_on(pictures, tmp_path):
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), *options(pictures, tmp_path)],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None:
        (tmp_path / "debug").touch()
        time.sleep(0.05)
    errors = process.stderr.read()
    assert process.returncode == 0, errors
    assert errors.count("there is no terminal to type at: going on") == 1 and "Traceback" not in errors


def test_a_run_in_the_background_is_stopped_when_it_is_in_the_foreground_again(pictures, tmp_path):
    session = Training(["bash", "--norc", "-i"], tmp_path)
    command = [sys.executable, str(ROOT / "main.py"), *options(pictures, tmp_path)]
    session.child.sendline(shlex.join(command) + " &")
    session.wait(f"epoch 1/{EPOCHS}")
    session.touch_file.touch()
    session.wait("no terminal to type at")
    session.child.sendline("fg")
    assert "stopped by the touch file" in session.wait(PROMPT)
    session.child.sendline("c")
    session.wait(r"epoch \d/")
    session.child.sendintr()  # ends the run as ever; left to pdb, it would open the prompt again
    session.wait("stopped; to go on")
    session.child.close(force=True)


@pytest.fixture
def watched(monkeypatch, tmp_path):
    """(touch file, a function that starts a Debugger, the list of the prompts it opened), at a supposed terminal."""
    opened = []
    monkeypatch.setattr(debug, "terminal", lambda: True)
    monkeypatch.setattr(debug, "open_prompt", lambda *_: opened.append(1))
    return tmp_path / "debug", lambda: debug.Debugger(str(tmp_path / "debug")), opened


@pytest.mark.parametrize("kind", ["left over", "link", "dangling link", "folder", "pipe", "foreign"])
def test_a_file_that_is_not_meant_does_not_stop_the_run(kind, watched, capsys):
    file, start, opened = watched
    if kind == "left over":
        file.touch()
    debugger = start()
    if kind == "link":
        target = file.with_name("target")
        target.touch()
        file.symlink_to(target)
    elif kind == "dangling link":
        file.symlink_to("nowhere")
    elif kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "foreign":
        if os.getuid() != 0:
            pytest.skip("only root can give a file away")
        file.touch()
        os.chown(file, 65534, 65534)
    for _ in range(3):
        debugger.on_batch_end()
        debugger.on_test_summary()
    assert not opened and os.path.lexists(file)
    assert capsys.readouterr().err.count("warning:") == 1


def test_each_touch_opens_one_prompt(watched):
    file, start, opened = watched
    file.touch()
    debugger = start()
    os.utime(file, (0, 0))  # touched since, whatever the clock of the file system says
    for prompts in (1, 2):
        debugger.on_batch_end()
        debugger.on_batch_end()
        assert len(opened) == prompts and not file.exists()
        file.touch()


def test_a_terminal_is_there_only_when_somebody_can_type_at_this_process(monkeypatch):
    main, other = os.openpty()
    with os.fdopen(main), os.fdopen(other) as tty, open(os.devnull) as null:
        for stdin, stdout in [(null, tty), (tty, null), (None, tty), (tty, None), (tty, tty)]:
            # the last one is a terminal, but this process does not belong to it
            monkeypatch.setattr(debug, "sys", SimpleNamespace(stdin=stdin, stdout=stdout))
            assert debug.terminal() is False
