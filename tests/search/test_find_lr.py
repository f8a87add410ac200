"""The command find-lr: losses at rising learning rates, what they suggest, and that nothing else is changed."""

import itertools
import os
import re

import numpy as np
import pytest
import torch
from conftest import main
from torch import nn

import config
from models.basic_module import BasicModule
from utils import UserError
from utils.metrics import plots
from utils.search import find_lr
from utils.train.step import TrainStep

RATES = np.geomspace(find_lr.LOWEST, find_lr.HIGHEST, find_lr.STEPS)


class Bowl(BasicModule):
    """A loss of curvature / 2 * weight ** 2 + 1: plain gradient descent diverges above a rate of 2 / curvature."""

    def __init__(self, curvature):
        super().__init__()
        self.weight, self.curvature = nn.Parameter(torch.ones(1)), curvature

    def objective(self, input, target):
        return self.weight, {"loss": (self.curvature / 2 * self.weight**2 + 1).sum()}


def risen(model):
    step = TrainStep(model, torch.optim.SGD(model.parameters(), 1.0))
    batch = torch.zeros(2, 1), torch.zeros(2)
    losses = find_lr.rise(step, RATES, itertools.repeat(batch))
    return RATES[: len(losses)], losses, find_lr.smoothed(losses)


@pytest.mark.parametrize("curvature", [10.0, 1000.0])
def test_the_rate_rises_until_the_loss_explodes_and_a_tenth_of_the_best_is_suggested(curvature):
    rates, losses, smooth = risen(Bowl(curvature))
    assert losses[0] == pytest.approx(curvature / 2 + 1)
    assert 2 / curvature < rates[-1] < 20 / curvature
    assert 0.02 / curvature < find_lr.suggestion(rates, losses, smooth) < 0.3 / curvature


def test_a_loss_that_is_not_finite_ends_it():
    class Bad(Bowl):
        def objective(self, input, target):
            score, losses = super().objective(input, target)
            return score, {"loss": losses["loss"] + (torch.nan if self.weight < 0.9 else 0)}

    rates, losses, smooth = risen(Bad(10.0))
    assert np.isnan(losses[-1]) and np.isfinite(losses[:-1]).all() and np.isfinite(smooth).all()
    assert 1e-3 < rates[-1] < 0.1
    with pytest.raises(UserError, match="^the loss of the first step is nan: `python main.py doctor` looks"):
        risen(Bowl(torch.nan))


def test_parameters_with_a_rate_of_their_own_keep_their_share_of_it():
    model = Bowl(1.0)
    model.other = nn.Parameter(torch.zeros(1))
    groups = [{"params": [model.weight]}, {"params": [model.other], "lr": 0.1}]
    step = TrainStep(model, torch.optim.SGD(groups, 1.0))
    find_lr.rise(step, RATES[:2], itertools.repeat((torch.zeros(2, 1), torch.zeros(2))))
    assert [group["lr"] for group in groups] == pytest.approx([RATES[1], 0.1 * RATES[1]])


def test_where_no_rate_is_clearly_better_none_is_suggested():
    losses = np.random.default_rng(0).normal(0.7, 0.05, len(RATES))
    assert find_lr.suggestion(RATES, losses, find_lr.smoothed(losses)) is None
    assert find_lr.rising(RATES, losses, find_lr.smoothed(losses)) is None
    losses[70:] += np.linspace(0, 3, 30)
    assert RATES[60] <= find_lr.rising(RATES, losses, find_lr.smoothed(losses)) <= RATES[74]


def test_what_explodes_at_the_end_does_not_move_the_lowest_place():
    losses = np.r_[np.full(60, 1.0), np.linspace(1, 0.2, 20), np.linspace(0.2, 1, 8), 1e30, np.inf]
    smooth = find_lr.smoothed(losses)
    assert abs(int(smooth.argmin()) - 79) <= 3 and smooth.max() <= find_lr.EXPLODED


def test_the_picture_has_losses_and_the_suggestion_on_a_logarithmic_axis(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, path: figures.append(figure))
    rates, losses, smooth = risen(Bowl(30.0))
    plots.rates(rates, losses, smooth, 0.003, "Bowl with SGD", tmp_path / "x.png")
    (axes,) = figures[0].axes
    assert axes.get_xscale() == "log" and axes.get_title(loc="left") == "Bowl with SGD"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["of a step", "smoothed", "suggestion, 0.003"]
    low, high = axes.get_ylim()
    assert low < smooth.min() < losses[0] < high < 2 * losses[0], "what explodes is not seen whole"


def test_the_command_prints_a_suggestion_and_its_cost_and_writes_a_picture_and_no_run(tmp_path):
    done = main("find-lr", "--config=Heart", "--max-epoch=1", cwd=tmp_path, check=0, drawn=True)
    *_, cost, found, drawn = done.stdout.splitlines()
    assert re.fullmatch(r"\d+ steps of 100 samples in [\d.]+ s: the rate rose from 1e-07 to .*", cost)
    varied = r"\(of the first steps [\d.]+, give or take [\d.]+\)"
    lowest = rf"a tenth of where the loss is lowest, .* {varied}; now it is 0.1"
    rate = re.fullmatch(rf"suggestion: --lr=([\d.e-]+), {lowest}", found)
    assert 0.01 < float(rate[1]) <= 1
    assert drawn == "drawn in checkpoints/find_lr.png" and os.listdir(tmp_path / "checkpoints") == ["find_lr.png"]
    assert (tmp_path / "checkpoints" / "find_lr.png").stat().st_size > 10_000


def test_it_takes_a_trainings_options_and_refuses_what_it_does_not_read(tmp_path):
    assert config.load({"lr": 1, "criterion": "focal", "ema": 0.9, "max_epoch": 3}, command="find-lr").lr == 1
    for name in ("resume", "run", "output"):
        with pytest.raises(UserError, match=f"^find-lr does not read --{name}, which is for "):
            config.load({name: "x"}, command="find-lr")
    (tmp_path / "file").write_text("")
    done = main("find-lr", "--report-dir=file/x", cwd=tmp_path, check=2)
    assert done.stderr == "main.py: file/x cannot be written (Not a directory): name another --report-dir\n"
