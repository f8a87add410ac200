"""Batches in an order that is a function of (seed, epoch), and randomness that is one of (seed, step)."""

import os
import signal

import torch
from torch.utils.data import DataLoader, Sampler

from . import UserError


class BatchOrder(Sampler):
    """Lists of sample indices, one list a batch; drawn anew every epoch, or all in order when seed is None.

    Nothing depends on the number of workers or on what was drawn before: `start(epoch, batch)` and the next iteration
    yields that epoch's batches from there on.
    """

    def __init__(self, dataset, batch_size, seed=None):
        self.dataset, self.batch_size, self.seed = dataset, batch_size, seed
        self.length = len(self._epoch(0))
        self.start(0, 0)

    def start(self, epoch, batch):
        """Let the next iteration begin at this epoch's batch."""
        self.epoch, self.batch = epoch, batch

    def state_dict(self):
        """What the order is made from; where in it the run stands is the run's to know."""
        return {"samples": self.length}

    def load_state_dict(self, state):
        """Raises UserError when the order of these samples is not the one that the run began with."""
        if state["samples"] != self.length:
            raise UserError(
                f"there are {self.length} training samples now, not {state['samples']} as when the run began; a new "
                "run can start from this one's weights with --load-model-path"
            )

    def __len__(self):
        full, rest = divmod(self.length, self.batch_size)
        # A last batch of a single sample is left out in training: BatchNorm has no variance to compute from it.
        alone = rest == 1 and full > 0 and self.seed is not None
        return full + (rest > 0) - alone

    def __iter__(self):
        order = self._epoch(self.epoch)
        for batch in range(self.batch, len(self)):
            yield order[batch * self.batch_size : (batch + 1) * self.batch_size].tolist()

    def _epoch(self, epoch):
        if self.seed is None:
            return torch.arange(len(self.dataset))
        return self.dataset.order(generator(self.seed, epoch, "cpu", stream=1))


def make_loader(dataset, batch_size, num_workers=None, seed=None, device="cpu"):
    """A DataLoader over `dataset`, for a run on `device`; shuffled when a seed is given.

    num_workers None: as many as there are cores, at most 8; where samples cost next to nothing, none, or on a GPU two,
    that gather batches while it computes. Samples that are held on the device are gathered there.
    """
    order, to_gpu = BatchOrder(dataset, batch_size, seed), torch.device(device).type == "cuda"
    if num_workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        num_workers = (2 if to_gpu else 0) if dataset.cheap else min(8, cores)
    num_workers = 0 if dataset.held else min(num_workers, len(order))
    return DataLoader(
        dataset,
        batch_sampler=order,
        num_workers=num_workers,
        collate_fn=dataset.collate,
        pin_memory=to_gpu and not dataset.held,
        persistent_workers=seed is not None and num_workers > 0,
        worker_init_fn=ignore_interrupts,
    )


def ignore_interrupts(worker):
    """A terminal sends Ctrl-C to the workers too: at the debugger's prompt it must not take them away from the run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def generator(seed, step, device, stream=2):
    """A random generator on `device` whose draws are a function of (seed, step), and others in another stream."""
    return torch.Generator(device).manual_seed(_mix(seed, step, stream))


def seed_step(seed, step, device):
    """Make everything random in one training step a function of (seed, step): dropout follows the global generator,
    augmentation the one returned."""
    number = _mix(seed, step, stream=3)
    torch.default_generator.manual_seed(number)  # torch.manual_seed looks for every kind of device: 0.4 ms
    if torch.device(device).type == "cuda":
        torch.cuda.manual_seed(number)
    return generator(seed, step, device)


def _mix(seed, step, stream):
    # splitmix64's finaliser: neighbouring seeds, steps and streams must not give related numbers.
    z = (seed * 0x9E3779B97F4A7C15 + step * 0xD1B54A32D192ED03 + stream * 0x632BE59BD9B4E019) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def to_device(batch, device):
    """Move the tensors of a batch (tensor, list, tuple or dict of them) to `device`; anything else stays as it is."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        return type(batch)(to_device(value, device) for value in batch)
    return batch
