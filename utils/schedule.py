"""Learning rates: a factor on each parameter group's own rate, set anew before every step.

The optimizer is the source of truth. A rate that somebody changed in it (at the debugger's prompt, say) is kept: the
schedule goes on from there.

A shape is a pure function of the position in the run. All of it arrives as keyword arguments, a shape takes what it
needs and passes over the rest (**_): `epoch` (epochs since the start, with a fraction), `progress` (0 where the warm-up
is over, 1 at the end of the run), `lr` (the group's rate at factor 1) and the options of its own.
"""

import math
from types import SimpleNamespace

LOWEST = 1e-6  # the rate at which linear_cosine ends
STEPS = 100  # of a drawn epoch


def constant(**_):
    """The same all along."""
    return 1.0


def decay(**_):
    """The same, but times lr_decay after every epoch whose mean training loss rose."""
    return 1.0  # the rest is Schedule.epoch_end


def multistep(epoch, milestones, lr_gamma, **_):
    """Times lr_gamma at each milestone (He et al. 2015, arXiv:1512.03385)."""
    return lr_gamma ** sum(epoch >= milestone for milestone in milestones)


def step(epoch, step_size, lr_gamma, **_):
    """Times lr_gamma every step_size epochs."""
    return lr_gamma ** (epoch // step_size)


def cosine(progress, cycles, cycle_decay, **_):
    """A cosine down to 0, cycles times: each peak is cycle_decay of the one before."""
    # Warm restarts (Loshchilov & Hutter 2016, arXiv:1608.03983) jump up; here the way up is a cosine, too. Its k-th
    # peak is at a progress of 2 k / (2 cycles - 1), where the second factor is cycle_decay**k.
    return half_cosine(progress * (2 * cycles - 1)) * cycle_decay ** (progress * (cycles - 0.5))


def linear_cosine(progress, lr, **_):
    """Half a cosine from whatever rate down to 1e-6; the line is the warm-up."""
    least = LOWEST / lr if lr > LOWEST else 1.0
    return least + (1 - least) * half_cosine(progress)


def exponential(progress, **_):
    """Times 0.95 with each fiftieth of the run: 0.077 is left at the end."""
    return 0.95 ** (50 * progress)


def one_cycle(progress, lr_final, **_):
    """Half a cosine down to lr_final, a share of the rate (YOLOv5's)."""
    return 1 + (lr_final - 1) * (1 - half_cosine(progress))


def linear(progress, lr_final, **_):
    """A straight line down to lr_final, a share of the rate."""
    return lr_final + (1 - lr_final) * (1 - progress)


def half_cosine(x):
    """From 1 at x = 0 to 0 at x = 1, and up again to 1 at x = 2."""
    return 0.5 * (1 + math.cos(math.pi * x))


class Schedule:
    """The rates of an optimizer over a run.

    Args:
        optim: torch.optim.Optimizer, or whatever has param_groups; each group's `lr` is its rate at factor 1.
        steps_per_epoch: how many steps an epoch has.
        scheduler: name of a shape above.
        max_epoch: epochs in the run.
        warmup_epochs: for so long (it may be a fraction) the rate also climbs linearly, step by step, from 1 / (its
            steps). The shapes that depend on the progress run over the rest; milestones and steps stay where they are.
        lr_decay: with `decay`, the factor on the rate after an epoch whose mean loss rose.
        milestones, step_size, lr_gamma, cycles, cycle_decay, lr_final: of the shapes.
    """

    def __init__(
        self,
        optim,
        steps_per_epoch,
        scheduler,
        max_epoch,
        warmup_epochs,
        lr_decay,
        milestones,
        step_size,
        lr_gamma,
        cycles,
        cycle_decay,
        lr_final,
    ):
        self.optimizer, self.shape = optim, globals()[scheduler]
        self.steps_per_epoch, self.max_epoch, self.warmup_epochs = steps_per_epoch, max_epoch, warmup_epochs
        self.options = {"milestones": milestones, "step_size": step_size, "lr_gamma": lr_gamma}
        self.options |= {"cycles": cycles, "cycle_decay": cycle_decay, "lr_final": lr_final}
        self.lr_decay = lr_decay if scheduler == "decay" else 1.0
        self.previous_loss = math.inf
        for group in optim.param_groups:
            group.update(initial_lr=group["lr"], scheduled_lr=group["lr"])

    @property
    def lr(self):
        """The rate of the first parameter group, now."""
        return self.optimizer.param_groups[0]["lr"]

    def step(self, step):
        """Set the rates for the step with the number `step`, counted from 0 over the whole run."""
        epoch, warmup_steps = step / self.steps_per_epoch, self.warmup_epochs * self.steps_per_epoch
        warmup = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
        progress = max(0.0, epoch - self.warmup_epochs) / (self.max_epoch - self.warmup_epochs)
        for group in self.optimizer.param_groups:
            lr = initial_lr(group)
            factor = warmup * self.shape(epoch=epoch, progress=progress, lr=lr, **self.options)
            group.update(initial_lr=lr, lr=lr * factor, scheduled_lr=lr * factor)

    def epoch_end(self, loss):
        """The book's rule: when the epoch's mean loss is higher than the last one's, the rate is lowered in place."""
        factor = self.lr_decay if loss > self.previous_loss else 1.0
        self.previous_loss = loss
        for group in self.optimizer.param_groups:
            lr = group["lr"] * factor
            group.update(initial_lr=initial_lr(group) * factor, lr=lr, scheduled_lr=lr)

    def state_dict(self):
        """What load_state_dict needs; the rates themselves are in the optimizer's state."""
        return {"previous_loss": self.previous_loss}

    def load_state_dict(self, state):
        """Go on from a state_dict()."""
        self.previous_loss = state["previous_loss"]


def initial_lr(group):
    """A parameter group's rate at factor 1. Where its `lr` is not what the schedule set, it was changed by hand: then
    everything to come changes in the same proportion."""
    initial, scheduled = group["initial_lr"], group["scheduled_lr"]
    if group["lr"] == scheduled:
        return initial
    # Between two cycles the schedule is at 0 or next to it, and in no proportion to what was typed.
    return initial * group["lr"] / scheduled if scheduled > 1e-6 * initial else group["lr"]


def draw(lr, max_epoch, rows=40, **options):
    """A schedule as text, 80 columns wide: the rate at the begin of each epoch, with a bar, and at the last step.

    lr: the rate at factor 1; options: those of Schedule. A long run is shown in `rows` lines, every k-th epoch.
    """
    schedule = Schedule(SimpleNamespace(param_groups=[{"lr": lr}]), STEPS, max_epoch=max_epoch, **options)
    every = math.ceil(max_epoch / rows)
    lines = [schedule.shape.__doc__, f"{'epoch':>6}  lr"]
    steps = {epoch: epoch * STEPS for epoch in range(0, max_epoch, every)} | {"end": max_epoch * STEPS - 1}
    for epoch, step in steps.items():
        schedule.step(step)
        lines.append(f"{epoch:>6}  {schedule.lr:<10.4g}  {'#' * round(60 * schedule.lr / lr)}".rstrip())
    return "\n".join(lines)
