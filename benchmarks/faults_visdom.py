"""What a bad visdom server costs a training step, and whether the run's record is complete in spite of it.

    python -m benchmarks.faults_visdom    in the project's folder; about twelve minutes on 2 cores

The server refuses (nobody listens there), is silent (accepts and never answers), is killed in the middle of the turn,
or takes 10 s for every answer. Each is compared with a null object in the Visualizer's place; so is that itself, which
shows how exact the ratios are. A step is forward, backward and Adam for SqueezeNet on 16 pictures of 64x64 on one
thread, with a point every 20 steps as by default, and as a stress at every step. They take turns, in another order each
round. A turn is a process of its own, so that nobody's threads draw in another's time; its first 80 steps are not
counted, the next 80 are.

Prints ms per step, each figure the mean of a turn: n, median, range, and the ratio to the null object's; what share of
that plot() itself took, median; how many of the points that were plotted are in the record, as they were.
"""

import contextlib
import multiprocessing
import os
import random
import signal
import statistics
import tempfile
from pathlib import Path

from utils.train import machine

machine.prepare()

import torch
import visdom  # noqa: F401 - else the first turn alone would pay for importing it

from benchmarks.common import Report, arguments, hardware, ratios, spread
from benchmarks.visualizer import STEPS, NoVisualizer, Training
from tests.helpers.visdom_helper import Server, free_port, silent_server, slow_server
from utils.visdom import Visualizer
from utils.visdom.screen import read_events

BATCH, PRINT_FREQS, SLOW = 16, (20, 1), 10.0  # pictures per step; steps per point; seconds for an answer


class Noted:
    """A Visualizer's plot that also keeps what was plotted; the process `victim` is killed after half of the steps."""

    def __init__(self, vis, victim=None):
        self.vis, self.victim, self.points = vis, victim, []

    def plot(self, name, y, x):
        if self.victim and x > STEPS // 2:
            os.kill(self.victim, signal.SIGKILL)
            self.victim = None
        self.points.append((name, x, y))
        self.vis.plot(name, y, x=x)


def turn(port, victim, record, print_freq):
    """{"step": ms, "calls": percent of that for plot(), "plotted": points, "kept": how many of them are in the record};
    port None: no Visualizer."""
    training = Training("SqueezeNet", BATCH)
    training.turn(NoVisualizer(), print_freq)
    noted = Noted(Visualizer("turn", port, record) if port else NoVisualizer(), victim)
    groups, calls = training.turn(noted, print_freq)
    kept = {(event["name"], event["x"], event["y"]) for event in read_events(record) if event["kind"] == "plot"}
    step = statistics.mean(groups)
    counts = {"plotted": len(noted.points), "kept": len(kept & set(noted.points))}
    return {"step": 1e3 * step, "calls": 100 * sum(calls) / (step * STEPS), **counts}


@contextlib.contextmanager
def own_server(folder):
    """Yields (port, pid) of a server that may be killed."""
    server = Server(tempfile.mkdtemp(dir=folder))
    try:
        yield server.port, server.process.pid
    finally:
        server.kill()


def measure(n, folder, print_freq, report):
    """Let the sides take n turns each, and report on them."""
    forked = multiprocessing.get_context("fork")
    with silent_server() as (silent, _), own_server(folder) as (alive, _), slow_server(alive, SLOW) as slow:

        def fixed(port):
            return lambda: contextlib.nullcontext((port, None))

        sides = {"null object": fixed(None), "the same": fixed(None), "refused": fixed(free_port())}
        sides |= {"silent": fixed(silent), "killed": lambda: own_server(folder), "10 s slow": fixed(slow)}
        results = {name: [] for name in sides}
        for number in range(n):
            for name in random.sample(list(sides), len(sides)):
                with sides[name]() as (port, victim), forked.Pool(1) as pool:
                    record = Path(folder, f"{name}_{print_freq}_{number}", "events.jsonl")
                    results[name].append(pool.apply(turn, (port, victim, record, print_freq)))
    report(f"SqueezeNet on {BATCH} pictures, a point every {print_freq} steps:")
    for name, turns in results.items():
        step, calls, plotted, kept = ([one[key] for one in turns] for key in turns[0])
        ratio = ratios(step, [one["step"] for one in results["null object"]])
        facts = f"plot() {statistics.median(calls):.2f} % of it; {sum(kept)} of {sum(plotted)} points recorded"
        report(f"  {name:11} {spread(step, 'ms')}; ratio {ratio}{'; ' + facts if sum(kept) else ''}")


def main():
    options = arguments(__doc__, n=15).parse_args()
    torch.set_num_threads(1)
    random.seed(0)
    report = Report(__file__)
    report(hardware("torch", "visdom"))
    with tempfile.TemporaryDirectory() as folder:
        for print_freq in PRINT_FREQS:
            measure(options.n, folder, print_freq, report)
    report.save(options.results)


if __name__ == "__main__":
    main()
