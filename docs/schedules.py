"""Draws docs/schedules.png, the picture of all schedules: python -m docs.schedules"""

import random
from pathlib import Path
from types import SimpleNamespace

from matplotlib.figure import Figure

import config
from utils.metrics.plots import save
from utils.train.schedule import Schedule

STEPS, EPOCHS = 50, 30  # per epoch; in the run
OPTIONS = {
    "constant": {},
    "decay": {"lr_decay": 0.8},
    "multistep": {"milestones": [15, 24]},
    "step": {"step_size": 8, "lr_gamma": 0.5},
    "exponential": {},
    "linear": {},
    "one_cycle": {},
    "cosine": {"cycles": 3, "cycle_decay": 0.5},
    "linear_cosine": {},
}


def rates(**options):
    """The rate of every step. The losses that `decay` looks at are made up: they fall ever more slowly, with noise."""
    opt = config.load({"max_epoch": EPOCHS, "lr": 1.0, **options})
    schedule = Schedule(SimpleNamespace(param_groups=[{"lr": opt.lr}]), STEPS, **opt.kwargs_for(Schedule))
    noise, result = random.Random(1), []
    for step in range(EPOCHS * STEPS):
        schedule.step(*divmod(step, STEPS))
        result.append(schedule.lr)
        if (step + 1) % STEPS == 0:
            schedule.epoch_end(0.85 ** (step / STEPS) + noise.uniform(0, 0.1))
    return result


figure = Figure(figsize=(12, 9), layout="constrained")
epochs = [step / STEPS for step in range(EPOCHS * STEPS)]
for axes, (name, options) in zip(figure.subplots(3, 3, sharex=True, sharey=True).flat, OPTIONS.items(), strict=True):
    axes.plot(epochs, rates(scheduler=name, warmup_epochs=5, **options), label="--warmup-epochs=5", color="C1")
    axes.plot(epochs, rates(scheduler=name, **options), label="without", color="C0", linestyle="--")
    values = {option: str(value).strip("[]").replace(" ", "") for option, value in options.items()}
    given = " ".join(f"--{option.replace('_', '-')}={value}" for option, value in values.items())
    axes.set_title(f"{name}\n{given}".strip(), fontsize=11)
    axes.grid(alpha=0.3)
figure.axes[0].legend(loc="lower right")
figure.supxlabel("epoch")
figure.supylabel("share of --lr")
save(figure, Path(__file__).with_suffix(".png"))
