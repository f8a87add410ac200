"""`--precision=auto`: the fastest arithmetic for this model on this device, by measurement, which is remembered."""

import contextlib
import copy
import math
import time
from collections.abc import Sequence
from typing import Any

import torch

from utils.notices import counted

from . import processes
from .batch_size import usual
from .device import device_of, named, native_precision, pick_device, pick_precision, undisturbed
from .measuring import SECONDS, described, known, rehearsal, turns, wait

LEAST = 2  # steps in each precision
GAIN = 0.95  # another precision has to take less than this share of the time in fp32, which has more digits


def choose(opt: Any, model: Any, train_data: Any) -> str:
    """What opt.precision means: fp32, bf16 or fp16; prints it. For "auto" fp32 is compared with the lowest precision
    that the device computes natively, by the time of a step of a copy, of now or of an earlier start with the same
    machine, threads, torch, model, image size and batch."""
    device = pick_device(opt.use_gpu, asked=False)
    kinds = list(dict.fromkeys(("fp32", native_precision(device))))
    if opt.precision != "auto" or len(kinds) == 1:
        return pick_precision(opt.precision, device)
    size = max(2, -(-usual(opt) // processes.current().size // opt.accumulate))  # of a micro-batch
    last_size = (opt.train_image_size or [opt.image_size])[-1]  # where pictures grow, it takes most of the time
    key = described(device, model, last_size, size)
    samples, times, how = known(
        "precision", key, kinds, lambda: measured(model, train_data, size, opt.seed, device, kinds)
    )
    faster = not times["fp32"] < math.inf or times[kinds[-1]] < GAIN * times["fp32"]
    precision = kinds[-1] if faster else "fp32"
    figures = ", ".join(f"{1000 * one:.3g} ms in {kind}" for kind, one in times.items())
    why = f"a step of {counted(samples, 'sample')} takes {figures}" if samples else "no step could be measured"
    print(f"computing on {named(device)} in {precision}: {why} ({how}; --precision=auto)")
    return precision


def measured(
    model: Any, dataset: Any, size: int, seed: int, device: torch.device, kinds: Sequence[str]
) -> tuple[int, dict[str, list[float]]]:
    """step_times of a copy of the model on the device, with the first `size` samples of training as they are prepared
    there; (0, infinite times) where that fails: the first step fails in the same way, and there the batch is named."""
    with contextlib.suppress(Exception):  # a model and a data set may raise anything
        with rehearsal(model, dataset, seed, device) as (copied, batch):
            return step_times(copied, *batch(size), kinds)
    return 0, dict.fromkeys(kinds, [math.inf])


def step_times(model: Any, input: Any, target: Any, kinds: Sequence[str]) -> tuple[int, dict[str, list[float]]]:
    """(samples, {precision: seconds of some training steps of them, without the optimizer}) of a model on its device.

    input, target: a prepared batch; on a CPU only as much of it is taken as makes a step of about a quarter of SECONDS.
    The precisions take turns, so that what else the machine does meets all. Each step is of a new copy: the model and
    the random numbers stay as they are, and a frozen body has not seen the pictures. A precision in which the model
    fails takes an infinite time.
    """
    on_cpu = device_of(model).type == "cpu"
    size = min(2, len(input)) if on_cpu else len(input)

    def one_round() -> dict[str, float]:
        return {kind: seconds(model, input[:size], target[:size], kind) for kind in kinds}

    with undisturbed(model):
        spent = one_round()  # to warm up
        while size < len(input) and sum(spent.values()) < SECONDS / 4 * len(spent):
            size = min(2 * size, len(input))
            spent = one_round()
        return size, turns(one_round, SECONDS * len(spent), LEAST)


def seconds(model: Any, input: Any, target: Any, precision: str) -> float:
    """How long forward and backward of a copy take in a precision; infinitely where they fail."""
    copied = copy.deepcopy(model).train()
    copied.precision = precision
    wait(device_of(model))
    begin = time.perf_counter()
    try:
        with copied.autocast():
            _, losses = copied.objective(input, target)
        sum(losses.values()).backward()
    except Exception:  # an operation that this precision lacks, no memory
        return math.inf
    wait(device_of(model))
    return time.perf_counter() - begin
