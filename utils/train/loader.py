"""Batches on the device, in an order and with random numbers that do not depend on workers or stops."""

import os
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from .device import prepared
from .processes import ALONE, World
from .sampler import ResumableBatchSampler
from .seeds import seed_step
from .workers import fitting_workers, stay_with_parent


def make_loader(
    dataset: Any,
    batch_size: int,
    num_workers: int | None = None,
    seed: int | None = None,
    device: torch.device | str = "cpu",
    world: World = ALONE,
) -> DataLoader:
    """A DataLoader over `dataset`, for a run on `device`; shuffled when a seed is given. Of several processes each gets
    its share, see ResumableBatchSampler.

    num_workers None: one per core, at most 8; where samples cost next to nothing, none, or on a GPU two, that gather
    batches while it computes. Samples that are cached on the device are gathered there.
    """
    sampler = ResumableBatchSampler(dataset, batch_size, seed, world.rank, world.size)
    on_gpu = torch.device(device).type == "cuda"
    if num_workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        for_cheap = 2 if on_gpu else 0
        num_workers = for_cheap if dataset.no_workers_needed else min(8, max(1, cores // world.size))
    num_workers = 0 if dataset.cached_on_device else min(num_workers, len(sampler))
    num_workers = fitting_workers(dataset, len(next(iter(sampler), ())), num_workers)
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=num_workers,
        collate_fn=dataset.collate,
        pin_memory=on_gpu and not dataset.cached_on_device,
        persistent_workers=seed is not None and num_workers > 0,
        worker_init_fn=stay_with_parent,
    )


def batches(loader: DataLoader, run: Any, device: torch.device) -> Iterator[tuple[Any, Any]]:
    """The batches of the run's epoch from its batch on, as the model takes them: on the device, and augmented. The
    numbers that augmentation and, from torch's global generator, dropout draw are a function of (seed, run.step, rank).
    """
    sampler: Any = loader.batch_sampler
    sampler.set_position(run.epoch, run.batch)
    dataset: Any = loader.dataset
    dataset.begin_epoch(run.done)
    for batch in loader:
        yield prepared(dataset, batch, device, seed_step(sampler.seed, run.step, device, sampler.rank))
