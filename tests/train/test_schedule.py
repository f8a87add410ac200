"""Every schedule, step by step, against its formula and torch's own schedulers."""

import inspect
import math
import subprocess
import sys
from math import cos, pi
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from torch.optim import lr_scheduler

import config
from utils import UserError
from utils.train.schedule import Schedule, draw

E = 12  # epochs
BASES = 0.1, 0.003, 2e-5  # rates of three parameter groups

# (options, the factor written out: p is the progress after the warm-up, e the epochs so far, base the group's rate)
FORMULAS = {
    "decay": ({}, lambda p, e, base: 1),
    "plateau": ({}, lambda p, e, base: 1),
    "constant": ({}, lambda p, e, base: 1),
    "multistep": ({"milestones": [3, 9]}, lambda p, e, base: 1 if e < 3 else 0.1 if e < 9 else 0.01),
    "multistep gentle": (
        {"milestones": [1, 3, 9], "lr_gamma": 0.5},
        lambda p, e, base: 0.5 ** ((e >= 1) + (e >= 3) + (e >= 9)),
    ),
    "step": ({}, lambda p, e, base: [1, 0.1, 0.01, 0.001][int(e / 3)]),
    "step gentle": ({"step_size": 5, "lr_gamma": 0.7}, lambda p, e, base: [1, 0.7, 0.49][int(e / 5)]),
    "cosine": ({}, lambda p, e, base: (1 + cos(pi * p)) / 2),
    "cosine again": (
        {"cycles": 3, "cycle_decay": 0.4},
        lambda p, e, base: 0.5 * (1 + cos(pi * p * 5)) * 0.4 ** (p * 2.5),
    ),
    "linear_cosine": ({}, lambda p, e, base: (1e-6 + (base - 1e-6) * (1 + cos(pi * p)) / 2) / base),
    "exponential": ({}, lambda p, e, base: 0.95 ** (50 * p)),
    "one_cycle": ({}, lambda p, e, base: ((1 - cos(pi * p)) / 2) * (0.2 - 1) + 1),
    "one_cycle far": ({"lr_final": 0.01}, lambda p, e, base: ((1 - cos(pi * p)) / 2) * (0.01 - 1) + 1),
    "linear": ({}, lambda p, e, base: (1 - p) * (1 - 0.2) + 0.2),
    "linear far": ({"lr_final": 0}, lambda p, e, base: 1 - p),
}


def make(name, n, bases=BASES, **options):
    """(optimizer, schedule) as main.py makes them, with n steps per epoch and a parameter group for each rate."""
    opt = config.load({"scheduler": name.split()[0], "max_epoch": E, **FORMULAS[name][0], **options})
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": lr} for lr in bases]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    return optimizer, Schedule(optimizer, n, **opt.kwargs_for(Schedule))


def now(optimizer):
    return [group["lr"] for group in optimizer.param_groups]


def table(name, n, steps=None, **options):
    """Rates [steps, groups]."""
    optimizer, schedule = make(name, n, **options)
    rows = []
    for step in range(E * n if steps is None else steps):
        schedule.step(*divmod(step, n))
        rows.append(now(optimizer))
    return np.array(rows)


def test_there_is_a_formula_for_every_schedule():
    assert {name.split()[0] for name in FORMULAS} == set(config.SCHEDULERS)


@pytest.mark.parametrize("n", [1, 7, 50])
@pytest.mark.parametrize("warmup", [0, 0.3, 1, 2.5, 11])
@pytest.mark.parametrize("name", FORMULAS)
def test_every_rate_of_every_step_is_the_formulas(name, warmup, n):
    formula, expected = FORMULAS[name][1], []
    for t in range(E * n):
        e = t / n
        p = 0 if e < warmup else (e - warmup) / (E - warmup)
        climbed = 1 if t + 1 >= warmup * n else (t + 1) / (warmup * n)
        expected.append([base * climbed * formula(p, e, base) for base in BASES])
    np.testing.assert_allclose(table(name, n, warmup_epochs=warmup), expected, rtol=1e-12, atol=1e-18)


@pytest.mark.parametrize(
    ("name", "per_epoch", "reference"),
    [
        ("step", True, lambda optimizer, n: lr_scheduler.StepLR(optimizer, 3, 0.1)),
        ("step gentle", True, lambda optimizer, n: lr_scheduler.StepLR(optimizer, 5, 0.7)),
        ("multistep", True, lambda optimizer, n: lr_scheduler.MultiStepLR(optimizer, [3, 9])),
        ("cosine", False, lambda optimizer, n: lr_scheduler.CosineAnnealingLR(optimizer, E * n)),
        ("exponential", False, lambda optimizer, n: lr_scheduler.ExponentialLR(optimizer, 0.95 ** (50 / (E * n)))),
        ("linear", False, lambda optimizer, n: lr_scheduler.LinearLR(optimizer, 1, 0.2, E * n)),
    ],
)
def test_torchs_own_schedulers_agree(name, per_epoch, reference):
    n, expected = 5, []
    optimizer, _ = make(name, n)
    scheduler = reference(optimizer, n)
    for step in range(E * n):
        expected.append(now(optimizer))
        optimizer.step()
        if not per_epoch or (step + 1) % n == 0:
            scheduler.step()
    np.testing.assert_allclose(table(name, n), expected, rtol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 30])
@pytest.mark.parametrize("warmup", [0.01, 0.5, 1, 3, 3.7])
@pytest.mark.parametrize("name", [name for name in FORMULAS if "step" not in name])
def test_the_warm_up_climbs_and_joins_without_a_jump(name, warmup, n):
    rates = table(name, n, warmup_epochs=warmup)[:, 0]
    length = warmup * n
    climb, rest = rates[: int(np.ceil(length))], rates[int(np.ceil(length)) :]
    assert rates[0] == pytest.approx(BASES[0] * min(1, 1 / length)) and all(np.diff(climb) > 0)
    assert all(np.diff(rest) <= 1e-18) or "cycles" in FORMULAS[name][0]
    assert abs(climb[-1] - rest[0]) <= BASES[0] / max(1, length) + abs(np.diff(rest)).max()


def test_the_peaks_of_a_cosine_with_cycles_are_its_decays_powers():
    rates = table("cosine", 70, bases=[1.0], cycles=4, cycle_decay=0.5)[:, 0]
    np.testing.assert_allclose(rates[[0, 240, 480, 720]], [1, 0.5, 0.25, 0.125])  # at 0, 2, 4 and 6 sevenths
    peaks = [rate for a, rate, b in zip(rates, rates[1:], rates[2:], strict=False) if a < rate > b]
    np.testing.assert_allclose(peaks, [0.5, 0.25, 0.125], rtol=0.015)  # the decay moves them a little to the left
    assert rates[-1] < 2e-5


def test_linear_cosine_ends_at_a_millionth_whatever_the_groups_rate():
    ends = table("linear_cosine", 1000, bases=[10.0, 0.1, 3e-6, 1e-6, 2e-7])[-1]
    np.testing.assert_allclose(ends, [1e-6, 1e-6, 1e-6, 1e-6, 2e-7], rtol=0.3)


@pytest.mark.parametrize("warmup", [E, E + 1])
def test_a_warm_up_as_long_as_the_run_is_an_error(warmup):
    with pytest.raises(UserError, match=f"--warmup-epochs={warmup} .*--max-epoch={E}"):
        config.load({"scheduler": "cosine", "max_epoch": E, "warmup_epochs": warmup})


def test_a_plateau_lowers_the_rate_after_patience_epochs_without_a_lower_validation_loss():
    losses = [1.0, 0.8, 0.9, 0.8, 0.85, 0.7, 0.7, float("nan"), 0.9, 0.6]
    optimizer, schedule = make("plateau", 2, bases=[0.1], patience=2, lr_gamma=0.5)
    rates = []
    for epoch, loss in enumerate(losses):
        for batch in range(2):
            schedule.step(epoch, batch)
        rates.append(now(optimizer)[0])
        schedule.epoch_end(loss=5.0 - epoch, val_loss=loss)  # the training's falls all the time
        if epoch == 6:  # stopped and resumed
            state = schedule.state_dict(), optimizer.state_dict()
            optimizer, schedule = make("plateau", 2, bases=[0.1], patience=2, lr_gamma=0.5)
            schedule.load_state_dict(state[0])
            optimizer.load_state_dict(state[1])
    np.testing.assert_allclose(rates, [0.1] * 4 + [0.05] * 4 + [0.025] * 2)
    _, alone = make("plateau", 2, bases=[0.1], patience=1)
    alone.epoch_end(1.0)
    alone.epoch_end(1.0)  # a model without a loss in validation: the training's counts
    assert alone.lr == pytest.approx(0.01)


def test_a_presets_warm_up_keeps_its_share_of_a_short_run(capsys):
    opt = config.load({"config": "Demo", "max_epoch": 1})
    assert opt.warmup_epochs == pytest.approx(config.Demo.warmup_epochs / config.Demo.max_epoch)
    assert "note: the warm-up is shortened to 0.17 epochs, for --max-epoch=1" in capsys.readouterr().out
    with pytest.raises(UserError, match="--warmup-epochs=1 has to be less than --max-epoch=1"):
        config.load({"config": "Demo", "max_epoch": 1, "warmup_epochs": 1})


@pytest.mark.parametrize("stop", [3, 10, 37])
@pytest.mark.parametrize("name", FORMULAS)
def test_a_run_stopped_anywhere_resumes_with_the_same_rates(name, stop, tmp_path):
    n, losses = 5, [1, 0.9, 0.95, 0.95, 0.99, 0.8, 0.7, 0.9, 1, 1.1, 0.1, 0.2]

    def go(optimizer, schedule, steps):
        rates = []
        for step in steps:
            schedule.step(*divmod(step, n))
            if step == 2:
                optimizer.param_groups[1]["lr"] *= 0.3
            rates.append(now(optimizer))
            if (step + 1) % n == 0:
                schedule.epoch_end(losses[step // n])
        return rates

    whole = go(*make(name, n, warmup_epochs=1.5), range(E * n))
    optimizer, schedule = make(name, n, warmup_epochs=1.5)
    first = go(optimizer, schedule, range(stop))
    torch.save({"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}, tmp_path / "last.pth")
    optimizer, schedule = make(name, n, warmup_epochs=1.5)
    state = torch.load(tmp_path / "last.pth", weights_only=True)
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    assert first + go(optimizer, schedule, range(stop, E * n)) == whole


def test_the_books_rule_lowers_the_rate_in_place_when_the_mean_loss_rises():
    optimizer, schedule = make("decay", 10, lr_decay=0.5)
    seen = []
    for epoch, loss in enumerate([1.0, 0.8, 0.9, 0.9, 0.95]):
        schedule.step(epoch, 0)
        schedule.epoch_end(loss)
        seen.append(schedule.lr)
    assert seen == [0.1, 0.1, 0.05, 0.05, 0.025]
    assert optimizer.param_groups[0]["momentum"] == 0.9  # the same optimizer, its momentum kept


def test_the_books_rule_is_for_decay_alone_and_for_all_groups():
    for name in config.SCHEDULERS:
        options = {"milestones": [11]} if name == "multistep" else {}
        optimizer, schedule = make(name, 1, **options)
        before = table(name, 1, 2, **options)[1]
        schedule.step(0, 0)
        schedule.epoch_end(1.0)
        schedule.epoch_end(2.0)
        schedule.step(1, 0)
        np.testing.assert_allclose(now(optimizer), before * (0.95 if name == "decay" else 1))


@pytest.mark.parametrize("name", FORMULAS)
def test_a_rate_changed_by_hand_stays_in_proportion_and_others_are_untouched(name):
    n = 6
    untouched = table(name, n, warmup_epochs=1)
    optimizer, schedule = make(name, n, warmup_epochs=1)
    for step in range(E * n):
        schedule.step(*divmod(step, n))
        factor = [1, 1, 1] if step <= 3 else [1, 0.25, 1] if step <= 40 else [1, 0.25, 3]
        if name != "linear_cosine":  # which goes to the same 1e-6, from wherever
            np.testing.assert_allclose(now(optimizer), untouched[step] * factor, rtol=1e-9)
        if step == 3:
            optimizer.param_groups[1]["lr"] *= 0.25
        if step == 40:
            optimizer.param_groups[2]["lr"] *= 3


def test_a_rate_changed_before_the_first_step_counts():
    optimizer, schedule = make("exponential", 3)
    optimizer.param_groups[0]["lr"] = 0.5
    schedule.step(0, 0)
    assert schedule.lr == 0.5


@pytest.mark.parametrize("beside", [0, 1])
def test_a_rate_typed_where_the_schedule_is_at_zero_is_the_new_rate_at_factor_1(beside):
    optimizer, schedule = make("cosine", 5000, cycles=2)
    schedule.step(4, beside)  # a third of the run: the trough
    assert schedule.lr == pytest.approx(0, abs=1e-9)
    optimizer.param_groups[0]["lr"] = 0.02
    schedule.step(8, 0)  # two thirds: the second peak
    assert now(optimizer) == pytest.approx([0.02, *BASES[1:]])


def test_a_rate_can_be_switched_off_and_on_again():
    optimizer, schedule = make("constant", 5)
    schedule.step(0, 0)
    optimizer.param_groups[0]["lr"] = 0
    schedule.step(0, 1)
    assert schedule.lr == 0
    optimizer.param_groups[0]["lr"] = 0.01
    schedule.step(0, 2)
    assert now(optimizer) == [0.01, *BASES[1:]]


@pytest.mark.parametrize(("epochs", "rows"), [(1, 1), (12, 12), (40, 40), (41, 21), (1000, 40)])
def test_a_drawn_schedule_fits_the_screen_and_shows_the_trainings_rates(epochs, rows):
    opt = config.load({"scheduler": "linear", "max_epoch": epochs, "lr": 0.5, "lr_final": 0.5})
    lines = draw(opt.lr, **opt.kwargs_for(Schedule)).splitlines()[2:]
    assert len(lines) == rows + 1 and max(map(len, lines)) <= 80
    for line in lines[:-1]:
        epoch, rate, bar = line.split()
        expected = 0.5 - 0.25 * int(epoch) / epochs
        assert float(rate) == pytest.approx(expected, rel=1e-3) and len(bar) == pytest.approx(expected * 120, abs=1)
    assert lines[-1].split()[0] == "end" and float(lines[-1].split()[1]) == pytest.approx(0.25, abs=0.003)


@pytest.mark.parametrize("name", FORMULAS)
def test_every_schedule_can_be_drawn(name):
    opt = config.load({"scheduler": name.split()[0], "max_epoch": E, "warmup_epochs": 2, **FORMULAS[name][0]})
    title, _, first, *_ = draw(opt.lr, **opt.kwargs_for(Schedule)).splitlines()
    assert len(title) <= 80 and first.split() == ["0", "5e-06"]


def test_drawing_needs_no_torch():
    code = "import sys, utils.train.schedule; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_main_can_hand_over_every_option_of_a_schedule():
    """kwargs_for gives the options that the arguments name: all but these two, and none is taken for another one."""
    names = set(inspect.signature(Schedule).parameters)
    assert names - set(config.DefaultConfig.options()) == {"optim", "steps_per_epoch"}
    assert {name for name, kind in config.DefaultConfig.options().items() if "scheduler" in kind.only} <= names


@pytest.mark.parametrize("page", ["schedules.md", "schedules.zh.md"])
def test_the_page_shows_what_is_drawn(page):
    opt = config.load({"scheduler": "cosine", "max_epoch": E, "cycles": 2, "cycle_decay": 0.5, "warmup_epochs": 2})
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert draw(opt.lr, **opt.kwargs_for(Schedule)) in text
    assert all(f"`{name}`" in text for name in config.SCHEDULERS)


@pytest.mark.parametrize("scheduler, depends", [("plateau", True), ("decay", True), ("constant", False)])
def test_a_drawing_says_that_a_rate_depends_on_the_losses(scheduler, depends):
    opt = config.load({"scheduler": scheduler, "max_epoch": 3})
    assert ("It depends on the losses" in draw(opt.lr, **opt.kwargs_for(Schedule))) == depends


@pytest.mark.parametrize("value", [math.nan, math.inf, None, "0.1", torch.tensor([1.0, math.nan]), (1, 2)])
def test_a_schedule_of_ones_own_that_gives_no_finite_number_is_named(value):
    group = {"lr": 0.1, "initial_lr": 0.1, "scheduled_lr": 0.1}
    facts = {"optimizer": SimpleNamespace(param_groups=[group]), "name": "mine.shape", "shape": lambda **_: value}
    schedule = Schedule.__new__(Schedule)
    vars(schedule).update(facts, options={}, steps_per_epoch=4, warmup_epochs=0.0, max_epoch=2)
    with pytest.raises(UserError, match="--scheduler=mine.shape gives .* for epoch=0.5, progress=0.25, lr=0.1: it has"):
        schedule.step(0, 2)
    schedule.shape = lambda **_: torch.tensor(0.5)
    schedule.step(0, 2)
    assert schedule.lr == 0.05
