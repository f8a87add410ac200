"""How long `help` and a mistake on the command line take to be answered, beside Python itself and `import torch`.

    python -m benchmarks.startup    in the project's folder; a minute

Every figure is a process of its own, from its start to its exit; they take turns. Prints ms: n, median, range, and
whether torch was loaded.
"""

import re
import statistics
import subprocess
import sys
import time

from benchmarks.common import ROOT, Report, arguments, hardware, spread

MAIN = str(ROOT / "main.py")
COMMANDS = {
    "help": [MAIN, "help"],
    "misspelt option": [MAIN, "train", "--leraning-rate=0.1"],
    "misspelt model": [MAIN, "train", "--model=ResNet43"],
    "python -c pass": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
}


def run(command, *flags):
    """(seconds, stderr) of Python with this command line."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, *flags, *command], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return time.perf_counter() - began, done.stderr


def main():
    given = arguments(__doc__, n=10).parse_args()
    report = Report(__file__)
    report(hardware("torch"))
    imports = {name: run(command, "-X", "importtime")[1] for name, command in COMMANDS.items()}
    times = {name: [] for name in COMMANDS}
    for _ in range(given.n):
        for name, command in COMMANDS.items():
            times[name].append(1e3 * run(command)[0])
    usual = statistics.median(times["import torch"])
    for name, values in times.items():
        share = statistics.median(values) / usual
        loaded = "loads torch" if re.search(r"\| +torch$", imports[name], re.MULTILINE) else "without torch"
        report(f"{name:15} {spread(values, 'ms', 0)}, ratio to import torch {share:.3f}, {loaded}")
    report.save(given.results)


if __name__ == "__main__":
    main()
