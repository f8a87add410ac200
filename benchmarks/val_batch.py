"""Which batch is best for validation on a CPU?

    python -m benchmarks.val_batch [--n=3]

Predictions of random pictures, in inference mode, by turns.
"""

import time

from utils.train import machine

machine.prepare()

import torch

import models
from benchmarks.common import Report, arguments, hardware, spread
from utils.train.device import native_precision

SIZES, PICTURES = (8, 16, 32, 64, 128, 256), 512


@torch.inference_mode()
def main():
    """Measure and print."""
    given, report = arguments(__doc__, 3).parse_args(), Report(__file__)
    report(hardware("torch"))
    for name in ("SqueezeNet", "ResNet34"):
        model = getattr(models, name)(num_classes=2).to(memory_format=torch.channels_last).eval()
        model.precision = native_precision(torch.device("cpu"))
        found = {size: [] for size in SIZES}
        for _ in range(given.n):
            for size, rates in found.items():
                input = torch.randn(size, 3, 224, 224).to(memory_format=torch.channels_last)
                with model.autocast():
                    model.predict(input)
                    began = time.perf_counter()
                    for _ in range(PICTURES // size):
                        model.predict(input)
                rates.append(PICTURES / (time.perf_counter() - began))
        report(f"{name}, 224 pixels, {model.precision}:")
        for size, rates in found.items():
            report(f"  batch {size:3}: {spread(rates, 'images/s', 1)}")
    report.save(given.results)


if __name__ == "__main__":
    main()
