"""Rules about several options at once."""

from typing import Any

from .. import UserError
from ..notices import note_once


def fit_warmup(opt: Any) -> None:
    """Shorten the warm-up that a preset has for its own number of epochs. Raises UserError for one that was asked for
    and is as long as the run."""
    if opt.warmup_epochs >= opt.max_epoch and "warmup_epochs" not in opt.asked:
        usual = type(opt)
        opt.assign(warmup_epochs=usual.warmup_epochs * opt.max_epoch / usual.max_epoch)
        note_once(f"the warm-up is shortened to {opt.warmup_epochs:.2g} epochs, for --max-epoch={opt.max_epoch}")
    if opt.warmup_epochs >= opt.max_epoch:
        raise UserError(f"--warmup-epochs={opt.warmup_epochs:g} has to be less than --max-epoch={opt.max_epoch}")


def balance_once(opt: Any) -> None:
    """Say so where unequal classes are balanced twice."""
    if opt.command == "train" and opt.class_weights and opt.resample != "none":
        note_once(f"--class-weights and --resample={opt.resample} balance the classes twice: one of them is enough")


def unfreeze_in_time(opt: Any) -> None:
    """Raise UserError where a run ends before its body would be trained."""
    if (opt.unfreeze_epoch or 0) >= opt.max_epoch:
        raise UserError(f"--unfreeze-epoch={opt.unfreeze_epoch} has to be less than --max-epoch={opt.max_epoch}")
