"""results.csv, curves.png, the validation's report, a page of all, and a line on the screen, for every epoch."""

import time
from typing import Any

import torch
from tqdm import tqdm

from utils.events import Callback
from utils.metrics import plots
from utils.notices import warn
from utils.run.record import Results
from utils.run.run import monitored
from utils.train.device import device_of

from . import page


class History(Callback):
    """Writes results.csv, curves.png, the validation's report and index.html into the run's folder; prints a line per
    epoch.

    Args:
        run: the Run, which has the folder.
        max_epoch: epochs of the run.
        model: the model, which knows whether a GPU has to be waited for before a clock is read.
        monitor: the measure that selects best.pth, or None for the first one of the validation.
    """

    SHARE = 0.05  # largest share of the time for drawing: with epochs of a second it would take longer than training

    def __init__(self, run: Any, max_epoch: int, model: Any, monitor: str | None = None):
        self.run, self.max_epoch, self.results, self.monitor = run, max_epoch, Results(run.folder), monitor
        self.on_gpu = device_of(model).type == "cuda"
        self.next_drawing = 0.0
        self.waiting: tuple[Any, Any] | None = None  # (rows, val_meter) that are not drawn yet

    def on_epoch_begin(self, **_: Any) -> None:
        self.began = time.monotonic()

    def on_test_begin(self, **_: Any) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()  # once an epoch; the host is ahead of the device
        self.trained = time.monotonic()

    def on_epoch_end(self, metrics: dict[str, float], val_meter: Any, **_: Any) -> None:
        seconds, training = time.monotonic() - self.began, self.trained - self.began
        rows = self.results.add({**metrics, "train_seconds": round(training, 2), "seconds": round(seconds, 2)})
        self.waiting, began = (rows, val_meter), time.monotonic()
        if began > self.next_drawing:
            self.draw()
            self.next_drawing = time.monotonic() + (time.monotonic() - began) / self.SHARE
        facts = [f"{name} {value:.4g}" for name, value in metrics.items() if name not in ("epoch", "step")]
        # Above the bar, where there is one.
        tqdm.write(f"epoch {metrics['epoch']}/{self.max_epoch}: {', '.join(facts)}, {seconds:.1f} s")

    def on_train_end(self, **_: Any) -> None:
        self.draw()

    def draw(self) -> None:
        """Draw what waits; a picture that fails is a warning."""
        if self.waiting:
            (rows, val_meter), self.waiting = self.waiting, None
            try:
                plots.curves(rows, monitored(rows[-1], self.monitor), self.run.folder / "curves.png")
                val_meter.report(self.run.folder)
                page.write_page(self.run.folder)
            except Exception as error:
                warn(f"the epoch's report is not complete: {type(error).__name__}: {error}")
