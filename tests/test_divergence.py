"""Steps that are skipped: told, and when there are too many in a row, the end of the run or a way back."""

import csv
import importlib.util
import math
import re
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from conftest import FAST, ROOT
from torch import nn

import main as program
import models
from models.basic_module import BasicModule
from models.checkpoint import read_checkpoint
from utils import UserError
from utils.average import Average
from utils.device import InParts
from utils.update import Update

EPOCH = 9  # steps of three pictures


class Falls(BasicModule):
    """A model with BatchNorm and a moving average that meets nan in some of its training steps, and keeps what it was
    before each of them."""

    bad = ()  # numbers of the steps
    spoil = "loss"  # what is nan: the loss alone, or the whole batch

    def __init__(self, num_classes=2):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.classifier = nn.Linear(3, num_classes)
        self.step, self.kept, self.rates = 0, [], []

    def forward(self, x):
        return self.classifier(self.norm(x).square().mean(dim=(2, 3)))

    def objective(self, input, target):
        if not self.training:
            return super().objective(input, target)
        Falls.last = self
        self.kept.append(state(self, Falls.update.optimizer, Falls.average))
        self.rates.append(Falls.update.optimizer.param_groups[0]["lr"])
        bad = self.step in self.bad
        self.step += 1
        score, losses = super().objective(input * math.nan if bad and self.spoil == "batch" else input, target)
        return score, {name: value + math.nan if bad else value for name, value in losses.items()}  # no gradient is


def state(model, optimizer, average):
    """Copies of all that a step changes."""
    moments = {f"{i}.{n}": v for i, one in optimizer.state_dict()["state"].items() for n, v in one.items()}
    parts = {"": model.state_dict(), "optimizer.": moments, "average.": average.module.state_dict()}
    return {f"{part}{name}": value.clone() for part, values in parts.items() for name, value in values.items()}


def same(one, other):
    """Whether two such states are the same in every bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def train(tmp_path, pictures, monkeypatch):
    """Train a Falls in this process; returns the run's folder."""

    def run(bad=(), spoil="loss", **options):
        class Seen(Update):
            def __init__(self, *arguments, **keywords):
                super().__init__(*arguments, **keywords)
                Falls.update = self

        class Watched(Average):
            def __init__(self, *arguments, **keywords):
                super().__init__(*arguments, **keywords)
                Falls.average = self

        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(Falls, "bad", bad)
        monkeypatch.setattr(Falls, "spoil", spoil)
        monkeypatch.setattr(models, "Falls", Falls, raising=False)
        monkeypatch.setattr(program, "Update", Seen)
        monkeypatch.setattr(program, "Average", Watched)
        fast = {"image_size": 32, "batch_size": 3, "num_workers": 0, "vis_port": 1, "lr": 0.1, "print_freq": 2}
        fast |= {"ema": 0.9, "scheduler": "constant", "precision": "fp32", "progress": False, "pack": False}
        program.train(model="Falls", train_data_root=str(pictures), **{**fast, "max_epoch": 2, **options})
        return max((tmp_path / "checkpoints").iterdir())

    return run


def warnings(capsys, word):
    return [line for line in capsys.readouterr().err.splitlines() if word in line]


@pytest.mark.parametrize("spoil", ["loss", "batch"])
def test_a_step_that_meets_nan_changes_nothing_and_is_told_by_its_number(train, capsys, spoil):
    train(bad=(4, 7, 8), spoil=spoil)
    kept = Falls.last.kept
    unchanged = [step for step, (one, next) in enumerate(zip(kept, kept[1:], strict=False)) if same(one, next)]
    assert unchanged == [4, 7, 8]
    told = warnings(capsys, "is skipped")
    assert [line.split(" is skipped")[0] for line in told] == [f"warning: step {step}" for step in (5, 8, 9)]
    assert all("its loss is not finite: loss nan" in line for line in told)


def test_too_many_in_a_row_end_the_run_and_it_can_be_gone_on_with(train, tmp_path, capsys):
    with pytest.raises(UserError) as caught:
        train(bad=(3, 4, *range(6, 100)), bad_steps=3)
    what, _, remedy = str(caught.value).partition("; ")
    assert what == "step 10 is skipped like the 3 before it, its loss is not finite: loss nan"
    assert "--lr" in remedy and "--precision=fp32" in remedy
    assert re.search(r"--load-model-path=(.*)\)", remedy)[1].endswith("/best.pth")
    (path,) = tmp_path.glob("checkpoints/*/last.pth")
    content = read_checkpoint(path)
    assert content["run"]["step"] == 10
    assert all(value.isfinite().all() for value in content["weights"].values())
    assert f"python main.py train --resume=checkpoints/{path.parent.name}" in capsys.readouterr().out
    train(resume=str(Path(path).parent))
    assert read_checkpoint(path)["run"]["step"] == 2 * EPOCH


def test_an_epoch_without_a_step_that_had_an_effect_is_no_success(train, tmp_path):
    with pytest.raises(UserError, match=f"^step {EPOCH} is skipped like the {EPOCH - 1} before it, .*lower --lr"):
        train(bad=range(EPOCH), bad_steps=50, max_epoch=1)
    assert not list(tmp_path.glob("checkpoints/*/best.pth"))


@pytest.mark.parametrize("first", [EPOCH + 2, EPOCH + 3])
def test_too_many_in_a_row_go_back_to_what_was_saved_before_them_at_half_the_rate(train, capsys, first):
    run = train(bad=range(first, first + 4), bad_steps=4, bad_action="back", max_epoch=3)
    model, found = Falls.last, EPOCH + 7  # the summary after as many steps finds it, maybe a good one too late
    assert same(model.kept[found], model.kept[EPOCH])
    assert not same(model.kept[found - 1], model.kept[EPOCH]) and not same(model.kept[found + 1], model.kept[found])
    assert model.rates == [0.1] * found + [0.05] * (3 * EPOCH - found)  # no step less than there should be
    (told,) = warnings(capsys, "back to")
    assert told.startswith(f"warning: step {first + 4} is skipped like the 3 before it, ")
    assert told.endswith(f"back to the weights after {EPOCH} steps, at half the rate")
    assert read_checkpoint(run / "last.pth")["run"] == {"epoch": 3, "batch": 0, "step": 3 * EPOCH, "best": 100.0}


def test_back_is_before_the_row_though_it_was_saved_since(train, capsys):
    train(bad=range(7, 14), bad_steps=4, bad_action="back", save_freq=5, print_freq=14, batch_size=2)
    # Saved after 5 and 10 steps; the summary after 14 finds the row, in which 10 is.
    (told,) = warnings(capsys, "back to")
    assert told.endswith("back to the weights after 5 steps, at half the rate")
    assert same(Falls.last.kept[14], Falls.last.kept[5])


@pytest.mark.parametrize(
    "bad, last, returns",
    [(range(100), 7, [2, 4, 6, 8]), ([step for step in range(18) if step % 3 < 2], 10, [2, 6, 8, 12])],
)
def test_after_three_ways_back_without_a_good_stretch_it_stops(train, capsys, bad, last, returns):
    with pytest.raises(UserError, match=f"^step {last + 1} is skipped like the 1 before it"):
        train(bad=bad, bad_steps=2, bad_action="back")
    assert len(warnings(capsys, "back to the weights after 0 steps")) == 3
    halved = [sum(step >= made for made in returns) for step in range(returns[-1])]
    assert Falls.last.rates == [0.1 / 2**times for times in halved]


def test_a_good_stretch_in_between_gives_three_ways_back_more(train, capsys):
    train(bad=[step for step in range(18) if step % 4 < 2], bad_steps=2, bad_action="back")
    assert len(warnings(capsys, "back to")) == 5


def test_what_is_counted_goes_on_after_a_resume(train, tmp_path):
    run = train(bad=range(6, EPOCH), bad_steps=5, max_epoch=1)
    assert read_checkpoint(run / "last.pth")["divergence"]["row"] == 3
    with pytest.raises(UserError, match=f"^step {EPOCH + 3} is skipped like the 5 before it"):
        train(bad=range(9), bad_steps=5, resume=str(run), max_epoch=2)  # the model's step 0 is the run's 9 now
    assert read_checkpoint(run / "last.pth")["divergence"]["row"] == 0  # the next try begins to count anew


@pytest.fixture
def project(tmp_path):
    """A copy of the project; call it with a model's source to run its command line with that model, `Mine`."""
    for name in ("main.py", "config.py"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("models", "data", "utils"):
        ignored = shutil.ignore_patterns("demo", "train", "test1", "__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    with open(tmp_path / "models" / "__init__.py", "a") as file:
        file.write("from .mine import Mine\n")

    def run(source, *options):
        (tmp_path / "models" / "mine.py").write_text(source)
        fast = [option for option in FAST if "model" not in option]
        command = [sys.executable, "main.py", "train", "--model=Mine", *fast, "--precision=fp32", *options]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)

    return run


HEAD = """
import weakref
import torch
from torch import nn
from .basic_module import BasicModule

class Mine(BasicModule):
    tries, steps = [], 0

    def __init__(self, num_classes):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.classifier = nn.Linear(8, num_classes)

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))
"""

SMALL = (
    HEAD
    + """
    def features(self, x):
        features = self.layers(x)
        if self.training:
            assert not self.tries or self.tries[-1][1]() is None, "the try before is still in memory"
            held = Held()
            self.tries.append((len(x), weakref.ref(held)))
            features = Full.apply(features, held)
        return features

class Held:
    pass

class Full(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value, held):
        ctx.held = held
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        if len(gradient) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return gradient, None
"""
)

FALLS = (
    HEAD
    + """
    def features(self, x):
        Mine.steps += self.training
        bad = self.training and 12 < Mine.steps <= 16
        return self.layers(x) * (float("nan") if bad else 1.0)
"""
)


def weights(folder, name="last.pth", work_dir="checkpoints"):
    (run,) = (folder / work_dir).iterdir()
    return read_checkpoint(run / name)["weights"]


HALVES = ((12, 6), (6, 3))

NO_ROOM = (
    HEAD
    + """
    def features(self, x):
        if not self.training and len(x) > 5:
            raise RuntimeError("could not create a primitive")
        return self.layers(x)
"""
)


def test_a_validation_or_test_out_of_memory_goes_on_with_fewer_samples_at_a_time(project, pictures, tmp_path):
    done = project(NO_ROOM, f"--train-data-root={pictures}", "--max-epoch=1", "--val-batch-size=12")
    assert done.returncode == 0, done.stderr
    lines = [f"out of memory with {large} samples at a time: going on with {small}" for large, small in HALVES]
    expected = [f"warning: {line} (--val-batch-size)" for line in lines]
    assert [line for line in done.stderr.splitlines() if "out of memory" in line] == expected
    (matrix,) = (tmp_path / "checkpoints").glob("*/confusion.csv")
    cells = [row[1:] for row in csv.reader(matrix.read_text().splitlines())][1:]
    assert sum(int(cell) for row in cells for cell in row) == 12  # each once
    command = [sys.executable, "main.py", "test", f"--test-data-root={pictures}", "--dataset=ImageFolder"]
    done = subprocess.run([*command, "--val-batch-size=12"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if "out of memory" in line] == expected
    with open(tmp_path / "result.csv", newline="") as file:
        ids = [row["id"] for row in csv.DictReader(file)]
    assert ids == sorted(ids) and sorted(ids) == sorted(path.name for path in pictures.iterdir())


def test_a_try_that_ran_out_of_memory_is_forgotten_before_the_next_one():
    in_parts, tries = InParts(), []

    def work(input, target):
        held = nn.Module()  # what fills the memory
        assert all(other() is None for other in tries)
        tries.append(weakref.ref(held))
        if len(target) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return input, target

    for _ in range(2):
        parts = list(in_parts(work, torch.arange(9), list("abcdefghi")))
        assert [input.tolist() for input, _ in parts] == [[0, 1], [2, 3], [4, 5], [6, 7], [8]]
        assert sum((target for _, target in parts), []) == list("abcdefghi")
    assert len(tries) == 2 + 5 + 5  # the second batch is not too large again


def test_where_one_sample_is_too_much_or_the_error_another_one_it_is_told(capsys):
    with pytest.raises(RuntimeError, match="size of tensor"):
        list(InParts()(lambda input, target: input + torch.zeros(3), torch.zeros(2), [0, 0]))

    def never(input, target):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(UserError, match="^out of memory with one sample: take a smaller --image-size"):
        list(InParts()(never, torch.zeros(5), [1, 2, 3, 4, 5]))
    assert "5 samples at a time: going on with 2 (" in capsys.readouterr().err


def test_a_run_out_of_memory_ends_with_the_weights_of_smaller_parts(project, pictures, tmp_path, monkeypatch, capsys):
    done = project(SMALL, f"--train-data-root={pictures}", "--max-epoch=1")
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if "out of memory" in line] == [
        "warning: out of memory with 4 samples at a time: going on with 2 (--accumulate=2), the batch stays 4"
    ]
    smaller = weights(tmp_path)

    monkeypatch.chdir(tmp_path)
    found = importlib.util.spec_from_file_location("models.mine", tmp_path / "models" / "mine.py")
    found.loader.exec_module(module := importlib.util.module_from_spec(found))
    monkeypatch.setattr(models, "Mine", module.Mine, raising=False)
    options = {"image_size": 32, "batch_size": 4, "num_workers": 0, "vis_port": 1, "max_epoch": 1, "precision": "fp32"}
    program.train(model="Mine", train_data_root=str(pictures), work_dir="asked", accumulate=2, **options)
    assert "out of memory" not in capsys.readouterr().err
    asked = weights(tmp_path, work_dir="asked")
    assert smaller.keys() == asked.keys() and all(torch.equal(smaller[name], asked[name]) for name in asked)


def test_a_run_that_diverges_goes_back_and_is_finished(project, pictures, tmp_path):
    options = ["--max-epoch=3", "--print-freq=1", "--bad-steps=4", "--bad-action=back", "--ema=0.9"]
    done = project(FALLS, f"--train-data-root={pictures}", *options)
    assert done.returncode == 0, done.stderr
    (told,) = [line for line in done.stderr.splitlines() if "back to" in line]
    assert told.endswith("back to the weights after 7 steps, at half the rate")
    assert all(
        value.isfinite().all() for name in ("last.pth", "best.pth") for value in weights(tmp_path, name).values()
    )
