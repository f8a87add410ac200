"""`--precision=auto`: the fastest arithmetic for this model on this device, by measurement, which is remembered."""

import contextlib
import copy
import json
import math
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import torch

from utils.files import write_atomically
from utils.notices import counted

from . import processes
from .device import device_of, named, native_precision, one_batch, pick_device, pick_precision, undisturbed
from .machine import processor

SECONDS, LEAST, MOST = 1.0, 2, 20  # of the steps that are timed in each precision; how many they are
GAIN = 0.95  # another precision has to take less than this share of the time in fp32, which has more digits
UNSTEADY = 1.5  # times the fastest step takes the median where other work disturbs
KEPT = 100  # measurements in the file


def settle(opt: Any, model: Any, train_data: Any) -> None:
    """Let opt.precision, and the model's, become what the training computes in: what was asked for, or for "auto" the
    fastest, see `choose`; of several processes the first decides. Nothing else of the model changes."""
    opt.assign(precision=processes.current().on_main(choose, opt, model, train_data))
    model.precision = opt.precision


def choose(opt: Any, model: Any, train_data: Any) -> str:
    """What opt.precision means: fp32, bf16 or fp16; prints it. For "auto" fp32 is compared with the lowest precision
    that the device computes natively, by the time of a step of a copy, of now or of an earlier start with the same
    machine, threads, torch, model, image size and batch."""
    device = pick_device(opt.use_gpu, asked=False)
    kinds = list(dict.fromkeys(("fp32", native_precision(device))))
    if opt.precision != "auto" or len(kinds) == 1:
        return pick_precision(opt.precision, device)
    size = max(2, -(-opt.batch_size // processes.current().size // opt.accumulate))  # of a micro-batch
    last_size = (opt.train_image_size or [opt.image_size])[-1]  # where pictures grow, it takes most of the time
    path, key = cache_file(), described(device, model, last_size, size)
    samples, times = remembered(path, key, kinds)
    how = f"as measured before, see {path}"
    if not times:
        begin = time.perf_counter()
        samples, steps = measured(model, train_data, size, opt.seed, device, kinds)
        how = f"measured in {time.perf_counter() - begin:.1f} s"
        times = {kind: min(each) for kind, each in steps.items()}
        if all(statistics.median(each) < UNSTEADY * times[kind] for kind, each in steps.items()):
            remember(path, key, samples, times)
        elif samples:
            how += " and not remembered, because other work slowed some steps"
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
        trial = copy.deepcopy(model).to(device, memory_format=torch.channels_last)
        with undisturbed(trial):
            dataset.begin_epoch(1.0)
            order = dataset.order(torch.Generator().manual_seed(seed)).tolist()
            input, target = one_batch(dataset, [order[number % len(order)] for number in range(size)], device)
        return step_times(trial, input, target, kinds)
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
        begin, rounds = time.perf_counter(), [one_round() for _ in range(LEAST)]
        while len(rounds) < MOST and time.perf_counter() - begin < SECONDS * len(spent):
            rounds.append(one_round())
    return size, {kind: [one[kind] for one in rounds] for kind in spent}


def seconds(model: Any, input: Any, target: Any, precision: str) -> float:
    """How long forward and backward of a copy take in a precision; infinitely where they fail."""
    trial = copy.deepcopy(model).train()
    trial.precision = precision
    wait(device_of(model))
    begin = time.perf_counter()
    try:
        with trial.autocast():
            _, losses = trial.objective(input, target)
        sum(losses.values()).backward()
    except Exception:  # an operation that this precision lacks, no memory
        return math.inf
    wait(device_of(model))
    return time.perf_counter() - begin


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def described(device: torch.device, model: Any, image_size: Any, size: int) -> str:
    """What a measurement depends on, in words."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    parameters = [(one.numel(), one.requires_grad) for one in model.parameters()]
    total, learning = sum(number for number, _ in parameters), sum(number for number, learns in parameters if learns)
    threads = f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    return f"{name}, {threads}, {model.model_name}, {learning} of {total} parameters, {image_size} pixels, {size}"


def cache_file() -> Path:
    """Where measurements are remembered: hearth/precision.json in $XDG_CACHE_HOME, or in ~/.cache."""
    folder = os.environ.get("XDG_CACHE_HOME", "")
    return Path(folder if os.path.isabs(folder) else os.path.expanduser("~/.cache"), "hearth", "precision.json")


def remembered(path: Path, key: str, kinds: Sequence[str]) -> tuple[int, dict[str, float]]:
    """(samples, {precision: seconds}) of the measurement `key` in the file; (0, {}) where it is not there, or not
    whole."""
    with contextlib.suppress(LookupError, TypeError, ValueError):
        found = content(path)[key]
        times = {kind: float(found["seconds"][kind]) for kind in kinds}
        if all(0 < one < math.inf for one in times.values()):
            return int(found["samples"]), times
    return 0, {}


def remember(path: Path, key: str, samples: int, times: dict[str, float]) -> None:
    """Add a measurement to the file, for its user alone, if that can be written."""
    known = {name: value for name, value in content(path).items() if name != key}
    rows = [*known.items(), (key, {"samples": samples, "seconds": times})][-KEPT:]

    def write(file: IO[str]) -> None:
        os.chmod(file.name, 0o600)
        json.dump(dict(rows), file, indent=1)

    if path.is_absolute():  # else there is no home
        with contextlib.suppress(OSError):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(path, write)


def content(path: Path) -> dict[str, Any]:
    """What is in the file; {} where it is missing, damaged or something else."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    return {}
