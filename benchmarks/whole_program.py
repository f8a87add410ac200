"""The whole program, one epoch of a model on the Dogs vs. Cats photographs, against the book's and Lightning's.

    python -m benchmarks.whole_program    in the project's folder; a quarter of an hour on 2 cores

SqueezeNet, or what --model names, 224 pixels, batches of 32, Adam, 70 % to train on and 30 % to validate on. Every side
is a process of its own, timed from its start to its exit; the sides take turns. The book and Lightning run in
benchmarks/.venv, which the first call makes and fills from PyPI (5 GB), and have two workers, as in the book;
Lightning's tuned variant has the number of workers that was the fastest in two rounds before. hearth first packs the
pictures, then, in the same turn, finds them packed.

Prints seconds of the whole program and of the training phase alone (from asking for the first batch to the end of the
last step): n, median, range, pictures/s; and the ratio of hearth to each.
"""

import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import PHOTOGRAPHS, ROOT, Report, arguments, hardware, ratios, spread

VENV = Path(__file__).resolve().with_name(".venv")
REQUIREMENTS = Path(__file__).resolve().parent / "baselines" / "requirements.txt"
OURS = {"squeezenet1_1": "SqueezeNet", "resnet34": "ResNet34"}  # torchvision's names of what is here, too
LOADS = "import lightning, torchnet.meter, torchvision"  # what the others import


def environment():
    """The Python of benchmarks/.venv, which is made where it is not there yet."""
    python, done = VENV / "bin" / "python", VENV / "installed.txt"
    if not done.exists() or done.read_text() != REQUIREMENTS.read_text():
        print(f"making {VENV}: 5 GB", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
        Path(VENV, ".gitignore").write_text("*\n")
        constraints = {name: str(ROOT / "constraints.txt") for name in ("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT")}
        command = [python, "-m", "pip", "install", "--quiet", "-r", REQUIREMENTS]
        subprocess.run(command, check=True, env={**os.environ, **constraints})
        done.write_text(REQUIREMENTS.read_text())
    return python


def timed(command, cwd):
    """(seconds from start to exit, stdout) of a program that has to succeed."""
    began = time.perf_counter()
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return seconds, done.stdout


def other(python, root, cwd, module, *options):
    """(seconds of the whole program, of its training phase) of one of the baselines."""
    command = [python, "-m", f"benchmarks.baselines.{module}", f"--root={root}", *options]
    seconds, printed = timed(command, cwd)
    return seconds, float(printed.split()[-1])


def hearth(root, cwd, pack_dir, model):
    """(seconds of the whole program, of its training phase) of hearth."""
    runs = Path(tempfile.mkdtemp(dir=cwd))
    options = [f"--model={OURS.get(model, model)}", "--batch-size=32", "--image-size=224", "--max-epoch=1"]
    options += ["--vis-port=1", "--progress=False"]
    folders = [f"--train-data-root={root}", f"--work-dir={runs}", f"--pack-dir={pack_dir}"]
    seconds, _ = timed([sys.executable, ROOT / "main.py", "train", *options, *folders], cwd)
    (results,) = runs.glob("*/results.csv")
    with open(results, newline="") as file:
        (row,) = csv.DictReader(file)
    return seconds, float(row["train_seconds"])


def fastest(python, root, cwd, model, workers, report):
    """With how many workers Lightning's tuned variant takes the least time, by the better of two measurements."""
    tried = {number: [] for number in workers}
    for _ in range(2):
        for number, seconds in tried.items():
            options = "--tuned", f"--num-workers={number}", f"--model={model}"
            seconds.append(other(python, root, cwd, "lightning_fit", *options)[0])
    listed = (f"{number} workers {min(seconds):.1f} s" for number, seconds in tried.items())
    report(f"Lightning tuned, the better of two: {', '.join(listed)}")
    return min(tried, key=lambda number: min(tried[number]))


def measure(n, model, workers, root, cwd, report):
    """{side: [(seconds of the whole program, of the training phase), ...]}, the sides by turns."""
    python = environment()
    subprocess.run([python, "-c", LOADS], check=True)  # else the first to run would compile and read it all
    for path in root.iterdir():
        path.read_bytes()
    listed = [f"import {name}; print({name}.__version__)" for name in ("torch", "torchvision", "lightning")]
    versions = [subprocess.check_output([python, "-c", line], text=True).strip() for line in listed]
    report("the others: torch {}, torchvision {}, lightning {}".format(*versions))
    best = fastest(python, root, cwd, model, workers, report)
    named = f"--model={model}"
    times = {}
    for turn in range(n):
        packs = Path(cwd, f"packs_{turn}")
        sides = {
            "book": lambda: other(python, root, cwd, "book", named),
            "Lightning": lambda: other(python, root, cwd, "lightning_fit", named),
            f"Lightning tuned, {best} workers": lambda: other(
                python, root, cwd, "lightning_fit", named, "--tuned", f"--num-workers={best}"
            ),
            "hearth, packing": lambda packs=packs: hearth(root, cwd, packs, model),
            "hearth": lambda packs=packs: hearth(root, cwd, packs, model),
        }
        for name, run in sides.items():
            times.setdefault(name, []).append(run())
            print(f"turn {turn + 1}: {name}: {times[name][-1][0]:.1f} s", file=sys.stderr, flush=True)
    return times


def main():
    parser = arguments(__doc__, n=3)
    parser.add_argument("--root", type=Path, default=PHOTOGRAPHS, help=f"folder of photographs, {PHOTOGRAPHS}")
    parser.add_argument("--model", default="squeezenet1_1", help="torchvision's name of it, squeezenet1_1")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 3], help="to try with Lightning, 1 2 3")
    given = parser.parse_args()
    pictures = sum(path.suffix == ".jpg" for path in given.root.iterdir()) if given.root.is_dir() else 0
    if not pictures:
        print(f"whole_program: no photographs in {given.root}: give a folder of cat.0.jpg, dog.0.jpg, ... with --root")
        sys.exit(2)
    report = Report(__file__)
    report(f"{hardware('torch')}: {given.model}")
    with tempfile.TemporaryDirectory() as cwd:
        times = measure(given.n, given.model, given.workers, given.root.resolve(), cwd, report)
    for part, counted, phase in ((0, pictures, "whole program"), (1, int(0.7 * pictures), "training phase")):
        report(f"{phase}, {counted} pictures:")
        for name, values in times.items():
            seconds = [value[part] for value in values]
            ours = ratios([value[part] for value in times["hearth"]], seconds)
            rate = counted / statistics.median(seconds)
            report(f"  {name:26} {spread(seconds, 's')}, {rate:5.1f} pictures/s; hearth / this: {ours}")
    report.save(given.results)


if __name__ == "__main__":
    main()
