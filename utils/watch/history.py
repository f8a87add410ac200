"""results.csv, curves.png, the validation's report, pictures of a training batch, a page of all, and a line on the
screen, for every epoch."""

import time
from collections.abc import Callable
from typing import Any

import torch
from tqdm import tqdm

from utils.events import Callback
from utils.metrics import plots
from utils.metrics.meters import val_losses, write_report
from utils.notices import warn_once
from utils.run.record import Results
from utils.run.run import monitored, read_rows
from utils.train.device import device_of
from utils.visdom.screen import gather, read_events

from . import page


class History(Callback):
    """Writes results.csv, curves.png, the validation's report, pictures of the last training batch and index.html into
    the run's folder; prints a line per epoch.

    Args:
        run: the Run, which has the folder.
        schedule: the Schedule, which knows the epochs of the run: a command may change them.
        model: the model, which knows whether a GPU has to be waited for before a clock is read.
        train_loader: whose data set draws what is trained on.
        step: the TrainStep, which has the last batch.
        monitor: the measure that selects best.pth, or None for the first one of the validation.
    """

    SHARE = 0.05  # largest share of the time for drawing: with epochs of a second it would take longer than training

    def __init__(self, run: Any, schedule: Any, model: Any, train_loader: Any, step: Any, monitor: str | None = None):
        self.dataset, self.step = train_loader.dataset, step
        self.run, self.schedule, self.results, self.monitor = run, schedule, Results(run.folder), monitor
        self.on_gpu = device_of(model).type == "cuda"
        self.next_drawing = 0.0
        self.waiting: tuple[Any, Any, Any] | None = None  # (rows, metrics, val_meter) that are not drawn yet

    def on_train_begin(self, **_: Any) -> None:
        self.attempt(self.dataset.draw_truth, self.run.folder)

    def on_epoch_begin(self, **_: Any) -> None:
        self.began = time.monotonic()

    def on_batch_end(self, **_: Any) -> None:
        if self.run.step == 1:  # whoever looks at the first batch need not wait for the first epoch
            self.attempt(self.draw_batch)
            page.write_page(self.run.folder)

    def on_test_begin(self, **_: Any) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()  # once an epoch; the host is ahead of the device
        self.trained = time.monotonic()

    def on_epoch_end(self, metrics: dict[str, float], val_meter: Any, **_: Any) -> None:
        seconds, training = time.monotonic() - self.began, self.trained - self.began
        rows = self.results.add({**metrics, "train_seconds": round(training, 2), "seconds": round(seconds, 2)})
        self.waiting, began = (rows, metrics, val_meter), time.monotonic()
        if began > self.next_drawing:
            self.draw()
            self.next_drawing = time.monotonic() + (time.monotonic() - began) / self.SHARE
        facts = [f"{name} {value:.4g}" for name, value in metrics.items() if name not in ("epoch", "step")]
        # Above the bar, where there is one.
        tqdm.write(f"epoch {metrics['epoch']}/{self.schedule.max_epoch}: {', '.join(facts)}, {seconds:.1f} s")

    def on_train_end(self, **_: Any) -> None:
        self.draw()
        self.attempt(self.draw_own_curves)  # callbacks have plotted since the epoch's end

    def draw(self) -> None:
        """Draw what waits."""
        if self.waiting:
            (rows, metrics, val_meter), self.waiting = self.waiting, None
            self.attempt(plots.curves, rows, monitored(rows[-1], self.monitor), self.run.folder / "curves.png")
            self.attempt(write_report, val_meter, val_losses(metrics), self.run.folder)
            self.attempt(self.draw_batch)
            page.write_page(self.run.folder)
            self.attempt(self.draw_own_curves)

    def draw_own_curves(self) -> None:
        """Write callbacks.png, of the curves in the run's record that are not in results.csv, and the page with it."""
        drawn = gather(read_events(self.run.folder / "events.jsonl"))
        curves = {str(name): points for (kind, name), points in drawn.items() if kind == "plot"}
        known = {name for row in read_rows(self.run.folder) for name in row}
        own = {name: points for name, points in curves.items() if name not in known and not name.startswith("loss")}
        if own:
            plots.own_curves(own, self.run.folder / "callbacks.png")
            page.write_page(self.run.folder)

    def draw_batch(self) -> None:
        """Write the last training batch's pictures, as the model saw them, to train_batch_0.png, train_batch_1.png, ...
        and remove those of an earlier one."""
        if self.step.batch is None:  # stopped after the epoch's last step, and resumed
            return
        pictures = self.dataset.draw(*self.step.batch, None)
        names = [f"train_batch_{number}" for number in range(len(pictures))]
        for name, picture in zip(names, pictures, strict=True):
            plots.image(self.run.folder, name, picture)
        for old in self.run.folder.glob("train_batch_*.png"):
            if old.stem not in names:
                old.unlink()

    def attempt(self, write: Callable[..., Any], *arguments: Any) -> None:
        """Call what writes a part of the report; where it fails, that is a warning, once."""
        try:
            write(*arguments)
        except Exception as error:
            warn_once(f"the report is not complete: {write.__name__} fails: {type(error).__name__}: {error}")
