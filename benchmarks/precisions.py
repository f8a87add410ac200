"""A training step in each precision, and what --precision=auto takes.

    python -m benchmarks.precisions [--n=3] [--models SqueezeNet resnet18 ResNet34] [--sizes 32 64 112 160 224]

Forward and backward of random pictures, the precisions by turns, --n times, of which the median counts. auto decides by
a measurement of its own, with no memory of others, before them; here between fp32 and 16 bits also where the device
does not compute in these natively, and the program would not measure. "slower" is how much longer the step takes in
what auto took than in the faster of the two. The start-up cost is that of a first start and of one that remembers.
"""

import os
import statistics
import tempfile
import time
from types import SimpleNamespace

from utils.train import machine

machine.prepare()

import torch

import models
from benchmarks.common import Report, arguments, hardware
from utils.train import precision
from utils.train.device import native_precision, pick_device

BATCH = 32


class Noise:
    """A training set of random pictures [3, size, size] in two classes."""

    def __init__(self, size):
        self.inputs, self.targets = torch.randn(BATCH, 3, size, size), torch.arange(BATCH) % 2

    def begin_epoch(self, done):
        """Nothing changes."""

    def order(self, generator):
        """All, one after the other."""
        return torch.arange(BATCH)

    def __getitem__(self, index):
        return self.inputs[index], self.targets[index]

    def collate(self, samples):
        """Samples as a batch."""
        inputs, targets = zip(*samples, strict=True)
        return torch.stack(inputs), torch.stack(targets)

    def prepare(self, inputs, targets, generator):
        """The batch as it is."""
        return inputs, targets


def chosen(model, noise, size):
    """(what auto takes, seconds that its first start took to choose, seconds of one that remembers)."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        for _ in range(2):
            opt = SimpleNamespace(precision="auto", use_gpu=True, batch_size=BATCH, accumulate=1, seed=0)
            opt.image_size, opt.train_image_size = size, []
            begin = time.perf_counter()
            taken = precision.choose(opt, model, noise)
            seconds.append(time.perf_counter() - begin)
    return taken, *seconds


def main():
    """Measure and print a table."""
    parser = arguments(__doc__, 3)
    parser.add_argument("--models", nargs="+", default=["SqueezeNet", "resnet18", "ResNet34"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[32, 64, 112, 160, 224], help="pixels of a side")
    given, report, device = parser.parse_args(), Report(__file__), pick_device(True, asked=False)
    native = native_precision(device)
    kinds = "fp32", "bf16" if native == "fp32" else native
    precision.native_precision = lambda device: kinds[1]
    report(f"{hardware('torch')}; the lowest precision that the device computes natively is {native}")
    report(f"| model, pixels | {' | '.join(f'{kind}, ms' for kind in kinds)} | auto | slower | start-up, s |")
    report("|---" * (len(kinds) + 4) + "|")
    for name in given.models:
        for size in given.sizes:
            model, noise = getattr(models, name)(num_classes=2), Noise(size)
            taken, first, second = chosen(model, noise, size)
            trial = model.to(device, memory_format=torch.channels_last)
            input = noise.inputs.to(device, memory_format=torch.channels_last)
            rounds = [precision.step_times(trial, input, noise.targets.to(device), kinds) for _ in range(given.n)]
            samples = rounds[0][0]
            times = {kind: statistics.median(min(each[kind]) / of * samples for of, each in rounds) for kind in kinds}
            slower = 100 * (times[taken] / min(times.values()) - 1)
            figures = " | ".join(f"{1000 * one:.1f}" for one in times.values())
            report(f"| {name}, {size} | {figures} | {taken} | {slower:.1f} % | {first:.2f}, {second:.3f} |")
    report.save(given.results)


if __name__ == "__main__":
    main()
