"""The step in which a training failed is kept, and made again with the same batch, augmentation and dropout."""

import hashlib
import json
import math
import multiprocessing
import re
import shutil
import tempfile
from importlib import metadata
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from runs import differences, only_run, state
from terminal import PROMPT, Forked
from torch import nn

import main as program
import models
from data import DogCat
from models.basic_module import BasicModule
from utils import UserError, watch
from utils.files import lock
from utils.run import crash
from utils.run.failure import FILE, Failed, Failure
from utils.run.guard import Diverged
from utils.run.resume import find_run
from utils.runs.table import read_run
from utils.train.loader import make_loader
from utils.train.processes import LostProcess, World

LINE = re.compile(r"^failed in batch 2, samples: (.*), (.*), ... and (\d+) more$", re.MULTILINE)
EPOCH = 9  # steps of three pictures


class Fragile(BasicModule):
    """A model with dropout and BatchNorm that fails with `error` in its training steps `numbers`, or where it sees one
    of `wanted`: checksums of the batch, as augmented, and of what dropout left of it."""

    numbers, wanted, error, validation = (), (), ValueError("no such luck"), False
    seen = []  # checksums, in this order

    def __init__(self, num_classes=2):
        super().__init__()
        self.norm, self.dropout, self.classifier = nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Linear(3, num_classes)

    def forward(self, x):
        return self.classifier(self.dropout(self.norm(x).square().mean(dim=(2, 3))))

    def objective(self, input, target):
        score, losses = super().objective(input, target)
        if self.training is self.validation:
            return score, losses
        text = b"".join(one.detach().numpy().tobytes() for one in (input.contiguous(), score))
        self.seen.append(hashlib.sha256(text).hexdigest())
        if len(self.seen) - 1 in self.numbers or self.seen[-1] in self.wanted:
            if self.error is None:
                return score, {name: value * math.nan for name, value in losses.items()}
            raise self.error
        return score, losses


@pytest.fixture
def train(tmp_path, pictures, monkeypatch):
    """Train a Fragile in this process, in a folder; what it has seen is in Fragile.seen."""

    def run(folder="a", error=Fragile.error, validation=False, numbers=(), wanted=(), **options):
        (tmp_path / folder).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / folder)
        for name, value in {"error": error, "validation": validation, "numbers": numbers, "wanted": wanted}.items():
            monkeypatch.setattr(Fragile, name, value)
        Fragile.seen = []
        if "step" not in options:
            fast = {"image_size": 32, "batch_size": 3, "num_workers": 0, "vis_port": 1, "lr": 0.1, "ema": 0.9}
            fast |= {"precision": "fp32", "progress": False, "pack": False, "max_epoch": 2, "print_freq": 2}
            options = {"model": "Fragile", "train_data_root": str(pictures), **fast, **options}
        program.train(**options)

    monkeypatch.setattr(models, "Fragile", Fragile, raising=False)
    monkeypatch.setattr(watch.History, "draw", lambda self: None)  # the most of the time, and of no use here
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return run


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def failed(train, kept, tmp_path):
    """(A run that has failed in its step EPOCH + 3, from 0; the checksum of that step.)"""
    if not list(kept.iterdir()):
        with pytest.raises(ValueError):
            train(numbers=[EPOCH + 3])
        shutil.move(tmp_path / "a" / "checkpoints", kept)
        (kept / "seen").write_text(Fragile.seen[-1])
    shutil.copytree(kept / "checkpoints", tmp_path / "a" / "checkpoints")
    return only_run(tmp_path / "a"), (kept / "seen").read_text()


@pytest.mark.parametrize("older", [False, True])
def test_the_very_step_fails_again_and_the_run_stays_as_it_is(older, failed, train, tmp_path, capsys):
    run, wanted = failed
    step = json.loads((run / FILE).read_text())
    assert (step["epoch"], step["batch"], step["step"], step["rank"]) == (1, 3, EPOCH + 3, 0)
    assert step["error"] == "ValueError: no such luck" and step["traceback"][-1] == step["error"]
    assert len(step["samples"]) == len(step["paths"]) == 3 and step["seed"] == 0 and step["device"] == "cpu"
    if older:
        shutil.copy(run / "last.pth", tmp_path)
        (run / "last.pth").unlink()  # the steps from the start of the epoch on are made again
    before = contents(run)
    with pytest.raises(ValueError):
        train(replay=run.name, step="last", wanted=[wanted])
    assert len(Fragile.seen) == (4 if older else 1) and Fragile.seen[-1] == wanted
    told = capsys.readouterr()
    assert f"step {EPOCH + 4} (epoch 2, batch 4) failed again, as before" in told.err
    assert "to resume" not in told.out and "--replay" not in told.err and contents(run) == before

    if older:
        shutil.copy(tmp_path / "last.pth", run)
    train(resume=run.name)
    train("undisturbed")
    assert differences(state(run), state(only_run(tmp_path / "undisturbed"))) == []
    with pytest.raises(UserError, match="last.pth is of epoch 3, step 18, which is later; .*previous.pth"):
        train(replay=run.name, step="last")


def test_a_step_that_does_not_fail_again_says_so_and_so_does_one_that_fails_otherwise(failed, train, capsys):
    run, wanted = failed
    before = contents(run)
    record = run / "config.yaml"
    record.write_text(record.read_text().replace("torch: ", "torch: 0"))
    train(replay=str(run), step="last")
    told = capsys.readouterr().out
    assert Fragile.seen == [wanted] and "did not fail again; before: ValueError: no such luck" in told
    assert f"note: changed since that run: torch 0{metadata.version('torch')} -> " in told
    with pytest.raises(KeyError):
        train(replay=str(run), step="last", wanted=[wanted], error=KeyError("x"))
    assert "failed again, in another way; before: ValueError: no such luck" in capsys.readouterr().err
    assert {**contents(run), "config.yaml": before["config.yaml"]} == before


@pytest.mark.parametrize("bad", [range(13, 99), range(12, 15)])  # the last step has no effect, or it has one
def test_too_many_nan_the_last_of_them_is_nan_again(bad, train, tmp_path, capsys):
    with pytest.raises(UserError, match=f"step {min(bad[-1], 15) + 1} is skipped like the 2 before it"):
        train(error=None, numbers=bad, max_bad_steps=3)
    run, seen, last = only_run(tmp_path / "a"), Fragile.seen, min(bad[-1], 15)
    assert json.loads((run / FILE).read_text())["step"] == last and len(seen) == 16
    assert read_run(run).state == "diverged" and find_run("checkpoints", "newest").name == run.name
    with pytest.raises(UserError, match=f"step {last + 1} is skipped: its loss or a gradient is not finite: loss nan"):
        train(replay=run.name, step="last", error=None, wanted=seen[12:])
    assert Fragile.seen == (seen[15:] if last == 15 else seen[9:15])
    assert "failed again, as before" in capsys.readouterr().err


def test_memory_that_runs_out_in_the_smallest_part_runs_out_again(train, tmp_path, capsys):
    error = torch.OutOfMemoryError("out of memory")
    with pytest.raises(UserError, match="out of memory with 3 samples at a time, and fewer are not possible"):
        train(numbers=[2], error=error)
    run, wanted = only_run(tmp_path / "a"), Fragile.seen[-1]
    with pytest.raises(UserError, match="out of memory"):
        train(replay=run.name, step="last", error=error, wanted=[wanted])
    assert Fragile.seen == [wanted] and "failed again, as before" in capsys.readouterr().err


def test_a_batch_of_the_validation_fails_again(train, tmp_path, capsys):
    with pytest.raises(ValueError):
        train(numbers=[3], validation=True, val_batch_size=5)  # the first is of the model's summary
    run, seen = only_run(tmp_path / "a"), Fragile.seen
    command = f"python {ROOT / 'main.py'} train --replay=checkpoints/{run.name} --step=last"
    assert command in capsys.readouterr().err
    kept = Failed(**json.loads((run / FILE).read_text()))
    assert kept.validation and (kept.epoch, kept.batch, kept.step) == (0, 2, EPOCH)
    with pytest.raises(ValueError):
        train(replay=run.name, step="last", validation=True, wanted=seen[-1:], val_batch_size=2)
    assert Fragile.seen == seen and "batch 3 of the validation of epoch 1 failed again" in capsys.readouterr().err
    train(replay=run.name, step="last", validation=True)
    assert Fragile.seen == seen and "did not fail again" in capsys.readouterr().out


# For a process that the fork server starts, where the step with this checksum fails.
FRAGILE = """
import sys
sys.path[:0] = {path}
import models, test_crash
models.Fragile, test_crash.Fragile.wanted = test_crash.Fragile, [{wanted!r}]
"""
IPYTHON = """
from IPython.terminal.interactiveshell import TerminalInteractiveShell
shell = TerminalInteractiveShell.instance(simple_prompt=True, colors="NoColor")
shell.run_line_magic("run", {command!r})
shell.run_line_magic("debug", "")
test_crash.Fragile.wanted = []
shell.run_line_magic("run", {command!r})
sys.exit(3)
"""


def fragile(wanted):
    folders = [ROOT, *(ROOT / "tests" / name for name in ("", "helpers", "run"))]
    return FRAGILE.format(path=[str(folder) for folder in folders], wanted=wanted)


def test_at_a_terminal_the_debugger_opens_before_the_step_and_where_it_fails(failed, tmp_path):
    run, wanted = failed
    before = contents(run)
    session = Forked(["train", f"--replay={run.name}", "--step=last"], tmp_path / "a", fragile(wanted))
    assert "before step 13 (epoch 2, batch 4): h help" in session.wait(PROMPT)
    assert session.value("(run.step, len(batch[0]))") == (EPOCH + 3, 3)
    session.do("model(batch[0])")  # draws numbers, which the step does not notice
    assert "failed again, as before" in session.do("c") and session.value("self.seen") == [wanted]
    assert session.end("q\n") == 1 and session.screen.count("Traceback") == 1
    assert "to resume" not in session.screen and contents(run) == before


def test_who_leaves_before_the_step_leaves_at_once(failed, train, monkeypatch, capsys):
    monkeypatch.setattr(crash, "terminal", lambda: True)
    monkeypatch.setattr(crash, "open_prompt", lambda frame, leave, why: leave())
    train(replay=failed[0].name, step="last")
    assert Fragile.seen == [] and "again, " not in "".join(capsys.readouterr())


def test_in_ipython_debug_opens_where_the_run_has_failed_and_it_can_be_resumed(failed, tmp_path):
    run, wanted = failed
    command = f"{ROOT / 'main.py'} train --resume={run.name}"
    session = Forked([], tmp_path / "a", fragile(wanted) + IPYTHON.format(command=command))
    session.wait(PROMPT)
    assert session.value("self.seen") == [wanted]
    while "train(" not in session.do("u"):
        pass
    assert session.value("run.step") == EPOCH + 3
    assert session.end("q\n") == 3 and "\nfinished: " in session.screen
    assert json.loads((run / FILE).read_text())["step"] == EPOCH + 3


def test_what_failed_in_a_worker_fails_in_the_process_itself(train, tmp_path, monkeypatch, capsys):
    def failing(self, indices):
        raise ValueError("no such luck")

    with monkeypatch.context() as patch:
        patch.setattr(DogCat, "__getitems__", failing)
        with pytest.raises(ValueError, match="in DataLoader worker"):
            train(num_workers=1)
        with pytest.raises(ValueError, match="^no such luck$"):
            train(replay=only_run(tmp_path / "a").name, step="last")
    assert "step 1 (epoch 1, batch 1) failed again, as before" in capsys.readouterr().err
    train(replay=only_run(tmp_path / "a").name, step="last")
    assert "did not fail again; before: ValueError: no such luck\n" in capsys.readouterr().out


def test_of_several_processes_the_one_that_failed_keeps_the_step_and_of_nan_the_first_one_all_of_it(pictures):
    data, run = DogCat(pictures, "train", image_size=32), SimpleNamespace(epoch=1, batch=3, step=9)
    state = SimpleNamespace(run=run, step=SimpleNamespace(device="cpu"))
    found = []
    for rank in range(2):
        world = World(rank, 2)
        failure = Failure(state, world, make_loader(data, 5, 0, seed=1, world=world), None, pdb=False)
        failure.on_epoch_begin()
        assert failure.failed(LostProcess()) is None
        found += [failure.failed(ValueError()), failure.failed(Diverged("nan", step=7))]
    one, whole, other, none = found
    assert (one.rank, other.rank) == (0, 1) and one.processes == other.processes == 2 and none is None
    assert len({*one.samples, *other.samples}) == 5 and (one.batch, one.step) == (3, 9)
    assert (whole.rank, whole.processes, whole.epoch, whole.batch, whole.step) == (0, 1, 1, 1, 7)
    assert whole.skipped and len(whole.samples) == 5


def test_after_a_cuda_error_the_step_is_made_on_the_cpu(failed, train, capsys):
    path = failed[0] / FILE
    text = path.read_text().replace('"cpu"', '"cuda:0"')
    path.write_text(text.replace("ValueError: no such luck", "AcceleratorError: CUDA error: device-side assert"))
    train(replay=failed[0].name, step="last")
    told = capsys.readouterr().out
    assert "the step is made on the CPU (--use-gpu=True: on the GPU)" in told and "device cuda:0 -> cpu" in told
    assert "use_gpu: False  (found)" in told
    path.write_text(text.replace("ValueError: no such luck", "OutOfMemoryError: CUDA out of memory"))
    train(replay=failed[0].name, step="last")
    assert "use_gpu: False" not in capsys.readouterr().out


def test_val_and_test_name_the_batch_and_its_samples(failed, train, unlabelled, monkeypatch, capsys):
    predict, calls = Fragile.predict, []

    def failing(self, input):
        calls.append(1)
        if len(calls) == 2:
            raise ValueError("no such luck")
        return predict(self, input)

    monkeypatch.chdir(failed[0].parent.parent)
    monkeypatch.setattr(Fragile, "validation", True)
    monkeypatch.setattr(Fragile, "numbers", [1])
    monkeypatch.setattr(Fragile, "seen", [])
    monkeypatch.setattr(Fragile, "predict", failing)
    options = {"run": failed[0].name, "val_batch_size": 5, "num_workers": 0, "pack": False}
    with pytest.raises(ValueError):
        program.evaluate(**options)
    first, second, more = LINE.search(capsys.readouterr().err).groups()
    assert first != second and first.endswith(".jpg") and more == "3"
    with pytest.raises(ValueError):
        program.test(**options, test_data_root=str(unlabelled), progress=False)
    names = ", ".join(str(unlabelled / f"{number}.jpg") for number in (6, 7))
    assert f"failed in batch 2, samples: {names}, ... and 3 more\n" in capsys.readouterr().err


def hold(path, started, end):
    with open(path, "r+") as file:
        assert lock(file)
        started.set()
        end.wait()


def test_a_run_that_is_being_trained_is_left_alone(failed, train):
    context = multiprocessing.get_context("fork")
    started, end = context.Event(), context.Event()
    process = context.Process(target=hold, args=(failed[0] / "lock", started, end))
    process.start()
    started.wait()
    try:
        with pytest.raises(UserError, match="this run is being trained: wait for it, or stop it first"):
            train(replay=failed[0].name, step="last")
    finally:
        end.set()
        process.join()


TRAINED = '"validation": false,\n "epoch": 1,\n "batch": 3,\n "step": 12'
VALIDATED = '"validation": true,\n "epoch": 0,\n "batch": 1,\n "step": 9'  # the run stands behind it, at the same step
BAD = {  # kind: (file, what is replaced in it, by what, more options, the line)
    "unknown": (FILE, "", "", {"replay": "Fragil"}, "--replay=Fragil: no such run, also not in checkpoints"),
    "not failed": (FILE, None, "", {}, f"no step of this run has failed, it has no {FILE}: leave --step out"),
    "cut off": (FILE, "}", "", {}, f"{FILE} is damaged: resume the run"),
    "other kinds": (FILE, '"epoch": 1', '"epoch": "1"', {}, f"{FILE} is damaged"),
    "no list": (FILE, "{", "[{", {}, f"{FILE} is damaged"),
    "too few": (FILE, '"processes": 1', '"processes": 0', {}, f"{FILE} is damaged"),
    "several": (FILE, '"processes": 1', '"processes": 2', {}, "had other samples: .*removed or renamed since"),
    "no checkpoint": ("last.pth", None, "", {}, "previous.pth is of step 9, and from there all 2 processes are needed"),
    "validated since": (FILE, TRAINED, VALIDATED, {}, "previous.pth is of epoch 2, step 9, which is later"),
    "renamed": (FILE, "/cat", "/catt", {}, "had other samples: .*removed or renamed since"),
    "data gone": ("config.yaml", "/train", "/gone", {}, "--train-data-root: .*/gone"),
    "resumed": (FILE, "", "", {"resume": "newest"}, "leave --resume, --processes and torchrun out"),
    "fixed": (FILE, "", "", {"lr": 0.2}, "--step: lr=0.1 is fixed on resume and cannot become 0.2"),
    "a number": (FILE, "", "", {"step": 7}, "--step cannot be 7: it takes one of last"),
    "alone": (FILE, "", "", {"replay": None}, "--step needs --replay"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_made_again_is_one_line(kind, failed, train):
    file, old, new, options, line = BAD[kind]
    path = failed[0] / file
    if old is None:
        path.unlink()
        path, old, new = failed[0] / FILE, '"processes": 1', '"processes": 2'
    if path.exists():
        path.write_text(path.read_text().replace(old, new))
    before = contents(failed[0])
    with pytest.raises(UserError, match=line):
        train(**{"replay": failed[0].name, "step": "last", **options})
    assert contents(failed[0]) == before
