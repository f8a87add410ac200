"""Losses, measures, learning rate and a line of log per epoch, in visdom and in the run's record."""

from typing import Any

from utils.events import Callback


class Curves(Callback):
    """Plots the run's numbers in the Visualizer `vis`, which also writes them to the record.

    Args:
        vis: the Visualizer.
        run: the Run, whose step and epoch are the x of a point.
        train_loader: whose length is the number of steps per epoch.
        print_freq: steps between two points of the losses.
    """

    def __init__(self, vis: Any, run: Any, train_loader: Any, print_freq: int):
        self.vis, self.run, self.steps, self.print_freq = vis, run, len(train_loader), print_freq

    def on_train_summary(self, **facts: float) -> None:
        for name, value in facts.items():
            if name.startswith("loss"):
                self.vis.plot(name, value, x=self.run.step)

    def on_epoch_end(self, metrics: dict[str, float], **_: Any) -> None:
        if self.run.step % self.print_freq >= self.steps:  # no summary came in this epoch: it has too few steps
            self.on_train_summary(**metrics)
        measures = {name: value for name, value in metrics.items() if name not in ("epoch", "step")}
        for name, value in measures.items():
            if not name.startswith("loss"):  # losses are plotted step by step
                self.vis.plot(name, value, x=self.run.epoch)
        facts = ", ".join(f"{name} {value:.4g}" for name, value in measures.items())
        self.vis.log(f"epoch {metrics['epoch']}: {facts}")

    def on_train_end(self, **_: Any) -> None:
        self.vis.close()
