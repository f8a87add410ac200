"""Losses, measures, learning rate and a line of log per epoch, in visdom and in the run's record."""

from typing import Any

from utils.events import Callback
from utils.metrics.meters import plain


class Curves(Callback):
    """Plots the run's numbers in the Visualizer `vis`, which also writes them to the record.

    Args:
        vis: the Visualizer.
        run: the Run, whose step and epoch are the x of a point.
    """

    def __init__(self, vis: Any, run: Any):
        self.vis, self.run = vis, run

    def on_train_summary(self, **facts: float) -> None:
        for name, value in facts.items():
            if name.startswith("loss"):
                self.vis.plot(name, value, x=self.run.step)

    def on_epoch_end(self, metrics: dict[str, float], train_meter: Any, val_meter: Any, **_: Any) -> None:
        for name, value in metrics.items():
            if name not in ("epoch", "step") and not name.startswith("loss"):  # losses are plotted step by step
                self.vis.plot(name, value, x=self.run.epoch)
        self.vis.log(
            f"epoch:{metrics['epoch']}, lr:{metrics['lr']:g}, loss:{metrics['loss']:.4f}, "
            f"train_cm:{plain(train_meter.value())}, val_cm:{plain(val_meter.value())}"
        )

    def on_train_end(self, **_: Any) -> None:
        self.vis.close()
