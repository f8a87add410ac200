"""Live debugging, at a real terminal: `touch` stops the real training, and everything is typed at its prompt."""

import getpass
import json
import os
import re
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, main, server
from terminal import PROMPT, Forked, Training, held
from wait import until

from models import SqueezeNet
from utils.run import debugger
from utils.run.checkpoint_file import read_checkpoint

EPOCHS = 2


def line_of(code, file="main.py"):
    """The number of the first line of a file that contains `code`: in main.py, train comes before val."""
    number = next(n for n, line in enumerate((ROOT / file).read_text().splitlines(), 1) if code in line)
    return number


def current_line(answer):
    """The line of code that the arrow points to."""
    return re.findall(r"^\d*-+> +(?:\d+ +)?(.*?) *$", answer, re.MULTILINE)[-1]


def options(pictures, folder, epochs=EPOCHS):
    small = ["--image-size=32", "--batch-size=4", "--num-workers=1", "--model=SqueezeNet", f"--max-epoch={epochs}"]
    return ["train", f"--train-data-root={pictures}", *small, "--vis-port=1", f"--debug-file={folder / 'debug'}"]


@pytest.fixture
def training(pictures, tmp_path):
    """Start a training at a terminal; when this returns, the screen says `shown`, and the run is held after its second
    step."""

    def start(*more, shown="user config:", epochs=EPOCHS, **how):
        session = Forked([*options(pictures, tmp_path, epochs), *held(tmp_path), *more], tmp_path, **how)
        session.wait(shown)
        until(lambda: list(tmp_path.glob("checkpoints/*/last.pth")))  # from now on the file counts
        return session

    return start


@pytest.fixture(scope="module")
def undisturbed(pictures, tmp_path_factory):
    """The weights that the same training ends with when nobody stops it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    main(*options(pictures, folder), cwd=folder, check=0)
    (last,) = folder.glob("checkpoints/*/last.pth")
    return read_checkpoint(last)["weights"]


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def assert_gone(pids):
    """Workers end with their parent, but within a moment."""
    assert pids
    until(lambda: not any(map(alive, pids)))


def assert_resumes_exactly(session, undisturbed):
    """The command that was printed ends the run with the weights it would have had anyway."""
    (command,) = re.findall(
        r"^stopped; to resume: python \S*main\.py (train --resume=\S+)$", session.screen, re.MULTILINE
    )
    assert "Traceback" not in session.screen and "Bdb" not in session.screen
    main(*shlex.split(command), cwd=session.folder, check=0)
    assert [int(row["epoch"]) for row in session.results()] == list(range(1, EPOCHS + 1))
    weights = read_checkpoint(session.run / "last.pth")["weights"]
    assert weights.keys() == undisturbed.keys()
    assert all(torch.equal(weights[name], undisturbed[name]) for name in weights)


def test_touch_stops_in_train_and_the_usual_commands_work(training):
    session = training()
    opened = session.touch_in_train()
    assert re.search(r"> \S*main\.py\(\d+\)train\(\)", opened) and "ipdb>" in opened
    assert not session.touch_file.exists()

    assert session.value("sys.modules['__main__'].__file__").endswith("main.py")  # IPython has put nothing of its own
    assert session.value("sys.excepthook is sys.__excepthook__")  # in the place of Python's
    bar = "next(c.bar for c in callbacks.observers if hasattr(c, 'bar'))"
    assert session.value(f"{bar}.miniters") == 1  # else tqdm's own thread draws the bar here after ten seconds

    assert f"{line_of('schedule.step(')} " in session.do("l")
    assert "Documented commands" in session.do("h") and "next" in session.do("h n")
    session.until("n", r"-> .*callbacks\.on_batch_begin\(\)")  # after an epoch's last batch that is some lines away
    assert re.search(r"> \S*events\.py\(\d+\)forward\(\)", session.do("s"))  # into the function
    assert "train()" in session.do("u") and "forward()" in session.do("d")
    assert "--Return--" in session.do("r")
    assert "train()" in session.do("n")

    rate = line_of("schedule.step(")
    assert "Breakpoint 1 at" in session.do(f"b {rate}") and f"main.py:{rate}" in session.do("b")
    assert f"main.py({rate})train()" in session.do("c")
    session.do("n")
    assert f"main.py({rate})train()" in session.do(f"j {rate}")  # back, to make a line once more
    assert "0.001" in session.do("!opt.lr")
    assert "Deleted breakpoint 1" in session.do("clear 1")

    assert session.end("c\n") == 0
    assert [int(row["epoch"]) for row in session.results()] == list(range(1, EPOCHS + 1))
    assert "stopped;" not in session.screen and (session.run / "lock").read_text() == "finished"


def test_variables_can_be_looked_at_and_changed_with_effect(training):
    session = training("--scheduler=multistep", "--milestones=2", epochs=3)
    session.touch_in_train()
    workers = session.workers()
    memory = Path("/proc", str(session.pid), "statm")
    pages = int(memory.read_text().split()[1]) if memory.exists() else 0

    assert session.value("opt.lr") == 0.001
    assert session.value("run.epoch") == 0
    assert re.search(r"^\d+", session.do("run.step"), re.MULTILINE), "not pdb's command of that name"
    session.do("for p in optimizer.param_groups: p['lr'] = 0.0123")
    session.do("!opt.print_freq = 1")
    path = session.folder / session.value("model.save()")
    assert SqueezeNet().load(path)["info"]["classes"] == ["cat", "dog"]

    # The layer's input, from the line of the forward down to the layer.
    session.do(f"b {line_of('step.objective(')}")
    assert "step.objective(" in current_line(session.do("c"))
    assert "objective()" in session.do("s")
    session.until("n", r"-> .*return self\.compute\(")
    session.until("s", r"> \S*squeezenet\.py")
    session.do("n")
    mean, std = session.value("(x.mean().item(), x.std().item())")
    assert abs(mean) < 3 and 0.2 < std < 3 and session.value("tuple(x.shape)") == (4, 3, 32, 32)
    session.do("clear 1")

    # A gradient, and a local variable of the loop that is bound to something else.
    gradient = "next(model.parameters()).grad"
    assert "Breakpoint 2" in session.do(f"b main.py:{line_of('step.apply(')}")  # from the layer's file
    session.do("c")
    mean, std = session.value(f"({gradient}.mean().item(), {gradient}.std().item())")
    assert mean == mean and std > 0
    session.do("clear 2")
    session.do(f"b {line_of('step.backward(')}")
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
    typed = [0.0123] * 2 + [0.00123]  # the schedule continues from there
    assert rates == pytest.approx(typed)
    events = [json.loads(line) for line in (session.run / "events.jsonl").read_text().splitlines()]
    assert sum(event.get("name") == "loss" for event in events) >= 7  # else there is one in 20 steps


def test_quit_in_the_middle_of_a_step_loses_nothing(training, undisturbed):
    session = training()
    session.touch_in_train()
    workers = session.workers()
    after = line_of("run.advance()")
    session.do(f"b {after}")
    assert f"main.py({after})train()" in session.do("c")  # the weights have made the step, the position has not
    assert session.end("q\n") == 0
    assert_gone(workers)
    assert (session.run / "last.pth").is_file()
    assert_resumes_exactly(session, undisturbed)


def test_without_ipdb_pdb_stops_in_val_too_and_ctrl_d_is_quit(training, undisturbed):
    session = training(first="sys.modules['ipdb'] = None")
    opened = session.touch_in_train()
    assert re.search(r"> \S*main\.py\(\d+\)train\(\)", opened) and "(Pdb)" in opened
    workers = session.workers()

    session.child.send("\x03")  # the workers get it too, and are needed afterwards
    session.wait("KeyboardInterrupt")
    session.wait(PROMPT)
    session.do(f"b {line_of('with eval_mode(model)')}")
    assert "val()" in session.do("c")
    session.do("clear 1")
    session.touch_file.touch()
    opened = session.do("c")
    assert re.search(r"> \S*main\.py\(\d+\)val\(\)", opened)
    assert session.value("model.training") is False and not session.touch_file.exists()
    assert set(workers) < set(session.workers())  # still the same, and that of val

    assert session.end_with("\x04") == 0
    assert_gone(workers)
    assert_resumes_exactly(session, undisturbed)


def test_refused_files_do_not_keep_a_later_touch_from_working(training, tmp_path):
    (tmp_path / "debug").touch()
    nowhere = tmp_path / "file"
    nowhere.touch()
    session = training(shown="warning: .* is older than this run", home=nowhere)  # ipdb wants to write in its home
    session.touch_file.unlink()
    session.touch_file.symlink_to(nowhere)
    (tmp_path / "go_2").touch()
    session.wait("warning: .* is not a plain file of yours")
    session.touch_file.unlink()
    opened = session.touch()
    assert "pdb instead of ipdb" in opened and "(Pdb)" in opened
    session.touch_file.touch()  # and again
    assert "stopped by the touch file" in session.do("c")
    assert nowhere.exists()
    assert session.end("c\n") == 0
    assert [line for line in re.findall("warning: .*", session.screen) if "visdom" not in line] == [
        f"warning: {session.touch_file} is older than this run: `touch` it again to open the debugger",
        f"warning: {session.touch_file} is not a plain file of yours: it does not open the debugger, "
        f"{session.touch_file}.{getpass.getuser()} would",
    ]
    assert len(session.results()) == EPOCHS


def test_without_a_terminal_there_is_one_warning_and_the_run_continues(pictures, tmp_path):
    server().start(*options(pictures, tmp_path), *held(tmp_path), cwd=tmp_path)
    until(lambda: list(tmp_path.glob("checkpoints/*/last.pth")))
    for file in ("debug", "go"):
        (tmp_path / file).touch()
    code, output = server().wait(), (tmp_path / "output").read_text()
    assert code == 0, output
    assert output.count("there is no terminal to type at: the run continues; to open it: ") == 1
    (run,) = tmp_path.glob("checkpoints/*")
    assert (
        f"python {ROOT / 'main.py'} control --debug --run={run.relative_to(tmp_path)}\n" in output
        and "Traceback" not in output
    )


def test_a_run_in_the_background_is_stopped_when_it_is_in_the_foreground_again(pictures, tmp_path):
    session = Training(["bash", "--norc", "-i"], tmp_path)
    command = [sys.executable, str(ROOT / "main.py"), *options(pictures, tmp_path, epochs=1000), *held(tmp_path)]
    session.child.sendline(shlex.join(command) + " &")
    until(lambda: list(tmp_path.glob("checkpoints/*/last.pth")))
    session.touch_file.touch()
    (tmp_path / "go").touch()
    session.wait("no terminal to type at")
    session.child.sendline("fg")
    assert "stopped by the touch file" in session.wait(PROMPT)
    session.child.sendline("c")
    session.wait(r"epoch \d+/")
    session.child.sendintr()  # ends the run as ever; left to pdb, it would open the prompt again
    session.wait("stopped; to resume")
    session.child.close(force=True)


@pytest.fixture
def watched(monkeypatch, tmp_path):
    """(touch file, a function that starts a Debugger, the list of the prompts it opened), at a supposed terminal."""
    opened = []
    monkeypatch.setattr(debugger, "terminal", lambda: True)
    monkeypatch.setattr(debugger, "open_prompt", lambda *_: opened.append(1))
    return tmp_path / "debug", lambda: debugger.Debugger(str(tmp_path / "debug")), opened


@pytest.mark.parametrize("kind", ["left over", "link", "dangling link", "folder", "pipe", "foreign"])
def test_a_file_that_is_not_meant_does_not_stop_the_run(kind, watched, capsys):
    file, start, opened = watched
    if kind == "left over":
        file.touch()
    watching = start()
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
        watching.on_batch_end()
        watching.on_test_summary()
    assert not opened and os.path.lexists(file)
    assert capsys.readouterr().err.count("warning:") == 1
    mine = file.with_name(f"debug.{getpass.getuser()}")  # whoever has taken the name does not shut this user out
    mine.touch()
    watching.on_batch_end()
    assert opened == [1] and not mine.exists()


def test_each_touch_opens_one_prompt(watched):
    file, start, opened = watched
    file.touch()
    watching = start()
    os.utime(file, (0, 0))  # touched since, whatever the clock of the file system says
    for prompts in (1, 2):
        watching.on_batch_end()
        watching.on_batch_end()
        assert len(opened) == prompts and not file.exists()
        file.touch()


def test_a_terminal_is_there_only_when_somebody_can_type_at_this_process(monkeypatch):
    main, other = os.openpty()
    with os.fdopen(main), os.fdopen(other) as tty, open(os.devnull) as null:
        for stdin, stdout in [(null, tty), (tty, null), (None, tty), (tty, None), (tty, tty)]:
            # the last one is a terminal, but this process does not belong to it
            monkeypatch.setattr(debugger, "sys", SimpleNamespace(stdin=stdin, stdout=stdout))
            assert debugger.terminal() is False
