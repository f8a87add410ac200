"""Worker processes that read samples: how many have room, and that they live just as long as their parent."""

import atexit
import ctypes
import multiprocessing
import os
import shutil
import signal
import sys
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from utils.files import megabytes
from utils.notices import counted, warn_once

SHM = "/dev/shm"  # where Linux keeps the memory that processes share; a Docker container has 64 MB
SHM_SHARE = 0.9  # of what is free there, the part that batches may take
PREFETCHED = 2  # batches that a DataLoader asks of each worker ahead
MEASURED = 8  # samples; the largest counts
PR_SET_PDEATHSIG = 1  # of prctl.h: the signal that this process gets when its parent dies


def fitting_workers(dataset: Any, batch_size: int, wanted: int) -> int:
    """How many of the `wanted` worker processes have room for their batches in shared memory, through which they hand
    them over; a warning where these are fewer. Without room a DataLoader waits forever for a batch that got lost.

    batch_size: samples in a batch of this process.
    """
    if not wanted or not os.path.isdir(SHM):
        return wanted
    some = range(0, len(dataset), -(-len(dataset) // MEASURED))
    batch = batch_size * max(shared_bytes(dataset.collate([dataset[index]])) for index in some)
    # torchrun's other processes on this machine need the same, and one of them prints.
    free = shutil.disk_usage(SHM).free // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    # Besides those asked for in advance: the one that the loop works on, and the one before it.
    fitting = max(0, int((SHM_SHARE * free / max(batch, 1) - 2) / PREFETCHED))
    if fitting < wanted and os.environ.get("LOCAL_RANK", "0") == "0":
        workers = counted(fitting, "worker process", "worker processes")
        warn_once(
            f"{SHM} has {megabytes(free)} free, room for the batches of {workers}, not of {wanted}: the others are "
            "left out, the results are the same; docker run --shm-size=1g ... makes room for more"
        )
    return min(fitting, wanted)


def shared_bytes(batch: Any) -> int:
    """Bytes of the tensors in a batch (tensor, list, tuple or dict of them); anything else goes through a pipe."""
    tensors = (leaf for leaf in tree_leaves(batch) if isinstance(leaf, torch.Tensor))
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)  # a part is handed over with all of its tensor


def stay_with_parent(worker: int) -> None:
    """Let a worker live just as long as its parent needs it.

    A terminal, Slurm and torchrun send their signals to the workers, too: at the debugger's prompt, or until the step
    is finished, they must not be taken away from the run.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform == "linux":  # elsewhere torch looks every few seconds, where the data set does not hang
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def end_workers() -> None:
    """Kill workers that hang: they ignore the SIGTERM that torch and Python would send, and wait for."""
    workers = [process for process in multiprocessing.active_children() if process.daemon]
    if workers:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler takes their end for an error
    for worker in workers:
        worker.kill()


if os.name == "posix":  # elsewhere there are no such signals
    atexit.register(end_workers)
