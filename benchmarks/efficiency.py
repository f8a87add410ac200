"""How much of the hardware's pace is left when the pictures have to be read and augmented, too?

    python -m benchmarks.efficiency [--n=4] [--models SqueezeNet ResNet34] [--root=FOLDER]

Trains with the real program on the photographs of ../shared/data, or of another folder. After every 11 steps the same
model takes as many on one synthetic batch that lies on the device already, with the same precision and optimizer: the
limit. Their ratio is the efficiency; the first epoch, which warms everything up, is not counted. On a GPU also the
share of its peak that the limit reaches (FLOPs of the forward times 3; --peak in TFLOP/s, 989 for an H100 or H200 in
bf16).
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import main as program  # prepares the machine, before torch is loaded

# isort: split
import torch

import models
from benchmarks.common import PHOTOGRAPHS, arguments, hardware, spread, statistics
from benchmarks.common import Report as Printer
from data.pictures.augment import normalise
from utils import watch
from utils.train.device import native_precision, pick_device
from utils.train.step import TrainStep
from utils.watch.model_summary import summary
from utils.watch.progress import Progress

BLOCK = 11  # steps: on these machines the pace changes from minute to minute


def measure(name, n, root, batch_size, image_size):
    """(images/s of every block of steps but the first epoch's, those of the limit after each, FLOPs of a forward)."""
    programs, limits = [], []

    class Recorder(Progress):
        """Takes the time of every BLOCK steps of the program, and right after them that of as many at the limit."""

        def on_epoch_begin(self, **facts):
            super().on_epoch_begin(**facts)
            self.began, self.done, self.steps = now(), self._seen(), 0

        def on_batch_end(self, **facts):
            super().on_batch_end(**facts)
            self.steps += 1
            if self.steps % BLOCK == 0:
                if self.run.epoch:  # the first epoch warms up
                    programs.append((self._seen() - self.done) / (now() - self.began))
                    limits.append(limit(BLOCK))
                self.began, self.done = now(), self._seen()

    def limit(steps):
        began = now()
        for number in range(steps):
            for input, target in step.micro_batches(*batch):
                score, losses = step.objective(input, target)
                step.backward(losses, score)
            step.apply(number)
        return steps * batch_size / (now() - began)

    def prepare():
        """(TrainStep of the model, a batch on the device, FLOPs of a forward for one picture)."""
        device = pick_device(use_gpu=True, asked=False)
        model = getattr(models, name)(num_classes=2).to(device, memory_format=torch.channels_last)
        model.precision = native_precision(device)
        optimizer = model.get_optimizer("Adam", 0.001, 1e-4, 0.9)
        random = torch.randint(0, 256, (batch_size, 3, image_size, image_size), dtype=torch.uint8, device=device)
        batch = normalise(random), torch.randint(0, 2, (batch_size,), device=device)
        flops = summary(model, batch[0][:1])["flops"]
        return TrainStep(model.train(), optimizer, precision=model.precision), batch, flops

    watch.Progress = Recorder
    step, batch, flops = prepare()
    program.train(
        model=name,
        train_data_root=str(root),
        batch_size=batch_size,
        image_size=image_size,
        max_epoch=n + 1,
        scheduler="constant",
        vis_port=1,
        progress=False,
    )
    return programs, limits, flops


def now():
    """Seconds, when everything asked of the device is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def main():
    """Measure and print."""
    parser = arguments(__doc__, 4)
    parser.add_argument("--root", type=Path, default=PHOTOGRAPHS, help=f"folder of photographs, {PHOTOGRAPHS}")
    parser.add_argument("--models", nargs="+", default=["SqueezeNet", "ResNet34"])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--peak", type=float, default=0, help="TFLOP/s that the GPU has in this precision")
    given = parser.parse_args()
    if not given.root.is_dir():
        sys.exit(f"{given.root} is not there: this benchmark needs photographs")
    report = Printer(__file__)
    report(hardware("torch", "torchvision"))
    results, root = given.results.resolve(), given.root.resolve()
    for name in given.models:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            programs, limits, flops = measure(name, given.n, root, given.batch_size, given.image_size)
        ratios = [one / limit for one, limit in zip(programs, limits, strict=True)]
        report(f"{name}, batch {given.batch_size}, {given.image_size} pixels:")
        report(f"  the program, images/s: {spread(programs, 'images/s', 1)}")
        report(f"  the limit, images/s:   {spread(limits, 'images/s', 1)}")
        idle = [given.batch_size * (1000 / one - 1000 / limit) for one, limit in zip(programs, limits, strict=True)]
        report(f"  a step takes longer by: {spread(idle, 'ms')}, which a GPU is idle")
        low, middle, high = statistics.quantiles(ratios, n=4)
        report(f"  efficiency: n {len(ratios)}, median {middle:.3f}, middle half {low:.3f} to {high:.3f}")
        if given.peak:
            report(f"  share of the peak: {3 * flops * statistics.median(limits) / given.peak / 1e12:.3f}")
    report.save(results)


if __name__ == "__main__":
    main()
