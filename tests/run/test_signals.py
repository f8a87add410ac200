"""Signals, exceptions and what is left behind: real processes, most of them forks of one that has loaded everything."""

import inspect
import json
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT
from conftest import server as fork_server
from fork_server import QUICK, Server
from terminal import PROMPT, Forked
from wait import until

from benchmarks.faults_signals import (
    NO_REPORTS,
    SMALL,
    alive,
    state,
    stop_again_and_again,
    stop_early,
    stop_packing,
    under_way,
)
from data import DogCat
from utils import UserError
from utils.events import Callback, Callbacks, Control
from utils.run.checkpoint_file import read_checkpoint
from utils.run.failure import Failure
from utils.run.signals import Signals
from utils.train.loader import make_loader
from utils.train.processes import ALONE

if not Path("/proc/self/stat").exists():
    pytest.skip("needs /proc", allow_module_level=True)

FAILS = """
import models
plain, steps = models.SqueezeNet.forward, []
def forward(self, x):
    if self.training:
        steps.append(x)
    if len(steps) == 4:
        raise ValueError("no such luck")
    return plain(self, x)
models.SqueezeNet.forward = forward
"""
# A tenth of a second more for every step.
SLOW = """
import time
from utils.train.step import TrainStep
slowly = TrainStep.apply
def apply(self, number):
    slowly(self, number)
    time.sleep(0.1)
TrainStep.apply = apply
"""
# Keeps which pictures the steps of each process are made of, by their bytes.
RECORDS = """
import data, hashlib, json
plain = data.DogCat.prepare
def prepare(self, input, target, generator):
    if self.mode == "train":
        names = [hashlib.sha256(image.contiguous().numpy()).hexdigest() for image in input]
        open("seen.jsonl", "a").write(json.dumps(names) + "\\n")
    return plain(self, input, target, generator)
data.DogCat.prepare = prepare
"""
# The first of two workers, which makes the batches 1, 3, 5, ...
HANGS = """
import data, time, torch
torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL = 0.5  # how long torch waits for it to end: 5 seconds
plain_items, made = data.DogCat.__getitems__, []
def items(self, indices):
    made.append(indices)
    if torch.utils.data.get_worker_info().id == 0 and len(made) == 3:
        time.sleep(1000)
    return plain_items(self, indices)
data.DogCat.__getitems__ = items
"""


class WithoutReports(Server):
    """The tests' server; its processes draw no reports, which would take the most of a stop's time, and end as others
    do, to the last destructor."""

    def __init__(self, server):
        vars(self).update(vars(server))

    def start(self, *command, first="", **options):
        return super().start(*command, first=f"teardown = True\n{NO_REPORTS}\n{first}", **options)


@pytest.fixture(scope="module")
def server():
    return WithoutReports(fork_server())


@pytest.fixture(scope="module")
def options(pictures):
    return [f"--train-data-root={pictures}", *SMALL, "--max-epoch=3"]


@pytest.fixture(scope="module")
def undisturbed(server, options, tmp_path_factory):
    """What a run ends with that nobody stops."""
    folder = tmp_path_factory.mktemp("calm")
    assert server.run("train", *options, "--num-workers=0", cwd=folder) == 0, (folder / "output").read_text()
    return state(folder)


def assert_right(stops):
    assert stops and all(fault == "" and lost == 0 for _, fault, lost in stops), stops


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# --- signals


def test_stopped_again_and_again_a_run_ends_as_the_undisturbed_one(server, options, undisturbed, tmp_path):
    assert_right(stop_again_and_again(server, options, tmp_path, random.Random(1)))
    assert state(tmp_path) == undisturbed


def test_a_stopped_run_is_saved_before_any_report_is_drawn(server, options, tmp_path):
    """However long a picture takes: Slurm and clouds kill soon after their SIGTERM."""
    stops = """
import json, os, signal
from pathlib import Path
from matplotlib.figure import Figure
from utils import watch
from utils.metrics import plots
from utils.run.checkpoint_file import read_checkpoint

watch.History.SHARE = 1e-9  # the second epoch's report is not drawn at once: it waits for the end
drawn = plots.save

def save(figure, path):
    (last,) = Path().glob("checkpoints/*/last.pth")
    facts = [Path(path).name, read_checkpoint(last)["run"]["step"]]
    open("drawn.jsonl", "a").write(json.dumps(facts) + "\\n")
    drawn(figure, path)

plots.save = save


def on_batch_end(self, **facts):
    if self.run.step == 16:
        os.kill(os.getpid(), signal.SIGTERM)

watch.Curves.on_batch_end = on_batch_end
"""
    assert server.run("train", *options, "--num-workers=0", cwd=tmp_path, first=stops) == 128 + signal.SIGTERM
    drawn = [json.loads(line) for line in (tmp_path / "drawn.jsonl").read_text().splitlines()]
    curves = [step for name, step in drawn if name == "curves.png"]
    assert curves == [0, 16]  # the first epoch's, which is saved after it is drawn; and the second's, at the end
    assert {step for name, step in drawn[[name for name, _ in drawn].index("curves.png", 1) :]} == {16}


def test_a_signal_that_an_import_has_swallowed_ends_the_run_before_its_first_step(server, options, tmp_path):
    """As triton's and mpmath's `try: import ... except:` do now and then."""
    swallows = """
import os, signal
import main
summary = main.print_summary
def print_summary(*facts):
    summary(*facts)
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        pass
main.print_summary = print_summary
"""
    assert server.run("train", *options, "--num-workers=0", cwd=tmp_path, first=swallows) == 128 + signal.SIGINT
    output = (tmp_path / "output").read_text()
    assert "stopped by SIGINT" in output and "epoch 1/" not in output


def test_a_closed_ssh_session_stops_a_run(server, options, undisturbed, tmp_path):
    pid = server.start("train", *options, "--num-workers=0", cwd=tmp_path, first=SLOW)
    until(lambda: under_way("step", tmp_path))
    os.kill(pid, signal.SIGHUP)
    assert server.wait() == 128 + signal.SIGHUP
    assert "SIGHUP: the run ends after this step" in (tmp_path / "output").read_text()
    assert server.run("train", "--resume", "--num-workers=0", cwd=tmp_path) == 0
    assert state(tmp_path) == undisturbed


def test_nohup_keeps_its_promise(options, tmp_path):
    small = [*options[:-1], "--max-epoch=1", "--num-workers=0"]
    command = ["nohup", sys.executable, str(ROOT / "main.py"), "train", *small]
    with open(tmp_path / "output", "w") as output:
        process = subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    until(lambda: under_way("step", tmp_path))
    process.send_signal(signal.SIGHUP)
    assert process.wait() == 0 and "finished: " in (tmp_path / "output").read_text()


def test_stopped_after_every_epoch_five_epochs_have_the_five_orders_of_a_run_without_a_stop(server, options, tmp_path):
    def epochs(folder):
        seen = [json.loads(line) for line in (folder / "seen.jsonl").read_text().splitlines()]
        assert len(seen) % 5 == 0
        each = len(seen) // 5
        return [sum(seen[first : first + each], []) for first in range(0, len(seen), each)]

    calm, stopped = tmp_path / "calm", tmp_path / "stopped"
    for folder in (calm, stopped):
        folder.mkdir()
    options = [*options[:-1], "--num-workers=0", "--ema=0.9"]
    assert server.run("train", *options, "--max-epoch=5", cwd=calm, first=RECORDS + QUICK) == 0
    for number in range(1, 6):
        assert server.run("train", *options, f"--max-epoch={number}", cwd=stopped, first=RECORDS + QUICK) == 0
        (run,) = (stopped / "checkpoints").iterdir()
        options = [f"--resume={run}"]
    orders = epochs(calm)
    assert epochs(stopped) == orders and len(set(map(tuple, orders))) == 5
    assert all(sorted(order) == sorted(orders[0]) and len(set(order)) == len(order) for order in orders)
    assert state(stopped) == state(calm)


def test_a_signal_ends_packing_and_leaves_nothing_behind(server, pictures, tmp_path):
    assert_right(stop_packing(server, pictures, tmp_path / "packing", 3, random.Random(2)))


def test_a_signal_ends_a_program_that_is_still_loading(pictures, tmp_path):
    assert_right(stop_early(pictures, tmp_path / "early", 3, random.Random(3)))


def test_while_the_program_loads_a_signal_raises_nothing_that_an_import_could_swallow_or_abort_on(tmp_path):
    """pybind11 calls std::terminate on whatever is raised while a module of C++ imports another one."""
    code = "import os, signal\nfrom utils.run import signals\nsignals.end_on_signals()\n"
    code += "try: os.kill(os.getpid(), signal.SIGTERM)\nfinally: os.write(1, b'raised')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "stopped by SIGTERM\n")


@pytest.mark.parametrize(
    "code",
    {
        "swallowed, and then nothing happens": "try: stop()\nexcept BaseException: time.sleep(100)",
        "swallowed, and then the program ends": "try: stop()\nexcept BaseException: print('fine')",
        "in a destructor": "class A:\n  def __del__(self): stop()\nA()\ntime.sleep(100)",
        "become another exception": "try: stop()\nexcept BaseException: raise ImportError('no torch')",
        "in a finally that takes too long": "try: stop()\nfinally: time.sleep(100)",
        "with a thread that does not end": "threading.Thread(target=time.sleep, args=(100,)).start(); stop()",
    }.values(),
)
def test_no_exception_handler_keeps_a_signal_from_ending_the_program(code):
    begin = "import os, signal, threading, time\nfrom utils.run import signals\nsignals.GRACE = 0.3\n"
    begin += "signals.end_on_signals()\nsignals.loaded()\n"
    begin += "def stop(): os.kill(os.getpid(), signal.SIGINT); time.sleep(0.01)\n"
    done = subprocess.run([sys.executable, "-c", begin + code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 130 and done.stderr == "stopped by SIGINT\n"


class Watcher(Callback):
    """Writes down how the training ended."""

    def __init__(self, failure=None):
        self.ends, self.failure = [], failure

    def on_train_end(self, finished, stopped, error):
        self.ends.append((finished, stopped, error))
        if self.failure:
            raise self.failure


NOBODY = SimpleNamespace(left=False)  # at the debugger
NO_METERS = SimpleNamespace(reduce=lambda: None)


def in_a_notebook(number, before, answer):
    """In a process of its own: ten steps, with two signals in the middle of the sixth."""
    signal.signal(number, before)
    watcher, steps = Watcher(), []
    try:
        signals = Signals(ALONE, NO_METERS, NOBODY)
        with Callbacks([watcher], signals) as callbacks:
            callbacks.on_train_begin()
            for step in range(10):
                if step == 5:
                    signal.raise_signal(number)
                    signal.raise_signal(number)
                steps.append(step)
                signals.agree()
                callbacks.on_batch_end()
    except BaseException as error:
        answer.send((watcher.ends, repr(error), len(steps), signal.getsignal(number) == before))


@pytest.mark.parametrize(
    "number, before, end",
    [
        (signal.SIGINT, signal.default_int_handler, "KeyboardInterrupt()"),
        (signal.SIGTERM, signal.SIG_DFL, "Stopped(143)"),
    ],
)
def test_in_a_notebook_a_signal_waits_for_the_step_and_the_old_handlers_come_back(number, before, end):
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=in_a_notebook, args=(number, before, there))
    process.start()
    there.close()
    assert here.recv() == ([(False, True, None)], end, 6, True)
    process.join()


def test_in_another_thread_nothing_happens_to_the_handlers():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def run():
        with Callbacks([], Signals(ALONE, NO_METERS, NOBODY)) as callbacks:
            callbacks.on_train_begin()
            seen.append(signal.getsignal(signal.SIGTERM))
            callbacks.on_batch_end()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before] == [signal.getsignal(signal.SIGTERM)]


# --- exceptions


class Ending(Watcher, Control):
    """The same as a control, whose failure counts; it also writes down how it was closed."""

    def close(self, **facts):
        self.closed = facts


def test_every_callback_hears_of_the_end_and_the_first_exception_is_the_one_that_is_raised(capsys):
    for loop, end, raised in [(None, OSError("disk"), OSError), (ValueError("x"), OSError("disk"), ValueError)]:
        first, last, control = Watcher(ValueError("ink")), Watcher(), Ending(end)
        with pytest.raises(raised), Callbacks([first, last], control) as callbacks:
            callbacks.on_train_begin()
            if loop:
                raise loop
        assert first.ends == last.ends == control.ends == [(loop is None, False, loop)]
        assert tuple(control.closed.values()) == (loop is None, False, loop)
    with pytest.raises(OSError), Callbacks([first], control):
        raise OSError("before it has begun")
    assert (len(first.ends), len(control.ends)) == (1, 2)
    line = inspect.getsourcelines(Watcher)[1]
    place = re.compile(rf"\({re.escape(__file__)}:(\d+)\)")
    err = capsys.readouterr().err
    assert all(int(number) > line for number in place.findall(err))
    err = place.sub("(here)", err)
    warning = "warning: the callback Watcher fails at on_train_end: ValueError: ink (here); the run continues\n"
    assert err == 2 * warning + 2 * "and then: OSError: disk\n"


def test_an_exception_names_the_batch_and_its_run_can_be_resumed(server, options, undisturbed, tmp_path):
    """With a worker that hangs, and would not let the process end."""
    pid = server.start("train", *options, "--num-workers=2", "--pack=False", "--pdb", cwd=tmp_path, first=FAILS + HANGS)
    workers = until(lambda: len(children(pid)) >= 2 and children(pid))
    assert server.wait() == 1 and not any(map(alive, workers))
    output = (tmp_path / "output").read_text()
    assert "failed in epoch 1, batch 4 (step 4), samples: " in output and "jpg, ... and 2 more" in output
    assert output.count("Traceback (most recent call last)") == 1 and "ValueError: no such luck" in output
    assert output.count("warning: --pdb: there is no terminal to type at") == 1
    (last,) = tmp_path.glob("checkpoints/*/last.pth")
    assert read_checkpoint(last)["run"]["step"] == 3
    assert server.run("train", "--resume", "--num-workers=0", cwd=tmp_path) == 0
    assert state(tmp_path) == undisturbed


def test_what_is_named_is_the_batch_that_failed(pictures, tmp_path, capsys):
    train_data, val_data = (DogCat(pictures, mode, image_size=32) for mode in ("train", "val"))
    train_loader = make_loader(train_data, 4, 0, seed=1)
    val_loader, run = make_loader(val_data, 2, 0), SimpleNamespace(epoch=2, batch=0, step=14, folder=tmp_path)
    state = SimpleNamespace(run=run, step=SimpleNamespace(device="cpu"))
    failure = Failure(state, ALONE, train_loader, val_loader, pdb=False)

    def named(error=None):
        failure.on_train_end(error=error or ValueError())
        return capsys.readouterr().err.partition("to make it again")[0]

    assert named() == ""  # before the first batch
    failure.on_epoch_begin()
    train_loader.batch_sampler.set_position(2, 0)
    drawn = [[str(train_data.paths[index]) for index in batch] for batch in train_loader.batch_sampler]
    first, second = (", ".join(batch[:2]) for batch in drawn[:2])
    assert named() == f"failed in epoch 3, batch 1 (step 15), samples: {first}, ... and 2 more\n"
    run.batch, run.step = 1, 15
    assert named().startswith("failed in epoch 3, batch 1 (step 15)")  # after its step, say in a meter
    failure.on_batch_end()
    assert named() == f"failed in epoch 3, batch 2 (step 16), samples: {second}, ... and 2 more\n"
    assert named(UserError("one line")) == named(FileNotFoundError(2, "not there", "x")) == ""
    run.batch = len(train_loader)
    failure.on_batch_end()
    assert named() == ""
    failure.on_test_begin()
    failure.on_test_summary(target=[0])  # half of the batch, where memory ran out
    assert ", batch 1 of the validation" in named()
    failure.on_test_summary(target=[1])
    names = f"{val_data.paths[2]}, {val_data.paths[3]}"
    assert named() == f"failed in epoch 3, batch 2 of the validation, samples: {names}\n"
    failure.on_test_end()
    assert named() == ""


def test_pdb_opens_where_the_exception_was_raised_before_anything_is_saved(options, tmp_path):
    session = Forked(["train", *options, "--num-workers=0", "--pdb"], tmp_path, FAILS)
    opened = session.wait(PROMPT)
    assert "failed in epoch 1, batch 4 (step 4)" in opened and "ValueError: no such luck" in opened
    assert session.value("tuple(x.shape)") == (4, 3, 32, 32) and session.value("len(steps)") == 4
    session.do("u")
    reader = "__import__('utils.run.checkpoint_file', fromlist=['read_checkpoint']).read_checkpoint"
    step = f"{reader}(run.folder / 'last.pth')['run']['step']"
    while "train()" not in session.do("u"):
        pass
    assert session.value(step) == 0 and session.value("run.step") == 3
    assert session.end("q\n") == 1
    assert "main.py train --resume=" in session.screen and session.screen.count("Traceback") == 1
    (last,) = tmp_path.glob("checkpoints/*/last.pth")
    assert read_checkpoint(last)["run"]["step"] == 3


# --- no orphans


@pytest.mark.parametrize("first", ["", HANGS], ids=["working", "hanging"])
def test_workers_end_with_a_parent_that_is_killed(first, server, options, tmp_path):
    long = [*options[:-1], "--max-epoch=1000", "--num-workers=2", "--pack=False"]
    pid = server.start("train", *long, cwd=tmp_path, first=first)
    workers = until(lambda: len(children(pid)) >= 2 and children(pid))
    until(lambda: "epoch 1/" in (tmp_path / "output").read_text() or first)
    time.sleep(0.3)
    os.kill(pid, signal.SIGKILL)
    assert server.wait() == -signal.SIGKILL
    until(lambda: not any(map(alive, workers)))
