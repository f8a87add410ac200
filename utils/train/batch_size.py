"""`--batch-size=auto`: the fewest samples a step with which this device is about as fast as with any more."""

import contextlib
import gc
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch

from utils.notices import counted

from . import processes
from .device import pick_device
from .measuring import SECONDS, described, known, rehearsal, turns, wait
from .memory import out_of_memory
from .step import TrainStep
from .trial import take

SIZES = tuple(2**power for power in range(3, 11))  # 8 to 1024 samples, of all processes together
SHARE = 16  # steps that an epoch has at least, where there are samples for it
DEFAULT = 32  # for a learning rate of no known batch size
ENOUGH = 0.95  # of the most samples a second
ROOM = 0.8  # of a GPU's memory
LONG = 1.0  # seconds of a step after which twice as many samples are not tried
PROPORTIONAL = "SGD", "Muon"  # by Goyal et al. 2017, arXiv:1706.02677; the others by Krizhevsky 2014, arXiv:1404.5997
UNMOVED = 1e-9  # a learning rate with which all steps that are measured are alike


def usual(opt: Any) -> int:
    """The batch size that the options name; for "auto" that of the preset, which its learning rate is made for."""
    of_classes = (vars(base).get("batch_size") for base in type(opt).__mro__)
    return next(size for size in (opt.batch_size, *of_classes, DEFAULT) if isinstance(size, int))


def choose(opt: Any, model: Any, train_data: Any) -> tuple[int, float]:
    """(batch size, learning rate) that the options mean. For "auto", which prints it, the size is the `smallest` that
    is fast with a copy of the model, now or at an earlier start with the same machine, threads, torch, model, image
    size and step; the rate is scaled with it, unless it was asked for. opt.precision is settled already."""
    if opt.batch_size != "auto":
        return opt.batch_size, opt.lr
    device, count = pick_device(opt.use_gpu, asked=False), processes.current().size
    shares = {size: -(-size // count) for size in tried(len(train_data), count)}
    made = {**opt.kwargs_for(TrainStep), "compile": False}
    what = f"{min(shares)} to {max(shares)} samples by {count}, {opt.optimizer}, {made}"

    def measure() -> tuple[int, dict[int, list[float]]]:
        with contextlib.suppress(Exception):  # the first step fails in the same way, and there the batch is named
            with rehearsal(model, train_data, opt.seed, device) as (copied, batch):
                arguments = opt.optimizer, UNMOVED, opt.weight_decay, opt.momentum
                optimizer = copied.train().get_optimizer(*arguments, **opt.optimizer_options)
                steps = step_times(TrainStep(copied, optimizer, **made), shares, batch)
                return max(steps, default=0), steps
        return 0, {}

    key = described(device, model, (opt.train_image_size or [opt.image_size])[-1], what)
    _, times, how = known("batch_size", key, [str(min(shares))], measure)
    gc.collect()  # a step is a cycle, and has another model
    torch.cuda.empty_cache()  # nothing where CUDA is not used
    paces = {size: size / times[str(size)] for size in shares if str(size) in times}
    before, size = usual(opt), smallest(paces) if paces else usual(opt)
    given = "lr" in opt.asked or opt.lr != type(opt).lr  # of resumed folds it was asked for before
    lr = opt.lr if given else scaled(opt.lr, size / before, opt.optimizer)
    shown = {one: f"{pace:.0f}" if pace >= 10 else f"{pace:.2g}" for one, pace in paces.items()}
    others = "".join(f", {pace} with {one}" for one, pace in shown.items() if one != size)
    others = others if len(shares) > 1 else f", more are not tried with {counted(len(train_data), 'sample')}"
    why = f"{shown[size]} a second{others}" if paces else "no step could be measured"
    rate = f"{opt.lr:.3g}" + (" as given" if given else f" -> {lr:.3g}" if lr != opt.lr else "")
    print(f"batch of {counted(size, 'sample')}: {why} ({how}; --batch-size=auto); lr {rate}")
    return size, lr


def tried(samples: int, processes: int) -> list[int]:
    """The batch sizes that are measured, for a number of samples of training: two for each process at least."""
    most = max(samples // SHARE, SIZES[0])
    return [size for size in SIZES if 2 * processes <= size <= most] or [max(SIZES[0], 2 * processes)]


def smallest(paces: Mapping[int, float]) -> int:
    """The smallest batch size that is as good as the fastest, of {batch size: samples a second}."""
    return min(size for size, pace in paces.items() if pace >= ENOUGH * max(paces.values()))


def scaled(lr: float, factor: float, optimizer: str) -> float:
    """The learning rate for a batch of `factor` times as many samples: times that for SGD and Muon, and times its
    square root for the others, which divide by the size of gradients."""
    return lr * factor ** (1 if optimizer in PROPORTIONAL else 0.5)


def step_times(
    step: TrainStep, shares: Mapping[int, int], batch: Callable[[int], tuple[Any, Any]]
) -> dict[int, list[float]]:
    """{batch size: seconds of some steps}, from the smallest on, as far as a size fits, twice as many samples may be
    faster and no step is LONG.

    shares: {batch size: samples of it in this process}. batch: number of samples -> (input, target).
    """
    steps: dict[int, list[float]] = {}
    whole: tuple[Any, Any] = ((), ())
    room = memory(step.device)

    def one_round(sizes: Iterable[int]) -> dict[int, float]:
        return {size: seconds(step, *(part[: shares[size]] for part in whole)) for size in sizes}

    for size, share in shares.items():
        try:
            larger = batch(share)
            seconds(step, *larger)  # to warm up, and to see whether it fits
        except Exception as error:
            if not out_of_memory(error):
                raise
            break
        if steps and peak(step.device) > ROOM * room:
            break
        whole = larger
        steps |= turns(partial(one_round, [size]), SECONDS / 5, 1)
        best = smallest({one: one / min(each) for one, each in steps.items()})
        if min(steps[size]) > LONG or best not in [*steps][-2:]:
            break
    more = turns(partial(one_round, [*steps]), 2 * SECONDS, 1)
    return {size: each + more[size] for size, each in steps.items()}


def seconds(step: TrainStep, input: Any, target: Any) -> float:
    """How long a step takes: forward, backward and the optimizer. Raises UserError where the memory is too small."""
    step.splitter.least = len(input)  # else it is retried in parts
    wait(step.device)
    begin = time.perf_counter()
    take(step, 0, (input, target))
    wait(step.device)
    return time.perf_counter() - begin


def memory(device: torch.device) -> int:
    """Bytes of a GPU's memory that this process has or may get, 0 for a CPU; `peak` counts from now on."""
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)


def peak(device: torch.device) -> int:
    """The most bytes that were needed at once of a GPU's memory; 0 for a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
