"""What a training needs of its machine, looked at before the first step: a folder, disk room, shared memory."""

import functools
import os
import shutil
import sys
import tempfile
from pathlib import Path

import torch

from . import UserError
from .files import megabytes

SHM = "/dev/shm"  # where Linux keeps the memory that processes share; a Docker container has 64 MB
SHM_SHARE = 0.9  # of what is free there the batches may take so much
PREFETCHED = 2  # batches that a DataLoader asks of each worker ahead
MEASURED = 8  # samples, of which the largest counts


def check_folder(folder):
    """Raise UserError when `folder`, or where it is to be made, takes no file."""
    try:
        with tempfile.TemporaryFile(dir=existing(folder)) as file:
            file.write(b"x")  # root may write everywhere, but not to a read-only disk
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}): mend that, or name another --work-dir"
        ) from None


def existing(folder):
    """`folder`, or the nearest one above it that is there."""
    place = Path(folder).absolute()
    return place if os.path.lexists(place) else existing(place.parent)


def check_room(folder, module, optim, max_epoch, ema, keep_last, keep_every, keep_from):
    """Raise UserError when the checkpoints of a run have no room on the disk of `folder`; warn where they have hardly
    any.

    folder: the run's, or for a new run the one that its folder is made in.
    module, optim: the model, and the optimizer over what of it learns.
    ema, keep_last, ...: as in config.py.
    """
    numbers = 2 if "betas" in optim.defaults else bool(optim.defaults["momentum"])  # for each that learns
    learning = sum(parameter.nbytes for group in optim.param_groups for parameter in group["params"])
    weights = sum(value.nbytes for value in module.state_dict().values())
    everything = weights * (2 if ema else 1) + learning * numbers
    epochs = keep_last + (len(range(keep_from, max_epoch + 1, keep_every)) if keep_every else 0)
    # last.pth, previous.pth and the one that is being written, best.pth; files have names and sums in them, too
    need = 1.01 * (3 * everything + (1 + epochs) * weights)
    if (Path(folder) / "last.pth").exists():
        need -= sum(path.stat().st_size for path in Path(folder).glob("*.pth"))
    free = shutil.disk_usage(existing(folder)).free
    text = f"{folder} has {megabytes(free)} free, and the checkpoints of this run need {megabytes(need)}"
    if free < need:
        raise UserError(f"{text}: make room, or name another --work-dir")
    if free < 2 * need:
        warn(f"{text}: make room, other files come besides")


def fitting_workers(dataset, batch_size, wanted):
    """How many of the `wanted` worker processes have room for their batches in shared memory, through which they hand
    them over; a warning where these are fewer. Without room a DataLoader waits for ever for a batch that got lost.

    batch_size: samples in a batch of this process.
    """
    if not wanted or not os.path.isdir(SHM):
        return wanted
    some = range(0, len(dataset), -(-len(dataset) // MEASURED))
    batch = batch_size * max(shared_bytes(dataset.collate([dataset[index]])) for index in some)
    # torchrun's other processes on this machine need the same, and one of them tells.
    free = shutil.disk_usage(SHM).free // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    # Besides those asked for in advance: the one that the loop works on, and the one before it.
    fitting = max(0, int((SHM_SHARE * free / max(batch, 1) - 2) / PREFETCHED))
    if fitting < wanted and os.environ.get("LOCAL_RANK", "0") == "0":
        warn(
            f"{SHM} has {megabytes(free)} free, room for the batches of {fitting} worker processes, not of {wanted}: "
            "the others are left out, the results are the same; docker run --shm-size=1g ... makes room for more"
        )
    return min(fitting, wanted)


@functools.cache  # what training has said, validation does not say again
def warn(text):
    """Print a warning."""
    print(f"warning: {text}", file=sys.stderr)


def shared_bytes(batch):
    """Bytes of the tensors in a batch (tensor, list, tuple or dict of them); anything else goes through a pipe."""
    if isinstance(batch, torch.Tensor):
        return batch.untyped_storage().nbytes()  # a part of a tensor is handed over with all of it
    if isinstance(batch, dict):
        batch = list(batch.values())
    return sum(shared_bytes(value) for value in batch) if isinstance(batch, (list, tuple)) else 0
