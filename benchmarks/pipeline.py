"""The input pipeline alone: the book's Pillow and torchvision in a DataLoader, against hearth's packed pictures.

    python -m benchmarks.pipeline    in the project's folder; five minutes on 2 cores

Both sides go through the training part of the Dogs vs. Cats photographs in batches of 32 and end with what the model
eats: random crop to 224, flip, normalised float32 [32, 3, 224, 224]. The book's is one process, or one or two workers;
hearth's, packed before the clock starts, is one process with one thread, or two; where there is a GPU, one more with
the pictures in its memory, that prepares them there. Turn by turn.

Prints pictures/s per core, once as the rate over the cores used (a worker each, whose parent only waits; a thread
each) and once as pictures per second of CPU time, over all processes: n, median, range, and hearth's
ratios to the book's three.
"""

import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # utils/train/machine.py explains it

import torch
from torch.utils.data import DataLoader

import data
from benchmarks.baselines import book
from benchmarks.common import PHOTOGRAPHS, Report, arguments, hardware, spread
from utils.train.loader import batches, make_loader

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def book_batches(root, workers):
    """A function that goes through the book's loader once and yields inputs."""
    loader = DataLoader(book.DogCat(root, "train"), 32, shuffle=True, num_workers=workers)
    return lambda: (input for input, _ in loader)


def hearth_batches(root, packs, device):
    """A function that goes through hearth's loader once and yields inputs, as main.py's loop makes them."""
    dataset = data.DogCat(root, "train", image_size=224, pack=True, pack_dir=packs)
    dataset.cache_on(device, "auto")
    loader = make_loader(dataset, 32, num_workers=0, seed=0, device=device)

    def inputs():
        run = SimpleNamespace(epoch=0, batch=0, step=0, done=0.0)
        for input, _ in batches(loader, run, device):
            yield input
            run.step += 1

    return inputs


def clock(inputs, threads, cores):
    """(pictures per second and core, pictures per second of CPU time) of going through all batches once."""
    torch.set_num_threads(threads)
    used, began, pictures = cpu_seconds(), time.perf_counter(), 0
    for input in inputs():
        assert input.dtype == torch.float32 and input.shape[1:] == (3, 224, 224)
        pictures += len(input)
    if input.is_cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    return pictures / seconds / cores, pictures / (cpu_seconds() - used)


def cpu_seconds():
    """CPU time of this process and of its children that have ended, as a loader's workers have after an epoch."""
    kinds = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, kinds))


def main():
    parser = arguments(__doc__, n=5)
    parser.add_argument("--root", type=Path, default=PHOTOGRAPHS, help=f"folder of photographs, {PHOTOGRAPHS}")
    given = parser.parse_args()
    if not given.root.is_dir():
        print(f"pipeline: no photographs in {given.root}: give a folder of cat.0.jpg, dog.0.jpg, ... with --root")
        sys.exit(2)
    report = Report(__file__)
    report(hardware("torch", "torchvision", "pillow"))
    with tempfile.TemporaryDirectory() as folder:
        packed = hearth_batches(given.root, folder, torch.device("cpu"))
        sides = {f"book, {n} workers": (book_batches(given.root, n), 1, max(n, 1)) for n in (0, 1, 2)}
        sides |= {f"hearth, {n} threads": (packed, n, n) for n in (1, 2)}
        if torch.cuda.is_available():
            sides["hearth, GPU"] = hearth_batches(given.root, folder, torch.device("cuda")), 1, 1
        rates = {name: [] for name in sides}
        for _ in range(given.n):
            for name, side in sides.items():
                rates[name].append(clock(*side))
    for part, unit in ((0, "pictures/s per core"), (1, "pictures/s of CPU time")):
        values = {name: [pair[part] for pair in pairs] for name, pairs in rates.items()}
        usual = {name: statistics.median(numbers) for name, numbers in values.items() if name.startswith("book")}
        report(f"{unit}:")
        for name, numbers in values.items():
            middle = statistics.median(numbers)
            times = "" if name in usual else ", ratios " + ", ".join(f"{middle / rate:.2f}" for rate in usual.values())
            report(f"  {name:17} {spread(numbers, '/s', 1)}{times}")
    report.save(given.results)


if __name__ == "__main__":
    main()
