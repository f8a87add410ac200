"""Steps that are skipped: a warning, and after too many in a row the end of the run, or a rollback."""

import math
import re
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from torch import nn

import main as program
import models
from models.basic_module import BasicModule
from utils import UserError, watch
from utils.run.checkpoint_file import read_checkpoint
from utils.train.step import TrainStep

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
        self.kept.append(state(self, Falls.made))
        self.rates.append(Falls.made.optimizer.param_groups[0]["lr"])
        bad = self.step in self.bad
        self.step += 1
        score, losses = super().objective(input * math.nan if bad and self.spoil == "batch" else input, target)
        return score, {name: value + math.nan if bad else value for name, value in losses.items()}  # no gradient is


def state(model, step):
    """Copies of all that a step changes."""
    moments = {f"{i}.{n}": v for i, one in step.optimizer.state_dict()["state"].items() for n, v in one.items()}
    parts = {"": model.state_dict(), "optimizer.": moments, "average.": step.ema_model.state_dict()}
    return {f"{part}{name}": value.clone() for part, values in parts.items() for name, value in values.items()}


def same(one, other):
    """Whether two such states are the same in every bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def train(tmp_path, pictures, monkeypatch):
    """Train a Falls in this process; returns the run's folder."""

    def run(bad=(), spoil="loss", **options):
        class Seen(TrainStep):
            def __init__(self, *arguments, **keywords):
                super().__init__(*arguments, **keywords)
                Falls.made = self

        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(Falls, "bad", bad)
        monkeypatch.setattr(Falls, "spoil", spoil)
        monkeypatch.setattr(models, "Falls", Falls, raising=False)
        monkeypatch.setattr(program, "TrainStep", Seen)
        monkeypatch.setattr(watch.History, "draw", lambda self: None)  # the most of the time, and of no use here
        fast = {"image_size": 32, "batch_size": 3, "num_workers": 0, "vis_port": 1, "lr": 0.1, "print_freq": 2}
        fast |= {"ema": 0.9, "scheduler": "constant", "precision": "fp32", "progress": False, "pack": False}
        program.train(model="Falls", train_data_root=str(pictures), **{**fast, "max_epoch": 2, **options})
        return max((tmp_path / "checkpoints").iterdir())

    return run


def warnings(capsys, word):
    return [line for line in capsys.readouterr().err.splitlines() if word in line]


@pytest.mark.parametrize("spoil", ["loss", "batch"])
def test_a_step_that_meets_nan_changes_nothing_and_is_named_by_its_number(train, capsys, spoil):
    train(bad=(4, 7, 8), spoil=spoil)
    kept = Falls.last.kept
    unchanged = [step for step, (one, next) in enumerate(zip(kept, kept[1:], strict=False)) if same(one, next)]
    assert unchanged == [4, 7, 8]
    lines = warnings(capsys, "is skipped")
    assert [line.split(" is skipped")[0] for line in lines] == [f"warning: step {step}" for step in (5, 8, 9)]
    assert all("its loss is not finite: loss nan" in line for line in lines)


def test_too_many_in_a_row_end_the_run_and_it_can_be_resumed(train, tmp_path, capsys):
    with pytest.raises(UserError) as caught:
        train(bad=(3, 4, *range(6, 100)), max_bad_steps=3)
    what, _, remedy = str(caught.value).partition("; ")
    assert what == "step 10 is skipped like the 3 before it, its loss is not finite: loss nan"
    assert remedy.endswith("with a lower --lr")  # it is in fp32 already
    assert re.search(r"--load-model-path=(.*)\)", remedy)[1].endswith("/best.pth")
    (path,) = tmp_path.glob("checkpoints/*/last.pth")
    content = read_checkpoint(path)
    assert content["run"]["step"] == 10
    assert all(value.isfinite().all() for value in content["weights"].values())
    resume = f"python {ROOT / 'main.py'} train --resume=checkpoints/{path.parent.name}\n"
    told = f"\ndiverged; to resume it all the same: {resume}"
    assert told in capsys.readouterr().out
    train(resume=str(Path(path).parent))
    assert read_checkpoint(path)["run"]["step"] == 2 * EPOCH


def test_an_epoch_without_a_step_that_had_an_effect_is_no_success(train, tmp_path):
    with pytest.raises(UserError, match=f"^step {EPOCH} is skipped like the {EPOCH - 1} before it, .*lower --lr"):
        train(bad=range(EPOCH), max_bad_steps=50, max_epoch=1)
    assert not list(tmp_path.glob("checkpoints/*/best.pth"))


@pytest.mark.parametrize("options", [{"max_bad_steps": 50}, {"max_bad_steps": 3, "print_freq": EPOCH}])
def test_a_run_that_was_ended_and_has_no_step_left_is_not_finished_by_resuming_it(train, tmp_path, options):
    """It was ended at the end of its last epoch, or in the summary after that one's last step."""
    with pytest.raises(UserError, match=f"^step {EPOCH} is skipped"):
        train(bad=range(EPOCH), max_epoch=1, **options)
    (run,) = tmp_path.glob("checkpoints/*")
    for _ in range(2):
        assert (run / "lock").read_text() == "diverged" and not (run / "best.pth").exists()
        with pytest.raises(UserError, match=f"the last one is step {EPOCH}, its loss is not finite.*more epochs than"):
            train(resume=str(run), max_epoch=1)
    assert (run / "lock").read_text() == "diverged"
    train(resume=str(run), max_epoch=2)
    assert (run / "lock").read_text() == "finished"


def test_the_advice_is_only_what_can_help(train, tmp_path, monkeypatch):
    """No weights of an epoch whose loss is nan, though it is the best one, and no precision that the run has."""
    measure = BasicModule.objective

    def spoilt(model, *batch):
        score, losses = measure(model, *batch)
        return score, losses if model.training else {name: value * math.nan for name, value in losses.items()}

    monkeypatch.setattr(BasicModule, "objective", spoilt)
    for precision, end in {"fp32": "--lr", "bf16": "--lr or --precision=fp32"}.items():
        with pytest.raises(UserError, match=f"; look at the data, or let a new run start with a lower {end}$"):
            train(bad=range(EPOCH, 100), max_bad_steps=3, precision=precision, work_dir=precision)
        assert len([*tmp_path.glob(f"{precision}/*/best.pth")]) == 1


@pytest.mark.parametrize("first", [EPOCH + 2, EPOCH + 3])
def test_too_many_in_a_row_roll_back_to_what_was_saved_before_them_at_half_the_rate(train, capsys, first):
    run = train(bad=range(first, first + 4), max_bad_steps=4, on_bad="rollback", max_epoch=3)
    model, found = Falls.last, EPOCH + 7  # the summary after as many steps finds it, maybe a good one too late
    assert same(model.kept[found], model.kept[EPOCH])
    assert not same(model.kept[found - 1], model.kept[EPOCH]) and not same(model.kept[found + 1], model.kept[found])
    assert model.rates == [0.1] * found + [0.05] * (3 * EPOCH - found)  # no step less than there should be
    (line,) = warnings(capsys, "back to")
    assert line.startswith(f"warning: step {first + 4} is skipped like the 3 before it, ")
    assert line.endswith(f"back to the weights after {EPOCH} steps, with half the learning rate")
    assert read_checkpoint(run / "last.pth")["run"] == {
        "epoch": 3,
        "batch": 0,
        "step": 3 * EPOCH,
        "best": 100.0,
        "steered": [],
        "done": 2 / 3,
    }


def test_a_rollback_is_to_before_the_row_though_it_was_saved_since(train, capsys):
    train(bad=range(7, 14), max_bad_steps=4, on_bad="rollback", save_freq=5, print_freq=14, batch_size=2)
    # Saved after 5 and 10 steps; the summary after 14 finds the row, in which 10 is.
    (line,) = warnings(capsys, "back to")
    assert line.endswith("back to the weights after 5 steps, with half the learning rate")
    assert same(Falls.last.kept[14], Falls.last.kept[5])


@pytest.mark.parametrize(
    "bad, last, returns",
    [(range(100), 7, [2, 4, 6, 8]), ([step for step in range(18) if step % 3 < 2], 10, [2, 6, 8, 12])],
)
def test_after_three_rollbacks_without_a_good_stretch_it_stops(train, capsys, bad, last, returns):
    with pytest.raises(UserError, match=f"^step {last + 1} is skipped like the 1 before it"):
        train(bad=bad, max_bad_steps=2, on_bad="rollback")
    assert len(warnings(capsys, "back to the weights after 0 steps")) == 3
    halved = [sum(step >= made for made in returns) for step in range(returns[-1])]
    assert Falls.last.rates == [0.1 / 2**times for times in halved]


def test_a_good_stretch_in_between_gives_three_rollbacks_more(train, capsys):
    train(bad=[step for step in range(18) if step % 4 < 2], max_bad_steps=2, on_bad="rollback")
    assert len(warnings(capsys, "back to")) == 5


def test_what_is_counted_continues_after_a_resume(train, tmp_path):
    run = train(bad=range(6, EPOCH), max_bad_steps=5, max_epoch=1)
    assert read_checkpoint(run / "last.pth")["guard"]["row"] == 3
    with pytest.raises(UserError, match=f"^step {EPOCH + 3} is skipped like the 5 before it"):
        train(bad=range(9), max_bad_steps=5, resume=str(run), max_epoch=2)  # the model's step 0 is the run's 9 now
    assert read_checkpoint(run / "last.pth")["guard"]["row"] == 0  # the next try counts from 0 again


def test_a_run_that_diverges_rolls_back_and_is_finished(train, capsys):
    run = train(bad=range(12, 16), spoil="batch", max_epoch=3, print_freq=1, max_bad_steps=4, on_bad="rollback")
    (line,) = warnings(capsys, "back to")
    assert line.endswith(f"back to the weights after {EPOCH} steps, with half the learning rate")
    for name in ("last.pth", "best.pth"):
        assert all(value.isfinite().all() for value in read_checkpoint(run / name)["weights"].values())
