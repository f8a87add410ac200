"""What GOMP_SPINCOUNT=1000, which utils/train/machine.py sets, does to a training step on idle and on busy cores.

    python benchmarks/threads.py

A step is ResNet34 on 32 pictures of 64x64, forward, backward and Adam. Busy: one endless loop per core runs beside it.
Every figure is from a process of its own; the two settings take turns. Prints images/s: n, median, spread, ratio.
"""

import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

ROUNDS, STEPS = 3, 12

STEP = f"""
import time, torch, models
torch.manual_seed(0)
model = models.ResNet34().to(memory_format=torch.channels_last)
optimizer = model.get_optimizer("Adam", 1e-3, 1e-4, 0.9)
input, target = torch.randn(32, 3, 64, 64), torch.arange(32) % 2
for step in range({STEPS} + 2):
    began = time.perf_counter()
    optimizer.zero_grad()
    model.objective(input, target)[1]["loss"].backward()
    optimizer.step()
    if step >= 2:
        print(32 / (time.perf_counter() - began))
"""


def measure(spin):
    """Images/s of every step of one process; spin: GOMP_SPINCOUNT, or None to leave it alone."""
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    environment |= {"PYTHONPATH": str(Path(__file__).parent.parent)} | ({"GOMP_SPINCOUNT": spin} if spin else {})
    done = subprocess.run([sys.executable, "-c", STEP], env=environment, capture_output=True, text=True, check=True)
    return [float(line) for line in done.stdout.split()]


def main():
    from importlib.metadata import version

    print(
        f"torch {version('torch')}, python {platform.python_version()}, {os.cpu_count()} cores, {platform.platform()}"
    )
    for name, loops in (("idle", 0), ("busy", os.cpu_count())):
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
        try:
            rates = {None: [], "1000": []}
            for _ in range(ROUNDS):
                for spin, values in rates.items():
                    values += measure(spin)
        finally:
            for process in busy:
                process.kill()
        medians = {spin: statistics.median(values) for spin, values in rates.items()}
        for spin, values in rates.items():
            low, _, high = statistics.quantiles(values, n=4)
            spread = f"n {len(values)}, median {medians[spin]:6.1f} images/s, middle half {low:.1f} to {high:.1f}"
            ratio = medians[spin] / medians[None]
            print(f"{name} cores, GOMP_SPINCOUNT={spin or 'unset':5}: {spread}, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
