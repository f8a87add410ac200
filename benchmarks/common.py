"""What the benchmarks share: what machine this is, medians with their spread, and the section in RESULTS.md."""

import argparse
import os
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path

from utils.train.machine import processor

ROOT = Path(__file__).resolve().parent.parent
PHOTOGRAPHS = ROOT.parent / "shared" / "data" / "dogcat" / "train"


def arguments(doc, n):
    """A parser of the options that every benchmark has; `doc` is its docstring, `n` how often it measures."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=n, help=f"measurements of each side, {n}")
    results = Path(__file__).with_name("RESULTS.md")
    parser.add_argument("--results", type=Path, default=results, help="file that the results are appended to")
    return parser


class Report:
    """Prints lines as they come; `save` appends them to a file of results, in a section of their own."""

    def __init__(self, script):
        self.title, self.lines = f"## {Path(script).name}, {time.strftime('%Y-%m-%d')}", []

    def __call__(self, line):
        print(line, flush=True)
        self.lines.append(line)

    def save(self, path):
        with open(path, "a", encoding="utf-8") as file:
            file.write("\n" + "\n".join([self.title, "", "```", *self.lines, "```"]) + "\n")


def hardware(*packages):
    """One line: versions, machine, and how busy it is."""
    versions = "".join(f"{name} {version(name)}, " for name in packages)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    machine = f"{cores} cores of {processor()}{gpu()}, {platform.platform()}, load {os.getloadavg()[0]:.1f}"
    return f"{versions}python {platform.python_version()}, {machine}"


def gpu():
    """The GPU's name as ", name", or nothing where there is none."""
    import torch  # here, so that a benchmark of main.py's start does not pay for it

    return f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""


def spread(values, unit, digits=2):
    """n, median and range of measurements, as text."""
    low, high = min(values), max(values)
    middle = statistics.median(values)
    return f"n {len(values)}, median {middle:.{digits}f} {unit}, {low:.{digits}f} to {high:.{digits}f}"


def ratios(values, others):
    """How many times `others` the `values` are: of the medians, and of every pair that was measured in one turn."""
    pairs = [one / other for one, other in zip(values, others, strict=True)]
    ratio = statistics.median(values) / statistics.median(others)
    return f"{ratio:.3f} (turn by turn {min(pairs):.3f} to {max(pairs):.3f})"
