"""Learning rates: a factor on each parameter group's own rate, set anew before every step.

The optimizer is the source of truth. A rate that somebody changed in it (at the debugger's prompt, say) is kept: the
schedule goes on from there.
"""

import math


def constant(epoch, max_epoch, milestones):
    """Always 1."""
    return 1.0


def multistep(epoch, max_epoch, milestones):
    """Divided by 10 at each milestone (He et al. 2015)."""
    return 0.1 ** sum(epoch >= milestone for milestone in milestones)


def cosine(epoch, max_epoch, milestones):
    """Half a cosine from 1 down to 0 at the end of the run (Loshchilov & Hutter 2016, arXiv:1608.03983)."""
    return 0.5 * (1 + math.cos(math.pi * epoch / max_epoch))


decay = constant  # the book's rule acts at the end of an epoch, see Schedule.epoch_end


class Schedule:
    """The rate of `optimizer` over a run.

    Args:
        optimizer: torch.optim.Optimizer; each group's `lr` is its rate at factor 1.
        name: decay, constant, multistep or cosine.
        steps_per_epoch, max_epoch, milestones: lengths of an epoch (steps) and of the run, and where multistep steps.
        warmup_epochs: for so long the rate also climbs linearly from 0, step by step (it may be a fraction).
        lr_decay: with `decay`, the factor on the rate after an epoch whose mean loss rose.
    """

    def __init__(self, optimizer, name, steps_per_epoch, max_epoch, milestones, warmup_epochs, lr_decay):
        self.optimizer = optimizer
        self.shape = globals()[name]
        self.steps_per_epoch, self.max_epoch, self.milestones = steps_per_epoch, max_epoch, milestones
        self.warmup_steps = warmup_epochs * steps_per_epoch
        self.lr_decay = lr_decay if name == "decay" else 1.0
        self.factor, self.previous_loss = 1.0, math.inf
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]

    @property
    def lr(self):
        """The rate of the first parameter group, now."""
        return self.optimizer.param_groups[0]["lr"]

    def step(self, step):
        """Set the rates for the step with the number `step`, counted from 0 over the whole run."""
        warmup = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        self._set(warmup * self.shape(step / self.steps_per_epoch, self.max_epoch, self.milestones))

    def epoch_end(self, loss):
        """The book's rule: when the epoch's mean loss is higher than the last one's, the rate is lowered in place."""
        rose = loss > self.previous_loss
        self.previous_loss = loss
        self._set(self.factor, self.lr_decay if rose else 1.0)

    def _set(self, factor, decay=1.0):
        for group in self.optimizer.param_groups:
            if group["lr"] != group["initial_lr"] * self.factor:  # changed by hand
                group["initial_lr"] = group["lr"] / self.factor
            group["initial_lr"] *= decay
            group["lr"] = group["initial_lr"] * factor
        self.factor = factor

    def state_dict(self):
        """What load_state_dict needs; the rates themselves are in the optimizer's state."""
        return {"factor": self.factor, "previous_loss": self.previous_loss}

    def load_state_dict(self, state):
        """Go on from a state_dict()."""
        vars(self).update(state)
