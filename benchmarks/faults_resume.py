"""Does a run that was stopped and resumed end in the same bits as one that was not?

    python -m benchmarks.faults_resume [--n=1]    in the project's folder; some ten minutes on 2 cores

Stops `main.py train` at the end of an epoch, in the middle of one and of an accumulated batch, with 0 and 2 workers, in
fp32 and bf16, with and without a moving average, as one process and as two under torchrun; resumes it, and
compares every tensor and number of last.pth and every point of events.jsonl with the undisturbed run's. A model with
BatchNorm and dropout, pictures drawn here. Prints a line per case and the largest difference of all.
"""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.common import ROOT, Report, arguments, hardware
from utils.run.checkpoint_file import read_checkpoint

OPTIONS = ["--model=mobilenet_v2", "--width=0.25", "--image-size=32", "--batch-size=8", "--vis-port=1", "--pack=False"]
OPTIONS += ["--print-freq=1", "--progress=False"]
EPOCHS = 4


def draw(folder):
    """20 cats and 20 dogs, noise."""
    folder.mkdir()
    for number in range(40):
        noise = np.random.default_rng(number).integers(0, 256, (40, 48, 3)).astype(np.uint8)
        Image.fromarray(noise).save(folder / f"{('cat', 'dog')[number % 2]}.{number}.jpg")


def launch(folder, processes, *options):
    """Start a training in `folder`."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.Popen(
        [sys.executable, *(torchrun if processes > 1 else []), str(ROOT / "main.py"), "train", *options],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def end(process, expected):
    """Wait for its end, which has to be of one of these exit codes."""
    printed, _ = process.communicate(timeout=300)
    if process.returncode not in expected:
        sys.exit(f"exit code {process.returncode}: {printed}")


def run_of(folder):
    (run,) = (folder / "checkpoints").iterdir()
    return run


def steps(folder):
    """How many steps have been recorded."""
    files = list(folder.glob("checkpoints/*/events.jsonl"))
    return sum(line.count('"loss"') for line in files[0].read_text().splitlines()) if files else 0


def disturbed(folder, processes, options, moment, chance):
    """Train, stop at the moment, resume to the end."""
    if moment == "end of epoch":
        end(launch(folder, processes, *options, f"--max-epoch={EPOCHS // 2}"), [0])
    else:
        process, wanted = launch(folder, processes, *options, f"--max-epoch={EPOCHS}"), chance.randint(1, 13)
        while steps(folder) < wanted and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        end(process, [143, 1])  # torchrun's is 1
    end(launch(folder, processes, f"--resume={run_of(folder)}", f"--max-epoch={EPOCHS}"), [0])


def difference(one, other):
    """The largest difference of two nested states; infinite where they are not of the same shape."""
    if isinstance(one, torch.Tensor):
        if one.shape != other.shape or one.dtype != other.dtype:
            return float("inf")
        return (one.double() - other.double()).abs().max().item() if one.numel() else 0.0
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return float("inf")
        return max((difference(one[key], other[key]) for key in one), default=0.0)
    if isinstance(one, (list, tuple)):
        return max((difference(*pair) for pair in zip(one, other, strict=True)), default=0.0)
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) if one == one or other == other else 0.0
    return 0.0 if one == other else float("inf")


def outcome(folder):
    """All that a run leaves: its state but for the options, and the last value of every point."""
    content = read_checkpoint(run_of(folder) / "last.pth")
    del content["info"]
    points = {}
    for line in (run_of(folder) / "events.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["kind"] == "plot":
            points[f"{event['name']} {event['x']}"] = float(event["y"])
    return {**content, "points": points}


def main():
    """Measure and print."""
    given = arguments(__doc__, 1).parse_args()
    report, results, chance, worst = Report(__file__), given.results.resolve(), random.Random(5), 0.0
    report(hardware("torch"))
    moments = "end of epoch", "middle of epoch", "middle of a batch"
    with tempfile.TemporaryDirectory() as place:
        draw(Path(place) / "train")
        for processes, precision, ema in itertools.product((1, 2), ("fp32", "bf16"), ("0", "0.9")):
            for moment, workers in itertools.product(moments, (0, 2)):
                parts = 2 if moment == "middle of a batch" else 1
                options = [*OPTIONS, f"--train-data-root={place}/train", f"--precision={precision}", f"--ema={ema}"]
                options += [f"--num-workers={workers}", f"--accumulate={parts}"]
                calm = Path(place) / f"calm {processes} {precision} {ema} {parts}"
                if not calm.exists():  # the number of workers changes nothing
                    calm.mkdir()
                    end(launch(calm, processes, *options, f"--max-epoch={EPOCHS}"), [0])
                for turn in range(given.n):
                    folder = Path(place) / f"{moment} {processes} {precision} {ema} {workers} {turn}"
                    folder.mkdir()
                    disturbed(folder, processes, options, moment, chance)
                    found = difference(outcome(calm), outcome(folder))
                    worst = max(worst, found)
                    case = f"{processes} processes, {precision}, ema {ema}, {workers} workers"
                    report(f"  {case}, stopped at the {moment}: {found:g}")
    report(f"largest difference of any weight, optimizer state, meter and logged number: {worst:g}")
    report.save(results)


if __name__ == "__main__":
    main()
