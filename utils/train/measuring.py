"""What a training measures before its first step: copies, steps that take turns, and a file that remembers them."""

import contextlib
import copy
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import torch

from utils.files import write_atomically

from .device import prepared, undisturbed
from .machine import processor

SECONDS, MOST = 1.0, 20  # of the steps of one kind that are timed; how many they are at most
FEW = 64  # samples that are read; larger batches have them several times
UNSTEADY = 1.5  # times the fastest step takes the median where other work disturbs
KEPT = 100  # measurements in a file


@contextlib.contextmanager
def rehearsal(
    model: Any, dataset: Any, seed: int, device: torch.device
) -> Iterator[tuple[Any, Callable[[int], tuple[Any, Any]]]]:
    """Within the block a copy of the model on the device, and a function: a number of samples -> (input, target), a
    batch of the first samples of training as they are prepared there. What the block draws of torch's random numbers
    leaves no trace."""
    copied = copy.deepcopy(model).to(device, memory_format=torch.channels_last)
    with undisturbed(copied):
        dataset.begin_epoch(1.0)
        order = dataset.order(torch.Generator().manual_seed(seed))[:FEW].tolist()
        items: list[Any] = []

        def batch(size: int) -> tuple[Any, Any]:
            items.extend(dataset[index] for index in order[len(items) : size])
            return prepared(dataset, dataset.collate([items[number % len(items)] for number in range(size)]), device)

        yield copied, batch


def turns(one_round: Callable[[], Mapping[Any, float]], seconds: float, least: int) -> dict[Any, list[float]]:
    """{name: what each round gave for it} of `least` rounds, and of more until they took `seconds`. A round has a
    turn of each name, so that what else the machine does meets all."""
    begin, rounds = time.perf_counter(), [one_round() for _ in range(least)]
    while len(rounds) < MOST and time.perf_counter() - begin < seconds:
        rounds.append(one_round())
    return {name: [one[name] for one in rounds] for name in rounds[0]}


def steady(steps: Mapping[Any, list[float]]) -> bool:
    """Whether no other work disturbed these, {name: seconds of some steps}."""
    return all(statistics.median(each) < UNSTEADY * min(each) for each in steps.values())


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def described(device: torch.device, model: Any, image_size: Any, size: Any) -> str:
    """What a measurement depends on, in words."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    parameters = [(one.numel(), one.requires_grad) for one in model.parameters()]
    total, learning = sum(number for number, _ in parameters), sum(number for number, learns in parameters if learns)
    threads = f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    return f"{name}, {threads}, {model.model_name}, {learning} of {total} parameters, {image_size} pixels, {size}"


def cache_file(name: str) -> Path:
    """Where measurements are remembered: hearth/<name>.json in $XDG_CACHE_HOME, or in ~/.cache."""
    folder = os.environ.get("XDG_CACHE_HOME", "")
    return Path(folder if os.path.isabs(folder) else os.path.expanduser("~/.cache"), "hearth", f"{name}.json")


def known(
    file: str, key: str, names: Sequence[str], measure: Callable[[], tuple[int, dict[Any, list[float]]]]
) -> tuple[int, dict[str, float], str]:
    """(samples, {name: seconds of the fastest step}, where that is from, in words) of the measurement `key` in a
    cache_file, if it is whole and has these names; else of `measure()`, which gives all steps, and where they were
    steady are remembered."""
    path = cache_file(file)
    samples, times = remembered(path, key)
    if times.keys() >= {*names}:
        return samples, times, f"as measured before, see {path}"
    begin = time.perf_counter()
    samples, steps = measure()
    how = f"measured in {time.perf_counter() - begin:.1f} s"
    times = {str(name): min(each) for name, each in steps.items()}
    if steps and steady(steps):
        remember(path, key, samples, times)
    elif samples:
        how += " and not remembered, because other work slowed some steps"
    return samples, times, how


def remembered(path: Path, key: str) -> tuple[int, dict[str, float]]:
    """(samples, {name: seconds}) of the measurement `key` in the file; (0, {}) where it is not there, or not whole."""
    with contextlib.suppress(LookupError, TypeError, ValueError, AttributeError):
        found = content(path)[key]
        times = {name: float(seconds) for name, seconds in found["seconds"].items()}
        if all(0 < one < math.inf for one in times.values()):
            return int(found["samples"]), times
    return 0, {}


def remember(path: Path, key: str, samples: int, times: dict[str, float]) -> None:
    """Add a measurement to the file, for its user alone, if that can be written."""
    others = {name: value for name, value in content(path).items() if name != key}
    rows = [*others.items(), (key, {"samples": samples, "seconds": times})][-KEPT:]

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
