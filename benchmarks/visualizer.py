"""What the Visualizer costs a training step: with a visdom server, without one, and with one that never answers.

    python -m benchmarks.visualizer    in the project's folder; about ten minutes on 2 cores

A step is forward, backward and Adam on a few pictures of 64x64 on one thread; where a point is due, the meter is read
and plotted, as in main.py: every 20 steps, and, as a stress, at every step. The others are compared with a null
object in the Visualizer's place. They take turns, in another order each round. A turn is a new Visualizer with a new
record, as at a training's start (hence the many warnings on stderr), and it is closed before the next turn, so that
its thread does not draw in another's time. The server is a process of its own and needs some of another core.

Prints ms per step, each figure a mean over 20 steps (every one of which has its points in it): n, median, middle half,
and the ratio of the median to the null object's; then how long a call of plot() took: median and longest.
"""

import random
import statistics
import tempfile
import time
from pathlib import Path

import torch
import visdom  # noqa: F401 - else the first turn alone would pay for importing it

import models
from benchmarks.common import hardware
from tests.helpers.visdom_helper import Server, free_port, silent_server
from utils.metrics.meters import LossMeter
from utils.visdom import Visualizer

MODELS = {"SqueezeNet": 8, "ResNet34": 2}  # with how many pictures per step
PRINT_FREQS = (20, 1)
ROUNDS, STEPS, GROUP = 5, 80, 20  # a turn has STEPS steps, timed in groups


class NoVisualizer:
    """The Visualizer's methods, doing nothing."""

    def plot(self, name, y, x=None):
        pass

    def close(self, timeout=None):
        pass


class Training:
    """A model that learns to tell the halves of one random batch apart."""

    def __init__(self, model, batch_size):
        torch.manual_seed(0)
        self.model = getattr(models, model)().to(memory_format=torch.channels_last)
        self.optimizer = self.model.get_optimizer("Adam", 1e-3, 1e-4, 0.9)
        self.input, self.target = torch.randn(batch_size, 3, 64, 64), torch.arange(batch_size) % 2
        self.meter = LossMeter()

    def turn(self, vis, print_freq):
        """STEPS steps; returns (seconds per step of every group, seconds of every call of plot)."""
        self.meter.reset()
        groups, calls = [], []
        for step in range(1, STEPS + 1):
            if step % GROUP == 1:
                began = time.perf_counter()
            self.optimizer.zero_grad()
            losses = self.model.objective(self.input, self.target)[1]
            sum(losses.values()).backward()
            self.optimizer.step()
            self.meter.add(losses)
            if step % print_freq == 0:
                value = self.meter.summary()["loss"]
                called = time.perf_counter()
                vis.plot("loss", value, x=step)
                calls.append(time.perf_counter() - called)
            if step % GROUP == 0:
                groups.append((time.perf_counter() - began) / GROUP)
        return groups, calls


def compare(training, visualizers, print_freq):
    """Let the visualizers take turns. Returns {name: (seconds per step, seconds per call)}."""
    training.turn(NoVisualizer(), print_freq)  # warm up
    times, names = {name: ([], []) for name in visualizers}, list(visualizers)
    for _ in range(ROUNDS):
        random.shuffle(names)
        for name in names:
            vis, patience = visualizers[name]()
            for values, new in zip(times[name], training.turn(vis, print_freq), strict=True):
                values += new
            vis.close(patience)
    return times


def show(times):
    usual = statistics.median(times["null object"][0])
    for name, (groups, calls) in times.items():
        median, (low, _, high) = statistics.median(groups), statistics.quantiles(groups, n=4)
        spread = f"n {len(groups)}, median {1e3 * median:6.2f} ms, middle half {1e3 * low:.2f} to {1e3 * high:.2f}"
        plot = f"plot(): median {1e3 * statistics.median(calls):.3f} ms, longest {1e3 * max(calls):.2f}"
        print(f"  {name:13} {spread}, ratio {median / usual:.3f}; {plot}", flush=True)


def main():
    torch.set_num_threads(1)
    random.seed(0)
    print(hardware("torch", "visdom"))
    with tempfile.TemporaryDirectory() as folder, silent_server() as (silent, _):
        server, nobody = Server(folder), free_port()
        turns = iter(range(10**6))

        def visualizer(port, patience):
            """Makes a new Visualizer, with how long its close may take."""

            def make():
                name = f"turn_{next(turns)}"
                return Visualizer(name, port, Path(folder, name, "events.jsonl")), patience

            return make

        visualizers = {
            "null object": lambda: (NoVisualizer(), None),
            "server": visualizer(server.port, 60),  # till all is drawn
            "no server": visualizer(nobody, 3),
            "silent server": visualizer(silent, 0.1),  # its thread sleeps in its socket and disturbs nobody
        }
        try:
            for model, batch_size in MODELS.items():
                for print_freq in PRINT_FREQS:
                    print(f"{model} on {batch_size} pictures, plot() every {print_freq} steps:")
                    show(compare(Training(model, batch_size), visualizers, print_freq))
        finally:
            server.kill()


if __name__ == "__main__":
    main()
