"""How time per epoch, start-up and peak memory grow with the number of pictures.

    python -m benchmarks.growth    in the project's folder; a quarter of an hour on 2 cores, 2 GB of temporary files

For 1,000, 8,000 and 64,000 JPEGs of 96x96, drawn (64 different files under so many names), `main.py train` runs
SqueezeNet at 64 pixels for a few epochs: first with the pictures to be packed, then with them packed. Seconds of an
epoch, validation included, are those of results.csv; start-up is what else the process takes. Memory, over all
processes of the run, is the peak of what is theirs alone (RssAnon, RssShmem: a packed picture that was read is the
system's cache, not theirs) seen every 50 ms, and the largest resident set of one process, which counts that cache too.

Prints n, median and range of each, and the ratios to the smallest number of pictures.
"""

import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.common import ROOT, Report, arguments, hardware, spread

EVERY = 0.05  # seconds between two looks at the memory
DRAWN = 64  # different files; a file system allows so many names of one (ext4: 65,000)


def draw(folder):
    """DRAWN noisy JPEGs in `folder`: [path], cats reddish and dogs bluish by turns."""
    folder.mkdir()
    paths = [folder / f"{number}.jpg" for number in range(DRAWN)]
    for number, path in enumerate(paths):
        noise = np.random.default_rng(number).integers(0, 160, (96, 96, 3))
        noise[..., 2 * (number % 2)] += 90
        Image.fromarray(noise.astype(np.uint8)).save(path, quality=90)
    return paths


def link(paths, folder, count):
    """Give the files `count` names in `folder`, cat.0.jpg, dog.0.jpg, cat.1.jpg, ..."""
    folder.mkdir()
    for number in range(count):
        kind = "dog" if number % 2 else "cat"
        os.link(paths[number % DRAWN], folder / f"{kind}.{number // 2}.jpg")


def own_memory(pid):
    """Bytes of memory that the process and its children have to themselves."""
    total = 0
    try:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        total = sum(1024 * int(status[name].split()[0]) for name in ("RssAnon", "RssShmem"))
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += sum(map(own_memory, (task / "children").read_text().split()))
    except (OSError, KeyError):  # it has ended
        pass
    return total


def train(root, folder, epochs):
    """One training: (seconds of every epoch, seconds of all else, peak bytes of its own, largest resident set)."""
    runs = Path(tempfile.mkdtemp(dir=folder))
    options = ["--model=SqueezeNet", "--image-size=64", f"--max-epoch={epochs}", "--vis-port=1", "--progress=False"]
    folders = [f"--train-data-root={root}", f"--work-dir={runs}", f"--pack-dir={folder / 'packs'}"]
    command = [sys.executable, ROOT / "main.py", "train", *options, *folders]
    with open(runs / "output.txt", "w+") as output:
        began, peak, ended = time.perf_counter(), 0, 0
        streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(command, cwd=folder, **streams)
        while not ended:
            peak = max(peak, own_memory(process.pid))
            time.sleep(EVERY)
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            sys.exit(f"the training on {root} ended with {process.returncode}:\n{output.read()}")
    (results,) = runs.glob("*/results.csv")
    with open(results, newline="") as file:
        per_epoch = [float(row["seconds"]) for row in csv.DictReader(file)]
    return per_epoch, seconds - sum(per_epoch), peak, 1024 * usage.ru_maxrss


def measure(size, paths, folder, n, epochs, report):
    """Report on `size` pictures. Returns (median seconds of an epoch, median peak of memory, bytes)."""
    root = folder / "train"
    link(paths, root, size)
    packing, *packed = [train(root, folder, epochs) for _ in range(n + 1)]
    per_epoch, rest, own, largest = zip(*packed, strict=True)
    per_epoch = [seconds for epochs in per_epoch for seconds in epochs]
    per_thousand = [1000 * seconds / size for seconds in per_epoch]
    report(f"{size} pictures:")
    report(f"  an epoch              {spread(per_epoch, 's')}; per 1,000 pictures {spread(per_thousand, 's', 3)}")
    report(f"  start-up and end      {spread(rest, 's')}; {packing[1]:.2f} s when the pictures were to be packed")
    for name, part, values in (("peak of own memory", 2, own), ("largest resident set", 3, largest)):
        values = [value / 1e6 for value in values]
        report(f"  {name:21} {spread(values, 'MB', 0)}; {packing[part] / 1e6:.0f} MB when they were to be packed")
    return statistics.median(per_epoch), statistics.median(own)


def main():
    parser = arguments(__doc__, n=2)
    parser.add_argument("--sizes", default="1000,8000,64000", help="how many pictures, 1000,8000,64000")
    parser.add_argument("--epochs", type=int, default=3, help="of every training, 3")
    given = parser.parse_args()
    sizes = [int(size) for size in given.sizes.split(",")]
    report = Report(__file__)
    report(hardware("torch"))
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = draw(Path(folder, "drawn"))
        for size in sizes:
            with tempfile.TemporaryDirectory(dir=folder) as own:
                found[size] = measure(size, paths, Path(own), given.n, given.epochs, report)
    first_epoch, first_peak = found[sizes[0]]
    for size, (epoch, peak) in found.items():
        times, longer = size / sizes[0], epoch / first_epoch
        memory = f"{peak / first_peak:.3f} times the memory ({(peak - first_peak) / 1e6:+.0f} MB)"
        epoch = f"an epoch {longer:.2f} times as long, {longer / times:.3f} per picture"
        report(f"{times:g} times the pictures: {epoch}; {memory}")
    report.save(given.results)


if __name__ == "__main__":
    main()
