"""Learning rates: a factor on each parameter group's own rate, set before every step.

The optimizer is the source of truth. A rate that somebody changed in it (at the debugger's prompt, say) is kept: the
schedule continues from there.

A shape is a pure function of the position in the run; a new one is a function here and its name in SCHEDULERS in
config.py. All of it arrives as keyword arguments, a shape takes what it needs and ignores the rest (**_): `epoch`
(epochs since the start, with a fraction), `progress` (0 at the end of the warm-up, 1 at the end of the run), `lr` (the
group's rate at factor 1) and the options of its own.
"""

import math
from types import SimpleNamespace
from typing import Any

from utils import UserError
from utils.options import own

LOWEST = 1e-6  # the rate at which linear_cosine ends
STEPS = 100  # of a drawn epoch


def constant(**_: Any) -> float:
    """Constant."""
    return 1.0


def decay(**_: Any) -> float:
    """Constant, but times lr_decay after every epoch whose mean training loss rose."""
    return 1.0  # Schedule.epoch_end does the rest


def plateau(**_: Any) -> float:
    """Times lr_gamma after `patience` epochs without a lower validation loss."""
    return 1.0  # Schedule.epoch_end does the rest


def multistep(epoch: float, milestones: list[int], lr_gamma: float, **_: Any) -> float:
    """Times lr_gamma at each milestone (He et al. 2015, arXiv:1512.03385)."""
    return lr_gamma ** sum(epoch >= milestone for milestone in milestones)


def step(epoch: float, step_size: int, lr_gamma: float, **_: Any) -> float:
    """Times lr_gamma every step_size epochs."""
    return lr_gamma ** (epoch // step_size)


def cosine(progress: float, cycles: int, cycle_decay: float, **_: Any) -> float:
    """A cosine down to 0, cycles times: each peak is cycle_decay of the one before."""
    # Warm restarts (Loshchilov & Hutter 2016, arXiv:1608.03983) jump up; here the way up is a cosine, too. Its k-th
    # peak is at a progress of 2 k / (2 cycles - 1), where the second factor is cycle_decay**k.
    return half_cosine(progress * (2 * cycles - 1)) * cycle_decay ** (progress * (cycles - 0.5))


def linear_cosine(progress: float, lr: float, **_: Any) -> float:
    """Half a cosine from any rate down to 1e-6; the line is the warm-up."""
    least = LOWEST / lr if lr > LOWEST else 1.0
    return least + (1 - least) * half_cosine(progress)


def exponential(progress: float, **_: Any) -> float:
    """Times 0.95 with each fiftieth of the run: 0.077 is left at the end."""
    return 0.95 ** (50 * progress)


def one_cycle(progress: float, lr_final: float, **_: Any) -> float:
    """Half a cosine down to lr_final, a share of the rate (YOLOv5's)."""
    return 1 + (lr_final - 1) * (1 - half_cosine(progress))


def linear(progress: float, lr_final: float, **_: Any) -> float:
    """A straight line down to lr_final, a share of the rate."""
    return lr_final + (1 - lr_final) * (1 - progress)


def half_cosine(x: float) -> float:
    """From 1 at x = 0 to 0 at x = 1, and up again to 1 at x = 2."""
    return 0.5 * (1 + math.cos(math.pi * x))


class Schedule:
    """The learning rates of an optimizer over a run.

    Args:
        optim: torch.optim.Optimizer, or anything with param_groups; each group's `lr` is its rate at factor 1.
        steps_per_epoch: steps of an epoch.
        scheduler: name of a shape above.
        max_epoch: epochs of the run.
        warmup_epochs: for this long (it may be a fraction) the rate also climbs linearly, step by step, from 1 / (its
            steps). Shapes that depend on the progress run over the rest; milestones and steps stay where they are.
        lr_decay: with `decay`, the factor on the rate after an epoch whose mean loss rose.
        patience: with `plateau`, epochs without a lower loss before lr_gamma applies.
        milestones, step_size, lr_gamma, cycles, cycle_decay, lr_final: options of the shapes.
    """

    def __init__(
        self,
        optim: Any,
        steps_per_epoch: int,
        scheduler: str,
        max_epoch: int,
        warmup_epochs: float,
        lr_decay: float,
        patience: int,
        milestones: list[int],
        step_size: int,
        lr_gamma: float,
        cycles: int,
        cycle_decay: float,
        lr_final: float,
    ):
        self.optimizer, self.name = optim, scheduler
        self.shape = globals().get(scheduler) or own.find("scheduler", scheduler, "")
        self.steps_per_epoch, self.max_epoch, self.warmup_epochs = steps_per_epoch, max_epoch, warmup_epochs
        self.options: dict[str, Any] = {"milestones": milestones, "step_size": step_size, "lr_gamma": lr_gamma}
        self.options |= {"cycles": cycles, "cycle_decay": cycle_decay, "lr_final": lr_final}
        self.lr_decay = lr_decay if scheduler == "decay" else 1.0
        self.patience = patience if scheduler == "plateau" else math.inf
        self.previous_loss = self.lowest = math.inf
        self.waited = 0  # epochs since the lowest loss, or since the rate was lowered
        for group in optim.param_groups:
            group.update(initial_lr=group["lr"], scheduled_lr=group["lr"])

    @property
    def lr(self) -> float:
        """The current rate of the first parameter group."""
        return self.optimizer.param_groups[0]["lr"]

    def step(self, epoch: int, batch: int) -> None:
        """Set the rates for a batch of an epoch, both counted from 0."""
        step, warmup_steps = epoch * self.steps_per_epoch + batch, self.warmup_epochs * self.steps_per_epoch
        position = step / self.steps_per_epoch
        warmup = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
        progress = max(0.0, position - self.warmup_epochs) / (self.max_epoch - self.warmup_epochs)
        for group in self.optimizer.param_groups:
            lr = initial_lr(group)
            share = self.shape(epoch=position, progress=progress, lr=lr, **self.options)
            if not is_finite(share):
                where = f"epoch={position:g}, progress={progress:g}, lr={lr:g}"
                raise UserError(f"--scheduler={self.name} gives {share!r} for {where}: it has to be a finite number")
            factor = warmup * share
            group.update(initial_lr=lr, lr=lr * factor, scheduled_lr=lr * factor)

    def epoch_end(self, loss: float, val_loss: float | None = None) -> None:
        """The book's rule: when the epoch's mean loss is higher than the last one's, lower the rate in place; and
        plateau's, by the validation's loss, or for models that have none the training's."""
        factor = self.lr_decay if loss > self.previous_loss else 1.0
        watched = loss if val_loss is None else val_loss
        self.waited = 0 if watched < self.lowest else self.waited + 1
        if self.waited >= self.patience:
            factor, self.waited = self.options["lr_gamma"], 0
        self.previous_loss, self.lowest = loss, min(self.lowest, watched)
        for group in self.optimizer.param_groups:
            lr = group["lr"] * factor
            group.update(initial_lr=initial_lr(group) * factor, lr=lr, scheduled_lr=lr)

    def state_dict(self) -> dict[str, float]:
        """What load_state_dict needs; the rates themselves are in the optimizer's state."""
        return {"previous_loss": self.previous_loss, "lowest": self.lowest, "waited": self.waited}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue from a state_dict()."""
        vars(self).update(state)


def is_finite(value: Any) -> bool:
    """Whether it is one finite number, of whatever type."""
    try:
        return math.isfinite(value)
    except (TypeError, ValueError, RuntimeError):  # none, several, text
        return False


def initial_lr(group: dict[str, Any]) -> float:
    """A parameter group's rate at factor 1. Where its `lr` is not what the schedule set, it was changed by hand: then
    all later rates change in the same proportion."""
    initial, scheduled = group["initial_lr"], group["scheduled_lr"]
    if group["lr"] == scheduled:
        return initial
    # Between two cycles the schedule is at 0 or next to it, and in no proportion to what was typed.
    return initial * group["lr"] / scheduled if scheduled > 1e-6 * initial else group["lr"]


def draw(lr: float, max_epoch: int, rows: int = 40, **options: Any) -> str:
    """A schedule as text, 80 columns wide: the rate at the beginning of each epoch, with a bar, and at the last step.

    Args:
        lr: the rate at factor 1.
        max_epoch: epochs of the run.
        rows: most lines; of a long run every k-th epoch is shown.
        options: the other arguments of Schedule.
    """
    schedule = Schedule(SimpleNamespace(param_groups=[{"lr": lr}]), STEPS, max_epoch=max_epoch, **options)
    every = math.ceil(max_epoch / rows)
    lines = [schedule.shape.__doc__ or schedule.shape.__name__, f"{'epoch':>6}  lr"]
    positions = {str(epoch): (epoch, 0) for epoch in range(0, max_epoch, every)}
    for name, position in {**positions, "end": (max_epoch - 1, STEPS - 1)}.items():
        schedule.step(*position)
        lines.append(f"{name:>6}  {schedule.lr:<10.4g}  {'#' * round(60 * schedule.lr / lr)}".rstrip())
    if schedule.lr_decay < 1 or schedule.patience < math.inf:
        lines.append("It depends on the losses, too, which only a run knows: drawn is the rate while they fall.")
    return "\n".join(lines)
