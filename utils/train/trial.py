"""Steps as the loop in main.py makes them, outside of a run: to look at a training before it begins."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils.data import DataLoader

from .loader import batches
from .step import TrainStep


def endless(loader: DataLoader, device: torch.device) -> Iterator[tuple[Any, Any]]:
    """Yield the batches of a training, (input, target) each, prepared on the device, epoch after epoch without end."""
    run = SimpleNamespace(epoch=0, batch=0, step=0, done=1.0)  # with the last of --train-image-size
    while True:
        for batch in batches(loader, run, device):
            yield batch
            run.step += 1
        run.epoch += 1


def take(step: TrainStep, number: int, batch: tuple[Any, Any]) -> float:
    """Make the step with this number on a batch; returns its loss, before the weights changed."""
    for input, target in step.micro_batches(*batch):
        with step.attempt():
            score, losses = step.objective(input, target)
            step.backward(losses, score)
    step.apply(number)
    loss: Any = sum(step.losses.values())
    return float(loss)
