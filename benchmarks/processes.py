"""How much faster do two processes of one core each train than one process on one core?

    python -m benchmarks.processes [--n=5] [--model=SqueezeNet]

Runs `main.py train` on the photographs of ../shared/data by turns: one process bound to one core, and
`torchrun --nproc-per-node=2` with a thread for each. A step has the same samples on both sides. What the machine itself
gives is shown by two runs of half the batch at once, each on a core of its own, which share nothing. Images/s are those
of the training part of the second epoch, from results.csv; the first warms up.
"""

import csv
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.common import PHOTOGRAPHS, ROOT, Report, arguments, hardware, ratios, spread

ONE, TWO, APART = "one process, one core", "two processes, two cores", "two runs at once, a core each"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def start(folder, launcher, model, batch_size, cores):
    """Start a training that is bound to these cores."""
    command = [sys.executable, *launcher, str(ROOT / "main.py"), "train", f"--train-data-root={PHOTOGRAPHS}"]
    command += ["--use-gpu=False", "--vis-port=1", "--progress=False"]
    options = [f"--model={model}", f"--batch-size={batch_size}", "--max-epoch=2"]
    return subprocess.Popen(
        [*command, *options, f"--work-dir={folder}", f"--pack-dir={folder.parent}"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )


def end(process, folder, batch_size):
    """Images/s of the second epoch."""
    printed, _ = process.communicate()
    if process.returncode:
        sys.exit(printed)
    (run,) = folder.iterdir()
    with open(run / "results.csv", newline="", encoding="utf-8") as file:
        last = list(csv.DictReader(file))[-1]
    return batch_size * int(last["step"]) / 2 / float(last["train_seconds"])


def measure(place, side, model, cores):
    """Images/s of one side."""
    each, launcher = (16, []) if side == APART else (32, TORCHRUN if side == TWO else [])
    bound = [cores[:1], cores[1:]] if side == APART else [cores if side == TWO else cores[:1]]
    folders = [Path(tempfile.mkdtemp(dir=place)) for _ in bound]
    started = [start(folder, launcher, model, each, cores) for folder, cores in zip(folders, bound, strict=True)]
    return sum(end(process, folder, each) for process, folder in zip(started, folders, strict=True))


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
    pace = {side: [] for side in (ONE, TWO, APART)}
    with tempfile.TemporaryDirectory() as place:
        for _ in range(given.n):
            for side, values in pace.items():
                values.append(measure(place, side, given.model, cores))
    report(f"{given.model}, batch 32 over all processes, 224 pixels:")
    for side, values in pace.items():
        report(f"  {side}: {spread(values, 'images/s', 1)}; ratio {ratios(values, pace[ONE])}")
    report.save(results)


if __name__ == "__main__":
    main()
