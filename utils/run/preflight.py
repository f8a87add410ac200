"""What a training needs of its machine, checked before the first step: a writable folder and room on the disk."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from torch.optim import SGD

from utils import UserError
from utils.files import megabytes
from utils.notices import warn_once


def check_folder(folder: str | Path, advice: str) -> None:
    """Raise UserError, which ends with the advice, when no file can be written to `folder`, or to where it will be."""
    try:
        with tempfile.TemporaryFile(dir=existing(folder)) as file:
            file.write(b"x")  # root may write everywhere, but not to a read-only disk
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): {advice}") from None


def existing(folder: str | Path) -> Path:
    """`folder`, or the nearest folder above it that exists."""
    place = Path(folder).absolute()
    return place if os.path.lexists(place) else existing(place.parent)


def check_room(
    module: Any,
    optim: Any,
    work_dir: str,
    resume: str | None,
    max_epoch: int,
    ema: float,
    keep_last: int,
    keep_every: int,
    keep_from: int,
    step: str | None = None,
) -> None:
    """Raise UserError when the checkpoints of a run have no room on the disk; warn where it is tight.

    Args:
        module, optim: the model, and the optimizer of its trainable weights.
        work_dir, resume: the folder in which the run's is made, or the run's own.
        max_epoch, ema, keep_last, keep_every, keep_from, step: as in config.py.
    """
    if step:  # nothing is saved
        return
    folder = resume or work_dir
    numbers = bool(optim.defaults["momentum"]) if isinstance(optim, SGD) else 2  # for each that learns
    learning = sum(parameter.nbytes for group in optim.param_groups for parameter in group["params"])
    weights = sum(value.nbytes for value in module.state_dict().values())
    everything = weights * (2 if ema else 1) + learning * numbers
    epochs = keep_last + (len(range(keep_from, max_epoch + 1, keep_every)) if keep_every else 0)
    # last.pth, previous.pth, the file being written, best.pth; 1 % for names and checksums
    need = 1.01 * (3 * everything + (1 + epochs) * weights)
    if (Path(folder) / "last.pth").exists():
        need -= sum(path.stat().st_size for path in Path(folder).glob("*.pth"))
    free = shutil.disk_usage(existing(folder)).free
    text = f"{folder} has {megabytes(free)} free, and the checkpoints of this run need {megabytes(need)}"
    if free < need:
        raise UserError(f"{text}: make room, or name another --work-dir")
    if free < 2 * need:
        warn_once(f"{text}: make room, there will be other files, too")
