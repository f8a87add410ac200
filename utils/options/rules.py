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


def sizes_of_crops(opt: Any) -> None:
    """Raise UserError for sizes of crops where pictures are not cropped."""
    if opt.train_image_size and "train_image_size" in opt.asked and not opt.augment:
        sizes = ",".join(map(str, opt.train_image_size))
        raise UserError(f"--train-image-size={sizes} is for crops, and --augment=False makes none: give --augment")


def unfreeze_in_time(opt: Any) -> None:
    """Raise UserError where a run ends before its body would be trained."""
    if (opt.unfreeze_epoch or 0) >= opt.max_epoch:
        raise UserError(f"--unfreeze-epoch={opt.unfreeze_epoch} has to be less than --max-epoch={opt.max_epoch}")


def batch_in_one(opt: Any) -> None:
    """Raise UserError where a batch that is chosen by what fits is to be divided."""
    if opt.batch_size == "auto" and opt.accumulate > 1:
        raise UserError(
            f"--batch-size=auto takes what fits, --accumulate={opt.accumulate} is for what does not fit: give "
            "--accumulate=1, or a number, --batch-size=32 say"
        )


def one_fold(opt: Any) -> None:
    """Raise UserError for a fold that is none of --folds, and for what folds cannot be combined with. Other
    commands than train take the first of all folds."""
    if opt.resume and not opt.merged:  # they may be the run's
        return
    if not opt.folds:
        if opt.fold is not None or opt.group:
            name, value = ("group", opt.group) if opt.fold is None else ("fold", opt.fold)
            raise UserError(f"--{name}={value} needs --folds, the number of parts: --folds=5 --fold=0, say")
        return
    if opt.fold is None or (opt.fold != "all" and opt.fold >= opt.folds):
        given = "" if opt.fold is None else f" --fold={opt.fold}"
        raise UserError(f"--folds={opt.folds}{given} names no fold: give --fold=0 to {opt.folds - 1}, or --fold=all")
    if opt.val_data_root and (opt.command == "train" or "folds" in opt.explicit):
        raise UserError(
            "--folds validates on parts of --train-data-root, --val-data-root on other data: give one of them"
        )
    if opt.fold == "all" and (opt.gpus or opt.processes > 1):
        raise UserError("--fold=all trains in one process: leave --gpus and --processes out, or train --fold=0, 1, ...")
    if opt.fold == "all" and opt.command not in ("", "train"):
        opt.assign(fold=0)
