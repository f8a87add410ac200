"""Batches in an order that is a function of (seed, epoch), and randomness that is one of (seed, step)."""

import atexit
import ctypes
import functools
import hashlib
import multiprocessing
import os
import signal
import sys
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Sampler

from . import UserError
from .preflight import fitting_workers

PR_SET_PDEATHSIG = 1  # of prctl.h: the signal that this process gets when its parent dies


class BatchOrder(Sampler):
    """Lists of sample indices, one list a batch; drawn anew every epoch, or all in order when seed is None.

    Nothing depends on the number of workers or on what was drawn before: `start(epoch, batch)` and the next iteration
    yields that epoch's batches from there on.

    Of several processes, `size` of them, the one with the number `rank` gets its share: every size-th sample of each
    batch that is drawn, so that a step has batch_size of them over all processes; of samples in order a piece of its
    own. None comes twice.

    Raises UserError when the samples of a batch are fewer than the processes.
    """

    def __init__(self, dataset, batch_size, seed=None, rank=0, size=1):
        self.dataset, self.batch_size, self.seed, self.rank, self.size = dataset, batch_size, seed, rank, size
        self.length = len(self._epoch(0))
        if seed is not None and min(batch_size, self.length) < size:
            least = f"--batch-size={batch_size}" if batch_size < size else f"{self.length} training samples"
            raise UserError(f"{least} cannot be shared out to {size} processes: each needs one at least")
        self.start(0, 0)

    def start(self, epoch, batch):
        """Let the next iteration begin at this epoch's batch."""
        self.epoch, self.batch = epoch, batch

    def samples(self, epoch, batch):
        """The indices of one batch, of all processes."""
        return self._epoch(epoch)[batch * self.batch_size : (batch + 1) * self.batch_size].tolist()

    def state_dict(self):
        """What the order is made from; where in it the run stands is the run's to know."""
        return {"samples": self.length, "names": self._names}

    def load_state_dict(self, state):
        """Raises UserError when the order of these samples is not the one that the run began with."""
        if state["samples"] != self.length:
            raise UserError(
                f"there are {self.length} training samples now, not {state['samples']} as when the run began; a new "
                "run can start from this one's weights with --load-model-path"
            )
        if state["names"] != self._names:
            raise UserError(
                "the training samples are not those that the run began with: files came, went or got other names; a "
                "new run can start from this one's weights with --load-model-path"
            )

    def __len__(self):
        full, rest = divmod(self.length, self.batch_size)
        # A last batch of a single sample a process is left out in training: BatchNorm has no variance to compute.
        alone = rest < 2 * self.size and full > 0 and self.seed is not None
        return full + (rest > 0 and not alone)

    def __iter__(self):
        order, share = self._epoch(self.epoch), slice(None)
        if self.seed is not None:
            share = slice(self.rank, None, self.size)
        for batch in range(self.batch, len(self)):
            yield order[batch * self.batch_size : (batch + 1) * self.batch_size][share].tolist()

    @functools.cached_property
    def _names(self):
        """A checksum of the samples' file names in their order, without the folders, which may move; of none without
        files."""
        names = (Path(path).name for path in getattr(self.dataset, "paths", ()))
        return hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()

    def _epoch(self, epoch):
        if self.seed is None:
            first, end = (len(self.dataset) * rank // self.size for rank in (self.rank, self.rank + 1))
            return torch.arange(first, end)
        return self.dataset.order(generator(self.seed, epoch, "cpu", stream=1))


def make_loader(dataset, batch_size, num_workers=None, seed=None, device="cpu", rank=0, size=1):
    """A DataLoader over `dataset`, for a run on `device`; shuffled when a seed is given. Of several processes each gets
    its share, see BatchOrder.

    num_workers None: as many as there are cores, at most 8; where samples cost next to nothing, none, or on a GPU two,
    that gather batches while it computes. Samples that are held on the device are gathered there.
    """
    order, to_gpu = BatchOrder(dataset, batch_size, seed, rank, size), torch.device(device).type == "cuda"
    if num_workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        num_workers = (2 if to_gpu else 0) if dataset.cheap else min(8, max(1, cores // size))
    num_workers = 0 if dataset.held else min(num_workers, len(order))
    num_workers = fitting_workers(dataset, len(next(iter(order), ())), num_workers)
    return DataLoader(
        dataset,
        batch_sampler=order,
        num_workers=num_workers,
        collate_fn=dataset.collate,
        pin_memory=to_gpu and not dataset.held,
        persistent_workers=seed is not None and num_workers > 0,
        worker_init_fn=stay_with_parent,
    )


def stay_with_parent(worker):
    """Let a worker live just as long as its parent needs it.

    A terminal, Slurm and torchrun send their signals to the workers, too: at the debugger's prompt, or until the step
    is finished, they must not be taken away from the run.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform == "linux":  # elsewhere torch looks every few seconds, where the data set does not hang
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def end_workers():
    """End those that hang: they do not hear the SIGTERM that torch and Python would send, and wait for."""
    workers = [process for process in multiprocessing.active_children() if process.daemon]
    if workers:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # with torch's handler their end is an error
    for worker in workers:
        worker.kill()


if os.name == "posix":  # elsewhere there are no such signals
    atexit.register(end_workers)


def generator(seed, step, device, stream=2):
    """A random generator on `device` whose draws are a function of (seed, step), and others in another stream."""
    return torch.Generator(device).manual_seed(_mix(seed, step, stream))


def seed_step(seed, step, device, rank=0):
    """Make everything random in one training step a function of (seed, step, rank of the process): dropout follows the
    global generator, augmentation the one returned."""
    number = _mix(seed, step, stream=3 + 3 * rank)
    torch.default_generator.manual_seed(number)  # torch.manual_seed looks for every kind of device: 0.4 ms
    if torch.device(device).type == "cuda":
        torch.cuda.manual_seed(number)
    return generator(seed, step, device, stream=2 + 3 * rank)


def _mix(seed, step, stream):
    # splitmix64's finaliser: neighbouring seeds, steps and streams must not give related numbers.
    z = (seed * 0x9E3779B97F4A7C15 + step * 0xD1B54A32D192ED03 + stream * 0x632BE59BD9B4E019) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def to_device(batch, device):
    """Move the tensors of a batch (tensor, list, tuple or dict of them) to `device`; anything else stays as it is."""
    if isinstance(batch, torch.Tensor):
        # To the CPU it would not be there yet when it is read.
        return batch.to(device, non_blocking=torch.device(device).type != "cpu")
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        return type(batch)(to_device(value, device) for value in batch)
    return batch
