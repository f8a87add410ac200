"""SIGTERM and SIGINT at random moments: exit code, steps that are lost, and the weights in the end.

    python -m benchmarks.faults_signals    in the project's folder; two minutes

A run is stopped again and again, where it makes a step, validates or saves, and resumed; half of the signals go to
its workers, too, and some are followed by others. It is compared with a run that nobody stopped. Other processes are
stopped while they pack, and from their first moment on. Prints, for each kind of moment: how many, how many had the
right exit code and no traceback, and steps that were finished and are not in the checkpoint, most of them.
"""

import contextlib
import itertools
import json
import os
import random
import re
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
from tests.fork_server import Server
from utils.run.checkpoint_file import read_checkpoint

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SMALL = ["--image-size=32", "--batch-size=4", "--val-batch-size=4", "--model=SqueezeNet", "--precision=fp32"]
SMALL += ["--vis-port=1", "--print-freq=1", "--draw-freq=1"]
# To draw the reports would take most of a stop's time.
NO_REPORTS = "matplotlib.figure.Figure.savefig = lambda self, file, **_: file.write(b'nothing')"


def draw_folder(folder, per_class):
    """Noisy cat.0.jpg ... and dog.0.jpg ... in `folder`; returns it."""
    folder.mkdir(parents=True)
    for number, kind in itertools.product(range(per_class), ("cat", "dog")):
        noise = np.random.default_rng(number).integers(0, 160, (40, 48, 3), dtype=np.uint8)
        noise[..., 0 if kind == "cat" else 2] += 90
        Image.fromarray(noise).save(folder / f"{kind}.{number}.jpg")
    return folder


def events(folder):
    """What the run in `folder` has recorded so far."""
    lines = [path.read_text() for path in folder.glob("checkpoints/*/events.jsonl")]
    return [json.loads(line) for line in "".join(lines).split("\n")[:-1]]


def under_way(kind, folder, before=0):
    """Whether the process in `folder` is at this kind of moment; `before` it there were so many events on record."""
    if kind == "packing":
        return any(folder.glob("packs/*.u8.tmp"))
    kinds = [event["kind"] for event in events(folder)[before:]]
    if kind == "saving":
        return "plot" in kinds and any(folder.glob("checkpoints/*/*.pth.*tmp"))
    return "plot" in kinds and kinds[-1] == ("plot" if kind == "step" else "image")


def disturb(server, pid, kind, folder, draw):
    """Send a signal at such a moment, and perhaps more of them afterwards: (the signals, none where the process had
    ended before; exit code)."""
    before = len(events(folder))
    while not under_way(kind, folder, before):
        if not alive(pid):
            return [], server.wait()
        time.sleep(0.001)
    time.sleep(draw.uniform(0, 0.03))
    kill = draw.choice((os.kill, os.killpg))  # as a shell does and as a terminal, Slurm or torchrun
    sent, most = [], draw.choice((1, 2, 10_000))  # until it is gone
    while len(sent) < most and alive(pid):
        sent.append(draw.choice(SIGNALS))
        with contextlib.suppress(ProcessLookupError):  # it has gone since
            kill(pid, sent[-1])
        time.sleep(draw.uniform(0, 0.01))
    return sent, server.wait()


def alive(pid):
    """Whether there is such a process, and it is not one that only waits to be asked for its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wrong(sent, code, output, wanted=""):
    """What is wrong with the end of a process that got these signals, or "". (Of two at once either may be first.)"""
    done = code == 0 and wanted == "finished: "  # the last step was made already
    good = (done or code - 128 in sent) and wanted in output and "Traceback" not in output and "Exception" not in output
    return "" if good else f"{sent}: exit code {code}, {output}"


def lost(folder):
    """Steps that the run in `folder` has recorded, and its last checkpoint does not have."""
    steps = [event["x"] for event in events(folder) if event["kind"] == "plot" and event["name"] == "loss"]
    (last,) = folder.glob("checkpoints/*/last.pth")
    return max(steps, default=0) - read_checkpoint(last)["run"]["step"]


def stop_again_and_again(server, options, folder, draw):
    """Stop a run in `folder`, and resume it, until it is finished: list of (kind, what is wrong or "", steps lost)
    of each stop."""
    stops, command = [], options
    while True:
        kind, workers = draw.choice(("step", "validation", "saving")), draw.choice((0, 2))
        more = [f"--num-workers={workers}", f"--pack={workers == 0}"]
        pid = server.start("train", *command, *more, cwd=folder)
        sent, code = disturb(server, pid, kind, folder, draw)
        output = (folder / "output").read_text()
        (folder / "output").unlink()
        finished = "finished: " in output  # perhaps with a signal after the last step
        assert sent or code == 0 and finished, output
        if sent:
            wanted = "finished: " if finished else "to resume: "
            stops.append((kind, wrong(sent, code, output, wanted), lost(folder)))
        if finished:
            return stops
        command = ["--resume"]


def state(folder):
    """Everything in the last checkpoint of the run in `folder` that a stop must not change, as bytes and text."""
    (last,) = folder.glob("checkpoints/*/last.pth")
    content = read_checkpoint(last)
    plain = lambda value: value.numpy().tobytes() if isinstance(value, torch.Tensor) else value  # noqa: E731
    leaves = torch.utils._pytree.tree_leaves({name: content[name] for name in ("weights", "optimizer", "run")})
    losses = {event["x"]: event["y"] for event in events(folder) if event["kind"] == "plot" and event["name"] == "loss"}
    return [repr(plain(leaf)) for leaf in leaves], losses


def stop_packing(server, root, folder, times, draw):
    """The same list for processes that are stopped while they pack."""
    folder.mkdir()
    stops = []
    while len(stops) < times:
        pid = server.start("pack", f"--train-data-root={root}", "--image-size=896", cwd=folder)
        sent, code = disturb(server, pid, "packing", folder, draw)
        output = (folder / "output").read_text()
        (folder / "output").unlink()
        if not sent:
            assert code == 0, output
            for file in folder.glob("packs/*"):  # that one was too fast
                file.unlink()
        else:
            left = "it left a file behind" if under_way("packing", folder) else ""
            stops.append(("packing", wrong(sent, code, output) or left, 0))
    return stops


def stop_early(root, folder, times, draw):
    """The same list for whole processes, from their first moment on, to which end_on_signals comes after 50 ms."""
    folder.mkdir()
    stops = []
    for _ in range(times):
        command = [sys.executable, str(ROOT / "main.py"), "train", f"--train-data-root={root}", *SMALL]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL, "text": True}
        process = subprocess.Popen(command, cwd=folder, **pipes)
        while not catches(process.pid):
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 2))
        number = draw.choice(SIGNALS)
        process.send_signal(number)
        output, _ = process.communicate()
        stops.append(("start", wrong([number], process.returncode, output), 0))
    return stops


def catches(pid):
    """Whether the process has a handler for SIGTERM."""
    (caught,) = re.findall(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(caught, 16) >> (signal.SIGTERM - 1) & 1


def main():
    parser = arguments(__doc__, n=15)
    parser.add_argument("--seed", type=int, default=0, help="of the moments, 0")
    given = parser.parse_args()
    draw, report = random.Random(given.seed), Report(__file__)
    report(hardware("torch"))
    with tempfile.TemporaryDirectory() as folder, Server(NO_REPORTS) as server:
        folder = Path(folder)
        few, many = draw_folder(folder / "few", 30), draw_folder(folder / "many", 400)
        calm, stopped = folder / "calm", folder / "stopped"
        calm.mkdir()
        stopped.mkdir()
        options = [f"--train-data-root={few}", *SMALL, f"--max-epoch={2 * given.n}"]
        assert server.run("train", *options, "--num-workers=0", cwd=calm) == 0, (calm / "output").read_text()
        stops = stop_again_and_again(server, options, stopped, draw)
        equal = state(calm) == state(stopped)
        stops += stop_packing(server, many, folder / "packing", given.n, draw)
        stops += stop_early(few, folder / "early", given.n, draw)
    for kind in ("start", "packing", "step", "validation", "saving"):
        found = [stop for stop in stops if stop[0] == kind]
        faults, most = [fault for _, fault, _ in found if fault], max((lost for *_, lost in found), default=0)
        good = len(found) - len(faults)
        report(f"{kind:10}  n {len(found):3}, exit code right {good:3}, finished steps lost at most {most}")
        for fault in faults:
            report(fault)
    stopped, word = sum(kind in ("step", "validation", "saving") for kind, *_ in stops), "" if equal else "NOT "
    report(f"after {stopped} stops the run is {word}equal to the undisturbed one")
    report.save(given.results)


if __name__ == "__main__":
    main()
