"""What the trackers cost a run that has no internet: seconds from its start to its exit, of its
start and its end alone, and time per step.

    python -m benchmarks.trackers    in the project's folder; some minutes

Each run is a process of its own in a network namespace without any network (unshare, where the system allows it),
trains the same small table of numbers and draws every step; without and with each tracker they take turns. ClearML's
zip is made after the exit: its seconds are a line of their own. Prints n, median and range.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import ROOT, Report, arguments, hardware, spread

TRAIN = ["train", "--config=Heart", "--vis-port=1", "--keep-every=0", "--print-freq=1", "--batch-size=100"]
TRACKERS = ("no tracker", "TensorBoard", "Trackio", "ClearML")


def train(tracker, epochs, network):
    """(seconds to the exit, those of them before the first step and after the last, ms per step between the two,
    seconds after the exit until ClearML's zip is there)."""
    chosen = [] if tracker == TRACKERS[0] else [f"--callbacks={tracker}"]
    command = [*network, sys.executable, str(ROOT / "main.py"), *TRAIN, f"--max-epoch={epochs}", *chosen]
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        subprocess.run(command, cwd=folder, check=True, stdin=-3, stdout=-3, stderr=-3)
        seconds = time.perf_counter() - began
        (run,) = Path(folder, "checkpoints").iterdir()
        while tracker == "ClearML" and ((run / "clearml").exists() or not (run / "clearml.zip").exists()):
            time.sleep(0.1)
        zipped = time.perf_counter() - began - seconds
        events = map(json.loads, (run / "events.jsonl").read_text().splitlines())
        times = [event["time"] for event in events if event.get("name") == "loss"]
    steps = times[-1] - times[0]
    return seconds, seconds - steps, 1e3 * steps / (len(times) - 1), zipped


def main():
    parser = arguments(__doc__, n=5)
    parser.add_argument("--epochs", type=int, default=3)
    given = parser.parse_args()
    network = ["unshare", "--map-root-user", "--net"]
    if not shutil.which("unshare") or subprocess.run([*network, "true"], capture_output=True).returncode:
        network = []
    report = Report(__file__)
    report(hardware("torch", "tensorboard", "trackio", "clearml"))
    report("no network at all" if network else "with this machine's network: no namespace can be made")
    found = {name: [] for name in TRACKERS}
    for _ in range(given.n):
        for name in TRACKERS:
            found[name].append(train(name, given.epochs, network))
    for name, measured in found.items():
        seconds, ends, step, zipped = zip(*measured, strict=True)
        report(f"{name:12} {spread(seconds, 's')}; start and end {spread(ends, 's')}; a step {spread(step, 'ms')}")
    report(f"ClearML's zip after the exit: {spread(zipped, 's')}")
    report.save(given.results)


if __name__ == "__main__":
    main()
