"""Losses or gradients that are not finite: a warning, and after too many in a row the end of the run, or a rollback."""

import contextlib
import math
from collections.abc import Callable
from typing import Any

from utils import UserError
from utils.events import Control
from utils.notices import counted, warn
from utils.train.processes import World
from utils.train.schedule import initial_lr

from .checkpoint_file import read_checkpoint

MAX_ROLLBACKS = 3  # without max_bad_steps steps between them; once more would be no better


class Diverged(UserError):
    """Too many steps in a row were skipped; `step` is the index of the last of them."""

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


class NonFiniteGuard(Control):
    """Reports skipped steps, and ends the run or takes it back when there are too many in a row.

    Args:
        position: the Run; where it stands does not change when the weights go back.
        train_step: the TrainStep, which skips steps.
        optim: the optimizer, whose rates are halved with each rollback.
        world: the World, all of whose processes do the same; the first one prints.
        max_bad_steps: this many skipped steps in a row are too many.
        on_bad: "stop" or "rollback".
        max_epoch, precision: of the run. A run that was ended and resumed with no step left is ended again.
    """

    def __init__(
        self,
        position: Any,
        train_step: Any,
        optim: Any,
        world: World,
        max_bad_steps: int,
        on_bad: str,
        max_epoch: int,
        precision: str,
    ):
        self.run, self.step, self.optimizer, self.world = position, train_step, optim, world
        self.max_bad_steps, self.on_bad, self.max_epoch, self.precision = max_bad_steps, on_bad, max_epoch, precision
        # of skipped steps: how many in a row, the last one and its losses
        self.row, self.last, self.losses = 0, -2, dict[str, float]()
        self.returns, self.returned = 0, 0  # rollbacks, and the step of the last one
        self.ended = -1  # the steps of the run when it was ended

    def on_train_begin(self, **_: Any) -> None:
        if self.run.epoch >= self.max_epoch:
            self._refuse_end()

    def on_epoch_begin(self, **_: Any) -> None:
        self.began = self.run.step

    def on_epoch_end(self, **_: Any) -> None:
        self._warn()  # no rollback: Checkpoint is about to save the weights that were measured
        self._refuse_end()
        if self.on_bad == "stop" and self.row >= max(1, self.run.step - self.began):  # an epoch of skipped steps alone
            self._act(None)

    def on_train_end(self, **_: Any) -> None:
        self._warn()

    def check(self, restore: Callable[[int], int]) -> None:
        """Report what was skipped, and act when it was too much.

        restore: loads model, optimizer, step and moving average, and nothing else, from the newest checkpoint of the
        run with no more steps than it is given, and returns how many that has.
        """
        self._warn()
        if self.row >= self.max_bad_steps:
            self._act(restore)

    def state_dict(self) -> dict[str, Any]:
        """What is counted, plain values."""
        self._warn()
        return {name: getattr(self, name) for name in ("row", "last", "losses", "returns", "returned", "ended")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state_dict()."""
        vars(self).update(state)

    def _warn(self) -> None:
        """Report what was skipped since the last time."""
        for step, losses in self.step.pop_skipped():
            self.row = self.row + 1 if step == self.last + 1 else 1
            self.last, self.losses = step, losses
            if self.row & (self.row - 1) == 0 and self.world.main:  # 1, 2, 4, 8, ... in a row
                row = f" ({self.row} in a row)" if self.row > 1 else ""
                warn(f"step {step + 1} is skipped, {self._reason()}{row}")

    def _act(self, restore: Callable[[int], int] | None) -> None:
        """End the run, or return to before the row of skipped steps, with half the rates."""
        first, row, self.row = self.last - self.row + 1, self.row, 0  # a resumed run counts from 0 again
        what = f"step {self.last + 1} is skipped like the {row - 1} before it, {self._reason()}"
        self.returns = self.returns + 1 if first < self.returned + self.max_bad_steps else 1
        if restore is None or self.on_bad == "stop" or self.returns > MAX_ROLLBACKS:
            self.ended = self.run.step
            raise Diverged(f"{what}; {self._advice()}", self.last)
        rates = [(initial_lr(group), group["lr"]) for group in self.optimizer.param_groups]
        made, self.returned = restore(first), self.run.step
        # Not the checkpoint's rates: it may be the same one as the last time, and a lower rate is the point.
        for group, (initial, lr) in zip(self.optimizer.param_groups, rates, strict=True):
            group.update(initial_lr=initial / 2, lr=lr / 2, scheduled_lr=lr / 2)
        if self.world.main:
            warn(f"{what}; back to the weights after {counted(made, 'step')}, with half the learning rate")

    def _refuse_end(self) -> None:
        """Raise Diverged where the run was ended, and no step followed: it has not come to a good end since."""
        if self.ended == self.run.step:
            raise Diverged(
                f"the run has ended with skipped steps, the last one is step {self.last + 1}, {self._reason()}; to "
                f"resume it, give it more epochs than --max-epoch={self.max_epoch}, or {self._advice()}",
                self.last,
            )

    def _advice(self) -> str:
        """What to do about a run that was ended. Its newest weights may be what is wrong, and those of its best epoch,
        too, where that one's losses are not finite."""
        best, start = self.run.folder / "best.pth", ""
        with contextlib.suppress(UserError):  # there is none, or it is damaged
            losses = [value for name, value in read_checkpoint(best).get("metrics", {}).items() if "loss" in name]
            if all(map(math.isfinite, losses)):
                start = f", from the weights of its best epoch (--load-model-path={best})"
        precision = "" if self.precision == "fp32" else " or --precision=fp32"
        return f"look at the data, or let a new run start{start} with a lower --lr{precision}"

    def _reason(self) -> str:
        parts = ", ".join(f"{name} {value:.4g}" for name, value in self.losses.items())
        what = "a gradient" if math.isfinite(sum(self.losses.values())) else "its loss"
        return f"{what} is not finite: {parts}"
