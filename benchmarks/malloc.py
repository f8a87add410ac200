"""Does it pay to keep freed memory (utils/train/machine.py)?

    python -m benchmarks.malloc [--n=3]

Trains each model on a synthetic batch in processes of its own, with and without, by turns.
"""

import json
import os
import subprocess
import sys

from benchmarks.common import ROOT, Report, arguments, hardware, ratios, spread

STEPS = """
import json, resource, sys, time
from utils.train import machine
if sys.argv[3] == "kept":
    machine.prepare()
import torch, models
from utils.train.device import native_precision
from utils.train.step import TrainStep
model = getattr(models, sys.argv[1])(num_classes=2).to(memory_format=torch.channels_last).train()
model.precision = native_precision(torch.device("cpu"))
step = TrainStep(model, model.get_optimizer("Adam", 0.001, 1e-4, 0.9), precision=model.precision)
batch = torch.randn(32, 3, 224, 224).to(memory_format=torch.channels_last), torch.randint(0, 2, (32,))
times = []
for number in range(int(sys.argv[2]) + 2):
    began, faults = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for input, target in step.micro_batches(*batch):
        score, losses = step.objective(input, target)
        step.backward(losses, score)
    step.apply(number)
    times.append(time.perf_counter() - began)
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([32 / sorted(times[2:])[len(times[2:]) // 2], used.ru_minflt - faults, used.ru_maxrss / 1024]))
"""


def main():
    """Measure and print."""
    given, report = (parser := arguments(__doc__, 3)).parse_args(), Report(__file__)
    report(hardware("torch"))
    environment = {**os.environ, "GOMP_SPINCOUNT": "1000"}
    sides = {"as glibc does it": "given back", "memory is kept": "kept"}
    for model, steps in (("SqueezeNet", 12), ("ResNet34", 4)):
        found = {side: [] for side in sides}
        for _ in range(given.n):
            for side, way in sides.items():
                command = [sys.executable, "-c", STEPS, model, str(steps), way]
                done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
                if done.returncode:
                    parser.error(done.stderr)
                found[side].append(json.loads(done.stdout))
        report(f"{model}, batch 32, 224 pixels, a training step:")
        for side, rows in found.items():
            rates, faults, peaks = zip(*rows, strict=True)
            report(
                f"  {side}: {spread(rates, 'images/s', 1)}; {faults[-1]} page faults a step, peak {max(peaks):.0f} MB"
            )
        report(f"  ratio {ratios(*([row[0] for row in found[side]] for side in reversed(sides)))}")
    report.save(given.results)


if __name__ == "__main__":
    main()
