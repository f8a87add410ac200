"""What happens where losses or gradients are not finite: a warning, after too many in a row the end, or a way back."""

import math
import sys

from tqdm import tqdm

from . import UserError
from .events import Callback
from .schedule import initial_lr

RETURNS = 3  # so often a run goes back without `bad_steps` steps in between; once more would be no better


class Divergence(Callback):
    """Tells of the steps that were skipped, and ends the run or takes it back where there are too many in a row.

    Args:
        run: the Run; its position stays when the weights go back.
        update: the Update, which skips steps.
        optim: the optimizer, whose rates are halved with each way back.
        restore: loads model, optimizer, update and average, and nothing else, from the newest checkpoint of the run
            that had made no more steps than it is given, and returns how many it had made.
        world: the World, all of whose processes do the same; the first one tells.
        bad_steps: so many skipped steps in a row are too many.
        bad_action: "stop" or "back".
    """

    def __init__(self, run, update, optim, restore, world, bad_steps, bad_action):
        self.run, self.update, self.optimizer, self.restore, self.world = run, update, optim, restore, world
        self.bad_steps, self.bad_action = bad_steps, bad_action
        self.row, self.last, self.losses = 0, -2, {}  # of skipped steps: how many in a row, the last one and its losses
        self.returns, self.returned = 0, 0  # ways back, and the step of the last one

    def on_epoch_begin(self):
        self.began = self.run.step

    def on_train_summary(self, **_):
        self._warn()
        if self.row >= self.bad_steps:
            self._act()

    def on_epoch_end(self, **_):
        self._warn()  # no way back: Checkpoint is about to save the weights that were measured
        if self.bad_action == "stop" and self.row >= max(1, self.run.step - self.began):  # the epoch is a short one
            self._act()

    def on_train_end(self, **_):
        self._warn()

    def state_dict(self):
        """What is counted, plain values."""
        self._warn()
        return {name: getattr(self, name) for name in ("row", "last", "losses", "returns", "returned")}

    def load_state_dict(self, state):
        """Go on from a state_dict()."""
        vars(self).update(state)

    def _warn(self):
        """Tell of what was skipped since the last time."""
        for step, losses in self.update.skipped():
            self.row = self.row + 1 if step == self.last + 1 else 1
            self.last, self.losses = step, losses
            if self.row & (self.row - 1) == 0:  # 1, 2, 4, 8, ... in a row
                row = f" ({self.row} in a row)" if self.row > 1 else ""
                self._say(f"warning: step {step + 1} is skipped, {self._told()}{row}")

    def _act(self):
        """End the run, or go back to before the row of skipped steps, at half the rates."""
        first, row, self.row = self.last - self.row + 1, self.row, 0  # whoever goes on begins to count anew
        what = f"step {self.last + 1} is skipped like the {row - 1} before it, {self._told()}"
        self.returns = self.returns + 1 if first < self.returned + self.bad_steps else 1
        if self.bad_action == "stop" or self.returns > RETURNS:
            best = self.run.folder / "best.pth"  # the newest weights may be what is wrong
            start = f", from the weights of its best epoch (--load-model-path={best})" if best.exists() else ""
            raise UserError(
                f"{what}; look at the data, or let a new run start{start} with a lower --lr or --precision=fp32"
            )
        rates = [(initial_lr(group), group["lr"]) for group in self.optimizer.param_groups]
        made, self.returned = self.restore(first), self.run.step
        # Not the checkpoint's rates: it may be the same one as the last time, and a lower rate is the point.
        for group, (initial, lr) in zip(self.optimizer.param_groups, rates, strict=True):
            group.update(initial_lr=initial / 2, lr=lr / 2, scheduled_lr=lr / 2)
        self._say(f"warning: {what}; back to the weights after {made} steps, at half the rate")

    def _say(self, line):
        if self.world.main:
            tqdm.write(line, file=sys.stderr)

    def _told(self):
        parts = ", ".join(f"{name} {value:.4g}" for name, value in self.losses.items())
        what = "a gradient" if math.isfinite(sum(self.losses.values())) else "its loss"
        return f"{what} is not finite: {parts}"
