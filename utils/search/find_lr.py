"""The command find-lr: the learning rates at which a training learns, by some steps of it whose rate rises."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from utils import UserError
from utils.metrics import plots
from utils.notices import counted
from utils.run import resume
from utils.run.preflight import check_folder
from utils.train import processes
from utils.train.loader import make_loader
from utils.train.step import TrainStep
from utils.train.trial import endless, take

LOWEST, HIGHEST, STEPS = 1e-7, 10.0, 100  # rates, as fastai's lr_find has them
SETTLED = 25  # steps at rates so low, up to 1e-5, that next to nothing is learned
EXPLODED = 4.0  # times the largest of their losses
MEMORY = 0.8  # of a mean over steps, from one to the next
SHARE = 0.1  # of the rate with the lowest loss


def find_lr(program: ModuleType, opt: Any) -> None:
    """Print a learning rate for the training that the options describe, and what it cost to find; draw find_lr.png
    into opt.report_dir or opt.work_dir. No run is made or changed. Raises UserError.

    program: main.py's module.
    """
    processes.refuse_torchrun()
    opt, start = resume.resolve(opt, processes.ALONE)
    folder = Path(opt.report_dir or opt.work_dir)
    check_folder(folder, "name another --report-dir")
    device = program.set_up(opt, opt.callbacks)
    train_data, val_data = program.make_data(opt, "train", device), program.make_data(opt, "val", device)
    program.refuse_broken(train_data, val_data)
    opt.assign(unfreeze_epoch=None)  # as in the first epochs, in which the head alone learns
    model = program.new_model(opt, train_data, start).to(device, memory_format=torch.channels_last).train()
    optimizer = model.get_optimizer(opt.optimizer, opt.lr, opt.weight_decay, opt.momentum, **opt.optimizer_options)
    step = TrainStep(model, optimizer, **opt.kwargs_for(TrainStep))
    loader, begin = make_loader(train_data, opt.batch_size, opt.num_workers, opt.seed, device), time.perf_counter()
    rates = np.geomspace(LOWEST, HIGHEST, STEPS)
    losses = rise(step, rates, endless(loader, device))
    seconds, rates = time.perf_counter() - begin, rates[: len(losses)]
    end = f", where the loss exploded (at most {HIGHEST:g})" if len(losses) < STEPS else ""
    size = counted(min(opt.batch_size, len(train_data)), "sample")
    spent = f"{counted(len(losses), 'step')} of {size} in {seconds:.1f} s"
    print(f"{spent}: the rate rose from {LOWEST:g} to {rates[-1]:.2g}{end}")
    smooth = smoothed(losses)
    found = suggestion(rates, losses, smooth)
    folder.mkdir(parents=True, exist_ok=True)
    plots.rates(rates, losses, smooth, found, f"{model.model_name} with {opt.optimizer}", folder / "find_lr.png")
    if found is None:
        top = f", and from {rises:.2g} on it rises" if (rises := rising(rates, losses, smooth)) else ""
        print(f"no suggestion: at no rate the loss falls clearly{top}, see {folder / 'find_lr.png'}")
        return
    best = f"{smooth.min():.3g} at a rate of {rates[smooth.argmin()]:.2g}"
    best += f" (of the first steps {losses[:SETTLED].mean():.3g}, give or take {losses[:SETTLED].std():.2g})"
    print(f"suggestion: --lr={found:.2g}, a tenth of where the loss is lowest, {best}; now it is {opt.lr:g}")
    print(f"drawn in {folder / 'find_lr.png'}")


def rise(step: TrainStep, rates: np.ndarray, batches: Iterable[Any]) -> np.ndarray:
    """The losses of steps at these learning rates, a batch each, float64 [steps]; fewer where the loss explodes: where
    it is not finite, or its mean over the last steps is above `ceiling`. Raises UserError where that is in the first
    step."""
    groups, losses, mean = step.optimizer.param_groups, list[float](), 0.0
    shares = [group["lr"] / groups[0]["lr"] for group in groups]  # some have a rate of their own
    shown = tqdm(zip(rates, batches, strict=False), total=len(rates), unit=" steps", disable=None)
    for number, (rate, batch) in enumerate(shown):
        for group, share in zip(groups, shares, strict=True):
            group["lr"] = rate * share
        losses.append(take(step, number, batch))
        if not np.isfinite(losses[0]):
            raise UserError(f"the loss of the first step is {losses[0]}: `python main.py doctor` looks for the cause")
        mean = MEMORY * mean + (1 - MEMORY) * losses[-1]
        if not mean / (1 - MEMORY ** (number + 1)) <= ceiling(losses):
            break
    return np.array(losses)


def ceiling(losses: Sequence[float] | np.ndarray) -> float:
    """The loss from which on it has exploded."""
    return EXPLODED * max(map(abs, losses[:SETTLED]))


def smoothed(losses: np.ndarray) -> np.ndarray:
    """Means over the neighbours of each loss on both sides, which count less the farther they are, float64 [steps]. To
    both sides: a mean over the last steps alone would find everything at too high a rate."""
    steps = np.arange(len(losses))
    weights = MEMORY ** np.abs(steps[:, None] - steps)
    return weights @ np.nan_to_num(losses, nan=np.inf).clip(max=ceiling(losses)) / weights.sum(axis=1)


def suggestion(rates: np.ndarray, losses: np.ndarray, smooth: np.ndarray) -> float | None:
    """A tenth of the rate at which the smoothed loss is lowest: fastai's rule `minimum`, for the range test of Smith
    2015, arXiv:1506.01186. None where it is not below the first losses by more than those vary."""
    first = losses[:SETTLED]
    falls = smooth.min() < first.mean() - first.std()
    return SHARE * float(rates[smooth.argmin()]) if falls else None


def rising(rates: np.ndarray, losses: np.ndarray, smooth: np.ndarray) -> float | None:
    """The lowest rate at which the smoothed loss is above the first losses by more than those vary; None for none."""
    first = losses[:SETTLED]
    above = rates[smooth > first.mean() + first.std()]
    return float(above[0]) if len(above) else None
