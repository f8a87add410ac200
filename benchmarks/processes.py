"""How much faster do two processes of one core each train than one process on one core?

    python -m benchmarks.processes [--n=5] [--model=SqueezeNet]

Runs `main.py train` on the photographs of ../shared/data by turns: one process bound to one core, and
`torchrun --nproc-per-node=2` with a thread for each. A step has the same samples on both sides. Images/s are those of
the training part of the second epoch, from results.csv; the first warms up.
"""

import csv
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.common import PHOTOGRAPHS, ROOT, Report, arguments, hardware, ratios, spread

SIDES = {
    "one process, one core": [sys.executable],
    "two processes, two cores": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"],
}


def measure(folder, launcher, model, cores):
    """Images/s of the second epoch."""
    command = [*launcher, str(ROOT / "main.py"), "train", f"--train-data-root={PHOTOGRAPHS}", f"--model={model}"]
    options = ["--max-epoch=2", "--batch-size=32", "--vis-port=1", "--work-dir=runs", "--progress=False"]
    done = subprocess.run(
        [*command, *options],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    run = max(Path(folder, "runs").iterdir(), key=os.path.getmtime)
    with open(run / "results.csv", newline="", encoding="utf-8") as file:
        last = list(csv.DictReader(file))[-1]
    steps = int(last["step"]) / 2
    return min(32 * steps, len(list(PHOTOGRAPHS.iterdir())) * 0.7) / float(last["train_seconds"])


def main():
    """Measure and print."""
    parser = arguments(__doc__, 5)
    parser.add_argument("--model", default="SqueezeNet")
    given = parser.parse_args()
    if not PHOTOGRAPHS.is_dir():
        sys.exit(f"{PHOTOGRAPHS} is not there: this benchmark needs the photographs")
    report, results = Report(__file__), given.results.resolve()
    report(hardware("torch"))
    cores = sorted(os.sched_getaffinity(0))[:2]
    pace = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(given.n):
            for (side, launcher), bound in zip(SIDES.items(), (cores[:1], cores), strict=True):
                pace[side].append(measure(folder, launcher, given.model, bound))
    report(f"{given.model}, batch 32 over all processes, 224 pixels:")
    for side, values in pace.items():
        report(f"  {side}: {spread(values, 'images/s', 1)}")
    one, two = pace.values()
    report(f"  ratio: {ratios(two, one)}, of 2 at best")
    report.save(results)


if __name__ == "__main__":
    main()
